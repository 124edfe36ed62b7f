"""The writer that a configuration asks for."""

from __future__ import annotations

from pathlib import Path

from duplexdata.config import WriterConfig
from duplexdata.errors import ConfigError
from duplexdata.writer.live import LiveWriter
from duplexdata.writer.redact import read_key
from duplexdata.writer.types import Writer


def open_writer(config: WriterConfig, run: Path) -> Writer:
    """A writer for one process; to be closed.

    Args:
        run: a folder that all processes of a run share and a resumed run finds again: what was spent, open batches.

    Raises: ConfigError, WriterError: it cannot work like this. Nothing is asked of the endpoint yet.
    """
    if config.model is None:
        raise ConfigError("writer.model is not set: name the model that is to write")
    read_key(config)
    if config.mode == "batch":
        from duplexdata.writer.batch import BatchWriter

        return BatchWriter(config, run)
    return LiveWriter(config, run)
