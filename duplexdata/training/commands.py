"""`duplexdata train sft` and `duplexdata train dpo`: options in, a bar while it goes, a summary at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from duplexdata.training.config import TrainConfig
from duplexdata.training.loop import Finished, Report
from duplexdata.training.run import run
from duplexdata.training.settings import load_dpo, load_sft


def sft(config: str | None, options: Mapping[str, Any], out: Path) -> None:
    _train(load_sft(config, options), out)


def dpo(config: str | None, options: Mapping[str, Any], out: Path) -> None:
    _train(load_dpo(config, options), out)


def _train(config: TrainConfig, out: Path) -> None:
    main = os.environ.get("RANK", "0") == "0"
    with _bar(show=main) as report:
        finished = run(config, out, report)
    if main:
        _summary(finished)


def _summary(done: Finished) -> None:
    if not done.made:
        typer.echo(f"{done.folder} is complete already")
    for reason, n in sorted(done.dropped.items()):
        if n:
            typer.echo(f"dropped: {reason} {n:,}")
    for name, value in done.log.items():
        if name.startswith(("loss", "reward", "real_tokens", "tokens_per_second")):
            typer.echo(f"{name:18} {value:,.4g}")
    typer.echo(f"{done.folder}: {done.steps:,} steps, {done.tokens:,} tokens")


@contextmanager
def _bar(*, show: bool) -> Iterator[Report]:
    """A bar on a terminal, a line now and then elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not show:
        yield lambda step, steps, values: None
        return
    if not console.is_terminal:
        yield _lines()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[told]}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("steps", total=None, told="")

        def report(step: int, steps: int, values: Mapping[str, float]) -> None:
            if "reference" in values:
                bar.update(task, description="reference", total=values["of"], completed=values["reference"])
                return
            bar.update(task, description="steps", total=steps, completed=step, told=_told(values))

        yield report


def _lines() -> Report:
    shown = -1

    def report(step: int, steps: int, values: Mapping[str, float]) -> None:
        nonlocal shown
        tenth = 10 * step // max(1, steps)
        if "reference" not in values and tenth > shown and values:
            shown = tenth
            typer.echo(f"step {step} of {steps}  {_told(values)}", err=True)

    return report


def _told(values: Mapping[str, float]) -> str:
    parts = [f"loss {values['loss']:.3f}"] if "loss" in values else []
    if "reward/accuracy" in values:
        parts.append(f"accuracy {values['reward/accuracy']:.2f}")
    if "tokens_per_second" in values:
        parts.append(f"{values['tokens_per_second']:,.0f} tokens/s")
    return "  ".join(parts)
