"""Where there is speech: an energy detector on 10 ms frames. Used to trim utterances, and by the checks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from duplexdata.units import SAMPLE_RATE

Int16 = npt.NDArray[np.int16]
Float32 = npt.NDArray[np.float32]

FRAME = SAMPLE_RATE // 100
"""Samples of a frame: 10 ms."""
BELOW_PEAK_DB = 40.0
"""A frame of an utterance is speech if it is at most this far below the utterance's loudest."""
FLOOR_DBFS = -62.0
"""A frame of a rendered channel is sound if it is above this: utterances stand at -26 dBFS, silence is digital."""


def frame_energy(samples: Float32) -> Float32:
    """Mean square of each whole 10 ms frame, shape (n_samples // 160,)."""
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
    return np.einsum("ij,ij->i", frames, frames) / np.float32(FRAME)


def speech_frames(energy: Float32) -> npt.NDArray[np.bool_]:
    """Which frames of one utterance are speech."""
    if not len(energy) or not (peak := float(energy.max())) > 0:
        return np.zeros(len(energy), bool)
    return np.asarray(energy > peak * 10 ** (-BELOW_PEAK_DB / 10))


def sounding(channel: Int16) -> npt.NDArray[np.bool_]:
    """Which 10 ms frames of a rendered channel hold sound, shape (n_samples // 160,)."""
    samples = np.multiply(channel, np.float32(1 / 32768), dtype=np.float32)
    return np.asarray(frame_energy(samples) > 10 ** (FLOOR_DBFS / 10))


def stretches(active: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Runs of true frames as samples (start, end), shape (n_runs, 2)."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], active, [False])).astype(np.int8)))
    return edges.reshape(-1, 2).astype(np.int64) * FRAME
