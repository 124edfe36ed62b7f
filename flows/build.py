"""Build a dataset under Prefect: a task per shard and stage, over local processes.

The stages are the package's own. Their markers decide what is done, so Prefect's cache is off; a run that was
stopped in any way is gone on with by starting another with the same parameters.
"""

import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from contextvars import ContextVar
from functools import partial, wraps
from multiprocessing import active_children
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, ParamSpec, Self, TypeVar

from prefect import Task, flow, get_run_logger, runtime, task
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, create_table_artifact
from prefect.artifacts import update_progress_artifact as update_progress
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, as_completed
from prefect.states import Failed, State
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from duplexdata.build import check_backends, encoders, fused, gather, prepare, process_pool, run_shard, work_folder
from duplexdata.config import Config
from duplexdata.config_file import load_config, sources_override
from duplexdata.dataset import assemble, check_target, is_complete
from duplexdata.errors import DuplexDataError
from duplexdata.manifest import dropped_table, read_manifest
from duplexdata.speech.running import running
from duplexdata.stages.encode import encode, speak_and_encode
from duplexdata.stages.ingest import ingest
from duplexdata.stages.layouts import write_layouts
from duplexdata.stages.plan import Plan, make_plan
from duplexdata.stages.scripts import write_scripts
from duplexdata.stages.speak import speak
from duplexdata.stages.work import Shard, shards_of

P = ParamSpec("P")
T = TypeVar("T")


def plainly(work: Callable[P, T]) -> Callable[P, T | State[Any]]:
    """What the package raises is meant for the user: it ends a run as one line, not as three tracebacks."""

    @wraps(work)
    def call(*args: P.args, **kwargs: P.kwargs) -> T | State[Any]:
        try:
            return work(*args, **kwargs)
        except DuplexDataError as error:
            error.__cause__ = None
            return Failed(message=f"{type(error).__name__}: {error}", data=error.with_traceback(None))

    return call


# -- the flow


def run_name() -> str:
    """As the run stands in the UI: where the dataset goes, its size and its fingerprint."""
    given: Mapping[str, Any] = runtime.flow_run.parameters
    try:
        config = settings(given["config"], given["source"], given["conversations"], given["seed"])
        fingerprint = make_plan(config, Path()).config_fingerprint
    except DuplexDataError:
        return f"{Path(given['out']).name}: refused"  # the flow itself will say why
    return f"{Path(given['out']).name}: {config.conversations} conversations, {fingerprint}"


Futures = list[PrefectFuture[None]]
AtLeastOne = Annotated[int, Field(ge=1)]


@flow(name="build", flow_run_name=run_name, persist_result=False)
@plainly
def build(
    config: str | None = None,
    source: Annotated[list[str], Field(min_length=1)] | None = None,
    conversations: AtLeastOne | None = None,
    seed: int | None = None,
    out: Annotated[str, Field(min_length=1)] = "dataset",
    workers: AtLeastOne = 2,
) -> str:
    """Build a dataset, or go on with a build that was interrupted.

    Args:
        config: a YAML file, or a preset's name; none: the defaults.
        source: files, folders or hub ids; none: as `config` says.
        conversations: how many to make; none: as `config` says.
        seed: of every random draw; none: as `config` says.
        out: the dataset's folder: a new one, or that of an earlier run.
        workers: processes that work at the same time.

    Returns: the dataset's path.
    """
    folder = Path(out).expanduser().resolve()
    resolved = settings(config, source, conversations, seed)
    check_target(folder)
    check_backends(resolved)
    plan = make_plan(resolved, work_folder(folder))
    if is_complete(plan, folder):
        get_run_logger().info("%s is complete: nothing to do", folder)
        return str(folder)

    shards = shards_of(resolved)
    with (
        running(resolved.speech) as speaking,
        ThreadPoolTaskRunner(max_workers=workers) as threads,
        Processes(min(workers, len(shards)), min(encoders(resolved), len(shards))),
    ):
        well(read_sources(plan, return_state=True))
        done: list[Futures] = []
        for work in stages_of(resolved):
            done.append(submit(threads, work, plan.with_speech(speaking), shards, after=done[-1] if done else None))
        follow(done)
        well(put_together(plan, shards, folder, return_state=True))
    describe(folder)
    return str(folder)


def settings(config: str | None, source: Sequence[str] | None, conversations: int | None, seed: int | None) -> Config:
    overrides = {"sources": sources_override(source), "conversations": conversations, "seed": seed}
    return load_config(config, overrides)


def stages_of(config: Config) -> list[Task[[Plan, Shard], None]]:
    """What is done with each shard between the sources and the dataset."""
    if not config.has_sound:
        return [scripts, speech, emit]
    if fused(config):
        return [scripts, speech_and_codes, emit]
    return [scripts, speech, codes, emit]


# -- where stages run


class Processes:
    """Worker processes. Those left when one was killed, for its memory say, are replaced by new ones."""

    def __init__(self, workers: int, gpus: int) -> None:
        """`gpus`: processes besides the workers, one for each GPU; 0: tokens are made by the workers."""
        self._lock, self._closed, self._gpus = Lock(), False, gpus
        self._start = {False: partial(process_pool, workers), True: partial(process_pool, gpus, on_gpus=True)}
        self._pools = {False: self._start[False]()} | ({True: self._start[True]()} if gpus else {})

    def run(self, stage: Callable[..., Any], *args: object, on_gpu: bool = False) -> Any:
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
            raise  # the task is retried, in the new pool

    def __enter__(self) -> Self:
        self._token = PROCESSES.set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        PROCESSES.reset(self._token)
        with self._lock:
            self._closed = True
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        if kind is not None:
            for process in active_children():  # nobody waits for what they are in the middle of
                process.terminate()


PROCESSES: ContextVar[Processes] = ContextVar("PROCESSES")


def run(stage: Callable[..., Any], *args: object, on_gpu: bool = False) -> Any:
    """Call a stage in one of the flow's processes; here, if it has none."""
    processes = PROCESSES.get(None)
    return processes.run(stage, *args, on_gpu=on_gpu) if processes else stage(*args)


# -- the tasks


def may_pass(_task: object, _run: object, state: State[Any]) -> bool:
    """Whether a failure may not come again: a killed process or a lost connection, not a wrong setting."""
    error = state.data
    if isinstance(error, DuplexDataError):
        return getattr(error, "retryable", False)
    return isinstance(error, BrokenProcessPool | ConnectionError | TimeoutError)


def stage(name: str, run_name: str) -> Callable[[Callable[P, None]], Task[P, None]]:
    return lambda work: task(
        plainly(work),
        name=name,
        task_run_name=run_name,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=2,
        retry_delay_seconds=[5, 30],
        retry_condition_fn=may_pass,
    )


@stage("ingest", "ingest")
def read_sources(plan: Plan) -> None:
    for counts in run(ingest, plan).counts:
        get_run_logger().info("%d dialogues, dropped: %s", counts.items_out, dict(counts.dropped) or "none")
    run(prepare, plan)


@stage("scripts", "scripts {shard.name}")
def scripts(plan: Plan, shard: Shard) -> None:
    run(write_scripts, plan, shard)


@stage("speech", "speech {shard.name}")
def speech(plan: Plan, shard: Shard) -> None:
    run(speak, plan, shard)


@stage("codes", "codes {shard.name}")
def codes(plan: Plan, shard: Shard) -> None:
    run(encode, plan, shard, on_gpu=True)


@stage("speech and codes", "speech and codes {shard.name}")
def speech_and_codes(plan: Plan, shard: Shard) -> None:
    run(speak_and_encode, plan, shard)


@stage("layouts", "layouts {shard.name}")
def emit(plan: Plan, shard: Shard) -> None:
    run(write_layouts, plan, shard)


@stage("assemble", "assemble")
def put_together(plan: Plan, shards: list[Shard], folder: Path) -> None:
    """All is done: asked again, the stages only hand out their markers."""
    assemble(plan, shards, gather(ingest(plan), [run_shard(plan, shard) for shard in shards]), folder)
    shutil.rmtree(plan.work, ignore_errors=True)


# -- what the flow tells


def submit(
    threads: ThreadPoolTaskRunner[Any],
    work: Task[[Plan, Shard], None],
    plan: Plan,
    shards: Sequence[Shard],
    after: Futures | None,
) -> Futures:
    """A task per shard, each to begin when the shard's own task in `after` has ended well."""
    return [
        threads.submit(work, {"plan": plan, "shard": shard}, wait_for=[after[i]] if after else None)
        for i, shard in enumerate(shards)
    ]


def well(ended: State[Any]) -> None:
    """Raises the error of a task that failed. One that only waited for such a task has none of its own."""
    if ended.is_failed() or ended.is_crashed():
        ended.result()


def follow(stages: Sequence[Futures]) -> None:
    """Show progress until all tasks are done. Raises the error of the first that failed."""
    futures = [future for futures in stages for future in futures]
    bar = create_progress_artifact(0.0, key="build-progress", description="Shards and stages done")
    for done, future in enumerate(as_completed(futures), start=1):
        well(future.state)
        update_progress(bar, 100 * done / len(futures), f"{done} of {len(futures)} tasks of shards done")


def describe(folder: Path) -> None:
    manifest = read_manifest(folder)
    table = [
        {"stage": name, "in": n_in, "out": n_out, "dropped": dropped}
        for name, n_in, n_out, dropped in dropped_table(manifest["stages"])
    ]
    create_table_artifact(table, key="build-counts", description=f"In, out and dropped by stage: {folder}")
    config = next(c for c in ("sft", "dpo", "tdm", "duo", "conversations") if (folder / c).is_dir())
    create_markdown_artifact(
        f"# {folder.name}\n\n{manifest['statistics']['hours']:.2f} hours, {manifest['fingerprint']}\n\n"
        "```python\nfrom datasets import load_dataset\n\n"
        f"rows = load_dataset({str(folder)!r}, {config!r}, split='train')\n```\n\n"
        f"```sh\nduplexdata verify {shlex.quote(str(folder))}\n```\n",
        key="build-dataset",
        description="How to load the dataset",
    )
