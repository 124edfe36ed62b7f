"""The row shapes that dialogues are published in, and how one row becomes a `Dialogue`."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from duplexdata.dialogue import Channel, Dialogue, Rejected, Turn
from duplexdata.errors import SourceError
from duplexdata.rng import stable_hash

BUNDLED = "bundled"
"""The path that stands for the corpus inside the package."""


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """A corpus to read.

    Attributes:
        path: "bundled"; a .json, .jsonl, .ndjson or .parquet file, the first three also with .gz behind it; a
            folder of such files; or a Hugging Face id, "org/name" or "org/name:config".
        name: short name, the prefix of ids; by default that of the corpus if it is a known one, else the
            file's or folder's.
        split: only for Hugging Face ids.
        language: BCP 47 tag of rows that state none; by default each row's text decides (Chinese or English).
        licence: by default that of the corpus if it is a known one, else "unknown".
        limit: how many rows are read at most, bad ones included.
    """

    path: str
    name: str | None = None
    split: str = "train"
    language: str | None = None
    licence: str | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Shape:
    """What a row looks like.

    Attributes:
        required: fields without which a row is rejected; with `marks` the shape is recognised by them.
        optional: fields that are read where they are there.
        id_fields: those of them that may hold the row's own id, the first one that does wins.
        corpus: the short name of the corpus that is published in this shape; None for a shape used by many.
        marks: further fields that rows of this shape have, and that are not read.
    """

    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    id_fields: tuple[str, ...]
    corpus: str | None = None
    marks: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.required, *self.optional, *self.marks)


SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        shape.name: shape
        for shape in (
            Shape("ultrachat", ("data",), ("id", "language"), ("id",), "ultrachat"),
            Shape(
                "ultrachat_200k",
                ("messages",),
                ("prompt_id", "id", "language"),
                ("prompt_id", "id"),
                "ultrachat",
                marks=("prompt",),
            ),
            Shape("messages", ("messages",), ("id", "prompt_id", "language"), ("id", "prompt_id")),
            Shape("sharegpt", ("conversations",), ("id", "language"), ("id",)),
            Shape("alpaca", ("instruction", "output"), ("input", "id", "language"), ("id",), "alpaca"),
        )
    }
)
"""In the order in which they are tried."""


class _Bad(Exception):
    """A row that cannot be used; becomes a `Rejected` at the door."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


# --- values of a row ----------------------------------------------------------------------------------------

MAX_DIALOGUE_CHARACTERS = 1_000_000
"""Of all turns together; a longer one is no conversation but a document. A shard's dialogues are held at a time."""
MAX_TURNS = 10_000
"""Likewise."""
_EXCERPT = 40
"""Characters of a row that a message shows at most."""
_SURROGATE = re.compile("[\ud800-\udfff]")


def _excerpt(value: object) -> str:
    """A short look at a value, for messages: a corpus' text must not end up in logs."""
    if isinstance(value, str):
        return repr(value if len(value) <= _EXCERPT else value[:_EXCERPT] + "…")[: 2 * _EXCERPT]
    if isinstance(value, bool | int | float) or value is None:
        return str(value)[:_EXCERPT]
    return f"a {type(value).__name__}"


def _text(value: object, field: str) -> str:
    """A text with something in it; halves of surrogate pairs, which no file can hold, are replaced."""
    if not isinstance(value, str):
        raise _Bad("wrong_type", f"{field}: expected text, found {_excerpt(value)}")
    if not value.strip():
        raise _Bad("empty_text", f"{field}: expected text, found {_excerpt(value)}")
    if "\0" in value:
        raise _Bad("nul_byte", f"{field}: a NUL character at position {value.index(chr(0))}")
    return _SURROGATE.sub("\ufffd", value)


def _items(row: Mapping[str, object], field: str) -> Sequence[object]:
    value = row[field]
    if not isinstance(value, list | tuple):
        raise _Bad("wrong_type", f"{field}: expected a list, found {_excerpt(value)}")
    if not value:
        raise _Bad("no_turns", f"{field}: the list is empty")
    if len(value) > MAX_TURNS:
        raise _Bad("too_many_turns", f"{field}: {len(value)}, at most {MAX_TURNS} are read")
    return value


# --- shapes -> turns ----------------------------------------------------------------------------------------

_USER_ROLES = frozenset({"user", "human", "prompter"})
_ASSISTANT_ROLES = frozenset({"assistant", "gpt", "chatgpt", "bing", "bard", "model", "bot"})
_NO_INPUT = frozenset({"", "<noinput>", "noinput", "no input", "n/a", "none"})
"""What Alpaca-like corpora write for a missing input."""


def _ultrachat(row: Mapping[str, object]) -> list[Turn]:
    channels = (Channel.USER, Channel.ASSISTANT)
    return [Turn(channels[i % 2], _text(value, f"data[{i}]")) for i, value in enumerate(_items(row, "data"))]


def _role(value: object, field: str) -> Channel | None:
    """The speaker; None for a system message."""
    role = value.strip().lower() if isinstance(value, str) else None
    if role == "system":
        return None
    if role in _USER_ROLES:
        return Channel.USER
    if role in _ASSISTANT_ROLES:
        return Channel.ASSISTANT
    raise _Bad("unknown_role", f"{field}: expected user, assistant or system, found {_excerpt(value)}")


def _role_turns(row: Mapping[str, object], field: str, role_key: str, text_key: str) -> list[Turn]:
    turns: list[Turn] = []
    for i, item in enumerate(_items(row, field)):
        place = f"{field}[{i}]"
        if not isinstance(item, Mapping):
            raise _Bad("wrong_type", f"{place}: expected an object, found {_excerpt(item)}")
        for key in (role_key, text_key):
            if key not in item:
                raise _Bad("missing_field", f"{place}: there is no {key!r}")
        channel = _role(item[role_key], f"{place}.{role_key}")
        if channel is not None:
            turns.append(Turn(channel, _text(item[text_key], f"{place}.{text_key}")))
        elif turns:
            raise _Bad("not_alternating", f"{place}: a system message inside the dialogue")
    if not turns:
        raise _Bad("no_turns", f"{field}: only system messages")
    return turns


def _alpaca(row: Mapping[str, object]) -> list[Turn]:
    query = _text(row["instruction"], "instruction")
    given = row.get("input")
    if given is not None and not isinstance(given, str):
        raise _Bad("wrong_type", f"input: expected text, found {_excerpt(given)}")
    if given is not None and given.strip().lower() not in _NO_INPUT:
        query = f"{query}\n{_text(given, 'input')}"
    return [Turn(Channel.USER, query), Turn(Channel.ASSISTANT, _text(row["output"], "output"))]


_TURNS: Mapping[str, Callable[[Mapping[str, object]], list[Turn]]] = MappingProxyType(
    {
        "ultrachat": _ultrachat,
        "ultrachat_200k": lambda row: _role_turns(row, "messages", "role", "content"),
        "messages": lambda row: _role_turns(row, "messages", "role", "content"),
        "sharegpt": lambda row: _role_turns(row, "conversations", "from", "value"),
        "alpaca": _alpaca,
    }
)


def _check_order(turns: Sequence[Turn]) -> None:
    if turns[0].channel is not Channel.USER:
        raise _Bad("starts_with_assistant", "the first turn is the assistant's, expected the user's")
    for i in range(1, len(turns)):
        if turns[i].channel is turns[i - 1].channel:
            raise _Bad("not_alternating", f"turns {i} and {i + 1} are both the {turns[i].channel}'s")
    if len(turns) == 1:
        raise _Bad("no_reply", "there is a user turn only")


def _check_length(turns: Sequence[Turn]) -> None:
    characters = sum([len(turn.text) for turn in turns])
    if characters > MAX_DIALOGUE_CHARACTERS:
        raise _Bad("dialogue_too_long", f"{characters} characters, at most {MAX_DIALOGUE_CHARACTERS} are read")


# --- language and id ----------------------------------------------------------------------------------------

_MAX_TAG = 35
"""Characters. Source: RFC 5646, section 4.4.1: no registered tag needs more."""
_TAG = re.compile(r"[A-Za-z]{2,3}(?:-[A-Za-z0-9]{1,8})*")
_LANGUAGE_NAMES: Mapping[str, str] = MappingProxyType(
    {"english": "en", "chinese": "zh", "german": "de", "french": "fr", "spanish": "es", "japanese": "ja"}
)
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_LETTER = re.compile(r"[^\W\d_]")
_HAN_SHARE = 0.3
"""More than this share of Han among the letters makes a text Chinese."""
_LANGUAGE_SAMPLE = 2000
"""Characters that are looked at."""


def guess_language(turns: Sequence[Turn]) -> str:
    """ "zh" or "en", by the script."""
    sample = "\n".join(turn.text[:_LANGUAGE_SAMPLE] for turn in turns[:4])[:_LANGUAGE_SAMPLE]
    if sample.isascii():
        return "en"
    return "zh" if len(_HAN.findall(sample)) > _HAN_SHARE * len(_LETTER.findall(sample)) else "en"


def _language(row: Mapping[str, object], configured: str | None, turns: Sequence[Turn]) -> str:
    stated = row.get("language")
    if stated is None or stated == "":
        return configured or guess_language(turns)
    if not isinstance(stated, str):
        raise _Bad("wrong_type", f"language: expected text, found {_excerpt(stated)}")
    tag = _LANGUAGE_NAMES.get(stated.strip().lower(), stated.strip())
    if len(tag) > _MAX_TAG or not _TAG.fullmatch(tag):
        raise _Bad("bad_language", f"language: expected a tag like 'en', found {_excerpt(stated)}")
    return tag


_MAX_ID = 120


def safe_key(text: str) -> str:
    """A text as part of an id: one line without path separators, at most 120 characters; may be empty."""
    if not text.isprintable():
        kinds = ((ch, unicodedata.category(ch)[0]) for ch in text)
        text = "".join(" " if kind == "Z" else ch for ch, kind in kinds if kind != "C")
    key = text.replace("/", "_").replace("\\", "_").strip()
    if not key.strip("."):
        return ""
    # Two long ids may have the same beginning.
    return key if len(key) <= _MAX_ID else f"{key[: _MAX_ID - 9]}-{stable_hash(key, bits=32):08x}"


def _own_id(row: Mapping[str, object], shape: Shape) -> str:
    for field in shape.id_fields:
        value = row.get(field)
        if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
            key = safe_key(str(value)[:10_000])
            if key:
                return key
    return ""


# --- rows ---------------------------------------------------------------------------------------------------


def recognise(fields: Collection[str]) -> str:
    """The name of the shape that a row with these fields has.

    Raises: SourceError: none; it lists the fields and the shapes.
    """
    for shape in SHAPES.values():
        if all(field in fields for field in (*shape.required, *shape.marks)):
            return shape.name
    found = ", ".join(sorted(_excerpt(field) for field in fields)[:20]) or "none"
    known = "; ".join(f"{shape.name}: {', '.join((*shape.required, *shape.marks))}" for shape in SHAPES.values())
    raise SourceError(f"the fields of a row are of no known shape. Found: {found}. Known shapes: {known}")


def parse_row(
    row: Mapping[str, object],
    shape: str,
    *,
    source: str,
    row_number: int,
    language: str | None,
    licence: str,
    where: str,
    id_prefix: str = "",
) -> Dialogue | Rejected:
    """One row as a dialogue.

    Args:
        shape: a key of `SHAPES`.
        row_number: from 1; the id of a row that has none.
        language: of rows that state none; None to decide by the text.
        where: file and row, for the rejection.
        id_prefix: keeps apart the ids of several files of one source.

    Returns: a dialogue that alternates from the user on, with at least one reply; or why there is none.
    """
    known = SHAPES[shape]
    try:
        for field in known.required:
            if field not in row:
                raise _Bad("missing_field", f"there is no {field!r}")
        turns = _TURNS[shape](row)
        _check_order(turns)
        _check_length(turns)
        tag = _language(row, language, turns)
    except _Bad as bad:
        return Rejected(bad.reason, bad.detail, where)
    key = f"{id_prefix}{_own_id(row, known) or row_number}"
    return Dialogue(f"{source}/{key}", source, tuple(turns), tag, licence)
