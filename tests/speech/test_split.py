"""Long texts spoken in pieces and joined; with them the plain test voice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from duplexdata.errors import SynthesisError, UtteranceRejected
from duplexdata.speech.base import Speech, SpeechRequest, Voice
from duplexdata.speech.split import SplitSynthesizer, join
from duplexdata.speech.tone import CHARACTER_SEC, ToneSynthesizer
from duplexdata.words import split_words, word_texts

VOICE = Voice("somebody", "train")
SHORT = "Yes, of course."
LONG = "The first train leaves at six, and it never waits. The second one is slower, but it stops at the coast."
RATE = 24_000


class Watched(ToneSynthesizer):
    """Keeps what it was asked; fails where the text says so; louder with every request."""

    def __init__(self, *, louder: bool = False, **settings: bool) -> None:
        super().__init__(**settings)
        self.asked: list[SpeechRequest] = []
        self._louder = louder

    def synthesize_many(self, requests: Iterable[SpeechRequest]) -> Iterator[Speech | SynthesisError]:
        for request in requests:
            self.asked.append(request)
            if "fail" in request.text:
                yield SynthesisError("told to", retryable=True)
                continue
            [found] = super().synthesize_many([request])
            gain = np.float32(0.5 + 0.2 * len(self.asked) if self._louder else 1.0)
            yield replace(found, samples=found.samples * gain) if isinstance(found, Speech) else found


def spoken(synthesizer: SplitSynthesizer, *texts: str) -> list[Speech | SynthesisError]:
    return list(synthesizer.synthesize_many(SpeechRequest(t, VOICE, seed=5) for t in texts))


def test_what_fits_goes_through_untouched() -> None:
    inner = Watched()
    [found] = spoken(SplitSynthesizer(inner, 60), SHORT)
    [plain] = ToneSynthesizer().synthesize_many([SpeechRequest(SHORT, VOICE, seed=5)])
    assert isinstance(found, Speech)
    assert isinstance(plain, Speech)
    assert np.array_equal(found.samples, plain.samples)
    assert inner.asked == [SpeechRequest(SHORT, VOICE, seed=5)]


def test_pieces_are_asked_for_with_seeds_of_their_own_and_come_back_as_one() -> None:
    inner = Watched()
    found = spoken(SplitSynthesizer(inner, 60), SHORT, LONG, SHORT)
    assert len(found) == 3
    assert all(isinstance(f, Speech) for f in found)
    assert len(inner.asked) == 4
    assert " ".join(r.text for r in inner.asked[1:3]) == LONG
    assert len({r.seed for r in inner.asked}) == 3
    again = Watched()
    spoken(SplitSynthesizer(again, 60), LONG)
    assert again.asked == inner.asked[1:3]


def test_the_joined_sound_has_the_words_where_they_sound() -> None:
    [found] = spoken(SplitSynthesizer(Watched(), 60), LONG)
    assert isinstance(found, Speech)
    assert found.words is not None
    assert [w.text for w in found.words] == word_texts(LONG)
    ends = 0
    for word in found.words:
        assert ends <= word.start < word.end <= len(found.samples)
        ends = word.end
        burst = found.samples[word.start : word.start + 1000]
        assert np.abs(burst).max() > 0.05
    # a sentence's pause between the pieces, where the test voice itself leaves the time of two characters
    sounding = np.flatnonzero(np.abs(found.samples) > 1e-3)
    assert np.diff(sounding).max() == pytest.approx(0.4 * RATE, abs=0.03 * RATE)


def test_pieces_are_brought_to_one_level() -> None:
    [found] = spoken(SplitSynthesizer(Watched(louder=True), 60), LONG)
    assert isinstance(found, Speech)
    assert found.words is not None

    def level(first: int, last: int) -> float:
        assert found.words is not None  # type: ignore[union-attr]
        part = found.samples[found.words[first].start : found.words[last].end]  # type: ignore[union-attr,index]
        return 10 * float(np.log10((part**2).mean()))

    assert abs(level(0, 9) - level(10, 20)) < 1.5  # 2.2 dB apart as spoken; the words differ a little too


def test_without_word_times_there_are_none() -> None:
    [found] = spoken(SplitSynthesizer(Watched(words=False), 60), LONG)
    assert isinstance(found, Speech)
    assert found.words is None
    assert len(found.samples) > 0.9 * CHARACTER_SEC * RATE * len(LONG)


def test_a_piece_that_fails_fails_its_utterance_only() -> None:
    found = spoken(SplitSynthesizer(Watched(), 60), LONG, LONG + " This one is to fail, they say.", SHORT)
    assert isinstance(found[0], Speech)
    assert isinstance(found[1], SynthesisError)
    assert found[1].retryable
    assert "piece 3 of 3" in str(found[1])
    assert isinstance(found[2], Speech)


def test_requests_are_taken_up_one_by_one() -> None:
    def endless() -> Iterator[SpeechRequest]:
        while True:
            yield SpeechRequest(LONG, VOICE)

    inner = Watched()
    results = SplitSynthesizer(inner, 60).synthesize_many(endless())
    for _ in range(3):
        next(results)
    assert len(inner.asked) <= 8


def test_silent_pieces_are_joined_too() -> None:
    silent = Speech(np.zeros(2400, np.float32), RATE, None)
    assert len(join([silent, silent], [0.1]).samples) >= 4800


def test_the_test_voice_takes_80_ms_a_character_and_tells_voices_and_seeds_apart() -> None:
    other = Voice("another", "train")
    wanted = [SpeechRequest(SHORT, v, seed=s) for v in (VOICE, other) for s in (1, 2)]
    found = [f for f in ToneSynthesizer().synthesize_many([*wanted, *wanted]) if isinstance(f, Speech)]
    assert len(found) == 8
    assert [f.duration for f in found] == pytest.approx([CHARACTER_SEC * len(SHORT)] * 8)
    assert len({f.samples.tobytes() for f in found}) == 4
    assert found[0].words is not None
    assert len(found[0].words) == len(split_words(SHORT))
    [nothing] = ToneSynthesizer().synthesize_many([SpeechRequest("?!", VOICE)])
    assert isinstance(nothing, SynthesisError)


def test_a_piece_that_was_refused_says_why_for_the_whole() -> None:
    class Refusing(Watched):
        def synthesize_many(self, requests: Iterable[SpeechRequest]) -> Iterator[Speech | SynthesisError]:
            for i, result in enumerate(super().synthesize_many(requests)):
                yield UtteranceRejected("clipped", "too loud") if i == 1 else result

    [found] = spoken(SplitSynthesizer(Refusing(), 60), LONG)
    assert isinstance(found, UtteranceRejected) and found.reason == "clipped" and "piece 2" in str(found)
