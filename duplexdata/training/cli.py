"""`duplexdata train …`. Heavy libraries are imported by the command that needs them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from duplexdata.errors import ConfigError

app = typer.Typer(
    name="train", help="Train a causal LM on a dataset's rows.", no_args_is_help=True, pretty_exceptions_enable=False
)

DatasetOption = Annotated[
    str | None,
    typer.Option(metavar="DIR_OR_HUB_ID", help="The dataset (needed, here or in the settings).", show_default=False),
]
RunOption = Annotated[Path, typer.Option(metavar="DIR", help="Where the run goes: logs, checkpoints, final/.")]
SeedOption = Annotated[int | None, typer.Option(help="Of weights and order (default: 0).")]
StepsOption = Annotated[int | None, typer.Option(help="Steps (default: as epochs say; DPO: 200).")]
EpochsOption = Annotated[float | None, typer.Option(help="Instead of steps (default: 1; DPO: none).")]
BatchOption = Annotated[int | None, typer.Option(help="Conversations or pairs in a step (default: 32).")]
MaxTokensOption = Annotated[
    int | None, typer.Option(help="Most tokens at once; longer rows are left out (default: 8192).")
]
DeviceOption = Annotated[str | None, typer.Option(help="auto, cpu or cuda (default: auto).")]
PrecisionOption = Annotated[str | None, typer.Option(help="auto, fp32 or bf16 (default: auto).")]
TrustOption = Annotated[bool, typer.Option(help="Let the model's own code run.")]


@app.command("sft")
def sft(
    dataset: DatasetOption = None,
    out: RunOption = Path("sft-run"),
    config: Annotated[
        str | None, typer.Option(metavar="FILE", help="Settings as YAML, or the rows to train on: sft, duo, tdm.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="tiny, small, a causal LM's folder or hub id, or a run (default: tiny)."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Of the loss by token: paper or uniform (default: paper).")
    ] = None,
    seed: SeedOption = None,
    steps: StepsOption = None,
    epochs: EpochsOption = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate (default: 1e-5; random weights: 2e-3).")] = None,
    batch: BatchOption = None,
    max_tokens: MaxTokensOption = None,
    streaming: Annotated[bool | None, typer.Option("--streaming", help="Read rows as they come.")] = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Supervised fine-tuning. Run again after an interruption, it goes on where it stopped."""
    from duplexdata.training import commands

    options: dict[str, Any] = {
        "data": {"dataset": dataset, "batch": batch, "max_tokens": max_tokens, "streaming": streaming},
        "model": _model_options(model, device, precision, trust_remote_code),
        "optim": {"lr": lr, "steps": steps, "epochs": epochs},
        "weights": weights,
        "seed": seed,
    }
    commands.sft(config, options, out)


@app.command("dpo")
def dpo(
    dataset: DatasetOption = None,
    model: Annotated[
        str | None, typer.Option(metavar="RUN", help="The SFT run to start from (needed).", show_default=False)
    ] = None,
    out: RunOption = Path("dpo-run"),
    config: Annotated[str | None, typer.Option(metavar="FILE", help="Settings as YAML.")] = None,
    beta: Annotated[float | None, typer.Option(help="Of the preference loss (default: 0.5).")] = None,
    weights: Annotated[str | None, typer.Option(help="Of the SFT part: paper or uniform (default: paper).")] = None,
    seed: SeedOption = None,
    steps: StepsOption = None,
    epochs: EpochsOption = None,
    lr: Annotated[
        float | None, typer.Option(help="Peak learning rate (default: 3e-7; random weights at first: 1e-4).")
    ] = None,
    batch: BatchOption = None,
    max_tokens: MaxTokensOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Preference optimisation after SFT: of two timings of the same words, the right one."""
    from duplexdata.training import commands

    options: dict[str, Any] = {
        "data": {"dataset": dataset, "batch": batch, "max_tokens": max_tokens},
        "model": _model_options(model, device, precision, trust_remote_code),
        "optim": {"lr": lr, "steps": steps, "epochs": epochs},
        "weights": weights,
        "seed": seed,
        "beta": beta,
    }
    commands.dpo(config, options, out)


@app.command("config")
def show_config(
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="sft or dpo.")] = "sft",
    config: Annotated[str | None, typer.Argument(metavar="FILE", help="YAML, to see the rest beside it.")] = None,
) -> None:
    """Print all settings of a stage as YAML."""
    from duplexdata.config_file import dump_settings
    from duplexdata.training.settings import load_dpo, load_sft

    if stage not in ("sft", "dpo"):
        raise ConfigError(f"the stage is {stage!r}, expected sft or dpo")
    typer.echo(dump_settings(load_dpo(config) if stage == "dpo" else load_sft(config)), nl=False)


def _model_options(name: str | None, device: str | None, precision: str | None, trust: bool) -> dict[str, Any]:
    return {"name": name, "device": device, "precision": precision, "trust_remote_code": trust or None}
