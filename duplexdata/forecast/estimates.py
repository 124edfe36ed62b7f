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


def ratio(made: Sequence[float], planned: Sequence[float], population: float) -> Estimate:
    """What is made for each unit that is planned.

    Args:
        made, planned: of each conversation of the sample, in the same order.
        population: conversations that the sample was drawn from.
    """
    whole = sum(planned)
    if not whole:
        return Estimate(0.0)
    found, n = sum(made) / whole, len(made)
    if n < 2:
        return Estimate(found, abs(found))
    squares = sum((y - found * x) ** 2 for y, x in zip(made, planned, strict=True)) * n / (n - 1)
    return Estimate(found, math.sqrt(max(0.0, 1 - n / population) * squares) / whole)


@dataclass(frozen=True, slots=True)
class FileSizes:
    """Bytes of a config's files: what each group of rows takes whatever it holds, and what each row adds."""

    per_group: float
    per_row: float


def file_sizes(parts: Sequence[tuple[int, int, int]], joined: int) -> FileSizes:
    """Tell what a group of rows costs from what its rows cost.

    Args:
        parts: (rows, groups, bytes) of each file of a sample.
        joined: bytes of one group with the rows of all.
    """
    rows, groups, size = (sum(part[i] for part in parts) for i in range(3))
    if not rows:
        return FileSizes(0.0, 0.0)
    if groups < 2:
        return FileSizes(0.0, size / rows)
    group = max(0.0, (size - joined) / (groups - 1))
    return FileSizes(group, max(0.0, size - groups * group) / rows)


def makespan(jobs: Sequence[float], workers: int) -> float:
    """When the last of `jobs` ends, each begun by the first worker that is free, in order."""
    free = [0.0] * max(1, min(workers, len(jobs)))
    for job in jobs:
        first = min(range(len(free)), key=free.__getitem__)
        free[first] += job
    return max(free)
