from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duplexdata.units import SAMPLE_RATE, Grid, to_samples, to_seconds


@given(st.integers(0, 10**9))
def test_samples_survive_the_way_through_seconds(n: int) -> None:
    assert to_samples(to_seconds(n)) == n


@given(st.floats(0, 1e5), st.sampled_from([8000, 12_500, 16_000, 22_050, 48_000]))
def test_a_time_becomes_the_nearest_sample(seconds: float, rate: int) -> None:
    assert abs(Fraction(seconds) * rate - to_samples(seconds, rate)) <= Fraction(1, 2) + Fraction(1, 10**6)


@given(st.floats(0, 1e5), st.floats(0, 1e5))
def test_a_later_time_is_no_earlier_sample(a: float, b: float) -> None:
    assert to_samples(min(a, b)) <= to_samples(max(a, b))


def test_a_half_goes_up() -> None:
    assert [to_samples(x, 2) for x in (0.24, 0.25, 0.5, 0.75)] == [0, 1, 1, 2]


def test_the_default_grid_is_that_of_the_paper() -> None:
    grid = Grid()
    assert grid.frame_rate == Fraction(25, 2)
    assert Fraction(grid.block_samples, SAMPLE_RATE) == Fraction(4, 5)
    assert grid.block_tokens == 25
    assert grid.slot_samples / SAMPLE_RATE == Fraction(4, 25)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 4000))
def test_a_block_is_made_of_whole_slots_and_frames(n: int, m: int, frame: int) -> None:
    grid = Grid(n, m, frame)
    assert grid.slot_samples * m == grid.block_samples == n * frame
    assert grid.frame_rate * frame == SAMPLE_RATE


@pytest.mark.parametrize("wrong", [(0, 5, 1280), (10, 0, 1280), (10, 5, 0), (-1, 5, 1280)])
def test_a_grid_with_nothing_in_it_is_refused(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Grid(*wrong)
