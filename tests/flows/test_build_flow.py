"""The flow as a data engineer runs it: a real server, a real worker, deployments and killed processes."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from duplexdata.errors import ConfigError, ShardError
from duplexdata.stages.speak import conversations_path
from tests.flows.prefect_site import HEARTBEAT_SEC, ROOT, SET_UP, Site, hashes, installation, plain_build, until

pytest.importorskip("prefect", reason="the extra [prefect] is not installed")

PREFECT_YAML = yaml.safe_load((ROOT / "flows/prefect.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def flow_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("flow_build", ROOT / "flows/build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- what can be known without a server


@pytest.mark.parametrize(
    "deployment",
    [d for d in PREFECT_YAML["deployments"] if d["entrypoint"].startswith("flows/build.py") and "parameters" in d],
    ids=lambda d: d["name"],
)
def test_deployments_pass_what_the_flow_takes(flow_module: ModuleType, deployment: dict[str, Any]) -> None:
    path, name = deployment["entrypoint"].split(":")
    assert (ROOT / path).is_file()
    flow = getattr(flow_module, name)
    assert set(deployment["parameters"]) <= set(flow.parameters.properties)
    assert flow.validate_parameters(deployment["parameters"])


def test_the_first_deployment_shows_every_parameter_with_its_default(flow_module: ModuleType) -> None:
    properties = flow_module.build.parameters.properties
    assert PREFECT_YAML["deployments"][0]["parameters"] == {n: p["default"] for n, p in properties.items()}
    assert all(p["description"] for p in properties.values())


def test_a_healthy_run_is_no_zombie() -> None:
    """The automation waits for three heartbeats."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["prefect"]
    [automation] = yaml.safe_load((ROOT / "flows/zombies.yaml").read_text(encoding="utf-8"))["automations"]
    assert automation["trigger"]["within"] == 3 * settings["flows"]["heartbeat_frequency"] == 3 * HEARTBEAT_SEC


# -- in this process, with a throw-away server


@pytest.fixture(scope="module")
def harness() -> Iterator[None]:
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.mark.slow
def test_without_sound(harness: None, flow_module: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "text"
    made = flow_module.build(config="duplex-ultrachat", conversations=8, out=str(out))
    assert made == str(out)
    assert hashes(out) == plain_build(tmp_path / "plain", "duplex-ultrachat", conversations=8)


@pytest.mark.slow
def test_codes_by_themselves_are_the_same(
    harness: None, flow_module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A codec with a device of its own has tasks of its own."""
    monkeypatch.setattr(flow_module, "fused", lambda _: False)
    flow_module.build(conversations=4, out=str(tmp_path / "flow"))
    assert hashes(tmp_path / "flow") == plain_build(tmp_path / "plain", conversations=4)


@pytest.mark.slow
def test_a_stage_that_fails_ends_the_run(
    harness: None, flow_module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stages behind it never start, and have nothing to say."""
    monkeypatch.setattr(flow_module, "fused", lambda _: False)
    monkeypatch.setattr(flow_module, "speak", conversations_path)  # which speaks nothing
    with pytest.raises(ShardError, match="not finished, or its files are gone"):
        flow_module.build(conversations=4, out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_wrong_setting_is_one_clear_error(harness: None, flow_module: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no-such-preset"):
        flow_module.build(config="no-such-preset", out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


# -- as in the README: a server, a worker, deployments


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    zombies = ("automation", "create", "--from-file", "flows/zombies.yaml")
    with installation(tmp_path_factory.mktemp("prefect"), [*SET_UP, zombies]) as site, site.worker():
        yield site


@pytest.mark.slow
def test_a_deployment_builds_once_and_the_same_as_without_prefect(site: Site, tmp_path: Path) -> None:
    out = tmp_path / "dataset"
    done = site.build(conversations=24, out=out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert hashes(out) == plain_build(tmp_path / "plain", conversations=24)
    run = site.last_run()
    assert json.loads((out / "manifest.json").read_text())["fingerprint"] in run["name"]
    assert "speech and codes train-00000-of-00001" in {t["name"] for t in site.tasks(run)}
    artifacts = site.find("artifacts", flow_runs={"id": {"any_": [run["id"]]}})
    assert {a["type"]: a["key"] for a in artifacts} == {
        "progress": "build-progress",
        "table": "build-counts",
        "markdown": "build-dataset",
    }
    assert {a["data"] for a in artifacts if a["type"] == "progress"} == {100.0}
    load = f"from datasets import load_dataset; print(load_dataset({str(out)!r}, 'sft', split='train').num_rows)"
    loaded = subprocess.run(
        [sys.executable, "-c", load], env=site.env, text=True, capture_output=True, timeout=100, check=False
    )
    assert loaded.returncode == 0 and int(loaded.stdout) > 0, loaded.stderr

    before = (out / "manifest.json").stat().st_mtime_ns
    again = site.build(conversations=24, out=out)
    assert again.returncode == 0, again.stdout + again.stderr
    assert site.last_run()["id"] != run["id"]
    assert site.tasks(site.last_run()) == []
    assert (out / "manifest.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_killed_run_is_gone_on_with(site: Site, tmp_path: Path) -> None:
    """The engine is killed once a shard is spoken; that shard's file is the one that ends up in the dataset."""
    out, work = tmp_path / "dataset", tmp_path / ".dataset.work"
    killed = site.run(site.begin(conversations=100, out=str(out)))
    marker = until(lambda: next(work.glob("speech-*/*.done.json"), None), 100, "a spoken shard")
    spoken = marker.with_name(marker.name.replace(".done.json", ".parquet"))
    inode = spoken.stat().st_ino
    [engine] = [pid for pid, command in site.processes().items() if "prefect.engine" in command]
    os.kill(engine, signal.SIGKILL)
    until(lambda: site.last_run()["state_type"] == "CRASHED", 60, "the worker to report the crash")
    until(lambda: all("forkserver" not in c for c in site.processes().values()), 10, "its processes to end")
    assert not (out / "manifest.json").exists()

    done = site.build(conversations=100, out=out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert site.last_run()["id"] != killed["id"]
    assert (out / "conversations" / spoken.name).stat().st_ino == inode
    assert not work.exists()
    assert hashes(out) == plain_build(tmp_path / "plain", conversations=100)


@pytest.mark.slow
def test_a_source_that_is_not_there_is_named(site: Site, tmp_path: Path) -> None:
    done = site.build(source=json.dumps([str(tmp_path / "missing.jsonl")]), out=tmp_path / "dataset")
    assert done.returncode == 1, done.stdout + done.stderr
    run = site.last_run()
    assert run["state_type"] == "FAILED"
    assert run["state"]["message"].startswith(f"SourceError: {tmp_path / 'missing.jsonl'}: no such file")
    assert [t["run_count"] for t in site.tasks(run)] == [1], "a retry cannot help"


@pytest.mark.slow
def test_a_bad_parameter_is_refused_before_anything_runs(site: Site) -> None:
    before = len(site.find("flow_runs"))
    refused = site.build(conversations=0)
    assert refused.returncode == 1
    assert "conversations" in refused.stdout and "less than the minimum of 1" in " ".join(refused.stdout.split())
    assert len(site.find("flow_runs")) == before
