"""Several speech servers as one: the least busy is asked, one that is gone is left out and asked again later."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from duplexdata.errors import ConfigError, SpeechServerError
from duplexdata.speech.http.answers import Fault, Reaction
from duplexdata.speech.http.server import Server

logger = logging.getLogger(__name__)

_FAILURES_IN_A_ROW = 3
"""After which a server is left alone for a moment."""
_PROBE_SEC = (0.5, 10.0)
"""Between questions to a server that is gone: at first, at most."""
_LOOK_SEC = 0.02


class Servers:
    """Args:
    patience_sec: how long all of them may be gone.
    model: the name to ask for; None: the one that they report.
    """

    def __init__(self, servers: Sequence[Server], patience_sec: float, model: str | None) -> None:
        self._all, self._patience, self.model = list(servers), patience_sec, model
        self._gone_since: float | None = None
        self._last = "no server has answered"
        self._probes: set[asyncio.Task[None]] = set()

    async def start(self, patience_sec: float) -> str:
        """Get to know them.

        Returns: the name of the model that all of them serve.
        Raises: ConfigError: they differ, or do not say; SpeechServerError: none has answered for `patience_sec`.
        """
        loop = asyncio.get_running_loop()
        begun = loop.time()
        while True:
            faults = await asyncio.gather(*(s.get_to_know() for s in self._all))
            if any(f is None or f.reaction is Reaction.STOP for f in faults) or loop.time() - begun > patience_sec:
                break
            await asyncio.sleep(_PROBE_SEC[0])
        for server, fault in zip(self._all, faults, strict=True):
            if fault is not None and fault.reaction is Reaction.STOP:
                raise ConfigError(f"{server.address}: {fault.reason}")
        known = [s for s, fault in zip(self._all, faults, strict=True) if fault is None]
        if not known:
            raise SpeechServerError(
                "no speech server answers: " + "; ".join(f.reason for f in faults if f) + "; start one, or set "
                "speech.servers"
            )
        for server in known:
            self.model = self._agreed(server)
        for server, fault in zip(self._all, faults, strict=True):
            if fault is not None:
                self._leave_out(server, fault.reason)
        assert self.model is not None
        return self.model

    def _agreed(self, server: Server) -> str:
        """The model's name, if the server serves it. Raises ConfigError: it does not."""
        if self.model is not None:
            if server.models and self.model not in server.models:
                raise ConfigError(
                    f"{server.address} serves {', '.join(server.models)}, expected {self.model} as all the others: "
                    "set speech.model, or leave it out of speech.servers"
                )
            return self.model
        if len(server.models) != 1:
            found = f"serves {', '.join(server.models)}" if server.models else "does not say which model it serves"
            raise ConfigError(f"{server.address} {found}: set speech.model")
        return server.models[0]

    async def take(self) -> Server:
        """The least busy server, counted as busy from now on.

        Raises: SpeechServerError: all of them have been gone for too long.
        """
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            ready = [s for s in self._all if s.up and s.quiet_until <= now]
            if ready:
                server = min(ready, key=lambda s: (s.busy, s.sent))
                server.busy += 1
                server.sent += 1
                return server
            if self._gone_since is not None and now - self._gone_since > self._patience:
                raise SpeechServerError(
                    f"all speech servers ({len(self._all)}) have been gone for {self._patience:g} s "
                    f"(speech.patience_sec); the last said: {self._last}; start them, and the build again"
                )
            await asyncio.sleep(_LOOK_SEC)

    def give_back(self, server: Server, fault: Fault | None) -> None:
        server.busy -= 1
        if fault is None or fault.reaction is Reaction.GIVE_UP:
            server.failures = 0
            return
        if fault.wait_sec or fault.reaction is Reaction.WAIT:
            server.quiet_until = max(server.quiet_until, asyncio.get_running_loop().time() + fault.wait_sec)
        if fault.reaction is Reaction.RETRY:
            server.failures += 1
        if fault.reaction is Reaction.ELSEWHERE or server.failures >= _FAILURES_IN_A_ROW:
            self._leave_out(server, fault.reason)

    def _leave_out(self, server: Server, reason: str) -> None:
        self._last = reason
        if not server.up:
            return
        server.up = False
        logger.warning("a speech server is left out for now: %s", reason)
        if self._gone_since is None and not any(s.up for s in self._all):
            self._gone_since = asyncio.get_running_loop().time()
        task = asyncio.create_task(self._until_back(server))
        self._probes.add(task)
        task.add_done_callback(self._probes.discard)

    async def _until_back(self, server: Server) -> None:
        pause, most = _PROBE_SEC
        while True:
            await asyncio.sleep(pause)
            pause = min(2 * pause, most)
            fault = await server.get_to_know()
            if fault is not None:
                self._last = fault.reason
                continue
            try:
                self._agreed(server)
            except ConfigError as error:  # it came back as another: its speech would not fit the rest
                if self._last != str(error):
                    logger.error("a speech server is left out: %s", error)
                self._last = str(error)
                continue
            server.up, server.failures, self._gone_since = True, 0, None
            return

    async def close(self) -> None:
        for task in self._probes:
            task.cancel()
        await asyncio.gather(*self._probes, return_exceptions=True)
        for server in self._all:
            await server.close()
