"""One speech server: what it can do, the voices it has, and requests to it. All of it runs in one event loop."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx2

from duplexdata.errors import ConfigError
from duplexdata.redact import Redactor
from duplexdata.speech.base import Speech, SpeechRequest
from duplexdata.speech.http.answers import Fault, Reaction, judge
from duplexdata.speech.http.prompts import Recording

_CONNECT_SEC, _QUESTION_SEC = 5.0, 10.0
_LARGEST_BODY = 64 << 20
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class Access:
    """How servers are spoken to; the same for all of them.

    Attributes:
        key: sent as bearer token; in no message, log or representation.
        timeout_sec: of one request for speech.
    """

    key: str | None
    timeout_sec: float
    in_flight: int
    sample_rate: int
    register_voices: bool

    def __repr__(self) -> str:
        return f"Access(key={'***' if self.key else None})"


class Server:
    """Attributes:
    models: names that it reports, in its order; empty if it reports none.
    up: whether requests are sent to it.
    busy: requests in flight.
    quiet_until: time of the loop until which it wants to be left alone.
    failures: in a row.
    """

    def __init__(self, address: str, access: Access) -> None:
        self.address, self._access = checked_address(address), access
        self.models: tuple[str, ...] = ()
        self.up, self.busy, self.sent, self.failures, self.quiet_until = True, 0, 0, 0, 0.0
        self._takes_seed = True
        self._takes_voices = False
        self._voices: dict[str, asyncio.Task[bool]] = {}
        self._client = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {access.key}"} if access.key else {},
            limits=httpx2.Limits(max_connections=access.in_flight + 2, max_keepalive_connections=access.in_flight + 2),
            timeout=httpx2.Timeout(None, connect=_CONNECT_SEC),
            # A proxy is for what lies outside this machine.
            trust_env=urlsplit(self.address).hostname not in _LOOPBACK,
            follow_redirects=False,
        )

    async def close(self) -> None:
        for task in self._voices.values():
            task.cancel()
        await self._client.aclose()

    # -- what it is

    async def get_to_know(self) -> Fault | None:
        """Asks for its models and whether it takes voices. A fault: it cannot be asked."""
        try:
            async with asyncio.timeout(_QUESTION_SEC):
                answer = await self._client.get(f"{self.address}/v1/models")
                if answer.status_code in (401, 403):
                    refused = self._judged(answer.status_code, answer.headers, answer.content)
                    assert isinstance(refused, Fault)
                    return refused
                self.models = _model_names(_parsed(answer))
                if not self.models and answer.status_code != 200:
                    health = await self._client.get(f"{self.address}/health")
                    if health.status_code >= 500:
                        return Fault("not_ready", f"{self.address} is not ready (status {health.status_code})")
                    self.models = _model_names(_parsed(health))
                if self._access.register_voices:
                    self._takes_voices = await self._uploaded() is not None
        except (httpx2.HTTPError, TimeoutError, OSError) as error:
            return Fault("unreachable", f"{self.address}: {_name(error)}", Reaction.ELSEWHERE)
        self._voices.clear()  # a server that was started again has forgotten them
        return None

    # -- voices

    async def _uploaded(self) -> set[str] | None:
        """Names of the voices it was sent; None if it takes none."""
        answer = await self._client.get(f"{self.address}/v1/audio/voices")
        found = _parsed(answer) if answer.status_code == 200 else None
        if not isinstance(found, dict) or not isinstance(found.get("uploaded_voices"), list):
            return None
        return {str(v.get("name") if isinstance(v, dict) else v) for v in found["uploaded_voices"]}

    async def _has_voice(self, recording: Recording, consent: str) -> bool:
        """Whether the server has the voice, which is sent to it once. False: the recording must go along."""
        if not self._takes_voices:
            return False
        if recording.name not in self._voices:
            self._voices[recording.name] = asyncio.create_task(self._register(recording, consent))
        try:
            return await asyncio.shield(self._voices[recording.name])
        except (httpx2.HTTPError, TimeoutError, OSError):
            self._voices.pop(recording.name, None)
            return False

    async def _register(self, recording: Recording, consent: str) -> bool:
        async with asyncio.timeout(self._access.timeout_sec):
            if recording.name in (await self._uploaded() or ()):
                return True
            answer = await self._client.post(
                f"{self.address}/v1/audio/voices",
                data={"name": recording.name, "ref_text": recording.transcript, "consent": consent},
                files={"audio_sample": (f"{recording.name}.wav", recording.wav, "audio/wav")},
            )
        if answer.status_code in (404, 405, 501):
            self._takes_voices = False
        return answer.status_code in (200, 201)

    # -- speech

    async def ask(self, request: SpeechRequest, model: str | None, recording: Recording | None) -> Speech | Fault:
        """One request. Whatever goes wrong with it is a fault."""
        body: dict[str, Any] = {"input": request.text, "response_format": "wav"}
        if model:
            body["model"] = model
        if speed := request.voice.setting("speed"):
            body["speed"] = float(speed)
        if self._takes_seed:
            body["seed"] = request.seed % (1 << 31)
        registered, inline = False, b""
        if recording is None:
            body["voice"] = request.voice.setting("voice")
        elif registered := await self._has_voice(recording, request.voice.setting("consent", "given: voice bank")):
            body["voice"] = recording.name
        else:
            inline = b", " + recording.fields
        found = await self._post(json.dumps(body).encode()[:-1] + inline + b"}")
        if not isinstance(found, Fault):
            return found
        reason = found.reason.lower()
        if found.kind == "refused" and "seed" in body and "seed" in reason:
            self._takes_seed = False
            return Fault("seed_refused", found.reason, Reaction.WAIT)
        if registered and recording is not None and found.kind in ("refused", "no_such_endpoint") and "voice" in reason:
            self._voices.pop(recording.name, None)
            return Fault("voice_forgotten", found.reason, Reaction.RETRY)
        return found

    async def _post(self, body: bytes) -> Speech | Fault:
        access = self._access
        try:
            async with (
                asyncio.timeout(access.timeout_sec),
                self._client.stream(
                    "POST",
                    f"{self.address}/v1/audio/speech",
                    content=body,
                    headers={"Content-Type": "application/json"},
                ) as answer,
            ):
                received = bytearray()
                async for chunk in answer.aiter_bytes():
                    received += chunk
                    if len(received) > _LARGEST_BODY:
                        return Fault("bad_wav", f"more than {_LARGEST_BODY >> 20} MiB")
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            return Fault("unreachable", f"{self.address}: {_name(error)}", Reaction.ELSEWHERE)
        except (TimeoutError, httpx2.TimeoutException):
            return Fault("timeout", f"no answer within {access.timeout_sec:g} s")
        except (httpx2.HTTPError, OSError) as error:
            return Fault("aborted", f"the answer broke off ({_name(error)})")
        return self._judged(answer.status_code, answer.headers, bytes(received))

    def _judged(self, status: int, headers: httpx2.Headers, body: bytes) -> Speech | Fault:
        """See `judge`. A server that repeats the key does not get it into a message."""
        if body[:4] != b"RIFF":
            body = Redactor(self._access.key).clean_bytes(body)
        return judge(status, headers, body, self._access.sample_rate, time.time())


def checked_address(address: str) -> str:
    """Without a slash or "/v1" at its end. Raises ConfigError: no http address, or one with a password in it."""
    parts = urlsplit(address.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigError(f"speech.servers: {address!r} is no address such as http://127.0.0.1:8000")
    if parts.username or parts.password:
        raise ConfigError("speech.servers: an address must not hold a password; speech.api_key_env names a key")
    return address.strip().rstrip("/").removesuffix("/v1")


def _parsed(answer: httpx2.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None


def _model_names(found: Any) -> tuple[str, ...]:
    """From an OpenAI-style list of models, or from a health answer's `model`."""
    if not isinstance(found, dict):
        return ()
    if isinstance(found.get("data"), list):
        return tuple(str(m["id"]) for m in found["data"] if isinstance(m, dict) and m.get("id"))
    return (found["model"],) if isinstance(found.get("model"), str) else ()


def _name(error: BaseException) -> str:
    """What kind of error, and its first words."""
    text = " ".join(str(error).split())[:80]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
