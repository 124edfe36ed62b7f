"""Makes the environment that CosyVoice's official code runs in: its versions fit no other."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from duplexdata.errors import ConfigError

TORCH = "torch==2.13.0"
WITHOUT_DEPENDENCIES = ("torchaudio==2.11.0", "matcha-tts==0.0.7.2")
"""torchaudio's newest on the index is a CUDA build without a pin on torch; matcha-tts asks for gradio and much else."""
_PYTHON = (3, 11)
_READY = "import soundfile, torch, transformers, whisper, hyperpyyaml, onnxruntime, matcha, modelscope"


def make_environment(
    folder: Path, *, torch: str = TORCH, python: str | None = None, say: Callable[[str], None]
) -> Path:
    """A virtual environment with the versions of `requirements.txt`; made again, it is only completed.

    Args:
        torch: a requirement. The index's build is for CUDA; pip's and uv's own variables name others.
        python: an interpreter of 3.11; None: this one, or one that uv finds.
        say: told each step.

    Returns: its interpreter. Raises ConfigError: a step failed; its text is the installer's.
    """
    uv = _uv()
    found = folder / "bin" / "python"
    if not found.exists():
        if (folder.exists() and any(folder.iterdir())) or folder.is_file():
            raise ConfigError(f"{folder} is there already and is no environment")
        say(f"making {folder}")
        if uv:
            _run([uv, "venv", "-q", "--python", python or ".".join(map(str, _PYTHON)), str(folder)])
        else:
            if python is None and sys.version_info[:2] != _PYTHON:
                raise ConfigError("Python 3.11 is needed: name one with --python, or install uv, which finds one")
            _run([python or sys.executable, "-m", "venv", str(folder)])
    pip = [uv, "pip", "install", "-q", "--python", str(found)] if uv else [str(found), "-m", "pip", "install", "-q"]
    say("installing (about 3 GB, on machines with CUDA wheels 6 GB)")
    _run([*pip, torch, "-r", str(Path(__file__).with_name("requirements.txt"))])
    _run([*pip, "--no-deps", *WITHOUT_DEPENDENCIES])
    say("trying it")
    _run([str(found), "-I", "-W", "ignore", "-c", _READY])
    return found


def _uv() -> str | None:
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.is_file() else shutil.which("uv")


def _run(command: list[str]) -> None:
    environment = dict(os.environ)
    links = environment.get("PIP_FIND_LINKS", "")
    if links and "UV_FIND_LINKS" not in environment:  # uv reads a variable of its own
        environment["UV_FIND_LINKS"] = links
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ConfigError(f"{command[0]}: {error}") from error
    if done.returncode:
        last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-8:])
        raise ConfigError(f"`{' '.join(command[:4])} …` failed:\n{last}")
