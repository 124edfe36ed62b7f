"""The writer: how busy it keeps a server, how fast it reads what it knows, and what it keeps in memory.

    python -m tests.benchmarks.bench_writer [CACHED]

The server is a process of its own and answers in 200 ms. Beside its share of work stands what a client without any
logic (asyncio streams, the same requests as prepared bytes) reaches in the same minute: on a machine that others use
as well, the ratio of the two is what is ours.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "writer"))

from server import Running
from tasks_for_tests import PROMPT, check, config, tasks

from duplexdata.config import WriterConfig
from duplexdata.writer.asking import first_request
from duplexdata.writer.live import LiveWriter
from duplexdata.writer.parsing import RawReply
from duplexdata.writer.types import Message, Task, Written

DELAY_SEC, IN_FLIGHT, REQUESTS = 0.2, 32, 1600
_TALK = "A dialogue of some length, about bread, and trains, and how the two go together. " * 35


def main(cached: int) -> None:
    for label, limits in (("", {}), (" with a budget and a rate", {"max_tokens": 10**9, "tokens_per_minute": 10**9})):
        with tempfile.TemporaryDirectory() as folder, Running(delay=DELAY_SEC) as server:
            settings = config(server.base_url, Path(folder), in_flight=IN_FLIGHT, **limits)
            busy, cpu = _busy(server, settings, Path(folder))
            server.set(delay=DELAY_SEC)
            bare = asyncio.run(_bare(server, settings))
            print(
                f"server busy{label}: {busy:.1%} of {IN_FLIGHT} x {DELAY_SEC * 1000:.0f} ms; a client without logic: "
                f"{bare:.1%}; ratio {busy / bare:.2f}; {cpu * 1000:.2f} ms of CPU a request"
            )
    with tempfile.TemporaryDirectory() as folder:
        _cached(cached, Path(folder))


def _busy(server: Running, settings: WriterConfig, folder: Path) -> tuple[float, float]:
    with LiveWriter(settings, folder / "run") as writer:
        sum(1 for _ in writer.write(tasks(IN_FLIGHT, 10**6)))  # loads the client, opens connections
        cpu, began = time.process_time(), time.perf_counter()
        n = sum(isinstance(o, Written) for o in writer.write(tasks(REQUESTS)))
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
    assert n == REQUESTS
    assert server.stats()["most_open"] == IN_FLIGHT
    return REQUESTS * DELAY_SEC / IN_FLIGHT / took, cpu / REQUESTS


async def _bare(server: Running, settings: WriterConfig) -> float:
    """The share that the barest client reaches."""
    waiting = iter([json.dumps(dict(first_request(t, settings).body)).encode() for t in tasks(REQUESTS, 10**7)])

    async def work() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for body in waiting:
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
    return REQUESTS * DELAY_SEC / IN_FLIGHT / (time.perf_counter() - began)


def _cached(n: int, folder: Path) -> None:
    settings = config("http://127.0.0.1:1/v1", folder)
    with LiveWriter(settings, folder / "run") as writer:
        text = json.dumps({"text": "Dinner is ready, love. " * 10, "kind": "side_talk"})
        for start in range(0, n, 1000):
            _fill(writer, [first_request(t, settings).key for t in _talks(start, min(n, start + 1000))], text)
        for what, part in (("the first tenth of", n // 10), ("all", n)):
            began, cpu = time.perf_counter(), time.process_time()
            known = sum(isinstance(o, Written) and o.cached for o in writer.write(_talks(0, part)))
            took, cpu = time.perf_counter() - began, time.process_time() - cpu
            assert known == part
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(
                f"{what} {n:,} known replies: {part / took:,.0f} a second ({part / cpu:,.0f} a second of CPU), "
                f"peak memory {peak:.0f} MiB"
            )


def _talks(start: int, end: int) -> Iterator[Task]:
    for i in range(start, end):
        yield Task(
            f"talk-{i}", PROMPT, (Message("system", "Write one line."), Message("user", f"{i} {_TALK}")), i, check
        )


def _fill(writer: LiveWriter, keys: list[bytes], text: str) -> None:
    """As `put` does, a thousand in a transaction."""
    reply = json.dumps(asdict(RawReply(text, "stop", 900, 80))).encode()
    rows = [(key, reply, zlib.crc32(key + reply)) for key in keys]
    writer.cache._database.run(lambda c: c.executemany("INSERT INTO replies VALUES (?, ?, ?)", rows), write=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
