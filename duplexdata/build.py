"""A whole build over local processes. Flows do the same with an engine of their own; both call the stages."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from duplexdata.backends import SPEECH_TOKENIZERS, codebook_size, make_synthesizer
from duplexdata.config import Config
from duplexdata.dataset import assemble, check_target, is_complete
from duplexdata.errors import ConfigError
from duplexdata.manifest import Markers
from duplexdata.stages.encode import encode, speak_and_encode
from duplexdata.stages.ingest import ingest
from duplexdata.stages.layouts import write_layouts, write_tokenizer
from duplexdata.stages.plan import Plan, make_plan
from duplexdata.stages.scripts import write_scripts
from duplexdata.stages.speak import speak
from duplexdata.stages.work import Marker, Shard, shards_of

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
    with Workers(min(workers, len(shards))) as pool:
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
    make_synthesizer(config.speech).close()
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


class Workers:
    """Local processes that shards are dealt out to; with one worker, this process itself."""

    def __init__(self, n: int) -> None:
        self._pool = process_pool(n) if n > 1 else None

    def __enter__(self) -> Workers:
        if self._pool is not None:
            # Its processes load their libraries while this one reads the sources.
            self._pool.submit(os.getpid)
        return self

    def __exit__(self, kind: object, error: object, tb: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=kind is None, cancel_futures=True)

    def run(self, plan: Plan, shards: Sequence[Shard], report: Report) -> list[ShardMarkers]:
        """Markers in the shards' order, whatever the order they were done in."""
        if self._pool is None:
            found = []
            for shard in shards:
                found.append(run_shard(plan, shard))
                report("shards", found[-1].speech.counts[0].items_out)
            return found
        waiting = {self._pool.submit(run_shard, plan, shard): i for i, shard in enumerate(shards)}
        done: dict[int, ShardMarkers] = {}
        for future in as_completed(waiting):
            done[waiting[future]] = future.result()
            report("shards", done[waiting[future]].speech.counts[0].items_out)
        return [done[i] for i in range(len(shards))]


def process_pool(workers: int) -> ProcessPoolExecutor:
    """Workers forked from a server that has imported what they need: torch is loaded once, not once per worker."""
    context = multiprocessing.get_context("forkserver")
    # pyarrow imports pandas, where it is installed, on its first conversion.
    context.set_forkserver_preload(["duplexdata.build", "duplexdata.codecs.mel", "pandas"])
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)


def _start_worker() -> None:
    """Workers share the machine: each computes on one core. They end with the process that started them."""
    import torch

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_owner, daemon=True).start()


def _end_with_owner() -> None:
    """A worker whose build was killed would wait for work for ever."""
    owner = multiprocessing.parent_process()
    if owner is not None:
        multiprocessing.connection.wait([owner.sentinel])
        os._exit(1)
