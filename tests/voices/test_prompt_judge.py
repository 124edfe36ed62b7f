"""Prompts are judged by breaking good ones in exactly one way each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soxr
from voice_prompts import Float32, Prompt, read_prompts

from duplexdata.config import PromptLimits
from duplexdata.errors import ConfigError
from duplexdata.voices.bank import Fault
from duplexdata.voices.judge import Measured, judge, measure, spoken_length
from duplexdata.words import nominal_seconds

LIMITS = PromptLimits()


def faults(prompt: Prompt, limits: PromptLimits = LIMITS) -> set[str]:
    measured = measure(prompt.samples, prompt.rate, prompt.transcript, prompt.language)
    return {measured.reason} if isinstance(measured, Fault) else {f.reason for f in judge(measured, limits)}


def measured(prompt: Prompt) -> Measured:
    found = measure(prompt.samples, prompt.rate, prompt.transcript, prompt.language)
    assert isinstance(found, Measured)
    return found


@pytest.fixture(scope="session")
def real(real_folder: Path) -> list[Prompt]:
    return [p for p in read_prompts(real_folder) if len(p.samples) >= 3 * p.rate]


@pytest.fixture(params=["real", "made_prompts"])
def prompts(request: pytest.FixtureRequest) -> list[Prompt]:
    found: list[Prompt] = request.getfixturevalue(request.param)
    return found


def test_good_prompts_have_no_fault(prompts: list[Prompt]) -> None:
    assert len(prompts) >= 4
    assert [faults(p) for p in prompts] == [set()] * len(prompts)


def speech_of(p: Prompt) -> tuple[int, int]:
    """First and last sample of its speech, about."""
    m = measured(p)
    return round(m.lead_sec * p.rate), len(p.samples) - round(m.tail_sec * p.rate)


def noise(n: int, level: float) -> Float32:
    found: Float32 = np.random.default_rng(7).standard_normal(n).astype(np.float32) * np.float32(level)
    return found


def shorter(p: Prompt) -> Prompt:
    """Its first 2.9 s, and as much of the transcript."""
    first = int(2.9 * p.rate)
    kept = int(len(p.transcript) * first / len(p.samples))
    return replace(p, samples=p.samples[:first], transcript=p.transcript[:kept])


def longer(p: Prompt) -> Prompt:
    n = -(-11 * p.rate // len(p.samples))
    return replace(p, samples=np.tile(p.samples, n), transcript=" ".join([p.transcript] * n))


def clipped(p: Prompt) -> Prompt:
    return replace(p, samples=np.clip(p.samples * (2 / np.abs(p.samples).max()), -1, 1))


def clipped_and_turned_down(p: Prompt) -> Prompt:
    return replace(p, samples=clipped(p).samples * np.float32(0.3))


def silence_before(p: Prompt) -> Prompt:
    return replace(p, samples=np.concatenate([noise(int(0.6 * p.rate), 3e-4), p.samples]))


def silence_behind(p: Prompt) -> Prompt:
    return replace(p, samples=np.concatenate([p.samples, noise(int(0.6 * p.rate), 3e-4)]))


def without_start(p: Prompt) -> Prompt:
    return replace(p, samples=p.samples[speech_of(p)[0] + p.rate // 20 :])


def without_end(p: Prompt) -> Prompt:
    """Cut in the loudest of its last words."""
    last = speech_of(p)[1]
    start = last - p.rate // 2
    return replace(p, samples=p.samples[: start + int(np.abs(p.samples[start:last]).argmax())])


def telephone(p: Prompt) -> Prompt:
    narrow = soxr.resample(p.samples, p.rate, 8_000, quality="HQ")
    return replace(p, samples=soxr.resample(narrow, 8_000, p.rate, quality="HQ").astype(np.float32))


def low_rate(p: Prompt) -> Prompt:
    return replace(p, samples=soxr.resample(p.samples, p.rate, 11_025, quality="HQ").astype(np.float32), rate=11_025)


def in_noise(p: Prompt) -> Prompt:
    return replace(p, samples=p.samples + noise(len(p.samples), 10 ** ((measured(p).level_dbfs - 12) / 20)))


def at_level(level: float) -> Callable[[Prompt], Prompt]:
    def change(p: Prompt) -> Prompt:
        return replace(p, samples=p.samples * np.float32(10 ** ((level - measured(p).level_dbfs) / 20)))

    return change


def with_text(share: float) -> Callable[[Prompt], Prompt]:
    """The transcript repeated or cut to a share of what is said."""

    def change(p: Prompt) -> Prompt:
        text = p.transcript * max(1, round(share))
        return replace(p, transcript=text[: max(1, int(len(p.transcript) * share))])

    return change


def with_a_nan(p: Prompt) -> Prompt:
    samples = p.samples.copy()
    samples[1000] = np.nan
    return replace(p, samples=samples)


BREAKS: list[tuple[Callable[[Prompt], Prompt], str]] = [
    (shorter, "too_short"),
    (longer, "too_long"),
    (clipped, "clipped"),
    (clipped_and_turned_down, "clipped"),
    (silence_before, "silence_at_start"),
    (silence_behind, "silence_at_end"),
    (without_start, "cut_at_start"),
    (without_end, "cut_at_end"),
    (telephone, "bandwidth"),
    (low_rate, "sample_rate"),
    (in_noise, "noisy"),
    (at_level(-42), "too_quiet"),
    (at_level(-9), "too_loud"),
    (with_text(0.25), "too_slow"),
    (with_text(3), "too_fast"),
    (lambda p: replace(p, transcript="…"), "no_transcript"),
    (lambda p: replace(p, samples=np.zeros_like(p.samples)), "silent"),
    (lambda p: replace(p, samples=p.samples[:0]), "silent"),
    (with_a_nan, "not_finite"),
]
ALSO = {
    # A break may bring another with it: noise reaches the edges, a cut makes a prompt short, its text long.
    "too_short": {"cut_at_end"},
    "noisy": {"cut_at_start", "cut_at_end"},
    "cut_at_start": {"too_short"},
    "cut_at_end": {"too_short", "too_fast"},
    "clipped": {"too_loud"},
    "too_loud": {"clipped"},
}


@pytest.mark.parametrize(("change", "reason"), BREAKS, ids=[f"{i}-{r}" for i, (_, r) in enumerate(BREAKS)])
def test_each_break_is_found_and_nothing_else(
    prompts: list[Prompt], change: Callable[[Prompt], Prompt], reason: str
) -> None:
    for prompt in prompts:
        found = faults(change(prompt))
        assert reason in found, (prompt.id, found)
        assert found <= {reason} | ALSO.get(reason, set()), (prompt.id, found)


def test_the_noise_that_was_added_is_the_noise_that_is_measured(prompts: list[Prompt]) -> None:
    for prompt in prompts:
        level = measured(prompt).level_dbfs
        for snr in (30.0, 20.0, 12.0):
            noisy = replace(prompt, samples=prompt.samples + noise(len(prompt.samples), 10 ** ((level - snr) / 20)))
            assert measured(noisy).snr_db == pytest.approx(snr, abs=3.5)


def test_level_and_silence_are_those_that_were_made(prompts: list[Prompt]) -> None:
    for prompt in prompts:
        before = measured(prompt)
        for level in (-35.0, -20.0):
            assert measured(at_level(level)(prompt)).level_dbfs == pytest.approx(level, abs=0.05)
        longer_edges = replace(prompt, samples=np.pad(prompt.samples, (prompt.rate // 5, prompt.rate // 10)))
        after = measured(longer_edges)
        assert after.lead_sec == pytest.approx(before.lead_sec + 0.2, abs=0.021)
        assert after.tail_sec == pytest.approx(before.tail_sec + 0.1, abs=0.021)


def test_numbers_do_not_depend_on_the_rate(prompts: list[Prompt]) -> None:
    for prompt in prompts:
        before = measured(prompt)
        other = soxr.resample(prompt.samples, prompt.rate, 48_000, quality="HQ").astype(np.float32)
        after = measured(replace(prompt, samples=other, rate=48_000))
        assert after.level_dbfs == pytest.approx(before.level_dbfs, abs=0.2)
        assert after.ms_per_character == pytest.approx(before.ms_per_character, rel=0.03)
        assert after.bandwidth_hz == pytest.approx(before.bandwidth_hz, rel=0.1)


@pytest.mark.parametrize(
    ("name", "within", "outside"),
    [
        ("seconds", (1.0, 30.0), (20.0, 30.0)),
        ("level_dbfs", (-60.0, 0.0), (-5.0, 0.0)),
        ("edge_silence_sec", (0.0, 2.0), (1.0, 2.0)),
        ("ms_per_character", (1.0, 1000.0), (500.0, 1000.0)),
        ("least_sample_rate", 8_000, 96_000),
        ("least_bandwidth_hz", 1000.0, 40_000.0),
        ("least_snr_db", 0.0, 101.0),
    ],
)
def test_every_limit_decides(made_prompts: list[Prompt], name: str, within: object, outside: object) -> None:
    prompt = made_prompts[0]
    assert not faults(prompt, replace(LIMITS, **{name: within}))  # type: ignore[arg-type]
    assert len(faults(prompt, replace(LIMITS, **{name: outside}))) >= 1  # type: ignore[arg-type]


def test_bounds_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"voices\.limits\.seconds"):
        PromptLimits(seconds=(10.0, 3.0))


@pytest.mark.parametrize(
    ("text", "language", "letters"),
    [("Hello, there!", "en", 11), ("  a -- b  ", "en", 3), ("", "en", 0), ("…!", "en", 0), ("I am 7", "en", 9)],
)
def test_the_length_of_a_transcript_counts_letters_and_the_spaces_between_words(
    text: str, language: str, letters: float
) -> None:
    assert spoken_length(text, language) == letters


def test_an_ideograph_is_as_long_as_the_letters_said_in_its_time() -> None:
    text = "希望你以后能够做的比我还好呦"
    assert spoken_length(text, "zh") / spoken_length("a" * 14, "en") == pytest.approx(
        nominal_seconds(text, "zh") / nominal_seconds("a" * 14, "en")
    )
