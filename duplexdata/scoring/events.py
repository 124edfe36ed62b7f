"""What a conversation asks of the assistant, read from its record: where it should speak, stop, go on or keep silent.

Every decision that is scored has its counterpart, so that a model cannot do well by always deciding the same way:

    decision                             right when                         its counterpart
    start to speak                       a query has ended                  `QUIET`: nobody has asked
    stop                                 the user barges in                 `HOLD`: nobody interrupts; distractors,
                                                                            backchannels
    speak again after a side answer      a reply was left unfinished        `QUIET`
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from duplexdata.conversation import Conversation, Spoken, answered_queries, barge_in
from duplexdata.dialogue import Channel, Kind
from duplexdata.units import Grid, to_samples

ANSWER_WITHIN = to_samples(3.0)
"""TT SR@3s. Source: arXiv 2606.14528, section 4."""
STOP_WITHIN = to_samples(2.0)
"""ISR@2s. Source: arXiv 2606.14528, section 4."""
OVERLAP_MOST = to_samples(6.0)
"""Overlap is measured up to here: the latest stop of a negative is 5 s after the barge-in. [ours]"""
MARGIN = to_samples(0.6)
"""Watched beyond a limit, so that a pause is told from a stop and a blip from speech. [ours]"""
SILENCE_KEPT = to_samples(2.0)
"""How long nobody should answer behind what is not for the assistant, or behind a request for silence. [ours]"""
LEAST_WATCHED = to_samples(2.0)
"""A silence shorter than this says nothing about starts that nobody asked for. [ours]"""


class Asked(StrEnum):
    """What happens, and with it what is right."""

    QUERY = "query"
    BARGE_IN = "barge_in"
    """An interruption that is answered."""
    TERMINATION = "termination"
    """An interruption that asks for silence."""
    DISTRACTOR = "distractor"
    BACKCHANNEL = "backchannel"
    RESUMPTION = "resumption"
    """A side question has been answered, and the reply that it cut in on is unfinished."""
    HOLD = "hold"
    """In the middle of a reply, nobody else speaks."""
    QUIET = "quiet"
    """A reply is complete, nobody speaks."""
    PAUSE = "pause"
    """A silence inside the user's turn. (Recorded conversations have them inside their queries.)"""
    CONVERSATION = "conversation"
    """The whole of it: how much the assistant speaks."""


@dataclass(frozen=True, slots=True)
class Asking:
    """A moment at which the assistant has something to decide. Times are samples from the conversation's start.

    Attributes:
        utterance: index of the user's utterance, or of the assistant's for `RESUMPTION`, `HOLD` and `QUIET`.
        start, end: of the user's utterance; the same moment where there is none.
        speaking: whether the assistant speaks at the start by the record.
        goes_on: of a distractor: whether the recorded reply outlasts it.
        limit: until when the outcome is the assistant's alone: the user's next turn, or the conversation's end.
        until: what has to be heard to tell.
        reaction: when the recorded assistant reacts; history that is given must end before.
        since: of a resumption: when the side question ended.
    """

    conversation: str
    scenario: str
    kind: Asked
    utterance: int
    start: int
    end: int
    speaking: bool
    goes_on: bool
    limit: int
    until: int
    reaction: int
    since: int = 0


def asked(conversation: Conversation, grid: Grid) -> list[Asking]:
    """Everything that the record asks, in order of time."""
    found = [*_turns(conversation, grid), *_overlays(conversation), *_own_turns(conversation, grid)]
    return sorted(found, key=lambda e: (e.start, e.kind))


def whole(conversation: Conversation) -> Asking:
    """The conversation itself, for what is measured on all of it."""
    n = conversation.n_samples
    return _asking(conversation, Asked.CONVERSATION, -1, 0, n, n, n, n)


def history_blocks(event: Asking, grid: Grid) -> int:
    """How many blocks can be given as history: up to the user's onset, and none that shows the reaction.

    k given blocks hold what the user says until k Δt and what the assistant says until (k + 1) Δt.
    """
    return max(0, min(event.start, event.reaction - grid.block_samples) // grid.block_samples)


def blocks_needed(event: Asking, grid: Grid) -> int:
    """Blocks to decode until everything up to `until` has been said."""
    return max(1, -(-event.until // grid.block_samples) - 1)


def _turns(c: Conversation, grid: Grid) -> Iterator[Asking]:
    answers = _answers(c.utterances)
    for i, u in enumerate(c.utterances):
        if u.channel is not Channel.USER or not u.addressed:
            continue
        limit = _next_turn(c, u.end)
        answer = answers.get(i)
        cut = next((j for j, _ in enumerate(c.utterances) if barge_in(c.utterances, j) == i), None)
        if u.kind is Kind.INTERRUPTION and cut is not None:
            kind = Asked.BARGE_IN if answer is not None else Asked.TERMINATION
            behind = ANSWER_WITHIN if answer is not None else SILENCE_KEPT
            until = max(u.start + OVERLAP_MOST, min(limit, u.end + behind)) + MARGIN
            reaction = c.utterances[cut].end
            yield _asking(c, kind, i, u.start, u.end, limit, until, reaction, speaking=True)
        elif answer is not None:
            until = min(limit, u.end + ANSWER_WITHIN) + MARGIN
            reaction = _before(c.utterances[answer].start, grid)
            yield _asking(c, Asked.QUERY, i, u.start, u.end, limit, until, reaction)


def _overlays(c: Conversation) -> Iterator[Asking]:
    for i, u in enumerate(c.utterances):
        if u.addressed:
            continue
        kind = Asked.DISTRACTOR if u.kind is Kind.DISTRACTOR else Asked.BACKCHANNEL
        limit = _next_turn(c, u.start)
        running = _assistant_at(c, u.start)
        if running is not None:
            if min(running.end, limit) - u.start >= STOP_WITHIN + MARGIN:
                goes_on = kind is Asked.DISTRACTOR and min(running.end, limit) - u.end >= MARGIN
                until = max(u.start + STOP_WITHIN, u.end + ANSWER_WITHIN if goes_on else 0) + MARGIN
                until = min(until, limit)
                yield _asking(c, kind, i, u.start, u.end, limit, until, c.n_samples, speaking=True, goes_on=goes_on)
        elif _silent_before(c, u.start):
            until = min(limit, u.end + SILENCE_KEPT)
            if not _assistant_in(c, u.start, until):
                yield _asking(c, kind, i, u.start, u.end, limit, until, c.n_samples)


def _own_turns(c: Conversation, grid: Grid) -> Iterator[Asking]:
    spoken = [(i, u) for i, u in enumerate(c.utterances) if u.channel is Channel.ASSISTANT]
    for n, (i, u) in enumerate(spoken):
        limit = _next_turn(c, u.end)
        following = spoken[n + 1][1] if n + 1 < len(spoken) else None
        middle = (u.start + u.end) // 2
        if u.end - middle >= STOP_WITHIN + MARGIN and not _user_in(
            c, middle - ANSWER_WITHIN // 3, middle + STOP_WITHIN + MARGIN
        ):
            until = middle + STOP_WITHIN + MARGIN
            yield _asking(c, Asked.HOLD, i, middle, middle, u.end, until, c.n_samples, speaking=True)
        if u.cut:
            continue
        if following is not None and following.kind is Kind.RESUMPTION and following.start < limit:
            until = min(limit, u.end + ANSWER_WITHIN) + MARGIN
            reaction = _before(following.start, grid)
            since = max((x.end for x in c.utterances if x.channel is Channel.USER and x.end <= u.start), default=0)
            yield _asking(c, Asked.RESUMPTION, i, u.end, u.end, limit, until, reaction, since=since)
        else:
            heard = min((x.start for x in c.utterances if x.start >= u.end), default=c.n_samples)
            until = min(heard, u.end + ANSWER_WITHIN)
            if until - u.end >= LEAST_WATCHED:
                # From where the silence can be no pause any more.
                start = u.end + MARGIN
                yield _asking(c, Asked.QUIET, i, start, start, heard, until, c.n_samples)


def _asking(
    c: Conversation,
    kind: Asked,
    utterance: int,
    start: int,
    end: int,
    limit: int,
    until: int,
    reaction: int,
    *,
    speaking: bool = False,
    goes_on: bool = False,
    since: int = 0,
) -> Asking:
    return Asking(
        conversation=c.id,
        scenario=c.scenario.value,
        kind=kind,
        utterance=utterance,
        start=start,
        end=end,
        speaking=speaking,
        goes_on=goes_on,
        limit=limit,
        until=min(until, c.n_samples),
        reaction=reaction,
        since=since,
    )


def _answers(utterances: Sequence[Spoken]) -> dict[int, int]:
    """Which utterance of the assistant answers each of the user's: the first one."""
    found: dict[int, int] = {}
    for i, query in enumerate(answered_queries(utterances)):
        if query is not None:
            found.setdefault(query, i)
    return found


def _next_turn(c: Conversation, time: int) -> int:
    starts = [u.start for u in c.utterances if u.channel is Channel.USER and u.addressed and u.start >= time]
    return min(starts, default=c.n_samples)


def _assistant_at(c: Conversation, time: int) -> Spoken | None:
    return next((u for u in c.utterances if u.channel is Channel.ASSISTANT and u.start <= time < u.end), None)


def _assistant_in(c: Conversation, start: int, end: int) -> bool:
    return any(u.channel is Channel.ASSISTANT and u.start < end and u.end > start for u in c.utterances)


def _user_in(c: Conversation, start: int, end: int) -> bool:
    return any(u.channel is Channel.USER and u.start < end and u.end > start for u in c.utterances)


def _silent_before(c: Conversation, time: int) -> bool:
    """Nobody speaks at `time`, and no query waits for its answer."""
    before = [i for i, u in enumerate(c.utterances) if u.addressed and u.start < time]
    if not before or any(c.utterances[i].end > time for i in before):
        return False
    # A request for silence is answered by silence.
    return c.utterances[before[-1]].channel is Channel.ASSISTANT or before[-1] not in _answers(c.utterances)


def _before(start: int, grid: Grid) -> int:
    """[ASSISTANT] stands up to two text slots before the reply's start."""
    return start - int(2 * grid.slot_samples)
