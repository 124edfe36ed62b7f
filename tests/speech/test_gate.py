"""The gate around a synthesizer that misbehaves as it is told: nothing is lost, and every take is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st

from duplexdata.config import QualityConfig
from duplexdata.errors import ConfigError, SynthesisError, UtteranceRejected
from duplexdata.speech.base import Float32, Speech, SpeechRequest, Voice, VoicePrompt
from duplexdata.speech.gate import Gated, Tally, seed_of_attempt

RATE = 24_000
LIMITS = QualityConfig()
VOICE = Voice("ada", "train")


@lru_cache(maxsize=512)
def speech_like(text: str, seed: int = 0) -> Float32:
    """Noise of another colour for every letter, 80 ms each, and silence for spaces; no two takes are alike."""
    rng = np.random.default_rng([seed, *text.encode()])
    n, parts = int(0.08 * RATE), []
    for letter in text:
        colour = np.convolve(rng.standard_normal(n + 11), rng.standard_normal(12), "valid")
        parts.append(0.1 * colour / colour.std() * np.hanning(n) if letter != " " else np.zeros(n))
    return np.concatenate(parts).clip(-0.97, 0.97).astype(np.float32)


BAD: dict[str, Callable[[Float32], Float32]] = {
    "not_finite": lambda x: x * np.float32(np.nan),
    "too_quiet": lambda x: x * np.float32(0.05),
    "leading_silence": lambda x: np.concatenate([np.zeros(2 * RATE, np.float32), x]),
    "empty": lambda x: x[:0],
}


class Scripted:
    """Gives what a plan says for each text and seed; reads requests ahead as servers with many in flight do."""

    name = "scripted/1"
    sample_rate = RATE

    def __init__(self, plan: Callable[[SpeechRequest, int], str], ahead: int = 4, takes_seed: bool = True) -> None:
        self._plan, self._ahead, self.takes_seed = plan, ahead, takes_seed
        self.asked: list[SpeechRequest] = []
        self._times: dict[str, int] = {}
        self.most_waiting = 0

    def describe(self) -> dict[str, str]:
        return {"name": self.name}

    def close(self) -> None:
        pass

    def synthesize_many(self, requests: Iterable[SpeechRequest]) -> Iterator[Speech | SynthesisError]:
        waiting: list[SpeechRequest] = []
        for request in requests:
            self.asked.append(request)
            waiting.append(request)
            self.most_waiting = max(self.most_waiting, len(waiting))
            if len(waiting) > self._ahead:
                yield self._answer(waiting.pop(0))
        while waiting:
            yield self._answer(waiting.pop(0))

    def _answer(self, request: SpeechRequest) -> Speech | SynthesisError:
        n = self._times[request.text] = self._times.get(request.text, 0) + 1
        what = self._plan(request, n)
        if what.startswith("error"):
            return SynthesisError("the server said 500", retryable=what == "error, retryable")
        samples = speech_like(request.text, request.seed)
        if what == "wrong_rate":
            return Speech(samples, 16_000, None)
        return Speech(BAD[what](samples) if what else samples, RATE, None)


def _texts(n: int) -> list[str]:
    return [f"utterance number {i} says so" for i in range(n)]


def _requests(n: int) -> list[SpeechRequest]:
    return [SpeechRequest(text, VOICE, "en", seed=100 + i) for i, text in enumerate(_texts(n))]


def _gated(inner: Scripted, limits: QualityConfig = LIMITS, **kwargs: object) -> tuple[Gated, Tally]:
    tally = Tally()
    return Gated(inner, limits, tally, **kwargs), tally  # type: ignore[arg-type]


def _adds_up(tally: Tally, accepted: int) -> None:
    faults = sum(c.total() for c in tally.faults.values())
    assert tally.takes.total() == accepted + faults
    assert tally.attempts.total() == accepted


def test_good_speech_passes_unchanged_in_one_take() -> None:
    inner = Scripted(lambda r, n: "")
    gated, tally = _gated(inner)
    for request, speech in zip(_requests(20), gated.synthesize_many(_requests(20)), strict=True):
        assert isinstance(speech, Speech)
        assert np.array_equal(speech.samples, speech_like(request.text, request.seed))
    assert inner.asked == _requests(20)
    assert tally.as_dict() == {"takes": {"ada": 20}, "faults": {}, "attempts": {"1": 20}, "recast": {}}


@pytest.mark.parametrize("reason", [*BAD, "wrong_rate"])
@pytest.mark.parametrize("ahead", [0, 3, 50])
def test_bad_takes_are_repeated_with_other_seeds_in_order(reason: str, ahead: int) -> None:
    """Every third utterance is bad twice."""
    inner = Scripted(lambda r, n: reason if int(r.text.split()[2]) % 3 == 0 and n <= 2 else "", ahead)
    gated, tally = _gated(inner)
    results = list(gated.synthesize_many(iter(_requests(20))))
    for i, (request, speech) in enumerate(zip(_requests(20), results, strict=True)):
        assert isinstance(speech, Speech)
        seed = seed_of_attempt(request.seed, 2 if i % 3 == 0 else 0)
        assert np.array_equal(speech.samples, speech_like(request.text, seed))
    assert tally.faults == {"ada": {reason: 14}}
    assert tally.attempts == {1: 13, 3: 7}
    _adds_up(tally, 20)


@pytest.mark.parametrize("attempts", [1, 2, 4])
def test_an_utterance_without_a_good_take_is_rejected_with_its_reason(attempts: int) -> None:
    inner = Scripted(lambda r, n: "too_quiet" if "number 3 " in r.text else "")
    gated, tally = _gated(inner, QualityConfig(attempts=attempts))
    results = list(gated.synthesize_many(_requests(6)))
    assert [isinstance(r, Speech) for r in results] == [i != 3 for i in range(6)]
    rejected = results[3]
    assert isinstance(rejected, UtteranceRejected)
    assert rejected.reason == "too_quiet" and f"no take of {attempts}" in str(rejected)
    seeds = [r.seed for r in inner.asked if "number 3 " in r.text]
    assert len(set(seeds)) == len(seeds) == attempts
    assert seeds == [seed_of_attempt(103, n) for n in range(attempts)]
    _adds_up(tally, 5)


def test_an_engine_that_takes_no_seed_is_asked_once() -> None:
    inner = Scripted(lambda r, n: "too_quiet", takes_seed=False)
    gated, tally = _gated(inner)
    assert all(isinstance(r, UtteranceRejected) for r in gated.synthesize_many(_requests(5)))
    assert len(inner.asked) == 5 and tally.faults == {"ada": {"too_quiet": 5}}


def test_errors_are_repeated_where_that_may_help() -> None:
    inner = Scripted(lambda r, n: ("error, retryable" if "number 1 " in r.text else "error") if n < 3 else "")
    gated, tally = _gated(inner)
    results = list(gated.synthesize_many(_requests(3)))
    assert [type(r) for r in results] == [SynthesisError, Speech, SynthesisError]
    assert tally.faults == {"ada": {"synthesis_failed": 4}}
    _adds_up(tally, 1)


WHAT = ["", "", "empty", "error, retryable", "error"]


@settings(max_examples=50)
@given(
    st.lists(st.lists(st.sampled_from(WHAT), min_size=4, max_size=4), max_size=6),
    st.integers(0, 6),
    st.booleans(),
)
def test_every_request_has_one_result_in_its_place(plans: list[list[str]], ahead: int, hears: bool) -> None:
    texts = _texts(len(plans))
    by_text = dict(zip(texts, plans, strict=True))
    inner = Scripted(lambda r, n: by_text[r.text][n - 1], ahead)
    gated, tally = _gated(inner, transcriber=Parrot(inner) if hears else None)
    results = list(gated.synthesize_many(iter(_requests(len(plans)))))
    assert len(results) == len(plans)
    for plan, request, result in zip(plans, _requests(len(plans)), results, strict=True):
        until = next((n for n, what in enumerate(plan) if what in ("", "error")), None)
        if until is None:
            assert isinstance(result, SynthesisError)
        elif plan[until] == "error":
            assert type(result) is SynthesisError
        else:
            assert isinstance(result, Speech)
            assert np.array_equal(result.samples, speech_like(request.text, seed_of_attempt(request.seed, until)))
    _adds_up(tally, sum(isinstance(r, Speech) for r in results))


def test_memory_is_bounded_by_how_far_the_engine_reads_ahead() -> None:
    """One utterance that is never good holds back no more than its own retakes do."""
    inner = Scripted(lambda r, n: "too_quiet" if "number 5 " in r.text else "", ahead=3)
    gated, _ = _gated(inner)
    given = 0

    def requests() -> Iterator[SpeechRequest]:
        nonlocal given
        for request in _requests(80):
            given += 1
            yield request

    most = 0
    for got, _ in enumerate(gated.synthesize_many(requests()), start=1):
        most = max(most, given - got)
    assert most < 4 * (3 + 2)


def test_seeds_of_attempts_differ_and_are_fixed() -> None:
    seeds = {seed_of_attempt(seed, n) for seed in range(50) for n in range(4)}
    assert len(seeds) == 200 and all(0 <= s < 2**31 for s in seeds)
    assert seed_of_attempt(7, 0) == 7 and seed_of_attempt(7, 1) == 354363344


# -- prompts


def test_a_leaked_prompt_is_repeated(tmp_path: Path) -> None:
    said = "quite another sentence that was read aloud before"
    sf.write(tmp_path / "prompt.wav", prompt := speech_like(said), RATE)
    voice = Voice("clone", "train", (), VoicePrompt(str(tmp_path / "prompt.wav"), said, "0" * 64))

    class Leaking(Scripted):
        def _answer(self, request: SpeechRequest) -> Speech | SynthesisError:
            speech = super()._answer(request)
            assert isinstance(speech, Speech)
            leak = prompt[-RATE:] if request.seed == 100 else prompt[:0]
            return Speech(np.concatenate([leak, speech.samples]), RATE, None)

    gated, tally = _gated(Leaking(lambda r, n: ""))
    requests = [SpeechRequest(r.text, voice, "en", r.seed) for r in _requests(3)]
    assert all(isinstance(r, Speech) for r in gated.synthesize_many(requests))
    assert tally.faults == {"clone": {"leaks_prompt": 1}}


def test_a_prompt_that_cannot_be_read_is_an_error_that_names_the_voice(tmp_path: Path) -> None:
    voice = Voice("clone", "train", (), VoicePrompt(str(tmp_path / "no.wav"), "words", "0" * 64))
    gated, _ = _gated(Scripted(lambda r, n: ""))
    with pytest.raises(ConfigError, match="clone"):
        list(gated.synthesize_many([SpeechRequest("utterance number one", voice)]))


# -- what was heard


class Parrot:
    """Hears the right words, but for what `mishear` says of the text's number and the hearing's."""

    def __init__(self, inner: Scripted, mishear: Callable[[str, int], str] = lambda text, n: text) -> None:
        self._inner, self._mishear = inner, mishear
        self._times: dict[str, int] = {}
        self.batches: list[int] = []

    def transcribe(self, clips: Sequence[tuple[Float32, int, str]]) -> list[str]:
        self.batches.append(len(clips))
        heard = []
        for samples, rate, language in clips:
            assert rate == RATE and language == "en"
            request = next(r for r in self._inner.asked if np.array_equal(samples, speech_like(r.text, r.seed)))
            n = self._times[request.text] = self._times.get(request.text, 0) + 1
            heard.append(self._mishear(request.text, n))
        return heard


def test_what_was_misheard_is_repeated_and_then_rejected() -> None:
    inner = Scripted(lambda r, n: "")

    def mishear(text: str, n: int) -> str:
        number = int(text.split()[2])
        return "something else entirely" if number == 2 or (number == 5 and n == 1) else text

    parrot = Parrot(inner, mishear)
    gated, tally = _gated(inner, transcriber=parrot)
    results = list(gated.synthesize_many(_requests(20)))
    assert [isinstance(r, Speech) for r in results] == [i != 2 for i in range(20)]
    assert tally.faults == {"ada": {"word_errors": 5}}
    assert tally.attempts == {1: 18, 2: 1}
    assert max(parrot.batches) == 8
    _adds_up(tally, 19)


def test_what_sounds_bad_is_not_listened_to() -> None:
    inner = Scripted(lambda r, n: "too_quiet" if n == 1 else "")
    parrot = Parrot(inner)
    gated, _ = _gated(inner, transcriber=parrot)
    list(gated.synthesize_many(_requests(10)))
    assert sum(parrot.batches) == 10


# -- the tally


def test_tallies_merge_and_come_back_from_plain_values() -> None:
    a, b = Tally(), Tally()
    a.accept("x", 1)
    a.reject("x", "repeats")
    b.accept("y", 2)
    b.reject("x", "repeats")
    b.recast["x"] += 1
    a.merge(Tally.from_dict(b.as_dict()))
    assert a.summary() == {
        "takes": 4,
        "accepted": 2,
        "yield": 0.5,
        "faults": {"repeats": 2},
        "attempts": {"1": 1, "2": 1},
        "recast": {"x": 1},
        "voices": {"x": {"takes": 3, "yield": 0.3333, "faults": {"repeats": 2}}},
    }
    assert Tally().summary()["yield"] == 1.0
