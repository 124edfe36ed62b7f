"""A whole build over local processes. Flows do the same with an engine of their own; both call the stages."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

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
    read = ingest(plan)
    prepare(plan)
    shards = shards_of(config)
    done = run_shards(plan, shards, workers, report)
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
    from duplexdata.backends import SPEECH_TOKENIZERS, make_synthesizer

    make_synthesizer(config.speech).close()
    if config.codec.name not in SPEECH_TOKENIZERS:
        raise ConfigError(f"codec.name is {config.codec.name!r}, expected one of {', '.join(SPEECH_TOKENIZERS)}")


def prepare(plan: Plan) -> None:
    """What all shards share."""
    write_tokenizer(plan, codebook_size(plan.config))


def codebook_size(config: Config) -> int:
    from duplexdata.backends import make_speech_tokenizer

    return make_speech_tokenizer(config.codec).codebook_size


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


def run_shards(plan: Plan, shards: Sequence[Shard], workers: int, report: Report) -> list[ShardMarkers]:
    """Markers in the shards' order, whatever the order they were done in."""
    if workers == 1:
        found = []
        for shard in shards:
            found.append(run_shard(plan, shard))
            report("shards", found[-1].speech.counts[0].items_out)
        return found
    with process_pool(min(workers, len(shards))) as pool:
        # Largest first would not help: shards are equal in size, but for the rounding.
        waiting: dict[Future[ShardMarkers], int] = {
            pool.submit(run_shard, plan, shard): i for i, shard in enumerate(shards)
        }
        done: dict[int, ShardMarkers] = {}
        pending = set(waiting)
        try:
            while pending:
                ready, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in ready:
                    done[waiting[future]] = future.result()
                    report("shards", done[waiting[future]].speech.counts[0].items_out)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [done[i] for i in range(len(shards))]


def process_pool(workers: int) -> ProcessPoolExecutor:
    """Workers forked from a server that has imported what they need: torch is loaded once, not once per worker."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["duplexdata.build", "duplexdata.codecs.mel"])
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread)


def _one_thread() -> None:
    """Workers share the machine: each computes on one core, and results do not depend on the number of threads."""
    import torch

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
