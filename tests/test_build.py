"""Whole builds: same bytes whatever the workers and the kills, nothing reused that no longer fits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from duplexdata.build import build
from duplexdata.config import Config, LayoutConfig, MixConfig, ShardConfig, SourceConfig, SpeechConfig
from duplexdata.dialogue import Scenario
from duplexdata.errors import DatasetError, SourceError
from duplexdata.manifest import read_manifest
from duplexdata.stages.work import shards_of
from duplexdata.storage import folder_at

pytest.importorskip("espeakng_loader")
SMALL = Config(conversations=24, shards=ShardConfig(conversations=6, test_fraction=0.2))


def _build(config: Config, out: Path, workers: int = 1) -> bool:
    return build(config, out, workers=workers, report=lambda *_: None)


def _hashes(dataset: Path) -> dict[str, str]:
    """By name; the manifest and the card, which hold all others', included."""
    import hashlib

    return {
        str(p.relative_to(dataset)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(dataset.rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "dataset"
    assert _build(SMALL, out)
    return out


def test_a_finished_build_is_not_done_again_and_leaves_no_work_folder(undisturbed: Path) -> None:
    assert not folder_at(undisturbed).work.path.exists()
    before = {p: p.stat().st_mtime_ns for p in undisturbed.rglob("*")}
    assert not _build(SMALL, undisturbed)
    assert {p: p.stat().st_mtime_ns for p in undisturbed.rglob("*")} == before


def test_every_file_is_the_same_with_two_workers(undisturbed: Path, tmp_path: Path) -> None:
    _build(SMALL, tmp_path / "dataset", workers=2)
    assert _hashes(tmp_path / "dataset") == _hashes(undisturbed)


@pytest.mark.slow
def test_every_file_is_the_same_after_three_kills(undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "dataset"
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({"conversations": 24, "shards": {"conversations": 6, "test_fraction": 0.2}}))
    command = [sys.executable, "-m", "duplexdata.cli", "build", "--config", str(config), "--workers", "2"]
    command += ["--out", str(out)]
    kills = 0
    for markers in (1, 4, 9):
        process = subprocess.Popen(
            command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and len(list(folder_at(out).work.path.rglob("*.done.json"))) < markers:
            time.sleep(0.02)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
        assert not (out / "manifest.json").exists() or process.returncode == 0
    assert kills >= 2
    assert subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode == 0
    assert _hashes(out) == _hashes(undisturbed)
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.slow
def test_workers_end_when_their_build_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "duplexdata.cli", "build", "--conversations", "400", "--workers", "2"]
    out = tmp_path / "a-name-of-its-own"
    process = subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(folder_at(out).work.path.rglob("*.jsonl")):
        time.sleep(0.05)
    process.kill()
    process.wait()
    for _ in range(100):
        if not _holders(folder_at(out).work.path):
            return
        time.sleep(0.1)
    raise AssertionError(f"still at work: {_holders(folder_at(out).work.path)}")


def _holders(folder: Path) -> list[str]:
    """Processes that have a file of the folder open."""
    found = []
    for fd in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(folder) in os.readlink(fd):
                found.append(fd.parts[2])
        except OSError:
            continue
    return found


def test_a_changed_seed_changes_the_conversations_and_replaces_the_dataset(undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "dataset"
    small = replace(SMALL, conversations=8)
    _build(small, out)
    first = _hashes(out)
    _build(replace(small, seed=1), out)
    second = _hashes(out)
    assert read_manifest(out)["seed"] == 1
    assert not set(first.values()) & {h for f, h in second.items() if f.startswith(("conversations", "codes", "sft"))}


def test_another_layout_reuses_the_sound_of_a_kept_work_folder(tmp_path: Path) -> None:
    out = tmp_path / "dataset"
    config = replace(SMALL, conversations=6, shards=ShardConfig(test_fraction=0.3))
    build(config, out, workers=1, report=lambda *_: None, keep_work=True)
    spoken = {p: p.stat().st_mtime_ns for p in folder_at(out).work.path.glob("speech-*/*")}
    sound = {p.name: p.stat().st_ino for p in (out / "conversations").iterdir()}
    build(replace(config, layout=LayoutConfig(n_text=6)), out, workers=1, report=lambda *_: None, keep_work=True)
    # The grid decides on a conversation's length, so sound is made again for another N:M …
    assert read_manifest(out)["config"]["layout"]["n_text"] == 6
    build(replace(config, layout=LayoutConfig(tdm_slicing="clock")), out, workers=1, report=lambda *_: None)
    # … but not for another slicing.
    assert {p.name: p.stat().st_ino for p in (out / "conversations").iterdir()} == sound
    assert spoken


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(DatasetError, match=r"thesis\.tex"):
        _build(SMALL, tmp_path)


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    config = replace(SMALL, sources=(SourceConfig("no-such-file.jsonl"),))
    with pytest.raises(SourceError, match=r"no-such-file\.jsonl"):
        _build(config, tmp_path / "dataset")


def test_no_path_host_or_time_is_in_the_manifest(undisturbed: Path) -> None:
    text = (undisturbed / "manifest.json").read_text() + (undisturbed / "README.md").read_text()
    assert str(undisturbed.parent) not in text
    assert os.uname().nodename not in text
    assert str(time.gmtime().tm_year) not in text


def test_shards_cover_all_conversations_and_the_unit_interval() -> None:
    for n in (2, 3, 24, 1000):
        shards = shards_of(replace(SMALL, conversations=n))
        assert sum(s.slots for s in shards) == n
        edges = sorted((s.low, s.high) for s in shards)
        assert edges[0][0] == 0.0 and edges[-1][1] == 1.0
        assert all(a[1] == pytest.approx(b[0]) for a, b in pairwise(edges))


def test_the_mix_of_scenarios_comes_out_within_sampling_error(tmp_path: Path) -> None:
    config = Config(
        conversations=1000,
        speech=SpeechConfig(backend="nominal"),
        layout=LayoutConfig(emit=("tdm",)),
        shards=ShardConfig(conversations=500),
    )
    _build(config, tmp_path / "dataset")
    manifest = read_manifest(tmp_path / "dataset")
    found = manifest["statistics"]["scenarios"]
    fell_back = sum(manifest["fallbacks"].values())
    for scenario, share in MixConfig().shares().items():
        expected, sigma = 1000 * share, (1000 * share * (1 - share)) ** 0.5
        assert abs(found[scenario] - expected) < 4 * sigma + fell_back, scenario
    assert set(found) == {s.value for s in Scenario}
    assert fell_back < 40


def test_text_only_datasets_have_no_sound_and_no_codes(tmp_path: Path) -> None:
    config = Config(conversations=6, speech=SpeechConfig(backend="nominal"), layout=LayoutConfig(emit=("tdm", "duo")))
    _build(config, tmp_path / "dataset")
    assert {p.name for p in (tmp_path / "dataset").iterdir() if p.is_dir()} == {
        "conversations",
        "tdm",
        "duo",
        "tokenizer",
    }
