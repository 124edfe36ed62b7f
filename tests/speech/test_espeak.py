from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duplexdata.errors import SynthesisError
from duplexdata.speech.base import Speech, SpeechRequest, Voice
from duplexdata.speech.espeak import EspeakSynthesizer, word_times
from duplexdata.speech.voices import ACCENTS, ASSISTANT_VARIANT, assistant_voice, user_voices
from duplexdata.words import split_words, word_texts

pytest.importorskip("espeakng_loader", reason="the espeak-ng voices are an extra: duplexdata[espeak]")

TEXTS = (
    "Hello there, how are you doing today?",
    "No, wait. I meant the other one, with the red door.",
    "It was nineteen eighty-four, and of the two of them, neither knew.",
    "Yes.",
)
LANGUAGES = {
    "zh": "你好，今天天气怎么样？我想去公园走走。",
    "zh-TW": "你好，今天天气怎么样？",
    "fr": "Bonjour, comment allez-vous aujourd'hui ? Très bien.",
    "de": "Guten Tag, wie geht es Ihnen heute? Mir geht es gut.",
    "pt-BR": "Bom dia, tudo bem com você?",
}


@pytest.fixture(scope="module")
def espeak() -> Iterator[EspeakSynthesizer]:
    synthesizer = EspeakSynthesizer()
    yield synthesizer
    synthesizer.close()


@pytest.fixture
def another() -> Iterator[EspeakSynthesizer]:
    """A helper of one's own, which keeps fewer voices than the tests use."""
    synthesizer = EspeakSynthesizer(voices_kept=2)
    yield synthesizer
    synthesizer.close()


def requests() -> list[SpeechRequest]:
    voices = [*user_voices()[::13], assistant_voice()]
    return [SpeechRequest(t, v, seed=n) for n, t in enumerate(TEXTS) for v in voices]


def spoken(synthesizer: EspeakSynthesizer, wanted: list[SpeechRequest]) -> list[Speech]:
    found = list(synthesizer.synthesize_many(wanted))
    assert all(isinstance(f, Speech) for f in found), found
    return [f for f in found if isinstance(f, Speech)]


def same(a: Speech, b: Speech) -> bool:
    return np.array_equal(a.samples, b.samples) and a.words == b.words


def helper_pid(synthesizer: EspeakSynthesizer) -> int:
    assert synthesizer._process is not None
    return synthesizer._process.pid


# -- the same bytes


def test_an_utterance_is_the_same_whatever_was_spoken_before_and_by_whichever_helper(
    espeak: EspeakSynthesizer, another: EspeakSynthesizer
) -> None:
    wanted = requests()
    first = spoken(espeak, wanted)
    again = spoken(espeak, wanted)
    backwards = spoken(another, wanted[::-1])[::-1]
    shuffled = np.random.default_rng(0).permutation(len(wanted))
    mixed = spoken(another, [wanted[i] for i in shuffled])
    for n, speech in enumerate(first):
        assert same(speech, again[n])
        assert same(speech, backwards[n])
        assert same(speech, mixed[int(np.flatnonzero(shuffled == n)[0])])


def test_a_helper_that_is_killed_in_the_middle_leaves_no_answer_out(
    espeak: EspeakSynthesizer, another: EspeakSynthesizer
) -> None:
    wanted = requests()
    expected = spoken(espeak, wanted)

    def with_murder() -> Iterator[SpeechRequest]:
        for n, request in enumerate(wanted):
            if n in (3, 11):
                os.kill(helper_pid(another), signal.SIGKILL)
            yield request

    found = list(another.synthesize_many(with_murder()))
    assert len(found) == len(expected)
    assert all(isinstance(f, Speech) and same(f, e) for f, e in zip(found, expected, strict=True))


def test_a_helper_that_is_killed_between_two_calls_is_started_again(another: EspeakSynthesizer) -> None:
    (before,) = spoken(another, requests()[:1])
    os.kill(helper_pid(another), signal.SIGKILL)
    (after,) = spoken(another, requests()[:1])
    assert same(before, after)


def test_answers_that_nobody_waited_for_are_not_given_to_the_next(another: EspeakSynthesizer) -> None:
    one, two, three = requests()[:3]
    (expected,) = spoken(another, [three])
    left = another.synthesize_many([one, two, two, one])
    next(left)
    left.close()  # type: ignore[attr-defined]
    (found,) = spoken(another, [three])
    assert same(found, expected)


def test_a_closed_synthesizer_leaves_no_process(another: EspeakSynthesizer) -> None:
    spoken(another, requests()[:3])
    pid = helper_pid(another)
    another.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    another.close()


# -- word times


def check_words(text: str, speech: Speech) -> None:
    assert speech.words is not None
    assert [w.text for w in speech.words] == word_texts(text)
    assert all(0 <= w.start <= w.end <= len(speech.samples) for w in speech.words)
    assert all(a.end <= b.start for a, b in pairwise(speech.words))


def test_every_word_has_a_time_in_order_and_inside_the_sound(espeak: EspeakSynthesizer) -> None:
    wanted = requests()
    for request, speech in zip(wanted, spoken(espeak, wanted), strict=True):
        check_words(request.text, speech)
        assert speech.sample_rate == espeak.sample_rate
        assert np.abs(speech.samples).max() > 0.01
        assert np.abs(speech.samples).max() <= 1


def test_a_word_sounds_where_its_time_says(espeak: EspeakSynthesizer) -> None:
    text = "Stop, and listen."
    (speech,) = spoken(espeak, [SpeechRequest(text, assistant_voice())])
    assert speech.words is not None
    first, second, _ = speech.words
    energy = np.abs(speech.samples)
    loud = energy[first.start : first.end].mean()
    # The comma is a silence between the two.
    assert energy[first.end : second.start].mean() < loud / 5
    assert second.start - first.end > 0.05 * speech.sample_rate


@pytest.mark.parametrize("language", LANGUAGES)
def test_other_languages_are_spoken_with_word_times(espeak: EspeakSynthesizer, language: str) -> None:
    text = LANGUAGES[language]
    for voice in (assistant_voice(), user_voices()[0]):
        (speech,) = spoken(espeak, [SpeechRequest(text, voice, language)])
        check_words(text, speech)
        assert 0.5 < speech.duration < 15


def test_an_unknown_language_or_voice_is_an_error_that_stops_nothing(espeak: EspeakSynthesizer) -> None:
    good = requests()[0]
    wrong = SpeechRequest("hello", assistant_voice(), "tlh-xx")
    mute = SpeechRequest("hello", Voice("x", "both", (("accent", "no-such-accent"),)))
    found = list(espeak.synthesize_many([good, wrong, good, mute, good]))
    assert [type(f) for f in found] == [Speech, SynthesisError, Speech, SynthesisError, Speech]
    for n, word in ((1, "tlh-xx"), (3, "no-such-accent")):
        error = found[n]
        assert isinstance(error, SynthesisError)
        assert word in str(error)
        assert not error.retryable
    assert isinstance(found[0], Speech)
    assert all(isinstance(f, Speech) and same(f, found[0]) for f in found[::2])


def test_a_voice_setting_changes_the_sound(espeak: EspeakSynthesizer) -> None:
    base = dict(assistant_voice().settings)
    changes = [{}, {"rate": "190"}, {"pitch": "30"}, {"range": "80"}, {"variant": "m3"}, {"accent": "en-029"}]
    voices = [Voice(f"v{n}", "both", tuple((base | c).items())) for n, c in enumerate(changes)]
    found = spoken(espeak, [SpeechRequest(TEXTS[0], v) for v in voices])
    assert len({f.samples.tobytes() for f in found}) == len(found)


EVENTS = st.lists(st.tuples(st.integers(-2, 80), st.integers(0, 9), st.integers(0, 50_000)), max_size=20)


@given(st.text("ab 一二,. ", max_size=60), EVENTS, st.lists(st.integers(0, 50_000), max_size=10))
def test_whatever_the_engine_reports_words_are_one_each_in_order_and_inside(
    text: str, events: list[tuple[int, int, int]], pauses: list[int]
) -> None:
    events.sort(key=lambda e: (e[2], e[0]))
    # Events come in the order of time, and so of the text.
    places = sorted(e[0] for e in events)
    ordered = [(p, n, s) for p, (_, n, s) in zip(places, events, strict=True)]
    found = word_times(text, ordered, sorted(pauses), 50_000)
    assert len(found) == len(split_words(text))
    assert all(0 <= w.start <= w.end <= 50_000 for w in found)
    assert all(a.end <= b.start for a, b in pairwise(found))


# -- the bank of voices


def test_there_are_64_users_each_another(espeak: EspeakSynthesizer) -> None:
    voices = user_voices()
    assert len(voices) == len({v.id for v in voices}) == 64
    assert len({(v.setting("accent"), v.setting("variant")) for v in voices}) == 64
    found = spoken(espeak, [SpeechRequest("Hello there, how are you?", v) for v in voices])
    assert len({f.samples.tobytes() for f in found}) == 64


def test_no_user_sounds_like_the_assistant() -> None:
    assert assistant_voice().setting("variant") == ASSISTANT_VARIANT
    assert ASSISTANT_VARIANT not in {v.setting("variant") for v in user_voices()}
    assert assistant_voice().id not in {v.id for v in user_voices()}


FEMALE = {"f1", "f3", "f4", "f5", "Andrea", "belinda", "linda", "steph", "anika", "shelby"}


@pytest.mark.parametrize("split", ["train", "test"])
def test_both_splits_have_both_sexes_and_every_accent(split: str) -> None:
    voices = [v for v in user_voices() if v.split == split]
    sexes = [v.setting("variant") in FEMALE for v in voices]
    assert 0.2 < np.mean(sexes) < 0.8
    assert {v.setting("accent") for v in voices} == set(ACCENTS)
    assert {v.split for v in user_voices()} == {"train", "test"}
