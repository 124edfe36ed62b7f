"""A build killed twenty times, in every stage: no half-written file is ever visible, and the bytes stay the same."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from duplexdata.build import build
from duplexdata.config_file import load_config
from duplexdata.storage import folder_at

pytest.importorskip("espeakng_loader")
pytestmark = pytest.mark.cluster
SETTINGS = {"conversations": 144, "shards": {"conversations": 6, "test_fraction": 0.2}}
STAGES = ("ingest-*", "scripts-*", "speech-*", "codes-*", "layouts-*", "dataset")
KILLS = 20


def _hashes(dataset: Path) -> dict[str, str]:
    return {
        str(p.relative_to(dataset)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(dataset.rglob("*"))
        if p.is_file()
    }


def _check_visible_files(folder: Path) -> None:
    """Read every file that has its final name."""
    for path in folder.rglob("*"):
        if not path.is_file() or any(part.endswith(".tmp") for part in path.relative_to(folder).parts):
            continue
        if path.suffix == ".parquet":
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                assert sum(batch.num_rows for batch in file.iter_batches(64)) == file.metadata.num_rows
        elif path.suffix == ".jsonl":
            assert all(json.loads(line) for line in path.read_text().splitlines())
        elif path.suffix == ".json":
            json.loads(path.read_text())


def _files(stages: Sequence[str], out: Path) -> dict[Path, str]:
    """Of some stages, those being written too (their names hold the writer's process number); not the tokenizer, which
    all shards share."""
    found = {}
    for stage in stages:
        where = [out] if stage == "dataset" else list(folder_at(out).work.path.glob(stage))
        found |= {p: stage for folder in where for p in folder.rglob("*") if p.is_file() and "tokenizer" not in str(p)}
    return found


@pytest.mark.timeout(900)
def test_twenty_kills_in_every_stage_leave_the_bytes_of_an_undisturbed_build(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(SETTINGS))
    (tmp_path / "undisturbed").mkdir()
    assert build(load_config(str(config)), tmp_path / "undisturbed" / "dataset", workers=2, report=lambda *_: None)
    expected = _hashes(tmp_path / "undisturbed" / "dataset")

    here = tmp_path / "killed"
    here.mkdir()
    out = here / "dataset"
    command = [sys.executable, "-m", "duplexdata.cli", "build", "--config", str(config), "--workers", "2"]
    moments = random.Random(7)
    killed: list[set[str]] = []
    for n in range(KILLS):
        # Stage by stage. One that is finished is not written again: then it is the next that writes something.
        stages = STAGES[min(n * len(STAGES) // KILLS, len(STAGES) - 1) :]
        before = set(_files(stages, out))
        process = subprocess.Popen(
            [*command, "--out", str(out)], start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and not set(_files(stages, out)) - before:
            time.sleep(0.001)
        time.sleep(moments.choice((0.0, 0.002, 0.01, 0.05, 0.2)))
        if process.poll() is not None:
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        killed.append({stage for path, stage in _files(stages, out).items() if path not in before})
        _check_visible_files(here)
        if (out / "manifest.json").exists():
            assert stages == STAGES[-1:], "it was all but at its end"
            break
    assert len(killed) >= KILLS - 3
    assert {"ingest-*", "scripts-*", "speech-*", "codes-*", "layouts-*"} <= set().union(*killed), killed
    assert subprocess.run([*command, "--out", str(out)], check=False, stdout=subprocess.DEVNULL).returncode == 0
    assert _hashes(out) == expected
    assert sorted(p.name for p in here.iterdir()) == ["dataset"]
    assert not list(here.rglob("*.tmp"))
