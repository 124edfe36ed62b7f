"""Evenness: voices dealt out so that sexes, accents and speakers come up equally often, and splits of speakers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from duplexdata.rng import stable_hash
from duplexdata.voices.bank import BankVoice, primary

_Node = list["_Node"] | BankVoice


class Deck:
    """An endless order of voices.

    Over the first of `levels` they alternate strictly; among the voices of one value they alternate over the next;
    at last over speakers, and over a speaker's voices. So after any number of draws two sexes differ by one draw at
    most, two accents of one sex by one, and so on: counts are even without being random.
    """

    def __init__(self, voices: Sequence[BankVoice], levels: Sequence[str], rng: np.random.Generator) -> None:
        if not voices:
            raise ValueError("a deck needs at least one voice")
        self._root = _tree(sorted(voices, key=lambda v: v.id), [*levels, "speaker", "id"], rng)

    def at(self, i: int) -> BankVoice:
        """The voice number `i` (from 0, without end)."""
        node = self._root
        while isinstance(node, list):
            i, branch = divmod(i, len(node))
            node = node[branch]
        return node

    def draw(self, rng: np.random.Generator, *, but: str) -> BankVoice:
        """Any voice, as evenly, that is not of the speaker `but`; there must be another speaker."""
        while True:
            found = self.at(int(rng.integers(1 << 62)))
            if found.speaker != but:
                return found


def dealt(
    voices: Sequence[BankVoice],
    levels: Sequence[str],
    rng: np.random.Generator,
    take: Callable[[BankVoice], bool] = lambda voice: True,
) -> Iterator[BankVoice]:
    """Each voice once, as evenly over the levels as lasts: a group that is used up is passed over.

    Args:
        take: asked once, when a voice's turn comes; in place of one that is not taken comes another of its group.
    """
    yield from _leaves(_tree(sorted(voices, key=lambda v: v.id), [*levels, "speaker", "id"], rng), take)


def _tree(voices: Sequence[BankVoice], levels: Sequence[str], rng: np.random.Generator) -> _Node:
    """Voices grouped level by level, in drawn orders."""
    if not levels:
        return voices[0]
    groups: dict[str, list[BankVoice]] = {}
    for voice in voices:
        groups.setdefault(str(getattr(voice, levels[0])), []).append(voice)
    names = sorted(groups)
    return [_tree(groups[names[i]], levels[1:], rng) for i in map(int, rng.permutation(len(names)))]


def _leaves(node: _Node, take: Callable[[BankVoice], bool]) -> Iterator[BankVoice]:
    if not isinstance(node, list):
        if take(node):
            yield node
        return
    waiting = [_leaves(child, take) for child in node]
    while waiting:
        left = []
        for branch in waiting:
            if (leaf := next(branch, None)) is not None:
                yield leaf
                left.append(branch)
        waiting = left


def held_out(voices: Sequence[BankVoice], fraction: float) -> frozenset[str]:
    """Speakers for the test split: `fraction` of each language's, of both sexes alike.

    But at least one of two speakers, and two of four: who distracts is somebody else than the user.

    They follow from their names alone, so a bank gives the same splits in any order and for any seed.
    """
    languages: dict[str, dict[str, str]] = {}
    for voice in voices:
        languages.setdefault(primary(voice.language), {})[voice.speaker] = voice.sex
    found: set[str] = set()
    for sexes in languages.values():
        speakers = sorted(sexes, key=lambda s: (sexes[s], stable_hash("split", s)))
        n = len(speakers)
        wanted = max(math.floor(n * fraction + 1e-9), min(2, n // 2))
        # Spread over all, as sorted: each sex has its share, within one speaker.
        found |= {s for i, s in enumerate(speakers) if (i + 1) * wanted // n > i * wanted // n}
    return frozenset(found)
