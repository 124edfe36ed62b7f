"""Reads dialogues from files, folders and Hugging Face, one row at a time whatever the size of the corpus."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import IO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from duplexdata.dialogue import Dialogue, Rejected
from duplexdata.errors import SourceError
from duplexdata.sources.shapes import BUNDLED, SHAPES, SourceSpec, parse_row, recognise, safe_key

MAX_ROW_BYTES = 16 * 1024 * 1024
"""A longer line, or element of an array, is rejected without being read as a whole."""
_CHUNK = 256 * 1024
_PARQUET_ROWS = 1024

_SUFFIXES = (".json", ".jsonl", ".ndjson", ".json.gz", ".jsonl.gz", ".ndjson.gz", ".parquet")
_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?::([\w.+-]+))?")
_LICENCES: Mapping[str, str] = MappingProxyType(
    {
        BUNDLED: "Apache-2.0",
        "tatsu-lab/alpaca": "CC-BY-NC-4.0",
        "stingning/ultrachat": "MIT",
        "HuggingFaceH4/ultrachat_200k": "MIT",
    }
)
"""As the publishers state them; a file on disk may be anything."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A row as it was read: its number from 1, and what it holds or why it could not be read."""

    number: int
    value: Mapping[str, object] | None
    reason: str = ""
    detail: str = ""


# --- bytes -> rows ------------------------------------------------------------------------------------------


def _decoded(raw: bytes, number: int) -> _Row:
    """One JSON object."""
    try:
        value = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        return _Row(number, None, "invalid_utf8", f"byte {error.start} of the row is no UTF-8")
    except RecursionError:
        return _Row(number, None, "invalid_json", "nested too deeply")
    except ValueError as error:  # JSONDecodeError, and integers of too many digits
        if b"\0" in raw:
            return _Row(number, None, "nul_byte", f"a NUL byte at byte {raw.index(0)} of the row")
        return _Row(number, None, "invalid_json", str(error))
    if not isinstance(value, dict):
        return _Row(number, None, "not_an_object", f"expected an object, found a {type(value).__name__}")
    return _Row(number, value)


def _read_lines(file: IO[bytes]) -> Iterator[_Row]:
    """Rows of a JSON lines file; empty lines count as lines but are no rows."""
    number = 0
    while line := file.readline(MAX_ROW_BYTES + 1):
        number += 1
        if len(line) > MAX_ROW_BYTES and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = file.readline(_CHUNK)
            yield _Row(number, None, "line_too_long", f"more than {MAX_ROW_BYTES} bytes")
            continue
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line.strip():
            yield _decoded(line.strip(b" \t\r\n"), number)


_STRUCTURE = re.compile(rb'["{}\[\],]')
_STRING_END = re.compile(rb'["\\]')


@dataclass(slots=True)
class _ElementScanner:
    """Finds where an element of an array ends, over any number of chunks, without knowing its inside."""

    depth: int = 0
    in_string: bool = False
    skip: int = 0
    """Bytes at the start of the next chunk that belong to an escape."""

    def end(self, chunk: bytes, start: int) -> int | None:
        """Index of the comma or bracket behind the element, None if it is not in this chunk."""
        at = start + self.skip
        self.skip = 0
        while match := (_STRING_END if self.in_string else _STRUCTURE).search(chunk, at):
            mark = match.group()
            at = match.end()
            if mark == b"\\":
                at += 1
            elif mark == b'"':
                self.in_string = not self.in_string
            elif mark in b"{[":
                self.depth += 1
            elif self.depth == 0:
                return match.start()
            elif mark in b"}]":
                self.depth -= 1
        self.skip = max(0, at - len(chunk))
        return None


def _read_array(file: IO[bytes]) -> Iterator[_Row]:
    """Rows of one JSON array, `file` standing behind its opening bracket.

    Elements are told apart by brackets and quotes alone, so that one that is no JSON spoils only itself.
    """
    number, element, scanner = 1, bytearray(), _ElementScanner()
    while chunk := file.read(_CHUNK):
        start = 0
        while (end := scanner.end(chunk, start)) is not None:
            raw = bytes(element) + chunk[start:end]
            closed = chunk[end : end + 1] != b","
            if raw.strip() or not closed or number > 1:
                yield _element(raw, number)
            if closed:
                yield from _after_array(chunk[end + 1 :], file, number + 1)
                return
            number, start, element, scanner = number + 1, end + 1, bytearray(), _ElementScanner()
        if len(element) <= MAX_ROW_BYTES:
            element += chunk[start:]
    yield _Row(number, None, "truncated", "the file ends inside the array")


def _element(raw: bytes, number: int) -> _Row:
    if len(raw) > MAX_ROW_BYTES:
        return _Row(number, None, "line_too_long", f"more than {MAX_ROW_BYTES} bytes")
    return _decoded(raw.strip(b" \t\r\n"), number)


def _after_array(rest: bytes, file: IO[bytes], number: int) -> Iterator[_Row]:
    while rest:
        if rest.strip():
            yield _Row(number, None, "trailing_data", "there is something behind the end of the array")
            return
        rest = file.read(_CHUNK)


def _read_json(file: IO[bytes], name: str) -> Iterator[_Row]:
    """Rows of a .json file: one array, or in fact JSON lines."""
    head = file.read(_CHUNK)
    body = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if body.startswith(b"["):
        return _read_array(cast(IO[bytes], _Rest(body[1:], file)))
    first, newline, _ = body.partition(b"\n")
    if newline and first.rstrip().endswith((b"{", b"[", b",")):
        raise SourceError(f"{name}: expected an array of rows, or one row a line; found neither")
    file.seek(0)
    return _read_lines(file)


@dataclass(slots=True)
class _Rest:
    """A file whose beginning was read already."""

    head: bytes
    file: IO[bytes]

    def read(self, size: int) -> bytes:
        if self.head:
            head, self.head = self.head, b""
            return head
        return self.file.read(size)


def _read_text_file(path: Path) -> Iterator[_Row]:
    zipped = path.suffix == ".gz"
    try:
        with gzip.open(path, "rb") if zipped else path.open("rb") as opened:
            file = cast(IO[bytes], opened)
            inner = path.with_suffix("") if zipped else path
            yield from _read_json(file, path.name) if inner.suffix == ".json" else _read_lines(file)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise SourceError(f"{path}: the file is damaged or cut off ({error})") from error
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error})") from error


def _read_parquet(path: Path) -> Iterator[_Row]:
    """Rows of a Parquet file, with the columns that its shape needs."""
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            wanted = SHAPES[_shape(names, path.name)].columns
            number = 1
            for batch in file.iter_batches(_PARQUET_ROWS, columns=[name for name in names if name in wanted]):
                yield from _batch_rows(batch, number)
                number += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{path}: the file is damaged, cut off or no Parquet ({error})") from error


def _batch_rows(batch: pa.RecordBatch, first: int) -> Iterator[_Row]:
    try:
        for number, value in enumerate(batch.to_pylist(), start=first):
            yield _Row(number, value)
    except UnicodeDecodeError:  # from to_pylist, so nothing was yielded: find the rows that are to blame
        for i in range(batch.num_rows):
            try:
                yield _Row(first + i, batch.slice(i, 1).to_pylist()[0])
            except UnicodeDecodeError as error:
                yield _Row(first + i, None, "invalid_utf8", f"byte {error.start} of a text is no UTF-8")


def _read_rows(path: Path) -> Iterator[_Row]:
    return _read_parquet(path) if path.suffix == ".parquet" else _read_text_file(path)


# --- rows -> dialogues --------------------------------------------------------------------------------------


def _shape(fields: list[str], where: str) -> str:
    try:
        return recognise(fields)
    except SourceError as error:
        raise SourceError(f"{where}: {error}") from error


def _source_name(spec: SourceSpec, shape: str, fallback: str) -> str:
    return safe_key(spec.name or SHAPES[shape].corpus or fallback) or "corpus"


def _dialogues(
    rows: Iterator[_Row], spec: SourceSpec, *, where: str, fallback: str, licence: str, id_prefix: str = ""
) -> Iterator[Dialogue | Rejected]:
    """Every row parsed by the shape of the first one that is an object.

    Raises: SourceError: there are no rows, or the first one is of no known shape.
    """
    shape = None
    empty = True
    for row in rows:
        empty = False
        place = f"{where}, row {row.number}"
        if row.value is None:
            yield Rejected(row.reason, row.detail, place)
            continue
        if shape is None:
            shape = _shape([str(field) for field in row.value], place)
        yield parse_row(
            row.value,
            shape,
            source=_source_name(spec, shape, fallback),
            row_number=row.number,
            language=spec.language,
            licence=spec.licence or licence,
            where=place,
            id_prefix=id_prefix,
        )
    if empty:
        raise SourceError(f"{where}: there are no rows in it")


def _stem(path: Path) -> str:
    name = path.name.removesuffix(".gz")
    return name.removesuffix(Path(name).suffix)


def _files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.name.endswith(_SUFFIXES) and path.is_file())
    if not files:
        raise SourceError(f"{folder}: there is no {', '.join(_SUFFIXES)} file in this folder")
    return files


def _from_files(files: list[Path], spec: SourceSpec, licence: str) -> Iterator[Dialogue | Rejected]:
    root = Path(spec.path)
    for path in files:
        # Files of one source may all count their rows from 0.
        inside = str(path.relative_to(root).parent / _stem(path)) if len(files) > 1 else ""
        yield from _dialogues(
            _read_rows(path),
            spec,
            where=path.name,
            fallback=_stem(path) if len(files) == 1 else root.resolve().name,
            licence=licence,
            id_prefix=f"{safe_key(inside)}-" if inside else "",
        )


def _from_hub(spec: SourceSpec, name: str, config: str | None) -> Iterator[Dialogue | Rejected]:
    import datasets  # takes seconds to import, and files need none of it

    try:
        rows = datasets.load_dataset(name, config, split=spec.split, streaming=True)
        numbered = (_Row(number, row) for number, row in enumerate(rows, start=1))
        licence = _LICENCES.get(name, "unknown")
        yield from _dialogues(numbered, spec, where=name, fallback=name.split("/")[1], licence=licence)
    except SourceError:
        raise
    except Exception as error:  # the hub's client raises errors of a dozen libraries
        raise SourceError(
            f"{spec.path}: there is no such file or folder, and Hugging Face did not give it as a dataset"
            f" (split {spec.split!r}): {type(error).__name__}: {str(error)[:300]}. Check the name and the"
            " split; without a network give the path of a downloaded .jsonl or .parquet file",
            retryable=isinstance(error, OSError) and not isinstance(error, FileNotFoundError),
        ) from error


def resolve_name(spec: SourceSpec) -> str:
    """The short name that the ids of a source start with, without reading more than its first row.

    Raises: SourceError.
    """
    if spec.name:
        return safe_key(spec.name) or "corpus"
    for item in read_dialogues(replace(spec, limit=None)):
        if isinstance(item, Dialogue):
            return item.source
    raise SourceError(f"{spec.path}: there is no dialogue in it")


def _open(spec: SourceSpec) -> Iterator[Dialogue | Rejected]:
    path = Path(spec.path)
    if spec.path == BUNDLED:
        data = resources.files("duplexdata").joinpath("data", "corpus.jsonl")
        with resources.as_file(data) as file:
            named = replace(spec, name=spec.name or BUNDLED)
            yield from _dialogues(
                _read_rows(file), named, where=file.name, fallback=BUNDLED, licence=_LICENCES[BUNDLED]
            )
    elif spec.path and path.is_dir():
        yield from _from_files(_files(path), spec, "unknown")
    elif path.is_file():
        if not path.name.endswith(_SUFFIXES):
            raise SourceError(f"{path}: expected a file that ends with {', '.join(_SUFFIXES)}")
        yield from _from_files([path], spec, "unknown")
    elif (hub := _HUB_ID.fullmatch(spec.path)) and not path.name.endswith(_SUFFIXES) and spec.path[0] not in "./~":
        yield from _from_hub(spec, hub[1], hub[2])
    else:
        raise SourceError(
            f"{spec.path}: no such file or folder; give an existing {', '.join(_SUFFIXES)} file, a folder of"
            f" them, a Hugging Face id like org/name, or {BUNDLED!r}"
        )


def read_dialogues(spec: SourceSpec) -> Iterator[Dialogue | Rejected]:
    """The dialogues of a source in its order, and in their place the rows that are none, with the reason.

    Nothing is held but the row (of Parquet: the batch of rows) being read.

    Raises: SourceError: there is no such source, a file is damaged, has no rows, or is of no known shape.
        It is raised where the reading gets there, so that rows may have come before it.
    """
    return islice(_open(spec), spec.limit)
