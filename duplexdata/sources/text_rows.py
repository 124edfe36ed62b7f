"""Rows of JSON lines and JSON arrays: from bytes of any kind, a row at a time, bad ones with their reason."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, cast

from duplexdata.errors import SourceError

MAX_ROW_BYTES = 16 * 1024 * 1024
"""A longer line, or element of an array, is rejected without being held: a dialogue of `MAX_DIALOGUE_CHARACTERS`
has fewer, whatever its script and however it is escaped."""
MAX_DEPTH = 64
"""Brackets inside each other. Dialogues need 4; what Python itself takes depends on who calls it."""
CHUNK = 256 * 1024
_UTF8_MARK = b"\xef\xbb\xbf"
_OTHER_MARKS = {b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it was read: its number from 1, and what it holds or why it could not be read."""

    number: int
    value: Mapping[str, object] | None
    reason: str = ""
    detail: str = ""


def _decoded(raw: bytes, number: int) -> Row:
    """One JSON object."""
    try:
        value = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Row(number, None, "invalid_utf8", f"byte {error.start} of the row is no UTF-8")
    except RecursionError:
        return _too_deep(number)
    except ValueError as error:  # JSONDecodeError, and integers of too many digits
        if b"\0" in raw:
            return Row(number, None, "nul_byte", f"a NUL byte at byte {raw.index(0)} of the row")
        return Row(number, None, "invalid_json", str(error))
    if not isinstance(value, dict):
        return Row(number, None, "not_an_object", f"expected an object, found a {type(value).__name__}")
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _depth_exceeds(value, MAX_DEPTH):
        return _too_deep(number)
    return Row(number, value)


def _too_deep(number: int) -> Row:
    return Row(number, None, "nested_too_deeply", f"more than {MAX_DEPTH} brackets inside each other")


def _depth_exceeds(value: object, most: int) -> bool:
    level = [value]
    for _ in range(most):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else cast(list[object], outer))
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


# --- JSON lines ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Line:
    """A line in the making. What is too long is counted and not held."""

    parts: list[bytes] = field(default_factory=list)
    length: int = 0

    def add(self, part: bytes) -> None:
        self.length += len(part)
        if self.length <= MAX_ROW_BYTES:
            self.parts.append(part)
        else:
            self.parts.clear()

    def row(self, number: int) -> Row | None:
        """None for an empty line."""
        return _too_long(number) if self.length > MAX_ROW_BYTES else _line_row(b"".join(self.parts), number)


def _line_row(line: bytes, number: int) -> Row | None:
    if len(line) > MAX_ROW_BYTES:
        return _too_long(number)
    raw = line.strip(b" \t").removeprefix(_UTF8_MARK)
    return _decoded(raw, number) if raw.strip() else None


def _too_long(number: int) -> Row:
    return Row(number, None, "line_too_long", f"more than {MAX_ROW_BYTES} bytes")


def read_lines(file: IO[bytes]) -> Iterator[Row]:
    """Rows of a JSON lines file; empty lines count as lines but are no rows. Lines end in LF, CRLF or CR."""
    number, line, carried = 1, _Line(), b""
    while chunk := file.read(CHUNK):
        chunk = carried + chunk
        carried = b"\r" if chunk.endswith(b"\r") else b""  # its LF may be the next chunk's first byte
        if b"\r" in chunk:
            chunk = chunk[: len(chunk) - len(carried)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        first, *whole = chunk.split(b"\n")
        line.add(first)
        if not whole:
            continue
        *whole, last = whole
        if (row := line.row(number)) is not None:
            yield row
        for at, part in enumerate(whole, start=number + 1):
            if part and (row := _line_row(part, at)) is not None:
                yield row
        number, line = number + 1 + len(whole), _Line()
        line.add(last)
    if (row := line.row(number)) is not None:
        yield row


# --- one JSON array -----------------------------------------------------------------------------------------

_STRUCTURE = re.compile(rb'["{}\[\],]')
_STRING_END = re.compile(rb'["\\]')
_STEP = 4096
"""Bytes in which brackets are counted, not looked at one by one, where there is no string: millions of them are."""


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
                at = self._step(chunk, at)
            elif self.depth == 0:
                return match.start()
            elif mark in b"}]":
                self.depth -= 1
        self.skip = max(0, at - len(chunk))
        return None

    def _step(self, chunk: bytes, at: int) -> int:
        """Past a stretch of brackets without a string, if the element cannot end in it."""
        stop = at + _STEP
        if self.depth < 2 or chunk.find(b'"', at, stop) >= 0:
            return at
        closing = chunk.count(b"]", at, stop) + chunk.count(b"}", at, stop)
        if closing >= self.depth:
            return at
        self.depth += chunk.count(b"[", at, stop) + chunk.count(b"{", at, stop) - closing
        return min(stop, len(chunk))


def _read_array(file: _Rest) -> Iterator[Row]:
    """Rows of one JSON array, `file` standing behind its opening bracket.

    Elements are told apart by brackets and quotes alone, so that one that is no JSON spoils only itself.
    """
    number, element, scanner = 1, bytearray(), _ElementScanner()
    while chunk := file.read(CHUNK):
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
    yield Row(number, None, "truncated", "the file ends inside the array")


def _element(raw: bytes, number: int) -> Row:
    if len(raw) > MAX_ROW_BYTES:
        return _too_long(number)
    return _decoded(raw.strip(b" \t\r\n"), number)


def _after_array(rest: bytes, file: _Rest, number: int) -> Iterator[Row]:
    while rest:
        if rest.strip():
            yield Row(number, None, "trailing_data", "there is something behind the end of the array")
            return
        rest = file.read(CHUNK)


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


# --- either -------------------------------------------------------------------------------------------------


def read_text_rows(file: IO[bytes], name: str, *, may_be_array: bool) -> Iterator[Row]:
    """Rows of a file of JSON lines, or of one that is in fact one array.

    Raises: SourceError: it is in an encoding that is not UTF-8, or is neither of the two.
    """
    head = file.read(CHUNK)
    for mark, encoding in _OTHER_MARKS.items():
        if head.startswith(mark):
            raise SourceError(
                f"{name}: it is in {encoding}, expected UTF-8; `iconv -f {encoding} -t UTF-8 OLD > NEW` makes it that"
            )
    if may_be_array:
        body = head.removeprefix(_UTF8_MARK).lstrip()
        if body.startswith(b"["):
            return _read_array(_Rest(body[1:], file))
        lines = body.splitlines()
        if len(lines) > 1 and lines[0].rstrip().endswith((b"{", b"[", b",")):
            raise SourceError(f"{name}: expected an array of rows, or one row a line; found neither")
    file.seek(0)
    return read_lines(file)
