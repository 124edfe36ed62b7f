"""What goes wrong on machines, caused for real: nothing is lost, and one line says what to do."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import duplexdata.stages.ingest as ingest_stage
from duplexdata.backends import make_speech_tokenizer
from duplexdata.build import build
from duplexdata.config import CodecConfig, Config, LayoutConfig, ShardConfig, SourceConfig
from duplexdata.errors import CodecError, SourceError
from duplexdata.resources import data_file
from duplexdata.stages.encode import encode_clips
from duplexdata.storage import folder_at

SMALL = Config(conversations=24, shards=ShardConfig(conversations=6, test_fraction=0.2))


def _hashes(dataset: Path) -> dict[str, str]:
    return {
        str(p.relative_to(dataset)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(dataset.rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    pytest.importorskip("espeakng_loader")
    out = tmp_path_factory.mktemp("undisturbed") / "dataset"
    assert build(SMALL, out, workers=1, report=lambda *_: None)
    return _hashes(out)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    where = tmp_path / "disk"
    where.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(where)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this user may not mount a file system")
    yield where
    subprocess.run(["umount", "-l", str(where)], check=True)


def _cli(out: Path, workers: int, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    config = folder / "config.yaml"
    config.write_text(json.dumps({"conversations": 24, "shards": {"conversations": 6, "test_fraction": 0.2}}))
    command = [sys.executable, "-m", "duplexdata.cli", "build", "--config", str(config), "--workers", str(workers)]
    return subprocess.run(
        [*command, "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        env={**os.environ, **environment},
    )


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_one_line_and_the_build_goes_on_once_there_is_room(
    small_disk: Path, tmp_path: Path, workers: int, undisturbed: dict[str, str]
) -> None:
    full = _cli(small_disk / "dataset", workers, tmp_path)
    assert full.returncode == 1
    assert "No space left on device; free some space and run the same command again" in full.stderr
    assert len(full.stderr.strip().splitlines()) == 1
    assert not list(small_disk.rglob("*.tmp"))
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    again = _cli(small_disk / "dataset", workers, tmp_path)
    assert again.returncode == 0, again.stderr
    assert _hashes(small_disk / "dataset") == undisturbed


@pytest.mark.slow
def test_a_read_only_folder_is_one_line(small_disk: Path, tmp_path: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    refused = _cli(small_disk / "dataset", 1, tmp_path)
    assert refused.returncode == 1
    assert "Read-only file system; name a folder that can be written to" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(bytes(content))


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


OTHER_LAYOUT = replace(SMALL, layout=LayoutConfig(tdm_assistant_tokens=8))
"""Needs nothing of the earlier stages but what SMALL has made."""


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder with a dataset and its work folder, and the files of another layout built undisturbed."""
    pytest.importorskip("espeakng_loader")
    where = tmp_path_factory.mktemp("kept")
    assert build(SMALL, where / "dataset", workers=1, report=lambda *_: None, keep_work=True)
    undisturbed = tmp_path_factory.mktemp("undisturbed") / "dataset"
    assert build(OTHER_LAYOUT, undisturbed, workers=1, report=lambda *_: None)
    return where, _hashes(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "damage"),
    [("ingest", _flip), ("scripts", _flip), ("speech", _flip), ("speech", _truncate), ("codes", _flip)],
)
def test_a_damaged_file_of_an_earlier_stage_is_found_and_made_again(
    stage: str, damage: Callable[[Path], None], tmp_path: Path, kept: tuple[Path, dict[str, str]]
) -> None:
    where, undisturbed = kept
    shutil.copytree(where, tmp_path / "here")
    out = tmp_path / "here" / "dataset"
    work = folder_at(out).work.path
    victim = max((p for p in work.glob(f"{stage}-*/*") if p.suffix in (".parquet", ".jsonl")), key=lambda p: p.name)
    before = victim.read_bytes()
    damage(victim)
    assert victim.read_bytes() != before
    assert build(OTHER_LAYOUT, out, workers=1, report=lambda *_: None, keep_work=True)
    assert victim.read_bytes() == before
    assert _hashes(out) == undisturbed


def test_a_source_that_changes_while_it_is_read_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "mine.jsonl"
    shutil.copyfile(data_file("corpus.jsonl"), source)
    real = ingest_stage.read_dialogues

    def meanwhile(*given: object) -> Iterator[object]:
        yield from real(*given)  # type: ignore[arg-type]
        with source.open("a") as f:
            f.write("\n")

    monkeypatch.setattr(ingest_stage, "read_dialogues", meanwhile)
    config = replace(SMALL, sources=(SourceConfig(str(source)),))
    with pytest.raises(SourceError, match="changed while it was read"):
        build(config, tmp_path / "dataset", workers=1, report=lambda *_: None)


class _SmallDevice:
    """The embedded codec on a device that holds so many samples."""

    name = "small"

    def __init__(self, holds: int) -> None:
        self.codec, self.holds, self.refused = make_speech_tokenizer(CodecConfig()), holds, 0

    def encode(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        if sum(map(len, clips)) > self.holds:
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return self.codec.encode(clips)


def test_a_window_too_large_for_the_device_is_encoded_in_parts_with_the_same_tokens() -> None:
    rng = np.random.default_rng(0)
    clips = [rng.integers(-3000, 3000, n).astype(np.int16) for n in (12800, 40000, 1280, 30000, 6400)]
    device = _SmallDevice(holds=50_000)
    for mine, whole in zip(encode_clips(clips, device), device.codec.encode(clips), strict=True):
        np.testing.assert_array_equal(mine, whole)
    assert device.refused


def test_a_clip_too_large_for_the_device_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(CodecError, match=r"one clip of 4 s.*precision fp16"):
        encode_clips([np.zeros(64_000, np.int16)], _SmallDevice(holds=1000))


_CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
#include <sys/time.h>
/* Every look at the wall clock finds it a minute earlier. */
static long calls;
int clock_gettime(clockid_t id, struct timespec *t) {
  int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
  int found = real(id, t);
  if (id == CLOCK_REALTIME) t->tv_sec -= 60 * __sync_add_and_fetch(&calls, 1);
  return found;
}
int gettimeofday(struct timeval *t, void *zone) {
  struct timespec now;
  (void)zone;
  int found = clock_gettime(CLOCK_REALTIME, &now);
  t->tv_sec = now.tv_sec;
  t->tv_usec = now.tv_nsec / 1000;
  return found;
}
time_t time(time_t *t) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (t) *t = now.tv_sec;
  return now.tv_sec;
}
"""


@pytest.mark.slow
def test_a_clock_that_jumps_back_changes_nothing(tmp_path: Path, undisturbed: dict[str, str]) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to make the clock with")
    (tmp_path / "clock.c").write_text(_CLOCK)
    library = tmp_path / "clock.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(tmp_path / "clock.c"), "-ldl"], check=True)
    look = "import time; a, b = time.time(), time.time(); print(b < a)"
    seen = subprocess.run(
        [sys.executable, "-c", look], env={**os.environ, "LD_PRELOAD": str(library)}, capture_output=True, text=True
    )
    assert seen.stdout.strip() == "True"
    done = _cli(tmp_path / "dataset", 2, tmp_path, LD_PRELOAD=str(library))
    assert done.returncode == 0, done.stderr
    assert _hashes(tmp_path / "dataset") == undisturbed
