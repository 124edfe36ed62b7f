"""Build a dataset under Prefect: a task per shard and stage, over local processes.

The stages are the package's own. Their markers decide what is done, so Prefect's cache is off; a run that was
stopped in any way is gone on with by starting another with the same parameters.
"""

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar

import cloudpickle
from prefect import Task, flow, get_run_logger, runtime, task
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, create_table_artifact
from prefect.artifacts import update_progress_artifact as update_progress
from prefect.cache_policies import NO_CACHE
from prefect.deployments import run_deployment
from prefect.futures import PrefectFuture, as_completed
from prefect.states import Failed, State
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from pydantic import Field

from duplexdata.build import check_backends, encoders, fused, gather, markers_of, prepare, tidy
from duplexdata.claim import claimed
from duplexdata.config import Config, EngineConfig, as_dict
from duplexdata.config_file import load_config, sources_override
from duplexdata.dataset import assemble, check_target, is_complete
from duplexdata.errors import ConfigError, DuplexDataError, of_the_system
from duplexdata.manifest import NAME, dropped_table, parse_manifest
from duplexdata.pools import in_a_process, processes_for
from duplexdata.redact import redact
from duplexdata.speech.running import running
from duplexdata.stages.encode import encode, speak_and_encode
from duplexdata.stages.ingest import ingest
from duplexdata.stages.layouts import write_layouts
from duplexdata.stages.plan import Plan, make_plan
from duplexdata.stages.scripts import write_scripts
from duplexdata.stages.speak import speak
from duplexdata.stages.work import Shard, shards_of
from duplexdata.storage import Folder, RemoteFolder, Store, folder_at

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
            return Failed(message=redact(f"{type(error).__name__}: {error}"), data=error.with_traceback(None))
        except OSError as error:
            if (refused := of_the_system(error)) is None:
                raise
            return Failed(message=str(refused), data=refused)

    return call


# -- the flow


def run_name() -> str:
    """As the run stands in the UI: where the dataset goes, its size and its fingerprint."""
    given: Mapping[str, Any] = runtime.flow_run.parameters
    try:
        config = settings(given["config"], given["source"], given["conversations"], given["seed"])
        fingerprint = make_plan(config, Store(Path())).config_fingerprint
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
    engine: Literal["local", "dask", "ray", "pool"] | None = None,
    address: str | None = None,
) -> str:
    """Build a dataset, or go on with a build that was interrupted.

    Args:
        config: a YAML file, or a preset's name; none: the defaults.
        source: files, folders or hub ids; none: as `config` says.
        conversations: how many to make; none: as `config` says.
        seed: of every random draw; none: as `config` says.
        out: the dataset's folder or URL: a new one, or that of an earlier run.
        workers: processes that work at the same time, on each machine.
        engine: where shards are worked on; none: as `config` says (local).
        address: of the engine's cluster, or the deployment of a pool's parts; none: as `config` says.

    Returns: the dataset's path.
    """
    folder = folder_at(out)
    resolved = settings(config, source, conversations, seed, engine, address)
    check_target(folder)
    check_backends(resolved)
    plan = make_plan(resolved, Store.of(folder.work))
    check_reach(resolved.engine, folder, workers)
    shards = shards_of(resolved)
    if is_complete(plan, folder):
        tidy(plan, folder)
        get_run_logger().info("%s is complete: nothing to do", folder.shown)
        return folder.shown

    with claimed(folder):
        well(read_sources(plan, return_state=True))
        if resolved.engine.kind == "pool":
            deal_to_pool(plan, shards, out, workers)
        else:
            work_on(plan, shards, workers)
        well(put_together(plan, shards, folder, return_state=True))
    describe(folder)
    return folder.shown


def settings(
    config: str | None,
    source: Sequence[str] | None,
    conversations: int | None,
    seed: int | None,
    engine: str | None = None,
    address: str | None = None,
) -> Config:
    overrides = {"sources": sources_override(source), "conversations": conversations, "seed": seed}
    found = load_config(config, overrides)
    chosen = replace(found.engine, kind=engine or found.engine.kind, address=address or found.engine.address)
    return replace(found, engine=chosen)


def check_reach(engine: EngineConfig, folder: Folder, workers: int) -> None:
    """Raises ConfigError where the engine's workers would not see the same files."""
    if isinstance(folder, RemoteFolder) and folder.single_process and (workers > 1 or engine.kind != "local"):
        raise ConfigError(f"{folder.shown} lives in one process: take engine local and one worker, or another URL")


def work_on(plan: Plan, shards: Sequence[Shard], workers: int) -> None:
    """All stages of these shards, on the engine of the configuration."""
    config = plan.config
    local = config.engine.kind == "local"
    gpus = min(encoders(config), len(shards))
    processes = processes_for(min(workers, len(shards)), gpus) if local else nullcontext()
    with running(config.speech) as speech, runner_for(config.engine, workers) as runner, processes:
        plan = plan.with_speech(speech)
        done: list[Futures] = []
        for work in stages_of(config):
            with needing(config.engine, gpu=work is codes):
                done.append(submit(runner, work, plan, shards, after=done[-1] if done else None))
        follow(done)


# -- several Prefect workers of one work pool: each works on a part of the shards in a run of its own


def deal_to_pool(plan: Plan, shards: Sequence[Shard], out: str, workers: int) -> None:
    engine = plan.config.engine
    parts = min(engine.parts, len(shards))
    settings = as_dict(plan.config)
    with ThreadPoolTaskRunner(max_workers=parts) as threads:
        indexes = [list(range(p, len(shards), parts)) for p in range(parts)]
        parameters = [
            {"config": settings, "out": out, "shards": i, "workers": workers, "fingerprint": plan.layouts}
            for i in indexes
        ]
        deployment = engine.address or "build-part/part"
        given = [{"deployment": deployment, "part": p, "parameters": x} for p, x in enumerate(parameters)]
        follow([[threads.submit(run_part, x, wait_for=None) for x in given]])


@task(
    name="part",
    task_run_name="part {part}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=3,
    retry_delay_seconds=5,
)
def run_part(deployment: str, part: int, parameters: dict[str, Any]) -> None:
    """A run of the deployment. One that was killed is started again; what it had finished is found."""
    ended = run_deployment(deployment, parameters=parameters, timeout=None, poll_interval=2)
    state = ended.state
    if state is None or not state.is_completed():
        raise RuntimeError(
            f"{deployment}, part {part}: {state.name if state else 'lost'}: {state.message if state else ''}"
        )


@flow(name="build-part", persist_result=False)
@plainly
def build_part(config: dict[str, Any], out: str, shards: list[int], fingerprint: str, workers: AtLeastOne = 2) -> None:
    """Some shards of a build that another run has begun and will finish. Started by that run, not by hand.

    Args:
        config: all settings.
        out: the dataset's folder or URL.
        shards: which of them, by number.
        fingerprint: of the run: this machine must see the same sources and have the same versions.
        workers: processes that work at the same time.
    """
    resolved = load_config(None, config)
    resolved = replace(resolved, engine=replace(resolved.engine, kind="local"))
    check_backends(resolved)
    plan = make_plan(resolved, Store.of(folder_at(out).work))
    if plan.layouts != fingerprint:
        raise ConfigError(
            "this machine would make other bytes than the run that this is a part of: it needs the same files under "
            "the same paths (or URLs), and the same versions of the package and of its voices and codecs"
        )
    work_on(plan, [shards_of(resolved)[i] for i in shards], workers)


def stages_of(config: Config) -> list[Task[[Plan, Shard], None]]:
    """What is done with each shard between the sources and the dataset."""
    if not config.has_sound:
        return [scripts, speech, emit]
    if fused(config):
        return [scripts, speech_and_codes, emit]
    return [scripts, speech, codes, emit]


# -- where stages run


def runner_for(engine: EngineConfig, workers: int) -> TaskRunner[Any]:
    """What the tasks of shards are handed to."""
    if engine.kind in ("dask", "ray"):
        # Tasks travel to processes that cannot import this file.
        cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        if engine.kind == "dask":
            from prefect_dask import DaskTaskRunner

            if engine.address:
                return DaskTaskRunner(address=engine.address)
            here = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
            return DaskTaskRunner(cluster_kwargs=here)
        if engine.kind == "ray":
            from prefect_ray import RayTaskRunner

            if engine.address:
                return RayTaskRunner(address=engine.address)
            return RayTaskRunner(init_kwargs={"num_cpus": workers, "include_dashboard": False})
    except ImportError as error:
        raise ConfigError(
            f"engine.kind {engine.kind} needs pip install 'duplexdata[{engine.kind}]' ({error})"
        ) from None
    return ThreadPoolTaskRunner(max_workers=workers)


@contextmanager
def needing(engine: EngineConfig, gpu: bool) -> Iterator[None]:
    """Tasks submitted inside the context go to workers that have a GPU, where the engine knows which do."""
    if not gpu or engine.kind not in ("dask", "ray"):
        yield
    elif engine.kind == "ray":
        from prefect_ray.context import remote_options

        with remote_options(num_gpus=1 if engine.gpu_resource else 0):
            yield
    else:
        import dask

        with dask.annotate(resources={engine.gpu_resource: 1} if engine.gpu_resource else None):
            yield


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
    for counts in in_a_process(ingest, plan).counts:
        get_run_logger().info("%d dialogues, dropped: %s", counts.items_out, dict(counts.dropped) or "none")
    in_a_process(prepare, plan)


@stage("scripts", "scripts {shard.name}")
def scripts(plan: Plan, shard: Shard) -> None:
    in_a_process(write_scripts, plan, shard)


@stage("speech", "speech {shard.name}")
def speech(plan: Plan, shard: Shard) -> None:
    in_a_process(speak, plan, shard)


@stage("codes", "codes {shard.name}")
def codes(plan: Plan, shard: Shard) -> None:
    in_a_process(encode, plan, shard, on_gpu=True)


@stage("speech and codes", "speech and codes {shard.name}")
def speech_and_codes(plan: Plan, shard: Shard) -> None:
    in_a_process(speak_and_encode, plan, shard)


@stage("layouts", "layouts {shard.name}")
def emit(plan: Plan, shard: Shard) -> None:
    in_a_process(write_layouts, plan, shard)


@stage("assemble", "assemble")
def put_together(plan: Plan, shards: list[Shard], folder: Folder) -> None:
    assemble(plan, shards, gather(ingest(plan), [markers_of(plan, shard) for shard in shards]), folder)
    plan.store.remove_all()


# -- what the flow tells


def submit(
    runner: TaskRunner[Any],
    work: Task[[Plan, Shard], None],
    plan: Plan,
    shards: Sequence[Shard],
    after: Futures | None,
) -> Futures:
    """A task per shard, each to begin when the shard's own task in `after` has ended well."""
    return [
        runner.submit(work, {"plan": plan, "shard": shard}, wait_for=[after[i]] if after else None)
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


def describe(folder: Folder) -> None:
    manifest = parse_manifest(folder.read(NAME) or "", folder.shown)
    table = [
        {"stage": name, "in": n_in, "out": n_out, "dropped": dropped}
        for name, n_in, n_out, dropped in dropped_table(manifest["stages"])
    ]
    create_table_artifact(table, key="build-counts", description=f"In, out and dropped by stage: {folder.shown}")
    config = next(c for c in ("sft", "dpo", "tdm", "duo", "conversations") if c in folder.names())
    create_markdown_artifact(
        f"# {folder.name}\n\n{manifest['statistics']['hours']:.2f} hours, {manifest['fingerprint']}\n\n"
        "```python\nfrom datasets import load_dataset\n\n"
        f"rows = load_dataset({folder.shown!r}, {config!r}, split='train')\n```\n\n"
        f"```sh\nduplexdata verify {shlex.quote(folder.shown)}\n```\n",
        key="build-dataset",
        description="How to load the dataset",
    )
