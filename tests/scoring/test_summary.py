"""Numbers and their intervals."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from channels import GRID, everything

from duplexdata.scoring.events import asked
from duplexdata.scoring.judge import Judgement
from duplexdata.scoring.summary import difference, not_counted, quantiles, summarise

EVENT = asked(everything(), GRID)[0]


def judgement(conversation: str, value: float | None, metric: str = "isr", scenario: str = "x") -> Judgement:
    from dataclasses import replace

    event = replace(EVENT, conversation=conversation, scenario=scenario)
    return Judgement(event, "a", value is not None, {} if value is None else {metric: (value, 1.0)})


def drawn(rng: np.random.Generator, share: float, conversations: int = 60) -> list[Judgement]:
    return [judgement(f"c{i}", float(rng.random() < share)) for i in range(conversations) for _ in range(3)]


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([0.0, 1.0])), min_size=1, max_size=30))
def test_a_share_is_the_mean_and_lies_in_its_interval(given_: list[tuple[int, float]]) -> None:
    found = summarise([judgement(f"c{i}", v) for i, v in given_], resamples=200)["all"]["isr"]
    assert found.value == pytest.approx(np.mean([v for _, v in given_]))
    assert (found.n, found.conversations) == (len(given_), len({i for i, _ in given_}))
    assert 0 <= found.low <= found.high <= 1
    if found.value in (0.0, 1.0):
        assert found.high - found.low == pytest.approx(1 - 0.025 ** (1 / found.conversations))


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        # Conversations differ: the three values of one are not independent.
        shares = np.clip(rng.normal(0.7, 0.2, 60), 0, 1)
        found = summarise([judgement(f"c{i}", float(rng.random() < p)) for i, p in enumerate(shares) for _ in range(3)])
        hits += found["all"]["isr"].low <= 0.7 <= found["all"]["isr"].high
    assert 0.88 <= hits / 200 <= 0.99


def test_the_order_does_not_matter_and_the_seed_does() -> None:
    rng = np.random.default_rng(1)
    values = drawn(rng, 0.6)
    shuffled = [values[i] for i in rng.permutation(len(values))]
    assert summarise(values) == summarise(shuffled)
    assert summarise(values, seed=1) != summarise(values, seed=2)


def test_scenarios_stand_beside_all() -> None:
    values = [judgement("a", 1.0, scenario="p"), judgement("b", 0.0, scenario="q"), judgement("c", None, scenario="q")]
    found = summarise(values, resamples=20)
    assert {name: s["isr"].value for name, s in found.items()} == {"all": 0.5, "p": 1.0, "q": 0.0}
    (counts,) = not_counted(values).values()
    assert counts == {"asked": 3, "counted": 2, "a": 1}


def test_a_difference_is_told_from_none() -> None:
    rng = np.random.default_rng(2)
    worse, better = drawn(rng, 0.5), drawn(rng, 0.8)
    found = difference(worse, better)["isr"]
    assert found.low > 0 and found.low <= found.value <= found.high
    same = difference(worse, worse)["isr"]
    assert (same.value, same.low, same.high) == (0, 0, 0)
    back = difference(better, worse)["isr"]
    assert back.value == pytest.approx(-found.value)


def test_what_is_hard_for_both_does_not_blur_a_difference() -> None:
    rng = np.random.default_rng(3)
    hard = rng.random(80) < 0.5
    first = [judgement(f"c{i}", float(h), "overlap") for i, h in enumerate(hard)]
    second = [judgement(f"c{i}", float(h) + 0.1, "overlap") for i, h in enumerate(hard)]
    found = difference(first, second)["overlap"]
    assert found.low == pytest.approx(0.1) and found.high == pytest.approx(0.1)


def test_runs_of_a_conversation_are_drawn_together() -> None:
    rng = np.random.default_rng(4)
    once = drawn(rng, 0.6)
    thrice = summarise([*once, *once, *once])["all"]["isr"]
    alone = summarise(once)["all"]["isr"]
    assert (thrice.low, thrice.high) == pytest.approx((alone.low, alone.high))
    assert thrice.n == 3 * alone.n and thrice.conversations == alone.conversations


def test_quantiles_of_nothing_are_none() -> None:
    assert quantiles([]) == {}
    assert quantiles([3.0, 1.0, 2.0])["median"] == 2.0
