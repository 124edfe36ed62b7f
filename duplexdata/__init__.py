"""Turns text dialogues into training data for voice models that listen while they speak."""

from __future__ import annotations

__version__ = "0.1.0"

__all__ = ["__version__", "load_audio"]


def __getattr__(name: str) -> object:
    # Deferred, so that `import duplexdata` (and the command line's --help) loads neither pyarrow nor torch.
    if name == "load_audio":
        from duplexdata.audio import load_audio

        return load_audio
    raise AttributeError(f"module 'duplexdata' has no attribute {name!r}")
