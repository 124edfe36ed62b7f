"""Synthesized audio kept between runs, by content: what has been said once with the same voice is not said again.

A folder of files, one per utterance, that any number of processes read and write at the same time. A file is written
whole and then renamed, and ends in a checksum of all before it; one that is damaged counts as missing and is made
again. There is no index: what is there is what the folder holds. When the files grow beyond a bound, those that have
not been used for longest go.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import logging
import os
import struct
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from duplexdata.errors import ConfigError, SynthesisError
from duplexdata.resources import cache_folder
from duplexdata.speech.base import (
    Float32,
    Speech,
    SpeechRequest,
    Synthesizer,
    WordTime,
    sample_rate_of,
    takes_seed,
)

_log = logging.getLogger(__name__)
_FORMAT = 1
_MAGIC = b"DDSPEECH"
_SUM = hashlib.sha256().digest_size
_HEADER = struct.Struct("<I")
_SUFFIX = ".speech"
_HELD = 64
"""Utterances found that are kept in memory while one before them is still being synthesized."""
_SWEEP_AT = 0.02
"""Share of the bound that a process writes before it looks at the folder's size again."""
_SWEEP_TO = 0.9
"""Share of the bound that a sweep leaves."""
_ABANDONED_SEC = 3600.0
"""After this a temporary file belongs to a process that was killed."""
_TOUCH_SEC = 60.0
"""A use is noted once in so many seconds."""


def default_folder() -> Path:
    return cache_folder("speech")


def key_of(request: SpeechRequest, backend: dict[str, str]) -> str:
    """64 hex digits from all that decides on the sound; no path is among it.

    Args:
        backend: `Synthesizer.describe()`.
    """
    voice, prompt = request.voice, request.voice.prompt
    content = {
        "format": _FORMAT,
        "backend": backend,
        "text": request.text,
        "language": request.language,
        "seed": request.seed,
        "voice": voice.id,
        "settings": sorted(voice.settings),
        "prompt": [prompt.sha256, prompt.transcript] if prompt else None,
    }
    plain = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()


class SpeechStore:
    """The folder. `get` and `put` never raise for what is wrong with a file or the disk: a cache is no reason to stop.

    Args:
        max_bytes: of all files together. Several processes may pass it by a fiftieth each before one of them notices.

    Raises: ConfigError: the folder cannot be made.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._unswept = max_bytes  # look at the first occasion
        self._failed = False
        self.hits = self.misses = self.damaged = 0
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # voices of people
        except OSError as error:
            raise ConfigError(f"cache.folder: {folder} cannot be made: {error.strerror}") from None

    def path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key[2:]}{_SUFFIX}"

    def get(self, key: str) -> Speech | None:
        path = self.path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            self.misses += 1
            return None
        except OSError as error:
            self._complain("read", error)
            self.misses += 1
            return None
        try:
            speech = decode(data, key)
        except ValueError as error:
            _log.warning("cache: %s is damaged (%s) and is made again", path.name, error)
            self.damaged += 1
            self.misses += 1
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        self.hits += 1
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _TOUCH_SEC:
                os.utime(path)
        return speech

    def put(self, key: str, speech: Speech) -> None:
        path, data = self.path(key), encode(speech, key)
        try:
            path.parent.mkdir(exist_ok=True)
            fd, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
            try:
                with os.fdopen(fd, "wb") as file:
                    file.write(data)
                os.replace(temporary, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
        except OSError as error:
            self._complain("written", error)
            return
        self._unswept += len(data)
        if self._unswept > self._max_bytes * _SWEEP_AT:
            self._unswept = 0
            self.sweep()

    def sweep(self) -> None:
        """Remove what was used longest ago, if there is too much. Only one process at a time does."""
        try:
            with (self._folder / ".sweep").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # given up by the system when a process dies
                self._sweep()
        except BlockingIOError:
            return
        except OSError as error:
            self._complain("swept", error)

    def _sweep(self) -> None:
        found = sorted(self._files())
        total = sum(size for _, size, _ in found)
        if total <= self._max_bytes:
            return
        for _, size, path in found:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            total -= size
            if total <= self._max_bytes * _SWEEP_TO:
                return

    def _files(self) -> Iterator[tuple[float, int, str]]:
        """(last use, bytes, path) of each; what killed processes left behind is removed on the way."""
        for folder in os.scandir(self._folder):
            if len(folder.name) != 2 or not folder.is_dir(follow_symlinks=False):
                continue
            for file in os.scandir(folder):
                with contextlib.suppress(FileNotFoundError):
                    facts = file.stat(follow_symlinks=False)
                    if file.name.endswith(_SUFFIX):
                        yield facts.st_mtime, facts.st_size, file.path
                    elif file.name.endswith(".tmp") and time.time() - facts.st_mtime > _ABANDONED_SEC:
                        os.unlink(file.path)

    def _complain(self, what: str, error: OSError) -> None:
        if not self._failed:
            _log.warning("cache: %s cannot be %s (%s); going on without", self._folder, what, error.strerror)
        self._failed = True


class Cached:
    """Gives what has been said before from the store, and stores what has not. Failures are not stored."""

    def __init__(self, inner: Synthesizer, store: SpeechStore) -> None:
        self._inner, self._store = inner, store
        self._backend = inner.describe()
        self.name, self.takes_seed, self.sample_rate = inner.name, takes_seed(inner), sample_rate_of(inner)

    def describe(self) -> dict[str, str]:
        return self._inner.describe()

    def close(self) -> None:
        self._inner.close()

    def synthesize_many(self, requests: Iterable[SpeechRequest]) -> Iterator[Speech | SynthesisError]:
        source = iter(requests)
        for request in source:
            found = self._store.get(key := key_of(request, self._backend))
            if found is None:
                yield from self._synthesized(request, key, source)
            else:
                yield found

    def _synthesized(
        self, first: SpeechRequest, first_key: str, source: Iterator[SpeechRequest]
    ) -> Iterator[Speech | SynthesisError]:
        """Results from a missing utterance on, until so many lie between two missing ones that they would pile up."""
        line: deque[str | Speech] = deque()  # a missing utterance's key, or what was found

        def missing() -> Iterator[SpeechRequest]:
            line.append(first_key)
            yield first
            held = 0
            while held < _HELD and (request := next(source, None)) is not None:
                found = self._store.get(key := key_of(request, self._backend))
                line.append(key if found is None else found)
                if found is None:
                    yield request
                else:
                    held += 1

        for result in self._inner.synthesize_many(missing()):
            yield from _found_first(line)
            key = line.popleft()
            assert isinstance(key, str)
            if isinstance(result, Speech):
                self._store.put(key, result)
            yield result
        yield from _found_first(line)
        assert not line, "the backend gave fewer results than it was asked for"


def _found_first(line: deque[str | Speech]) -> Iterator[Speech]:
    while line and isinstance(found := line[0], Speech):
        line.popleft()
        yield found


# -- the file: magic, length of the header, header (JSON), samples, checksum


def encode(speech: Speech, key: str) -> bytes:
    """A file's bytes. Samples come back bit by bit: as FLAC where they are whole 16-bit values, else as they are."""
    kind, body = _encode_samples(speech.samples, speech.sample_rate)
    header: dict[str, Any] = {
        "format": _FORMAT,
        "key": key,
        "rate": speech.sample_rate,
        "samples": kind,
        "words": None if speech.words is None else [[w.text, w.start, w.end, w.estimated] for w in speech.words],
    }
    head = json.dumps(header).encode()
    data = b"".join((_MAGIC, _HEADER.pack(len(head)), head, body))
    return data + hashlib.sha256(data).digest()


def decode(data: bytes, key: str) -> Speech:
    """What `encode` was given. Raises ValueError: damaged, or of another key or format."""
    if len(data) < len(_MAGIC) + _HEADER.size + _SUM or not data.startswith(_MAGIC):
        raise ValueError("no audio of ours")
    if hashlib.sha256(memoryview(data)[:-_SUM]).digest() != data[-_SUM:]:
        raise ValueError("its checksum is wrong")
    start = len(_MAGIC) + _HEADER.size
    behind = start + _HEADER.unpack_from(data, len(_MAGIC))[0]
    header = json.loads(data[start:behind])
    if header["format"] != _FORMAT or header["key"] != key:
        raise ValueError("it is of another utterance or format")
    samples = _decode_samples(header["samples"], data[behind:-_SUM])
    words = header["words"]
    return Speech(samples, header["rate"], None if words is None else tuple(WordTime(*w) for w in words))


def _encode_samples(samples: Float32, rate: int) -> tuple[str, bytes]:
    if len(samples) and np.isfinite(samples).all() and float(np.abs(samples).max()) <= 1.0:
        whole = np.rint(samples * np.float32(32768)).clip(-32768, 32767).astype(np.int16)
        if (_to_float(whole).view(np.uint32) == samples.view(np.uint32)).all():
            out = io.BytesIO()
            with contextlib.suppress(sf.LibsndfileError):  # a rate that FLAC does not have
                sf.write(out, whole, rate, format="FLAC", subtype="PCM_16", compression_level=0.0)
                return "flac", out.getvalue()
    return "float32", np.ascontiguousarray(samples, "<f4").tobytes()


def _decode_samples(kind: str, body: bytes) -> Float32:
    if kind == "flac":
        return _to_float(sf.read(io.BytesIO(body), dtype="int16")[0])
    return np.frombuffer(body, "<f4").astype(np.float32)


def _to_float(whole: np.ndarray[Any, np.dtype[np.int16]]) -> Float32:
    return np.multiply(whole, np.float32(1 / 32768), dtype=np.float32)
