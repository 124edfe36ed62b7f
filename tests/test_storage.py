"""Datasets and work folders behind URLs, on a real S3 server of this machine."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from duplexdata.build import build
from duplexdata.config import Config, ShardConfig
from duplexdata.errors import ConfigError, DatasetError, StorageError
from duplexdata.fetch import at_hand
from duplexdata.shards import FileFacts
from duplexdata.stages.work import Marker, read_marker, write_marker
from duplexdata.storage import LocalFolder, RemoteFolder, Store, folder_at
from duplexdata.verify import verify

SMALL = Config(conversations=24, shards=ShardConfig(conversations=6, test_fraction=0.2))
SETTINGS = {"conversations": 24, "shards": {"conversations": 6, "test_fraction": 0.2}}


def _hashes(dataset: Path) -> dict[str, str]:
    return {
        str(p.relative_to(dataset)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(dataset.rglob("*"))
        if p.is_file()
    }


def _remote_hashes(url: str) -> dict[str, str]:
    fs, root = fsspec.core.url_to_fs(url)
    fs.invalidate_cache()
    return {p[len(root) + 1 :]: hashlib.sha256(fs.cat_file(p)).hexdigest() for p in sorted(fs.find(root))}


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An S3 server in a process of its own; the environment that leads there."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    log = (tmp_path_factory.mktemp("s3") / "log").open("w")
    command = [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=log, stderr=log)
    endpoint = f"http://127.0.0.1:{port}"
    for _ in range(300):
        try:
            urllib.request.urlopen(endpoint + "/moto-api/", timeout=1)
            break
        except OSError:
            time.sleep(0.1)
    there = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "a-secret-that-nobody-may-see",
        "AWS_DEFAULT_REGION": "us-east-1",
        "DUPLEXDATA_SCRATCH": str(tmp_path_factory.mktemp("scratch")),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in there.items():
            patch.setenv(name, value)
        fsspec.filesystem("s3").mkdir("corpora")
        yield there
    server.kill()
    server.wait()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("espeakng_loader")
    out = tmp_path_factory.mktemp("local") / "dataset"
    assert build(SMALL, out, workers=1, report=lambda *_: None)
    return out


def _same(url: str, local: Path) -> bool:
    return _remote_hashes(url) == _hashes(local)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_build_into_a_bucket_has_the_bytes_of_a_local_one_and_leaves_nothing_else(
    s3: dict[str, str], local: Path, workers: int
) -> None:
    url = f"s3://corpora/built-by-{workers}/dataset"
    assert build(SMALL, url, workers=workers, report=lambda *_: None)
    assert _same(url, local)
    assert not fsspec.filesystem("s3").exists(f"corpora/built-by-{workers}/.dataset.work")
    assert not build(SMALL, url, workers=workers, report=lambda *_: None)


@pytest.mark.slow
def test_a_killed_build_into_a_bucket_is_resumed_on_a_machine_that_has_none_of_its_files(
    s3: dict[str, str], local: Path, tmp_path: Path
) -> None:
    url = "s3://corpora/killed/dataset"
    settings = tmp_path / "config.yaml"
    settings.write_text(json.dumps(SETTINGS))
    command = [sys.executable, "-m", "duplexdata.cli", "build", "--config", str(settings), "--out", url]
    fs = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
    kills = 0
    for n, markers in enumerate((2, 6)):
        environment = {**os.environ, "DUPLEXDATA_SCRATCH": str(tmp_path / f"machine-{n}")}
        process = subprocess.Popen(
            [*command, "--workers", "2"], env=environment, start_new_session=True, stdout=subprocess.DEVNULL
        )
        while process.poll() is None:
            if len([p for p in fs.find("corpora/killed/.dataset.work") if p.endswith(".done.json")]) >= markers:
                os.killpg(process.pid, signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.05)
        process.wait()
        assert not fs.exists("corpora/killed/dataset/manifest.json")
    assert kills == 2
    environment = {**os.environ, "DUPLEXDATA_SCRATCH": str(tmp_path / "machine-last")}
    done = subprocess.run([*command, "--workers", "1"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert _same(url, local)
    assert "a-secret" not in done.stdout + done.stderr


@pytest.mark.slow
def test_a_dataset_in_a_bucket_is_verified_shown_and_emitted_by_its_url(
    s3: dict[str, str], local: Path, tmp_path: Path
) -> None:
    fs = fsspec.filesystem("s3")
    fs.put(str(local), "corpora/read/dataset", recursive=True)
    url = "s3://corpora/read/dataset"
    assert list(verify(at_hand(url, check=False))) == []
    for command in (
        ["verify", url],
        ["show", url, "--first", "back", "--wav", str(tmp_path / "x.wav")],
        ["emit", url, "--out", str(tmp_path / "again"), "--blocks", "10:4"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "duplexdata.cli", *command], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (command, done.stderr)
    # A file that was changed in the bucket is reported like any other.
    victim = sorted(fs.glob("corpora/read/dataset/sft/train-*"))[0]
    content = bytearray(fs.cat_file(victim))
    content[len(content) // 2] ^= 1
    fs.pipe_file(victim, bytes(content))
    assert {v.rule for v in verify(at_hand(url, check=False))} & {"checksum", "sha256"}
    with pytest.raises(StorageError, match="is not what was written"):
        at_hand(url)


def test_a_bucket_that_is_not_there_is_one_clear_error(s3: dict[str, str]) -> None:
    with pytest.raises((StorageError, ConfigError, DatasetError), match="s3://no-such-bucket"):
        build(SMALL, "s3://no-such-bucket/dataset", workers=1, report=lambda *_: None)


def test_a_folder_in_a_bucket_that_holds_other_files_is_left_alone(s3: dict[str, str]) -> None:
    fsspec.filesystem("s3").pipe_file("corpora/others/thesis.txt", b"mine")
    with pytest.raises(DatasetError, match=r"thesis\.txt"):
        build(SMALL, "s3://corpora/others", workers=1, report=lambda *_: None)


def test_a_url_with_a_password_is_refused_without_repeating_it() -> None:
    with pytest.raises(ConfigError) as refused:
        folder_at("s3://someone:hunter2@bucket/dataset")
    assert "hunter2" not in str(refused.value)


def test_an_unknown_protocol_is_named_with_what_to_install() -> None:
    with pytest.raises(ConfigError, match="fsspec needs for nowhere"):
        folder_at("nowhere://x/y").names()


def test_memory_is_refused_for_several_processes() -> None:
    with pytest.raises(ConfigError, match="one process"):
        build(SMALL, "memory://dataset", workers=2, report=lambda *_: None)


@pytest.mark.slow
def test_one_process_builds_into_memory(local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUPLEXDATA_SCRATCH", str(tmp_path))
    assert build(SMALL, "memory://somewhere/dataset", workers=1, report=lambda *_: None)
    assert _same("memory://somewhere/dataset", local)
    assert not list(tmp_path.rglob("*.parquet")), "the scratch folder is emptied"


def test_a_file_url_is_a_folder(tmp_path: Path) -> None:
    assert folder_at(f"file://{tmp_path}/x") == LocalFolder(tmp_path / "x")


def _finished(store: Store, text: bytes = b"some rows") -> tuple[Path, FileFacts]:
    path = store.local / "stage" / "rows.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text)
    facts = FileFacts(1, len(text), hashlib.sha256(text).hexdigest())
    write_marker(store, path.with_name("done.json"), Marker("f", {path.name: facts}))
    return path, facts


@pytest.mark.parametrize("remote", [False, True])
def test_finished_work_is_found_until_one_of_its_bits_flips(
    tmp_path: Path, remote: bool, request: pytest.FixtureRequest
) -> None:
    place = RemoteFolder(f"memory://{request.node.name}") if remote else None
    store = Store(tmp_path / "here", place)
    path, facts = _finished(store)
    assert read_marker(store, path.with_name("done.json"), "f") is not None
    assert read_marker(store, path.with_name("done.json"), "another fingerprint") is None
    path.write_bytes(b"some rowS")
    if place is None:
        assert read_marker(store, path.with_name("done.json"), "f") is None
    else:  # the copy behind the URL vouches for it, and replaces what was damaged here
        assert store.bring(path, facts).read_bytes() == b"some rows"
        place.write("stage/rows.bin", "some rowS")
        path.unlink()
        with pytest.raises(StorageError, match="not what was written"):
            store.bring(path, facts)
        assert not path.exists() and not list(tmp_path.rglob("*.tmp"))


def test_work_whose_marker_was_not_written_is_not_there_for_others(tmp_path: Path) -> None:
    place = RemoteFolder("memory://markers-last")
    _finished(Store(tmp_path / "one", place))
    place.remove("stage/done.json")
    assert read_marker(Store(tmp_path / "two", place), tmp_path / "two/stage/done.json", "f") is None


def test_a_place_travels_between_processes_without_its_connection() -> None:
    place = RemoteFolder("memory://travels")
    place.write("a", "b")
    assert pickle.loads(pickle.dumps(place)).read("a") == "b"  # noqa: S301
    assert b"MemoryFileSystem" not in pickle.dumps(place)
