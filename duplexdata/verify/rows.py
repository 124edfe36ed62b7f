"""The rows of a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from duplexdata.verify.rules import Violation, first_line

BATCH = 16


class Damaged(Exception):
    """A file that cannot be read (on); the violation that says so."""

    def __init__(self, violation: Violation) -> None:
        super().__init__(violation.detail)
        self.violation = violation


Row = dict[str, Any]


class _Batches:
    """A file's rows, some at a time."""

    def __init__(self, dataset: Path, name: str) -> None:
        self.name, self._path = name, dataset / name

    def of(self, columns: Sequence[str] | None, rows: int) -> Iterator[pa.RecordBatch]:
        """Raises Damaged where the file cannot be read (on)."""
        try:
            with pq.ParquetFile(self._path, page_checksum_verification=True) as file:
                for batch in file.iter_batches(batch_size=rows, columns=columns):
                    batch.validate(full=True)
                    yield batch
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            raise Damaged(Violation(self.name, None, "readable", f"cannot be read: {first_line(error)}")) from error


class File:
    """The rows of a file, each a mapping of plain values; lists of numbers are arrays."""

    def __init__(self, dataset: Path, name: str) -> None:
        self.name, self._batches = name, _Batches(dataset, name)
        self.ids: list[str | None] = [i for b in self._batches.of(["id"], 4096) for i in b.column(0).to_pylist()]
        self.known = frozenset(self.ids)
        self.unread = iter(self._rows())
        self._next: tuple[int, Row] | None = None

    def _rows(self) -> Iterator[tuple[int, Row]]:
        at = 0
        for batch in self._batches.of(None, BATCH):
            columns = [_values(c) for c in batch.columns]
            for values in zip(*columns, strict=True):
                yield at, dict(zip(batch.schema.names, values, strict=True))
                at += 1

    def row_of(self, id_: str, order: Mapping[str, int]) -> Row | None:
        """The row of `id_`, if it comes where the order of conversations has it. Called in that order."""
        while True:
            if self._next is None:
                self._next = next(self.unread, None)
                if self._next is None:
                    return None
            row = self._next[1]
            if row["id"] == id_:
                self._next = None
                return row
            if order.get(row["id"], -1) > order[id_]:
                return None
            self._next = None  # out of order, or unknown: reported by its id


def _values(column: pa.Array) -> list[Any]:
    """A column as one value per row; lists of numbers as arrays that share memory."""
    if pa.types.is_list(column.type) and pa.types.is_integer(column.type.value_type) and not _has_null(column):
        flat = column.flatten().to_numpy(zero_copy_only=False)
        edges = np.concatenate([[0], np.cumsum(column.value_lengths().to_numpy(zero_copy_only=False))]).astype(np.int64)
        flat = flat if flat.dtype == np.int8 else flat.astype(np.int32)
        return [flat[a:b] for a, b in pairwise(edges.tolist())]
    return list(column.to_pylist())


def _has_null(array: pa.Array) -> bool:
    if array.null_count:
        return True
    if pa.types.is_struct(array.type):
        return any(_has_null(child) for child in array.flatten())
    return pa.types.is_list(array.type) and _has_null(array.flatten())


def lacks(value: object) -> bool:
    """Whether something in a row is missing."""
    # Rows are plain: no subclasses, so that comparing types is enough and several times as fast.
    kind = type(value)
    if kind is dict:
        return any(map(lacks, value.values()))  # type: ignore[attr-defined]
    if kind is list:
        return any(map(lacks, value))  # type: ignore[call-overload]
    return value is None
