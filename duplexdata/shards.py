"""Parquet files, written atomically and read a row group at a time."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from duplexdata.errors import ShardError
from duplexdata.schema import COMPRESSION, DICTIONARY, arrow_schema

_HASH_CHUNK = 1 << 20
_MACHINE = f"{zlib.crc32(platform.node().encode()):08x}"


@dataclass(frozen=True, slots=True)
class FileFacts:
    rows: int
    bytes: int
    sha256: str


class ShardWriter:
    """Writes one file: to a temporary name, then fsync and rename. On an exception nothing remains.

    Args:
        row_group_rows: rows after which a group is written at the latest.
        facts: for the schema's metadata.
    """

    def __init__(
        self,
        path: Path,
        config: str,
        *,
        row_group_rows: int = 1000,
        facts: Mapping[str, object] | None = None,
    ) -> None:
        self.path, self._temporary = path, temporary_name(path)
        self.schema = arrow_schema(config, facts)
        self.rows = 0
        self._most = row_group_rows
        self._pending: list[pa.Table] = []
        self._pending_rows = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = pq.ParquetWriter(
            self._temporary,
            self.schema,
            compression=COMPRESSION[config],
            compression_level=_levels(COMPRESSION[config]),
            use_dictionary=DICTIONARY[config],
            write_batch_size=8192,
            write_page_index=True,
            write_page_checksum=True,
            store_schema=True,
        )

    def write(self, columns: Mapping[str, pa.Array | Sequence[Any]]) -> None:
        """Add rows: one array or list per column, in any order of columns."""
        arrays = [_array(columns[field.name], field.type) for field in self.schema]
        table = pa.Table.from_arrays(arrays, schema=self.schema)
        self._pending.append(table)
        self._pending_rows += table.num_rows
        self.rows += table.num_rows
        while self._pending_rows >= self._most:
            self._flush(self._most)

    def flush(self) -> None:
        """End the row group here."""
        if self._pending_rows:
            self._flush(self._pending_rows)

    def _flush(self, n: int) -> None:
        table = pa.concat_tables(self._pending)
        self._writer.write_table(table.slice(0, n), row_group_size=n)
        rest = table.slice(n)
        self._pending = [rest] if rest.num_rows else []
        self._pending_rows = rest.num_rows

    def close(self) -> FileFacts:
        self.flush()
        self._writer.close()
        facts = FileFacts(self.rows, self._temporary.stat().st_size, sha256(self._temporary))
        put_in_place(self._temporary, self.path)
        return facts

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is not None:
            give_up(self._writer, self._temporary)


def give_up(writer: pq.ParquetWriter, temporary: Path) -> None:
    """Take away what was written of a file that will not be finished."""
    try:
        with suppress(OSError):  # a full disk takes no footer either
            writer.close()
    finally:
        temporary.unlink(missing_ok=True)


def _levels(compression: Mapping[str, str]) -> dict[str, int]:
    return {leaf: 1 for leaf, name in compression.items() if name == "zstd"}


def _array(values: pa.Array | Sequence[Any], type_: pa.DataType) -> pa.Array:
    if isinstance(values, pa.Array):
        return values if values.type == type_ else values.cast(type_)
    return pa.array(values, type_)


def list_array(parts: Sequence[npt.NDArray[Any]], type_: pa.DataType) -> pa.Array:
    """A list column from one numpy array a row, without a Python object per number."""
    offsets = np.zeros(len(parts) + 1, np.int32)
    np.cumsum([len(p) for p in parts], out=offsets[1:])
    dtype = type_.value_type.to_pandas_dtype()
    flat = np.concatenate(parts).astype(dtype, copy=False) if len(parts) else np.zeros(0, dtype)
    found = pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat, type_.value_type))
    return found if found.type == type_ else found.cast(type_)


def batches(path: Path, columns: Sequence[str] | None = None, rows: int = 256) -> Iterator[pa.RecordBatch]:
    """A file's rows, some at a time. Raises ShardError where it is missing or damaged, naming it."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            # A group at a time: one iteration over all of them would keep what it has read.
            for group in range(file.num_row_groups):
                yield from file.iter_batches(batch_size=rows, row_groups=[group], columns=columns and list(columns))
    except (OSError, pa.ArrowInvalid, pa.ArrowException) as error:
        raise ShardError(f"{path}: cannot be read ({error}); remove it and run the build again") from error


def temporary_name(path: Path) -> Path:
    """Hidden, and one per process and machine: two runs at once do not write into each other's file."""
    return path.with_name(f".{path.name}.{_MACHINE}-{os.getpid()}.tmp")


def put_in_place(temporary: Path, path: Path) -> None:
    """Make a finished file visible: on disk first, then under its name."""
    with temporary.open("rb") as f:
        os.fsync(f.fileno())
    temporary.replace(path)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary name to write to; put in place at the end, taken away on an exception."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
        put_in_place(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """A small file, atomically."""
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as f:
        while chunk := f.read(_HASH_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
