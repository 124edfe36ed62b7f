"""Rows of Parquet files, however they were made: another process reads them, and what a file claims is checked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from duplexdata.errors import SourceError
from duplexdata.files import ALWAYS_ALLOWED, MAX_EXPANSION, most_inside, open_regular
from duplexdata.names import on_one_line
from duplexdata.sources import parquet_child
from duplexdata.sources.text_rows import MAX_ROW_BYTES, Row

MAX_DECODING_BYTES = 2 * 1024**3
"""Memory for decoding a batch. One of ordinary rows takes a hundredth of it."""
MAX_ROW_ELEMENTS = 1_000_000
"""Values in a row. A dialogue of the most turns that are read has a fiftieth of them."""
_MAX_BATCH_SECONDS = 60
"""Processor time for a batch."""
_MAX_FACTS_BYTES = 64 * 1024 * 1024
_BATCH_ROWS = 1024
_BATCH_BYTES = MAX_ROW_BYTES // 2
"""By what the file says of its rows: batches of long rows have fewer."""


def read_parquet(path: Path, wanted: Callable[[list[str]], Collection[str]]) -> Iterator[Row]:
    """Rows of a Parquet file.

    Args:
        wanted: of all columns those to read; called with the file's.

    Raises: SourceError: the file is damaged, or holds far more than its size lets expect.
    """
    shown = on_one_line(str(path))
    try:
        open_regular(path).close()
    except OSError as error:
        raise SourceError(f"{shown}: cannot be read ({_first_line(error)})") from error
    with _reader(path) as process:
        facts = _facts(process, shown)
        names = facts["names"]
        columns = [name for name in dict.fromkeys(names) if name in wanted(names)]
        if twice := sorted({name for name in columns if names.count(name) > 1}):
            raise SourceError(f"{shown}: it has two columns of the name {twice[0]!r}")
        size = sum(facts["sizes"].get(name, 0) for name in columns)
        if size > most_inside(path.stat().st_size):
            raise SourceError(
                f"{shown}: its columns {', '.join(columns)} have {size} bytes unpacked, more than {MAX_EXPANSION} "
                f"times the file's (and more than {ALWAYS_ALLOWED}); write it again without compression if it is "
                "what you want"
            )
        rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES * facts["rows"] // max(1, size)))
        number = 1
        for batch in _batches(process, shown, columns, rows):
            if not batch.num_rows:
                yield Row(number, None, "line_too_long", f"more than {MAX_ROW_BYTES} bytes, or too many values")
            yield from _batch_rows(batch, number)
            number += max(1, batch.num_rows)


@contextmanager
def _reader(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that reads the file. It ends with this one's interest in it."""
    limits = (MAX_ROW_BYTES, MAX_ROW_ELEMENTS, MAX_DECODING_BYTES, _MAX_BATCH_SECONDS)
    process = subprocess.Popen(
        [sys.executable, "-P", parquet_child.__file__, str(path), *map(str, limits)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Others take address space before they need it, and the limit is on what is taken.
        env={**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _facts(process: subprocess.Popen[bytes], shown: str) -> dict[str, Any]:
    """What the file says of itself: `names` of columns, `rows`, `sizes` of columns in bytes."""
    assert process.stdout is not None
    line = process.stdout.readline(_MAX_FACTS_BYTES)
    if len(line) == _MAX_FACTS_BYTES:
        raise SourceError(f"{shown}: it describes itself in {_MAX_FACTS_BYTES} bytes or more, the limit")
    if not line:
        _say_why(process, shown)
    facts: dict[str, Any] = json.loads(line)
    return facts


def _batches(process: subprocess.Popen[bytes], shown: str, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(json.dumps([columns, rows]).encode() + b"\n")
        process.stdin.flush()
        with pa.ipc.open_stream(process.stdout) as stream:
            yield from stream
    except (pa.ArrowException, OSError, EOFError):
        pass  # a stream that breaks off, or never began: the process says why
    _say_why(process, shown)


def _say_why(process: subprocess.Popen[bytes], shown: str) -> None:
    """Wait for the end of the process. Raises SourceError: it did not get to the file's."""
    said = process.communicate()[1].decode("utf-8", "replace")
    status = process.returncode
    if status == parquet_child.OUT_OF_MEMORY:
        raise SourceError(
            f"{shown}: decoding some of its rows takes more than {MAX_DECODING_BYTES} bytes of memory, the limit; "
            f"leave out the rows that are longer than {MAX_ROW_BYTES} bytes"
        )
    if status == -signal.SIGXCPU:
        raise SourceError(f"{shown}: decoding some of its rows takes more than {_MAX_BATCH_SECONDS} s, the limit")
    if status:
        raise SourceError(
            f"{shown}: the file is damaged, cut off, no Parquet, or of a kind that pyarrow cannot read "
            f"({on_one_line(said)[:300] or f'status {status}'})"
        )


def _batch_rows(batch: pa.RecordBatch, first: int) -> Iterator[Row]:
    try:
        for number, value in enumerate(batch.to_pylist(), start=first):
            yield Row(number, value)
    except (ValueError, OverflowError, pa.ArrowException):  # nothing was yielded yet: find the rows that are to blame
        for i in range(batch.num_rows):
            yield _row(batch.slice(i, 1), first + i)


def _row(batch: pa.RecordBatch, number: int) -> Row:
    try:
        return Row(number, batch.to_pylist()[0])
    except UnicodeDecodeError as error:
        return Row(number, None, "invalid_utf8", f"byte {error.start} of a text is no UTF-8")
    except (ValueError, OverflowError, pa.ArrowException) as error:  # a time in the year 300,000, say
        return Row(number, None, "unreadable_value", _first_line(error))


def _first_line(error: BaseException) -> str:
    return on_one_line((str(error).splitlines() or [type(error).__name__])[0][:200])
