"""Rows of a bank (`voices.jsonl`, a hub dataset's) as values: columns by any usual name, words made equal."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from duplexdata.names import lies_inside, on_one_line
from duplexdata.voices.bank import ANY_LANGUAGE, Fault

_SEXES = {
    **dict.fromkeys(("f", "female", "woman", "feminine", "female_feminine"), "female"),
    **dict.fromkeys(("m", "male", "man", "masculine", "male_masculine"), "male"),
    **dict.fromkeys(("", "unknown", "-", "n/a", "na", "none", "do_not_wish_to_say", "not stated"), ""),
}
_UNKNOWN = frozenset(
    ("", "-", "?", "unknown", "not stated", "none", "no", "false", "n/a", "na", "null", "noassertion", "unlicensed")
)
"""Words that say that nothing is known: of a licence, a consent, an accent."""
_SPLITS = {"": "", "train": "train", "test": "test", "validation": "test", "dev": "test"}
_SPLITS |= {"assistant": "assistant", "both": "assistant"}
_TAG = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{1,8})*")
_PATH = re.compile(r"(/[^/\s]+/|[A-Za-z]:[\\/]|\\\\|file://|~[/\\])")
_MAX_ID = 200
_MAX_TEXT = 10_000
"""Characters of a field: a transcript of ten minutes."""
_SETTINGS = {"rate": (80, 450), "pitch": (0, 99), "range": (0, 100)}
"""espeak-ng's numbers."""
_SETTING = re.compile(r"[\w.+-]{1,100}")


class BankRow(BaseModel):
    """A row, checked. Text that is not there is empty."""

    model_config = ConfigDict(
        extra="ignore", str_strip_whitespace=True, coerce_numbers_to_str=True, frozen=True, str_max_length=_MAX_TEXT
    )

    id: str = ""
    file: str = Field("", validation_alias=AliasChoices("file", "audio", "path", "file_name"))
    transcript: str = Field("", validation_alias=AliasChoices("transcript", "text", "sentence"))
    language: str = Field("", validation_alias=AliasChoices("language", "lang", "locale"))
    sex: str = Field("", validation_alias=AliasChoices("sex", "gender"))
    accent: str = Field("", validation_alias=AliasChoices("accent", "accents", "dialect"))
    licence: str = Field("", validation_alias=AliasChoices("licence", "license"))
    consent: str = ""
    source: str = ""
    split: str = ""
    speaker: str = Field("", validation_alias=AliasChoices("speaker", "speaker_id", "client_id"))
    settings: dict[str, str] = {}

    @model_validator(mode="before")
    @classmethod
    def _without_nothing(cls, raw: Any) -> Any:
        """What is null, or "no", is as if it were not there."""
        return {k: v for k, v in raw.items() if v is not None and v is not False} if isinstance(raw, dict) else raw

    @field_validator("settings", mode="before")
    @classmethod
    def _settings_from_text(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = json.loads(value) if value.strip() else {}
        # A struct column has every key in every row.
        return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value

    @field_validator("settings")
    @classmethod
    def _settings_in_bounds(cls, value: dict[str, str]) -> dict[str, str]:
        for key, setting in value.items():
            if not _SETTING.fullmatch(setting):
                raise ValueError(f"{key} is {setting!r}")
            least, most = _SETTINGS.get(key, (0, 0))
            if key in _SETTINGS and not (setting.isdecimal() and least <= int(setting) <= most):
                raise ValueError(f"{key} is {setting!r}, expected a whole number from {least} to {most}")
        return value

    @field_validator("consent", mode="before")
    @classmethod
    def _yes(cls, value: Any) -> Any:
        return "yes" if value is True else value

    @field_validator("licence", "consent", "accent", "speaker")
    @classmethod
    def _known(cls, value: str) -> str:
        return "" if value.casefold() in _UNKNOWN else value

    @field_validator("sex")
    @classmethod
    def _usual_word(cls, value: str) -> str:
        return _SEXES.get(value.casefold(), value.casefold())

    @field_validator("split")
    @classmethod
    def _known_split(cls, value: str) -> str:
        if value.casefold() not in _SPLITS:
            raise ValueError(f"is {value!r}, expected train, test, assistant, or nothing")
        return _SPLITS[value.casefold()]

    @field_validator("language")
    @classmethod
    def _tag(cls, value: str) -> str:
        if value and not _TAG.fullmatch(value):
            raise ValueError(f"is {value!r}, expected a BCP 47 tag such as en or zh")
        head, *rest = value.replace("_", "-").split("-")
        return "-".join([head.lower(), *rest])

    @field_validator("file")
    @classmethod
    def _inside(cls, value: str) -> str:
        if value and not lies_inside(value):
            raise ValueError(f"is {value!r}, expected a path inside the bank's folder")
        return value

    @field_validator("source")
    @classmethod
    def _no_path(cls, value: str) -> str:
        """Sources are published: of a place on somebody's disk only the name."""
        return PurePosixPath(value.replace("\\", "/")).name if _PATH.match(value) else value

    @model_validator(mode="after")
    def _whole(self) -> BankRow:
        if not self.file and not self.settings:
            raise ValueError("file is missing (settings, for a voice that an engine makes up)")
        if self.file and not self.language:
            raise ValueError("language is missing")
        if not self.name.isprintable() or not 0 < len(self.name) <= _MAX_ID:
            raise ValueError(f"id is {self.name[:40]!r}, expected 1 to {_MAX_ID} characters that can be printed")
        return self

    @property
    def name(self) -> str:
        """The id; the file's name where there is none."""
        return self.id or PurePosixPath(self.file).stem

    @property
    def tag(self) -> str:
        return self.language or ANY_LANGUAGE


@dataclass(frozen=True, slots=True)
class BadRow:
    where: str
    fault: Fault


def parse_bank_row(raw: object, where: str) -> BankRow | BadRow:
    """
    Args:
        where: the row's name in messages ("row 3").
    """
    if not isinstance(raw, Mapping):
        return BadRow(where, Fault("bad_row", f"expected an object, found a {type(raw).__name__}"))
    try:
        return BankRow.model_validate(dict(raw))
    except (ValidationError, ValueError, RecursionError) as error:
        name = raw.get("id")
        shown = f"{on_one_line(name[:80])} ({where})" if isinstance(name, str) and name else where
        return BadRow(shown, Fault("bad_row", on_one_line(_first(error)[:300])))


def _first(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    return f"{key} {message}" if message.startswith("is ") else f"{key}: {message}" if key else message
