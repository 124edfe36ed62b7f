"""Worker processes that outlive the death of one of them, and end with the process that started them."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized


PROCESSES: ContextVar[Processes] = ContextVar("PROCESSES")
"""Those of this machine that a run's stages are to run in, if it has any."""


def in_a_process(stage: Callable[..., Any], *args: object, on_gpu: bool = False) -> Any:
    """Call a stage in one of the run's processes; here, if it has none: an engine's worker is a process already."""
    processes = PROCESSES.get(None)
    if processes is not None:
        return processes.run(stage, *args, on_gpu=on_gpu)
    compute_on_one_core()
    return stage(*args)


@contextmanager
def processes_for(workers: int, gpus: int) -> Iterator[None]:
    """Processes of this machine for what runs inside the context."""
    processes = Processes(workers, gpus)
    token = PROCESSES.set(processes)
    failed = True
    try:
        yield
        failed = False
    finally:
        PROCESSES.reset(token)
        processes.close(at_once=failed)


class Processes:
    """Worker processes. Those left when one was killed, for its memory say, are replaced by new ones.

    Args:
        workers: how many run at the same time.
        gpus: processes besides those, one for each GPU; 0: what needs one runs in the workers.
    """

    def __init__(self, workers: int, gpus: int = 0) -> None:
        self._lock, self._closed, self._gpus = threading.Lock(), False, gpus
        self._start = {False: partial(process_pool, workers), True: partial(process_pool, gpus, on_gpus=True)}
        self._pools = {False: self._start[False]()} | ({True: self._start[True]()} if gpus else {})

    def warm_up(self) -> None:
        """Let the workers load their libraries while the caller does something else."""
        self._pools[False].submit(os.getpid)

    def run(self, stage: Callable[..., Any], *args: object, on_gpu: bool = False) -> Any:
        """What the stage returns or raises. BrokenProcessPool: its worker died; called again, a new one is there."""
        which = on_gpu and self._gpus > 0
        pool = self._pools[which]
        try:
            return pool.submit(stage, *args).result()
        except BrokenProcessPool:
            with self._lock:
                if self._closed:
                    raise CancelledError("the run is being stopped") from None
                if self._pools[which] is pool:
                    self._pools[which] = self._start[which]()
            raise

    def close(self, *, at_once: bool) -> None:
        """
        Args:
            at_once: nobody waits for what they are in the middle of.
        """
        with self._lock:
            self._closed = True
        for pool in self._pools.values():
            pool.shutdown(wait=not at_once, cancel_futures=True)
        if at_once:
            for process in multiprocessing.active_children():
                process.terminate()


def process_pool(workers: int, *, on_gpus: bool = False) -> ProcessPoolExecutor:
    """Workers forked from a server that has imported what they need: torch is loaded once, not once per worker.

    Args:
        on_gpus: whether each worker has a GPU of its own (the first the first one, and so on): what runs on "cuda"
            runs there.
    """
    context = multiprocessing.get_context("forkserver")
    # pyarrow imports pandas, where it is installed, on its first conversion.
    context.set_forkserver_preload(["duplexdata.build", "duplexdata.codecs.mel", "pandas"])
    numbers = context.Value("i", 0) if on_gpus else None
    started = (dict(os.environ), numbers)
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=started)


def _start_worker(environment: dict[str, str], numbers: Synchronized[int] | None = None) -> None:
    """Workers share the machine: each computes on one core. They end with the process that started them.

    Args:
        environment: that of the process that started them; the server that they are forked from keeps the one that
            it was started with, by an earlier run of the same process maybe.
        numbers: the number of the next worker that takes a GPU.
    """
    import torch

    os.environ.clear()
    os.environ.update(environment)
    compute_on_one_core()
    # Ctrl-C reaches every process of the terminal; the owner decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_owner, daemon=True).start()
    if numbers is None:
        return
    with numbers.get_lock():
        number = numbers.value
        numbers.value += 1
    if (gpus := torch.cuda.device_count()) > 1:
        torch.cuda.set_device(number % gpus)


def compute_on_one_core() -> None:
    """Workers share the machine."""
    import torch

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)


def _end_with_owner() -> None:
    """A worker whose build was killed would wait for work for ever."""
    owner = multiprocessing.parent_process()
    if owner is not None:
        multiprocessing.connection.wait([owner.sentinel])
        os._exit(1)
