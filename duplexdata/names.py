"""Names that come from data: as paths inside a folder, as names of files, and on a terminal."""

from __future__ import annotations

import hashlib
import re
import unicodedata

_LONGEST = 120
"""Bytes of a file's name without its ending; file systems take 255."""
_UNSAFE = re.compile(r"[^\w.+-]")
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Controls of terminals and of the direction of writing, line ends that are none; tabs and newlines are let through."""


def lies_inside(name: str) -> bool:
    """Whether a path from data, put behind a folder, names something in it: "a/b.parquet", not "../b", "/b" or "."."""
    if "\\" in name or any(unicodedata.category(ch) in ("Cc", "Cs") for ch in name):
        return False
    return all(part not in ("", ".", "..") for part in name.split("/"))


def file_name(text: str) -> str:
    """A text from data as the name of a file: no separators, not hidden, not too long.

    Names of the usual form stay as they are. Of others what had to go is made up for by a hash, so that two texts
    never get one name.
    """
    plain = _UNSAFE.sub("_", text).lstrip(".-").encode("utf-8", "replace")[:_LONGEST].decode("utf-8", "ignore")
    if plain == text and text:
        return text
    mark = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{plain or 'unnamed'}-{mark}"


def printable(text: str) -> str:
    """A text from data for a terminal: it can neither steer it nor hide or turn round what stands there."""
    return _STEERING.sub("\N{REPLACEMENT CHARACTER}", text)


def on_one_line(text: str) -> str:
    """A name from data in a message: on one line, and what cannot be printed is written as its escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
