"""From a sample to the whole: totals with their standard errors. Pure.

Two-phase sampling: many conversations are planned, which tells how long each would nominally be; some of these are
spoken, which tells how what is made compares with that. Source: Cochran, Sampling Techniques, 3rd ed., chapters 6
(ratio estimators), 9 (clusters) and 12 (two phases).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and its standard error, in the value's unit. The error is that of sampling, and of nothing else."""

    value: float
    error: float = 0.0

    @property
    def relative(self) -> float:
        return self.error / abs(self.value) if self.value else 0.0

    def times(self, factor: float) -> Estimate:
        return Estimate(self.value * factor, self.error * abs(factor))

    def by(self, other: Estimate) -> Estimate:
        """Product of two that were estimated from different draws."""
        value = self.value * other.value
        return Estimate(value, abs(value) * math.hypot(self.relative, other.relative))

    def plus(self, other: Estimate) -> Estimate:
        """Sum of two that go up and down together: errors add, which is never too little."""
        return Estimate(self.value + other.value, self.error + other.error)


@dataclass(frozen=True, slots=True)
class Cluster:
    """One shard's part of a sample.

    Attributes:
        slots: conversations that were asked for.
        total: sum of the quantity over those that were planned.
    """

    slots: int
    total: float


def per_slot(clusters: Sequence[Cluster], population: int, values: Sequence[float] = ()) -> Estimate:
    """The mean of a quantity over all slots that a build asks for.

    Conversations of one shard share its dialogues, so shards are what was drawn.

    Args:
        population: slots of the build that clusters were drawn from.
        values: of each slot, for where there is one cluster only; then slots are taken as drawn independently.
    """
    slots = sum(c.slots for c in clusters)
    if not slots:
        return Estimate(0.0)
    mean = sum(c.total for c in clusters) / slots
    left = max(0.0, 1 - slots / population)
    k = len(clusters)
    if k > 1:
        squares = sum((c.total - mean * c.slots) ** 2 for c in clusters) * k / (k - 1)
    else:
        squares = sum((v - mean) ** 2 for v in values) * slots / max(1, slots - 1)
    return Estimate(mean, math.sqrt(left * squares) / slots)


def ratio(made: Sequence[float], planned: Sequence[float], population: float, parts: Sequence[int] = ()) -> Estimate:
    """What is made for each unit that is planned.

    Args:
        made, planned: of each conversation of the sample, in the same order.
        population: conversations that the sample was drawn from.
        parts: which shard each is from, since those of a shard are alike; none: they were drawn one by one. The error
            is the larger of the two that follow from either.
    """
    whole = sum(planned)
    if not whole:
        return Estimate(0.0)
    found, n = sum(made) / whole, len(made)
    if n < 2:
        return Estimate(found, abs(found))
    left = [y - found * x for y, x in zip(made, planned, strict=True)]
    squares = sum(r * r for r in left) * n / (n - 1)
    together: dict[int, float] = {}
    for part, r in zip(parts, left, strict=bool(parts)):
        together[part] = together.get(part, 0.0) + r
    if (k := len(together)) > 1:
        squares = max(squares, sum(r * r for r in together.values()) * k / (k - 1))
    return Estimate(found, math.sqrt(max(0.0, 1 - n / population) * squares) / whole)


@dataclass(frozen=True, slots=True)
class FileSizes:
    """Bytes of a config's files, of a group of rows: what it takes beside its rows, and what each row adds.

    Attributes:
        rows: of the groups that this was told from. Larger ones are foreseen as well.
    """

    per_group: float
    per_row: float
    rows: float


def file_sizes(wholes: Sequence[tuple[int, int]], halves: Sequence[tuple[int, int]]) -> FileSizes:
    """Tell how a file grows: by as much for each row as between its first half and the whole of it.

    The first rows cost more than later ones: of a dictionary's values, and of texts that come again.

    Args:
        wholes, halves: (rows, bytes) of each file of a sample, and of one with the first half of its rows.
    """
    rows, size = (sum(part[i] for part in wholes) for i in (0, 1))
    if not rows:
        return FileSizes(0.0, 0.0, 0.0)
    more = rows - sum(n for n, _ in halves)
    per_row = min(size / rows, max(0.0, (size - sum(b for _, b in halves)) / more)) if more else size / rows
    return FileSizes((size - rows * per_row) / len(wholes), per_row, rows / len(wholes))


def makespan(jobs: Sequence[float], workers: int) -> float:
    """When the last of `jobs` ends, each begun by the first worker that is free, in order."""
    free = [0.0] * max(1, min(workers, len(jobs)))
    for job in jobs:
        first = min(range(len(free)), key=free.__getitem__)
        free[first] += job
    return max(free)
