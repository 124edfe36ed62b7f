"""Recordings that voices are cloned from, as servers take them, kept in memory."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import soundfile as sf

from duplexdata.errors import SourceError
from duplexdata.speech.base import VoicePrompt
from duplexdata.speech.wav import write_wav

_KEPT_BYTES = 64 << 20


@dataclass(frozen=True)
class Recording:
    """Attributes:
    name: under which a server knows it; follows from the sound and the transcript.
    wav: mono, 16 bits, at the file's own rate.
    """

    name: str
    wav: bytes
    transcript: str

    @cached_property
    def fields(self) -> bytes:
        """`ref_audio` and `ref_text` as they stand in a request's JSON: hundreds of kilobytes, so made once."""
        url = b'"ref_audio": "data:audio/wav;base64,' + base64.b64encode(self.wav) + b'"'
        return url + b', "ref_text": ' + json.dumps(self.transcript).encode()


class Recordings:
    """Read once each; the least recently used are dropped when they grow beyond 64 MiB."""

    def __init__(self, kept_bytes: int = _KEPT_BYTES) -> None:
        self._kept: OrderedDict[tuple[str, str, str], Recording] = OrderedDict()
        self._bytes, self._most = 0, kept_bytes

    def get(self, prompt: VoicePrompt) -> Recording:
        """Raises SourceError: the file cannot be read, or is not the one that the voice bank was made from."""
        key = (prompt.path, prompt.sha256, prompt.transcript)
        found = self._kept.get(key)
        if found is None:
            found = self._kept[key] = _read(prompt)
            self._bytes += len(found.wav)
            while self._bytes > self._most and len(self._kept) > 1:
                self._bytes -= len(self._kept.popitem(last=False)[1].wav)
        self._kept.move_to_end(key)
        return found


def _read(prompt: VoicePrompt) -> Recording:
    path = Path(prompt.path)
    try:
        if prompt.sha256 and hashlib.sha256(path.read_bytes()).hexdigest() != prompt.sha256:
            raise SourceError(f"{path}: the recording has changed since the voice bank was read; start the build again")
        samples, rate = sf.read(path, dtype="float32", always_2d=True)
    except (OSError, sf.LibsndfileError, RuntimeError) as error:
        raise SourceError(f"{path}: the voice's recording cannot be read ({error})") from error
    wav = write_wav(samples.mean(axis=1), rate)
    name = hashlib.sha256(wav + b"\0" + prompt.transcript.encode()).hexdigest()
    return Recording(f"duplexdata-{name[:24]}", wav, prompt.transcript)
