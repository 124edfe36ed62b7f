"""As much of a build's sources as its forecast needs, ready to be planned from."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import pyarrow.parquet as pq

from duplexdata.config import Config
from duplexdata.errors import SourceError
from duplexdata.forecast.clock import Clock
from duplexdata.forecast.values import Reading, Spent
from duplexdata.stages.ingest import ingest
from duplexdata.stages.plan import Plan, dialogues_wanted, make_plan
from duplexdata.stages.work import Marker, Shard, shards_of
from duplexdata.storage import Store

MOST_DIALOGUES = 20_000
"""Read at most: a few seconds' work, and dialogues for 6,000 conversations."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """
    Attributes:
        plan: of a build that is alike: the configured one, or a smaller one with as many dialogues for each
            conversation and shards of the same size.
        marker: of its sources.
        pools: dialogues of each shard of `plan`, in order.
    """

    plan: Plan
    marker: Marker
    reading: Reading
    pools: tuple[int, ...]

    @property
    def shards(self) -> list[Shard]:
        return shards_of(self.plan.config)


def read_part(config: Config, store: Store, dialogues: int | None = None, most: int = MOST_DIALOGUES) -> Corpus:
    """Read the sources from their beginnings.

    Args:
        dialogues: that there will be, of which the sources are a sample; None: the sources are what there is.
        most: rows read.

    Raises: SourceError: they cannot be read.
    """
    n = len(config.sources)
    limit = -(-most // n)
    sources = tuple(replace(s, limit=limit if s.limit is None else min(s.limit, limit)) for s in config.sources)
    limited = replace(config, sources=sources)
    plan = make_plan(limited, store)
    opening = _open(limited, Store(store.local.with_name("opened")))
    clock = Clock()
    marker = ingest(plan)
    spent = clock.spent()
    counts = marker.counts[0]
    wanted = dialogues_wanted(config)
    # A source that has more than was read of it is taken to have as many as the build wants.
    cut = -(-wanted // n) > limit and counts.items_in >= limit
    expected = counts.items_in
    if cut or dialogues is not None:
        expected = max(1, min(wanted, dialogues if dialogues is not None else wanted))
        conversations = round(config.conversations * counts.items_in / expected)
        most_slots = max(s.slots for s in shards_of(config))
        alike = replace(
            limited,
            conversations=min(config.conversations, max(2, conversations)),
            shards=replace(config.shards, conversations=most_slots),
        )
        # What was read stays where it is: a folder's name is its fingerprint.
        plan = replace(make_plan(alike, store), ingest=plan.ingest)
    pools = _pools(plan, marker)
    slots = [s.slots for s in shards_of(plan.config)]
    reading = Reading(
        rows=counts.items_in,
        dialogues=counts.items_out,
        expected=expected,
        whole=not cut and dialogues is None,
        filled=sum(n for n, pool in zip(slots, pools, strict=True) if pool) / sum(slots),
        spent=spent,
        opening=opening,
    )
    return Corpus(plan, marker, reading, pools)


def _open(config: Config, store: Store) -> Spent:
    """Read one row of each source, into files of no use."""
    clock = Clock()
    with suppress(SourceError):  # whoever reads more than a row will say so
        ingest(make_plan(replace(config, sources=tuple(replace(s, limit=1) for s in config.sources)), store))
    return clock.spent()


def _pools(plan: Plan, marker: Marker) -> tuple[int, ...]:
    where = plan.stage_folder("ingest")
    places = [pq.read_table(where / name, columns=["u"]).column("u").to_numpy() for name in marker.files]
    u = np.sort(np.concatenate(places))
    return tuple(int(np.searchsorted(u, s.high) - np.searchsorted(u, s.low)) for s in shards_of(plan.config))
