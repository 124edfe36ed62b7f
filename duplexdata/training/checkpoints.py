"""Checkpoints: a model that `AutoModelForCausalLM` loads, and beside it what training goes on with. No pickle.

    RUN/checkpoints/step-000200/   weights, tokenizer, duplexdata.json, optimizer.safetensors, trainer.json
    RUN/final/                     weights, tokenizer, duplexdata.json

A checkpoint is written to a hidden folder and renamed when all of it is on the disk.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from duplexdata.errors import TrainingError
from duplexdata.shards import temporary_name, write_json
from duplexdata.training.models import FINAL, METADATA

OPTIMIZER, TRAINER = "optimizer.safetensors", "trainer.json"
_FOLDER = "checkpoints"


@dataclass(frozen=True, slots=True)
class Resumed:
    """Attributes:
    folder: of the checkpoint.
    step: the steps that it has behind it.
    state: what `save_checkpoint` was given.
    """

    folder: Path
    step: int
    state: Mapping[str, Any]


def final_folder(run: Path) -> Path:
    return run / FINAL


def save_final(run: Path, model: Any, tokenizer: Path, metadata: Mapping[str, Any]) -> Path:
    """The trained model, without what only training needs."""
    return _write(final_folder(run), model, tokenizer, metadata, {}, None)


def save_checkpoint(
    run: Path,
    model: Any,
    tokenizer: Path,
    metadata: Mapping[str, Any],
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    *,
    step: int,
    keep: int,
) -> Path:
    """Write a checkpoint, then take away all but the last `keep`.

    Args:
        state: plain values, handed back by `last_checkpoint`.
    """
    folder = _write(
        run / _FOLDER / f"step-{step:06d}",
        model,
        tokenizer,
        metadata,
        optimizer_tensors(model, optimizer),
        {**state, "step": step},
    )
    for old in _checkpoints(run)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


def last_checkpoint(run: Path) -> Resumed | None:
    """Raises TrainingError: the last one cannot be read."""
    found = _checkpoints(run)
    if not found:
        return None
    file = found[-1] / TRAINER
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
        return Resumed(found[-1], int(state["step"]), state)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{file} cannot be read ({error}): remove {found[-1]}, the one before is taken") from error


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's state by the name of the parameter: "exp_avg.model.norm.weight" and so on."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        f"{key}.{names[id(p)]}": value.detach().cpu().contiguous()
        for p, state in optimizer.state.items()
        for key, value in state.items()
    }


def load_optimizer(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put a checkpoint's state into an optimizer that has made no step. Raises TrainingError: it does not fit."""
    file = folder / OPTIMIZER
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{file} cannot be read ({error}): remove {folder}, the one before is taken") from error
    parameters = dict(model.named_parameters())
    for name, tensor in tensors.items():
        key, _, parameter = name.partition(".")
        if parameter not in parameters or (tensor.ndim and tensor.shape != parameters[parameter].shape):
            raise TrainingError(f"{file}: {name} fits no parameter of the model: the run was started with another one")
        p = parameters[parameter]
        # A step count belongs where the optimizer counts: beside the weights, being fused.
        optimizer.state[p][key] = tensor.to(p.device)


def remove_leftovers(run: Path) -> None:
    """What a killed run was writing."""
    for folder in (run, run / _FOLDER):
        for path in folder.glob(".*.tmp"):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _checkpoints(run: Path) -> list[Path]:
    return sorted((p for p in (run / _FOLDER).glob("step-*") if p.is_dir()), key=lambda p: int(p.name.split("-")[1]))


def _write(
    folder: Path,
    model: Any,
    tokenizer: Path,
    metadata: Mapping[str, Any],
    optimizer: Mapping[str, Tensor],
    state: Mapping[str, Any] | None,
) -> Path:
    temporary = temporary_name(folder)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        model.save_pretrained(temporary, safe_serialization=True)
        for file in sorted(p for p in tokenizer.iterdir() if p.is_file() and not p.name.startswith(".")):
            shutil.copyfile(file, temporary / file.name)
        write_json(temporary / METADATA, metadata)
        if optimizer:
            save_file(dict(optimizer), temporary / OPTIMIZER)
        if state is not None:
            write_json(temporary / TRAINER, state)
        for path in temporary.iterdir():
            _to_disk(path)
        _to_disk(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
        _to_disk(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
