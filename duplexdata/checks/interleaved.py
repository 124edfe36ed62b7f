"""Rows of `sft` and `dpo`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from duplexdata.checks.channel import (
    Slots,
    TextChannel,
    heard_until,
    slot_seconds,
    slot_time,
    start_tolerance,
    text_channel,
)
from duplexdata.checks.codes import late_spans
from duplexdata.checks.finding import (
    IGNORED,
    Decode,
    Finding,
    Int32,
    Late,
    Record,
    Said,
    Settings,
    Text,
    Tokens,
    first_difference,
    name_of,
    sec,
    unspaced,
)
from duplexdata.checks.record import cutter_of, quiet_before
from duplexdata.units import SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Interleaved:
    """A row of `sft`, or one half of a row of `dpo`."""

    input_ids: Int32
    labels: Int32
    n_blocks: int
    n_speech: int
    n_text: int

    def parts(self) -> tuple[Int32, Int32, Int32]:
        """User tokens, text channel, assistant tokens, as they stand; shapes (B N,), (B M,), (B N,)."""
        n, m = self.n_speech, self.n_text
        grid = self.input_ids.reshape(self.n_blocks, 2 * n + m)
        return grid[:, :n].ravel(), grid[:, n : n + m].ravel(), grid[:, n + m :].ravel()


def check_shape(rule: str, row: Interleaved, frames: int, settings: Settings) -> Iterator[Finding]:
    """Lengths; whatever else is checked of a row needs them right."""
    n, m, blocks = row.n_speech, row.n_text, row.n_blocks
    if (n, m) != (settings.layout.n_speech, settings.layout.n_text):
        yield Finding(rule, f"N, M = {n}, {m}, expected {settings.layout.n_speech}, {settings.layout.n_text}")
    elif blocks != frames // n - 1 or blocks < 1:
        yield Finding(rule, f"{blocks} blocks, expected {frames // n - 1} of {frames} frames")
    elif not len(row.input_ids) == len(row.labels) == blocks * (2 * n + m):
        found = (len(row.input_ids), len(row.labels))
        yield Finding(rule, f"{found} ids and labels, expected {blocks * (2 * n + m)} for {blocks} blocks")


def check_labels(rule: str, row: Interleaved) -> Iterator[Finding]:
    """-100 on the user's tokens, the token itself elsewhere."""
    shape = (row.n_blocks, 2 * row.n_speech + row.n_text)
    labels, ids = row.labels.reshape(shape), row.input_ids.reshape(shape)
    expected = np.concatenate([np.full_like(ids[:, : row.n_speech], IGNORED), ids[:, row.n_speech :]], axis=1)
    if (at := first_difference(labels.ravel(), expected.ravel())) is not None:
        yield Finding(rule, f"label {at} is {int(labels.ravel()[at])}, expected {int(expected.ravel()[at])}")


def check_speech(rule: str, name: str, found: Int32, codes: Int32, settings: Settings) -> Iterator[Finding]:
    """A row's speech tokens against those of `codes`."""
    expected = codes + settings.ids.speech_offset
    if (at := first_difference(found, expected)) is not None:
        yield Finding(rule, f"{name}: speech token {at} is {int(found[at])}, expected {int(expected[at])}")


def check_sft(
    record: Record,
    row: Interleaved,
    codes: Tokens,
    tokens: Sequence[Text],
    plan: TextChannel,
    settings: Settings,
    decode: Decode,
) -> Iterator[Finding]:
    """Args:
    plan: the text channel as the record gives it.
    """
    shape = list(check_shape("sft-shape", row, len(codes.user), settings))
    if shape:
        yield from shape
        return
    user, z, assistant = row.parts()
    yield from check_speech("sft-user", "user", user, codes.user[: len(user)], settings)
    n = row.n_speech
    yield from check_speech("sft-assistant", "assistant", assistant, codes.assistant[n : n + len(assistant)], settings)
    yield from check_labels("sft-labels", row)
    yield from check_text("sft-text", z, plan)
    yield from check_states("sft-states", record, z, settings)
    found = parse_text(z, settings)
    spoken = [(i, u) for i, u in enumerate(record.utterances) if not u.is_user]
    if len(found) == len(spoken):
        for (i, u), (slots, words) in zip(spoken, found, strict=True):
            yield from _check_written(name_of(i, u), u, words, decode)
            yield from _check_start(name_of(i, u), u, slots, settings)
            yield from _check_causality(name_of(i, u), u, heard_until(record, i), slots, settings)


def check_text(rule: str, z: Int32, plan: TextChannel) -> Iterator[Finding]:
    if plan.problem is not None:
        yield Finding(rule, f"there is a row, but its text cannot be laid out ({plan.problem})")
    elif len(z) != len(plan.z):
        yield Finding(rule, f"{len(z)} text slots, expected {len(plan.z)}")
    elif (at := first_difference(z, plan.z)) is not None:
        yield Finding(rule, f"slot {at} holds {int(z[at])}, expected {int(plan.z[at])}")


def check_states(rule: str, record: Record, z: Int32, settings: Settings) -> Iterator[Finding]:
    spoken = sum(not u.is_user for u in record.utterances)
    starts = int(np.count_nonzero(z == settings.ids.assistant))
    ends = int(np.count_nonzero(z == settings.ids.epad))
    if not starts == ends == spoken:
        yield Finding(rule, f"{starts} [ASSISTANT] and {ends} [EPAD] for {spoken} utterances of the assistant")


def parse_text(z: Int32, settings: Settings) -> list[tuple[Slots, list[int]]]:
    """The text channel read back: slots and text tokens of each utterance; [] where it cannot be read."""
    ids = settings.ids
    starts, ends = np.flatnonzero(z == ids.assistant).tolist(), np.flatnonzero(z == ids.epad).tolist()
    if len(starts) != len(ends) or any(a >= b for a, b in zip(starts, ends, strict=True)):
        return []
    return [
        (Slots(a, b), [w for w in z[a + 1 : b].tolist() if w != ids.pad]) for a, b in zip(starts, ends, strict=True)
    ]


def _check_written(name: str, u: Said, words: Sequence[int], decode: Decode) -> Iterator[Finding]:
    written = unspaced(decode(words))
    # The last token of a cut text may be part of a character.
    if (written.rstrip("\ufffd") != "" and not unspaced(u.text).startswith(written.rstrip("\ufffd"))) or (
        not u.cut and written != unspaced(u.text)
    ):
        yield Finding("sft-decoded", f"{name}: the text channel says {decode(words)!r}, expected {u.text!r}")


def _check_start(name: str, u: Said, slots: Slots, settings: Settings) -> Iterator[Finding]:
    read = slot_time(slots.assistant, settings)
    if not -start_tolerance(settings) * slot_seconds(settings) < read - Fraction(u.start, SAMPLE_RATE) <= 0:
        yield Finding("sft-start", f"{name}: read back at {float(read):.3f} s, it starts at {sec(u.start)}")


def _check_causality(name: str, u: Said, heard: int, slots: Slots, settings: Settings) -> Iterator[Finding]:
    if settings.layout.causality != "causal":
        return
    block = slots.assistant // settings.layout.n_text
    needed = -(-heard // settings.block) - 1
    if block < needed and u.start >= (needed + 1) * settings.block:
        yield Finding("causality", f"{name}: decided in block {block}, which ends before the user does at {sec(heard)}")


# -- preference pairs


@dataclass(frozen=True, slots=True)
class Pair:
    """A row of `dpo`; gaps in samples."""

    kind: str
    chosen: Interleaved
    rejected: Interleaved
    positive: int
    negative: int


def check_pair(
    record: Record,
    pair: Pair,
    sft: Interleaved | None,
    codes: Tokens,
    tokens: Sequence[Text],
    plan: TextChannel,
    settings: Settings,
) -> Iterator[Finding]:
    """Args:
    sft: the conversation's SFT row, where the dataset has one.
    plan: the positive's text channel.
    """
    shape = [f for r in (pair.chosen, pair.rejected) for f in check_shape("dpo-shape", r, len(codes.user), settings)]
    if shape:
        yield from shape
        return
    for row in (pair.chosen, pair.rejected):
        yield from check_labels("dpo-labels", row)
    if sft is not None and not (
        np.array_equal(pair.chosen.input_ids, sft.input_ids) and np.array_equal(pair.chosen.labels, sft.labels)
    ):
        yield Finding("dpo-chosen", "the chosen row is not the conversation's SFT row")
    user, z, _ = pair.chosen.parts()
    late_user, late_z, late_assistant = pair.rejected.parts()
    if (at := first_difference(user, late_user)) is not None:
        yield Finding("dpo-user", f"user token {at} differs between chosen and rejected")
    found, late_found = parse_text(z, settings), parse_text(late_z, settings)
    if not found or [w for _, w in found] != [w for _, w in late_found]:
        yield Finding("dpo-text", "the text tokens of chosen and rejected differ")
    if not codes.negatives or not 0 <= codes.negatives[0].utterance < len(record.utterances):
        return
    late = codes.negatives[0]
    if (pair.kind, pair.positive, pair.negative) != (late.kind, late.positive, late.negative):
        yield Finding("dpo-record", "kind, positive_sec or negative_sec is not that of the codes")
    n = pair.rejected.n_speech
    expected = late.assistant[n : n + len(late_assistant)]
    if len(expected) == len(late_assistant):
        yield from check_speech("dpo-assistant", "rejected", late_assistant, expected, settings)
    spans = late_spans(record, late, settings.timing)
    late_plan = text_channel(record, spans, tokens, pair.rejected.n_blocks, settings, plan.kept)
    yield from check_text("dpo-text", late_z, late_plan)
    yield from _check_pair_timing(record, pair, late, found, late_found, settings)


def _check_pair_timing(
    record: Record,
    pair: Pair,
    late: Late,
    found: Sequence[tuple[Slots, list[int]]],
    late_found: Sequence[tuple[Slots, list[int]]],
    settings: Settings,
) -> Iterator[Finding]:
    """The gap or delay read back from the text channels is the one that the pair records."""
    spoken = [i for i, u in enumerate(record.utterances) if not u.is_user]
    if late.utterance not in spoken or not len(found) == len(late_found) == len(spoken):
        return
    k = spoken.index(late.utterance)
    slot = slot_seconds(settings)
    for name, (slots, _), gap in (
        ("chosen", found[k], pair.positive),
        ("rejected", late_found[k], pair.negative),
    ):
        if pair.kind == "turn_taking":
            since = quiet_before(record, late.utterance)
            read, low, high = (
                slot_time(slots.assistant, settings),
                -start_tolerance(settings) * slot,
                Fraction(0),
            )
        else:
            cutter = cutter_of(record, late.utterance)
            since = None if cutter is None else record.utterances[cutter].start
            read, low, high = (
                slot_time(slots.epad, settings),
                Fraction(-1, SAMPLE_RATE),
                slot + Fraction(settings.frame, SAMPLE_RATE),
            )
        if since is None:
            continue
        error = read - Fraction(since + gap, SAMPLE_RATE)
        if not low < error <= high:
            yield Finding(
                "dpo-timing",
                f"{name}: the text channel has {float(read - Fraction(since, SAMPLE_RATE)):.3f} s of "
                f"{pair.kind.replace('_', '-')}, recorded are {sec(gap)}",
            )
