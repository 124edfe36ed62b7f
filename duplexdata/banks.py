"""Banks of phrases: transitions, distractors, backchannels. The values; `resources.py` reads them from `prompts/`."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np

TRANSITIONS = (
    "generation_termination",
    "regeneration",
    "dialogue_reset",
    "back_on_topic",
    "resumption",
    "topic_interweaving",
)


@dataclass(frozen=True, slots=True)
class Distractor:
    """A template: `text` may hold {topic}, {name} and {pet}."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Banks:
    """The phrases of one language. `transitions` has a tuple for each name in `TRANSITIONS`."""

    language: str
    transitions: dict[str, tuple[str, ...]]
    distractors: tuple[Distractor, ...]
    backchannels: tuple[str, ...]
    names: tuple[str, ...]
    pets: tuple[str, ...]

    def transition(self, name: str, rng: np.random.Generator) -> str:
        return pick(self.transitions[name], rng)

    def distractor(self, context: str, rng: np.random.Generator) -> Distractor:
        """A non-query that fits what is being talked about, filled in. Source: arXiv 2409.11727, section 2.3."""
        topics = topic_words(context, self.language)
        usable = [d for d in self.distractors if topics or "{topic}" not in d.text]
        template = usable[int(rng.integers(len(usable)))]
        text = template.text.format(
            topic=pick(topics, rng) if topics else "", name=pick(self.names, rng), pet=pick(self.pets, rng)
        )
        return Distractor(template.kind, text[:1].upper() + text[1:])


def pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


# Words that no conversation is about; a topic is what is left.
COMMON_WORDS = frozenset(
    "about above actually after again against almost along already also although always among another anybody anyone "
    "anything around asked asking away because become been before behind being below best better between both bring "
    "came cannot certain come could describe different does doing done down during each easy either else enough even "
    "ever every everyone everything example examples explain feel few find first following from gave generate get "
    "getting give given gives giving goes going good great happen happens have having hello help here into just keep "
    "kind know later least less like list little long look looking made make makes making many maybe mean might mine "
    "more most much must myself name need needs never next nothing number often okay once only other others our over "
    "people perhaps place please possible pretty provide quick quickly quite rather really right said same says "
    "sentence several shall short should show simple since some somebody someone something sometimes sort start still "
    "such sure take taking talk tell than thank thanks that their them then there these they thing things think this "
    "those though three through time today together told tonight tomorrow took toward true trying twice under until "
    "upon used useful using usually very want wanted wants was way ways well were what whatever when where whether "
    "which while whole whom whose will with within without wonder wondering word words work works would write yeah "
    "year years yesterday your yours yourself create following suggest identify rewrite".split()
)
_WORD = re.compile(r"[^\W\d_][^\W\d_'’-]{3,}")
_HAN = re.compile(r"[\u4e00-\u9fff]{2,}")
_HAN_BREAK = re.compile(
    "[的了是我你他她它们吗呢吧啊请问想知道怎么什么为可以能不能会有没有在和跟与把给让就都也还要去来很最这那哪些一个几多少]+"
)


_DETERMINED = re.compile(
    r"\b(?:an?|the|my|your|our|his|her|their|some|any|of|about|on|with|for|between|and)\s+"
    r"((?:[^\W\d_]{4,}\s+)?[^\W\d_]{4,})\b",
    re.IGNORECASE,
)
_ADJECTIVE = ("ive", "al", "able", "ible", "ary", "ic", "ant", "ent", "ish", "less", "er", "en")
# Endings that are verbs, adverbs and adjectives more often than things.
_NO_NOUN = ("ly", "ing", "ed", "ful", "ous", "est")


def topic_words(text: str, language: str) -> tuple[str, ...]:
    """Up to three words that the text seems to be about, the likeliest first; empty where nothing stands out.

    By rules of thumb: what follows an article or a preposition is a noun more often than not, and so is what
    comes up again.
    """
    if language.split("-")[0] == "zh":
        found = [w for run in _HAN.findall(text) for w in _HAN_BREAK.split(run) if 2 <= len(w) <= 4]
    else:
        found = [w for w in (m.lower() for m in _WORD.findall(text)) if _may_be_noun(w)]
    score = Counter(found)
    for phrase in _DETERMINED.findall(text):
        noun = phrase.split()[-1].lower()
        if noun in score:
            score[noun] += 2
    for word in score:
        score[word] -= 2 * word.endswith(_ADJECTIVE)
    ranked = sorted(score, key=lambda w: (-score[w], -len(w), found.index(w)))
    return tuple(w for w in ranked if score[w] > 0)[:3]


def _may_be_noun(word: str) -> bool:
    return word not in COMMON_WORDS and "'" not in word and "’" not in word and not word.endswith(_NO_NOUN)
