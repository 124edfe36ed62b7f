"""What negatives add to a shard's sound, kept until their tokens are made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from duplexdata.audio import from_flac, to_flac
from duplexdata.conversation import Negative
from duplexdata.shards import FileFacts, batches, give_up, put_in_place, sha256, temporary_name

Int16 = npt.NDArray[np.int16]
_ROWS = 16
"""Read at a time."""
_COLUMNS = pa.schema(
    [
        ("id", pa.string()),
        ("kind", pa.string()),
        ("utterance", pa.int32()),
        ("positive", pa.int64()),
        ("negative", pa.int64()),
        ("start", pa.int64()),
        ("flac", pa.binary()),
    ]
)


@dataclass(frozen=True, slots=True)
class Patch:
    """What a negative's assistant channel has where it differs from the positive's: `samples` from `start` on."""

    start: int
    samples: Int16


class NegativeWriter:
    """Writes one file: to a temporary name, then renamed. On an exception nothing remains."""

    def __init__(self, path: Path) -> None:
        self._path, self._temporary = path, temporary_name(path)
        self._rows = 0
        self._writer = pq.ParquetWriter(self._temporary, _COLUMNS, compression="none")

    def write(self, rows: Sequence[tuple[str, Negative, Patch]]) -> None:
        """Add rows: a conversation's id, its negative, and what that changes."""
        columns = {
            "id": [id_ for id_, _, _ in rows],
            "kind": [negative.kind for _, negative, _ in rows],
            "utterance": [negative.utterance for _, negative, _ in rows],
            "positive": [negative.positive for _, negative, _ in rows],
            "negative": [negative.negative for _, negative, _ in rows],
            "start": [patch.start for _, _, patch in rows],
            "flac": [to_flac(patch.samples) if len(patch.samples) else b"" for _, _, patch in rows],
        }
        self._writer.write_table(pa.table(columns, schema=_COLUMNS))
        self._rows += len(rows)

    def close(self) -> FileFacts:
        self._writer.close()
        facts = FileFacts(self._rows, self._temporary.stat().st_size, sha256(self._temporary))
        put_in_place(self._temporary, self._path)
        return facts

    def __enter__(self) -> NegativeWriter:
        return self

    def __exit__(self, kind: object, error: object, tb: object) -> None:
        if kind is not None:
            give_up(self._writer, self._temporary)


def read_negatives(path: Path) -> Iterator[tuple[str, Negative, Patch]]:
    """What was written, in order."""
    for batch in batches(path, None, _ROWS):
        for row in batch.to_pylist():
            samples = from_flac(row["flac"]) if row["flac"] else np.zeros(0, np.int16)
            negative = Negative(row["kind"], row["utterance"], row["positive"], row["negative"])
            yield row["id"], negative, Patch(row["start"], samples)
