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
from duplexdata.names import lies_inside
from duplexdata.shards import FileFacts, write_json
from duplexdata.storage import Store


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


def write_marker(store: Store, path: Path, marker: Marker) -> Marker:
    """Vouch for finished files: they are published first."""
    for name in marker.files:
        store.publish(path.parent / name)
    write_json(path, asdict(marker))
    store.publish(path)
    return marker


def read_marker(store: Store, path: Path, fingerprint: str, *, check: bool = True) -> Marker | None:
    """The marker, if the work is finished and its files are still what they were; else None: it is done again.

    Args:
        check: compare checksums too. Not needed for what this run has just made.
    """
    try:
        raw = json.loads(store.read_text(path) or "")
        if raw["fingerprint"] != fingerprint:
            return None
        files = {str(name): FileFacts(**facts) for name, facts in raw["files"].items()}
        marker = Marker(fingerprint, files, tuple(Counts(**c) for c in raw["counts"]), raw["facts"])
    except (ValueError, KeyError, TypeError, AttributeError, ShardError):
        return None  # no marker, or a damaged one
    if not all(map(lies_inside, files)):
        return None
    good = all(store.holds(path.parent / name, facts, check=check) for name, facts in files.items())
    return marker if good else None


def at_hand(store: Store, path: Path, fingerprint: str) -> Marker:
    """The marker of an earlier stage, its files on this machine. Raises ShardError: the stage is not finished."""
    marker = read_marker(store, path, fingerprint, check=False)
    if marker is None:
        raise ShardError(f"{path.parent}: not finished, or its files are gone; run the build again")
    for name, facts in marker.files.items():
        store.bring(path.parent / name, facts)
    return marker


def sum_counts(all_counts: list[Counts]) -> list[Counts]:
    """One per stage, in the order in which the stages first appear."""
    total: dict[str, Counts] = {}
    for counts in all_counts:
        total[counts.stage] = total[counts.stage].plus(counts) if counts.stage in total else counts
    return list(total.values())
