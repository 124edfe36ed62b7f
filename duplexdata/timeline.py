"""A script and the durations of its utterances become a timeline of two channels. No sound, no model, no clock.

Source: arXiv 2606.14528, sections 2.1 and 3; what the paper leaves open is marked [ours] in `TimingConfig`.

             lead-in     gap 0.8 s     next turn gap              reaction delay
    user     ........QQQQQ....................QQQQQQ..........IIIIII..............
    assistant ............ ....RRRRRRRRRR............. RRRRRRRRRRRR.........RRRRRR
                                                          barge-in ^  ^ stop  ^ 0.8 s after both are silent
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from duplexdata.config import Range, TimingConfig
from duplexdata.conversation import (
    Conversation,
    Int64,
    Negative,
    Spoken,
    answered_queries,
    barge_in,
    negative_spans,
)
from duplexdata.dialogue import Channel, Kind, Script, Utterance
from duplexdata.errors import ScriptError, TimelineError
from duplexdata.layouts.interleaved import text_slots
from duplexdata.rng import rng_for
from duplexdata.units import SAMPLE_RATE, Grid, to_samples
from duplexdata.words import split_words

SHORTEST_REPLY_LEFT = SAMPLE_RATE // 2
"""A reply can be interrupted if this much is left to draw the barge-in from, besides the longest late stop."""


@dataclass(frozen=True, slots=True)
class Cut:
    """How a reply is barged into, in samples from its start: the user's onset, and the delays until it stops."""

    onset: int
    delay: int
    late_delay: int

    @property
    def stop(self) -> int:
        return self.onset + self.delay

    @property
    def late_stop(self) -> int:
        return self.onset + self.late_delay


@dataclass(frozen=True, slots=True)
class Take:
    """An utterance as it was synthesized, its silences trimmed. Counted in samples at 16 kHz.

    Attributes:
        length: of all of it.
        word_starts, word_ends: shape (n_words,), from its start; empty where the engine gives none.
    """

    length: int
    word_starts: Int64
    word_ends: Int64


def with_word_times(take: Take, text: str) -> Take:
    """The take; where its engine gave no word times, with the whole duration shared out by characters."""
    spans = split_words(text)
    if len(take.word_starts) or not spans:
        return take
    edges = np.array(spans, np.int64) * take.length // spans[-1].end
    return replace(take, word_starts=edges[:, 0], word_ends=edges[:, 1])


@dataclass(frozen=True, slots=True)
class Timeline:
    """Attributes:
    conversation: every utterance with its times, in order of start.
    order: for each utterance of the conversation its index in the script.
    negative: the perturbation of its preference pair.
    left_out: reasons of overlays that found no room.
    """

    conversation: Conversation
    order: tuple[int, ...]
    negative: Negative
    left_out: tuple[str, ...]


def plan_cut(script: Script, interruption: int, length: int, timing: TimingConfig, seed: int) -> Cut:
    """Where in a reply of `length` samples the user barges in, and how long the assistant takes to stop.

    The onset is uniform over the part of the reply that leaves room for the longest late stop, so that the
    negative's delay never outlasts the reply.

    Raises: ScriptError("reply_too_short"): no such part.
    """
    room = length - to_samples(timing.late_delay_sec[1])
    if room < SHORTEST_REPLY_LEFT:
        raise ScriptError(
            "reply_too_short",
            f"{script.id}: a reply of {length / SAMPLE_RATE:.2f} s, to be interrupted it must be at least "
            f"{timing.late_delay_sec[1] + SHORTEST_REPLY_LEFT / SAMPLE_RATE:.2f} s",
        )
    rng = rng_for(seed, script.id, f"barge-in/{interruption}")
    onset = max(1, int(rng.random() * room))
    delay = to_samples(rng.uniform(*timing.reaction_delay_sec))
    late = to_samples(rng.uniform(*timing.late_delay_sec))
    return Cut(onset, delay, late)


def schedule(
    script: Script,
    takes: Sequence[Take],
    cuts: Mapping[int, Cut],
    timing: TimingConfig,
    seed: int,
    grid: Grid,
) -> Timeline:
    """Place every utterance.

    Args:
        takes: one per utterance of the script.
        cuts: by the interrupted reply's index; as `plan_cut` drew them.
        grid: block structure that the conversation's length is a whole number of.

    Raises: TimelineError: the schedule breaks one of its own rules (a bug, or timing laws that contradict).
    """
    placed = _place_turns(script, takes, cuts, timing, seed)
    negative = _draw_negative(script, placed, cuts, timing, seed)
    left_out = _place_overlays(script, takes, placed, timing, seed)
    order = tuple(sorted(placed, key=lambda i: (placed[i].start, i)))
    utterances = tuple(placed[i] for i in order)
    negative = replace(negative, utterance=order.index(negative.utterance))
    conversation = Conversation(
        id=script.id,
        source=script.source,
        source_ids=script.source_ids,
        scenario=script.scenario,
        language=script.language,
        utterances=utterances,
        n_samples=_length(utterances, negative, timing, grid),
        user_voice=script.user_voice,
        assistant_voice=script.assistant_voice,
        licence=script.licence,
    )
    check_channels(conversation)
    return Timeline(conversation, order, negative, left_out)


def check_channels(conversation: Conversation) -> None:
    """Raises TimelineError where two utterances of one channel overlap or one leaves the conversation."""
    for channel in Channel:
        on = [u for u in conversation.utterances if u.channel is channel]
        for last, u in pairwise(on):
            if u.start < last.end:
                raise TimelineError(
                    f"{conversation.id}: on the {channel} channel {u.kind} starts at sample {u.start}, "
                    f"inside {last.kind} ({last.start}, {last.end})"
                )
        if on and (on[0].start < 0 or on[-1].end > conversation.n_samples):
            raise TimelineError(f"{conversation.id}: the {channel} channel runs past {conversation.n_samples} samples")


def _uniform(bounds: Range, seed: int, key: str, purpose: str) -> int:
    return to_samples(rng_for(seed, key, purpose).uniform(*bounds))


def _spoken(utterance: Utterance, take: Take, start: int, length: int | None = None) -> Spoken:
    """`take` placed at `start`; cut to `length` samples if given."""
    take = with_word_times(take, utterance.text)
    cut = length is not None and length < take.length
    end = start + (length if cut and length is not None else take.length)
    starts, ends = take.word_starts + start, (take.word_ends + start).clip(max=end)
    begun = int((starts < end).sum()) if cut else len(starts)
    return Spoken(
        utterance.channel,
        utterance.kind,
        utterance.text,
        start,
        end,
        cut,
        utterance.writer,
        utterance.voice,
        starts[:begun],
        ends[:begun],
    )


def _place_turns(
    script: Script, takes: Sequence[Take], cuts: Mapping[int, Cut], timing: TimingConfig, seed: int
) -> dict[int, Spoken]:
    """Everything that takes or holds the floor, by script index."""
    placed: dict[int, Spoken] = {}
    reply_gap = to_samples(timing.reply_gap_sec)
    quiet = 0  # since when both channels have been silent
    for i, u in enumerate(script.utterances):
        if not u.addressed:
            continue
        length = cuts[i].stop if i in cuts else None
        if not placed:
            start = _uniform(timing.lead_in_sec, seed, script.id, "lead-in")
        elif u.kind is Kind.INTERRUPTION:
            assert u.interrupts is not None
            start = placed[u.interrupts].start + cuts[u.interrupts].onset
        elif u.channel is Channel.ASSISTANT:
            start = quiet + reply_gap
        else:
            start = quiet + _uniform(timing.next_turn_gap_sec, seed, script.id, f"next-turn/{i}")
        placed[i] = _spoken(u, takes[i], start, length)
        quiet = max(quiet, placed[i].end)
    return placed


def _draw_negative(
    script: Script, placed: Mapping[int, Spoken], cuts: Mapping[int, Cut], timing: TimingConfig, seed: int
) -> Negative:
    """The one perturbation of this conversation: a late stop if it has an interruption, else a late reply.

    Drawn among those whose copy still ends before the user's next turn. Every reply in a list that qualifies is
    equally likely. The conversation's last reply always does.
    """
    keys = list(placed)
    turns = [placed[k] for k in keys]
    rng = rng_for(seed, script.id, "negative")
    candidates = [Negative("interruption", keys.index(i), cut.delay, cut.late_delay) for i, cut in sorted(cuts.items())]
    candidates = [n for n in candidates if _leaves_user_alone(turns, n)]
    if not candidates:
        # An interruption whose late stop would run on into the user's next turn gives a late reply instead.
        late = to_samples(rng.uniform(*timing.late_gap_sec))
        gap = to_samples(timing.reply_gap_sec)
        replies = [
            n for n, i in enumerate(keys) if turns[n].kind is Kind.REPLY and i not in cuts and _begins_run(turns, n)
        ]
        candidates = [Negative("turn_taking", n, gap, late) for n in replies]
        candidates = [n for n in candidates if _leaves_user_alone(turns, n)]
    if not candidates:
        raise TimelineError(f"{script.id}: neither a reply nor a stop can come late in it")
    chosen = candidates[int(rng.integers(len(candidates)))]
    return replace(chosen, utterance=keys[chosen.utterance])


def _begins_run(turns: Sequence[Spoken], n: int) -> bool:
    """Whether it is the first thing the assistant says after a user's turn, so that its gap is a reply gap."""
    return n > 0 and turns[n - 1].channel is Channel.USER


def _leaves_user_alone(turns: Sequence[Spoken], negative: Negative) -> bool:
    """Whether all that the negative moves still ends before the user's next turn starts."""
    spans = negative_spans(turns, negative)
    for u, (start, end) in zip(turns, spans, strict=True):
        if (start, end) == (u.start, u.end) or u.cut:
            continue
        ahead = [v.start for v in turns if v.channel is Channel.USER and v.start > u.start]
        if ahead and end >= min(ahead):
            return False
    return not any(u.cut and s != u.start for u, (s, _) in zip(turns, spans, strict=True))


def _place_overlays(
    script: Script,
    takes: Sequence[Take],
    placed: dict[int, Spoken],
    timing: TimingConfig,
    seed: int,
) -> tuple[str, ...]:
    """Lay distractors and backchannels over the finished turns, where the user's channel is free. Nothing moves.

    Returns: for each one that found no room, its reason.
    """
    left_out = []
    for i, u in enumerate(script.utterances):
        if u.addressed:
            continue
        rng = rng_for(seed, script.id, f"overlay/{i}")
        if u.over is None:
            start: int | None = max(p.end for p in placed.values()) + to_samples(rng.uniform(*timing.next_turn_gap_sec))
        else:
            start = _room_over(placed[u.over], placed, takes[i].length, rng.random())
        if start is None:
            left_out.append(f"{u.kind}_found_no_room")
        else:
            placed[i] = _spoken(u, takes[i], start)
    return tuple(left_out)


_MARGIN = SAMPLE_RATE // 2
"""Free user channel kept around an overlay, so that a reader can tell it from the turns next to it."""


def _room_over(reply: Spoken, placed: Mapping[int, Spoken], length: int, where: float) -> int | None:
    """A start at which `length` samples of the user's channel are free during `reply`; None if there is none.

    `where` in [0, 1) picks among the possible starts: the longest free stretch is used. Once the user has barged
    in, nothing more is laid over a reply that is about to stop.
    """
    cutters = [p.start for p in placed.values() if p.kind is Kind.INTERRUPTION and p.start > reply.start]
    end = min([reply.end, *cutters])
    busy = sorted((p.start - _MARGIN, p.end + _MARGIN) for p in placed.values() if p.channel is Channel.USER)
    low, best = reply.start + _MARGIN, (0, 0)
    for a, b in [*busy, (end, end)]:
        high = min(a, end)
        if high - low > best[1] - best[0]:
            best = (low, high)
        low = max(low, b)
    room = best[1] - best[0] - length
    return best[0] + int(where * room) if room > 0 else None


def _length(utterances: Sequence[Spoken], negative: Negative, timing: TimingConfig, grid: Grid) -> int:
    """Samples of both channels: (B + 1) blocks that hold the positive, the negative and their last text slots."""
    late = negative_spans(utterances, negative)
    end = max(max(u.end for u in utterances), max(b for _, b in late))
    end += to_samples(timing.tail_sec)
    # the user is heard up to block B - 1 only
    end = max(end, max(u.end for u in utterances if u.channel is Channel.USER) + grid.block_samples)
    quiet = to_samples(timing.quiet_after_sec)
    end = max([end, *(u.end + quiet for u in utterances if not u.addressed)])
    blocks = max(2, -(-end // grid.block_samples))
    last_slots = [
        text_slots(a, b, grid)[1]
        for u, p, n in zip(utterances, [(u.start, u.end) for u in utterances], late, strict=True)
        if u.channel is Channel.ASSISTANT
        for a, b in (p, n)
    ]
    while last_slots and max(last_slots) >= (blocks - 1) * grid.n_text:
        blocks += 1
    return blocks * grid.block_samples


def anticipatory(conversation: Conversation, grid: Grid) -> int:
    """How many replies start before any block that has heard their query could speak them."""
    early = 0
    queries = answered_queries(conversation.utterances)
    for u, query in zip(conversation.utterances, queries, strict=True):
        if u.channel is Channel.ASSISTANT:
            heard = conversation.utterances[query].end if query is not None else 0
            early += u.start < -(-heard // grid.block_samples) * grid.block_samples
    return early


__all__ = [
    "Cut",
    "Take",
    "Timeline",
    "anticipatory",
    "barge_in",
    "check_channels",
    "plan_cut",
    "schedule",
]
