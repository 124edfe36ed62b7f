"""Sound files of any rate and number of channels as mono at the rate a codec takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile as sf
import soxr

from duplexdata.errors import SourceError


def read_sound(path: Path, sample_rate: int) -> npt.NDArray[np.float32]:
    """Mono float32 at `sample_rate`, shape (n_samples,); channels are averaged.

    16-bit files at that rate come out as they are (x / 32768). Raises SourceError: the file cannot be read.
    """
    try:
        samples, rate = sf.read(path, dtype="float32", always_2d=True)
    except (OSError, sf.LibsndfileError, RuntimeError) as error:
        raise SourceError(f"{path}: cannot be read as sound ({error})") from error
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
    if rate != sample_rate:
        mono = soxr.resample(mono, rate, sample_rate, quality="HQ")
    return np.ascontiguousarray(mono, np.float32)
