"""One process of CosyVoice's official code, spoken to through its pipe. What is sent and answered: see `worker.py`."""

from __future__ import annotations

import contextlib
import json
import os
import select
import struct
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_STDERR_LINES = 30


class WorkerGone(Exception):
    """The process has ended, or was ended since it did not answer in time."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How a process is started.

    Attributes:
        environment: variables besides PATH, HOME and the like.
        override: "auto": decode without attention mask where cached decoding is wrong; "never".
        voices: kept ready.
    """

    python: Path
    checkout: Path
    model: Path
    threads: int
    override: str
    voices: int
    environment: Mapping[str, str]


class WorkerProcess:
    """Used by one thread at a time. Ends with the process that started it."""

    def __init__(self, launch: Launch, start_timeout_sec: float) -> None:
        """Raises WorkerGone: it did not start; its text says why."""
        script = Path(__file__).with_name("worker.py")
        given = [launch.checkout.resolve(), launch.model.resolve(), launch.threads, launch.override, launch.voices]
        self._process = subprocess.Popen(
            [str(launch.python), "-I", "-B", "-W", "ignore", str(script), *map(str, given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(launch.environment),
            start_new_session=True,  # Ctrl-C is the parent's business: it ends this one in order
        )
        self._said: deque[str] = deque(maxlen=_STDERR_LINES)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        try:
            self.hello = self._read_head(time.monotonic() + start_timeout_sec)
        except WorkerGone as error:
            self.kill()
            raise WorkerGone(f"CosyVoice did not start: {error}{self._last_words()}") from None
        if "fatal" in self.hello:
            self.kill()
            raise WorkerGone(str(self.hello["fatal"]))

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, request: Mapping[str, object], timeout_sec: float) -> tuple[dict[str, object], bytes]:
        """The answer and its PCM. Raises WorkerGone; the process is then no more."""
        body = json.dumps(request).encode()
        end = time.monotonic() + timeout_sec
        try:
            stdin = _pipe(self._process.stdin)
            stdin.write(struct.pack("<I", len(body)) + body)
            stdin.flush()
            head = self._read_head(end)
            return head, self._read(int(str(head.get("bytes", 0))), end)
        except (OSError, WorkerGone) as error:
            self.kill()
            raise WorkerGone(f"{error}{self._last_words()}") from None

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._listener.join(timeout=2)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what was still to be written has no reader
                    pipe.close()

    def _read_head(self, end: float) -> dict[str, object]:
        size = struct.unpack("<I", self._read(4, end))[0]
        head = json.loads(self._read(size, end))
        if not isinstance(head, dict):
            raise WorkerGone("it answered something else than asked")
        return head

    def _read(self, n: int, end: float) -> bytes:
        fd = _pipe(self._process.stdout).fileno()
        ready = select.poll()
        ready.register(fd, select.POLLIN)
        found = bytearray()
        while len(found) < n:
            if not ready.poll(max(0.0, end - time.monotonic()) * 1000):
                raise WorkerGone("it did not answer in time")
            chunk = os.read(fd, n - len(found))
            if not chunk:
                raise WorkerGone("its process has ended")
            found += chunk
        return bytes(found)

    def _listen(self) -> None:
        for line in _pipe(self._process.stderr):
            self._said.append(line.decode("utf-8", "replace").rstrip()[:300])

    def _last_words(self) -> str:
        self._listener.join(timeout=0.5)
        return "".join(f"\n  {line}" for line in list(self._said)[-8:])


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    """Of this process what programs need to run; no key or token. Nothing is downloaded."""
    kept = ("PATH", "HOME", "TMPDIR", "LANG", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_HOME", "CUDA_PATH")
    fixed = {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TQDM_DISABLE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # without it matrix products on GPUs may differ from run to run
    }
    return {k: os.environ[k] for k in kept if k in os.environ} | fixed | dict(more)


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe
