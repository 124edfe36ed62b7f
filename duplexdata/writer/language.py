"""What a check needs to know of a text: its words, what it is about, which language it is in. No models, no files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from duplexdata.banks import COMMON_WORDS
from duplexdata.words import CJK, word_texts

_LETTERS = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_HAN_RUN = re.compile(f"[{CJK}]+")
_KANA = re.compile("[\u3040-\u30ff]")
_HANGUL = re.compile("[\uac00-\ud7a3]")
_LATIN = re.compile("[A-Za-z\u00c0-\u024f]")
_NUMBERS = frozenset(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion first "
    "second third half quarter percent point".split()
)
_STEM = 6
"""Letters by which words are taken for forms of one word, endings taken off."""
_ENDINGS = ("ings", "ing", "ied", "ies", "ed", "es", "er", "ly", "s", "e", "y")
_LEAST_STEM = 3

# The commonest words of languages that share their letters. What English has in common with one counts for both.
_STOP = {
    "en": "the of and to in is it you that he was for on are with as i his they be at this have from or had by but "
    "what all were we when your can said there use an each which she do how their if will up other about out "
    "many then them these so some her would make like him into has look two more go see no way could my than "
    "been who its now did get a just not don't it's i'm that's me our us please well okay yeah oh let because "
    "should off over too very",
    "de": "der die das und ist nicht ich du er sie es wir ihr ein eine einen einem einer mit für auf von zu dem den "
    "des im auch sich wie was aber oder wenn nur noch schon sehr kann haben hat sind bin war werden wird bei "
    "nach aus dass",
    "fr": "le la les et est un une des du de je tu il elle nous vous ils pas que qui dans pour sur avec ce cette "
    "ces mais ou où donc au aux en par plus ne se son sa ses être avoir fait bien tout très c'est n'est",
    "es": "el la los las y es un una unos de del que en por para con no se lo al como más pero sus le ya o este sí "
    "porque esta entre cuando muy sin sobre también me hasta hay donde quien desde todo nos durante",
    "it": "il lo la gli le e è un una di che in per con non si come più ma del della dei delle al alla sono ho ha "
    "questo questa anche quando molto perché c'è nel nella",
    "pt": "o a os as e é um uma de do da dos das que em por para com não se na no mais como mas foi ao ele ela seu "
    "sua ou quando muito nos já também só pelo pela até isso você",
    "nl": "de het een en is niet ik je hij zij wij van in op te dat die voor met zijn maar om aan ook als dan nog "
    "wel naar er uit bij heeft hebben was worden kan wat",
}
_STOPS = {language: frozenset(words.split()) for language, words in _STOP.items()}
_EMPTY = _STOPS["en"] | _NUMBERS
_COMMON = _EMPTY | COMMON_WORDS
"""Words that no text is about, and those that hardly one is."""
_LEAST_WORDS = 6
"""Shorter texts are not told from another language of the same letters."""


def primary(language: str) -> str:
    return language.split("-")[0].lower()


def plain_words(text: str) -> list[str]:
    """Words in lower case without their punctuation; an ideograph is a word."""
    found = (re.sub(r"^\W+|\W+$", "", word).lower().replace("’", "'") for word in word_texts(text))
    return [w for w in found if w]


def shares_run(text: str, other: str, words: int) -> bool:
    """Whether both texts have a run of so many words, in order and without a gap."""
    said = plain_words(text)
    if len(said) < words:
        return False
    runs = _runs(other, words)
    return any(tuple(said[i : i + words]) in runs for i in range(len(said) - words + 1))


@lru_cache(maxsize=256)
def _runs(text: str, words: int) -> frozenset[tuple[str, ...]]:
    said = plain_words(text)
    return frozenset(tuple(said[i : i + words]) for i in range(len(said) - words + 1))


@lru_cache(maxsize=4096)
def content(text: str, language: str) -> frozenset[str]:
    """What a text is about: stems of its words, common words left out; pairs of neighbouring ideographs in Chinese."""
    if primary(language) in ("zh", "ja"):
        return frozenset(run[i : i + 2] for run in _HAN_RUN.findall(text) for i in range(len(run) - 1))
    words = (w.replace("’", "'").removesuffix("'s") for w in map(str.lower, _LETTERS.findall(text)))
    return frozenset(_stem(w)[:_STEM] for w in words if len(w) > 2 and w not in _COMMON)


def _stem(word: str) -> str:
    """ "bake", "baked" and "baking", "slip", "slips" and "slipping" meet; rough, and the same everywhere."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= _LEAST_STEM:
            word = word[: -len(ending)]
            break
    return word[:-1] if len(word) > _LEAST_STEM and word[-1] == word[-2] else word


@lru_cache(maxsize=4096)
def vocabulary(text: str, language: str) -> frozenset[str]:
    """All that a text could have in common with another on the same topic: `content` with the common words in it, and
    shorter stems."""
    if primary(language) in ("zh", "ja"):
        return frozenset(c for run in _HAN_RUN.findall(text) for c in run if c not in _ZH_STOP)
    words = (w.replace("’", "'").removesuffix("'s") for w in map(str.lower, _LETTERS.findall(text)))
    return frozenset(_stem(w)[: _STEM - 2] for w in words if len(w) > 2 and w not in _EMPTY)


_ZH_STOP = frozenset("的了是我你他她它们吗呢吧啊请问在和就都也还要去来很这那一不有个什么怎样会能可以为上下里说")


def share(part: Iterable[str], whole: frozenset[str]) -> float:
    """Which share of `part` is in `whole`; 1 where there is nothing in `part`."""
    items = list(part)
    return sum(w in whole for w in items) / len(items) if items else 1.0


def in_language(text: str, language: str) -> bool:
    """Whether a text may be of the language: by its script, and by the commonest words of some that share it.

    English and Chinese are told; of other languages everything is taken. A short text gets the benefit of the doubt.
    """
    letters = [c for c in text if c.isalpha()]
    if not letters:
        return True
    han = len(_HAN_RUN.sub("", "".join(letters)))
    if primary(language) == "zh":
        foreign = len(_KANA.findall(text)) + len(_HANGUL.findall(text))
        return foreign < 0.1 * len(letters) and han <= 0.5 * len(letters)
    if primary(language) != "en":
        return True
    if len(_LATIN.findall(text)) < 0.9 * len(letters):
        return False
    return _sounds_english([w.lower().replace("’", "'") for w in _LETTERS.findall(text)])


def _sounds_english(words: Sequence[str]) -> bool:
    if len(words) < _LEAST_WORDS:
        return True
    hits = {language: sum(w in stops for w in words) for language, stops in _STOPS.items()}
    english = hits.pop("en")
    # A contraction is English too.
    english += sum("'" in w and w not in _STOPS["en"] for w in words)
    return max(hits.values()) <= english and (english > 0 or len(words) < 2 * _LEAST_WORDS)
