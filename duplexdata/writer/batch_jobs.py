"""Batches under way: made, found again after a kill, polled, and their replies kept.

A file of state per batch says which requests are in it. It is there before anything is uploaded and until all replies
are in the cache. Whoever works on it holds its lock, which the system gives up when the process ends. A batch carries
the state's id in its metadata, so that one is found that was made just before a kill.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, TypeVar

import openai

from duplexdata.config import WriterConfig
from duplexdata.errors import BudgetError, WriterError
from duplexdata.shards import write_json
from duplexdata.writer.asking import Request
from duplexdata.writer.cache import ReplyCache
from duplexdata.writer.endpoint import Endpoint
from duplexdata.writer.ledger import Ledger, Spent

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
_MARK = "duplexdata"
_ENDED = ("completed", "failed", "expired", "cancelled")
_FILES_SEC = 1800.0
"""For an upload or a download: 200 MB at 1 Mbit/s."""
_LONGEST_BACKOFF_SEC = 60.0


@dataclass(frozen=True, slots=True)
class Job:
    """A batch and the requests in it.

    Attributes:
        keys: the requests' keys as hex digits: their `custom_id`s.
        prompts: of each key its prompt.
        likely: of each key the tokens its prompt likely has, for servers that do not count.
        batch, file: the endpoint's ids, once there are any.
    """

    id: str
    keys: tuple[str, ...]
    prompts: tuple[str, ...]
    likely: tuple[int, ...]
    file: str | None = None
    batch: str | None = None


class Jobs:
    """The batches of one process, in one event loop."""

    def __init__(
        self, config: WriterConfig, endpoint: Endpoint, cache: ReplyCache, ledger: Ledger, folder: Path
    ) -> None:
        self._config, self._endpoint, self._cache, self._ledger = config, endpoint, cache, ledger
        self._folder = folder
        self._locks: dict[str, IO[str]] = {}
        self._working: dict[str, asyncio.Task[None]] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def reserve(self, requests: Collection[Request], *, last: bool) -> Job | None:
        """A job within the budget, None if there is no room for all of them.

        Args:
            last: whether to raise where there will be no room later either.

        Raises: BudgetError: with `last`, the budget is spent.
        """
        job = Job(
            uuid.uuid4().hex,
            tuple(r.key.hex() for r in requests),
            tuple(r.prompt for r in requests),
            tuple(r.likely_prompt_tokens for r in requests),
        )
        sent, received = sum(r.most_prompt_tokens for r in requests), sum(r.max_tokens for r in requests)
        try:
            return None if self._ledger.reserve(job.id, sent, received, keep=True) is None else job
        except BudgetError:
            if last:
                raise
            return None

    async def run(self, job: Job, lines: bytes) -> None:
        """Upload a job's requests, have a batch made of them, wait for it and keep its replies.

        Raises: see `collect`.
        """
        await self._together(job.id, self._submit_and_collect(job, lines))

    def under_way(self, keys: Collection[bytes]) -> list[Job]:
        """Jobs with any of the requests, whoever made them: also a process that ended before it had their replies."""
        wanted = {key.hex() for key in keys}
        found = []
        for path in sorted(self._folder.glob("*.json")):
            try:
                raw = json.loads(path.read_text(encoding="utf-8"))
                names = {name: tuple(raw[name]) for name in ("keys", "prompts", "likely")}
                job = Job(raw["id"], file=raw["file"], batch=raw["batch"], **names)
            except FileNotFoundError:
                continue  # done meanwhile
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise WriterError(f"{path} cannot be read: {error}; move it away to do without its batch") from None
            if not wanted.isdisjoint(job.keys):
                found.append(job)
        return found

    async def collect(self, job: Job) -> None:
        """Wait for a batch and keep its replies. What it did not answer stays unknown.

        Raises: WriterError: the endpoint refused the whole batch, or cannot be worked with.
        """
        await self._together(job.id, self._collect(job))

    def close(self) -> None:
        for lock in self._locks.values():
            lock.close()
        self._locks.clear()

    async def _together(self, job_id: str, work: Coroutine[Any, Any, None]) -> None:
        """One piece of work a job in this process; whoever else needs it waits for it too."""
        task = self._working.get(job_id)
        if task is None:
            task = self._working[job_id] = asyncio.get_running_loop().create_task(work)
            task.add_done_callback(lambda _: self._working.pop(job_id, None))
        else:
            work.close()
        await asyncio.shield(task)

    async def _submit_and_collect(self, job: Job, lines: bytes) -> None:
        self._lock(job.id)
        self._save(job)
        client = self._endpoint.client
        try:
            file = await self._patiently(
                lambda: client.files.create(file=(f"{job.id}.jsonl", lines), purpose="batch", timeout=_FILES_SEC)
            )
            job = self._save(replace(job, file=file.id))
            batch_id = await self._patiently(lambda: self._make(job))
        except openai.NotFoundError:
            await self._end(job, {}, [job.file])
            raise self._endpoint.error("it has no Batch API (404); take writer.mode: live") from None
        _LOG.info("batch %s: %d requests", batch_id, len(job.keys))
        await self._collect(self._save(replace(job, batch=batch_id)))

    async def _collect(self, job: Job) -> None:
        while not self._lock(job.id):  # another process is at it
            await asyncio.sleep(min(1.0, self._config.batch_poll_sec))
        if not self._path(job.id).exists():
            self._unlock(job.id)
            return
        self._ledger.adopt(job.id)
        if job.batch is None:
            try:
                found = await self._patiently(lambda: self._find(job.id))
            except openai.NotFoundError:
                found = None
            if found is None:  # it never came to be
                await self._end(job, {}, [job.file])
                return
            job = self._save(replace(job, batch=found))
        batch = await self._ended(job)
        if batch is None:
            await self._end(job, {}, [])
            return
        if batch.status == "failed":
            await self._end(job, {}, [job.file])
            raise self._refused(batch)
        spent: dict[str, Spent] = {}
        if batch.output_file_id is not None:
            await self._keep(job, batch.output_file_id, spent)
        n = sum(s.replies for s in spent.values())
        if n < len(job.keys):
            _LOG.warning(
                "batch %s (%s) has no reply to %d of %d requests: they are asked one by one",
                job.batch, batch.status, len(job.keys) - n, len(job.keys),
            )  # fmt: skip
        await self._end(job, spent, [job.file, batch.output_file_id, batch.error_file_id])

    async def _ended(self, job: Job) -> Any | None:
        """The batch once it has come to an end; None if the endpoint knows of none."""
        assert job.batch is not None
        while True:
            try:
                batch = await self._patiently(lambda: self._endpoint.client.batches.retrieve(str(job.batch)))
            except openai.NotFoundError:
                _LOG.warning("batch %s is gone: its requests are asked again", job.batch)
                return None
            if batch.status in _ENDED:
                return batch
            await asyncio.sleep(self._config.batch_poll_sec)

    async def _keep(self, job: Job, file: str, spent: dict[str, Spent]) -> None:
        """Put a file's replies into the cache, and what they took into `spent`."""
        try:
            content = await self._patiently(lambda: self._endpoint.client.files.content(file, timeout=_FILES_SEC))
        except openai.NotFoundError:
            return
        known = dict(zip(job.keys, zip(job.prompts, job.likely, strict=True), strict=True))
        for i, line in enumerate(content.content.splitlines()):
            if i % 100 == 0:
                await asyncio.sleep(0)
            try:
                row = json.loads(line, strict=False)
                key, response = row["custom_id"], row["response"]
                good = response is not None and response["status_code"] == 200
            except (ValueError, KeyError, TypeError):
                continue  # whatever it was, its request is not answered
            if not good or key not in known:
                continue
            prompt, likely = known.pop(key)
            reply = self._endpoint.reply(response.get("body"), likely)
            if reply is None:
                continue
            self._cache.put(bytes.fromhex(key), reply)
            one = Spent(1, reply.prompt_tokens, reply.completion_tokens)
            spent[prompt] = spent.get(prompt, Spent()).plus(one)

    async def _make(self, job: Job) -> str:
        """A batch's id. Asked for without the client's retries: a reply that is lost must not make two batches."""
        try:
            batch = await self._endpoint.client.with_options(max_retries=0).batches.create(
                input_file_id=str(job.file),
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={_MARK: job.id},
            )
        except (openai.APIConnectionError, openai.InternalServerError):
            if (found := await self._find(job.id)) is not None:
                return found
            raise
        return batch.id

    async def _find(self, job_id: str) -> str | None:
        """The id of the batch that carries ours, among the latest thousand."""
        n = 0
        async for batch in self._endpoint.client.batches.list(limit=100):
            metadata: Mapping[str, str] = batch.metadata or {}
            if metadata.get(_MARK) == job_id:
                return batch.id
            n += 1
            if n >= 1000:
                break
        return None

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """What a call of the API returns, in spite of what may pass. Raises WriterError; NotFoundError."""
        began, backoff = time.monotonic(), 1.0
        while True:
            try:
                return await call()
            except openai.NotFoundError:
                raise
            except openai.APIStatusError as error:
                if stopping := self._endpoint.stopping(error):
                    raise stopping from None
                if error.status_code < 500 and error.status_code not in (408, 409, 429):
                    raise self._endpoint.error(
                        f"its Batch API refuses ({error.status_code}): {error.message}; writer.mode: live does without"
                    ) from None
                told = f"{error.status_code}: {error.message}"
            except openai.APIConnectionError as error:
                told = f"{error} ({error.__cause__})"
            except openai.OpenAIError as error:
                told = str(error)
            if time.monotonic() + backoff - began > self._config.patience_sec:
                raise self._endpoint.error(
                    f"its Batch API answered nothing for writer.patience_sec ({self._config.patience_sec:g} s): "
                    f"{told}; batches under way are kept: run the same command again",
                    retryable=True,
                )
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, _LONGEST_BACKOFF_SEC)

    async def _end(self, job: Job, spent: dict[str, Spent], files: Iterable[str | None]) -> None:
        """Nothing more is to be had from a job."""
        self._ledger.settle_once(job.id, spent)
        self._path(job.id).unlink(missing_ok=True)
        self._unlock(job.id)
        for file in files:
            if file is not None:
                with contextlib.suppress(openai.OpenAIError):
                    await self._endpoint.client.files.delete(file)

    def _refused(self, batch: Any) -> WriterError:
        faults = (batch.errors.data if batch.errors is not None else None) or []
        told = "; ".join(f"{f.code}: {f.message}" for f in faults[:3]) or "it does not say why"
        full = any(f.code == "token_limit_exceeded" for f in faults)
        return self._endpoint.error(
            f"the batch is refused: {told}; see writer.structured and writer.omit, or make batches smaller or fewer "
            "(writer.batch_requests, writer.batches)",
            retryable=full,
        )

    def _path(self, job_id: str) -> Path:
        return self._folder / f"{job_id}.json"

    def _save(self, job: Job) -> Job:
        write_json(self._path(job.id), asdict(job))
        return job

    def _lock(self, job_id: str) -> bool:
        """Whether this process has the job's lock now."""
        if job_id in self._locks:
            return True
        file = (self._folder / f"{job_id}.lock").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return False
        self._locks[job_id] = file
        return True

    def _unlock(self, job_id: str) -> None:
        (self._folder / f"{job_id}.lock").unlink(missing_ok=True)
        self._locks.pop(job_id).close()
