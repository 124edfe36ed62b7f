"""What two voices that say the same have in common: log-mel spectra, each band at its own mean and spread."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

HOP_SEC = 0.0125
_WINDOW_SEC = 0.025
BANDS = 40
_LOW_HZ, _HIGH_HZ = 80.0, 7000.0
_FLOOR_DB = -60.0
"""Below the loudest frame: quieter is silence, whatever its spectrum."""
SPEECH_DB = -40.0
"""Louder than this below the loudest frame is speech, in a recording without noise."""
_DELTA = 2
"""Frames before and behind that a difference is taken over."""


def _mel(hz: float) -> float:
    return 2595.0 * float(np.log10(1.0 + hz / 700.0))


@lru_cache(maxsize=8)
def _filters(sample_rate: int, n_fft: int) -> Float32:
    """Triangles, shape (n_fft // 2 + 1, BANDS)."""
    high = min(_HIGH_HZ, 0.46 * sample_rate)
    mels = np.linspace(_mel(_LOW_HZ), _mel(high), BANDS + 2)
    edges = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    hz = np.arange(n_fft // 2 + 1) * (sample_rate / n_fft)
    rising = (hz[:, None] - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - hz[:, None]) / np.diff(edges)[1:]
    return np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)


@lru_cache(maxsize=8)
def _fast_length(least: int) -> int:
    """The next even number without a prime factor above 5: half the time of the next power of two."""
    n = least + least % 2
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 2


@lru_cache(maxsize=8)
def _window(length: int) -> Float32:
    return np.hanning(length + 2)[1:-1].astype(np.float32)


def log_mel(samples: Float32, sample_rate: int) -> Float32:
    """Natural logarithm of mel energies, shape (n_frames, BANDS); frame `i` is centred at `i * HOP_SEC`."""
    length = round(_WINDOW_SEC * sample_rate)
    n_fft = _fast_length(length)
    n_frames = int(len(samples) / sample_rate / HOP_SEC) + 1
    padded = np.zeros(len(samples) + 2 * length, np.float32)
    padded[length // 2 : length // 2 + len(samples)] = samples
    starts = np.rint(np.arange(n_frames) * (HOP_SEC * sample_rate)).astype(np.int64)
    frames = np.lib.stride_tricks.sliding_window_view(padded, length)[starts] * _window(length)
    spectrum = np.fft.rfft(frames, n_fft)
    power = spectrum.real**2 + spectrum.imag**2
    return np.log(power.astype(np.float32) @ _filters(sample_rate, n_fft) + np.float32(1e-10))


def loudness(mel: Float32) -> Float32:
    """Of each frame in dB below the loudest, at least the floor; shape (n_frames,)."""
    energy = np.log10(np.exp(mel).sum(axis=1)) * np.float32(10.0)
    return np.maximum(energy - energy.max(), np.float32(_FLOOR_DB)).astype(np.float32)


def features(mel: Float32, level: Float32) -> Float32:
    """What is compared, shape (n_frames, 2 * BANDS + 2): bands, their changes, loudness, its change.

    Means and spreads are taken over the frames that are speech, so that a long pause does not move them.
    """
    active = level > SPEECH_DB
    spoken = mel[active] if active.any() else mel
    bands = np.maximum(mel, spoken.max() - np.float32(_BAND_RANGE))
    spoken = bands[active] if active.any() else bands
    bands = (bands - spoken.mean(axis=0)) / (spoken.std(axis=0) + np.float32(_LEAST_SPREAD))
    change = _difference(bands)
    change /= change.std() + np.float32(1e-3)
    louder = level[:, None] / np.float32(10.0)
    parts = (bands, change, louder, _difference(louder))
    return np.concatenate([p * np.float32(w) for p, w in zip(parts, _WEIGHTS, strict=True)], axis=1)


_BAND_RANGE = 12.0
"""Natural logarithms below the loudest band: 52 dB; what is quieter is noise."""
_LEAST_SPREAD = 0.3
_WEIGHTS = (1.0 / BANDS**0.5, 0.7 / BANDS**0.5, 0.6, 0.6)
"""Each part weighs about as much as the next, however many numbers it has."""


def _difference(x: Float32) -> Float32:
    before = np.concatenate([x[:1].repeat(_DELTA, axis=0), x[:-_DELTA]])
    behind = np.concatenate([x[_DELTA:], x[-1:].repeat(_DELTA, axis=0)])
    return np.asarray(behind - before, np.float32)


# -- silence


def silence_threshold(level: Float32) -> float:
    """dB below the loudest frame; halfway up to speech in noise, -40 where there is none."""
    quiet, loud = np.percentile(level, (5, 90))
    if loud - quiet < _LEAST_CONTRAST_DB:
        return _FLOOR_DB
    return float(quiet + _THRESHOLD_SHARE * (loud - quiet))


def frames(seconds: float) -> int:
    return round(seconds / HOP_SEC)


def silences(level: Float32, threshold: float, least: int) -> list[tuple[int, int]]:
    """Runs of at least `least` frames below the threshold, as (first, behind last)."""
    quiet = np.concatenate([[0], (level < threshold).astype(np.int8), [0]])
    edges = np.flatnonzero(np.diff(quiet)).reshape(-1, 2)
    return [(int(a), int(b)) for a, b in edges if b - a >= least]


def speech_bounds(level: Float32, threshold: float) -> tuple[int, int]:
    """First and behind-last frame that is speech; the whole recording where none is."""
    active = np.flatnonzero(level > max(threshold, SPEECH_DB))
    return (int(active[0]), int(active[-1]) + 1) if len(active) else (0, len(level))


_LEAST_CONTRAST_DB = 6.0
_THRESHOLD_SHARE = 0.3
