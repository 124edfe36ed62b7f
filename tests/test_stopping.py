"""Signals and dying workers, caused for real: what was finished is kept, and the bytes stay the same."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from duplexdata.build import build
from duplexdata.config import Config, ShardConfig
from duplexdata.storage import folder_at

pytest.importorskip("espeakng_loader")
pytestmark = pytest.mark.slow
SETTINGS = {"conversations": 96, "shards": {"conversations": 8, "test_fraction": 0.2}}
CONFIG = Config(conversations=96, shards=ShardConfig(conversations=8, test_fraction=0.2))


def _hashes(dataset: Path) -> dict[str, str]:
    return {
        str(p.relative_to(dataset)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(dataset.rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("undisturbed") / "dataset"
    assert build(CONFIG, out, workers=2, report=lambda *_: None)
    return _hashes(out)


def _start(folder: Path, workers: int) -> tuple[subprocess.Popen[str], Path]:
    (folder / "config.yaml").write_text(json.dumps(SETTINGS))
    out = folder / "dataset"
    command = [sys.executable, "-m", "duplexdata.cli", "build", "--config", str(folder / "config.yaml")]
    command += ["--workers", str(workers), "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True), out


def _wait(process: subprocess.Popen[str], until: Callable[[], object]) -> None:
    while process.poll() is None and not until():
        time.sleep(0.02)
    assert process.poll() is None, "the build ended before it could be disturbed"


def _speech_markers(out: Path) -> list[Path]:
    return list(folder_at(out).work.path.glob("speech-*/*.done.json"))


def _children(pid: int) -> set[int]:
    found = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found |= {child} | _children(child)
    return found


def _gone(pids: set[int]) -> bool:
    for _ in range(100):
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.1)
    return False


def _resumed_equals(out: Path, undisturbed: dict[str, str]) -> bool:
    assert build(CONFIG, out, workers=2, report=lambda *_: None)
    return _hashes(out) == undisturbed and not list(out.parent.rglob("*.tmp"))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_finishes_the_shards_in_progress_and_nothing_is_lost(
    tmp_path: Path, undisturbed: dict[str, str], workers: int, number: signal.Signals
) -> None:
    process, out = _start(tmp_path, workers)
    _wait(process, lambda: _speech_markers(out))
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert "finishing the shards in progress" in said and "run the same command again" in said
    assert "Traceback" not in said
    work = folder_at(out).work.path
    assert not list(work.rglob("*.tmp")), "what was in progress is finished, not left half-written"
    assert 0 < len(_speech_markers(out)) < 14
    assert not (out / "manifest.json").exists()
    assert _resumed_equals(out, undisturbed)


def test_a_second_signal_ends_everything_at_once(tmp_path: Path, undisturbed: dict[str, str]) -> None:
    process, out = _start(tmp_path, 2)
    _wait(process, lambda: _speech_markers(out))
    family = _children(process.pid)
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGINT
    assert len(family) >= 3 and _gone(family)
    assert _resumed_equals(out, undisturbed)


def test_a_killed_worker_is_replaced_and_its_shard_made_again(tmp_path: Path, undisturbed: dict[str, str]) -> None:
    process, out = _start(tmp_path, 2)
    _wait(process, lambda: list(folder_at(out).work.path.glob("speech-*/.*.tmp")))
    writing = next(folder_at(out).work.path.glob("speech-*/.*.tmp"))
    victim = int(writing.name.rsplit("-", 1)[1].split(".")[0])
    assert victim in _children(process.pid)
    os.kill(victim, signal.SIGKILL)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert _hashes(out) == undisturbed
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_shard_that_kills_every_worker_is_named_in_one_error(tmp_path: Path) -> None:
    script = (
        "import os, sys\nfrom pathlib import Path\nimport duplexdata.build as b\n"
        "from duplexdata.config import Config\nfrom duplexdata.errors import ShardError\n"
        "def main():\n"
        "    b.run_shard = killer\n"
        "    try:\n        b.build(Config(conversations=8), Path(sys.argv[1]), workers=2, report=lambda *_: None)\n"
        "    except ShardError as error:\n        print(error)\n"
        "def killer(plan, shard):\n    os.kill(os.getpid(), 9)\n"
        "if __name__ == '__main__':\n    main()\n"
    )
    (tmp_path / "killing.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "killing.py", "dataset"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "killed 3 times" in done.stdout and "fewer workers" in done.stdout, done.stderr
