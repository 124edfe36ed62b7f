"""The control: the same rows, in which the assistant's timing says nothing about the user."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from duplexdata.dataset import finish
from duplexdata.manifest import NAME, read_manifest
from duplexdata.rng import rng_for
from duplexdata.shards import FileFacts, ShardWriter, batches, list_array
from duplexdata.storage import LocalFolder
from duplexdata.units import Grid

Ids = npt.NDArray[np.int32]


def shuffle_timing(ids: Ids, grid: Grid, shift: int) -> Ids:
    """Turn the assistant's text and speech round by `shift` blocks; the user's speech stays where it is.

    Args:
        ids: a row's tokens or labels, shape (n_blocks * (2 N + M),).

    Returns: the same tokens on each channel, in the same order but for where they begin.
    """
    n = grid.n_speech
    blocks = ids.reshape(-1, 2 * n + grid.n_text)
    return np.concatenate([blocks[:, :n], np.roll(blocks[:, n:], shift, axis=0)], axis=1).reshape(-1)


def write_control(dataset: Path, out: Path, seed: int) -> None:
    """A dataset whose training rows of `sft` are shuffled in time; all else is as in `dataset`.

    It is for training only: `duplexdata verify` would have much to say about it.
    """
    if (out / NAME).exists():
        return
    manifest = read_manifest(dataset)
    grid = Grid(manifest["config"]["layout"]["n_speech"], manifest["config"]["layout"]["n_text"])
    shutil.rmtree(out, ignore_errors=True)
    files: dict[str, Mapping[str, Any]] = {}
    for name, facts in manifest["files"].items():
        target = out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not name.startswith("sft/train-"):
            os.link(dataset / name, target)
            files[name] = facts
            continue
        with ShardWriter(target, "sft", facts=manifest["vocabulary"]) as writer:
            for batch in batches(dataset / name):
                columns: dict[str, Any] = {c: batch.column(c) for c in batch.schema.names}
                shifts = [_shift(row, blocks, seed) for row, blocks in _rows(batch)]
                for column in ("input_ids", "labels"):
                    rows = [np.asarray(v.values, np.int32) for v in batch.column(column)]
                    turned = [shuffle_timing(r, grid, s) for r, s in zip(rows, shifts, strict=True)]
                    columns[column] = list_array(turned, batch.schema.field(column).type)
                writer.write(columns)
            written = writer.close()
        files[name] = {"rows": written.rows, "bytes": written.bytes, "sha256": written.sha256}
    facts_of = {name: FileFacts(**facts) for name, facts in files.items()}
    finish(LocalFolder(out), {**manifest, "files": files}, facts_of)


def _rows(batch: Any) -> list[tuple[str, int]]:
    return list(zip(batch.column("id").to_pylist(), batch.column("n_blocks").to_pylist(), strict=True))


def _shift(conversation: str, blocks: int, seed: int) -> int:
    """At least two blocks in either direction, where the conversation is long enough for that."""
    if blocks < 5:
        return blocks // 2
    return int(rng_for(seed, conversation, "control").integers(2, blocks - 1))
