"""Conversations of which everything is known, and assistants that do one thing whatever happens."""

from __future__ import annotations

import numpy as np

from duplexdata.conversation import Conversation, Spoken
from duplexdata.dialogue import Channel, Kind, Scenario
from duplexdata.scoring.activity import Activity
from duplexdata.scoring.events import asked
from duplexdata.scoring.judge import Judgement, judge
from duplexdata.units import Grid, to_samples

GRID = Grid()
FRAME = GRID.frame_samples
_NONE = np.zeros(0, np.int64)

Line = tuple[Kind, float, float]
"""Kind, start and end in seconds; an assistant's line that ends at an interruption's stop is cut."""


def talk(
    lines: list[Line], seconds: float, scenario: Scenario = Scenario.UNINTERRUPTED, id_: str = "talk"
) -> Conversation:
    barge_ins = [start for kind, start, _ in lines if kind is Kind.INTERRUPTION]
    utterances = tuple(
        Spoken(
            channel=Channel.ASSISTANT if kind in (Kind.REPLY, Kind.RESUMPTION) else Channel.USER,
            kind=kind,
            text="words",
            start=to_samples(start),
            end=to_samples(end),
            cut=kind is Kind.REPLY and any(start < b < end for b in barge_ins),
            writer="",
            voice="",
            word_starts=_NONE,
            word_ends=_NONE,
        )
        for kind, start, end in sorted(lines, key=lambda x: x[1])
    )
    blocks = -(-to_samples(seconds) // GRID.block_samples)
    return Conversation(
        id=id_,
        source="",
        source_ids=(),
        scenario=scenario,
        language="en",
        utterances=utterances,
        n_samples=blocks * GRID.block_samples,
        user_voice="",
        assistant_voice="",
        licence="",
    )


def everything(id_: str = "talk") -> Conversation:
    """A conversation in which everything is asked that there is."""
    return talk(
        [
            (Kind.QUERY, 0.5, 3.0),
            (Kind.REPLY, 3.8, 12.0),
            (Kind.BACKCHANNEL, 5.0, 5.4),
            (Kind.QUERY, 14.6, 18.0),
            (Kind.REPLY, 18.8, 32.0),
            (Kind.DISTRACTOR, 20.0, 22.5),
            (Kind.INTERRUPTION, 30.8, 33.5),
            (Kind.REPLY, 34.3, 36.5),
            (Kind.RESUMPTION, 37.3, 46.0),
            (Kind.QUERY, 49.0, 52.0),
            (Kind.REPLY, 52.8, 60.0),
            (Kind.INTERRUPTION, 58.7, 61.0),
            (Kind.DISTRACTOR, 64.0, 66.0),
        ],
        70.0,
        Scenario.BACK_ON_TOPIC,
        id_,
    )


def channel(conversation: Conversation, spans: list[tuple[float, float]]) -> Activity:
    """An assistant that speaks at these times (seconds)."""
    return Activity.of([(to_samples(a), to_samples(b)) for a, b in spans], 0, conversation.n_samples, FRAME)


def recorded(conversation: Conversation) -> Activity:
    spans = [(u.start, u.end) for u in conversation.utterances if u.channel is Channel.ASSISTANT]
    return Activity.of(spans, 0, conversation.n_samples, FRAME)


def silent(conversation: Conversation) -> Activity:
    return channel(conversation, [])


def always(conversation: Conversation) -> Activity:
    return Activity.of([(0, conversation.n_samples)], 0, conversation.n_samples, FRAME)


def at_random(conversation: Conversation, rng: np.random.Generator, on: float = 3.0, off: float = 2.0) -> Activity:
    """Speech and silence by turns, each of exponential length."""
    spans, at = [], float(rng.exponential(off))
    while to_samples(at) < conversation.n_samples:
        end = at + 0.3 + float(rng.exponential(on))
        spans.append((at, end))
        at = end + 0.6 + float(rng.exponential(off))
    return channel(conversation, spans)


def judged(conversation: Conversation, heard: Activity) -> list[Judgement]:
    return [judge(e, heard) for e in asked(conversation, GRID)]
