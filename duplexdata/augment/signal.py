"""Sound as the user's microphone hears it: samples in, samples out. float32 in [-1, 1] at 16 kHz inside.

In this order: what is heard from afar (distractors), the room around it, the gain, the assistant's echo, noise; at
last the scale that keeps it all from clipping. Nothing is moved: the direct sound stays where it was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy import fft, signal

from duplexdata.augment.draw import Augmentation, Distance, Echo, Room
from duplexdata.conversation import Spoken
from duplexdata.dialogue import Channel, Kind
from duplexdata.units import SAMPLE_RATE, to_samples
from duplexdata.vad import FRAME, frame_energy, speech_frames

Int16 = npt.NDArray[np.int16]
Float32 = npt.NDArray[np.float32]
Sections = npt.NDArray[np.float64]

MOST_PEAK = 0.97
"""Of full scale. A channel that would go above it is scaled down as a whole."""

_SHELF_HZ, _SHELF_DB = 3000.0, -9.0
"""Of side talk: a mouth that is turned away loses its highs."""
_REFLECTIONS = ((0.045, -6.0), (0.120, -10.0))
"""Of side talk: seconds behind the direct sound, and dB against it."""
_LOW_PASS_HZ = 3000.0
"""Of what comes from the background."""
_LOUDSPEAKER_HZ = (300.0, 6000.0)
"""What a phone's loudspeaker plays."""
_LOWEST_HZ = 50.0
"""Of generated noise: below it brown noise has most of its power, and a microphone records little."""


class UnusableNoise(ValueError):
    """A recording's stretch that cannot be brought to any level."""


@dataclass(frozen=True, slots=True)
class Augmented:
    """Attributes:
    samples: int16, shape (n_samples,).
    scale_db: what kept it from clipping; 0 where nothing was needed, below 0 else.
    """

    samples: Int16
    scale_db: float


def augment(
    user: Int16,
    assistant: Int16,
    utterances: Sequence[Spoken],
    augmentation: Augmentation,
    noise: Float32 | None = None,
) -> Augmented:
    """The user's channel as it is heard.

    The user's utterances must not overlap each other (no conversation's do): a distractor is what the channel holds
    during it. The echo is that of the assistant's channel as given; a preference pair has one user channel, so that
    its negative keeps the echo of the chosen side. Gain and room are the user's alone; neither acts on echo or noise.

    Args:
        user, assistant: rendered channels, int16, shape (n_samples,) each.
        noise: for an augmentation whose noise comes from a file; float32, shape (n_samples,), at any level.

    Returns: as many samples as went in. Where the peak would be above `MOST_PEAK`, all of it is scaled down.
    Raises:
        UnusableNoise: the recording's stretch is silent or not finite.
        ValueError: shapes do not fit, or there is no noise where a file's is wanted.
    """
    if user.shape != assistant.shape or user.ndim != 1:
        raise ValueError(f"channels have shapes {user.shape} and {assistant.shape}, expected one and the same length")
    own = _float(user)
    heard = own.copy()
    for distance in augmentation.distractors:
        u = utterances[distance.utterance]
        heard[u.start : u.end] = 0
        _add(heard, u.start, from_afar(own[u.start : u.end], distance))
    if augmentation.room is not None:
        heard = reverberate(heard, augmentation.room)
    if augmentation.gain_db is not None:
        heard *= np.float32(_factor(augmentation.gain_db))
    # Noise is measured against the user alone, not against the echo.
    power = speech_power(heard, own, utterances) if augmentation.noise is not None else 0.0
    if augmentation.echo is not None:
        heard += echo_of(_float(assistant), augmentation.echo)
    if (drawn := augmentation.noise) is not None:
        added = coloured_noise(drawn.kind, len(user), drawn.seed or 0) if drawn.kind != "file" else noise
        if added is None or added.shape != user.shape:
            raise ValueError(
                f"noise of {drawn.file} is {None if added is None else added.shape}, expected {user.shape}"
            )
        heard += _at_power(added, power * 10 ** (-drawn.snr_db / 10))
    return _limited(heard)


def from_afar(samples: Float32, distance: Distance) -> Float32:
    """A distractor at its distance: filtered, reflected, and then brought to the stated part of its energy.

    Returns: longer than `samples` by its last reflection.
    """
    if distance.acoustics == "side_talk":
        direct = _filtered(_high_shelf(), samples)
        behind = [(to_samples(seconds), db) for seconds, db in _REFLECTIONS]
        out = np.zeros(len(samples) + max(delay for delay, _ in behind), np.float32)
        out[: len(samples)] = direct
        for delay, db in behind:
            out[delay : delay + len(samples)] += direct * np.float32(_factor(db))
    elif distance.acoustics == "background":
        out = _filtered(_low_pass(), samples)
    else:
        raise ValueError(f"acoustics are {distance.acoustics!r}, expected side_talk or background")
    before, after = _energy(samples), _energy(out)
    if not after > 0:
        return out
    return out * np.float32(_factor(distance.level_db) * math.sqrt(before / after))


def room_response(room: Room) -> Float32:
    """The direct sound at sample 0, with gain 1; behind it Gaussian noise that decays by 60 dB in `rt60_sec`.

    Source: Polack's statistical model of late reverberation (J.-D. Polack, PhD thesis, 1988).

    Returns: shape (about rt60_sec * 16000,).
    """
    n = max(2, to_samples(room.rt60_sec))
    tail = np.random.Generator(np.random.PCG64(room.seed)).standard_normal(n - 1)
    tail *= 10 ** (-3 * np.arange(1, n) / (room.rt60_sec * SAMPLE_RATE))
    tail *= math.sqrt(10 ** (-room.drr_db / 10) / float(tail @ tail))
    return np.concatenate([[1.0], tail]).astype(np.float32)


def reverberate(samples: Float32, room: Room) -> Float32:
    """The direct sound keeps time and level; what reverberates behind the end is cut off."""
    if not len(samples):
        return samples
    wet: Float32 = signal.oaconvolve(samples, room_response(room))[: len(samples)]
    return wet.astype(np.float32)


def echo_of(assistant: Float32, echo: Echo) -> Float32:
    """The assistant's channel, late and quieter, same shape; what comes behind the end is cut off."""
    delay = to_samples(echo.delay_ms / 1000)
    out = np.zeros_like(assistant)
    if delay < len(out):
        out[delay:] = assistant[: len(out) - delay]
        out *= np.float32(_factor(-echo.attenuation_db))
    return _filtered(_loudspeaker(), out) if echo.filtered else out


def coloured_noise(kind: str, n: int, seed: int) -> Float32:
    """Gaussian noise from 50 Hz up, shape (n,): "white", "pink" (power falls by 3 dB an octave), "brown" (6 dB)."""
    slopes = {"white": 0.0, "pink": 0.5, "brown": 1.0}
    if kind not in slopes:
        raise ValueError(f"noise is {kind!r}, expected one of {', '.join(slopes)}")
    length = fft.next_fast_len(max(n, FRAME), real=True)
    rng = np.random.Generator(np.random.PCG64(seed))
    spectrum = fft.rfft(rng.standard_normal(length, np.float32))
    frequency = fft.rfftfreq(length, 1 / SAMPLE_RATE).astype(np.float32)
    shape = np.zeros(len(frequency), np.float32)
    kept = frequency >= _LOWEST_HZ
    shape[kept] = (frequency[kept] / 1000) ** np.float32(-slopes[kind])
    coloured: Float32 = fft.irfft(spectrum * shape, length)[:n]
    return coloured.astype(np.float32)


def speech_power(heard: Float32, own: Float32, utterances: Sequence[Spoken]) -> float:
    """Mean square of `heard` over the 10 ms frames in which the user speaks, distractors left out.

    Args:
        own: the channel as rendered, which says where that is.

    Returns: 0 where the user says nothing.
    """
    found = []
    for u in utterances:
        if u.channel is Channel.USER and u.kind is not Kind.DISTRACTOR:
            active = speech_frames(frame_energy(own[u.start : u.end]))
            found.append(frame_energy(heard[u.start : u.end])[active])
    energies = np.concatenate(found) if found else np.zeros(0, np.float32)
    return float(energies.mean(dtype=np.float64)) if len(energies) else 0.0


def _at_power(noise: Float32, power: float) -> Float32:
    own = _energy(noise) / len(noise) if len(noise) else 0.0
    if not math.isfinite(own):
        raise UnusableNoise("has samples that are no numbers")
    if not own > 1e-12:
        raise UnusableNoise("is silent")
    return noise * np.float32(math.sqrt(power / own))


def _limited(samples: Float32) -> Augmented:
    peak = float(np.abs(samples).max(initial=0.0))
    scale = MOST_PEAK / peak if peak > MOST_PEAK else 1.0
    out = np.rint(samples * np.float32(scale * 32768)).astype(np.int16)
    return Augmented(out, 20 * math.log10(scale) if scale < 1 else 0.0)


def _add(channel: Float32, start: int, samples: Float32) -> None:
    """What reaches beyond the end is cut off."""
    channel[start : start + len(samples)] += samples[: max(0, len(channel) - start)]


def _float(samples: Int16) -> Float32:
    return np.multiply(samples, np.float32(1 / 32768), dtype=np.float32)


def _energy(samples: Float32) -> float:
    x = samples.astype(np.float64)
    return float(x @ x)


def _factor(db: float) -> float:
    return float(10 ** (db / 20))


# -- filters


def _filtered(sections: Sections, samples: Float32) -> Float32:
    out: Float32 = signal.sosfilt(sections, samples).astype(np.float32)
    return out


@cache
def _low_pass() -> Sections:
    sections: Sections = signal.butter(4, _LOW_PASS_HZ, "lowpass", fs=SAMPLE_RATE, output="sos")
    return sections


@cache
def _loudspeaker() -> Sections:
    sections: Sections = signal.butter(2, _LOUDSPEAKER_HZ, "bandpass", fs=SAMPLE_RATE, output="sos")
    return sections


@cache
def _high_shelf() -> Sections:
    """Source: R. Bristow-Johnson, Cookbook formulae for audio EQ biquad filter coefficients, highShelf, S = 1."""
    a = 10 ** (_SHELF_DB / 40)
    w = 2 * math.pi * _SHELF_HZ / SAMPLE_RATE
    c, alpha = math.cos(w), math.sin(w) / math.sqrt(2)
    r = 2 * math.sqrt(a) * alpha
    b0, b1, b2 = a * (a + 1 + (a - 1) * c + r), -2 * a * (a - 1 + (a + 1) * c), a * (a + 1 + (a - 1) * c - r)
    a0, a1, a2 = a + 1 - (a - 1) * c + r, 2 * (a - 1 - (a + 1) * c), a + 1 - (a - 1) * c - r
    return np.array([[b0 / a0, b1 / a0, b2 / a0, 1.0, a1 / a0, a2 / a0]])
