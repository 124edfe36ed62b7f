"""Two runs at once: the second is told so, and nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from duplexdata.build import build
from duplexdata.claim import claimed
from duplexdata.config_file import load_config
from duplexdata.errors import DatasetError
from duplexdata.storage import LocalFolder, folder_at

_HOLD = """
import sys
from duplexdata.claim import claimed
from duplexdata.storage import folder_at
with claimed(folder_at(sys.argv[1])):
    print("mine", flush=True)
    sys.stdin.read()
"""


@contextmanager
def _another(out: Path | str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has claimed the dataset."""
    process = subprocess.Popen([sys.executable, "-c", _HOLD, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline() == b"mine\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_claim_is_its_holders_alone_and_leaves_nothing(tmp_path: Path) -> None:
    out = LocalFolder(tmp_path / "dataset")
    with claimed(out):
        with (
            pytest.raises(DatasetError, match=rf"another run is at work on .*dataset \(process {os.getpid()}\)"),
            claimed(out),
        ):
            raise AssertionError("two hold it")
        with claimed(LocalFolder(tmp_path / "other")):
            pass
    assert list(tmp_path.iterdir()) == []
    with claimed(out):
        pass


def test_the_second_of_two_runs_is_told_and_one_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    out = tmp_path / "dataset"
    config = load_config("duplex-ultrachat", {"conversations": 4})
    with _another(out) as other:
        with pytest.raises(DatasetError, match=f"process {other.pid}"):
            build(config, out, workers=1, report=lambda *_: None)
        assert not out.exists()
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert build(config, out, workers=1, report=lambda *_: None)
    assert [p.name for p in tmp_path.iterdir()] == ["dataset"]


def test_a_run_that_waits_for_the_file_of_one_that_ends_gets_the_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the opening of a file and its locking its holder may have taken it away."""
    import duplexdata.claim as claim

    out, lock = LocalFolder(tmp_path / "dataset"), tmp_path / ".dataset.lock"
    real, seen = claim.fcntl.flock, []

    def flock(file: int, how: int) -> None:
        if not seen:
            lock.unlink()
        seen.append(os.fstat(file).st_ino)
        real(file, how)

    monkeypatch.setattr(claim.fcntl, "flock", flock)
    with claimed(out):
        assert len(seen) == 2
        assert lock.stat().st_ino == seen[-1]


def test_a_dataset_at_a_url_is_claimed_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUPLEXDATA_SCRATCH", str(tmp_path))
    url = "memory://bucket/dataset"
    with _another(url), pytest.raises(DatasetError, match=f"at work on {url}"), claimed(folder_at(url)):
        raise AssertionError("two hold it")


def test_what_a_run_left_that_was_killed_behind_its_last_file_is_taken_away(tmp_path: Path) -> None:
    out, work = tmp_path / "dataset", tmp_path / ".dataset.work"
    config = load_config("duplex-ultrachat", {"conversations": 4})
    assert build(config, out, workers=1, report=lambda *_: None, keep_work=True)
    assert not build(config, out, workers=1, report=lambda *_: None, keep_work=True)
    assert work.exists()
    with _another(out):
        assert not build(config, out, workers=1, report=lambda *_: None)
        assert work.exists(), "another run may need it"
    assert not build(config, out, workers=1, report=lambda *_: None)
    assert [p.name for p in tmp_path.iterdir()] == ["dataset"]
