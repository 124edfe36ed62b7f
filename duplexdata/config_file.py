"""Configurations from YAML, presets and the command line, checked at the door."""

from __future__ import annotations

import dataclasses
import difflib
import reprlib
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from duplexdata.config import Config, as_dict
from duplexdata.errors import ConfigError
from duplexdata.files import read_small
from duplexdata.names import on_one_line
from duplexdata.yaml_values import MAX_BYTES, parse_yaml

C = TypeVar("C")
_MAX_NUMBER = 2**63 - 1
"""So that all of them fit where whole numbers have 64 bits; infinity and what is no number are none."""
_MAX_TEXT = 4096
"""Characters: Linux' longest path."""

PRESETS: Mapping[str, Mapping[str, Any]] = {
    # arXiv 2606.14528: two channels, half turn-taking and half interruption, SFT rows and preference pairs.
    "bayling": {"layout": {"emit": ["sft", "dpo"]}},
    # arXiv 2406.15718v2: text only, slices of 4 to 6 words and 10 tokens; its own counts per type. Its first two
    # kinds of data (uninterrupted and interwoven) are as frequent as the four interruptions together.
    "duplex-ultrachat": {
        "speech": {"backend": "nominal"},
        "layout": {"emit": ["tdm"], "tdm_slicing": "words"},
        "mix": {
            "distractor": 0.0,
            "backchannel": 0.0,
            "pause": 0.0,
            "uninterrupted": 0.25,
            "topic_interweaving": 0.25,
        },
    },
    # arXiv 2409.11727: text only, state tokens; every conversation with a non-query, cut by new queries.
    "duo": {
        "speech": {"backend": "nominal"},
        "layout": {"emit": ["duo"]},
        "mix": {
            "uninterrupted": 0.5,
            "topic_interweaving": 0.0,
            "generation_termination": 0.0,
            "regeneration": 0.25,
            "dialogue_reset": 0.25,
            "back_on_topic": 0.0,
            "distractor": 1.0,
            "distractor_in_silence": 0.2,
            "backchannel": 0.0,
            "pause": 0.0,
        },
    },
}


def load_config(path_or_preset: str | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """A configuration from a YAML file or a preset's name, with values put over it.

    A file may start from a preset: `preset: bayling`.

    Args:
        overrides: nested as in YAML; None values are left out.

    Raises: ConfigError: names the file, the key, what was found and what would be right.
    """
    return load_settings(Config, PRESETS, path_or_preset, overrides)


def load_settings(
    type_: type[C],
    presets: Mapping[str, Mapping[str, Any]],
    path_or_preset: str | None,
    overrides: Mapping[str, Any] | None,
    adapt: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
) -> C:
    """What `load_config` does, for any dataclass of settings.

    Args:
        presets: values by name.
        adapt: rewrites what a file says before it is checked: shorthands.
    """
    raw: Mapping[str, Any] = {}
    where = "the command line"
    if path_or_preset is not None:
        raw, where = _read(path_or_preset, presets)
    merged = _merge(adapt(raw), _without_none(overrides or {}))
    _check_keys(merged, type_, where, "")
    _check_values(merged, where, "")
    try:
        return TypeAdapter(type_).validate_python(merged)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(p) for p in first["loc"])
        raise ConfigError(
            f"{where}: {on_one_line(key[:80])}: {first['msg']} (found {_excerpt(first['input'])})"
        ) from None


def dump_config(config: Config) -> str:
    """YAML of all settings, as `load_config` reads it."""
    return dump_settings(config)


def dump_settings(config: object) -> str:
    """The same of any dataclass of settings."""
    return yaml.safe_dump(as_dict(config), sort_keys=False, allow_unicode=True)


def _read(path_or_preset: str, presets: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Any], str]:
    if path_or_preset in presets:
        return dict(presets[path_or_preset]), f"preset {path_or_preset}"
    path = Path(path_or_preset)
    shown = on_one_line(str(path))
    try:
        raw = parse_yaml(read_small(path, MAX_BYTES).decode("utf-8-sig"))
    except FileNotFoundError:
        known = f", and no preset of that name (presets: {', '.join(presets)})" if presets else ""
        raise ConfigError(f"{shown}: no such file{known}") from None
    except OSError as error:
        raise ConfigError(f"{shown}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:  # no UTF-8, no YAML
        raise ConfigError(f"{shown}: cannot be read as YAML: {error}") from None
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise ConfigError(f"{shown}: expected a mapping of settings, found {type(raw).__name__}")
    preset = raw.pop("preset", None)
    if preset is None:
        return raw, shown
    if not isinstance(preset, str) or preset not in presets:
        raise ConfigError(f"{shown}: preset {_excerpt(preset)} is unknown; {_nearest(str(preset), presets)}")
    return _merge(presets[preset], raw), shown


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in over.items():
        old = out.get(key)
        out[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return out


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        k: _without_none(v) if isinstance(v, Mapping) else v
        for k, v in values.items()
        if v is not None and not (isinstance(v, Mapping) and not _without_none(v))
    }


def _check_keys(raw: Mapping[str, Any], type_: type, where: str, prefix: str) -> None:
    """Unknown keys are refused, with the nearest known one."""
    hints = typing.get_type_hints(type_)
    names = {f.name: hints[f.name] for f in dataclasses.fields(type_)}
    for key, value in raw.items():
        if key not in names:
            raise ConfigError(f"{where}: unknown key {prefix}{on_one_line(str(key)[:80])}; {_nearest(str(key), names)}")
        inner = names[key]
        if dataclasses.is_dataclass(inner) and isinstance(inner, type):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{where}: {prefix}{key} is {_excerpt(value)}, expected a mapping of settings")
            _check_keys(value, inner, where, f"{prefix}{key}.")
        elif key == "sources":
            _check_sources(value, where)


def _check_values(value: object, where: str, key: str) -> None:
    """Values that no setting can have, whatever its type."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            _check_values(inner, where, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            _check_values(inner, where, f"{key}[{i}]")
    elif isinstance(value, str) and ("\0" in value or len(value) > _MAX_TEXT):
        what = "holds a NUL character" if "\0" in value else f"has more than {_MAX_TEXT} characters, which is the limit"
        raise ConfigError(f"{where}: {on_one_line(key[:80])} {what}")
    elif isinstance(value, int | float) and not -_MAX_NUMBER <= value <= _MAX_NUMBER:
        shown = f"{on_one_line(key[:80])} is {_excerpt(value)}"
        raise ConfigError(f"{where}: {shown}, expected a number between ±{_MAX_NUMBER}")


def _check_sources(value: object, where: str) -> None:
    from duplexdata.config import SourceConfig

    if not isinstance(value, list | tuple):
        raise ConfigError(f"{where}: sources is {_excerpt(value)}, expected a list of mappings with a path each")
    for n, item in enumerate(value):
        if isinstance(item, SourceConfig):
            continue
        if not isinstance(item, Mapping):
            raise ConfigError(
                f"{where}: sources[{n}] is {_excerpt(item)}, expected a mapping such as {{path: file.jsonl}}"
            )
        _check_keys(item, SourceConfig, where, f"sources[{n}].")


def _nearest(key: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(key[:80], known, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"


def _excerpt(value: object) -> str:
    """A value as messages show it: large ones are cut while they are written out, not after."""
    return _REPR.repr(value)


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 80


def sources_override(paths: Sequence[str] | None) -> list[dict[str, str]] | None:
    """`--source` options as the configuration's `sources`."""
    return [{"path": p} for p in paths] if paths else None
