"""What the text channel says, as events."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from strategies import STATE, Talk, assistant_tokens, talks

from duplexdata.decoding import Event, events_of
from duplexdata.dialogue import Channel
from duplexdata.layouts.interleaved import text_channel
from duplexdata.units import SAMPLE_RATE, Grid

GRID = Grid()
S, A, P, E = STATE.silence, STATE.assistant, STATE.pad, STATE.epad


def text(ids: object) -> str:
    return " ".join(map(str, ids))  # type: ignore[call-overload]


def test_a_reply_over_two_blocks() -> None:
    z = np.array([S, S, S, A, 2001, 2002, 2003, P, P, E, S, S, S, S, S], np.int32)
    assert events_of(z, GRID, STATE, text) == (
        Event("start", 0, 3, 3 * 0.16 + 0.8),
        Event("text", 0, 4, 4 * 0.16 + 0.8, "2001"),
        Event("text", 1, 5, 5 * 0.16 + 0.8, "2002 2003"),
        Event("end", 1, 9, 9 * 0.16 + 0.8),
    )


def test_an_unfinished_reply_has_no_end() -> None:
    assert [e.kind for e in events_of(np.array([A, 2001, P, P, P], np.int32), GRID, STATE, text)] == ["start", "text"]


@given(st.lists(st.sampled_from([S, A, P, E, 2001, 2002]), max_size=8), st.integers(0, 5))
def test_blocks_one_by_one_say_what_the_whole_says(slots: list[int], first: int) -> None:
    z = np.array((slots * 5)[: len(slots) * 5], np.int32)
    blocks = [z[i : i + 5] for i in range(0, len(z), 5)]
    one_by_one = [e for i, b in enumerate(blocks) for e in events_of(b, GRID, STATE, text, first_block=first + i)]
    assert tuple(one_by_one) == events_of(z, GRID, STATE, text, first_block=first)
    for e in one_by_one:
        assert e.block == e.slot // GRID.n_text
    words = [t for t in z.tolist() if t > 2000]
    assert " ".join(e.text for e in one_by_one if e.kind == "text").split() == [str(t) for t in words]


@given(talks())
def test_a_layouts_text_channel_gives_each_replys_times_back(t: Talk) -> None:
    c = t.scheduled().conversation
    spans = [(u.start, u.end) for u in c.utterances]
    tokens = [None if x is None else x[:2] for x in assistant_tokens(c)]
    z, _ = text_channel(c.utterances, spans, tokens, c.n_samples // GRID.block_samples - 1, GRID, STATE, causal=False)
    events = events_of(z, GRID, STATE, text)
    replies = [u for u in c.utterances if u.channel is Channel.ASSISTANT]
    for kind, times in (("start", [u.start for u in replies]), ("end", [u.end for u in replies])):
        found = [e.seconds for e in events if e.kind == kind]
        assert len(found) == len(times)
        assert all(abs(a - b / SAMPLE_RATE) <= 0.32 for a, b in zip(found, times, strict=True))
