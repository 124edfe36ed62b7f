"""Train under Prefect: one task that goes on from its last checkpoint when it is started again.

The run is the package's own, with its checkpoints and logs; Prefect shows how far it is and why it ended.
"""

from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar

from prefect import flow, get_run_logger, runtime, task
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.states import Failed, State
from pydantic import Field

from duplexdata.errors import DuplexDataError
from duplexdata.redact import redact
from duplexdata.training.config import TrainConfig
from duplexdata.training.loop import Finished
from duplexdata.training.run import run
from duplexdata.training.settings import load_dpo, load_sft

P = ParamSpec("P")
T = TypeVar("T")
Path_ = Annotated[str, Field(min_length=1)]
AtLeastOne = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


def plainly(work: Callable[P, T]) -> Callable[P, T | State[Any]]:
    """What the package raises is meant for the user: it ends a run as one line, not as three tracebacks."""

    @wraps(work)
    def call(*args: P.args, **kwargs: P.kwargs) -> T | State[Any]:
        try:
            return work(*args, **kwargs)
        except DuplexDataError as error:
            error.__cause__ = None
            return Failed(message=redact(f"{type(error).__name__}: {error}"), data=error.with_traceback(None))

    return call


def run_name() -> str:
    given: Mapping[str, Any] = runtime.flow_run.parameters
    return f"{Path(given['out']).name}: {given['stage']} on {Path(given['dataset']).name}"


@flow(name="train", flow_run_name=run_name, persist_result=False)
@plainly
def train(
    stage: Literal["sft", "dpo"] = "sft",
    config: str | None = None,
    dataset: Path_ = "dataset",
    model: str | None = None,
    out: Path_ = "run",
    weights: Literal["paper", "uniform"] | None = None,
    steps: AtLeastOne | None = None,
    epochs: Positive | None = None,
    lr: Positive | None = None,
    batch: AtLeastOne | None = None,
    max_tokens: AtLeastOne | None = None,
    seed: int | None = None,
) -> str:
    """Train a model, or go on with a run that was interrupted.

    Args:
        stage: sft, or dpo behind it.
        config: a YAML file; of sft also the rows to train on: sft, duo or tdm. None: the papers' values.
        dataset: the dataset's folder or hub id.
        model: tiny, small, a causal LM's folder or hub id, or an earlier run's folder; none: as `config` says (tiny).
        out: the run's folder: a new one, or that of an earlier run of the same parameters.
        weights: of the loss by token: paper or uniform; none: as `config` says (paper).
        steps: how many; none: as `config` says (one epoch; dpo: 200).
        epochs: instead of steps.
        lr: peak learning rate; none: as `config` says.
        batch: conversations or pairs in a step; none: as `config` says (32).
        max_tokens: most tokens at once; none: as `config` says (8192).
        seed: of weights and order; none: as `config` says (0).

    Returns: the final model's folder.
    """
    overrides: dict[str, Any] = {
        "data": {"dataset": dataset, "batch": batch, "max_tokens": max_tokens},
        "model": {"name": model},
        "optim": {"steps": steps, "epochs": epochs, "lr": lr},
        "weights": weights,
        "seed": seed,
    }
    resolved: TrainConfig = load_dpo(config, overrides) if stage == "dpo" else load_sft(config, overrides)
    state = learn(resolved, Path(out).expanduser().resolve(), return_state=True)
    if state.is_failed() or state.is_crashed():
        state.result()  # raises
    finished: Finished = state.result()
    describe(finished)
    return str(finished.folder)


@task(name="train", task_run_name="train {folder.name}", cache_policy=NO_CACHE, persist_result=False)
@plainly
def learn(config: TrainConfig, folder: Path) -> Finished:
    bar = create_progress_artifact(0.0, key="train-progress", description="Steps done")
    shown = -1

    def report(step: int, steps: int, values: Mapping[str, float]) -> None:
        nonlocal shown
        percent = 100 * step // max(1, steps)
        if percent > shown and "loss" in values:  # a request to the server each
            shown = percent
            update_progress_artifact(bar, float(percent), f"step {step} of {steps}, loss {values['loss']:.3f}")

    return run(config, folder, report)


def describe(finished: Finished) -> None:
    if not finished.made:
        get_run_logger().info("%s is complete: nothing to do", finished.folder)
    rows = "\n".join(f"| {name} | {value:,.4g} |" for name, value in finished.log.items())
    create_markdown_artifact(
        f"# {finished.folder.parent.name}\n\n{finished.steps:,} steps, {finished.tokens:,} tokens\n\n"
        f"| at the end | |\n| --- | --- |\n{rows}\n\n"
        "```python\nfrom transformers import AutoModelForCausalLM\n\n"
        f"model = AutoModelForCausalLM.from_pretrained({str(finished.folder)!r})\n```\n",
        key="train-model",
        description="How to load the model",
    )
