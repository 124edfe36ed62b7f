"""Errors, each saying how to react to it."""

from __future__ import annotations


class DuplexDataError(Exception):
    """Base of every error that the package raises on purpose; its text is meant for the user."""


class ConfigError(DuplexDataError):
    """The configuration is wrong: stop and tell the user what to change."""


class SourceError(DuplexDataError):
    """A source cannot be read at all, or is of no known shape: names the file, the fields and the fix.

    `retryable` says whether the same may work again (a hub that could not be reached).
    """

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class ScriptError(DuplexDataError):
    """A conversation cannot be made from what it was given; `reason` is the key it is counted under."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)  # both: an error that comes out of another process is made again from them
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class TimelineError(DuplexDataError):
    """A schedule breaks its own rules: a bug of ours, named with the conversation it happened in."""


class SynthesisError(DuplexDataError):
    """An utterance could not be synthesized. `retryable` says whether the same request may work again."""

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class WriterError(DuplexDataError):
    """A language model cannot be worked with: names the endpoint's host and the fix; nothing finished is lost.

    `retryable` says whether the same may work later (an endpoint that is down).
    """

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class BudgetError(WriterError):
    """The budget for a language model is spent: says how much it was and how to go on. Never retryable."""


class CodecError(DuplexDataError):
    """A speech tokenizer cannot be loaded or was fed what it does not take."""


class TokenizerError(DuplexDataError):
    """A text tokenizer lacks something, or has its speech tokens in a shape we cannot use."""


class ShardError(DuplexDataError):
    """A file of an earlier stage is missing, truncated or not what its marker says."""


class DatasetError(DuplexDataError):
    """A folder is no dataset of ours, or one that the operation cannot work on."""
