"""A split of a dataset as the scorer wants it. Raises DatasetError wherever something is missing, saying what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from duplexdata.conversation import Conversation
from duplexdata.errors import DatasetError
from duplexdata.layouts.interleaved import parse
from duplexdata.manifest import read_manifest
from duplexdata.records import Codes, read_codes, read_conversations
from duplexdata.rng import stable_hash
from duplexdata.shards import batches
from duplexdata.text.types import Int32
from duplexdata.text.vocabulary import Vocabulary
from duplexdata.units import SAMPLE_RATE, Grid


@dataclass(frozen=True, slots=True)
class Talk:
    """A conversation with its tokens.

    Attributes:
        text: the text channel as in its `sft` row, (B * M,); None where it has none.
    """

    record: Conversation
    codes: Codes
    text: Int32 | None


@dataclass(frozen=True, slots=True)
class Split:
    """
    Attributes:
        talks: in an order that depends on the ids alone, and mixes the scenarios.
    """

    dataset: Path
    manifest: dict[str, Any]
    vocabulary: Vocabulary
    grid: Grid
    talks: tuple[Talk, ...]


def read_split(dataset: Path, split: str, limit: int | None = None) -> Split:
    """
    Args:
        limit: conversations read at most: always the same ones.

    Raises: DatasetError: no dataset, no such split, or no speech tokens.
    """
    if limit is not None and limit < 1:
        raise DatasetError(f"the limit is {limit} conversations, expected at least 1")
    manifest = read_manifest(dataset)
    if not manifest.get("clock"):
        raise DatasetError(f"{dataset} has no speech tokens (it was built without sound): nothing can be scored on it")
    vocabulary = Vocabulary.read(dataset / "tokenizer")
    if vocabulary.facts() != manifest["vocabulary"]:
        raise DatasetError(f"{dataset}: tokenizer/ is not the one that the manifest describes")
    layout = manifest["config"]["layout"]
    frame = round(SAMPLE_RATE / manifest["clock"]["frame_rate"])
    grid = Grid(layout["n_speech"], layout["n_text"], frame)
    records = {c.id: c for path in _files(dataset, "conversations", split) for c in read_conversations(path)}
    codes = {c.id: c for path in _files(dataset, "codes", split) for c in read_codes(path)}
    # Ids begin with the scenario: a limit must not take the first ones of the alphabet.
    ids = sorted(records.keys() & codes.keys(), key=stable_hash)[:limit]
    if not ids:
        raise DatasetError(f"{dataset}: the split {split!r} has no conversations with speech tokens")
    rows = _text_rows(dataset, split, grid, set(ids))
    return Split(dataset, manifest, vocabulary, grid, tuple(Talk(records[i], codes[i], rows.get(i)) for i in ids))


def _files(dataset: Path, config: str, split: str) -> list[Path]:
    found = sorted((dataset / config).glob(f"{split}-*-of-*.parquet"))
    if not found:
        there = sorted({p.name.split("-")[0] for p in (dataset / config).glob("*-*-of-*.parquet")})
        raise DatasetError(
            f"{dataset} has no {config} of the split {split!r}"
            + (f", but of {', '.join(there)}" if there else f": the config {config} is missing")
        )
    return found


def _text_rows(dataset: Path, split: str, grid: Grid, wanted: set[str]) -> dict[str, Int32]:
    return {
        id_: parse(ids, grid, 0)[1]
        for path in sorted((dataset / "sft").glob(f"{split}-*-of-*.parquet"))
        for id_, ids in _sequences(path)
        if id_ in wanted
    }


def _sequences(path: Path) -> Iterator[tuple[str, Int32]]:
    for batch in batches(path, ["id", "input_ids"]):
        column = batch.column("input_ids")
        flat, bounds = column.values.to_numpy(), column.offsets.to_numpy()
        for id_, a, b in zip(batch.column("id").to_pylist(), bounds, bounds[1:], strict=False):
            yield id_, np.asarray(flat[a:b], np.int32)
