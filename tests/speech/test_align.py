from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duplexdata.config import AlignConfig, Config, SpeechConfig, as_dict
from duplexdata.errors import ConfigError, SynthesisError
from duplexdata.speech import align
from duplexdata.speech.align import Aligned, AlignmentError, CharacterAligner, aligner_name, make_aligner
from duplexdata.speech.align.dtw import distances, warp
from duplexdata.speech.base import Speech, SpeechRequest, WordTime
from duplexdata.speech.voices import assistant_voice, user_voices
from duplexdata.stages.plan import make_plan
from duplexdata.storage import Store
from duplexdata.words import word_texts

TEXT = "Well, the quick brown fox jumps over the lazy dog. Doesn't it?"


def noise(seconds: float, rate: int = 24_000, seed: int = 0) -> Speech:
    samples = np.random.default_rng(seed).standard_normal(int(seconds * rate)).astype(np.float32) * 0.1
    return Speech(samples, rate, None)


def check_words(text: str, speech: Speech) -> None:
    assert speech.words is not None
    assert [w.text for w in speech.words] == word_texts(text)
    assert all(0 <= w.start <= w.end <= len(speech.samples) for w in speech.words)
    assert all(a.end <= b.start for a, b in pairwise(speech.words))
    assert all(w.estimated for w in speech.words)


# -- warping


def cheapest(a: np.ndarray, b: np.ndarray) -> float:
    """The definition, cell by cell."""
    cost = distances(a, b).astype(np.float64)
    total = np.full(cost.shape, np.inf)
    for i in range(len(a)):
        for j in range(len(b)):
            before = [total[x, y] for x, y in ((i - 1, j), (i, j - 1), (i - 1, j - 1)) if x >= 0 and y >= 0]
            total[i, j] = cost[i, j] + (min(before) if before else 0.0)
    return float(total[-1, -1])


SIZES = st.integers(1, 90)


@settings(max_examples=60, deadline=None)
@given(SIZES, SIZES, st.integers(0, 2**32 - 1), st.integers(0, 100))
def test_a_path_goes_through_both_recordings_in_order_and_is_the_cheapest_there_is(
    n: int, m: int, seed: int, half_band: int
) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((n, 3)).astype(np.float32), rng.standard_normal((m, 3)).astype(np.float32)
    first, second, mean = warp(a, b, half_band)
    assert (first[0], second[0], first[-1], second[-1]) == (0, 0, n - 1, m - 1)
    steps = set(zip(np.diff(first).tolist(), np.diff(second).tolist(), strict=True))
    assert steps <= {(0, 1), (1, 0), (1, 1)}
    assert distances(a, b)[first, second].mean() == pytest.approx(mean, rel=1e-4)
    if half_band >= 90:
        assert mean * len(first) == pytest.approx(cheapest(a, b), rel=1e-4)


def test_what_is_stretched_is_found_where_it_was_stretched_to() -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((200, 8)).astype(np.float32).cumsum(axis=0)
    places = np.sort(np.concatenate([np.arange(200), rng.integers(0, 200, 300)]))
    first, second, mean = warp(a, a[places], 10**6)
    assert mean < 0.01
    assert np.array_equal(a[first], a[places[second]])


# -- by characters


@settings(max_examples=50, deadline=None)
@given(st.text("ab 一二,.'-", max_size=60), st.floats(0, 3), st.sampled_from([8000, 16_000, 22_050, 24_000, 48_000]))
def test_whatever_the_text_and_the_sound_words_are_one_each_in_order_and_inside(
    text: str, seconds: float, rate: int
) -> None:
    speech = noise(seconds, rate)
    words = CharacterAligner().word_times(SpeechRequest(text, assistant_voice()), speech)
    if len(speech.samples):
        check_words(text, Speech(speech.samples, rate, words))


def test_silence_at_the_ends_is_no_part_of_the_words() -> None:
    sound, rate = noise(1.0).samples, 24_000
    quiet = np.zeros(rate // 2, np.float32)
    words = CharacterAligner().word_times(
        SpeechRequest("one two three", assistant_voice()), Speech(np.concatenate([quiet, sound, quiet]), rate, None)
    )
    assert abs(words[0].start - rate // 2) < rate * 0.03
    assert abs(words[-1].end - (rate // 2 + rate)) < rate * 0.03


# -- around a synthesizer


class Plain:
    """Gives the recordings it was given, and what the protocol leaves open."""

    name = "plain/1"
    sample_rate = 24_000
    takes_seed = False

    def __init__(self, results: list[Speech | SynthesisError]) -> None:
        self.results, self.asked, self.closed = results, [], False  # type: ignore[var-annotated]

    def synthesize_many(self, requests: Iterable[SpeechRequest]) -> Iterator[Speech | SynthesisError]:
        # Reads ahead, as backends with several requests in flight do.
        for request in list(requests):
            self.asked.append(request)
            yield self.results[len(self.asked) - 1]

    def describe(self) -> dict[str, str]:
        return {"name": self.name}

    def close(self) -> None:
        self.closed = True


class Stubborn(CharacterAligner):
    name = "stubborn"

    def word_times(self, request: SpeechRequest, speech: Speech) -> tuple[WordTime, ...]:
        if "no" in request.text:
            raise AlignmentError("no")
        return super().word_times(request, speech)


def test_words_are_added_where_there_are_none_and_every_utterance_is_counted() -> None:
    own = (WordTime("mine", 3, 5),)
    given_words = Speech(noise(1).samples, 24_000, own)
    broken = Speech(np.full(2400, np.nan, np.float32), 24_000, None)
    error = SynthesisError("cannot")
    inner = Plain([noise(1), given_words, error, noise(2), broken])
    made = Aligned(inner, Stubborn())
    texts = ["a b", "mine", "x", "no way", "y"]
    found = list(made.synthesize_many(SpeechRequest(t, assistant_voice()) for t in texts))
    assert found[1] is given_words and found[2] is error and found[4] is broken
    for i in (0, 3):
        speech = found[i]
        assert isinstance(speech, Speech)
        check_words(texts[i], speech)
    assert made.counts == {"stubborn": 1, "engine": 1, "characters": 1}
    assert made.name == "plain/1+stubborn"
    assert made.describe() == {"name": "plain/1", "align_name": "stubborn"}
    assert (made.sample_rate, made.takes_seed) == (24_000, False)
    with pytest.raises(AttributeError):
        _ = made.no_such_thing
    made.close()
    assert inner.closed


# -- which one


def test_the_configuration_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_aligner(AlignConfig(method="none")) is None
    assert isinstance(make_aligner(AlignConfig(method="characters")), CharacterAligner)
    monkeypatch.setattr(align, "has_espeak", lambda: False)
    assert isinstance(make_aligner(AlignConfig()), CharacterAligner)
    assert aligner_name(AlignConfig()) == "characters"
    with pytest.raises(ConfigError, match="duplexdata\\[espeak\\]"):
        make_aligner(AlignConfig(method="espeak"))


@pytest.mark.parametrize("wrong", [{"method": "magic"}, {"method": "ctc"}, {"device": "gpu"}])
def test_a_wrong_setting_is_refused_by_its_name(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="align"):
        AlignConfig(**wrong)


def test_a_name_is_known_without_making_the_aligner(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("espeakng_loader")
    made = make_aligner(AlignConfig())
    assert made is not None
    assert made.name == aligner_name(AlignConfig()) and made.name.startswith("dtw-espeak-ng-")
    made.close()  # no helper was started
    assert aligner_name(AlignConfig(model="some/model")) == "ctc"
    assert "align" in as_dict(Config())


def test_only_a_backend_without_word_times_depends_on_the_aligner(tmp_path: Path) -> None:
    default, other = Config(), Config(align=AlignConfig(method="characters"))
    assert make_plan(default, Store(tmp_path)).speech == make_plan(other, Store(tmp_path)).speech
    assert "aligner" not in dict(make_plan(default, Store(tmp_path)).made_by)
    served, by_characters, on_a_gpu = (
        make_plan(replace(default, speech=SpeechConfig(backend="some_server"), align=a), Store(tmp_path))
        for a in (AlignConfig(), AlignConfig(method="characters"), AlignConfig(device="cuda"))
    )
    assert served.speech != by_characters.speech and served.record_fingerprint != by_characters.record_fingerprint
    assert dict(by_characters.made_by)["aligner"] == "characters"
    assert served == replace(on_a_gpu, config=served.config)
    with pytest.raises(ConfigError, match=r"align\.model"):
        make_plan(
            replace(default, speech=SpeechConfig(backend="x"), align=AlignConfig(model=str(tmp_path / "no"))), tmp_path
        )


# -- against espeak-ng's own times


@pytest.fixture(scope="module")
def reference() -> Iterator[align.Aligner]:
    pytest.importorskip("espeakng_loader", reason="the espeak-ng voices are an extra: duplexdata[espeak]")
    made = make_aligner(AlignConfig(method="espeak"))
    assert made is not None
    yield made
    made.close()


def spoken(request: SpeechRequest) -> Speech:
    from duplexdata.speech.espeak import EspeakSynthesizer

    synthesizer = EspeakSynthesizer()
    try:
        (speech,) = synthesizer.synthesize_many([request])
    finally:
        synthesizer.close()
    assert isinstance(speech, Speech)
    return speech


def test_another_voice_is_found_to_the_hundredth_of_a_second(reference: align.Aligner) -> None:
    request = SpeechRequest(TEXT, user_voices()[20])
    speech = spoken(request)
    found = reference.word_times(request, speech)
    check_words(TEXT, Speech(speech.samples, speech.sample_rate, found))
    assert speech.words is not None
    apart = [abs(f.start - t.start) for f, t in zip(found, speech.words, strict=True) if not t.estimated]
    assert np.median(apart) < 0.02 * speech.sample_rate
    assert reference.word_times(request, speech) == found


def test_a_long_pause_and_silence_at_the_ends_move_the_words_behind_them_and_no_other(reference: align.Aligner) -> None:
    request = SpeechRequest(TEXT, user_voices()[3])
    speech = spoken(request)
    assert speech.words is not None
    rate = speech.sample_rate
    before, behind = speech.words[4], speech.words[5]
    cut = (before.end + behind.start) // 2
    lead, pause = rate // 2, rate
    samples = np.concatenate(
        [np.zeros(lead), speech.samples[:cut], np.zeros(pause), speech.samples[cut:], np.zeros(lead)]
    ).astype(np.float32)
    found = reference.word_times(request, Speech(samples, rate, None))
    for n, (word, true) in enumerate(zip(found, speech.words, strict=True)):
        moved = lead + (pause if n > 4 else 0)
        assert abs(word.start - true.start - moved) < 0.1 * rate, word
    assert found[4].end <= lead + cut + 0.05 * rate and found[5].start >= lead + cut + pause - 0.05 * rate


def test_what_cannot_be_aligned_is_said_to_be_so(reference: align.Aligner) -> None:
    with pytest.raises(AlignmentError, match="tlh"):
        reference.word_times(SpeechRequest("hello", assistant_voice(), "tlh"), noise(1))
    with pytest.raises(AlignmentError):
        reference.word_times(SpeechRequest("hello", assistant_voice()), noise(30))
    with pytest.raises(AlignmentError):
        reference.word_times(SpeechRequest("hello", assistant_voice()), Speech(np.zeros(0, np.float32), 16_000, None))
    assert reference.word_times(SpeechRequest("...", assistant_voice()), noise(1)) == ()


def test_any_sound_gets_words_in_order_and_inside(reference: align.Aligner) -> None:
    for speech in (noise(0.02), noise(3), Speech(np.zeros(16_000, np.float32), 16_000, None)):
        made = Aligned(Plain([speech]), reference)
        (found,) = made.synthesize_many([SpeechRequest(TEXT, assistant_voice())])
        assert isinstance(found, Speech)
        check_words(TEXT, found)


def test_other_languages_are_aligned_too(reference: align.Aligner) -> None:
    for language, text in (("zh", "你好，今天天气怎么样？"), ("de", "Guten Tag, wie geht es Ihnen heute?")):
        request = SpeechRequest(text, user_voices()[0], language)
        speech = spoken(request)
        words = reference.word_times(request, speech)
        check_words(text, Speech(speech.samples, speech.sample_rate, words))


@pytest.mark.slow
def test_word_times_of_64_voices_on_real_text_stay_within_their_bounds(
    shared_data: Path, reference: align.Aligner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Aimed at: 60 ms in the median and 150 ms in nine of ten, by which the aligner is to be used at all."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    bench = __import__("bench_align")
    requests, heard = bench.spoken_by_users(bench.real_texts(shared_data, 128, max_seconds=6))
    rng = np.random.default_rng(1)
    by_characters = bench.errors(CharacterAligner(), requests, heard)
    for recordings, median, most in ((heard, 10, 25), ([bench.distorted(s, rng) for s in heard], 30, 100)):
        for found, plain in zip(bench.errors(reference, requests, recordings), by_characters, strict=True):
            assert len(found) > 800
            assert np.median(found) < min(median, np.median(plain) / 3)
            assert np.percentile(found, 90) < most
    sys.modules.pop("bench_align")
