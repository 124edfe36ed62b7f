"""Ctrl-C and SIGTERM: once, what is in progress is finished; twice, everything ends at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from duplexdata.errors import Stopped

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(slots=True)
class Stop:
    """Whether somebody has asked for an end. Shared by the threads of a run."""

    asked_by: int | None = None
    event: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Raises Stopped where an end was asked for."""
        if self.event.is_set():
            raise Stopped(self.asked_by or signal.SIGINT)


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Handle the two signals inside the context, in the main thread; in others they stay as they are."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def asked(number: int, _frame: FrameType | None) -> None:
        if stop.event.is_set():
            for process in multiprocessing.active_children():
                process.kill()
            os._exit(128 + number)
        stop.asked_by = number
        stop.event.set()
        message = "duplexdata: finishing the shards in progress, then stopping; once more to stop at once\n"
        os.write(sys.stderr.fileno(), message.encode())

    before = {number: signal.signal(number, asked) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
