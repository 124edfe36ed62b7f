"""Several processes of CosyVoice behind one queue: whichever is free takes the next utterance."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from duplexdata.speech.cosyvoice.process import Launch, WorkerGone, WorkerProcess

logger = logging.getLogger(__name__)

_TRIES = 3
"""Processes that one utterance may cost before it is given up."""
_FAILED_STARTS = 3
"""In a row, after which a process is not started again."""
_RESTART_PAUSE_SEC = 1.0


class Worker(Protocol):
    """A `WorkerProcess`, or what stands for it in a test."""

    hello: dict[str, object]

    @property
    def pid(self) -> int: ...
    def ask(self, request: dict[str, object], timeout_sec: float) -> tuple[dict[str, object], bytes]: ...
    def is_alive(self) -> bool: ...
    def kill(self) -> None: ...


Start = Callable[[Launch, float], Worker]


@dataclass(slots=True)
class Job:
    """An utterance on its way. `done` is set when `answer` and `pcm` are there."""

    request: dict[str, object]
    answer: dict[str, object] = field(default_factory=dict)
    pcm: bytes = b""
    tries: int = 0
    abandoned: bool = False
    done: threading.Event = field(default_factory=threading.Event)


class Pool:
    """Args:
    launches: one for each process.
    waiting: utterances that may wait; more are turned away.
    timeout_sec: of one utterance in a process, which is ended then.

    Attributes:
        counts: restarts of processes, utterances tried again.
    """

    def __init__(
        self,
        launches: Sequence[Launch],
        *,
        waiting: int,
        timeout_sec: float,
        start_timeout_sec: float,
        start: Start = WorkerProcess,
    ) -> None:
        self._launches, self._start = list(launches), start
        self._most, self._timeout, self._start_timeout = waiting, timeout_sec, start_timeout_sec
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._workers: list[Worker | None] = [None] * len(self._launches)
        self._busy = 0
        self._given_up: list[str] = []
        self.counts: Counter[str] = Counter()
        self._threads: list[threading.Thread] = []

    # -- as seen from outside

    @property
    def size(self) -> int:
        return len(self._launches)

    @property
    def ready(self) -> int:
        """Processes that can speak."""
        return sum(w is not None for w in self._workers)

    @property
    def busy(self) -> int:
        return self._busy

    @property
    def queued(self) -> int:
        return len(self._jobs)

    @property
    def hello(self) -> dict[str, object]:
        """What a process that runs said of itself; empty if none does."""
        return next((w.hello for w in self._workers if w is not None), {})

    @property
    def pids(self) -> list[int]:
        return [w.pid for w in self._workers if w is not None]

    @property
    def broken(self) -> str | None:
        """Why no process can be started any more; None while there is hope."""
        return self._given_up[-1] if len(self._given_up) == len(self._launches) else None

    def open(self) -> None:
        """Start all processes at once and wait for them. Raises WorkerGone: one of them does not start."""
        failed: list[str] = []

        def begin(i: int) -> None:
            try:
                self._workers[i] = self._start(self._launches[i], self._start_timeout)
            except WorkerGone as error:
                failed.append(str(error))

        threads = [threading.Thread(target=begin, args=(i,), daemon=True) for i in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            self.close()
            raise WorkerGone(failed[0])
        self._threads = [threading.Thread(target=self._serve, args=(i,), daemon=True) for i in range(self.size)]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job) -> bool:
        """False: too many wait already."""
        with self._changed:
            if len(self._jobs) >= self._most or self._stopping:
                return False
            self._jobs.append(job)
            self._changed.notify()
        return True

    def close(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for worker in self._workers:
            if worker is not None:
                worker.kill()
        for thread in self._threads:
            thread.join(timeout=5)
        for job in self._jobs:
            _finish(job, {"failed": "the server is being stopped"})

    # -- in a thread of each process

    def _serve(self, i: int) -> None:
        while (job := self._next()) is not None:
            try:
                self._speak(i, job)
            finally:
                with self._changed:
                    self._busy -= 1
            if not self._revive(i):
                return

    def _next(self) -> Job | None:
        with self._changed:
            while True:
                while not self._jobs and not self._stopping:
                    self._changed.wait()
                if self._stopping:
                    return None
                job = self._jobs.popleft()
                if not job.abandoned:
                    self._busy += 1
                    return job

    def _speak(self, i: int, job: Job) -> None:
        worker = self._workers[i]
        assert worker is not None
        job.tries += 1
        try:
            job.answer, job.pcm = worker.ask(job.request, self._timeout)
        except WorkerGone as error:
            self._workers[i] = None
            if self._stopping:
                _finish(job, {"failed": "the server is being stopped"})
                return
            logger.warning("a CosyVoice process is started again: %s", error)
            if job.tries >= _TRIES:
                _finish(job, {"failed": f"{job.tries} processes ended while they spoke it: {error}"[:300]})
                return
            self.counts["retried"] += 1
            with self._changed:  # first in the queue: another process may be free sooner than this one is back
                self._jobs.appendleft(job)
                self._changed.notify()
            return
        job.done.set()

    def _revive(self, i: int) -> bool:
        """Start the process again if it has ended. False: it is given up."""
        worker = self._workers[i]
        if worker is not None and worker.is_alive():
            return True
        self._workers[i] = None
        reason = ""
        for attempt in range(_FAILED_STARTS):
            if self._stopping:
                return False
            self.counts["restarts"] += 1
            try:
                started = self._start(self._launches[i], self._start_timeout)
            except WorkerGone as error:
                reason = str(error)
                logger.warning("a CosyVoice process cannot be started: %s", reason)
                time.sleep(_RESTART_PAUSE_SEC * (attempt + 1))
                continue
            self._workers[i] = started
            if self._stopping:
                started.kill()
                return False
            return True
        with self._changed:
            self._given_up.append(reason)
            if self.broken is not None:
                while self._jobs:
                    _finish(self._jobs.popleft(), {"failed": "no process is left"})
        return False


def _finish(job: Job, answer: dict[str, object]) -> None:
    job.answer = answer
    job.done.set()
