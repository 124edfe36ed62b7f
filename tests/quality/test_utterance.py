"""Real speech passes; the same speech, broken in one way, is refused for just that."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile as sf
import soxr

from duplexdata.config import QualityConfig
from duplexdata.quality import likeness
from duplexdata.quality.utterance import (
    Prompt,
    Utterance,
    Words,
    duration_bounds,
    judge,
    letters_alone,
    letters_of,
    longest_common,
    longest_repeat,
)

Float32 = npt.NDArray[np.float32]
LIMITS = QualityConfig()
TEXTS = (
    "Could you tell me which train leaves for the coast tomorrow morning, and from which platform?",
    "The museum opens at nine, closes at five, and has a small garden behind the main hall.",
    "I would like to know how bread rises, and why some loaves stay flat.",
    "A short walk after lunch clears the head better than another cup of coffee does.",
)


@dataclass(frozen=True)
class Spoken:
    samples: Float32
    rate: int
    text: str
    language: str = "en"
    words: Words | None = None
    voice: str = ""

    def with_samples(self, samples: Float32) -> Utterance:
        return Utterance(samples.astype(np.float32), self.rate, self.text, self.language)

    def seconds(self, n: float) -> int:
        return int(n * self.rate)


@pytest.fixture(scope="module")
def espeak() -> list[Spoken]:
    pytest.importorskip("espeakng_loader")
    from duplexdata.speech.base import Speech, SpeechRequest
    from duplexdata.speech.espeak import EspeakSynthesizer
    from duplexdata.speech.voices import assistant_voice, user_voices

    voices = [assistant_voice(), assistant_voice(), user_voices()[0], user_voices()[0]]
    synthesizer = EspeakSynthesizer()
    requests = [SpeechRequest(text, voice) for text, voice in zip(TEXTS, voices, strict=True)]
    found = []
    for request, speech in zip(requests, synthesizer.synthesize_many(iter(requests)), strict=True):
        assert isinstance(speech, Speech) and speech.words
        words = Words(tuple(w.text for w in speech.words), np.array([w.start for w in speech.words]))
        found.append(Spoken(speech.samples, speech.sample_rate, request.text, "en", words, request.voice.id))
    synthesizer.close()
    return found


@pytest.fixture(scope="module")
def people(shared_data: Path) -> list[Spoken]:
    folder = shared_data.parent / "voices"
    found = []
    for line in (folder / "voices.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        samples, rate = sf.read(folder / row["file"], dtype="float32")
        found.append(Spoken(samples, rate, row["transcript"], row["language"], voice=row["id"].rpartition("_")[0]))
    return found


@pytest.fixture(params=["espeak", "people"])
def recordings(request: pytest.FixtureRequest) -> list[Spoken]:
    """Of both kinds, the longer ones: a second or more can be taken out of their middle."""
    spoken: list[Spoken] = request.getfixturevalue(request.param)
    return [s for s in spoken if len(s.samples) > 3.3 * s.rate]


def _reasons(utterance: Utterance, limits: QualityConfig = LIMITS) -> list[str]:
    return [f.reason for f in judge(utterance, limits)]


def test_real_speech_passes(recordings: list[Spoken]) -> None:
    for spoken in recordings:
        # espeak-ng's 22,050 Hz is known to be right; its own peaks are allowed by the engine.
        assert judge(spoken.with_samples(spoken.samples), LIMITS) == ()


def test_word_times_of_real_speech_find_no_pause_in_a_clause(espeak: list[Spoken]) -> None:
    for spoken in espeak:
        assert judge(replace(spoken.with_samples(spoken.samples), words=spoken.words), LIMITS) == ()


def _quietest(spoken: Spoken, near: float = 0.5) -> int:
    """The quietest sample of a 20 ms stretch near a place: where a cut is not heard."""
    middle, reach, n = int(len(spoken.samples) * near), spoken.seconds(0.4), spoken.seconds(0.02)
    power = np.convolve(np.square(spoken.samples[middle - reach : middle + reach]), np.ones(n), "same")
    return middle - reach + int(power.argmin())


def _insert(spoken: Spoken, seconds: float) -> Float32:
    at = _quietest(spoken)
    return np.concatenate([spoken.samples[:at], np.zeros(spoken.seconds(seconds)), spoken.samples[at:]])


def _with_click(spoken: Spoken) -> Float32:
    out = np.concatenate([spoken.samples, np.zeros(spoken.seconds(0.1))])
    out[-spoken.seconds(0.02)] = 0.9
    return out


def _cut_off_level(spoken: Spoken) -> Float32:
    """Ends in the middle of a loud vowel, held for a moment: a step down to nothing."""
    quiet = np.concatenate([spoken.samples, np.zeros(spoken.seconds(0.1))])
    n = spoken.seconds(0.01)
    quiet[-n:] = np.linspace(0, 0.6, n)
    return quiet


def _loop(spoken: Spoken, seconds: float = 1.2) -> Float32:
    n, at = spoken.seconds(seconds), spoken.seconds(0.9)
    return np.concatenate([spoken.samples[: at + n], spoken.samples[at:]])


def _nan(spoken: Spoken) -> Float32:
    out = spoken.samples.copy()
    out[len(out) // 2] = np.nan
    return out


def _infinite(spoken: Spoken) -> Float32:
    out = spoken.samples.copy()
    out[-1] = -np.inf  # behind the last whole frame
    return out


def _stretched(spoken: Spoken, factor: float) -> Float32:
    return soxr.resample(spoken.samples, 1.0, factor)


def _babble(spoken: Spoken, seconds: float) -> Float32:
    """Goes on and on, with something else each time, as a decoder does that misses the end."""
    rng = np.random.default_rng(5)
    n = spoken.seconds(0.23)
    starts = rng.integers(0, len(spoken.samples) - n, int(seconds / 0.23))
    return np.concatenate([spoken.samples, *(spoken.samples[a : a + n] for a in starts)])


BREAKS: dict[str, tuple[Callable[[Spoken], Float32], str]] = {
    "a sample that is no number": (_nan, "not_finite"),
    "a sample without bound": (_infinite, "not_finite"),
    "three times too much gain, limited": (lambda s: (s.samples / abs(s.samples).max() * 3).clip(-1, 1), "clipping"),
    "30 dB less": (lambda s: s.samples * 10 ** (-30 / 20), "too_quiet"),
    "beyond full scale": (lambda s: s.samples / abs(s.samples).max() * 6, "too_loud"),
    "all but silent": (lambda s: s.samples * 1e-6, "silent"),
    "digital silence": (lambda s: np.zeros_like(s.samples), "silent"),
    "two seconds of nothing before": (
        lambda s: np.concatenate([np.zeros(s.seconds(2)), s.samples]),
        "leading_silence",
    ),
    "two seconds of nothing behind": (
        lambda s: np.concatenate([s.samples, np.zeros(s.seconds(2))]),
        "trailing_silence",
    ),
    "a second of nothing inside": (lambda s: _insert(s, 1.0), "inner_pause"),
    "a click in the silence behind": (_with_click, "click_at_end"),
    "a step at the very end": (_cut_off_level, "click_at_end"),
    "1.2 s that come twice": (_loop, "repeats"),
    "1.2 s that come again at the end, twice": (
        lambda s: np.concatenate([s.samples, *[s.samples[s.seconds(0.6) : s.seconds(1.8)]] * 2]),
        "repeats",
    ),
    "the last four fifths are missing": (lambda s: s.samples[: len(s.samples) // 5], "too_short"),
    "spoken three times too fast": (lambda s: _stretched(s, 1 / 3), "too_short"),
    "spoken three times too slowly": (lambda s: _stretched(s, 3.0), "too_long"),
    "goes on and on": (lambda s: _babble(s, 25), "runaway"),
    "nothing at all": (lambda s: s.samples[:0], "empty"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_speech_broken_in_one_way_is_refused_for_that(name: str, recordings: list[Spoken]) -> None:
    change, reason = BREAKS[name]
    for spoken in recordings:
        if spoken.language != "en" and reason in ("too_long", "too_short"):
            continue  # a slow speaker, and a language whose bounds are wide
        found = _reasons(spoken.with_samples(change(spoken)))
        if reason == "too_long" and "runaway" in found:
            continue  # so slow that it is both
        assert reason in found, (spoken.text, found)


def test_runaway_speech_is_told_from_slow_speech(espeak: list[Spoken]) -> None:
    spoken = espeak[0]
    _, most = duration_bounds(spoken.text, "en", LIMITS)
    tokens = len(spoken.text.split()) + 2
    between = (most + LIMITS.runaway_sec_per_token * tokens) / 2
    assert most < LIMITS.runaway_sec_per_token * tokens  # the text of the test is such that there is a difference
    extra = between - len(spoken.samples) / spoken.rate
    assert "too_long" in _reasons(spoken.with_samples(_babble(spoken, extra)))
    assert "runaway" in _reasons(spoken.with_samples(_babble(spoken, 3 * extra)))


def test_a_pause_within_a_clause_is_refused_where_word_times_are_known(espeak: list[Spoken]) -> None:
    spoken = espeak[3]  # "A short walk after lunch clears the head better …": no comma
    assert spoken.words is not None
    at = int(spoken.words.starts[5])
    n = spoken.seconds(0.5)
    broken = np.concatenate([spoken.samples[:at], np.zeros(n), spoken.samples[at:]]).astype(np.float32)
    later = spoken.words.starts + np.where(spoken.words.starts >= at, n, 0)
    words = replace(spoken.words, starts=later)
    assert _reasons(replace(spoken.with_samples(broken), words=words)) == ["pause_in_clause"]
    assert _reasons(spoken.with_samples(broken)) == []  # nobody knows where the words are
    texts = tuple(w + "," if i == 4 else w for i, w in enumerate(words.texts))
    assert _reasons(replace(spoken.with_samples(broken), words=replace(words, texts=texts))) == []
    nearly = tuple(w + "," if i == 3 else w for i, w in enumerate(words.texts))
    estimated = replace(words, texts=nearly, estimated=True)
    assert _reasons(replace(spoken.with_samples(broken), words=estimated)) == []
    assert _reasons(replace(spoken.with_samples(broken), words=replace(estimated, estimated=False)))


@pytest.mark.parametrize("rate", [0, 1, 4000, 200_000])
def test_a_rate_that_no_engine_has_is_refused(rate: int, espeak: list[Spoken]) -> None:
    assert _reasons(replace(espeak[0].with_samples(espeak[0].samples), rate=rate)) == ["wrong_rate"]


def test_a_rate_other_than_the_engines_is_refused(espeak: list[Spoken]) -> None:
    utterance = espeak[0].with_samples(espeak[0].samples)
    assert _reasons(replace(utterance, expected_rate=24_000)) == ["wrong_rate"]
    assert _reasons(replace(utterance, expected_rate=22_050)) == []


def test_a_fault_says_what_was_measured_and_what_was_allowed(espeak: list[Spoken]) -> None:
    (fault,) = judge(espeak[0].with_samples(_insert(espeak[0], 1.0)), LIMITS)
    assert fault.reason == "inner_pause" and fault.limit == LIMITS.pause_sec
    assert fault.value == pytest.approx(1.0, abs=0.15)
    assert str(fault) == f"inner_pause ({fault.value:.4g}, allowed 0.8)"


def test_every_threshold_can_be_changed(espeak: list[Spoken]) -> None:
    broken = espeak[0].with_samples(_loop(espeak[0]))
    assert "repeats" in _reasons(broken)
    assert "repeats" not in _reasons(broken, replace(LIMITS, repeat_likeness=1.01))
    assert "inner_pause" in _reasons(espeak[0].with_samples(espeak[0].samples), replace(LIMITS, pause_sec=0.01))


# -- repeats


def test_what_the_text_repeats_may_be_repeated(espeak: list[Spoken]) -> None:
    spoken = espeak[1]
    twice = np.concatenate([spoken.samples, spoken.samples])
    assert "repeats" in _reasons(spoken.with_samples(twice))
    text = f"{spoken.text} {spoken.text}"
    assert _reasons(replace(spoken.with_samples(twice), text=text)) == []


def test_a_phrase_said_twice_with_another_melody_is_found(espeak: list[Spoken]) -> None:
    from duplexdata.speech.base import Speech, SpeechRequest
    from duplexdata.speech.espeak import EspeakSynthesizer
    from duplexdata.speech.voices import user_voices

    said = []
    for text in TEXTS:
        words = text.split()
        said.append(" ".join([*words[:9], *words[3:]]))  # the fourth to the ninth word come twice
    synthesizer = EspeakSynthesizer()
    requests = [SpeechRequest(text, voice) for text in said for voice in user_voices()[:2]]
    found = 0
    for i, speech in enumerate(synthesizer.synthesize_many(iter(requests))):
        assert isinstance(speech, Speech)
        right, wrong = said[i // 2], TEXTS[i // 2]
        assert "repeats" not in _reasons(Utterance(speech.samples, speech.sample_rate, right))
        found += "repeats" in _reasons(Utterance(speech.samples, speech.sample_rate, wrong))
    synthesizer.close()
    assert found >= 0.8 * len(requests)


def test_two_stretches_are_alike_whatever_their_phase_in_a_frame(espeak: list[Spoken]) -> None:
    spoken = espeak[0]
    for shift in np.linspace(0, 0.04, 9):
        looped = _loop(spoken, 1.2 + float(shift))
        assert likeness.repeats(likeness.features(looped.astype(np.float32), spoken.rate), 1.0) > 0.92


def _brute_force(a: Float32, b: Float32, frames: int, first: int) -> float:
    best = [0.0]
    for i in range(len(a[::2]) - frames + 1):
        for j in range(len(b[::2]) - frames + 1):
            if abs(i - j) >= first:
                total = 0.0
                for k in range(frames):
                    near = [2 * (j + k) + d for d in (-1, 0, 1) if 0 <= 2 * (j + k) + d < len(b)]
                    total += max(float(a[2 * (i + k)] @ b[n]) for n in near)
                best.append(total / frames)
    return max(best)


@pytest.mark.parametrize(
    ("n", "m", "seconds"), [(60, 60, 0.4), (61, 61, 0.6), (44, 71, 0.28), (80, 31, 0.52), (9, 9, 1)]
)
def test_likeness_is_the_best_mean_along_a_diagonal(n: int, m: int, seconds: float) -> None:
    rng = np.random.default_rng(n)
    a, b = (rng.standard_normal((k, likeness.N_BANDS + 1)).astype(np.float32) for k in (n, m))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    frames = likeness.frames_of(seconds)
    assert likeness.repeats(a, seconds) == pytest.approx(_brute_force(a, a, frames, 8), abs=1e-5)
    expected = max(_brute_force(a, b, frames, 0), _brute_force(b, a, frames, 0))
    assert likeness.occurs(a, b, seconds) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("text", ["", "a", "aaaa", "no, no, no", "the cat and the dog and the cow", "我我", "one two"])
def test_the_longest_piece_that_comes_twice(text: str) -> None:
    bare = letters_alone(text)
    pieces = [bare[i:j] for i in range(len(bare)) for j in range(i + 1, len(bare) + 1)]
    expected = max((len(p) for p in pieces if bare.find(p, bare.find(p) + 1) >= 0), default=0)
    assert longest_repeat(text) == expected


def test_the_longest_piece_that_two_texts_share() -> None:
    assert longest_common("what is the time", "this is the end") == len(" is the ")
    assert longest_common("abc", "xyz") == 0
    assert longest_common("", "abc") == 0


# -- leaked prompts


def _as_prompt(spoken: Spoken, rate: int | None = None) -> Prompt:
    samples = spoken.samples if rate is None else soxr.resample(spoken.samples, spoken.rate, rate)
    return Prompt(likeness.features(samples, rate or spoken.rate), spoken.text)


def _others(spoken: list[Spoken]) -> Iterator[tuple[Spoken, Spoken]]:
    for prompt in spoken:
        yield from ((prompt, other) for other in spoken if other is not prompt and other.voice == prompt.voice)


def test_speech_that_follows_its_prompt_in_another_text_passes(recordings: list[Spoken]) -> None:
    for prompt, other in _others(recordings):
        clone = replace(other.with_samples(other.samples), prompt=_as_prompt(prompt))
        assert _reasons(clone) == [], (prompt.text, other.text)


@pytest.mark.parametrize("rate", [None, 16_000, 44_100])
@pytest.mark.parametrize("part", ["end", "beginning"])
def test_a_prompt_heard_at_the_start_is_found(part: str, rate: int | None, recordings: list[Spoken]) -> None:
    for prompt, other in _others(recordings):
        n = prompt.seconds(1.0)
        leak = prompt.samples[-n:] if part == "end" else prompt.samples[:n]
        clone = other.with_samples(np.concatenate([leak, other.samples]))
        assert "leaks_prompt" not in _reasons(clone)
        assert "leaks_prompt" in _reasons(replace(clone, prompt=_as_prompt(prompt, rate))), (prompt.text, other.text)


def test_a_text_that_begins_as_the_prompt_does_may_sound_like_it(people: list[Spoken]) -> None:
    spoken = people[0]
    clone = replace(spoken.with_samples(spoken.samples), prompt=_as_prompt(spoken))
    assert _reasons(clone) == []
    assert "leaks_prompt" in _reasons(
        replace(clone, text="Bananas grow quickly under warm southern skies, do you agree with me?")
    )


# -- durations


def test_durations_grow_with_the_text() -> None:
    texts = ["oh", "oh yes", "oh yes indeed", "oh yes indeed, you may", "oh yes indeed, you may go home now"]
    bounds = [duration_bounds(text, "en", LIMITS) for text in texts]
    assert all(low < high for low, high in bounds)
    assert [b[0] for b in bounds] == sorted(b[0] for b in bounds)


def test_an_ideograph_counts_for_a_syllable_and_a_digit_for_a_word() -> None:
    assert letters_of("你好吗", "zh")[0] == pytest.approx(3 * 14.5 / 4.2)
    assert letters_of("top 10", "de") == (6, 16)
    assert letters_of("well... yes!", "en") == (8, 8)


def test_other_languages_have_wider_bounds() -> None:
    text = "guten Morgen zusammen"
    (low, high), (wide_low, wide_high) = duration_bounds(text, "en", LIMITS), duration_bounds(text, "de-DE", LIMITS)
    assert wide_low < low and high < wide_high


@pytest.mark.parametrize("samples", [[0.5], [0.5] * 3, [0.5] * 300, [-0.5, 0.5] * 900])
def test_a_few_samples_are_judged_without_an_error(samples: list[float]) -> None:
    assert judge(Utterance(np.array(samples, np.float32), 24_000, "Hello there, everybody."), LIMITS)


def test_noise_of_any_size_is_judged_without_an_error() -> None:
    rng = np.random.default_rng(0)
    for scale in (1e-30, 1e-3, 1.0, 1e19, 3e38):
        for n in (1, 239, 240, 241, 9_600, 48_000):
            judge(Utterance((rng.standard_normal(n).clip(-1, 1) * scale).astype(np.float32), 24_000, "Yes."), LIMITS)
