"""WAV bytes as servers send them, read strictly: what was cut off or is something else is an error, not silence."""

from __future__ import annotations

import io
import struct

import numpy as np
import soundfile as sf

from duplexdata.speech.base import Float32, Int16

_UNKNOWN_SIZE = 0x7FFF_0000
"""A size from here on is no size: servers that stream write 0xFFFFFFFF or the like before they know it."""


def read_wav(body: bytes) -> tuple[Float32, int]:
    """Mono float32 samples, shape (n_samples,), and their rate in Hz; several channels are averaged.

    Raises: ValueError: no WAV, truncated, or without samples; its text is a few words.
    """
    if len(body) < 12 or body[:4] != b"RIFF" or body[8:12] != b"WAVE":
        raise ValueError("no WAV")
    _check_data(body)
    try:
        samples, rate = sf.read(io.BytesIO(body), dtype="float32", always_2d=True)
    except (sf.LibsndfileError, RuntimeError) as error:
        raise ValueError("unreadable WAV") from error
    if not len(samples):
        raise ValueError("no samples")
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
    return np.ascontiguousarray(mono, np.float32), int(rate)


def _check_data(body: bytes) -> None:
    """Raises ValueError where the sound is shorter than its header says."""
    position = 12
    while position + 8 <= len(body):
        name, size = struct.unpack_from("<4sI", body, position)
        position += 8
        if name == b"data":
            there = len(body) - position
            if size < _UNKNOWN_SIZE and there < size:
                raise ValueError(f"truncated WAV: {there} of {size} bytes")
            return
        position += size + size % 2
    raise ValueError("truncated WAV: no data")


def write_wav(samples: Float32 | Int16, sample_rate: int) -> bytes:
    """16-bit mono; int16 samples as they are."""
    out = io.BytesIO()
    sf.write(out, samples, sample_rate, format="WAV", subtype="PCM_16")
    return out.getvalue()
