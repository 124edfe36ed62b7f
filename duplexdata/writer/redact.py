"""Keys: read from the environment, and kept out of every text that leaves the process or is kept."""

from __future__ import annotations

import os
from collections.abc import Mapping

from duplexdata.config import WriterConfig
from duplexdata.errors import WriterError

_LEAST = 8
"""Shorter keys are placeholders ("none", "test"): taking them out would spoil texts."""


class Redactor:
    def __init__(self, key: str | None) -> None:
        self._key = key if key is not None and len(key) >= _LEAST else None

    def clean(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


def read_key(config: WriterConfig, environment: Mapping[str, str] = os.environ) -> str | None:
    """The key, None where an endpoint of one's own is asked without one.

    Raises: WriterError: there is none and one is needed, or it can be no key. It is not shown.
    """
    key = environment.get(config.api_key_env, "").strip()
    if not key:
        if config.base_url is None and not environment.get("OPENAI_BASE_URL"):
            raise WriterError(
                f"writer.model is {config.model}, and the environment variable {config.api_key_env} holds no key: "
                "set it, name another variable in writer.api_key_env, or name an endpoint in writer.base_url"
            )
        return None
    if not key.isascii() or not key.isprintable() or " " in key:
        raise WriterError(f"the environment variable {config.api_key_env} holds something that can be no key")
    return key
