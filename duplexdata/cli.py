"""The command line. Heavy libraries are imported by the command that needs them: `--help` answers at once."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from duplexdata.errors import ConfigError, DuplexDataError

FAILED, MISUSED = 1, 2

app = typer.Typer(
    name="duplexdata",
    help="Turn text dialogues into training data for voice models that listen while they speak.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DatasetArgument = Annotated[Path, typer.Argument(metavar="DIR", help="A dataset's folder.", show_default=False)]


@app.command()
def build(
    config: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Settings as YAML, or a preset: bayling, duplex-ultrachat, duo."),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH_OR_HUB_ID",
            help="Dialogues: a JSON, JSONL or Parquet file, a folder of them, a hub id, or 'bundled'. Repeatable.",
        ),
    ] = None,
    conversations: Annotated[int | None, typer.Option(help="How many to make (default: 100).")] = None,
    seed: Annotated[int | None, typer.Option(help="Same settings and seed, same bytes (default: 0).")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes (default: one per core).")] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the dataset goes.")] = Path("dataset"),
    keep_work: Annotated[bool, typer.Option(help="Keep the work folder, for a later build of another layout.")] = False,
) -> None:
    """Build a dataset. Run again after an interruption, it goes on where it stopped."""
    from duplexdata.config_file import load_config, sources_override

    overrides = {"sources": sources_override(source), "conversations": conversations, "seed": seed}
    settings = load_config(config, overrides)
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers is {workers}, expected at least 1")
    from duplexdata.build import build as run

    with _progress("conversations", settings.conversations) as advance:
        made = run(
            settings,
            out,
            workers=workers or os.cpu_count() or 1,
            report=lambda _, n: advance(n),
            keep_work=keep_work,
        )
    _show_result(out, made)


@app.command()
def emit(
    dataset: DatasetArgument,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the new dataset goes.", show_default=False)],
    tokenizer: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="A tokenizer's folder or hub id (default: as in the dataset)."),
    ] = None,
    blocks: Annotated[
        str | None,
        typer.Option(metavar="N:M", help="Speech and text tokens per block (default: as in the dataset)."),
    ] = None,
    slicing: Annotated[str | None, typer.Option(help="Of tdm: words or clock (default: as in the dataset).")] = None,
    layouts: Annotated[str | None, typer.Option(help="Comma-separated: sft,dpo,tdm,duo.")] = None,
    tdm_jsonl: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write tdm rows as Duplex-UltraChat's JSON lines."),
    ] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Let the tokenizer's own code run.")] = False,
) -> None:
    """Make the layouts again, for another tokenizer or block size. Nothing is synthesized or tokenized again."""
    from duplexdata.reemit import reemit

    with _progress("conversations", None) as advance:
        reemit(
            dataset,
            out,
            tokenizer=tokenizer,
            blocks=_blocks(blocks),
            slicing=slicing,
            layouts=tuple(layouts.split(",")) if layouts else None,
            tdm_jsonl=tdm_jsonl,
            trust_remote_code=trust_remote_code,
            report=advance,
        )
    _show_result(out, True)


@app.command()
def verify(dataset: DatasetArgument) -> None:
    """Derive again what can be derived, from the folder alone, and print what does not hold."""
    from duplexdata.verify import verify as run

    found = 0
    with _progress("rows", None) as advance:
        for violation in run(dataset, report=lambda _, n: advance(n)):
            found += 1
            row = "-" if violation.row is None else violation.row
            typer.echo(f"{violation.file}: {row}: {violation.rule}: {violation.detail}")
    typer.echo(f"{dataset}: {found} violations" if found else f"{dataset}: nothing to report")
    if found:
        raise typer.Exit(FAILED)


@app.command()
def show(
    dataset: DatasetArgument,
    id: Annotated[str | None, typer.Argument(metavar="ID", help="Of a conversation, or its beginning.")] = None,
    wav: Annotated[Path | None, typer.Option(help="Where the sound goes (default: ID.wav).")] = None,
    png: Annotated[Path | None, typer.Option(help="Also draw its spectrogram (needs matplotlib).")] = None,
    first: Annotated[bool, typer.Option("--first", help="If several ids begin so, take the first.")] = False,
    width: Annotated[int, typer.Option(help="Columns of the timeline.", min=20)] = 100,
) -> None:
    """Print a conversation as a timeline of two lanes, and write its sound. Without ID: list some ids."""
    from duplexdata import viewer

    if id is None:
        for name, scenario, seconds in viewer.ids(dataset, 40):
            typer.echo(f"{name}  {scenario}  {seconds:.1f} s")
        return
    conversation, audio = viewer.find(dataset, id, first=first)
    for line in viewer.timeline(conversation, width):
        typer.echo(line)
    if audio is None:
        typer.echo("\nno sound in this dataset")
        return
    path = wav or Path(f"{conversation.id}.wav")
    viewer.write_wav(path, audio)
    typer.echo(f"\n{path}  (left: assistant, right: user)")
    if png is not None:
        viewer.write_picture(png, conversation, audio)
        typer.echo(str(png))


@app.command()
def tokenize(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Sound files of any rate.", show_default=False)],
    codec: Annotated[str, typer.Option(metavar="NAME", help="Speech tokenizer.")] = "mel",
    checkpoint: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Its weights: a folder or hub id, for those that need one."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="fp32, tf32, fp16 or bf16, for those that have a choice.")] = "fp32",
) -> None:
    """Print the speech tokens of sound files: one JSON object a line with `file` and `tokens`."""
    from duplexdata.backends import make_speech_tokenizer
    from duplexdata.config import CodecConfig
    from duplexdata.sound_files import read_sound

    tokenizer = make_speech_tokenizer(CodecConfig(codec, checkpoint, device, precision))
    failed = False
    for path in files:
        try:
            samples = read_sound(path, tokenizer.sample_rate)
        except DuplexDataError as error:
            typer.echo(f"duplexdata: {error}", err=True)
            failed = True
            continue
        typer.echo(json.dumps({"file": str(path), "tokens": tokenizer.encode([samples])[0].tolist()}))
    if failed:
        raise typer.Exit(FAILED)


train = typer.Typer(
    name="train", help="Train a causal LM on a dataset's rows.", no_args_is_help=True, pretty_exceptions_enable=False
)
app.add_typer(train)

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


@train.command("sft")
def train_sft(
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


@train.command("dpo")
def train_dpo(
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


@train.command("config")
def train_config(
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


@app.command("config")
def show_config(
    config: Annotated[str | None, typer.Argument(metavar="FILE", help="YAML or a preset's name.")] = None,
) -> None:
    """Print all settings as YAML: the defaults, a preset's, or those of a file."""
    from duplexdata.config_file import dump_config, load_config

    typer.echo(dump_config(load_config(config)), nl=False)


def _blocks(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    n, _, m = text.partition(":")
    if not (n.isdigit() and m.isdigit() and int(n) and int(m)):
        raise ConfigError(f"--blocks is {text!r}, expected N:M such as 10:5")
    return int(n), int(m)


@contextmanager
def _progress(what: str, total: int | None) -> Iterator[Any]:
    """A bar on a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda n: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=total)
        yield lambda n: bar.advance(task, n)


def _show_result(out: Path, made: bool) -> None:
    from duplexdata.manifest import dropped_table, read_manifest

    manifest = read_manifest(out)
    statistics = manifest["statistics"]
    if not made:
        typer.echo(f"{out} is complete already")
    typer.echo(f"{'stage':16} {'in':>9} {'out':>9}  dropped")
    for stage, n_in, n_out, dropped in dropped_table(manifest["stages"]):
        typer.echo(f"{stage:16} {n_in:9,} {n_out:9,}  {dropped}")
    for n, example in enumerate(manifest["rejected_examples"]):
        if n < 5:
            typer.echo(f"  rejected: {example}")
    scenarios = ", ".join(f"{k} {v}" for k, v in statistics["scenarios"].items())
    typer.echo(f"scenarios: {scenarios}")
    typer.echo(f"{out}: {statistics['hours']:.2f} hours, config {manifest['fingerprint']}, seed {manifest['seed']}")


def main() -> NoReturn:
    """Entry point: errors of ours become one line and an exit status."""
    try:
        status = app(standalone_mode=False)
    except ConfigError as error:
        _stop(error, MISUSED)
    except DuplexDataError as error:
        _stop(error, FAILED)
    except KeyboardInterrupt:
        typer.echo("duplexdata: stopped; run the same command again to go on", err=True)
        os._exit(128 + signal.SIGINT)
    except typer.Abort:
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        usage = getattr(error, "exit_code", None)
        if hasattr(error, "format_message") and usage is not None:
            typer.echo(f"duplexdata: {error.format_message()}", err=True)
            sys.exit(MISUSED)
        raise
    sys.exit(status if isinstance(status, int) else 0)


def _stop(error: DuplexDataError, status: int) -> NoReturn:
    typer.echo(f"duplexdata: {error}", err=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
