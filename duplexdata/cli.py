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

from duplexdata.errors import ConfigError, DuplexDataError, Stopped, of_the_system
from duplexdata.names import file_name, printable
from duplexdata.speech.cosyvoice.cli import cosyvoice_env, serve_cosyvoice
from duplexdata.training.cli import app as train
from duplexdata.voices.commands import app as voices

FAILED, MISUSED = 1, 2

app = typer.Typer(
    name="duplexdata",
    help="Turn text dialogues into training data for voice models that listen while they speak.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(voices)
app.add_typer(train)
app.command("cosyvoice-env")(cosyvoice_env)
app.command("serve-cosyvoice")(serve_cosyvoice)

DatasetArgument = Annotated[
    str, typer.Argument(metavar="DIR_OR_URL", help="A dataset: its folder, or s3://… and the like.", show_default=False)
]


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
    out: Annotated[
        str, typer.Option(metavar="DIR_OR_URL", help="Where the dataset goes: a folder, s3://…")
    ] = "dataset",
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
            tell=typer.echo,
        )
    _show_result(out, made)


@app.command()
def plan(
    config: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Settings as YAML, or a preset: bayling, duplex-ultrachat, duo."),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH_OR_HUB_ID", help="Dialogues, as for build. Repeatable."),
    ] = None,
    conversations: Annotated[int | None, typer.Option(help="How many to make (default: 100).")] = None,
    seed: Annotated[int | None, typer.Option(help="As for build (default: 0).")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes of the build (default: one per core).")] = None,
    gpus: Annotated[int, typer.Option(help="GPUs of the build, for stages that run on one.", min=1)] = 1,
    rate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STAGE=X",
            help="Seconds of sound a GPU does in a second: speech=15-30 (default), codes=X, asr=X. Repeatable.",
        ),
    ] = None,
    dialogues: Annotated[
        int | None,
        typer.Option(help="How many the corpus has, if the sources are only a sample of it.", min=1),
    ] = None,
    sample: Annotated[int, typer.Option(help="Conversations to make for it.", min=8)] = 192,
    seconds_per_call: Annotated[
        float | None, typer.Option(help="Of the language model (default: by the length of its replies).", min=0.0)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Forecast a build from a small sample: hours, rows, bytes, CPU, GPU, tasks, time; a language model's tokens and
    cost. No server, GPU or language model is asked."""
    from duplexdata.config_file import load_config, sources_override

    overrides = {"sources": sources_override(source), "conversations": conversations, "seed": seed}
    settings = load_config(config, overrides)
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers is {workers}, expected at least 1")
    from duplexdata.forecast.plan import parse_rates, plan_build
    from duplexdata.forecast.table import build_lines, writer_lines

    rates = parse_rates(rate or ())
    with _progress("conversations", None) as advance:
        found = plan_build(
            settings,
            sample=sample,
            workers=workers or os.cpu_count() or 1,
            gpus=gpus,
            rates=rates,
            dialogues=dialogues,
            seconds_per_call=seconds_per_call,
            report=advance,
        )
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2))
        return
    for line in build_lines(found.build):
        typer.echo(line)
    if found.writer is None:
        typer.echo("\nno writer.model is configured: templates write everything, at no cost")
        return
    typer.echo()
    for line in writer_lines(found.writer):
        typer.echo(line)


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
    from duplexdata.fetch import at_hand
    from duplexdata.reemit import reemit

    with _progress("conversations", None) as advance:
        reemit(
            at_hand(dataset),
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
    from duplexdata.fetch import at_hand
    from duplexdata.verify import verify as run

    folder = at_hand(dataset, check=False)
    found = 0
    with _progress("rows", None) as advance:
        for violation in run(folder, report=lambda _, n: advance(n)):
            found += 1
            row = "-" if violation.row is None else violation.row
            typer.echo(printable(f"{violation.file}: {row}: {violation.rule}: {violation.detail}"))
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
    from duplexdata.fetch import at_hand

    folder = at_hand(dataset, configs=("conversations",))
    if id is None:
        for name, scenario, seconds in viewer.ids(folder, 40):
            typer.echo(printable(f"{name}  {scenario}  {seconds:.1f} s"))
        return
    conversation, audio = viewer.find(folder, id, first=first)
    for line in viewer.timeline(conversation, width):
        typer.echo(printable(line))
    if audio is None:
        typer.echo("\nno sound in this dataset")
        return
    path = wav or Path(f"{file_name(conversation.id)}.wav")
    viewer.write_wav(path, audio)
    typer.echo(f"\n{path}  (left: assistant, right: user)")
    if png is not None:
        viewer.write_picture(png, conversation, audio)
        typer.echo(str(png))


@app.command()
def push(
    dataset: DatasetArgument,
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="A dataset repository of the Hugging Face hub.")],
    private: Annotated[
        bool | None,
        typer.Option("--private/--public", help="Of a repository that is made: private unless told otherwise."),
    ] = None,
    revision: Annotated[str | None, typer.Option(metavar="BRANCH", help="Another branch than the main one.")] = None,
) -> None:
    """Upload a dataset. Run again after an interruption, it goes on where it stopped. The token is HF_TOKEN's."""
    from duplexdata.push import prepare

    with _progress("files checked", None) as advance:
        upload = prepare(dataset, repo, private=private, revision=revision, report=advance)
    with _progress("files", len(upload.missing)) as advance:
        pushed = upload.run(advance)
    if not pushed.sent:
        typer.echo(f"{pushed.address} is complete already")
        return
    typer.echo(f"{pushed.address}: {pushed.sent} files in {pushed.commits} commits, {pushed.kept} were there already")


@app.command()
def score(
    checkpoint: Annotated[
        str | None, typer.Argument(metavar="CHECKPOINT", help="A model's folder or hub id.", show_default=False)
    ] = None,
    dataset: Annotated[Path | None, typer.Option(metavar="DIR", help="The dataset whose split is scored on.")] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Score recordings instead: folders of input.wav and output.wav."),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(metavar="WHICH", help="Score no model: the assistant as recorded, or the pairs' negatives."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where score.json, score.md and score.png go.")
    ] = None,
    split: Annotated[str, typer.Option(help="Of the dataset.")] = "test",
    limit: Annotated[int | None, typer.Option(help="Conversations at most (default: all).")] = None,
    history: Annotated[str, typer.Option(help="Before each moment: the model's own, or gold (as recorded).")] = "own",
    speech_from: Annotated[str, typer.Option("--from", help="Tell speech from tokens or from audio.")] = "tokens",
    vad: Annotated[str, typer.Option(help="Of audio: silero or energy.")] = "silero",
    temperature: Annotated[float, typer.Option(help="0: the likeliest token.")] = 0.8,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest tokens with this share.")] = 0.8,
    speech_temperature: Annotated[float | None, typer.Option(help="Of speech slots (default: the same).")] = None,
    speech_top_p: Annotated[float | None, typer.Option(help="Of speech slots (default: the same).")] = None,
    seed: Annotated[int, typer.Option(help="Of all draws.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Conversations decoded at once.")] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto (as saved), fp32, bf16 or fp16.")] = "auto",
) -> None:
    """Measure turn-taking and interruption: TT SR@3s, latency, overlap, ISR@2s, and what speaks against them."""
    from duplexdata import scoring
    from duplexdata.decoding import DecodeSettings, Sampling

    speech = Sampling(
        temperature if speech_temperature is None else speech_temperature,
        top_p if speech_top_p is None else speech_top_p,
    )
    settings = DecodeSettings(Sampling(temperature, top_p), speech, seed, batch_size)
    if (dataset is None) == (pairs is None):
        raise ConfigError("name --dataset DIR, or --pairs DIR for recordings")
    with _progress("scored", None) as advance:
        if pairs is not None:
            found = scoring.score_pairs(pairs, vad=vad, limit=limit, seed=seed, report=advance)
        else:
            assert dataset is not None
            found = scoring.score_dataset(
                checkpoint,
                dataset,
                split=split,
                limit=limit,
                history=history,
                speech_from=speech_from,
                vad=vad,
                reference=reference,
                settings=settings,
                device=device,
                precision=precision,
                seed=seed,
                report=advance,
            )
    _show_score(found)
    if out is not None:
        typer.echo(", ".join(map(str, scoring.write_report(found, out))))


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


def _show_score(score: Any) -> None:
    from rich.console import Console

    from duplexdata.scoring import TABLE_WIDTH, as_table, remarks

    console = Console()
    if not console.is_terminal:  # a file or a pipe has no width: nothing is cut there
        console = Console(width=TABLE_WIDTH)
    console.print(as_table(score, scenarios=console.width >= TABLE_WIDTH))
    if console.width < TABLE_WIDTH:
        typer.echo(f"(scenarios: in a terminal of {TABLE_WIDTH} columns, or in the report that --out writes)")
    for remark in remarks(score):
        typer.echo(remark)
    if score.dropped:
        typer.echo("left out: " + ", ".join(f"{k} {v}" for k, v in score.dropped.items()))


def _show_result(out: Path | str, made: bool) -> None:
    from duplexdata.manifest import NAME, dropped_table, parse_manifest
    from duplexdata.storage import folder_at

    manifest = parse_manifest(folder_at(out).read(NAME) or "", str(out))
    statistics = manifest["statistics"]
    if not made:
        typer.echo(f"{out} is complete already")
    typer.echo(f"{'stage':16} {'in':>9} {'out':>9}  dropped")
    for stage, n_in, n_out, dropped in dropped_table(manifest["stages"]):
        typer.echo(f"{stage:16} {n_in:9,} {n_out:9,}  {dropped}")
    for n, example in enumerate(manifest["rejected_examples"]):
        if n < 5:
            typer.echo(f"  rejected: {example}")
    for refused in manifest.get("refused_voices", ())[:5]:
        typer.echo(f"  refused voice: {refused}")
    if "writing" in manifest:
        used = manifest["writing"]["usage"].values()
        replies, sent, received = (sum(u[n] for u in used) for n in ("replies", "prompt_tokens", "completion_tokens"))
        usd = manifest["writing"]["nominal_usd"]
        cost = "" if usd is None else f", {usd:,.2f} USD where none is known yet"
        typer.echo(f"written: {replies:,} replies, {sent:,} tokens in and {received:,} out{cost}")
    scenarios = ", ".join(f"{k} {v}" for k, v in statistics["scenarios"].items())
    typer.echo(f"scenarios: {scenarios}")
    typer.echo(f"{out}: {statistics['hours']:.2f} hours, config {manifest['fingerprint']}, seed {manifest['seed']}")


def main() -> NoReturn:
    """Entry point: errors of ours become one line and an exit status. No secret of the environment is in any of it."""
    from duplexdata.redact import print_redacted, redact

    sys.excepthook = print_redacted
    try:
        status = app(standalone_mode=False)
    except ConfigError as error:
        _stop(error, MISUSED)
    except Stopped as error:
        _stop(error, 128 + error.signal)
    except DuplexDataError as error:
        _stop(error, FAILED)
    except KeyboardInterrupt:
        typer.echo("duplexdata: stopped; run the same command again to go on", err=True)
        os._exit(128 + signal.SIGINT)
    except typer.Abort:
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        if (refused := of_the_system(error)) is not None:
            _stop(refused, FAILED)
        usage = getattr(error, "exit_code", None)
        if hasattr(error, "format_message") and usage is not None:
            typer.echo(f"duplexdata: {redact(error.format_message())}", err=True)
            sys.exit(MISUSED)
        raise
    sys.exit(status if isinstance(status, int) else 0)


def _stop(error: DuplexDataError, status: int) -> NoReturn:
    from duplexdata.redact import redact

    typer.echo(f"duplexdata: {redact(str(error))}", err=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
