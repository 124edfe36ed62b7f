"""Recordings that are the same one again: at another level, rate or length of silence, or encoded anew."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from duplexdata.voices.judge import Float32, frame_energy, speech_frames

Float64 = npt.NDArray[np.float64]

_BANDS = ((0, 600), (600, 1500), (1500, 3500))
_FRAMES = 96
_ALIKE = 0.96
"""Correlation of two contours from which on they are one recording: other readings of one text stay below it."""
_LENGTHS = 0.02


def contour(samples: Float32, sample_rate: int) -> tuple[float, Float64]:
    """How a recording's energy runs in three bands, from its first to its last speech.

    Returns: the seconds between them, and the contour, shape (288,), of mean 0 and length 1.
    """
    hop = sample_rate // 100
    active = speech_frames(frame_energy(samples, hop))
    first, last = int(active.argmax()), len(active) - int(active[::-1].argmax())
    x = samples[first * hop : last * hop].astype(np.float64)
    width = 2 * hop
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(x, (0, width)), width)[::hop] * np.hanning(width)
    power = np.abs(np.fft.rfft(frames)) ** 2
    hertz = np.fft.rfftfreq(width, 1 / sample_rate)
    rows = []
    for low, high in _BANDS:
        band = np.log10(power[:, (hertz >= low) & (hertz < high)].sum(axis=1) + power.max() * 1e-4)
        rows.append(np.interp(np.linspace(0, len(band) - 1, _FRAMES), np.arange(len(band)), band))
    found = np.concatenate([row - row.mean() for row in rows])
    return (last - first) / 100, found / max(float(np.linalg.norm(found)), 1e-9)


def first_alike(contours: Sequence[tuple[float, Float64]]) -> list[int | None]:
    """For each recording the index of the first one before it that is the same; None where there is none."""
    if not contours:
        return []
    seconds = np.array([s for s, _ in contours])
    vectors = np.stack([v for _, v in contours])
    order = np.argsort(seconds, kind="stable")
    ranked = seconds[order]
    found: list[int | None] = []
    for i, length in enumerate(seconds.tolist()):
        low, high = np.searchsorted(ranked, (length / (1 + _LENGTHS), length * (1 + _LENGTHS)))
        near = order[low : high + 1]
        near = np.sort(near[near < i])
        alike = near[vectors[near] @ vectors[i] >= _ALIKE]
        found.append(int(alike[0]) if len(alike) else None)
    return found
