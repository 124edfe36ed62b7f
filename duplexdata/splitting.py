"""Long texts in pieces that a model speaks one by one: where they may be parted, and the pause that belongs there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from duplexdata.words import CJK, CLAUSE_PAUSE_SEC, SENTENCE_PAUSE_SEC, Span, split_words

FEWEST_WORDS = 3
"""A piece of fewer words is spoken badly by cloning models, so it stays with a neighbour."""
WIDE_CHARACTER = 4
"""What an ideograph or kana counts in characters: it is a text token of its own, and four letters are about one."""

_WIDE = re.compile(f"[{CJK}]")
_CLOSING = "\"'”’)）」』】》］"
_SENTENCE_MARKS = ".!?…。！？"
_CLAUSE_MARKS = ",;:，；：、—–"


class Joint(Enum):
    """What stands at the end of a piece."""

    SENTENCE = "sentence"
    CLAUSE = "clause"
    WORD = "word"

    @property
    def pause_sec(self) -> float:
        """The silence that a speaker makes there."""
        return {"sentence": SENTENCE_PAUSE_SEC, "clause": CLAUSE_PAUSE_SEC, "word": 0.05}[self.value]


@dataclass(frozen=True, slots=True)
class Piece:
    text: str
    joint: Joint


_COST = {Joint.SENTENCE: 1.0, Joint.CLAUSE: 2.0, Joint.WORD: 4.0}
_COST_OF_FEW_WORDS = 20.0
_COST_OF_UNEVENNESS = 2.0


def split_text(text: str, most: int) -> tuple[Piece, ...]:
    """The text in pieces of at most `most` characters, parted between words.

    Few pieces, parted at ends of sentences rather than of clauses, and of those rather than between any two words;
    of even length, none of fewer than three words. Only a word that is longer itself makes a longer piece. A text
    that fits, and one without words, is one piece as it stands.

    Args:
        most: characters; ideographs and kana count as `WIDE_CHARACTER`.
    """
    words = split_words(text)
    if len(words) < 2 or _weight(text) <= most:
        return (Piece(text, Joint.SENTENCE),)
    pieces = []
    first = 0
    for behind in _cuts(text, words, most):
        start, end = words[first].start, words[behind - 1].end
        pieces.append(Piece(text[start:end], _joint(text[start:end])))
        first = behind
    return tuple(pieces)


def _cuts(text: str, words: list[Span], most: int) -> list[int]:
    """The number of words before each cut, the last one that of all: the cheapest way by dynamic programming."""
    weights = [_weight(text[w.start : w.end]) + 1 for w in words]
    joints = [_COST[_joint(text[w.start : w.end])] for w in words]
    n = len(words)
    cost = [0.0] + [float("inf")] * n
    before = [0] * (n + 1)
    for end in range(1, n + 1):
        weight = 0
        for start in range(end - 1, -1, -1):
            weight += weights[start]
            if weight - 1 > most and start < end - 1:
                break
            unevenness = 1 - min(1.0, (weight - 1) / most)
            found = cost[start] + _COST_OF_UNEVENNESS * unevenness**2
            found += joints[end - 1] if end < n else 0.0
            found += _COST_OF_FEW_WORDS if end - start < FEWEST_WORDS else 0.0
            if found < cost[end]:
                cost[end], before[end] = found, start
    cuts = [n]
    while before[cuts[-1]]:
        cuts.append(before[cuts[-1]])
    return cuts[::-1]


def _weight(text: str) -> int:
    return len(text) + (WIDE_CHARACTER - 1) * (0 if text.isascii() else len(_WIDE.findall(text)))


def _joint(text: str) -> Joint:
    end = text.rstrip(_CLOSING)[-1:]
    if end and end in _SENTENCE_MARKS:
        return Joint.SENTENCE
    return Joint.CLAUSE if end and end in _CLAUSE_MARKS else Joint.WORD
