"""Every effect is measured on the sound that comes out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from duplexdata.augment.draw import Augmentation, Distance, Echo, Noise, Room
from duplexdata.augment.signal import (
    MOST_PEAK,
    UnusableNoise,
    augment,
    coloured_noise,
    from_afar,
    reverberate,
)
from duplexdata.conversation import Spoken
from duplexdata.dialogue import Channel, Kind
from duplexdata.units import SAMPLE_RATE
from duplexdata.vad import FRAME, frame_energy, speech_frames

Int16 = npt.NDArray[np.int16]
Float32 = npt.NDArray[np.float32]
SECOND = SAMPLE_RATE
NONE = np.zeros(0, np.int64)


def said(channel: Channel, kind: Kind, start: float, end: float) -> Spoken:
    a, b = int(start * SECOND), int(end * SECOND)
    return Spoken(channel, kind, "words", a, b, False, "corpus", "ann", NONE, NONE)


QUERY = said(Channel.USER, Kind.QUERY, 0.5, 3.0)
REPLY = said(Channel.ASSISTANT, Kind.REPLY, 3.8, 7.0)
ASIDE = said(Channel.USER, Kind.DISTRACTOR, 5.0, 6.5)
AGAIN = said(Channel.USER, Kind.QUERY, 8.0, 9.5)
TALK = (QUERY, REPLY, ASIDE, AGAIN)
LENGTH = 10 * SECOND


def babble(n: int, seed: int, level: float = 0.05) -> Int16:
    """Noise with the syllables and about the spectrum of speech."""
    rng = np.random.default_rng(seed)
    sos = signal.butter(1, 600, "lowpass", fs=SAMPLE_RATE, output="sos")
    x = signal.sosfilt(sos, rng.standard_normal(n)) * (0.15 + np.abs(np.sin(np.arange(n) * 2 * np.pi * 2.1 / SECOND)))
    return np.rint(np.clip(level * 32768 * x / x.std(), -30000, 30000)).astype(np.int16)


def channels(level: float = 0.05) -> tuple[Int16, Int16]:
    """The user's and the assistant's."""
    both = np.zeros((2, LENGTH), np.int16)
    for i, u in enumerate(TALK):
        both[0 if u.channel is Channel.USER else 1, u.start : u.end] = babble(u.end - u.start, i, level)
    return both[0], both[1]


def heard(augmentation: Augmentation, noise: Float32 | None = None) -> Int16:
    return augment(*channels(), TALK, augmentation, noise).samples


def power(x: npt.NDArray[np.generic]) -> float:
    return float(np.mean(x.astype(np.float64) ** 2))


def db(ratio: float) -> float:
    return 10 * math.log10(ratio)


def speech_level(x: Int16, dry: Int16) -> float:
    """Power over the frames in which the user's queries are heard in the dry channel."""
    energies = [
        frame_energy(x[u.start : u.end].astype(np.float32))[
            speech_frames(frame_energy(dry[u.start : u.end].astype(np.float32)))
        ]
        for u in (QUERY, AGAIN)
    ]
    return float(np.concatenate(energies).mean())


def test_nothing_drawn_changes_no_sample() -> None:
    user, assistant = channels()
    out = augment(user, assistant, TALK, Augmentation())
    assert np.array_equal(out.samples, user)
    assert out.scale_db == 0


def test_neither_channel_that_goes_in_is_written_to() -> None:
    user, assistant = channels()
    before = user.copy(), assistant.copy()
    everything = Augmentation(6.0, Room(0.4, 3.0, 1), Echo(50.0, 10.0, True), Noise("pink", 10.0, 2))
    augment(user, assistant, TALK, everything)
    assert np.array_equal(user, before[0])
    assert np.array_equal(assistant, before[1])


@pytest.mark.parametrize("gain", [-12.0, -3.0, 4.5])
def test_the_gain_is_the_one_drawn(gain: float) -> None:
    user, _ = channels()
    assert db(power(heard(Augmentation(gain))) / power(user)) == pytest.approx(gain, abs=0.02)


# -- noise


@pytest.mark.parametrize("kind", ["white", "pink", "brown"])
@pytest.mark.parametrize("snr", [0.0, 12.5, 30.0])
@pytest.mark.parametrize("before", [Augmentation(), Augmentation(-5.0, Room(0.5, 2.0, 9), Echo(120.0, 12.0, False))])
def test_speech_stands_above_the_noise_by_the_drawn_ratio(kind: str, snr: float, before: Augmentation) -> None:
    quiet = Augmentation(before.gain_db, before.room, None, None)
    noisy = Augmentation(before.gain_db, before.room, before.echo, Noise(kind, snr, seed=5))
    echoing = Augmentation(before.gain_db, before.room, before.echo, None)
    noise = heard(noisy).astype(np.int32) - heard(echoing)
    assert db(speech_level(heard(quiet), channels()[0]) / power(noise)) == pytest.approx(snr, abs=0.5)


def test_noise_from_a_recording_stands_at_the_drawn_ratio_whatever_its_own_level() -> None:
    user, _ = channels()
    recording = (0.3 * coloured_noise("pink", LENGTH, 1)).astype(np.float32)
    drawn = Augmentation(noise=Noise("file", 15.0, file="street.wav", offset=0))
    one, other = heard(drawn, recording), heard(drawn, recording * np.float32(1e-3))
    assert db(speech_level(user, user) / power(one.astype(np.int32) - user)) == pytest.approx(15.0, abs=0.5)
    assert np.abs(one.astype(np.int32) - other).max() <= 1


@pytest.mark.parametrize("bad", [np.zeros(LENGTH, np.float32), np.full(LENGTH, np.nan, np.float32)])
def test_a_recording_that_is_silent_or_no_numbers_is_refused(bad: Float32) -> None:
    with pytest.raises(UnusableNoise):
        heard(Augmentation(noise=Noise("file", 15.0, file="bad.wav", offset=0)), bad)


def test_a_recording_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="expected"):
        heard(Augmentation(noise=Noise("file", 15.0, file="x.wav", offset=0)), np.ones(5, np.float32))


@pytest.mark.parametrize(("kind", "slope"), [("white", 0.0), ("pink", -3.01), ("brown", -6.02)])
def test_coloured_noise_falls_by_so_much_an_octave(kind: str, slope: float) -> None:
    noise = coloured_noise(kind, 60 * SECOND, 3)
    frequency, density = signal.welch(noise, SAMPLE_RATE, nperseg=8192, detrend=False)
    inside = (frequency > 100) & (frequency < 6000)
    found = np.polyfit(np.log2(frequency[inside]), 10 * np.log10(density[inside]), 1)[0]
    assert found == pytest.approx(slope, abs=0.2)
    assert density[frequency < 30].max() < 1e-3 * density[inside].max()


# -- room


def response(room: Room) -> Float32:
    impulse = np.zeros(3 * SECOND, np.float32)
    impulse[0] = 1
    return reverberate(impulse, room)


def schroeder(tail: Float32) -> float:
    """RT60 from the backward integrated energy between -5 and -35 dB (T30 of ISO 3382)."""
    left = np.cumsum(tail[::-1].astype(np.float64) ** 2)[::-1]
    curve = 10 * np.log10(left / left[0] + 1e-12)
    part = np.flatnonzero((curve <= -5) & (curve >= -35))
    return float(-60 / (np.polyfit(part / SAMPLE_RATE, curve[part], 1)[0]))


@pytest.mark.parametrize("rt60", [0.1, 0.2, 0.4, 0.8, 1.5])
@pytest.mark.parametrize("drr", [-5.0, 0.0, 15.0])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_room_decays_and_stands_below_the_direct_sound_as_drawn(rt60: float, drr: float, seed: int) -> None:
    found = response(Room(rt60, drr, seed))
    assert found[0] == pytest.approx(1, abs=1e-4)  # the direct sound: not later, not louder
    assert schroeder(found[1:]) == pytest.approx(rt60, rel=0.15)
    assert db(float(found[0]) ** 2 / float(found[1:] @ found[1:])) == pytest.approx(drr, abs=0.2)


def test_a_room_moves_nothing_and_is_cut_off_at_the_end() -> None:
    user, _ = channels()
    out = heard(Augmentation(room=Room(0.6, 3.0, 4)))
    assert len(out) == len(user)
    assert not out[: QUERY.start].any()
    lag = np.argmax(signal.correlate(out.astype(np.float64), user.astype(np.float64), "full", "fft")) - (LENGTH - 1)
    assert lag == 0
    assert power(out[QUERY.end : QUERY.end + FRAME * 10]) > 0


# -- echo


@pytest.mark.parametrize(("delay", "attenuation"), [(0.0, 0.0), (20.0, 10.0), (133.7, 25.0), (500.0, 40.0)])
@pytest.mark.parametrize("filtered", [False, True])
def test_the_echo_comes_at_the_drawn_delay_and_level(delay: float, attenuation: float, filtered: bool) -> None:
    user, assistant = channels()
    echo = heard(Augmentation(echo=Echo(delay, attenuation, filtered))).astype(np.float64) - user
    played = assistant.astype(np.float64)
    if filtered:  # what the loudspeaker plays
        sos = signal.butter(4, (800, 2500), "bandpass", fs=SAMPLE_RATE, output="sos")
        echo, played = (signal.sosfilt(sos, x) for x in (echo, played))
    correlation = signal.correlate(echo, played, "full", "fft")
    lag = int(np.argmax(correlation)) - (LENGTH - 1)
    assert lag == pytest.approx(delay * SECOND / 1000, abs=8 if filtered else 0.51)
    level = 20 * math.log10(correlation.max() / float(played @ played))
    assert level == pytest.approx(-attenuation, abs=0.5)


def test_an_echo_that_comes_behind_the_end_is_not_heard() -> None:
    user, assistant = channels()
    out = augment(user[:SECOND], assistant[:SECOND], (QUERY,), Augmentation(echo=Echo(1500.0, 0.0, False)))
    assert np.array_equal(out.samples, user[:SECOND])


def test_gain_and_room_leave_the_echo_alone() -> None:
    user, assistant = channels()
    silent = np.zeros_like(user)
    echo = Echo(100.0, 10.0, False)
    one = augment(silent, assistant, TALK, Augmentation(echo=echo)).samples
    other = augment(silent, assistant, TALK, Augmentation(-10.0, Room(0.5, 0.0, 1), echo)).samples
    assert np.array_equal(one, other)
    assert one.any()


# -- distractors


def spectrum_db(x: Float32, low: float, high: float) -> float:
    frequency, density = signal.welch(x, SAMPLE_RATE, nperseg=2048)
    return db(float(density[(frequency >= low) & (frequency < high)].mean()))


@pytest.mark.parametrize(("acoustics", "level"), [("side_talk", -8.0), ("background", -15.0)])
def test_a_distractor_is_as_much_quieter_as_is_said(acoustics: str, level: float) -> None:
    user, _ = channels()
    out = heard(Augmentation(distractors=(Distance(2, acoustics, level),)))
    reach = slice(ASIDE.start, ASIDE.end + SECOND // 4)
    assert db(power(out[reach]) / power(user[reach])) == pytest.approx(level, abs=0.1)
    rest = np.ones(LENGTH, bool)
    rest[reach] = False
    assert np.array_equal(out[rest], user[rest])


def test_the_background_has_nothing_left_above_its_low_pass() -> None:
    x = np.random.default_rng(1).standard_normal(8 * SECOND).astype(np.float32)
    out = from_afar(x, Distance(0, "background", -15.0))
    passed = spectrum_db(out, 200, 2000)
    assert spectrum_db(out, 2950, 3050) == pytest.approx(passed - 3, abs=0.7)
    assert spectrum_db(out, 6000, 7900) < passed - 24


def test_side_talk_is_duller_and_reflected_after_45_and_120_ms() -> None:
    impulse = np.zeros(SECOND // 2, np.float32)
    impulse[0] = 1
    out = from_afar(impulse, Distance(0, "side_talk", 0.0))
    loudest = sorted(int(i) for i in np.argsort(-np.abs(out), kind="stable")[:40] if i in (0, 720, 1920))
    assert loudest == [0, 720, 1920]
    assert 20 * math.log10(abs(out[720] / out[0])) == pytest.approx(-6, abs=0.1)
    assert 20 * math.log10(abs(out[1920] / out[0])) == pytest.approx(-10, abs=0.1)
    direct = np.abs(np.fft.rfft(out[:700], SECOND))
    cut = 20 * np.log10(direct[[200, 3000, 7500]] / direct[200])
    assert cut[1] == pytest.approx(-4.5, abs=0.3)
    assert cut[2] == pytest.approx(-9, abs=0.3)


def test_a_distractor_that_runs_into_the_end_is_cut_off_there() -> None:
    user, assistant = channels()
    n = ASIDE.end + 10
    out = augment(user[:n], assistant[:n], TALK[:3], Augmentation(distractors=(Distance(2, "side_talk", -8.0),)))
    assert len(out.samples) == n


# -- no clipping


def test_what_would_clip_is_scaled_as_a_whole() -> None:
    user, assistant = channels(level=0.2)
    out = augment(user, assistant, TALK, Augmentation(24.0))
    assert int(np.abs(out.samples.astype(np.int32)).max()) == round(MOST_PEAK * 32768)
    assert out.scale_db < 0
    expected = user * 10 ** ((24.0 + out.scale_db) / 20)
    assert np.abs(out.samples - expected).max() < 1


GAINS = st.floats(-40, 40)
ROOMS = st.builds(Room, st.floats(0.05, 0.6), st.floats(-20, 40), st.integers(0, 2**53 - 1))
ECHOES = st.builds(Echo, st.floats(0, 2000), st.floats(0, 80), st.booleans())
NOISES = st.builds(Noise, st.sampled_from(["white", "pink", "brown"]), st.floats(-20, 80), st.integers(0, 2**53 - 1))


@st.composite
def timelines(draw: st.DrawFn) -> tuple[Int16, Int16, Sequence[Spoken]]:
    """Both channels with any samples in them, and utterances of the user that do not overlap."""
    n = draw(st.integers(1, 12_000))
    edges = sorted(set(draw(st.lists(st.integers(0, n), max_size=8))))
    kinds = draw(st.lists(st.sampled_from([Kind.QUERY, Kind.DISTRACTOR]), min_size=8, max_size=8))
    talk = tuple(
        Spoken(Channel.USER, kind, "words", a, b, False, "corpus", "ann", NONE, NONE)
        for a, b, kind in zip(edges[::2], edges[1::2], kinds, strict=False)
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    most = draw(st.sampled_from([1, 200, 32768]))
    both = rng.integers(-most, most, (2, n)).astype(np.int16)
    both[:, : draw(st.integers(0, n))] = 0
    return both[0], both[1], talk


@settings(max_examples=60)
@given(
    timelines(), st.none() | GAINS, st.none() | ROOMS, st.none() | ECHOES, st.none() | NOISES,
    st.sampled_from(["side_talk", "background"]),
)  # fmt: skip
def test_whatever_is_drawn_the_channel_keeps_its_length_and_does_not_clip(
    talk: tuple[Int16, Int16, Sequence[Spoken]],
    gain: float | None,
    room: Room | None,
    echo: Echo | None,
    noise: Noise | None,
    acoustics: str,
) -> None:
    user, assistant, utterances = talk
    afar = tuple(Distance(i, acoustics, -8.0) for i, u in enumerate(utterances) if u.kind is Kind.DISTRACTOR)
    drawn = Augmentation(gain, room, echo, noise, afar)
    out = augment(user, assistant, utterances, drawn)
    assert out.samples.dtype == np.int16
    assert out.samples.shape == user.shape
    assert math.isfinite(out.scale_db)
    assert out.scale_db <= 0
    if drawn != Augmentation():
        assert int(np.abs(out.samples.astype(np.int32)).max()) <= round(MOST_PEAK * 32768)
    assert np.array_equal(out.samples, augment(user, assistant, utterances, drawn).samples)
