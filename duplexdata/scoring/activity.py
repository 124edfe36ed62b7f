"""When a channel speaks: stretches of time, in samples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from duplexdata.units import SAMPLE_RATE, to_samples

Int64 = npt.NDArray[np.int64]

BRIDGE = to_samples(0.5)
"""A silence shorter than this is a pause inside one stretch of speech. (The longest that the bundled voices make at a
full stop is 0.4 s; the shortest gap between two of the assistant's utterances 0.8 s.) [ours]"""
SHORTEST = to_samples(0.24)
"""Less speech than this is none: three frames, as Silero VAD leaves out what is shorter than 0.25 s. [ours]"""


@dataclass(frozen=True, slots=True)
class Stretch:
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Activity:
    """What a channel does between two points in time.

    Attributes:
        stretches: of speech, in order, apart by at least `BRIDGE`, each at least `SHORTEST` long.
        first, last: nothing is known before and after.
        resolution: how far an edge may lie from where it was found, at most.
    """

    stretches: tuple[Stretch, ...]
    first: int
    last: int
    resolution: int

    @classmethod
    def of(cls, spans: Iterable[tuple[int, int]] | Int64, first: int, last: int, resolution: int) -> Activity:
        """From raw spans of speech, in order, that do not overlap: pauses bridged, blips left out."""
        joined: list[Stretch] = []
        for start, end in spans:
            a, b = max(int(start), first), min(int(end), last)
            if a >= b:
                continue
            if joined and a - joined[-1].end < BRIDGE:
                joined[-1] = replace(joined[-1], end=b)
            else:
                joined.append(Stretch(a, b))
        return cls(tuple(s for s in joined if s.end - s.start >= SHORTEST), first, last, resolution)

    def at(self, time: int) -> Stretch | None:
        """The stretch that `time` lies in."""
        return next((s for s in self.stretches if s.start <= time < s.end), None)

    def next_start(self, time: int) -> int | None:
        """Where the first stretch begins that begins at `time` or later."""
        return next((s.start for s in self.stretches if s.start >= time), None)

    def speech_in(self, start: int, end: int) -> int:
        """Samples of speech in [start, end)."""
        return sum(max(0, min(s.end, end) - max(s.start, start)) for s in self.stretches)

    def shifted(self, by: int) -> Activity:
        moved = tuple(Stretch(s.start + by, s.end + by) for s in self.stretches)
        return replace(self, stretches=moved, first=self.first + by, last=self.last + by)


def runs(active: npt.NDArray[np.bool_], frame: int) -> Int64:
    """Runs of true frames as samples (start, end), shape (n_runs, 2)."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], active, [False])).astype(np.int8)))
    return edges.reshape(-1, 2).astype(np.int64) * frame


def seconds(samples: int) -> float:
    return samples / SAMPLE_RATE
