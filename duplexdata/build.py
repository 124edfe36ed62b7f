"""A whole build over local processes. Flows do the same with an engine of their own; both call the stages."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duplexdata.augment.noise import check_installed
from duplexdata.backends import SPEECH_TOKENIZERS, check_synthesizer, codebook_size, device_count
from duplexdata.claim import claimed
from duplexdata.config import Config
from duplexdata.dataset import assemble, check_target, is_complete
from duplexdata.errors import ConfigError, DatasetError, ShardError, Stopped
from duplexdata.manifest import Markers
from duplexdata.pools import Processes
from duplexdata.speech.running import running
from duplexdata.stages.encode import codes_marker_path, encode, release_tokenizer, speak_and_encode
from duplexdata.stages.ingest import ingest
from duplexdata.stages.layouts import layouts_marker_path, write_layouts, write_tokenizer
from duplexdata.stages.plan import Plan, make_plan
from duplexdata.stages.scripts import scripts_marker_path, write_scripts
from duplexdata.stages.speak import marker_path, speak
from duplexdata.stages.work import Marker, Shard, read_marker, shards_of
from duplexdata.stopping import Stop, stoppable
from duplexdata.storage import Folder, RemoteFolder, Store, folder_at
from duplexdata.writer.redact import read_key
from duplexdata.writer.usage import read_spending

logger = logging.getLogger(__name__)
Report = Callable[[str, int], None]
"""Called with a stage's name and the conversations that have passed it."""


@dataclass(frozen=True, slots=True)
class ShardMarkers:
    scripts: Marker
    speech: Marker
    codes: Marker | None
    layouts: Marker


def build(
    config: Config,
    out: Path | str,
    *,
    workers: int,
    report: Report,
    keep_work: bool = False,
    tell: Callable[[str], None] = logger.info,
) -> bool:
    """Build the dataset at `out`, a folder or a URL, or go on with a build that was interrupted.

    Returns: False if it was there already and nothing was done.
    Raises: ConfigError, SourceError, DatasetError: see there; ScriptError and the like are counted, not raised.
    """
    target = folder_at(out)
    if isinstance(target, RemoteFolder) and target.single_process and workers > 1:
        raise ConfigError(f"{out} lives in one process: build it with one worker")
    check_target(target)
    check_backends(config)
    plan = make_plan(config, Store.of(target.work))
    if is_complete(plan, target):
        if not keep_work:
            tidy(plan, target)
        return False
    with claimed(target):
        if is_complete(plan, target):  # another run of it has just ended
            return False
        _work(plan, target, workers, report)
        if (spent := read_spending(plan.work, config.writer)) is not None:
            # Not for the dataset, whose bytes do not depend on which replies were known already.
            usd = "" if spent["usd"] is None else f", {spent['usd']:,.2f} USD"
            tokens = f"{spent['prompt_tokens']:,} tokens in, {spent['completion_tokens']:,} out"
            tell(f"spent on the language model by this run: {spent['replies_paid']:,} replies, {tokens}{usd}")
        if not keep_work:
            plan.store.remove_all()
    return True


def tidy(plan: Plan, target: Folder) -> None:
    """Take away what a run has left that was killed between the manifest and its end."""
    if plan.store.local.exists():
        with suppress(DatasetError, OSError), claimed(target):
            plan.store.remove_all()


def _work(plan: Plan, target: Folder, workers: int, report: Report) -> None:
    config = plan.config
    shards = shards_of(config)
    with (
        running(config.speech) as speech,
        Workers(min(workers, len(shards)), encoders=min(encoders(config), len(shards))) as pool,
    ):
        read = ingest(plan)
        prepare(plan)
        done = pool.run(plan.with_speech(speech), shards, report)
    assemble(plan, shards, gather(read, done), target)


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
    check_synthesizer(config.speech)
    if config.codec.name not in SPEECH_TOKENIZERS:
        raise ConfigError(f"codec.name is {config.codec.name!r}, expected one of {', '.join(SPEECH_TOKENIZERS)}")
    check_installed(config.augment)
    if config.writer.model is not None:
        read_key(config.writer)


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


def markers_of(plan: Plan, shard: Shard) -> ShardMarkers:
    """What the stages of a finished shard left behind. Raises ShardError: one of them is not finished."""

    def finished(path: Path, fingerprint: str) -> Marker:
        marker = read_marker(plan.store, path, fingerprint, check=False)
        if marker is None:
            raise ShardError(f"{path}: the shard is not finished, or its files are gone; run the build again")
        return marker

    return ShardMarkers(
        finished(scripts_marker_path(plan, shard), plan.scripts),
        finished(marker_path(plan, shard), plan.speech),
        finished(codes_marker_path(plan, shard), plan.codes) if plan.config.has_sound else None,
        finished(layouts_marker_path(plan, shard), plan.layouts),
    )


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


_LIVES = 3
"""Workers that a shard may take with it before it is given up."""


class Workers:
    """Local processes that shards are dealt out to; with one worker, this process itself.

    Args:
        encoders: processes besides those, one for each GPU, for the stage that tokenizes. With one worker this
            process does that as well, on the first GPU.
    """

    def __init__(self, n: int, encoders: int = 0) -> None:
        self._n, self._encoders = n, encoders
        self._processes = Processes(n, encoders) if n > 1 else None

    def __enter__(self) -> Workers:
        if self._processes is not None:
            # They load their libraries while this process reads the sources.
            self._processes.warm_up()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, tb: object) -> None:
        if self._processes is not None:
            self._processes.close(at_once=kind is not None and not issubclass(kind, Stopped))
        release_tokenizer()

    def run(self, plan: Plan, shards: Sequence[Shard], report: Report) -> list[ShardMarkers]:
        """Markers in the shards' order, whatever the order they were done in.

        Raises: Stopped: by a signal, once the shards in progress were finished.
        """
        done: dict[int, ShardMarkers] = {}

        def finish(i: int, found: ShardMarkers) -> None:
            done[i] = found
            report("shards", found.speech.counts[0].items_out)

        with stoppable() as stop:
            if self._processes is None:
                for i, shard in enumerate(shards):
                    stop.check()
                    finish(i, run_shard(plan, shard))
            else:
                self._deal(plan, shards, finish, stop)
        return [done[i] for i in range(len(shards))]

    def _deal(
        self, plan: Plan, shards: Sequence[Shard], finish: Callable[[int, ShardMarkers], None], stop: Stop
    ) -> None:
        # `run_shard` does what is left to do: after the sound and the tokens, the layouts.
        steps: list[tuple[Callable[[Plan, Shard], Any], bool]] = [(run_shard, False)]
        if self._encoders:
            steps = [(speak_shard, False), (encode, True), *steps]

        def through(shard: Shard) -> ShardMarkers:
            found = None
            for work, on_gpu in steps:
                stop.check()
                found = self._alive(work, plan, shard, on_gpu)
            assert isinstance(found, ShardMarkers)
            return found

        # A thread per process: it waits for one shard at a time, so that what was not begun can be left undone.
        with ThreadPoolExecutor(self._n + self._encoders, "shards") as threads:
            futures = {threads.submit(through, shard): i for i, shard in enumerate(shards)}
            try:
                for future in as_completed(futures):
                    finish(futures[future], future.result())
            except BaseException:
                stop.event.set()  # nothing more is begun
                threads.shutdown(wait=True, cancel_futures=True)
                raise

    def _alive(self, work: Callable[[Plan, Shard], Any], plan: Plan, shard: Shard, on_gpu: bool) -> Any:
        """Call it in a worker, in another one where the first was killed (for its memory, say)."""
        assert self._processes is not None
        for _ in range(_LIVES):
            try:
                return self._processes.run(work, plan, shard, on_gpu=on_gpu)
            except BrokenProcessPool:
                continue
        raise ShardError(
            f"shard {shard.name}: its worker process was killed {_LIVES} times, probably for want of memory: "
            "use fewer workers or smaller shards (shards.conversations), and run the build again"
        )
