"""A writer that asks through the Batch API: cheaper, and done within a day. https://platform.openai.com/docs/guides/batch

First replies come from batches and go into the cache; from there on all is as in `live`: repairs, and whatever a
batch did not answer, are asked for one by one.

What is under way stands in the run's folder, a file a batch, so that a killed run finds its batches again.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from itertools import islice
from pathlib import Path

from duplexdata.config import WriterConfig
from duplexdata.writer.asking import Request, first_request
from duplexdata.writer.batch_jobs import Jobs
from duplexdata.writer.live import LiveWriter, Outcome
from duplexdata.writer.parsing import RawReply
from duplexdata.writer.types import Task

_LONGEST_POLL_SEC = 1.0
_LEAST_SHARE = 16
"""A budget that has room for less than one in so many of a batch's requests counts as spent."""


class BatchWriter:
    """See `LiveWriter` for the arguments."""

    def __init__(self, config: WriterConfig, run: Path) -> None:
        self._config = config
        self._live = LiveWriter(config, run)
        self._jobs: Jobs | None = None
        self._folder = run / "batches"
        self._fetching: dict[bytes, asyncio.Event] = {}

    def write(self, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """See `Writer.write`. In memory are the tasks of `writer.batches` batches."""
        source = iter(tasks)
        waiting: deque[tuple[list[Task], Future[None] | None]] = deque()
        more = True
        try:
            while more or waiting:
                while more and len(waiting) < self._config.batches:
                    chunk = list(islice(source, self._config.batch_requests))
                    more = len(chunk) == self._config.batch_requests
                    waiting.append((chunk, self._begin(chunk)))
                chunk, fetched = waiting.popleft()
                if fetched is not None:
                    fetched.result()
                yield from self._live.write(chunk)
        finally:
            for _, fetched in waiting:
                if fetched is not None:
                    fetched.cancel()

    def describe(self) -> dict[str, str]:
        return self._live.describe()

    def close(self) -> None:
        self._live.close()
        if self._jobs is not None:
            self._jobs.close()

    def __enter__(self) -> BatchWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self, chunk: list[Task]) -> Future[None] | None:
        requests = {}
        for task in chunk:
            request = first_request(task, self._config)
            requests[request.key] = request
        known = self._live.cache.get_many(list(requests))
        missing = [r for key, r in requests.items() if key not in known]
        return self._live.run_in_loop(self._fetch(missing)) if missing else None

    async def _fetch(self, requests: list[Request]) -> None:
        """Get what batches have to say about requests into the cache: ours, and those of other processes."""
        if self._jobs is None:
            self._jobs = Jobs(self._config, self._live.endpoint, self._live.cache, self._live.ledger, self._folder)
        poll_sec = 0.2
        while True:
            for job in self._jobs.under_way({r.key for r in requests}):
                await self._jobs.collect(job)
            requests = self._unknown(await self._fetch_ours(self._unknown(requests)))
            if not requests:
                return
            await asyncio.sleep(poll_sec)
            poll_sec = min(2 * poll_sec, _LONGEST_POLL_SEC)

    async def _fetch_ours(self, requests: list[Request]) -> list[Request]:
        """Make batches of what nobody else is asking for. Returns: the rest."""
        assert self._jobs is not None
        mine: dict[bytes, Request] = {}
        done, others, rest = asyncio.Event(), [], []
        free = {r.key for r in requests if r.key not in self._fetching}
        claimed = self._live.cache.claim_many(list(free))
        for request in requests:
            if request.key in claimed:
                mine[request.key], self._fetching[request.key] = request, done
            elif request.key in free:
                rest.append(request)
            else:
                others.append(self._fetching[request.key])
        try:
            left = list(mine.values())
            while left:
                left = left[await self._run_batch(left) :]
        finally:
            for key in mine:
                del self._fetching[key]
            self._live.cache.release(mine)
            done.set()
        for other in others:
            await other.wait()
        return rest

    def _unknown(self, requests: list[Request]) -> list[Request]:
        known: dict[bytes, RawReply] = self._live.cache.get_many([r.key for r in requests])
        return [r for r in requests if r.key not in known]

    async def _run_batch(self, requests: list[Request]) -> int:
        """Ask for the first of them in one batch, as many as the budget has room for.

        Returns: how many. Raises: BudgetError: for too few: each batch may take a day.
        """
        assert self._jobs is not None
        n, least, poll_sec = len(requests), -(-len(requests) // _LEAST_SHARE), 0.05
        while (job := self._jobs.reserve(requests[:n], last=n == least)) is None:
            if n == least:  # what others have reserved may become free
                await asyncio.sleep(poll_sec)
                poll_sec = min(2 * poll_sec, _LONGEST_POLL_SEC)
            n = max(least, n // 2)
        await self._jobs.run(job, _lines(requests[:n], self._live))
        return n


def _lines(requests: list[Request], live: LiveWriter) -> bytes:
    """The upload: a request a line."""
    lines = (
        {"custom_id": r.key.hex(), "method": "POST", "url": "/v1/chat/completions", "body": live.endpoint.fields(r)}
        for r in requests
    )
    return "".join(json.dumps(line) + "\n" for line in lines).encode()
