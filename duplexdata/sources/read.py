"""Reads dialogues from files, folders and Hugging Face, one row at a time whatever the size of the corpus."""

from __future__ import annotations

import gzip
import os
import re
import sys
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib import resources
from itertools import islice
from pathlib import Path
from types import MappingProxyType

from duplexdata.dialogue import Dialogue, Rejected
from duplexdata.errors import SourceError
from duplexdata.files import open_gzip, open_regular
from duplexdata.names import on_one_line
from duplexdata.sources.ids import TakenIds
from duplexdata.sources.parquet import read_parquet
from duplexdata.sources.shapes import BUNDLED, SHAPES, SourceSpec, parse_row, recognise, safe_key
from duplexdata.sources.text_rows import Row, read_text_rows

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


# --- files -> rows ------------------------------------------------------------------------------------------


def _read_text_file(path: Path) -> Iterator[Row]:
    name = path.name.removesuffix(".gz")
    try:
        with open_regular(path) as file:
            inside = open_gzip(file) if name != path.name else file
            yield from read_text_rows(inside, on_one_line(path.name), may_be_array=name.endswith(".json"))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise SourceError(f"{on_one_line(str(path))}: the file is damaged or cut off ({error})") from error
    except OSError as error:
        raise SourceError(f"{on_one_line(str(path))}: cannot be read ({error.strerror or error})") from error


def _read_rows(path: Path) -> Iterator[Row]:
    if path.suffix != ".parquet":
        return _read_text_file(path)
    return read_parquet(path, lambda names: SHAPES[_shape(names, on_one_line(path.name))].columns)


# --- rows -> dialogues --------------------------------------------------------------------------------------


def _shape(fields: list[str], where: str) -> str:
    try:
        return recognise(fields)
    except SourceError as error:
        raise SourceError(f"{where}: {error}") from error


def _source_name(spec: SourceSpec, shape: str, fallback: str) -> str:
    return safe_key(spec.name or SHAPES[shape].corpus or fallback) or "corpus"


def _dialogues(
    rows: Iterator[Row], spec: SourceSpec, *, where: str, fallback: str, licence: str, id_prefix: str = ""
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
    """Raises SourceError too for what has a file's name and is none: a link to nowhere is data that is missing."""
    files = sorted(path for path in folder.rglob("*") if path.name.endswith(_SUFFIXES) and not path.is_dir())
    if not files:
        raise SourceError(f"{on_one_line(str(folder))}: there is no {', '.join(_SUFFIXES)} file in this folder")
    for path in files:
        if not os.path.isfile(path):
            raise SourceError(f"{on_one_line(str(path))}: {_no_file(path)}; mend it or take it out of the folder")
    return files


def _no_file(path: Path) -> str:
    return "the link leads nowhere" if path.is_symlink() else "this is no regular file (a pipe or a device)"


def _from_files(files: list[Path], spec: SourceSpec, licence: str) -> Iterator[Dialogue | Rejected]:
    root = Path(spec.path)
    for path in files:
        # Files of one source may all count their rows from 0.
        inside = str(path.relative_to(root).parent / _stem(path)) if len(files) > 1 else ""
        yield from _dialogues(
            _read_rows(path),
            spec,
            where=on_one_line(path.name),
            fallback=_stem(path) if len(files) == 1 else root.resolve().name,
            licence=licence,
            id_prefix=f"{safe_key(inside)}-" if inside else "",
        )


def _from_hub(spec: SourceSpec, name: str, config: str | None) -> Iterator[Dialogue | Rejected]:
    import datasets  # takes seconds to import, and files need none of it

    try:
        rows = datasets.load_dataset(name, config, split=spec.split, streaming=True)
        numbered = (Row(number, row) for number, row in enumerate(rows, start=1))
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
    path, shown = Path(spec.path), on_one_line(spec.path)
    if spec.path == BUNDLED:
        data = resources.files("duplexdata").joinpath("data", "corpus.jsonl")
        with resources.as_file(data) as file:
            named = replace(spec, name=spec.name or BUNDLED)
            yield from _dialogues(
                _read_rows(file), named, where=file.name, fallback=BUNDLED, licence=_LICENCES[BUNDLED]
            )
    elif spec.path and os.path.isdir(path):
        yield from _from_files(_files(path), spec, "unknown")
    elif os.path.isfile(path):
        if not path.name.endswith(_SUFFIXES):
            raise SourceError(f"{shown}: expected a file that ends with {', '.join(_SUFFIXES)}")
        yield from _from_files([path], spec, "unknown")
    elif spec.path and os.path.lexists(path):
        raise SourceError(f"{shown}: {_no_file(path)}; give a {', '.join(_SUFFIXES)} file or a folder of them")
    elif (hub := _HUB_ID.fullmatch(spec.path)) and not path.name.endswith(_SUFFIXES) and spec.path[0] not in "./~":
        yield from _from_hub(spec, hub[1], hub[2])
    else:
        raise SourceError(
            f"{shown}: no such file or folder; give an existing {', '.join(_SUFFIXES)} file, a folder of"
            f" them, a Hugging Face id like org/name, or {BUNDLED!r}"
        )


def read_dialogues(spec: SourceSpec, taken: TakenIds | None = None) -> Iterator[Dialogue | Rejected]:
    """The dialogues of a source in its order, and in their place the rows that are none, with the reason.

    Nothing is held but the row (of Parquet: the batch of rows) being read, and 8 bytes of every id.

    Args:
        taken: ids of dialogues read before; given for several sources of one run. A dialogue whose id is among them
            gets its place in the source behind it: "ultrachat/7~12".

    Raises: SourceError: there is no such source, a file is damaged, has no rows, or is of no known shape.
        It is raised where the reading gets there, so that rows may have come before it.
    """
    taken = TakenIds() if taken is None else taken
    for number, item in enumerate(
        islice(_open(spec), None if spec.limit is None else min(spec.limit, sys.maxsize)), start=1
    ):
        yield item if isinstance(item, Rejected) else taken.make_unique(item, number)
