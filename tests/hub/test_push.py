"""Datasets arrive on the hub whole, whatever happens on the way, and never in place of something else."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_hub import SIGNED, FakeHub

from duplexdata import push as module
from duplexdata.errors import ConfigError, DatasetError, HubError
from duplexdata.push import Pushed, prepare
from duplexdata.redact import Redactor

TOKEN, REPO = "hf_0123456789abcdefghij", "someone/talks"
LAST = ["README.md", "manifest.json"]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that this process's client asks, in commits of five files."""
    with FakeHub(tokens={TOKEN: ["someone"], "hf_reading-only-0123": []}, page=5) as running:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", running.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(module, "COMMIT_FILES", 5)
        monkeypatch.setattr(module, "_AT_ONCE", 2)
        yield running


@pytest.fixture
def dataset(small_dataset: Path, tmp_path: Path) -> Path:
    return shutil.copytree(small_dataset, tmp_path / "dataset", copy_function=os.link)


def _push(dataset: Path | str, repo: str = REPO, **options: Any) -> Pushed:
    return prepare(dataset, repo, **options).run(lambda n: None, _never)


def _never(seconds: float) -> None:
    raise AssertionError(f"nothing was to wait for, and {seconds} s were waited")


def _names(dataset: Path) -> list[str]:
    return sorted(p.relative_to(dataset).as_posix() for p in dataset.rglob("*") if p.is_file())


def _on_hub(hub: FakeHub, repo: str = REPO, branch: str = "main") -> list[str]:
    return [n for n in hub.stats()["repos"][repo]["branches"][branch] if n != ".gitattributes"]


def _large(dataset: Path) -> set[str]:
    return {hashlib.sha256(p.read_bytes()).hexdigest() for p in dataset.rglob("*.parquet")}


# -- all is well


def test_a_dataset_arrives_whole_and_its_manifest_last(hub: FakeHub, dataset: Path) -> None:
    seen: list[int] = []
    upload = prepare(dataset, REPO)
    made = upload.run(seen.append)
    there = hub.stats()["repos"][REPO]
    assert there["private"] is True
    assert _on_hub(hub) == _names(dataset) and made.sent == sum(seen) == len(_names(dataset)) and made.kept == 0
    *before, last = there["commits"]
    assert made.commits == len(before) > 3  # the first one of all is the hub's own
    assert not any(set(LAST) & set(files) for _, files in before) and set(LAST) <= set(last[1])
    assert {*hub.stats()["uploads"]} >= _large(dataset) and {*hub.stats()["uploads"].values()} == {1}
    assert _fetched(hub) == _held(dataset)


@pytest.mark.parametrize(("wanted", "private"), [(None, True), (True, True), (False, False)])
def test_a_repository_is_private_unless_told_otherwise(
    hub: FakeHub, dataset: Path, wanted: bool | None, private: bool
) -> None:
    _push(dataset, private=wanted)
    assert hub.stats()["repos"][REPO]["private"] is private
    assert _push(dataset).sent == _push(dataset, private=private).sent == 0  # one that is there stays as it is
    with pytest.raises(HubError, match=r"is there and is (private: make it public|public: make it private)"):
        _push(dataset, private=not private)
    assert hub.stats()["repos"][REPO]["private"] is private


def test_of_what_is_there_nothing_is_sent_again(hub: FakeHub, dataset: Path) -> None:
    _push(dataset)
    before = hub.stats()["uploads"]
    made = _push(dataset)
    assert (made.sent, made.commits, made.kept) == (0, 0, len(_names(dataset)))
    assert hub.stats()["uploads"] == before


def test_large_files_go_in_parts(hub: FakeHub, dataset: Path) -> None:
    hub.set(multipart=200_000, part=100_000)
    _push(dataset)
    assert any("/part/9" in what for what in hub.stats()["requests"])
    assert _fetched(hub) == _held(dataset)


def test_a_dataset_behind_a_url_is_pushed(
    hub: FakeHub, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    monkeypatch.setenv("DUPLEXDATA_SCRATCH", str(tmp_path / "scratch"))
    fs = fsspec.filesystem("memory")
    fs.put(str(dataset), "/pushed/talks", recursive=True)
    _push("memory://pushed/talks")
    assert _on_hub(hub) == _names(dataset)
    fs.rm("/pushed", recursive=True)


def test_a_new_branch_starts_empty_whatever_the_main_one_holds(hub: FakeHub, dataset: Path) -> None:
    _push(dataset)
    other = _another(dataset)
    with pytest.raises(HubError, match=r"holds another dataset.*--revision"):
        _push(other)
    _push(other, revision="second")
    assert _on_hub(hub, branch="second") == _names(other)
    assert _on_hub(hub) == _names(dataset)
    assert _push(other, revision="second").sent == 0


# -- interrupted


@pytest.mark.slow
@pytest.mark.parametrize("objects", [0, 3, 7, 12])
def test_a_push_that_was_killed_goes_on_and_sends_nothing_twice(dataset: Path, tmp_path: Path, objects: int) -> None:
    with FakeHub(tokens={TOKEN: ["someone"]}, stall_after=objects) as hub:
        process = _start(hub, dataset, tmp_path)
        for _ in range(1200):
            assert process.poll() is None, process.communicate()[0]
            if len(hub.stats()["uploads"]) >= objects and any(w.startswith("PUT") for w in hub.stats()["requests"]):
                break
            time.sleep(0.05)
        time.sleep(0.5)  # it waits for the answer to the next one
        process.send_signal(signal.SIGKILL)
        process.wait()
        sent = hub.stats()["uploads"]
        assert len(sent) >= objects and not set(LAST) & set(_on_hub(hub))
        hub.set(stall_after=None)
        again = _start(hub, dataset, tmp_path)
        output, _ = again.communicate(timeout=120)
        assert again.returncode == 0, output
        assert _on_hub(hub) == _names(dataset)
        assert {*hub.stats()["uploads"]} >= _large(dataset) and {*hub.stats()["uploads"].values()} == {1}
        assert _fetched(hub) == _held(dataset)


_SMALL_COMMITS = (
    "import duplexdata.push as p; p.COMMIT_FILES, p._AT_ONCE = 5, 2; from duplexdata.cli import main; main()"
)


def _start(hub: FakeHub, dataset: Path, home: Path, *options: str) -> subprocess.Popen[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
    return subprocess.Popen(
        [sys.executable, "-c", _SMALL_COMMITS, "push", str(dataset), REPO, *options],
        env={**environment, "HF_HUB_DISABLE_XET": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


BREAKS = [("/commit/", 500), ("/commit/", 429), ("batch$", 403), ("/preupload/", 400), ("repos/create", 503)]


@pytest.mark.parametrize(("what", "status"), BREAKS)
def test_a_push_that_the_hub_breaks_off_goes_on(hub: FakeHub, dataset: Path, what: str, status: int) -> None:
    upload = prepare(dataset, REPO)
    hub.set(fail=[{"what": what, "status": status, "times": 99}])
    waited: list[float] = []
    with pytest.raises(HubError, match=str(status)) as error:
        upload.run(lambda n: None, waited.append)
    assert error.value.retryable is (status in (429, 500, 503))
    assert waited == ([1, 4, 16] if error.value.retryable else [])
    repos = hub.stats()["repos"]
    assert not repos or not set(LAST) & set(_on_hub(hub))
    hub.set(fail=[])
    _push(dataset)
    assert _on_hub(hub) == _names(dataset) and {*hub.stats()["uploads"].values()} == {1}


@pytest.mark.parametrize(
    ("status", "headers", "seconds"),
    [
        (503, {}, 1),
        (429, {"Retry-After": "37"}, 37),
        (429, {"RateLimit": '"api";r=0;t=55'}, 55),
        (503, {"RateLimit": '"api";r=400;t=55'}, 1),
        (503, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, 1),
    ],
)
def test_what_fails_for_a_moment_is_tried_again_when_the_hub_says(
    hub: FakeHub, dataset: Path, status: int, headers: dict[str, str], seconds: float
) -> None:
    upload = prepare(dataset, REPO)
    hub.set(fail=[{"what": "/commit/", "status": status, "headers": headers, "times": 1}])
    waited: list[float] = []
    upload.run(lambda n: None, waited.append)
    assert waited == [seconds]
    assert _fetched(hub) == _held(dataset)


def test_one_who_is_to_wait_long_is_told_how_long(hub: FakeHub, dataset: Path) -> None:
    upload = prepare(dataset, REPO)
    refusal = {"status": 429, "headers": {"Retry-After": "3600"}, "times": 99}
    hub.set(fail=[{"what": "/commit/", **refusal}])
    with pytest.raises(HubError, match=r"429.*in 3600 s or later run the same command again"):
        upload.run(lambda n: None, _never)
    hub.set(fail=[{"what": "GET /api/datasets", **refusal}])
    with pytest.raises(HubError, match=r"429.*in 3600 s or later run the same command again"):
        prepare(dataset, REPO)


def test_a_commit_whose_answer_is_lost_is_not_made_twice(hub: FakeHub, dataset: Path) -> None:
    upload = prepare(dataset, REPO)
    hub.set(lose=[{"what": "/commit/", "times": 1}])
    waited: list[float] = []
    made = upload.run(lambda n: None, waited.append)
    assert waited == [1] and _fetched(hub) == _held(dataset)
    assert len(hub.stats()["repos"][REPO]["commits"]) == 1 + made.commits  # the first is the hub's own


def test_a_hub_that_goes_away_in_between(hub: FakeHub, dataset: Path) -> None:
    upload = prepare(dataset, REPO)
    hub.stop()
    waited: list[float] = []
    with pytest.raises(HubError, match=r"cannot be reached.*run the same command again") as error:
        upload.run(lambda n: None, waited.append)
    assert waited == [1, 4, 16] and error.value.retryable and "\n" not in str(error.value)


def test_addresses_that_let_one_write_are_not_shown(
    hub: FakeHub, dataset: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    upload = prepare(dataset, REPO)
    hub.set(fail=[{"what": "PUT /lfs/", "status": 403, "times": 99}])
    with pytest.raises(HubError, match="403") as error:
        upload.run(lambda n: None, _never)
    shown = [str(error.value), *capfd.readouterr(), caplog.text]
    assert not any("Signature" in text or TOKEN in text for text in shown)
    quoted = f"PUT 'https://store.example/lfs/1{SIGNED}' failed\nwith {TOKEN}"
    assert module._speakable(quoted, Redactor(TOKEN)) == "PUT 'https://store.example/lfs/1?[…]' failed with [key]"


def test_two_pushes_of_a_dataset_at_once_leave_it(hub: FakeHub, dataset: Path) -> None:
    first, second = prepare(dataset, REPO), prepare(dataset, REPO)
    first.run(lambda n: None)
    second.run(lambda n: None)
    assert _fetched(hub) == _held(dataset)
    assert {*hub.stats()["uploads"].values()} == {1}


def test_of_two_datasets_pushed_at_once_one_is_left(hub: FakeHub, dataset: Path) -> None:
    """Commits know what they follow, and before the manifest goes all is looked at once more."""
    second = prepare(_another(dataset), REPO)
    _push(dataset)
    with pytest.raises(HubError, match=r"holds another dataset|changed meanwhile"):
        second.run(lambda n: None)
    assert _fetched(hub) == _held(dataset)


def test_a_commit_of_somebody_else_in_between_is_noticed(hub: FakeHub, dataset: Path) -> None:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=hub.url, token=TOKEN)
    api.create_repo(REPO, repo_type="dataset")
    upload = prepare(dataset, REPO)
    api.upload_file(path_or_fileobj=b"hello\n", path_in_repo="README.md", repo_id=REPO, repo_type="dataset")
    with pytest.raises(HubError, match=r"changed meanwhile \(412"):
        upload.run(lambda n: None)
    assert not set(_on_hub(hub)) - {"README.md"}
    _push(dataset)  # a card that was there before is replaced
    assert _fetched(hub) == _held(dataset)


# -- refused


def _nothing_was_sent(hub: FakeHub) -> bool:
    stats = hub.stats()
    return not stats["repos"] and not stats["uploads"]


def test_a_damaged_dataset_is_not_sent(hub: FakeHub, dataset: Path) -> None:
    path = dataset / "sft" / "train-00001-of-00002.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=r"sft/train-00001-of-00002\.parquet is not what manifest\.json says"):
        prepare(dataset, REPO)
    path.unlink()
    with pytest.raises(DatasetError, match=r"sft/train-00001-of-00002\.parquet is missing"):
        prepare(dataset, REPO)
    (dataset / "manifest.json").unlink()
    with pytest.raises(DatasetError, match=r"has no manifest\.json"):
        prepare(dataset, REPO)
    assert _nothing_was_sent(hub)


def test_what_is_not_the_datasets_is_not_sent(hub: FakeHub, dataset: Path) -> None:
    (dataset / "notes.txt").write_text("private")
    (dataset / "tokenizer" / "other.json").symlink_to("/etc/hostname")
    _push(dataset)
    assert not {"notes.txt", "tokenizer/other.json"} & set(_on_hub(hub))


def test_without_a_token_nothing_is_begun(hub: FakeHub, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(dataset / "none"))
    with pytest.raises(ConfigError, match=r"no token.*HF_TOKEN.*hf auth login"):
        prepare(dataset, REPO)
    assert not hub.stats()["requests"].keys() - {"GET /stats"}


@pytest.mark.parametrize(
    ("token", "repo", "told"),
    [
        ("hf_unknown-9876543210", REPO, "refuses the token.*401"),
        ("hf_reading-only-0123", REPO, "refuses the token.*401|may not write"),
        (TOKEN, "another/talks", "may not write there.*403"),
    ],
)
def test_a_token_that_may_not_write_is_told_so(
    hub: FakeHub, dataset: Path, monkeypatch: pytest.MonkeyPatch, token: str, repo: str, told: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(HubError, match=told) as error:
        _push(dataset, repo)
    assert token not in str(error.value)
    assert _nothing_was_sent(hub)


def test_a_repository_of_something_else_is_left_alone(hub: FakeHub, dataset: Path) -> None:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=hub.url, token=TOKEN)
    api.create_repo(REPO, repo_type="dataset")
    api.upload_file(path_or_fileobj=b"a,b\n", path_in_repo="data.csv", repo_id=REPO, repo_type="dataset")
    before = hub.stats()["repos"]
    with pytest.raises(HubError, match=r"holds other files \(data\.csv\)"):
        _push(dataset)
    with pytest.raises(HubError, match="is public"):
        _push(dataset, private=True)
    assert hub.stats()["repos"] == before
    for wrong in ("talks", "a/b/c", "../x", "someone/ta lks", ""):
        with pytest.raises(ConfigError, match="expected owner/name"):
            _push(dataset, wrong)


@pytest.mark.parametrize("kind", ["model", "space"])
def test_a_name_that_something_else_has_is_likely_a_mistake(hub: FakeHub, dataset: Path, kind: str) -> None:
    from huggingface_hub import HfApi

    hub.set(others=[f"{kind}s/{REPO}"])
    with pytest.raises(HubError, match=f"{REPO} is a {kind} and no dataset"):
        _push(dataset)
    assert _nothing_was_sent(hub)
    HfApi(endpoint=hub.url, token=TOKEN).create_repo(REPO, repo_type="dataset")
    assert _push(dataset).sent == len(_names(dataset))


def test_a_hub_that_cannot_be_reached(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match="cannot be reached") as error:
        prepare(dataset, REPO)
    assert error.value.retryable


def _another(dataset: Path) -> Path:
    """The same files, and a manifest that says something else."""
    other = shutil.copytree(dataset, dataset.with_name("other"), copy_function=os.link)
    manifest = json.loads((other / "manifest.json").read_text(encoding="utf-8"))
    (other / "manifest.json").unlink()
    (other / "manifest.json").write_text(json.dumps({**manifest, "seed": 99}), encoding="utf-8")
    return other


# -- and back


def _fetched(hub: FakeHub) -> dict[str, bytes]:
    """What the hub gives of the dataset's files."""
    url = f"{hub.url}/datasets/{REPO}/resolve/main"
    return {n: urllib.request.urlopen(f"{url}/{n}", timeout=10).read() for n in _on_hub(hub)}


def _held(dataset: Path) -> dict[str, bytes]:
    return {n: (dataset / n).read_bytes() for n in _names(dataset)}


_LOAD = """
import sys
from datasets import load_dataset
from duplexdata import load_audio
for name in ("sft", "dpo", "tdm", "duo", "codes", "conversations"):
    rows = load_dataset(sys.argv[1], name)
    print(name, rows["train"].num_rows + rows["test"].num_rows)
row = next(iter(load_dataset(sys.argv[1], "conversations", split="test", streaming=True)))
print(row["id"], load_audio(row)[0].shape[0])
"""


@pytest.mark.slow
def test_a_pushed_dataset_is_loaded_as_any_other(hub: FakeHub, dataset: Path, tmp_path: Path) -> None:
    _push(dataset, private=True)
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, REPO], env={**environment, "HF_HUB_DISABLE_XET": "1"}, capture_output=True,
        text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    manifest = json.loads((dataset / "manifest.json").read_text(encoding="utf-8"))
    rows: dict[str, int] = {}
    for name, facts in manifest["files"].items():
        rows[name.split("/")[0]] = rows.get(name.split("/")[0], 0) + facts["rows"]
    *configs, streamed = done.stdout.splitlines()
    assert {c.split()[0]: int(c.split()[1]) for c in configs} == {c: n for c, n in rows.items() if c != "tokenizer"}
    assert streamed.split()[1] == "2"
