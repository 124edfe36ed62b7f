"""Keys and tokens are kept out of every text that leaves the process or is kept."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Mapping
from types import TracebackType

_LEAST = 8
"""Shorter ones are placeholders ("none", "test"): taking them out would spoil texts."""
_NAME = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD|PASSWD)(_|$)", re.IGNORECASE)
"""Of environment variables that hold what nobody may see: HF_TOKEN, OPENAI_API_KEY, AWS_SECRET_ACCESS_KEY, …"""
_MARK = "[key]"


class Redactor:
    """Takes keys out of texts.

    Args:
        keys: None and short ones are none.
    """

    def __init__(self, *keys: str | None) -> None:
        # The longest first: one key may be the beginning of another.
        self._keys = sorted({k for k in keys if k is not None and len(k) >= _LEAST}, key=len, reverse=True)

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> Redactor:
        """For all that variables hold whose names say that it is a secret."""
        values = {v.strip() for name, v in environment.items() if _NAME.search(name)}
        return cls(*(v for v in values if not os.path.exists(v)))  # the file of a key is no key

    def clean(self, text: str) -> str:
        for key in self._keys:
            text = text.replace(key, _MARK)
        return text

    def clean_bytes(self, data: bytes) -> bytes:
        for key in self._keys:
            data = data.replace(key.encode(), _MARK.encode())
        return data


def redact(text: str) -> str:
    """A text without the secrets of this process's environment."""
    return Redactor.of_environment().clean(text)


def print_redacted(kind: type[BaseException], error: BaseException, tb: TracebackType | None) -> None:
    """An exception hook: the usual traceback, without secrets in what libraries put into their messages."""
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, tb))))
