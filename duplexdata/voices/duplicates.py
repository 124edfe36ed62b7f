"""Recordings that are the same one again: at another level, rate or length of silence, or encoded anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from duplexdata.voices.judge import Float32, frame_energy

Complex64 = npt.NDArray[np.complex64]

_BANDS = ((80, 600), (600, 1500), (1500, 3500))
"""Hz: what every rate and coding keeps."""
_HOPS_PER_SECOND = 100
_HOPS = 5
"""Length of a window: 50 ms."""
_FRAMES = 1024
"""Of a contour: 10.24 s, as long as a prompt may be."""
_ALIKE = 0.92
"""Correlation from which on two contours are one recording's: copies in other codings stay above 0.95, one engine's
voices with the same sentence below 0.88."""
_LOUD_DB = 25.0
_APART_SEC = 0.15
_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Contour:
    """How a recording's energy rises and falls.

    Attributes:
        seconds: from the first to the last frame that is within 25 dB of the loudest.
        spectrum: Fourier transform of the changes of loudness in three bands, shape (3, 1025), scaled so that a
            contour's correlation with itself is 1.
    """

    seconds: float
    spectrum: Complex64


def contour(samples: Float32, sample_rate: int) -> Contour:
    """
    Args:
        samples: mono, shape (n_samples,), not silent.
    """
    hop = sample_rate // _HOPS_PER_SECOND
    energy = frame_energy(samples, hop)
    loud = np.flatnonzero(energy >= energy.max(initial=0) * 10 ** (-_LOUD_DB / 10))
    seconds = float(loud[-1] - loud[0] + 1) / _HOPS_PER_SECOND if len(loud) else 0.0
    width = _HOPS * hop
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(samples, (width, width)), width)
    # Not every `hop` samples: at 22,050 Hz frames of whole samples would drift apart from those at another rate.
    starts = np.rint(np.arange(0, len(windows) - 1, sample_rate / _HOPS_PER_SECOND)).astype(np.int64)[: _FRAMES + 1]
    frames = windows[starts] * np.hanning(width).astype(np.float32)
    power = np.abs(np.fft.rfft(frames)) ** 2
    hertz = np.fft.rfftfreq(width, 1 / sample_rate)
    bands = [power[:, (hertz >= low) & (hertz < high)].sum(axis=1) for low, high in _BANDS]
    # Changes of something like loudness: silence of any length adds nothing to them.
    changes = np.diff(np.stack(bands) ** 0.25)[:, :_FRAMES]
    spectrum = np.fft.rfft(changes, 2 * _FRAMES)
    scale = float(np.linalg.norm(changes))
    return Contour(seconds, (spectrum / max(scale, 1e-12)).astype(np.complex64))


def first_alike(contours: Sequence[Contour]) -> list[int | None]:
    """For each recording the index of the first one before it that is the same; None where there is none."""
    seconds = np.array([c.seconds for c in contours])
    found: list[int | None] = []
    for i, one in enumerate(contours):
        near = np.flatnonzero(np.abs(seconds[:i] - seconds[i]) <= _APART_SEC).tolist()
        first = None
        for start in range(0, len(near), _AT_ONCE):
            some = near[start : start + _AT_ONCE]
            alike = np.flatnonzero(likeness(one, [contours[j] for j in some]) >= _ALIKE)
            if len(alike):
                first = some[int(alike[0])]
                break
        found.append(first)
    return found


def likeness(one: Contour, others: Sequence[Contour]) -> npt.NDArray[np.float64]:
    """Correlation with each of the others where the two fit best, shape (n,)."""
    crossed = (np.stack([o.spectrum for o in others]) * one.spectrum.conj()).sum(axis=1)
    return np.asarray(np.fft.irfft(crossed, 2 * _FRAMES).max(axis=1), np.float64)
