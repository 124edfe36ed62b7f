"""The key of a language model's endpoint, read from the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping

from duplexdata.config import WriterConfig
from duplexdata.errors import WriterError
from duplexdata.redact import Redactor

__all__ = ["Redactor", "read_key"]


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
