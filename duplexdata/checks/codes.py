"""A row of `codes`: the speech tokens and the negative."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from duplexdata.checks.finding import (
    Finding,
    Int32,
    Late,
    Record,
    Said,
    Settings,
    Span,
    Tokens,
    first_difference,
    name_of,
    samples_of,
    sec,
)
from duplexdata.checks.record import cutter_of, quiet_before, within
from duplexdata.config import TimingConfig
from duplexdata.units import SAMPLE_RATE

_SILENT = 0
"""The embedded codec's token of a frame without sound."""


def check_codes(record: Record, codes: Tokens, settings: Settings) -> Iterator[Finding]:
    """Lengths, ranges and the negative; see `check_encoding` for the tokens themselves."""
    frames = record.length // settings.frame
    facts = (codes.codec, codes.frame_rate, codes.codebook_size)
    expected = (settings.codec, SAMPLE_RATE / settings.frame, settings.codebook_size)
    if facts != expected:
        yield Finding("codes-clock", f"codec, frame rate and codebook {facts}, expected {expected}")
    lists = {"user": (codes.user, *codes.more[0]), "assistant": (codes.assistant, *codes.more[1])}
    lists |= {f"negative {i}": (n.assistant, *n.more) for i, n in enumerate(codes.negatives)}
    for name, books in lists.items():
        if len(books) != settings.n_codebooks:
            yield Finding("codes-shape", f"{name}: {len(books)} codebooks, expected {settings.n_codebooks}")
        for tokens in books:
            if len(tokens) != frames:
                yield Finding("codes-shape", f"{name}: {len(tokens)} tokens, expected {frames}")
            if len(tokens) and int(tokens.max()) >= codes.codebook_size:
                yield Finding(
                    "codes-shape", f"{name}: token {int(tokens.max())} of a codebook of {codes.codebook_size}"
                )
    if len(codes.negatives) != 1:
        yield Finding("negative", f"{len(codes.negatives)} negatives, expected 1")
    for late in codes.negatives:
        yield from _check_negative(record, codes, late, settings)


def check_encoding(codes: Tokens, user: Int32, assistant: Int32) -> Iterator[Finding]:
    """The stored tokens against the ones that the sound gives."""
    for name, found, expected in (("user", codes.user, user), ("assistant", codes.assistant, assistant)):
        if len(found) == len(expected) and (at := first_difference(found, expected)) is not None:
            yield Finding("codes-audio", f"{name}: token {at} is {int(found[at])}, its sound gives {int(expected[at])}")


def late_spans(record: Record, late: Late, timing: TimingConfig) -> list[Span]:
    """When each utterance sounds in a negative, from the two gaps that it records.

    A late reply takes along what the assistant says behind it before the user's next turn. Behind a late stop, the
    next reply waits for the usual gap.
    """
    utterances = record.utterances
    spans = [(u.start, u.end) for u in utterances]
    by = late.negative - late.positive
    moved = utterances[late.utterance]
    after = moved.start
    first = late.utterance
    if late.kind == "interruption":
        cutter = cutter_of(record, late.utterance)
        after = utterances[cutter].start if cutter is not None else moved.start
        spans[late.utterance] = (moved.start, moved.end + by)
    turns = [u.start for u in utterances if u.is_user and u.addressed and u.start > after]
    until = min(turns, default=record.length + 1)
    run = [i for i, u in enumerate(utterances) if not u.is_user and after <= u.start < until]
    if late.kind == "interruption":
        run = [i for i in run if i != late.utterance]
        if not run:
            return spans
        first = run[0]
        earliest = moved.end + by + samples_of(timing.reply_gap_sec)
        by = max(0, earliest - utterances[first].start)
    for i in run:
        spans[i] = (utterances[i].start + by, utterances[i].end + by)
    return spans


def _check_negative(record: Record, codes: Tokens, late: Late, settings: Settings) -> Iterator[Finding]:
    utterances, timing = record.utterances, settings.timing
    if late.kind not in ("turn_taking", "interruption"):
        yield Finding("negative", f"kind {late.kind!r}")
        return
    if not 0 <= late.utterance < len(utterances) or utterances[late.utterance].is_user:
        yield Finding("negative", f"utterance {late.utterance} is none of the assistant's")
        return
    name = name_of(late.utterance, utterances[late.utterance])
    recorded = recorded_gap(record, late)
    if recorded is None:
        yield Finding("negative", f"{name} can have no negative of the kind {late.kind}")
        return
    if abs(recorded - late.positive) > 1:
        yield Finding("negative", f"{name}: positive_sec is {sec(late.positive)}, the record has {sec(recorded)}")
    turn = late.kind == "turn_taking"
    bounds = timing.late_gap_sec if turn else timing.late_delay_sec
    yield from within("negative", f"{name}: negative_sec", late.negative, bounds)
    spans = late_spans(record, late, timing)
    if max(abs(late.start - spans[late.utterance][0]), abs(late.end - spans[late.utterance][1])) > 1:
        a, b = spans[late.utterance]
        yield Finding(
            "negative",
            f"{name}: from {sec(late.start)} to {sec(late.end)} in its negative, expected {sec(a)} to {sec(b)}",
        )
    yield from _check_late_timeline(record, late, spans, name)
    if settings.silence_known and len(late.assistant) == len(codes.assistant) == record.length // settings.frame:
        yield from _check_late_tokens(record, codes, late, spans, settings)


def recorded_gap(record: Record, late: Late) -> int | None:
    """The gap or delay that the positive has at the negative's utterance; None where it has none."""
    u = record.utterances[late.utterance]
    if late.kind == "interruption":
        cutter = cutter_of(record, late.utterance)
        return None if cutter is None or not u.cut else u.end - record.utterances[cutter].start
    quiet = quiet_before(record, late.utterance)
    return None if quiet is None or u.cut else u.start - quiet


def _check_late_timeline(record: Record, late: Late, spans: Sequence[Span], name: str) -> Iterator[Finding]:
    """The user is left alone: what moved ends before the user's next turn; nothing runs into anything."""
    own = sorted(s for u, s in zip(record.utterances, spans, strict=True) if not u.is_user)
    for (_, end), (start, _) in pairwise(own):
        if start < end:
            yield Finding("negative", f"{name}: in its negative the assistant talks over itself at {sec(start)}")
    for i, (u, (_, end)) in enumerate(zip(record.utterances, spans, strict=True)):
        if end > record.length:
            yield Finding("negative", f"{name_of(i, u)}: ends behind the conversation in the negative")
        if u.is_user or end == u.end or u.cut:
            continue
        turns = [v.start for v in record.utterances if v.is_user and v.addressed and v.start > u.start]
        if turns and end >= min(turns):
            yield Finding("negative", f"{name_of(i, u)}: in the negative it runs into the user's next turn")


def _check_late_tokens(
    record: Record, codes: Tokens, late: Late, spans: Sequence[Span], settings: Settings
) -> Iterator[Finding]:
    """Same tokens where nothing moved, silence where nobody speaks, speech where the moved utterances are."""
    frame, n = settings.frame, len(late.assistant)
    changed, speaking = np.zeros(n, bool), np.zeros(n, bool)
    fade = samples_of(settings.timing.fade_sec)
    moved = []
    for u, (start, end) in zip(record.utterances, spans, strict=True):
        if u.is_user:
            continue
        speaking[start // frame : -(-end // frame)] = True
        if (start, end) == (u.start, u.end):
            continue
        moved.append((u, start, end))
        if start == u.start:
            changed[(u.end - fade) // frame : -(-end // frame)] = True
        else:
            changed[u.start // frame : -(-u.end // frame)] = True
            changed[start // frame : -(-end // frame)] = True
    other = np.flatnonzero((late.assistant != codes.assistant) & ~changed)
    if len(other):
        yield Finding("negative-tokens", f"token {other[0]} differs from the positive's, where nothing has moved")
    loud = np.flatnonzero((late.assistant != _SILENT) & ~speaking)
    if len(loud):
        yield Finding("negative-tokens", f"token {loud[0]} sounds, where the negative's timeline has silence")
    for u, start, end in moved:
        yield from _check_moved(u, start, end, codes, late, frame)


def _check_moved(u: Said, start: int, end: int, codes: Tokens, late: Late, frame: int) -> Iterator[Finding]:
    heard = np.flatnonzero(late.assistant[start // frame : -(-end // frame)] != _SILENT) + start // frame
    if not len(heard):
        yield Finding("negative-tokens", f"no sound from {sec(start)} to {sec(end)} in the negative")
        return
    if heard[0] > start // frame + 1:
        yield Finding("negative-tokens", f"sounds from token {heard[0]} on, expected {start // frame}")
    last = -(-end // frame) - 1
    if start != u.start:
        before = np.count_nonzero(codes.assistant[u.start // frame : -(-u.end // frame)])
        if abs(len(heard) - before) > 2 + before // 10:
            yield Finding(
                "negative-tokens",
                f"{len(heard)} tokens of the late reply sound, {before} did in the positive",
            )
        # a moved reply that was cut itself may end in a pause
        last = last if not u.cut else last - _LONGEST_PAUSE // frame
    else:
        last -= _LONGEST_PAUSE // frame  # the late stop may fall between two sentences
    if heard[-1] < last - 1:
        yield Finding("negative-tokens", f"sounds until token {heard[-1]}, expected {last}")


_LONGEST_PAUSE = SAMPLE_RATE
"""Silence between two sentences of one utterance, at most."""
