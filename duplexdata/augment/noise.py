"""Recordings of noise in a folder: found, identified, and read a piece at a time."""

from __future__ import annotations

import importlib.util
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile as sf
import soxr

from duplexdata.augment.config import AugmentConfig
from duplexdata.augment.draw import NoiseFile
from duplexdata.errors import ConfigError, SourceError
from duplexdata.names import lies_inside, on_one_line
from duplexdata.shards import sha256
from duplexdata.units import SAMPLE_RATE

Float32 = npt.NDArray[np.float32]
_SUFFIXES = (".wav", ".flac", ".ogg")
_RATES = range(4_000, 384_001)


@dataclass(frozen=True, slots=True)
class NoiseFolder:
    """Attributes:
    files: in the order of their names.
    """

    path: Path
    files: tuple[NoiseFile, ...]

    def identity(self) -> list[list[str]]:
        """Changes with the contents or the name of any file, not with where the folder lies."""
        return [[f.name, f.sha256] for f in self.files]

    def read(self, name: str, offset: int, n: int) -> Float32:
        """`n` samples at 16 kHz, mono, from sample `offset` on; behind the file's end it begins again.

        No more of the file is in memory than is heard. Raises SourceError: it cannot be read (any more).
        """
        path = self.path / name
        try:
            with sf.SoundFile(path) as file:
                rate, frames = int(file.samplerate), int(file.frames)
                wanted = math.ceil(n * rate / SAMPLE_RATE)
                first = min(frames - 1, offset * rate // SAMPLE_RATE)
                pieces = [_mono(file, first, min(wanted, frames - first))]
                if len(pieces[0]) < wanted:
                    start = _mono(file, 0, min(wanted - len(pieces[0]), frames))
                    pieces.append(np.resize(start, wanted - len(pieces[0])))
        except (OSError, sf.LibsndfileError, RuntimeError) as error:
            raise SourceError(f"{path}: cannot be read as sound ({error})") from error
        samples = np.concatenate(pieces)
        if rate != SAMPLE_RATE:
            samples = soxr.resample(samples, rate, SAMPLE_RATE, quality="HQ")
        out = np.zeros(n, np.float32)  # resampling may give one sample less
        out[: len(samples)] = samples[:n]
        return out


def _mono(file: sf.SoundFile, first: int, frames: int) -> Float32:
    file.seek(first)
    samples = file.read(frames, dtype="float32", always_2d=True)
    if len(samples) < frames:
        raise RuntimeError(f"ends after {first + len(samples)} of its {file.frames} frames")
    return np.ascontiguousarray(samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1))


def noise_folder(config: AugmentConfig) -> NoiseFolder | None:
    """The folder that noise is drawn from; None where none is wanted.

    Raises: ConfigError: it is not there or has no recordings, or one of them cannot be read; the file is named.
    """
    if config.noise.folder is None or not config.noise.share > 0:
        return None
    path = Path(os.path.expanduser(config.noise.folder))
    if not path.is_dir():
        raise ConfigError(f"augment.noise.folder: {path} is no folder")
    found = sorted(
        (p.relative_to(path).as_posix(), p)
        for p in path.rglob("*")
        if p.suffix.lower() in _SUFFIXES and not p.name.startswith(".") and p.is_file()
    )
    if not found:
        raise ConfigError(f"augment.noise.folder: {path} has no file that ends in {', '.join(_SUFFIXES)}")
    return NoiseFolder(path.resolve(), tuple(_examined(name, p) for name, p in found))


def folder_name(folder: str | None) -> str | None:
    """The folder's own name, without what is above it: as it may be published."""
    if folder is None:
        return None
    return on_one_line(os.path.basename(os.path.abspath(os.path.expanduser(folder)))) or "noise"


def _examined(name: str, path: Path) -> NoiseFile:
    if not lies_inside(name):
        raise ConfigError(f"augment.noise.folder: {on_one_line(str(path))!r} has a name that cannot stand in a row")
    try:
        info = sf.info(path)
        digest = sha256(path)
    except (OSError, sf.LibsndfileError, RuntimeError) as error:
        raise ConfigError(f"augment.noise.folder: {path} cannot be read as sound ({error})") from error
    if info.samplerate not in _RATES:
        raise ConfigError(f"augment.noise.folder: {path} is at {info.samplerate} Hz, expected 4 to 384 kHz")
    length = info.frames * SAMPLE_RATE // info.samplerate
    if length < 1:
        raise ConfigError(f"augment.noise.folder: {path} has no samples")
    return NoiseFile(name, length, digest)


def check_installed(config: AugmentConfig) -> None:
    """Raises ConfigError: what does the signal work is not installed."""
    if config.on and importlib.util.find_spec("scipy") is None:
        raise ConfigError("augment needs an extra: pip install 'duplexdata[augment]'")
