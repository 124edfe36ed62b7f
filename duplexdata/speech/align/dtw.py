"""Dynamic time warping: which frame of one recording is which of another.

Source: Sakoe and Chiba, 1978 (symmetric steps, a band around the diagonal).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_DIAGONAL, _UP, _LEFT = 0, 1, 2
_CHUNK = 64
"""Rows whose distances are in memory at a time."""


def distances(a: Float32, b: Float32) -> Float32:
    """Euclidean, of all pairs of rows; shape (len(a), len(b))."""
    squares = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None] - 2.0 * (a @ b.T)
    return np.asarray(np.sqrt(np.maximum(squares, 0.0)), np.float32)


def warp(a: Float32, b: Float32, half_band: int) -> tuple[Int64, Int64, float]:
    """The cheapest monotonic path from the first pair of frames to the last.

    A row's best costs need the value to their left, but `d[j] = min over k <= j of (enter[k] + c[k] + ... + c[j])` is a
    running minimum once the row's running sum is taken off: so a row is a few array operations, not a loop.

    Args:
        a, b: features of two recordings, shapes (n, d) and (m, d), none empty; a pair costs its distance.
        half_band: frames of `b` on either side of the straight line that are looked at.

    Returns: the path as frames of `a` and of `b`, equally long, and its mean cost.
    """
    n, m = len(a), len(b)
    lows, highs = _band(n, m, half_band)
    behind = np.full(m + 1, np.inf)  # the row before, one place to the right
    steps: list[bytes] = []
    for i in range(n):
        low, high = int(lows[i]), int(highs[i])
        if i % _CHUNK == 0:
            last = min(i + _CHUNK, n)
            left = low
            costs = distances(a[i:last], b[left : int(highs[last - 1])]).astype(np.float64)
        c = costs[i % _CHUNK, low - left : high - left]
        running = np.cumsum(c)
        if i == 0:
            row = running
            step = np.full(high - low, _LEFT, np.uint8)
        else:
            up, diagonal = behind[low + 1 : high + 1], behind[low:high]
            entered = np.minimum(up, diagonal) + c - running
            best = np.minimum.accumulate(entered)
            row = best + running
            step = np.where(best < entered, _LEFT, (up < diagonal) * _UP).astype(np.uint8)
            behind[int(lows[i - 1]) : low + 1] = np.inf
        behind[low + 1 : high + 1] = row
        steps.append(step.tobytes())
    first, second = _traced(steps, lows.tolist(), n, m)
    return first, second, float(behind[m]) / len(first)


def _band(n: int, m: int, half: int) -> tuple[Int64, Int64]:
    """First and behind-last column of each row; neighbouring rows always overlap."""
    slope = (m - 1) / max(n - 1, 1)
    centre = np.arange(n) * slope
    half = max(half, int(np.ceil(slope)) + 1)
    lows = np.clip(np.floor(centre) - half, 0, m - 1).astype(np.int64)
    highs = np.clip(np.ceil(centre) + half + 1, 1, m).astype(np.int64)
    if n == 1:
        highs[0] = m
    return lows, highs


def _traced(steps: list[bytes], lows: list[int], n: int, m: int) -> tuple[Int64, Int64]:
    i, j = n - 1, m - 1
    rows, columns = [i], [j]
    while i or j:
        step = steps[i][j - lows[i]]
        if step == _LEFT or i == 0:
            j -= 1
        elif step == _UP or j == 0:
            i -= 1
        else:
            i, j = i - 1, j - 1
        rows.append(i)
        columns.append(j)
    return np.array(rows[::-1], np.int64), np.array(columns[::-1], np.int64)
