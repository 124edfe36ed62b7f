"""The bridge: processes of CosyVoice's official code behind HTTP. Started by `serve-cosyvoice`, or by a build."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from duplexdata.errors import ConfigError, SpeechServerError
from duplexdata.speech.cosyvoice.front import Front
from duplexdata.speech.cosyvoice.model import check_checkout, model_identity, model_version
from duplexdata.speech.cosyvoice.pool import Pool
from duplexdata.speech.cosyvoice.process import Launch, WorkerGone
from duplexdata.speech.cosyvoice.requests import Prompts

_WAITING_PER_PROCESS = 64


@dataclass(frozen=True, slots=True)
class BridgeSettings:
    """Attributes:
    python: the interpreter of the official code's environment, or the environment's folder.
    host: loopback unless the machine's network is to be trusted: there is no password.
    port: 0: any that is free.
    devices: "cpu", "cuda:N"; empty: all GPUs, the CPU where there is none.
    per_device: processes on each.
    threads: of a process on the CPU. Another number may change the last bits of the sound.
    override: what is done where cached decoding is wrong: "auto" decodes without attention mask, "never" refuses.
    timeout_sec: of one utterance in its process.
    wait_sec: of a request, its wait in the queue included.
    """

    checkout: Path
    model: Path
    python: str | None
    host: str = "127.0.0.1"
    port: int = 0
    devices: tuple[str, ...] = ()
    per_device: int = 1
    threads: int = 1
    override: str = "auto"
    voices_kept: int = 1024
    timeout_sec: float = 120.0
    start_timeout_sec: float = 300.0
    wait_sec: float = 600.0


class Bridge:
    """A context: inside it, speech is served at `url`. Its processes end with it, and with the process it is in."""

    def __init__(self, settings: BridgeSettings) -> None:
        """Binds the address and starts nothing. Raises ConfigError: the folders are not what they should be."""
        python = check_folders(settings.checkout, settings.model, settings.python)
        self.model = model_identity(settings.checkout, settings.model)
        devices = settings.devices or _devices(python)
        launches = [
            Launch(
                python,
                settings.checkout,
                settings.model,
                settings.threads,
                settings.override,
                settings.voices_kept,
                _device_environment(device, settings.threads),
            )
            for device in devices
            for _ in range(settings.per_device)
        ]
        self.pool = Pool(
            launches,
            waiting=_WAITING_PER_PROCESS * len(launches),
            timeout_sec=settings.timeout_sec,
            start_timeout_sec=settings.start_timeout_sec,
        )
        self._folder = tempfile.TemporaryDirectory(prefix="duplexdata-voices-")
        prompts = Prompts(Path(self._folder.name))
        try:
            self._front = Front(settings.host, settings.port, self.pool, prompts, self.model, settings.wait_sec)
        except OSError as error:
            self._folder.cleanup()
            raise ConfigError(f"{settings.host}:{settings.port} cannot be bound: {error}") from error
        self._thread = threading.Thread(target=self._front.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        host, port = self._front.server_address[:2]
        name = str(host)
        return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"

    def __enter__(self) -> Self:
        """Raises SpeechServerError: a process does not start, or would speak gibberish."""
        self._thread.start()
        try:
            self.pool.open()
        except WorkerGone as error:
            self._close()
            raise SpeechServerError(f"CosyVoice is not served: {error}") from error
        except BaseException:
            self._close()
            raise
        self._front.is_open = True
        return self

    def __exit__(self, kind: object, error: object, tb: object) -> None:
        self._close()

    def _close(self) -> None:
        self._front.is_open = False
        self.pool.close()
        self._front.shutdown()
        self._front.server_close()
        self._folder.cleanup()


def check_folders(checkout: Path, model: Path, python: str | None) -> Path:
    """The interpreter to use. Raises ConfigError: something is missing."""
    check_checkout(checkout)
    model_version(model)
    if python is None:
        raise ConfigError(
            "CosyVoice's code needs an environment of its own (speech.python, --python): "
            "`duplexdata cosyvoice-env DIR` makes it"
        )
    path = Path(python).expanduser()
    found = path / "bin" / "python" if path.is_dir() else path
    if not os.access(found, os.X_OK):
        raise ConfigError(f"{found}: no interpreter; `duplexdata cosyvoice-env DIR` makes an environment")
    return found.absolute()  # not resolved: a link's place is what makes it the environment's


def _devices(python: Path) -> tuple[str, ...]:
    """All GPUs that the environment's torch sees, else the CPU."""
    command = [str(python), "-I", "-c", "import torch; print(torch.cuda.device_count())"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        count = int(done.stdout.split()[-1])
    except (subprocess.SubprocessError, ValueError, IndexError) as error:
        raise ConfigError(f"{python}: torch cannot be imported there; `duplexdata cosyvoice-env DIR`") from error
    return tuple(f"cuda:{i}" for i in range(count)) or ("cpu",)


def _device_environment(device: str, threads: int) -> dict[str, str]:
    """What makes a device the only one that a process sees. Raises ConfigError."""
    kind, _, number = device.partition(":")
    if device == "cpu":
        visible = ""
    elif kind == "cuda" and number.isdecimal():
        given = [d for d in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if d]
        if given and int(number) >= len(given):
            raise ConfigError(f"the device {device} is not among CUDA_VISIBLE_DEVICES")
        visible = given[int(number)] if given else number
    else:
        raise ConfigError(f"the device {device!r} is unknown, expected cpu or cuda:N")
    return {"CUDA_VISIBLE_DEVICES": visible, "OMP_NUM_THREADS": str(threads)}
