"""Words of a text, as the schedule counts them, and how long a text takes to say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

CHARACTERS_PER_SECOND = 14.5
"""Alphabetic text, spaces included: about 170 English words a minute."""
SYLLABLES_PER_SECOND = {"zh": 4.2, "ja": 6.5, "ko": 5.0}
"""Text in which one character is about one syllable, by language; languages not named here use Chinese's."""
CLAUSE_PAUSE_SEC = 0.25
SENTENCE_PAUSE_SEC = 0.4

CJK = "\u3005\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
"""Regex class body: ideographs and kana, which are written without spaces."""

_TOKEN = re.compile(r"\S+")
_MARKS_ALONE = re.compile(r"(?<!\S)(?:[^\w\s]|_)++(?!\S)")
_HAS_CJK = re.compile(f"[{CJK}]")
_OPEN = re.escape("“‘（《〈「『【〔｛［(")
_QUOTE = "\"'"
# A piece of a token with ideographs: opening marks, then one ideograph or a run of other letters, then the
# marks behind it. A straight quote may open or close: it opens if something follows. The last branch takes
# marks that nothing follows.
_PIECE = re.compile(
    rf"[{_OPEN}{_QUOTE}]*(?:[{CJK}][^\w{_OPEN}{_QUOTE}]*|[^\W{CJK}][^{CJK}{_OPEN}]*)|.",
    re.DOTALL,
)
_SYLLABIC = re.compile(f"[{CJK}\uac00-\ud7a3]")
_WIDE_SILENT = re.compile(r"[，。；：、！？…“”‘’（）《》「」『』【】\s]")
_CLAUSE_MARK = re.compile(r"[,;:，；：、]")
_SENTENCE_END = re.compile(r"[.!?…]+(?=\s)|[。！？]+")
_MARKS = " \n\t,;:.!?…，；：、。！？\"'”’)）」』"


class Span(NamedTuple):
    """Characters `start` to `end` (exclusive) of a text."""

    start: int
    end: int


def _pieces(text: str) -> Iterator[Span]:
    """Tokens between spaces, those with ideographs cut further; some may hold punctuation only."""
    has_cjk = _HAS_CJK.search(text) is not None
    for token in _TOKEN.finditer(text):
        if not has_cjk or not _HAS_CJK.search(token.group()):
            yield Span(token.start(), token.end())
            continue
        for piece in _PIECE.finditer(text, token.start(), token.end()):
            yield Span(piece.start(), piece.end())


def _merged(text: str) -> list[Span]:
    """The words of any text: its pieces, each with the pieces of punctuation that belong to it."""
    words: list[Span] = []
    pending: int | None = None
    for piece in _pieces(text):
        if any(map(str.isalnum, text[piece.start : piece.end])):
            words.append(piece if pending is None else Span(pending, piece.end))
            pending = None
        elif words:
            words[-1] = Span(words[-1].start, piece.end)
        elif pending is None:
            pending = piece.start
    return words


@lru_cache(maxsize=4096)
def _words(text: str) -> tuple[Span, ...]:
    has_cjk = not text.isascii() and _HAS_CJK.search(text) is not None
    tokens = text.split()
    if has_cjk or " ".join(tokens) != text or _MARKS_ALONE.search(text):
        return tuple(_merged(text))
    # Most texts: every token is a word, one space between them.
    new = tuple.__new__  # `Span(...)` takes twice the time
    words: list[Span] = []
    start = 0
    for token in tokens:
        end = start + len(token)
        words.append(new(Span, (start, end)))
        start = end + 1
    return tuple(words)


def split_words(text: str) -> list[Span]:
    """The words of a text, in order.

    A word is what stands between spaces; an ideograph or kana is a word of its own, with the closing
    punctuation directly behind it and the opening punctuation directly before it. What has no letter or digit
    is no word: it belongs to the word before it, or to the first one where there is none before. So every
    character that is not a space is in exactly one word, unless the text has no letter and no digit at all:
    then it has no words.
    """
    return list(_words(text))


def word_starts(text: str) -> tuple[int, ...]:
    """Where each word of `split_words` begins."""
    return tuple([start for start, _ in _words(text)])


def word_texts(text: str) -> list[str]:
    """The words of `split_words` as text; one with a detached mark keeps the space before it ("yes –")."""
    return [text[start:end] for start, end in _words(text)]


def nominal_seconds(text: str, language: str = "en") -> float:
    """How long it takes to say a text at an ordinary pace, in seconds; an estimate, for budgets.

    Letters count by `CHARACTERS_PER_SECOND`; ideographs, kana and hangul by `SYLLABLES_PER_SECOND`. Commas,
    semicolons and colons inside the text add `CLAUSE_PAUSE_SEC`, sentence ends inside `SENTENCE_PAUSE_SEC`.
    """
    text = text.strip()
    inner = text.rstrip(_MARKS)
    pauses = SENTENCE_PAUSE_SEC * len(_SENTENCE_END.findall(inner))
    pauses += CLAUSE_PAUSE_SEC * len(_CLAUSE_MARK.findall(inner))
    if text.isascii():
        return len(text) / CHARACTERS_PER_SECOND + pauses
    syllables = len(_SYLLABIC.findall(text))
    silent = len(_WIDE_SILENT.findall(text)) if syllables else 0
    rate = SYLLABLES_PER_SECOND.get(language.split("-")[0].lower(), SYLLABLES_PER_SECOND["zh"])
    return syllables / rate + (len(text) - syllables - silent) / CHARACTERS_PER_SECOND + pauses
