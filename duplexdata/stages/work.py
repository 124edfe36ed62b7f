"""The work folder: where each stage's files are, which of them are finished, and what they were made from.

Every stage has a folder whose name ends in its fingerprint, a hash of all that decides on its bytes (its version,
its part of the configuration, and the fingerprint of the stage before). So a changed configuration never finds what
no longer fits, and what still fits is found again. A file counts as finished when its marker says so: the marker is
written last.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from duplexdata.config import Config
from duplexdata.errors import ShardError
from duplexdata.shards import FileFacts, write_json


@dataclass(frozen=True, slots=True)
class Shard:
    """A unit of work: conversations of one split, made from the dialogues in its part of the unit interval.

    Attributes:
        of: number of shards of the split.
        slots: conversations wanted from it.
        low, high: dialogues whose text hashes into [low, high) are this shard's own, and no other's.
    """

    split: str
    index: int
    of: int
    slots: int
    low: float
    high: float

    @property
    def name(self) -> str:
        return f"{self.split}-{self.index:05d}-of-{self.of:05d}"


def shards_of(config: Config) -> list[Shard]:
    """All shards. Splits are disjoint in dialogues because each dialogue hashes into one shard only."""
    share = config.shards.test_fraction
    n_test = min(config.conversations - 1, max(1, round(config.conversations * share)))
    most = config.shards.conversations or min(512, max(32, -(-config.conversations // 16)))
    found = []
    for split, n, low, high in (
        ("train", config.conversations - n_test, share, 1.0),
        ("test", n_test, 0.0, share),
    ):
        of = max(1, -(-n // most))
        for i in range(of):
            slots = n * (i + 1) // of - n * i // of
            found.append(Shard(split, i, of, slots, low + (high - low) * i / of, low + (high - low) * (i + 1) / of))
    return found


@dataclass(frozen=True, slots=True)
class Counts:
    """Items in, out and dropped by reason; the three add up."""

    stage: str
    items_in: int
    items_out: int
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.items_in != self.items_out + sum(self.dropped.values()):
            raise ShardError(
                f"{self.stage}: {self.items_in} in, {self.items_out} out and {dict(self.dropped)} dropped do not add up"
            )

    def plus(self, other: Counts) -> Counts:
        dropped = Counter(self.dropped) + Counter(other.dropped)
        return Counts(
            self.stage,
            self.items_in + other.items_in,
            self.items_out + other.items_out,
            dict(sorted(dropped.items())),
        )


@dataclass(frozen=True, slots=True)
class Marker:
    """What a finished piece of work says of itself.

    Attributes:
        files: by path relative to the marker's folder.
        counts: one per kind of item.
        facts: whatever else the manifest wants to know, plain values.
    """

    fingerprint: str
    files: Mapping[str, FileFacts]
    counts: tuple[Counts, ...] = ()
    facts: Mapping[str, object] = field(default_factory=dict)


def write_marker(path: Path, marker: Marker) -> Marker:
    write_json(path, asdict(marker))
    return marker


def read_marker(path: Path, fingerprint: str) -> Marker | None:
    """The marker, if the work is finished and its files are still there in full; else None."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if raw.get("fingerprint") != fingerprint:
        return None
    files = {name: FileFacts(**facts) for name, facts in raw["files"].items()}
    for name, facts in files.items():
        try:
            if (path.parent / name).stat().st_size != facts.bytes:
                return None
        except OSError:
            return None
    return Marker(fingerprint, files, tuple(Counts(**c) for c in raw["counts"]), raw["facts"])


def sum_counts(all_counts: list[Counts]) -> list[Counts]:
    """One per stage, in the order in which the stages first appear."""
    total: dict[str, Counts] = {}
    for counts in all_counts:
        total[counts.stage] = total[counts.stage].plus(counts) if counts.stage in total else counts
    return list(total.values())
