"""A writer that asks request by request: many in flight, few in memory, nothing twice."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import threading
import uuid
from collections import deque
from collections.abc import Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from duplexdata.config import WriterConfig
from duplexdata.errors import WriterError
from duplexdata.writer.asking import Request
from duplexdata.writer.attempts import Answer, Attempts, Refused, attempts
from duplexdata.writer.cache import ReplyCache, default_path
from duplexdata.writer.ledger import LEDGER, Ledger, Spent
from duplexdata.writer.meter import Meter
from duplexdata.writer.parsing import RawReply
from duplexdata.writer.types import Failed, Task, Written

if TYPE_CHECKING:
    from duplexdata.writer.endpoint import Endpoint

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
Outcome: TypeAlias = Written | Failed
_CHUNK = 64
"""Tasks looked up in the cache at a time."""
_HEARTBEAT_SEC = 5.0
_CANCEL_SEC = 5.0
_LONGEST_POLL_SEC = 1.0


@dataclass(slots=True)
class _Run:
    """One call of `write`: after its first error nothing more is asked for it."""

    error: WriterError | None = None
    claims: set[bytes] = field(default_factory=set)
    open: set[concurrent.futures.Future[Outcome]] = field(default_factory=set)
    tasks: set[asyncio.Task[Outcome]] = field(default_factory=set)

    def cancel(self) -> None:
        for task in self.tasks:
            task.cancel()


class LiveWriter:
    """Asks an endpoint through the chat API.

    The requests run in a thread of its own; the endpoint is not touched before something is not in the cache.

    Args:
        run: the run's work folder, shared by all its processes.

    Raises: ConfigError, WriterError: the key, the cache's file or the run's folder cannot be used.
    """

    def __init__(self, config: WriterConfig, run: Path) -> None:
        assert config.model is not None
        self._config = config
        self.cache = ReplyCache(Path(config.cache).expanduser() if config.cache else default_path())
        self.ledger = Ledger(run / LEDGER, config)
        self._window = max(8 * _CHUNK, 8 * config.in_flight)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._endpoint: Endpoint | None = None
        self._asking: dict[bytes, asyncio.Event] = {}
        self._proven: set[str] = set()
        self._paid, self._known = Spent(), 0

    def write(self, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """See `Writer.write`. Closing the iterator before its end takes back what was asked for."""
        source = iter(tasks)
        waiting: deque[Outcome | concurrent.futures.Future[Outcome]] = deque()
        run, more = _Run(), True
        try:
            while more or waiting:
                while more and len(waiting) + _CHUNK <= self._window:
                    chunk = list(islice(source, _CHUNK))
                    more = len(chunk) == _CHUNK
                    waiting.extend(self._begin(run, chunk))
                if waiting:
                    head = waiting.popleft()
                    yield head if isinstance(head, Written | Failed) else head.result()
        except WriterError:
            # What is being answered is paid for: it is let finish, and kept.
            concurrent.futures.wait(run.open, timeout=self._config.timeout_sec)
            raise
        finally:
            if run.open and self._loop is not None:
                self._loop.call_soon_threadsafe(run.cancel)
                concurrent.futures.wait(run.open, timeout=_CANCEL_SEC)
            self.cache.release(run.claims)

    def describe(self) -> dict[str, str]:
        assert self._config.model is not None
        return {"model": self._config.model, "structured": self._config.structured}

    def close(self) -> None:
        paid = self._paid
        _LOG.info(
            "writer: %d replies known, %d asked for (%d + %d tokens), %d lost on their way",
            self._known, paid.replies, paid.prompt_tokens, paid.completion_tokens, paid.lost,
        )  # fmt: skip
        if self._loop is not None:
            assert self._thread is not None
            self.run_in_loop(self._end()).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self._loop = None
        self.cache.close()
        self.ledger.close()

    def __enter__(self) -> LiveWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run_in_loop(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Start something in the thread of the requests."""
        try:
            loop = self._running()
        except BaseException:
            work.close()
            raise
        return asyncio.run_coroutine_threadsafe(work, loop)

    def _running(self) -> asyncio.AbstractEventLoop:
        """The loop, which runs from the first time that something is asked for."""
        if self._loop is None:
            loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=loop.run_forever, name="writer", daemon=True)
            self._thread.start()
            self._loop = loop
            try:
                asyncio.run_coroutine_threadsafe(self._start(), loop).result()
            except BaseException:
                loop.call_soon_threadsafe(loop.stop)
                self._thread.join()
                loop.close()
                self._loop = None
                raise
        return self._loop

    @property
    def endpoint(self) -> Endpoint:
        assert self._endpoint is not None
        return self._endpoint

    async def _start(self) -> None:
        from duplexdata.writer.endpoint import Endpoint  # loads the client: not where everything is known

        self._endpoint = Endpoint(self._config, self._proven, self._charge)
        # Some wait with everything done but the request itself, so that the server need not.
        self._slots = asyncio.Semaphore(self._config.in_flight)
        self._doors = asyncio.Semaphore(self._config.in_flight + max(2, self._config.in_flight // 4))
        self._heart = asyncio.get_running_loop().create_task(self._beat())

    async def _end(self) -> None:
        me = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not me]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self.endpoint.close()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(_HEARTBEAT_SEC)
            with contextlib.suppress(WriterError):  # a full disk: whoever pays next will say so
                self.ledger.refresh()

    def _begin(self, run: _Run, tasks: list[Task]) -> list[Outcome | concurrent.futures.Future[Outcome]]:
        """Outcomes of tasks whose replies are known, and promises of the others'."""
        results: list[Outcome | concurrent.futures.Future[Outcome] | None] = [None] * len(tasks)
        going: list[tuple[int, Attempts, Request]] = []
        for i, task in enumerate(tasks):
            steps = attempts(task, self._config)
            going.append((i, steps, next(steps)))
        asked: list[tuple[int, Attempts, Request]] = []
        while going:  # twice at most: the first requests, then the repairs of those whose replies are known
            known = self.cache.get_many([request.key for _, _, request in going])
            next_going = []
            for i, steps, request in going:
                if (raw := known.get(request.key)) is None:
                    asked.append((i, steps, request))
                    continue
                self._proven.add(request.prompt)
                self._known += 1
                step = _advance(steps, (raw, True))
                if isinstance(step, Request):
                    next_going.append((i, steps, step))
                else:
                    results[i] = step
            going = next_going
        asked.sort(key=lambda a: a[0])
        run.claims |= self.cache.claim_many([request.key for _, _, request in asked])
        if asked:
            futures: list[concurrent.futures.Future[Outcome]] = [concurrent.futures.Future() for _ in asked]
            for (i, _, _), future in zip(asked, futures, strict=True):
                results[i] = future
            run.open.update(futures)
            jobs = [(steps, request, future) for (_, steps, request), future in zip(asked, futures, strict=True)]
            self._running().call_soon_threadsafe(self._start_all, run, jobs)  # wakes the thread once, not for each
        return [r for r in results if r is not None]

    def _start_all(self, run: _Run, jobs: list[tuple[Attempts, Request, concurrent.futures.Future[Outcome]]]) -> None:
        for steps, request, future in jobs:
            task = asyncio.get_running_loop().create_task(self._finish(run, steps, request))
            run.tasks.add(task)
            task.add_done_callback(partial(_hand_over, run, future))

    async def _finish(self, run: _Run, steps: Attempts, request: Request) -> Outcome:
        step: Outcome | Request = request
        while isinstance(step, Request):
            answer: Answer | Refused
            try:
                answer = await self._reply(run, step)
            except Refused as refused:
                answer = refused
            except WriterError as error:
                run.error = run.error or error
                raise
            step = _advance(steps, answer)
        return step

    async def _reply(self, run: _Run, request: Request) -> Answer:
        """A reply, known or asked for. The same request is never under way twice, in all processes."""
        while (other := self._asking.get(request.key)) is not None:
            await other.wait()
            if (known := self.cache.get(request.key)) is not None:
                return known, True
        done = self._asking[request.key] = asyncio.Event()
        poll_sec = 0.05
        try:
            while True:
                async with self._doors:
                    if run.error is not None:
                        raise run.error
                    known = self.cache.get(request.key)
                    claimed = known or request.key in run.claims or self.cache.claim(request.key)
                    if isinstance(claimed, RawReply):
                        return claimed, True
                    if claimed:
                        run.claims.add(request.key)
                        return await self._pay(run, request), False
                await asyncio.sleep(poll_sec)
                poll_sec = min(1.5 * poll_sec, _LONGEST_POLL_SEC)
        finally:
            run.claims.discard(request.key)
            del self._asking[request.key]
            done.set()

    async def _pay(self, run: _Run, request: Request) -> RawReply:
        """Ask for a reply within the budget, and keep it. The request is claimed."""
        reservation, meter = uuid.uuid4().hex, Meter()
        raw: RawReply | None = None
        booked = 0
        try:
            booked = await self._reserve(reservation, request)
            async with self._slots:
                if run.error is not None:
                    raise run.error
                raw = await self.endpoint.complete(request, meter)
            await asyncio.sleep(0)  # the next request goes out first
        finally:
            try:
                if raw is None:
                    self.cache.release([request.key])
                else:
                    raw = self.cache.put(request.key, raw)
            finally:
                tokens = request.likely_prompt_tokens, request.max_tokens
                spent = Spent(0, meter.lost * tokens[0], meter.lost * tokens[1], meter.lost)
                if raw is not None:
                    spent = spent.plus(Spent(1, raw.prompt_tokens, raw.completion_tokens))
                self.ledger.settle(reservation, request.prompt, spent, pace=booked)
                self._paid = self._paid.plus(spent)
        return raw

    def _charge(self, prompt: str, reply: RawReply) -> None:
        self.ledger.settle("", prompt, Spent(1, reply.prompt_tokens, reply.completion_tokens))

    async def _reserve(self, reservation: str, request: Request) -> int:
        """Wait for room in the budget, and for the request's turn. Returns: the tokens booked for it."""
        pace, poll_sec = request.likely_prompt_tokens + request.max_tokens, 0.02
        most = request.most_prompt_tokens, request.max_tokens
        while (wait_sec := self.ledger.reserve(reservation, *most, pace=pace)) is None:
            await asyncio.sleep(poll_sec)
            poll_sec = min(1.5 * poll_sec, _LONGEST_POLL_SEC)
        if wait_sec > 0:
            await asyncio.sleep(wait_sec)
        return pace


def _hand_over(run: _Run, future: concurrent.futures.Future[Outcome], task: asyncio.Task[Outcome]) -> None:
    """From the loop's thread to whoever waits."""
    run.tasks.discard(task)
    run.open.discard(future)
    if task.cancelled():
        future.cancel()
    elif (error := task.exception()) is not None:
        future.set_exception(error)
    else:
        future.set_result(task.result())


def _advance(steps: Attempts, answer: Answer | Refused) -> Outcome | Request:
    try:
        return steps.throw(answer) if isinstance(answer, Refused) else steps.send(answer)
    except StopIteration as stop:
        outcome: Outcome = stop.value
        return outcome
