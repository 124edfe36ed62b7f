"""Which stretches of speech sound alike: log energies in mel-spaced bands, for repeats and leaked prompts.

A frame is compared by the cosine of its log energies, each less its band's mean over the utterance; two stretches by
the mean cosine along a diagonal of the similarity matrix. Frames are smooth (120 ms), so that a second take of the
same words, a little slower or faster, is still alike.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]

FRAME_SEC = 0.04
"""From frame to frame. One CosyVoice speech token is as long."""
N_BANDS = 16
_LOWEST_HZ, _HIGHEST_HZ = 150.0, 5500.0
_SMOOTH = np.array([0.3, 0.7, 1.0, 1.0, 0.7, 0.3], np.float32)
"""Weights of the 20 ms steps that a frame is made of."""
_SILENT_DB = 40.0
"""Steps that are further below the loudest are silence."""
_SILENCE_ALIKE = 0.75
"""Likeness of silence and silence: too little to make two stretches alike, enough not to tell equal ones apart."""
_LEAST_LAG = 8
"""Frames: a held vowel is like itself a little later; what comes back after 0.32 s has been said again."""
_ONE_THREAD = 200_000
"""Multiplications of a matrix product that OpenBLAS does in one thread (it shares out more than 262,144)."""
_ROUGH = 0.08
"""How much less alike two stretches may look in frames of twice the length (measured: 0.06)."""
_LARGEST = 2048
"""Frames that are looked at (82 s): the matrix grows with their square."""


def features(samples: Float32, rate: int) -> Float32:
    """What `repeats` and `occurs` compare.

    Args:
        samples: mono, finite, shape (n_samples,).
        rate: Hz.

    Returns: shape (n_steps, N_BANDS + 1), two steps a frame. Sounding steps have length 1; in silent ones only the
        last column is not 0.
    """
    window = rate // 100
    n = min(len(samples) // (2 * window), 2 * _LARGEST + len(_SMOOTH))
    if n < len(_SMOOTH):
        return np.zeros((0, N_BANDS + 1), np.float32)
    # Windows of 10 ms do not resolve harmonics: what remains is the envelope, whatever the pitch.
    spectra = _product(samples[: 2 * n * window].reshape(-1, window), _filters(rate))
    np.square(spectra, out=spectra)
    parts = spectra.reshape(n, 4, N_BANDS)
    steps = parts[:, 0] + parts[:, 1] + parts[:, 2] + parts[:, 3]
    n -= len(_SMOOTH) - 1
    power = _smoothed(steps)
    loudness = power @ np.ones(N_BANDS, np.float32)
    sounding = loudness > loudness.max() * 10 ** (-_SILENT_DB / 10)
    out = np.zeros((n, N_BANDS + 1), np.float32)
    if not sounding.any():
        return out
    out[:, -1] = np.where(sounding, 0, _SILENCE_ALIKE**0.5)
    power += loudness.max() * np.float32(1e-7)
    levels = np.log(power, out=power)
    levels -= sounding.astype(np.float32) @ levels / np.float32(np.count_nonzero(sounding))
    norms = np.sqrt(np.einsum("ij,ij->i", levels, levels))
    out[:, :-1] = levels * (sounding / np.maximum(norms, np.float32(1e-6)))[:, None]
    return out


def _smoothed(steps: Float32) -> Float32:
    """Weighted sums of neighbouring steps; the weights are the same forwards and backwards."""
    n, width = len(steps) - len(_SMOOTH) + 1, len(_SMOOTH)
    total = np.zeros((n, steps.shape[1]), np.float32)
    for i in range(width // 2):
        pair = steps[i : i + n] + steps[width - 1 - i : width - 1 - i + n]
        pair *= _SMOOTH[i]
        total += pair
    return total


@lru_cache(maxsize=8)
def _filters(rate: int) -> Float32:
    """Windowed cosines, then sines, of the bands' middle frequencies, shape (rate // 100, 2 * N_BANDS)."""
    window = rate // 100
    low, high = (2595 * np.log10(1 + hz / 700) for hz in (_LOWEST_HZ, min(_HIGHEST_HZ, 0.45 * rate)))
    hz = 700 * (10 ** (np.linspace(low, high, N_BANDS) / 2595) - 1)
    phase = 2 * np.pi * hz * (np.arange(window)[:, None] / rate)
    shape = np.sin(np.pi * (np.arange(window) + 0.5) / window)[:, None]
    return np.ascontiguousarray(np.concatenate([np.cos(phase) * shape, np.sin(phase) * shape], axis=1), np.float32)


def _product(a: Float32, b: Float32) -> Float32:
    """`a @ b` in pieces so small that BLAS starts no threads: those of several workers would fight over the cores."""
    rows = max(1, _ONE_THREAD // (b.shape[0] * b.shape[1]))
    whole = len(a) // rows * rows
    out = np.empty((len(a), b.shape[1]), np.float32)
    np.matmul(a[:whole].reshape(-1, rows, a.shape[1]), b, out=out[:whole].reshape(-1, rows, b.shape[1]))
    np.matmul(a[whole:], b, out=out[whole:])
    return out


def repeats(own: Float32, seconds: float, above: float = 0.0) -> float:
    """How like each other the two most alike stretches of `seconds` are, up to 1.

    Returns: 0 where there are no two, or none more alike than `above`.
    """
    frames = frames_of(seconds)
    if above > 0 and frames >= 4:
        # At a quarter of the cost, frames of twice the length tell most utterances.
        rough = _along_diagonals(own, own, frames // 2, _LEAST_LAG // 2, step=4)
        if rough <= above - _ROUGH:
            return 0.0
    found = _along_diagonals(own, own, frames, _LEAST_LAG)
    return found if found > above else 0.0


def occurs(part: Float32, inside: Float32, seconds: float) -> float:
    """How like some stretch of `inside` some stretch of `seconds` of `part` is, up to 1; 0 where there is none."""
    frames = frames_of(seconds)
    return max(_along_diagonals(part, inside, frames, 0), _along_diagonals(inside, part, frames, 0))


def frames_of(seconds: float) -> int:
    """Frames that hold at least so long."""
    return max(1, -int(-seconds // FRAME_SEC))


def _along_diagonals(a: Float32, b: Float32, frames: int, first: int, step: int = 2) -> float:
    """The largest mean likeness of `frames` frames of `a` and as many of `b`, `first` frames or more apart.

    `first` above 0 is for `a` and `b` of one length; `step` is a frame's.
    """
    here, there, between = a[::step], b[::step], b[step // 2 :: step]
    rows, columns = len(here) - frames + 1, len(there) - frames + 1
    if rows <= 0 or columns <= 0:
        return 0.0
    best = _product(here, there.T)
    # The same words begin anywhere in a frame: half a frame earlier or later counts as well.
    half = _product(here, between.T)
    np.maximum(best[:, : half.shape[1]], half, out=best[:, : half.shape[1]])
    np.maximum(best[:, 1:], half[:, : best.shape[1] - 1], out=best[:, 1:])
    # Sums of 1, 2, 4, … entries along each diagonal; those that `frames` is made of are put end to end.
    total, done, size = np.zeros((rows, columns), np.float32), 0, 1
    while True:
        if frames & size:
            total += best[done : done + rows, done : done + columns]
            done += size
        if 2 * size > frames:
            break
        best = best[:-size, :-size] + best[size:, size:]
        size *= 2
    flat = total.reshape(-1)
    for lag in range(first):
        flat[lag : (columns - lag) * columns : columns + 1] = 0
        flat[lag * columns :: columns + 1] = 0
    return float(total.max()) / frames
