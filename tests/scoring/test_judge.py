"""Judgements of channels whose answers are known by construction."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import Talk, talks

sys.path.insert(0, str(Path(__file__).parent))
from channels import FRAME, GRID, Line, always, at_random, channel, everything, judged, recorded, silent, talk

from duplexdata.conversation import Conversation, answered_query, negative_spans
from duplexdata.dialogue import Channel, Kind
from duplexdata.scoring.activity import BRIDGE, SHORTEST, Activity
from duplexdata.scoring.events import Asked, asked, history_blocks
from duplexdata.scoring.judge import Judgement, judge
from duplexdata.scoring.summary import BY_NAME, Estimate, summarise
from duplexdata.units import to_samples

QUERY: list[Line] = [(Kind.QUERY, 1.0, 4.0), (Kind.REPLY, 4.8, 9.0)]
CUT: list[Line] = [
    (Kind.QUERY, 1.0, 3.0),
    (Kind.REPLY, 3.8, 12.0),
    (Kind.INTERRUPTION, 10.5, 14.0),
    (Kind.REPLY, 14.8, 18.0),
]
STOP: list[Line] = [*CUT[:2], (Kind.INTERRUPTION, 10.5, 12.5)]


def values(found: list[Judgement]) -> dict[str, list[float]]:
    by_name: dict[str, list[float]] = {}
    for j in found:
        for name, (value, _) in j.values.items():
            by_name.setdefault(name, []).append(value)
    return by_name


def only(lines: list[Line], spans: list[tuple[float, float]], kind: Asked, seconds: float = 24.0) -> Judgement:
    c = talk(lines, seconds)
    (found,) = [j for j in judged(c, channel(c, spans)) if j.event.kind is kind]
    return found


def metrics(heard: dict[str, tuple[Conversation, Activity]]) -> dict[str, Estimate]:
    found = [j for c, a in heard.values() for j in judged(c, a)]
    return dict(summarise(found, resamples=50)["all"])


# -- one thing at a time


@pytest.mark.parametrize(
    ("spans", "outcome", "success", "latency"),
    [
        ([(4.8, 9.0)], "answered", 1, 0.8),
        ([(4.0, 9.0)], "answered", 1, 0.0),
        ([(6.9, 9.0)], "answered", 1, 2.9),
        ([(7.1, 9.0)], "late", 0, None),
        ([], "silent", 0, None),
        ([(3.0, 9.0)], "early", 0, None),
        ([(2.0, 2.5), (4.8, 9.0)], "early", 0, None),
        ([(0.0, 9.0)], "talks over", 0, None),
        # Its last turn may run into the query, as long as it ends there.
        ([(0.0, 2.0), (4.8, 9.0)], "answered", 1, 0.8),
        # A blip is no answer, and no start.
        ([(2.0, 2.1), (5.0, 5.1)], "silent", 0, None),
    ],
)
def test_a_query_is_answered_within_three_seconds_or_not(
    spans: list[tuple[float, float]], outcome: str, success: float, latency: float | None
) -> None:
    found = only(QUERY, spans, Asked.QUERY)
    assert (found.outcome, found.values["tt_success"]) == (outcome, (success, 1.0))
    assert found.values["early_start"] == (float(outcome == "early"), 1.0)
    if latency is None:
        assert "latency" not in found.values
    else:
        assert found.values["latency"][0] == pytest.approx(latency)


@pytest.mark.parametrize(
    ("spans", "outcome", "overlap", "answered"),
    [
        ([(3.8, 12.0), (14.8, 18.0)], "stopped", 1.5, 1),
        ([(3.8, 12.5), (14.0, 18.0)], "stopped", 2.0, 1),
        ([(3.8, 12.7), (14.8, 18.0)], "talked on", 2.2, 0),
        ([(3.8, 24.0)], "talked on", 6.0, 0),
        ([(3.8, 12.0), (13.0, 18.0)], "restarted", 1.5, 0),
        ([(3.8, 12.0)], "stopped", 1.5, 0),
        ([(3.8, 12.0), (17.5, 20.0)], "stopped", 1.5, 0),
        # A pause is no stop.
        ([(3.8, 11.0), (11.4, 15.0)], "talked on", 4.5, 0),
    ],
)
def test_a_barge_in_stops_the_assistant_within_two_seconds_or_not(
    spans: list[tuple[float, float]], outcome: str, overlap: float, answered: float
) -> None:
    found = only(CUT, spans, Asked.BARGE_IN)
    assert found.outcome == outcome and found.counted
    assert found.values["isr"] == (float(outcome == "stopped"), 1.0)
    assert found.values["overlap"][0] == pytest.approx(overlap)
    assert found.values["barge_in_answered"] == (answered, 1.0)


@pytest.mark.parametrize("spans", [[], [(3.8, 10.0)], [(3.8, 10.0), (14.8, 18.0)]])
def test_a_barge_in_over_silence_is_not_counted(spans: list[tuple[float, float]]) -> None:
    found = only(CUT, spans, Asked.BARGE_IN)
    assert not found.counted and not found.values


@pytest.mark.parametrize(
    ("spans", "spoke_on"), [([(3.8, 12.0)], 0), ([(3.8, 12.0), (13.0, 15.0)], 1), ([(3.8, 20.0)], 1)]
)
def test_a_request_for_silence_is_followed_by_silence(spans: list[tuple[float, float]], spoke_on: float) -> None:
    assert only(STOP, spans, Asked.TERMINATION).values["spoke_on"] == (spoke_on, 1.0)


@pytest.mark.parametrize("kind", [Kind.DISTRACTOR, Kind.BACKCHANNEL])
@pytest.mark.parametrize(
    ("spans", "stopped"), [([(4.8, 14.0)], 0), ([(4.8, 7.5)], 1), ([(4.8, 8.4)], 0), ([(4.8, 7.0), (9.5, 14.0)], 1)]
)
def test_what_is_not_for_the_assistant_must_not_stop_it(
    kind: Kind, spans: list[tuple[float, float]], stopped: float
) -> None:
    lines: list[Line] = [(Kind.QUERY, 1.0, 4.0), (Kind.REPLY, 4.8, 14.0), (kind, 6.0, 7.0)]
    found = only(lines, spans, Asked(kind.value))
    assert found.values[f"{kind.value}_stop"] == (stopped, 1.0)
    if kind is Kind.DISTRACTOR:
        assert found.values["distractor_resumed"] == (float(spans[-1][1] > 7.0), 1.0)


@pytest.mark.parametrize(("spans", "starts"), [([(4.8, 9.0)], 0), ([(4.8, 9.0), (13.5, 16.0)], 1)])
def test_a_distractor_in_silence_must_not_start_it(spans: list[tuple[float, float]], starts: float) -> None:
    found = only([*QUERY, (Kind.DISTRACTOR, 11.0, 13.0)], spans, Asked.DISTRACTOR)
    assert found.values == {"distractor_start": (starts, 1.0)}


@pytest.mark.parametrize(
    ("spans", "resumed"),
    [
        ([(3.8, 12.0), (14.8, 16.5), (17.3, 20.0)], 1),
        ([(3.8, 12.0), (14.8, 17.5), (18.5, 20.0)], 1),
        ([(3.8, 12.0), (14.8, 16.5)], 0),
        ([(3.8, 12.0), (14.8, 16.5), (20.5, 22.0)], 0),
        ([(3.8, 12.0)], None),
        ([(3.8, 24.0)], None),
    ],
)
def test_an_unfinished_reply_is_taken_up_again(spans: list[tuple[float, float]], resumed: float | None) -> None:
    lines: list[Line] = [*CUT[:3], (Kind.REPLY, 14.8, 16.5), (Kind.RESUMPTION, 17.3, 20.0)]
    found = only(lines, spans, Asked.RESUMPTION)
    assert found.values == ({} if resumed is None else {"resumed": (resumed, 1.0)})


# -- channels that do the same whatever happens


def test_the_recorded_assistant_is_right_in_everything() -> None:
    c = everything()
    found = judged(c, recorded(c))
    assert {j.event.kind for j in found} == set(Asked) - {Asked.PAUSE, Asked.CONVERSATION}
    assert all(j.counted and j.badness < 1 for j in found)
    for name, given_ in values(found).items():
        if BY_NAME[name].unit == "%":
            assert set(given_) == {1.0 if BY_NAME[name].better == "high" else 0.0}, name


def test_a_silent_assistant_succeeds_in_nothing() -> None:
    c = everything()
    found = metrics({"a": (c, silent(c))})
    assert found["tt_success"].value == 0
    assert not {"isr", "overlap", "barge_in_answered", "resumed", "distractor_resumed", "latency"} & found.keys()
    assert not any(j.counted for j in judged(c, silent(c)) if j.event.speaking)


def test_an_assistant_that_falls_silent_at_every_onset_is_found_out() -> None:
    """What a silent model does on recorded history: it stops at once, asked or not."""
    c = everything()
    stops = []
    for e in asked(c, GRID):
        given_until = (history_blocks(e, GRID) + 1) * GRID.block_samples
        before = [(s.start, min(s.end, given_until)) for s in recorded(c).stretches if s.start < given_until]
        stops.append(judge(e, Activity.of(before, 0, c.n_samples, FRAME)))
    found = summarise(stops, resamples=50)["all"]
    assert found["isr"].value == 1, "it does stop"
    assert found["tt_success"].value == 0
    assert found["barge_in_answered"].value == 0
    assert found["resumed"].value == 0
    for name in ("distractor_stop", "backchannel_stop", "unprompted_stop"):
        assert found[name].value == 1, name


def test_an_assistant_that_always_speaks_succeeds_in_nothing() -> None:
    c = everything()
    found = metrics({"a": (c, always(c))})
    for name in ("tt_success", "isr", "barge_in_answered"):
        assert found[name].value == 0, name
    assert found["spoke_on"].value == 1
    assert found["overlap"].value == pytest.approx(6.0)


def test_an_assistant_that_speaks_at_random_does_badly() -> None:
    rng = np.random.default_rng(0)
    conversations = [everything(f"talk-{i}") for i in range(100)]
    random = metrics({c.id: (c, at_random(c, rng)) for c in conversations})
    right = metrics({c.id: (c, recorded(c)) for c in conversations})
    assert random["tt_success"].value < 0.25
    assert random["early_start"].value > 0.3
    assert random["isr"].value < 0.4
    assert random["barge_in_answered"].value < 0.2
    assert random["unprompted_stop"].value > 0.3
    assert random["unprompted_start"].value > 0.5
    for name in ("tt_success", "isr", "barge_in_answered"):
        assert right[name].value == 1


# -- any conversation


def scheduled(t: Talk) -> Conversation:
    return t.scheduled().conversation


@given(talks())
def test_the_record_of_any_conversation_is_right_in_everything(t: Talk) -> None:
    c = scheduled(t)
    for j in judged(c, recorded(c)):
        assert j.counted and j.badness < 1, (j.event, j.outcome)


@given(talks())
def test_history_that_is_given_shows_no_reaction(t: Talk) -> None:
    c = scheduled(t)
    for e in asked(c, GRID):
        k = history_blocks(e, GRID)
        assert k * GRID.block_samples <= e.start
        assert k == 0 or (k + 1) * GRID.block_samples <= e.reaction
        if e.kind in (Asked.BARGE_IN, Asked.TERMINATION, Asked.DISTRACTOR, Asked.BACKCHANNEL, Asked.HOLD):
            # and not a block less than there may be: whether it speaks at the onset is the record's doing
            assert (k + 1) * GRID.block_samples > min(e.start, e.reaction - GRID.block_samples)


@given(talks(), st.integers(-20, 20))
def test_nothing_depends_on_when_it_happens(t: Talk, blocks: int) -> None:
    c, rng = scheduled(t), np.random.default_rng(abs(blocks))
    heard = at_random(c, rng)
    by = blocks * 777
    for e in asked(c, GRID):
        names = ("start", "end", "limit", "until", "reaction", "since")
        later = replace(e, **{name: getattr(e, name) + by for name in names})
        a, b = judge(e, heard), judge(later, heard.shifted(by))
        assert (a.outcome, a.counted, dict(a.values)) == (b.outcome, b.counted, dict(b.values))


@given(st.lists(st.floats(0, 12), min_size=2, max_size=2))
def test_a_later_answer_is_never_a_better_one(delays: list[float]) -> None:
    first, second = sorted(delays)
    a, b = (only(QUERY, [(4.0 + d, 23.0)], Asked.QUERY) for d in (first, second))
    assert a.values["tt_success"] >= b.values["tt_success"]
    assert a.badness <= b.badness
    if "latency" in b.values:
        assert a.values["latency"] <= b.values["latency"]


@given(st.lists(st.floats(0, 12), min_size=2, max_size=2))
def test_a_later_stop_is_never_a_better_one(delays: list[float]) -> None:
    first, second = sorted(delays)
    a, b = (only(STOP, [(3.8, 10.6 + d)], Asked.TERMINATION) for d in (first, second))
    assert a.values["isr"] >= b.values["isr"]
    assert a.values["overlap"] <= b.values["overlap"]
    assert a.values["spoke_on"] <= b.values["spoke_on"]


@given(talks())
def test_what_the_pairs_reject_is_worse_where_it_was_perturbed(t: Talk) -> None:
    timeline = t.scheduled()
    c, negative = timeline.conversation, timeline.negative
    spans = negative_spans(c.utterances, negative)
    said = [s for s, u in zip(spans, c.utterances, strict=True) if u.channel is Channel.ASSISTANT]
    heard = Activity.of(sorted(said), 0, c.n_samples, FRAME)
    late = values(judged(c, heard))
    right = values(judged(c, recorded(c)))
    if negative.kind == "interruption":
        assert sum(late["isr"]) == sum(right["isr"]) - 1
        assert max(late["overlap"]) >= 3.0 - 1e-9
    else:
        before = {e.utterance: judge(e, recorded(c)) for e in asked(c, GRID) if e.kind is Asked.QUERY}
        behind = {e.utterance: judge(e, heard) for e in asked(c, GRID) if e.kind is Asked.QUERY}
        query = answered_query(c.utterances, negative.utterance)
        if query in before:
            assert before[query].outcome == "answered"
            late_by = behind[query].values.get("latency")
            assert behind[query].outcome == "late" or (late_by and late_by[0] >= 2.0)


# -- activity


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 60)), max_size=12), st.integers(0, 30))
def test_stretches_are_apart_long_and_where_there_was_speech(gaps: list[tuple[int, int]], first: int) -> None:
    spans, at = [], 0
    for gap, length in gaps:
        at += gap * 200
        spans.append((at, at + length * 200))
        at += length * 200
    heard = Activity.of(spans, first * 100, 100_000, FRAME)
    for s in heard.stretches:
        assert s.end - s.start >= SHORTEST and first * 100 <= s.start < s.end <= 100_000
        assert any(a <= s.start < b for a, b in spans) and any(a < s.end <= b for a, b in spans)
    for a, b in zip(heard.stretches, heard.stretches[1:], strict=False):
        assert b.start - a.end >= BRIDGE
    for time in range(0, 100_000, 997):
        inside = next((s for s in heard.stretches if s.start <= time < s.end), None)
        assert heard.at(time) == inside
    assert heard.speech_in(0, 100_000) == sum(s.end - s.start for s in heard.stretches)
    assert to_samples(1.0) == 16_000
