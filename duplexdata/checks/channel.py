"""The text channel of interleaved rows, from its definition."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from duplexdata.checks.finding import Int32, Record, Settings, Span, Text
from duplexdata.units import SAMPLE_RATE


class Slots(NamedTuple):
    """Of one assistant utterance in the text channel."""

    assistant: int
    epad: int


@dataclass(frozen=True, slots=True)
class TextChannel:
    """Attributes:
    z: ids, shape (B * M,); empty where it cannot be laid out.
    kept: text tokens of each assistant utterance, by index.
    problem: why it cannot be laid out: "text_overflow", "no_room" or "collision".
    """

    z: Int32
    kept: Mapping[int, int]
    problem: str | None = None


def slots_of(start: int, end: int, heard: int, settings: Settings) -> Slots:
    """The slots of [ASSISTANT] and [EPAD].

    j_ast = floor(floor((s - dt) f) M / N) - 1, moved up to the first slot of the first block that has heard the
    user's end where the reply is not anticipatory; j_epad = ceil(ceil((e - dt) f) M / N). In exact fractions.
    """
    n, m = settings.layout.n_speech, settings.layout.n_text
    f = Fraction(SAMPLE_RATE, settings.frame)
    dt = Fraction(n) / f
    s, e, t = (Fraction(x, SAMPLE_RATE) for x in (start, end, heard))
    first = math.floor(Fraction(math.floor((s - dt) * f) * m, n)) - 1
    behind = math.ceil(Fraction(math.ceil((e - dt) * f) * m, n))
    if settings.layout.causality == "causal":
        block = math.ceil(t / dt) - 1
        if s >= (block + 1) * dt:
            first = max(first, block * m)
    return Slots(first, behind)


def heard_until(record: Record, i: int) -> int:
    """End of the user's turn that the assistant's utterance `i` comes after; 0 if there is none."""
    turns = [u for u in record.utterances if u.is_user and u.addressed and u.start < record.utterances[i].start]
    return turns[-1].end if turns else 0


def text_channel(
    record: Record,
    spans: Sequence[Span],
    tokens: Sequence[Text],
    blocks: int,
    settings: Settings,
    kept: Mapping[int, int] | None = None,
) -> TextChannel:
    """The text channel of the utterances at the times `spans`.

    Args:
        kept: text tokens that each utterance has, where another timeline has decided that.
    """
    ids = settings.ids
    z = [ids.silence] * (blocks * settings.layout.n_text)
    used: dict[int, int] = {}
    none = np.zeros(0, np.int32)
    if blocks < 1 or max((end for _, end in spans), default=0) > (blocks + 1) * settings.block:
        return TextChannel(none, used, "no_room")
    last = -1
    for i, (u, (start, end)) in enumerate(zip(record.utterances, spans, strict=True)):
        if u.is_user:
            continue
        first, behind = slots_of(start, end, heard_until(record, i), settings)
        if behind >= len(z):
            return TextChannel(none, used, "no_room")
        if first <= last or behind <= first:
            return TextChannel(none, used, "collision")
        words = tokens[i].ids.tolist()
        space = range(first + 1, behind)
        if kept is not None:
            words = words[: kept.get(i, 0)]
        elif u.cut:
            words = words[: len(space)]
        if len(words) > len(space):
            return TextChannel(none, used, "text_overflow")
        z[first] = ids.assistant
        for slot in space:
            z[slot] = ids.pad
        for slot, word in zip(space, words, strict=False):
            z[slot] = word
        z[behind] = ids.epad
        used[i], last = len(words), behind
    return TextChannel(np.array(z, np.int32), used)


def start_tolerance(settings: Settings) -> Fraction:
    """Slots by which a decoder may take a reply to start too early: two, and a little where M does not divide N."""
    n, m = settings.layout.n_speech, settings.layout.n_text
    return 2 + Fraction(m - math.gcd(n, m), n)


def slot_time(slot: int, settings: Settings) -> Fraction:
    """Seconds that a slot stands for."""
    n, m = settings.layout.n_speech, settings.layout.n_text
    return (Fraction(slot * n, m) + n) * Fraction(settings.frame, SAMPLE_RATE)


def slot_seconds(settings: Settings) -> Fraction:
    return Fraction(settings.block, settings.layout.n_text * SAMPLE_RATE)
