"""`python -m duplexdata.evidence`: builds, trains, scores and reports; goes on where it was stopped."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from duplexdata.errors import DuplexDataError
from duplexdata.evidence.settings import FULL, MINIATURE, Evidence

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("runs/evidence"),
    miniature: Annotated[bool, typer.Option(help="The same in a minute, with models that learn nothing.")] = False,
    workers: Annotated[int, typer.Option(help="Models trained at a time, each on one core.", min=1)] = 2,
    job: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Train small models on a small dataset with several seeds, score them, and write the tables."""
    evidence = MINIATURE if miniature else FULL
    try:
        if job is not None:
            from duplexdata.evidence import jobs

            jobs.do(jobs.Job.of(job), evidence, out, _say)
            return
        _all(evidence, out, workers, ["--miniature"] if miniature else [])
    except DuplexDataError as error:
        typer.echo(f"duplexdata: {error}", err=True)
        sys.exit(1)


def _all(evidence: Evidence, out: Path, workers: int, options: list[str]) -> None:
    from duplexdata.evidence import jobs
    from duplexdata.evidence.report import write_evidence

    began = time.monotonic()
    _say(f"building {evidence.conversations} conversations")
    jobs.make_data(evidence, out, workers, lambda _: None)
    waiting = [j for j in jobs.jobs_of(evidence) if not jobs.score_path(out, j).exists()]
    _say(f"{len(waiting)} models to train and score")
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        while waiting or running:
            for name in [n for n, p in running.items() if p.poll() is not None]:
                if running.pop(name).returncode:
                    raise DuplexDataError(f"{name} failed, see above; run the same command again to go on")
                _say(f"{name} is done, {(time.monotonic() - began) / 60:.0f} min")
            ready = [j for j in waiting if j.after is None or jobs.score_path(out, j.after).exists()]
            if ready and len(running) < workers:
                waiting.remove(ready[0])
                running[ready[0].name] = _start(ready[0].name, out, options)
            else:
                time.sleep(0.5)
    finally:
        for process in running.values():
            process.terminate()
    write_evidence(evidence, out)
    typer.echo((out / "evidence.md").read_text(encoding="utf-8"))
    _say(f"done in {(time.monotonic() - began) / 60:.0f} min: {out / 'evidence.md'}, {out / 'evidence.png'}")


def _start(job: str, out: Path, options: list[str]) -> subprocess.Popen[bytes]:
    """Small matrices gain little from a second core: two models at a time, a core each."""
    command = [sys.executable, "-m", "duplexdata.evidence", "--out", str(out), "--job", job, *options]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"})


def _say(text: str) -> None:
    typer.echo(text, err=True)


if __name__ == "__main__":
    app()
