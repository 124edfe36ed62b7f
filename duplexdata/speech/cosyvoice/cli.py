"""`duplexdata cosyvoice-env` and `serve-cosyvoice`. Heavy libraries are imported by the command that needs them."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from duplexdata.errors import ConfigError, DuplexDataError


def cosyvoice_env(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where it goes: 3 to 6 GB.", show_default=False)],
    torch: Annotated[str, typer.Option(metavar="REQUIREMENT", help="The torch to install.")] = "torch==2.13.0",
    python: Annotated[
        str | None, typer.Option(metavar="PATH", help="A Python 3.11 (default: one that is found).")
    ] = None,
) -> None:
    """Make the environment that CosyVoice's official code runs in. Its code and models you bring yourself."""
    from duplexdata.speech.cosyvoice.environment import make_environment

    found = make_environment(folder, torch=torch, python=python, say=lambda step: typer.echo(step, err=True))
    typer.echo(f"{found} is ready: --python {folder}, or speech.python in a configuration")


def serve_cosyvoice(
    checkout: Annotated[Path, typer.Option(metavar="DIR", help="A checkout of the official code.", show_default=False)],
    model: Annotated[Path, typer.Option(metavar="DIR", help="A CosyVoice 2 or 3 model.", show_default=False)],
    python: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Its environment: `cosyvoice-env` makes it.", show_default=False),
    ],
    host: Annotated[str, typer.Option(help="Address; there is no password, so keep it local.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any that is free.", min=0, max=65535)] = 8010,
    devices: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Such as cuda:0,cuda:1 or cpu (default: all GPUs, else cpu)."),
    ] = None,
    per_gpu: Annotated[int, typer.Option(help="Processes on each device.", min=1)] = 1,
    threads: Annotated[int, typer.Option(help="Threads of a process; another number may change last bits.", min=1)] = 1,
    decoding: Annotated[
        str,
        typer.Option(
            help="Where cached decoding is wrong (transformers 4.53 and later): auto mends it, never refuses."
        ),
    ] = "auto",
) -> None:
    """Serve CosyVoice's official code over HTTP: /v1/audio/speech, /health, /metrics. Ends with Ctrl-C."""
    from duplexdata.speech.cosyvoice.bridge import Bridge, BridgeSettings

    if decoding not in ("auto", "never"):
        raise ConfigError(f"--decoding is {decoding!r}, expected auto or never")
    settings = BridgeSettings(
        checkout,
        model,
        str(python),
        host=host,
        port=port,
        devices=tuple(devices.split(",")) if devices else (),
        per_device=per_gpu,
        threads=threads,
        override=decoding,
    )
    # A service manager says SIGTERM, also to what was started deaf to SIGINT: the processes end in order then, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    bridge = Bridge(settings)
    typer.echo(f"loading {bridge.model} in {bridge.pool.size} processes", err=True)
    try:
        with bridge:
            typer.echo(f"{bridge.model} at {bridge.url}: {json.dumps(bridge.pool.hello)}")
            sys.stdout.flush()
            while bridge.pool.broken is None:
                time.sleep(1)
    except KeyboardInterrupt:
        return
    raise DuplexDataError(f"no CosyVoice process can be started any more: {bridge.pool.broken}")
