"""The HTTP client below the openai client: deadlines, shared pauses, and a count of what went out."""

from __future__ import annotations

import asyncio
import email.utils
import importlib
import math
import time
from typing import Any

import openai

from duplexdata.writer.meter import METER, Meter

# The library below: httpx2 for openai 3, httpx for openai 2.
httpx: Any = importlib.import_module(openai.DefaultAsyncHttpxClient.__mro__[1].__module__.partition(".")[0])


class TooLongAWait(openai.OpenAIError):
    """The endpoint asks to come back later than we are willing to."""

    def __init__(self, wait_sec: float) -> None:
        super().__init__(f"asks to wait {wait_sec:.0f} s")
        self.wait_sec = wait_sec


class PatientHttp(openai.DefaultAsyncHttpxClient):
    """Differs from the client's own in three ways.

    A timeout is that of the whole exchange: the library's own is that of each read, and a server that drips bytes
    would never meet it. When the endpoint says "too many requests, come back in s seconds", every request waits.
    A wait above `patience_sec` is refused, where the client would wait for up to two minutes in any case.

    Args:
        connections: open at a time.
    """

    def __init__(self, *, timeout_sec: float, patience_sec: float, connections: int) -> None:
        super().__init__(
            timeout=httpx.Timeout(timeout_sec, pool=None),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        )
        self._timeout_sec, self._patience_sec = timeout_sec, patience_sec
        self._closed_until = 0.0

    def pause(self, seconds: float) -> None:
        """No request goes out for so long."""
        self._closed_until = max(self._closed_until, time.monotonic() + seconds)

    async def send(self, request: Any, **options: Any) -> Any:
        while (rest := self._closed_until - time.monotonic()) > 0:
            await asyncio.sleep(rest)
        meter = METER.get() or Meter()
        meter.sent += 1
        whole_sec = request.extensions.get("timeout", {}).get("read") or self._timeout_sec
        try:
            async with asyncio.timeout(whole_sec):
                response = await super().send(request, **options)
        except TimeoutError:
            meter.lost += 1
            raise httpx.ReadTimeout("no whole reply in time", request=request) from None
        except (httpx.ConnectError, httpx.ConnectTimeout):
            raise
        except (httpx.TransportError, asyncio.CancelledError):
            meter.lost += 1
            raise
        if response.status_code in (429, 503):
            wait = retry_after_sec(response.headers.get("retry-after"), response.headers.get("retry-after-ms"))
            if wait is not None and wait > self._patience_sec:
                raise TooLongAWait(wait)
            if wait is not None and response.status_code == 429:
                self.pause(wait)
        return response


def retry_after_sec(header: str | None, header_ms: str | None = None, now: float | None = None) -> float | None:
    """Seconds to wait by `Retry-After`: a number of seconds, or a date. None: it says nothing sensible."""
    try:
        if header_ms is not None:
            seconds = float(header_ms) / 1000
        elif header is None:
            return None
        else:
            seconds = float(header)
    except ValueError:
        parsed = email.utils.parsedate_tz(header)
        if parsed is None:
            return None
        seconds = email.utils.mktime_tz(parsed) - (time.time() if now is None else now)
    return max(0.0, seconds) if math.isfinite(seconds) else None
