"""Errors, each saying how to react to it."""

from __future__ import annotations

import errno


class DuplexDataError(Exception):
    """Base of every error that the package raises on purpose; its text is meant for the user."""


class Stopped(DuplexDataError):
    """The user has asked for an end (`signal`); what was finished is kept."""

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal

    def __str__(self) -> str:
        return "stopped; run the same command again to go on"


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


class SpeechServerError(DuplexDataError):
    """No speech server is left to ask: the run stops, and goes on where it stopped when it is started again."""

    retryable = True


class UtteranceRejected(SynthesisError):
    """An utterance was synthesized, and none of its takes was good enough; `reason` is what was wrong with the last."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


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


class StorageError(DuplexDataError):
    """A folder, local or behind a URL, cannot be read or written. `retryable`: the same may work again."""

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class HubError(DuplexDataError):
    """The Hugging Face hub refuses, or holds something else. `retryable`: the same may work again."""

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


def of_the_system(error: BaseException) -> StorageError | None:
    """What the operating system refused, as one line that says what to do; None: it is something else."""
    if not isinstance(error, OSError) or error.errno not in _FIXES:
        return None
    where = f"{str(error.filename)[:200]}: " if error.filename else ""
    what, fix = _FIXES[error.errno]
    return StorageError(f"{where}{what}; {fix}")


_AGAIN = "and run the same command again: what was finished is kept"
_YOURS = "name a folder that you may write to, or change its permissions"
_FIXES = {
    errno.ENOSPC: ("No space left on device", f"free some space {_AGAIN}"),
    errno.EDQUOT: ("Disk quota exceeded", f"free some of your quota {_AGAIN}"),
    errno.EROFS: ("Read-only file system", "name a folder that can be written to"),
    errno.EACCES: ("Permission denied", _YOURS),
    errno.EPERM: ("Operation not permitted", _YOURS),
    errno.EIO: ("Input/output error", f"check the disk or network drive {_AGAIN}"),
    errno.ENAMETOOLONG: ("File name too long", "give a shorter name"),
    errno.ELOOP: ("Too many levels of symbolic links", "a link in it leads back to itself; mend it"),
    errno.EMFILE: ("Too many open files", f"raise the limit (ulimit -n) {_AGAIN}"),
}


class DatasetError(DuplexDataError):
    """A folder is no dataset of ours, or one that the operation cannot work on."""


class TrainingError(DuplexDataError):
    """A run cannot go on: a loss that is no number, a checkpoint that does not fit, a model that cannot be had."""


class CheckpointError(DuplexDataError):
    """A language model cannot be loaded, or does not fit the dataset it is used with."""
