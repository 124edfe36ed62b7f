from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Talk, talks

from duplexdata.audio import (
    Recording,
    from_flac,
    load_audio,
    record,
    render,
    render_assistant,
    to_flac,
)
from duplexdata.conversation import negative_spans
from duplexdata.dialogue import Channel, Pause
from duplexdata.errors import ScriptError
from duplexdata.speech.base import Speech, WordTime
from duplexdata.units import SAMPLE_RATE
from duplexdata.vad import FRAME, sounding, stretches

FADE = SAMPLE_RATE // 100


def tone(seconds: float, rate: int, amplitude: float = 0.3) -> np.ndarray:
    """Loud from its first sample to its last."""
    t = np.arange(int(seconds * rate)) / rate
    return (amplitude * np.cos(2 * np.pi * 220 * t)).astype(np.float32)


def silence(seconds: float, rate: int) -> np.ndarray:
    return np.zeros(int(seconds * rate), np.float32)


def level(samples: np.ndarray) -> float:
    """dBFS of the frames that are speech."""
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME) / 32768
    energy = (frames**2).mean(axis=1)
    return float(10 * np.log10(energy[energy > energy.max() * 1e-4].mean()))


RATES = st.sampled_from([8_000, 16_000, 22_050, 24_000, 48_000])


@given(RATES, st.floats(0, 0.6), st.floats(0.05, 2), st.floats(0, 0.6))
def test_silence_at_both_ends_is_trimmed_to_a_frame(rate: int, before: float, length: float, behind: float) -> None:
    x = np.concatenate([silence(before, rate), tone(length, rate), silence(behind, rate)])
    found = record(Speech(x, rate, None), level_dbfs=-26).samples
    # A frame cut at either end, and what the resampler smears.
    assert abs(len(found) / SAMPLE_RATE - length) <= 0.02 + 0.01


@given(RATES, st.floats(-60, -1), st.sampled_from([-30.0, -26.0, -20.0]))
def test_every_take_has_the_level_asked_for(rate: int, loudness: float, wanted: float) -> None:
    x = np.concatenate([silence(0.2, rate), tone(0.5, rate, 10 ** (loudness / 20)), silence(0.3, rate)])
    found = record(Speech(x, rate, None), level_dbfs=wanted)
    assert abs(level(found.samples) - wanted) <= 0.5
    assert found.take.length == len(found.samples)
    assert found.samples.dtype == np.int16


def test_a_silence_inside_counts_for_nothing_in_the_level() -> None:
    parts = [tone(0.4, SAMPLE_RATE), silence(1.0, SAMPLE_RATE), tone(0.4, SAMPLE_RATE)]
    assert abs(level(record(Speech(np.concatenate(parts), SAMPLE_RATE, None), level_dbfs=-26).samples) + 26) <= 0.5


def test_a_peak_is_never_clipped() -> None:
    x = tone(1.0, SAMPLE_RATE, 0.01)
    x[8000] = -1.0
    found = record(Speech(x, SAMPLE_RATE, None), level_dbfs=-6).samples
    assert 0.9 * 32767 < np.abs(found.astype(int)).max() < 32767


def test_a_take_begins_and_ends_at_nothing() -> None:
    found = record(Speech(tone(0.5, SAMPLE_RATE), SAMPLE_RATE, None), level_dbfs=-26).samples.astype(int)
    assert abs(found[0]) < 100
    assert abs(found[-1]) < 100


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (np.zeros(16_000, np.float32), "silent_speech"),
        (np.zeros(0, np.float32), "silent_speech"),
        (np.full(16_000, np.nan, np.float32), "bad_samples"),
        (np.full(16_000, np.inf, np.float32), "bad_samples"),
    ],
)
def test_what_is_no_sound_is_an_error_with_a_reason(samples: np.ndarray, reason: str) -> None:
    with pytest.raises(ScriptError) as error:
        record(Speech(samples, SAMPLE_RATE, None), level_dbfs=-26)
    assert error.value.reason == reason


def two_words(rate: int, before: float = 0.25) -> Speech:
    """A word of 0.5 s, 0.1 s of silence, a word of 0.4 s."""
    parts = [silence(before, rate), tone(0.5, rate), silence(0.1, rate), tone(0.4, rate), silence(0.3, rate)]
    at = [before, before + 0.5, before + 0.6, before + 1.0]
    a, b, c, d = (int(t * rate) for t in at)
    return Speech(np.concatenate(parts), rate, (WordTime("one", a, b), WordTime("two", c, d)))


@given(RATES, st.floats(0, 0.5))
def test_word_times_go_with_the_sound(rate: int, before: float) -> None:
    take = record(two_words(rate, before), level_dbfs=-26).take
    found = np.concatenate([take.word_starts, take.word_ends])
    assert np.abs(found - np.array([0, 0.6, 0.5, 1.0]) * SAMPLE_RATE).max() <= 2 * FRAME
    assert (found >= 0).all()
    assert (found <= take.length).all()


@given(st.floats(0.05, 2))
def test_a_pause_is_a_silence_of_its_length_between_two_words(seconds: float) -> None:
    speech = two_words(SAMPLE_RATE)
    plain = record(speech, level_dbfs=-26)
    paused = record(speech, level_dbfs=-26, pause=Pause(0, seconds))
    n = int(seconds * SAMPLE_RATE + 0.5)
    assert paused.take.length == len(paused.samples) == plain.take.length + n
    assert np.array_equal(paused.take.word_starts, plain.take.word_starts + [0, n])
    assert np.array_equal(paused.take.word_ends, plain.take.word_ends + [0, n])
    (_, first), (second, _) = stretches(sounding(paused.samples))
    assert abs(second - first - n - 0.1 * SAMPLE_RATE) <= 3 * FRAME


def test_a_pause_behind_the_last_word_or_without_word_times_is_left_out() -> None:
    speech = two_words(SAMPLE_RATE)
    plain = record(speech, level_dbfs=-26).samples
    assert np.array_equal(record(speech, level_dbfs=-26, pause=Pause(1, 1.0)).samples, plain)
    assert np.array_equal(record(replace(speech, words=None), level_dbfs=-26, pause=Pause(0, 1.0)).samples, plain)


# -- two channels


def recordings(talk: Talk, order: tuple[int, ...], seed: int) -> list[Recording]:
    """Noise that never falls silent, one per utterance of the conversation."""
    rng = np.random.default_rng(seed)
    return [
        Recording(
            talk.takes[i], (rng.integers(2000, 4000, talk.takes[i].length) * rng.choice([-1, 1])).astype(np.int16)
        )
        for i in order
    ]


@given(talks(), st.integers(0, 99))
@settings(max_examples=25)
def test_each_channel_sounds_exactly_where_its_utterances_are(talk: Talk, seed: int) -> None:
    timeline = talk.scheduled()
    conversation = timeline.conversation
    takes = recordings(talk, timeline.order, seed)
    out = render(conversation, takes, FADE)
    assert out.shape == (conversation.n_samples, 2)
    expected = np.zeros_like(out)
    for u, r in zip(conversation.utterances, takes, strict=True):
        column = 1 if u.channel is Channel.USER else 0
        faded = u.end - FADE if u.cut else u.end
        assert np.array_equal(out[u.start : faded, column], r.samples[: faded - u.start])
        expected[u.start : u.end, column] = 1
        if u.cut:
            # Falls from full to (next to) nothing.
            gain = np.abs(out[faded : u.end, column]) / np.abs(r.samples[faded - u.start : u.end - u.start])
            assert np.abs(gain - np.linspace(1, 0, FADE)).max() < 0.01
            assert abs(out[u.end - 1, column]) < 100
    assert not out[expected == 0].any()


@given(talks(), st.integers(0, 99))
@settings(max_examples=25)
def test_the_negative_is_the_assistants_takes_at_their_other_times(talk: Talk, seed: int) -> None:
    timeline = talk.scheduled()
    conversation = timeline.conversation
    takes = recordings(talk, timeline.order, seed)
    same = [(u.start, u.end) for u in conversation.utterances]
    assert np.array_equal(render_assistant(conversation, takes, same, FADE), render(conversation, takes, FADE)[:, 0])
    late = negative_spans(conversation.utterances, timeline.negative)
    out = render_assistant(conversation, takes, late, FADE)
    for u, r, (a, b) in zip(conversation.utterances, takes, late, strict=True):
        if u.channel is Channel.ASSISTANT:
            whole = b - a == r.take.length
            assert np.array_equal(out[a : b - FADE * (not whole)], r.samples[: b - a - FADE * (not whole)])


@given(talks())
@settings(max_examples=10)
def test_only_the_channels_asked_for_are_filled(talk: Talk) -> None:
    timeline = talk.scheduled()
    takes = recordings(talk, timeline.order, 0)
    both = render(timeline.conversation, takes, FADE)
    for column, channel in enumerate((Channel.ASSISTANT, Channel.USER)):
        only = render(timeline.conversation, takes, FADE, (channel,))
        assert np.array_equal(only[:, column], both[:, column])
        assert not only[:, 1 - column].any()


# -- FLAC


@given(st.integers(0, 2**32 - 1), st.integers(1, 5000), st.booleans())
@settings(max_examples=25)
def test_flac_gives_the_samples_back(seed: int, n: int, stereo: bool) -> None:
    rng = np.random.default_rng(seed)
    samples = rng.integers(-32_768, 32_768, (n, 2) if stereo else n).astype(np.int16)
    data = to_flac(samples)
    assert data[:4] == b"fLaC"
    assert np.array_equal(from_flac(data), samples)
    assert to_flac(samples) == data


def test_a_row_is_loaded_as_assistant_and_user() -> None:
    samples = np.array([[1, -2], [3, -4], [32_767, -32_768]], np.int16)
    found, rate = load_audio({"id": "a", "audio": {"bytes": to_flac(samples), "path": None}})
    assert rate == SAMPLE_RATE
    assert found.dtype == np.float32
    assert np.array_equal(found, samples.T.astype(np.float32) / 32768)


def test_what_is_no_audio_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="'a' has no audio"):
        load_audio({"id": "a", "audio": None})
    with pytest.raises(ValueError, match="not decodable"):
        from_flac(b"fLaC and no more")
