"""What clients may ask of the bridge, checked at the door. No network here."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import re
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import soundfile as sf
from pydantic import BaseModel, ConfigDict, Field, ValidationError

LONGEST_TEXT = 1000
"""Characters: a minute and more. Longer ones are for the client to split."""
LONGEST_PROMPT_SEC, SHORTEST_PROMPT_SEC, LOWEST_PROMPT_RATE = 30.0, 0.5, 16_000
"""What the official code takes; below half a second it has nothing to go by."""
_KEPT_BYTES = 512 << 20
_DATA_URL = re.compile(r"data:audio/[\w.+-]+(;[\w=.-]+)*;base64,")
_NAME = re.compile(r"[\w.-]{1,80}")


class Refused(Exception):
    """A request that cannot be answered, and why; `status` is HTTP's."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class SpeechBody(BaseModel):
    """`POST /v1/audio/speech`. Fields of other servers are left alone."""

    model_config = ConfigDict(extra="ignore")

    input: str
    model: str | None = None
    voice: str | None = None
    ref_audio: str | None = None
    ref_text: str | None = None
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    speed: float = Field(default=1.0, ge=0.5, le=2.0)
    response_format: str = "wav"
    stream: bool = False


def parse_speech(raw: bytes, model: str) -> SpeechBody:
    """Raises Refused."""
    try:
        body = SpeechBody.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        raise Refused(f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}") from None
    if body.model not in (None, model):
        raise Refused(f"the model {body.model!r} does not exist; {model} is served", 404)
    if body.response_format != "wav" or body.stream:
        raise Refused("only complete WAV answers are given: response_format wav, stream false")
    if not any(map(str.isalpha, body.input)):
        raise Refused("there is nothing to speak in the input: no letter is in it")
    if len(body.input) > LONGEST_TEXT:
        raise Refused(f"the input has {len(body.input)} characters, at most {LONGEST_TEXT} are spoken at once")
    for text in (body.input, body.ref_text or ""):
        if "<|" in text:
            raise Refused("the text holds a model's marker: '<|'")
    return body


@dataclass(frozen=True, slots=True)
class Prompt:
    """A recording on disk. `key` follows from its bytes and the transcript."""

    key: str
    path: Path
    transcript: str


class Prompts:
    """Recordings that clients sent, in a folder of ours; the least recently used are removed beyond 512 MiB."""

    def __init__(self, folder: Path, kept_bytes: int = _KEPT_BYTES) -> None:
        self._folder, self._most = folder, kept_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[Prompt, int]] = OrderedDict()
        self._names: dict[str, str] = {}
        self._bytes = 0

    def of(self, body: SpeechBody) -> Prompt:
        """The recording that a request comes with or names. Raises Refused."""
        if body.ref_audio is not None:
            return self.add(_from_data_url(body.ref_audio), body.ref_text)
        if body.voice is None:
            raise Refused("ref_audio (a data URL) and ref_text are missing, or voice, the name of an uploaded one")
        with self._lock:
            key = self._names.get(body.voice, "")
            if key not in self._kept:
                raise Refused(f"the voice {body.voice!r} is unknown; upload it to /v1/audio/voices", 404)
            self._kept.move_to_end(key)
            return self._kept[key][0]

    def add(self, sound: bytes, transcript: str | None, name: str | None = None) -> Prompt:
        """Keep a recording, under a name if there is one. Raises Refused."""
        if not transcript or not any(map(str.isalpha, transcript)):
            raise Refused("ref_text is missing: the words that are said in the recording")
        if name is not None and not _NAME.fullmatch(name):
            raise Refused("name: letters, digits, '.', '_' and '-' only, at most 80")
        key = hashlib.sha256(hashlib.sha256(sound).digest() + transcript.encode()).hexdigest()[:32]
        with self._lock:
            if key not in self._kept:
                _check_sound(sound)
                prompt = Prompt(key, self._folder / f"{key}.sound", transcript)
                prompt.path.write_bytes(sound)
                self._kept[key] = prompt, len(sound)
                self._bytes += len(sound)
                while self._bytes > self._most and len(self._kept) > 1:
                    old, size = self._kept.popitem(last=False)[1]
                    self._bytes -= size
                    old.path.unlink(missing_ok=True)
                self._names = {n: k for n, k in self._names.items() if k in self._kept}
            self._kept.move_to_end(key)
            if name is not None:
                self._names[name] = key
            return self._kept[key][0]

    def names(self) -> list[str]:
        with self._lock:
            return sorted(self._names)


def _from_data_url(url: str) -> bytes:
    head = _DATA_URL.match(url)
    if head is None:
        raise Refused("ref_audio must be a data URL (data:audio/wav;base64,…); files and addresses are not fetched")
    try:
        return base64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise Refused("ref_audio is no base64") from None


def _check_sound(sound: bytes) -> None:
    try:
        found = sf.info(io.BytesIO(sound))
    except (sf.LibsndfileError, RuntimeError, TypeError):
        raise Refused("the recording cannot be read as sound") from None
    if found.samplerate < LOWEST_PROMPT_RATE:
        raise Refused(f"the recording is at {found.samplerate} Hz, at least {LOWEST_PROMPT_RATE} are needed")
    if not SHORTEST_PROMPT_SEC <= found.duration <= LONGEST_PROMPT_SEC:
        raise Refused(
            f"the recording lasts {found.duration:.2f} s, expected {SHORTEST_PROMPT_SEC:g} to {LONGEST_PROMPT_SEC:g} s "
            "(3 to 10 s are best)"
        )


def parse_multipart(content_type: str, body: bytes) -> dict[str, bytes]:
    """The fields of a form. Raises Refused: it is none."""
    kind, _, parameters = content_type.partition(";")
    boundary = re.search(r'boundary="?([^";,]{1,100})"?', parameters)
    if kind.strip().lower() != "multipart/form-data" or boundary is None:
        raise Refused("expected multipart/form-data with name, audio_sample and ref_text")
    fields = {}
    for part in (b"\r\n" + body).split(b"\r\n--" + boundary[1].encode())[1:-1]:
        head, _, value = part.partition(b"\r\n\r\n")
        name = re.search(rb'name="([^"]*)"', head)
        if name is not None:
            fields[name[1].decode("utf-8", "replace")] = value
    return fields
