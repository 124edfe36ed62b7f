"""Settings of a training run from YAML, presets and the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from duplexdata.config_file import load_settings
from duplexdata.errors import ConfigError
from duplexdata.training.config import WEIGHTS, DpoConfig, SftConfig

C = TypeVar("C", SftConfig, DpoConfig)
PRESETS: Mapping[str, Mapping[str, Any]] = {rows: {"data": {"rows": rows}} for rows in ("sft", "duo", "tdm")}
"""The rows of one layout."""


def load_sft(path_or_preset: str | None = None, overrides: Mapping[str, Any] | None = None) -> SftConfig:
    """Settings of SFT from a YAML file or a layout's name, with values put over them.

    Args:
        overrides: nested as in YAML; None values are left out. `weights` may be a name: paper or uniform.

    Raises: ConfigError: names the file, the key, what was found and what would be right.
    """
    return load_settings(SftConfig, PRESETS, path_or_preset, _named_weights(overrides), adapt=_named_weights)


def load_dpo(path_or_preset: str | None = None, overrides: Mapping[str, Any] | None = None) -> DpoConfig:
    """The same for DPO."""
    return load_settings(DpoConfig, {}, path_or_preset, _named_weights(overrides), adapt=_named_weights)


def _named_weights(values: Mapping[str, Any] | None) -> dict[str, Any]:
    found = dict(values or {})
    name = found.get("weights")
    if isinstance(name, str):
        if name not in WEIGHTS:
            raise ConfigError(f"weights is {name[:80]!r}, expected {' or '.join(WEIGHTS)}, or a weight for each class")
        found["weights"] = dict(WEIGHTS[name])
    return found
