"""A whole build over local processes. Flows do the same with an engine of their own; both call the stages."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from duplexdata.backends import SPEECH_TOKENIZERS, codebook_size, device_count, make_synthesizer
from duplexdata.config import AlignConfig, Config
from duplexdata.dataset import assemble, check_target, is_complete
from duplexdata.errors import ConfigError
from duplexdata.manifest import Markers
from duplexdata.stages.encode import encode, release_tokenizer, speak_and_encode
from duplexdata.stages.ingest import ingest
from duplexdata.stages.layouts import write_layouts, write_tokenizer
from duplexdata.stages.plan import Plan, make_plan
from duplexdata.stages.scripts import write_scripts
from duplexdata.stages.speak import speak
from duplexdata.stages.work import Marker, Shard, shards_of

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized

Report = Callable[[str, int], None]
"""Called with a stage's name and the conversations that have passed it."""


@dataclass(frozen=True, slots=True)
class ShardMarkers:
    scripts: Marker
    speech: Marker
    codes: Marker | None
    layouts: Marker


def work_folder(out: Path) -> Path:
    """Beside the dataset, so that finished files are linked and not copied."""
    return out.resolve().with_name(f".{out.resolve().name}.work")


def build(config: Config, out: Path, *, workers: int, report: Report, keep_work: bool = False) -> bool:
    """Build the dataset at `out`, or go on with a build that was interrupted.

    Returns: False if it was there already and nothing was done.
    Raises: ConfigError, SourceError, DatasetError: see there; ScriptError and the like are counted, not raised.
    """
    check_target(out)
    check_backends(config)
    plan = make_plan(config, work_folder(out))
    if is_complete(plan, out):
        return False
    shards = shards_of(config)
    with Workers(min(workers, len(shards)), encoders=min(encoders(config), len(shards))) as pool:
        read = ingest(plan)
        prepare(plan)
        done = pool.run(plan, shards, report)
    assemble(plan, shards, gather(read, done), out)
    if not keep_work:
        shutil.rmtree(plan.work, ignore_errors=True)
    return True


def gather(read: Marker, done: Sequence[ShardMarkers]) -> Markers:
    return Markers(
        ingest=read,
        scripts=[d.scripts for d in done],
        speech=[d.speech for d in done],
        codes=[d.codes for d in done if d.codes is not None],
        layouts=[d.layouts for d in done],
    )


def check_backends(config: Config) -> None:
    """Fail before any work is done where a backend cannot be had."""
    # Models that hear what was said are loaded where they are used; the plan looks whether they are there.
    align = config.align if config.align.model is None else AlignConfig("none")
    make_synthesizer(replace(config, quality=replace(config.quality, asr=None), align=align)).close()
    if config.codec.name not in SPEECH_TOKENIZERS:
        raise ConfigError(f"codec.name is {config.codec.name!r}, expected one of {', '.join(SPEECH_TOKENIZERS)}")


def prepare(plan: Plan) -> None:
    """What all shards share."""
    write_tokenizer(plan, codebook_size(plan.config.codec))


def run_shard(plan: Plan, shard: Shard) -> ShardMarkers:
    """All stages of one shard, in this process. What is finished is found, not done again."""
    scripts = write_scripts(plan, shard)
    if not plan.config.has_sound:
        return ShardMarkers(scripts, speak(plan, shard), None, write_layouts(plan, shard))
    if fused(plan.config):
        speech, codes = speak_and_encode(plan, shard)
    else:
        speech, codes = speak(plan, shard), encode(plan, shard)
    return ShardMarkers(scripts, speech, codes, write_layouts(plan, shard))


def fused(config: Config) -> bool:
    """Whether sound is tokenized in the process that makes it: where the codec needs no device of its own."""
    return config.codec.name == "mel"


def encoders(config: Config) -> int:
    """Processes that may tokenize at a time: one for each GPU that the codec runs on; 0: any number."""
    return device_count(config.codec) if config.has_sound else 0


def speak_shard(plan: Plan, shard: Shard) -> None:
    """The stages of one shard up to its sound."""
    write_scripts(plan, shard)
    speak(plan, shard)


class Workers:
    """Local processes that shards are dealt out to; with one worker, this process itself.

    Args:
        encoders: processes besides those, one for each GPU, for the stage that tokenizes. With one worker this
            process does that as well, on the first GPU.
    """

    def __init__(self, n: int, encoders: int = 0) -> None:
        self._pool = process_pool(n) if n > 1 else None
        self._encoders = process_pool(encoders, on_gpus=True) if n > 1 and encoders else None

    def __enter__(self) -> Workers:
        if self._pool is not None:
            # Its processes load their libraries while this one reads the sources.
            self._pool.submit(os.getpid)
        return self

    def __exit__(self, kind: object, error: object, tb: object) -> None:
        for pool in (self._pool, self._encoders):
            if pool is not None:
                pool.shutdown(wait=kind is None, cancel_futures=True)
        release_tokenizer()

    def run(self, plan: Plan, shards: Sequence[Shard], report: Report) -> list[ShardMarkers]:
        """Markers in the shards' order, whatever the order they were done in."""
        done: dict[int, ShardMarkers] = {}

        def finish(i: int, found: ShardMarkers) -> None:
            done[i] = found
            report("shards", found.speech.counts[0].items_out)

        if self._pool is None:
            for i, shard in enumerate(shards):
                finish(i, run_shard(plan, shard))
            return [done[i] for i in range(len(shards))]
        # `run_shard` does what is left to do: after the sound and the tokens, the layouts.
        steps: list[tuple[ProcessPoolExecutor, Callable[[Plan, Shard], Any]]] = [(self._pool, run_shard)]
        if self._encoders is not None:
            steps = [(self._pool, speak_shard), (self._encoders, encode), *steps]

        def begin(i: int, step: int) -> None:
            pool, work = steps[step]
            waiting[pool.submit(work, plan, shards[i])] = i, step

        waiting: dict[Future[Any], tuple[int, int]] = {}
        for i in range(len(shards)):
            begin(i, 0)
        while waiting:
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                i, step = waiting.pop(future)
                found = future.result()
                if step + 1 < len(steps):
                    begin(i, step + 1)
                else:
                    finish(i, found)
        return [done[i] for i in range(len(shards))]


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
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(numbers,))


def _start_worker(numbers: Synchronized[int] | None = None) -> None:
    """Workers share the machine: each computes on one core. They end with the process that started them.

    Args:
        numbers: the number of the next worker that takes a GPU.
    """
    import torch

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_owner, daemon=True).start()
    if numbers is None:
        return
    with numbers.get_lock():
        number = numbers.value
        numbers.value += 1
    if (gpus := torch.cuda.device_count()) > 1:
        torch.cuda.set_device(number % gpus)


def _end_with_owner() -> None:
    """A worker whose build was killed would wait for work for ever."""
    owner = multiprocessing.parent_process()
    if owner is not None:
        multiprocessing.connection.wait([owner.sentinel])
        os._exit(1)
