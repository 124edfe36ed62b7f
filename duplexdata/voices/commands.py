"""`duplexdata voices …`: banks of voices are checked and made. Heavy libraries are imported by the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from duplexdata.errors import ConfigError

FAILED = 1

app = typer.Typer(
    name="voices",
    help="Check a bank of voices, or make one from a speech corpus.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def check(
    bank: Annotated[
        str | None,
        typer.Argument(
            metavar="BANK", help="A folder with voices.jsonl, a hub id or 'embedded' (default: --config's)."
        ),
    ] = None,
    config: Annotated[
        str | None, typer.Option(metavar="FILE", help="Settings as YAML: `voices.limits` and the rest of `voices`.")
    ] = None,
    allow_unlicensed: Annotated[
        bool, typer.Option("--allow-unlicensed", help="Accept recordings without licence or consent.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    png: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also draw the recordings (needs matplotlib).")
    ] = None,
) -> None:
    """Judge every voice of a bank and say why one is refused. Ends with status 1 if one is."""
    from duplexdata.config_file import load_config
    from duplexdata.voices import check as body
    from duplexdata.voices.load import survey

    settings = load_config(config).voices
    if bank is None and config is None:
        raise ConfigError("name a voice bank, or a configuration with --config")
    settings = replace(
        settings, bank=bank or settings.bank, allow_unlicensed=allow_unlicensed or settings.allow_unlicensed
    )
    found = survey(settings)
    if as_json:
        typer.echo(json.dumps(body.as_json(settings.bank, found), indent=2, ensure_ascii=False))
    else:
        for line in body.as_lines(settings.bank, found):
            typer.echo(line)
    if png is not None:
        from duplexdata.voices.picture import write_picture

        write_picture(png, found)
        typer.echo(str(png), err=True)
    if any(s.faults for s in found):
        raise typer.Exit(FAILED)


@app.command("import")
def import_(
    corpus: Annotated[str, typer.Argument(metavar="CORPUS", help="libritts (or LibriTTS-R), vctk or common-voice.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The corpus, unpacked.")],
    out: Annotated[Path, typer.Option(metavar="BANK", help="The bank's folder; one that exists is added to.")],
    per_speaker: Annotated[int, typer.Option(help="Recordings of each speaker.", min=1)] = 1,
    limit: Annotated[
        int | None, typer.Option(help="Speakers at most, evenly over sex and accent (default: all).", min=1)
    ] = None,
    test_fraction: Annotated[float, typer.Option(help="Share of the speakers for the test split.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Of the choice of speakers, with --limit.")] = 0,
    language: Annotated[
        str | None, typer.Option(metavar="TAG", help="BCP 47 (default: as the corpus says, else en).")
    ] = None,
    consent: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="On what ground voices are cloned (default: as the corpus says)."),
    ] = None,
    config: Annotated[str | None, typer.Option(metavar="FILE", help="Settings as YAML: `voices.limits`.")] = None,
) -> None:
    """Make a bank from a corpus: the best recordings of each speaker, trimmed and brought to one level."""
    from duplexdata.config_file import load_config
    from duplexdata.voices.importing import ImportSettings, import_corpus

    settings = ImportSettings(
        per_speaker=per_speaker,
        limit=limit,
        test_fraction=test_fraction,
        seed=seed,
        language=language,
        consent=consent,
        limits=load_config(config).voices.limits,
    )
    made = import_corpus(corpus, folder, out, settings, report=lambda line: typer.echo(line, err=True))
    dropped = ", ".join(f"{reason} {n}" for reason, n in made.counts.dropped.items()) or "-"
    typer.echo(f"speakers: {made.counts.items_in} in, {made.counts.items_out} out; left out: {dropped}")
    typer.echo(f"{out}: {made.voices} voices; train {made.train}, test {made.test}")
    typer.echo(f"check it:  duplexdata voices check {out}")
