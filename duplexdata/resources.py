"""What travels with the package: phrase banks from `prompts/`, JSON Schemas from `schemas/`, data files."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import yaml

from duplexdata.banks import TRANSITIONS, Banks, Distractor
from duplexdata.errors import ConfigError

_PACKAGE = Path(__file__).parent


def folder(name: str) -> Path:
    """`prompts` or `schemas`: inside an installed package, beside it in a checkout."""
    for candidate in (_PACKAGE / name, _PACKAGE.parent / name):
        if candidate.is_dir():
            return candidate
    raise ConfigError(f"the folder {name!r} is missing from this installation; install the package again")


def data_file(name: str) -> Path:
    return _PACKAGE / "data" / name


@cache
def banks(language: str) -> Banks | None:
    """The phrases of a language (BCP 47; the primary tag decides), None if there are none."""
    primary = language.lower().split("-")[0]
    where = folder("prompts") / primary
    if not primary.isalpha() or not where.is_dir():
        return None
    transitions = _load(where / "transitions.yaml")
    missing = [name for name in TRANSITIONS if not transitions.get(name)]
    if missing:
        raise ConfigError(f"{where / 'transitions.yaml'}: no phrases for {', '.join(missing)}")
    fillers = _load(where / "fillers.yaml")
    return Banks(
        language=primary,
        transitions={name: tuple(map(str, transitions[name])) for name in TRANSITIONS},
        distractors=tuple(Distractor(d["kind"], d["text"]) for d in _load(where / "distractors.yaml")),
        backchannels=tuple(map(str, _load(where / "backchannels.yaml"))),
        names=tuple(map(str, fillers["names"])),
        pets=tuple(map(str, fillers["pets"])),
    )


def _load(path: Path):  # type: ignore[no-untyped-def]  # YAML is whatever its file says
    with path.open(encoding="utf-8") as f:
        return yaml.safe_load(f)


CACHE = "DUPLEXDATA_CACHE"
"""Environment variable: the folder of everything that is kept between runs."""


def cache_folder(kind: str) -> Path:
    """Where a kind of thing is kept between runs: below $DUPLEXDATA_CACHE, or duplexdata in the user's cache folder.

    Source: XDG Base Directory Specification (paths that are not absolute do not count).
    """
    if own := os.environ.get(CACHE):
        return Path(own).expanduser() / kind
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "duplexdata" / kind
