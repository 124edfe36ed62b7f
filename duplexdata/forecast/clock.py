"""What work takes: of the cores, and of the day. Helpers that have ended count with the process that started them."""

from __future__ import annotations

import resource
import time

from duplexdata.forecast.values import Spent


class Clock:
    """Runs from when it is made."""

    def __init__(self) -> None:
        self._cpu, self._wall = _cpu(), time.perf_counter()

    def spent(self) -> Spent:
        return Spent(_cpu() - self._cpu, time.perf_counter() - self._wall)


def _cpu() -> float:
    own, ended = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime
