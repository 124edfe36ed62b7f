"""The synthesizer `speech_http`: many requests in flight to servers that clone voices, results in order."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter, deque
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from duplexdata.errors import ConfigError, SynthesisError
from duplexdata.rng import unit_interval
from duplexdata.speech.base import Speech, SpeechRequest
from duplexdata.speech.http.answers import Fault, Reaction
from duplexdata.speech.http.prompts import Recordings
from duplexdata.speech.http.server import Access, Server
from duplexdata.speech.http.servers import Servers

logger = logging.getLogger(__name__)
T = TypeVar("T")

_BACKOFF_SEC = (0.25, 8.0)
"""Before an utterance's second attempt, and at most."""
_BUSY_SEC = (0.1, 2.0)
_AHEAD = 2
"""Utterances taken up at a time, as a multiple of those in flight: a slow one does not hold up those behind it."""


class HttpSynthesizer:
    """Speaks through servers with `POST /v1/audio/speech`. Its requests run in a thread with an event loop.

    A voice needs a prompt, or the setting `voice`: the name of a voice that the servers have. Its setting `speed`
    is sent along. No word times are given.

    Args:
        servers: base addresses.
        model: asked for; None: the one that all servers report.
        key: sent as bearer token.
        name: of the backend.
        patience_sec: how long all servers may be gone, or one utterance be put off by busy ones.
        start_patience_sec: how long none may answer at the start; None: as long.

    Attributes:
        counts: "requests" = "spoken" + "failed"; "sent" = "spoken" + "fault:…" of every kind.

    Raises: ConfigError: servers serve different models, or refuse the key; SpeechServerError: none answers.
    """

    def __init__(
        self,
        servers: Sequence[str],
        *,
        model: str | None = None,
        key: str | None = None,
        name: str = "speech_http",
        sample_rate: int = 24_000,
        in_flight: int = 16,
        attempts: int = 4,
        timeout_sec: float = 120.0,
        patience_sec: float = 120.0,
        start_patience_sec: float | None = None,
        register_voices: bool = True,
    ) -> None:
        if not servers:
            raise ConfigError("speech.servers is empty: name the address of a speech server")
        self._access = Access(key, timeout_sec, in_flight, sample_rate, register_voices)
        self._in_flight, self._attempts, self._patience = in_flight, attempts, patience_sec
        self._recordings = Recordings()
        self.counts: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="speech requests", daemon=True)
        self._thread.start()
        try:
            self._servers, self._slots = self._run(self._open(servers, model))
            self.model = self._run(
                self._servers.start(patience_sec if start_patience_sec is None else start_patience_sec)
            )
        except BaseException:
            self.close()
            raise
        self.name = f"{name}/{self.model}"

    def describe(self) -> dict[str, str]:
        return {"name": self.name, "sample_rate": str(self._access.sample_rate)}

    def synthesize_many(self, requests: Iterable[SpeechRequest]) -> Iterator[Speech | SynthesisError]:
        """See `Synthesizer`. Raises SpeechServerError, ConfigError: there is nobody left to ask; SourceError: a
        voice's recording cannot be read."""
        waiting: deque[Future[Speech | SynthesisError]] = deque()
        try:
            for request in requests:
                waiting.append(asyncio.run_coroutine_threadsafe(self._speak(request), self._loop))
                if len(waiting) >= _AHEAD * self._in_flight:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:  # given up before its end
                future.cancel()

    def close(self) -> None:
        if self._loop.is_closed():
            return
        servers = getattr(self, "_servers", None)
        if servers is not None:
            self._run(servers.close())
            if sent := self.counts["sent"]:
                faults = {k.removeprefix("fault:"): n for k, n in self.counts.items() if k.startswith("fault:")}
                logger.info("%d requests to speech servers: %d spoken, faults %s", sent, self.counts["spoken"], faults)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _open(self, addresses: Sequence[str], model: str | None) -> tuple[Servers, asyncio.Semaphore]:
        servers = [Server(address, self._access) for address in dict.fromkeys(addresses)]
        return Servers(servers, self._patience, model), asyncio.Semaphore(self._in_flight)

    # -- in the event loop

    async def _speak(self, request: SpeechRequest) -> Speech | SynthesisError:
        self.counts["requests"] += 1
        try:
            async with self._slots:
                found = await self._until_spoken(request)
        except asyncio.CancelledError:
            self.counts["requests"] -= 1
            raise CancelledError from None
        self.counts["failed" if isinstance(found, SynthesisError) else "spoken"] += 1
        return found

    async def _until_spoken(self, request: SpeechRequest) -> Speech | SynthesisError:
        if not any(map(str.isalnum, request.text)):
            return SynthesisError(f"nothing to say in {request.text[:40]!r}")
        if request.voice.prompt is None and not request.voice.setting("voice"):
            return SynthesisError(f"the voice {request.voice.id!r} has no recording to be cloned from")
        recording = None if request.voice.prompt is None else self._recordings.get(request.voice.prompt)
        loop = asyncio.get_running_loop()
        put_off_since: float | None = None
        attempts = busy = 0
        while True:
            server = await self._servers.take()
            fault: Fault | None = Fault("cancelled", "")
            try:
                self.counts["sent"] += 1
                found = await server.ask(request, self._servers.model, recording)
                fault = found if isinstance(found, Fault) else None
            finally:
                self._servers.give_back(server, fault)
                if fault is not None:
                    self.counts[f"fault:{fault.kind}"] += 1
            if not isinstance(found, Fault):
                return found
            if found.reaction is Reaction.STOP:
                raise ConfigError(f"{server.address}: {found.reason}")
            if found.reaction is Reaction.GIVE_UP:
                return SynthesisError(f"{found.kind}: {found.reason}")
            if found.reaction is Reaction.ELSEWHERE:
                continue
            if found.reaction is Reaction.WAIT:
                put_off_since = put_off_since if put_off_since is not None else loop.time()
                if loop.time() - put_off_since > self._patience:
                    return SynthesisError(f"{found.kind} for {self._patience:g} s: {found.reason}", retryable=True)
                busy += 1
                await asyncio.sleep(max(found.wait_sec, _pause(_BUSY_SEC, busy, request.text)))
                continue
            attempts += 1
            if attempts >= self._attempts:
                return SynthesisError(f"{found.kind} after {attempts} attempts: {found.reason}", retryable=True)
            await asyncio.sleep(max(found.wait_sec, _pause(_BACKOFF_SEC, attempts, request.text)))


def _pause(bounds: tuple[float, float], n: int, key: str) -> float:
    """Before the n-th repetition: doubles each time, and differs by utterance, so that they do not all come at once."""
    first, most = bounds
    return float(min(most, first * 2 ** (n - 1)) * (0.5 + unit_interval("pause", key, n)))
