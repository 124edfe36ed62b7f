"""The loop that SFT and DPO share: steps, accumulation, several devices, checkpoints, logs.

What a step learns depends on its number and the seed alone: not on where a run was interrupted, and (up to rounding)
not on how many devices or packs its conversations are dealt to.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from duplexdata.errors import TrainingError
from duplexdata.rng import stable_hash
from duplexdata.training import checkpoints
from duplexdata.training.config import OptimSettings, RunSettings
from duplexdata.training.data import Item, Rows
from duplexdata.training.devices import Devices
from duplexdata.training.logs import RunLog
from duplexdata.training.packing import Pack
from duplexdata.training.predictor import Predictor

Report = Callable[[int, int, Mapping[str, float]], None]
"""Called after each step: steps done, steps in all, and what was logged last."""


class Objective(Protocol):
    """What is minimised."""

    predictor: Predictor
    names: Sequence[str]
    """Of the sums that `forward` of the module returns."""

    @property
    def module(self) -> nn.Module:
        """forward(pack, inputs, scale) -> (loss, sums): sums is float64 (len(names),), on the device, detached."""

    def plan(self, rows: Sequence[int], items: Sequence[Item], devices: Devices) -> StepPlan:
        """The packs of one step."""

    def summary(self, sums: Mapping[str, float]) -> dict[str, float]:
        """What is logged of sums over some steps."""


@dataclass(frozen=True, slots=True)
class Part:
    """A pack, and what the objective needs with it (float64 tensors on the CPU, by name)."""

    pack: Pack
    inputs: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class StepPlan:
    """Attributes:
    parts: of this device.
    scale: by which a part's loss is multiplied, so that the step's parts on all devices add up to its loss.
    n_real, n_tokens: tokens of the step on all devices, without and with padding.
    """

    parts: list[Part]
    scale: dict[str, float]
    n_real: int
    n_tokens: int


@dataclass(frozen=True, slots=True)
class Finished:
    """Attributes:
    folder: of the final model.
    steps, tokens: trained on, in the whole run.
    seconds: of this call.
    log: what was logged last.
    made: False where the run was complete already.
    """

    folder: Path
    steps: int
    tokens: int
    seconds: float
    log: Mapping[str, float]
    dropped: Mapping[str, int]
    made: bool = True


def learning_rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """Of step `step` (from 0): a line up over `warmup` of all `steps`, then half a cosine to 0."""
    rise = math.ceil(warmup * steps)
    if step < rise:
        return peak * (step + 1) / rise
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def make_optimizer(model: nn.Module, settings: OptimSettings) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices, not on embeddings, norms and biases."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    decayed: list[Tensor] = []
    plain: list[Tensor] = []
    for p in model.parameters():
        if p.requires_grad:
            (decayed if p.ndim > 1 and id(p) not in embeddings else plain).append(p)
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    # The rate is set anew in every step. Fused: one pass over the weights.
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=0.0, betas=(settings.beta1, settings.beta2), fused=True
    )


@dataclass(frozen=True, slots=True)
class Job:
    """All that a run is: what, on what, for how long, and where it goes.

    Attributes:
        peak: learning rate. warmup: share of the steps.
        metadata: for duplexdata.json; `step` is put in.
        decided_by: plain values that must be the same when a run is gone on with.
    """

    run: Path
    model: Any
    tokenizer: Path
    objective: Objective
    rows: Rows
    devices: Devices
    steps: int
    peak: float
    warmup: float
    seed: int
    optim: OptimSettings
    settings: RunSettings
    metadata: Mapping[str, Any]
    decided_by: Mapping[str, Any]


def train(job: Job, resumed: checkpoints.Resumed | None, report: Report) -> Finished:
    """Train from where `resumed` stands to the last step.

    Raises: TrainingError: a loss or gradient is no number; the last checkpoint is kept.
    """
    began = time.monotonic()
    main, devices = job.devices.is_main, job.devices
    optimizer = make_optimizer(job.model, job.optim)
    step, tokens = 0, 0
    if resumed is not None:
        checkpoints.load_optimizer(resumed.folder, job.model, optimizer)
        step, tokens = resumed.step, int(resumed.state["tokens"])
    module = devices.wrap(job.objective.module)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    meter = _Meter(job.objective, devices)
    last: dict[str, float] = {}
    with RunLog(job.run, step) if main else nullcontext() as log:
        for plan in _ahead(job, step):
            if step >= job.steps:
                break
            rate = learning_rate(step, job.steps, job.peak, job.warmup)
            # Dropout, where a model has it, depends on the step alone: nothing of it must be kept for a resumption.
            torch.manual_seed(stable_hash(job.seed, step, devices.rank, "dropout", bits=63))
            loss, sums = _accumulate(module, job.objective, plan, devices)
            norm = nn.utils.clip_grad_norm_(parameters, job.optim.clip)
            _check(step, loss, float(norm), job.run)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step, tokens = step + 1, tokens + plan.n_real
            meter.add(plan, sums, loss)
            if step % job.settings.log_every == 0 or step == job.steps:
                last = {**meter.take(), "learning_rate": rate, "gradient_norm": float(norm), "tokens": tokens}
                if log is not None:
                    log.write(step, last)
            if step % job.settings.checkpoint_every == 0 and step < job.steps:
                _save(job, optimizer, step, tokens)
                meter.forget_time()
            report(step, job.steps, last)
    if main:
        checkpoints.save_final(job.run, job.model, job.tokenizer, {**job.metadata, "step": step})
    devices.wait()
    return Finished(
        checkpoints.final_folder(job.run), step, tokens, time.monotonic() - began, last, dict(job.rows.reader.dropped)
    )


def _save(job: Job, optimizer: torch.optim.Optimizer, step: int, tokens: int) -> None:
    if job.devices.is_main:
        checkpoints.save_checkpoint(
            job.run,
            job.model,
            job.tokenizer,
            {**job.metadata, "step": step},
            optimizer,
            {"tokens": tokens, "decided_by": dict(job.decided_by)},
            step=step,
            keep=job.settings.keep,
        )
    job.devices.wait()


def _ahead(job: Job, start: int) -> Iterator[StepPlan]:
    """The steps' packs, one made while the one before is being learned."""
    source = job.rows.steps(start)

    def next_plan() -> StepPlan | None:
        found = next(source, None)
        return None if found is None else job.objective.plan(*found, job.devices)

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next_plan)
        for _ in range(start, job.steps):
            plan = coming.result()
            if plan is None:
                return
            coming = pool.submit(next_plan)
            yield plan


def _accumulate(module: nn.Module, objective: Objective, plan: StepPlan, devices: Devices) -> tuple[float, Tensor]:
    """Gradients of one step. Returns its loss over all devices, and this device's sums."""
    predictor = objective.predictor
    total = torch.zeros((), dtype=torch.float64, device=predictor.place.device)
    sums = torch.zeros(len(objective.names), dtype=torch.float64, device=predictor.place.device)
    for n, part in enumerate(plan.parts):
        more_to_come = n + 1 < len(plan.parts)
        with devices.no_sync(module) if more_to_come else nullcontext():
            with predictor.place.autocast():
                inputs = {name: t.to(predictor.place.device) for name, t in part.inputs.items()}
                loss, of_part = module(predictor.on_device(part.pack), inputs, plan.scale)
            # Devices average their gradients; the parts of a step are to be added.
            (loss * devices.count).backward()
        total += loss.detach().double()
        sums += of_part
    return float(devices.sum(total)), sums


def _check(step: int, loss: float, norm: float, run: Path) -> None:
    if math.isfinite(loss) and math.isfinite(norm):
        return
    kept = checkpoints.last_checkpoint(run)
    where = f"the last good checkpoint is {kept.folder}" if kept else "there was no checkpoint yet"
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {norm}"
    raise TrainingError(
        f"step {step + 1}: {what}; nothing of it went into the weights, and {where}. Take a lower optim.lr or a "
        "longer optim.warmup, and check the model's weights"
    )


class _Meter:
    """Sums between two logged steps."""

    def __init__(self, objective: Objective, devices: Devices) -> None:
        self._objective, self._devices = objective, devices
        self._sums = torch.zeros(len(objective.names), dtype=torch.float64, device=objective.predictor.place.device)
        self._real, self._all, self._loss, self._steps = 0, 0, 0.0, 0
        self._since, self._waited = time.monotonic(), 0.0

    def add(self, plan: StepPlan, sums: Tensor, loss: float) -> None:
        self._sums += sums
        self._real += plan.n_real
        self._all += plan.n_tokens
        self._loss += loss
        self._steps += 1
        self._until = time.monotonic()

    def forget_time(self) -> None:
        """What has passed since the last step went into a checkpoint."""
        self._waited += time.monotonic() - self._until

    def take(self) -> dict[str, float]:
        sums = self._devices.sum(self._sums).tolist()
        seconds = max(1e-9, self._until - self._since - self._waited)
        found = {
            "loss": self._loss / self._steps,
            **self._objective.summary(dict(zip(self._objective.names, sums, strict=True))),
            "tokens_per_second": self._real / seconds,
            "real_tokens": self._real / self._all,
        }
        self.__init__(self._objective, self._devices)  # type: ignore[misc]
        return found
