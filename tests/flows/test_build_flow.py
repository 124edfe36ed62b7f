"""The flow as a data engineer runs it: a real server, a real worker, deployments and killed processes."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from duplexdata.build import build
from duplexdata.config_file import load_config
from duplexdata.errors import ConfigError, ShardError
from duplexdata.stages.speak import conversations_path

pytest.importorskip("prefect", reason="the extra [prefect] is not installed")

ROOT = Path(__file__).resolve().parents[2]
PREFECT_YAML = yaml.safe_load((ROOT / "flows/prefect.yaml").read_text(encoding="utf-8"))
HEARTBEAT_SEC = 30


@pytest.fixture(scope="module")
def flow_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("flow_build", ROOT / "flows/build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plain_build(out: Path, config: str | None = None, **settings: object) -> dict[str, str]:
    """What the same settings give without Prefect."""
    build(load_config(config, settings), out, workers=1, report=lambda *_: None)
    return hashes(out)


def hashes(dataset: Path) -> dict[str, str]:
    """Of every file that the manifest names, and of the manifest."""
    names = json.loads((dataset / "manifest.json").read_text(encoding="utf-8"))["files"]
    return {n: hashlib.sha256((dataset / n).read_bytes()).hexdigest() for n in [*names, "manifest.json"]}


def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.2)
    raise AssertionError(f"waited {seconds} s in vain: {what}")


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
    with pytest.raises(ShardError, match="cannot be read"):
        flow_module.build(conversations=4, out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_wrong_setting_is_one_clear_error(harness: None, flow_module: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no-such-preset"):
        flow_module.build(config="no-such-preset", out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


# -- as in the README: a server, a worker, deployments


@dataclass(frozen=True)
class Site:
    """A Prefect installation of the test's own."""

    url: str
    env: dict[str, str]

    def prefect(self, *arguments: str, timeout: float = 150) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=self.env, text=True, capture_output=True, timeout=timeout, check=False
        )

    def build(self, **parameters: object) -> subprocess.CompletedProcess[str]:
        options = [f"--param={name}={value}" for name, value in parameters.items()]
        return self.prefect("deployment", "run", "build/local", *options, "--watch")

    def find(self, what: str, **filters: object) -> list[dict[str, Any]]:
        request = urllib.request.Request(
            f"{self.url}/{what}/filter",
            data=json.dumps(filters).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return list(json.load(answer))

    def last_run(self) -> dict[str, Any]:
        return self.find("flow_runs", sort="EXPECTED_START_TIME_DESC", limit=1)[0]

    def tasks(self, run: dict[str, Any]) -> list[dict[str, Any]]:
        return self.find("task_runs", flow_runs={"id": {"any_": [run["id"]]}})

    def processes(self) -> dict[int, str]:
        """Command lines of all that belongs to this installation, by process id."""
        mark = f"PREFECT_HOME={self.env['PREFECT_HOME']}".encode()
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
        found.pop(os.getpid(), None)
        return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if sys.platform != "linux":
        pytest.skip("finds its processes in /proc")
    home = tmp_path_factory.mktemp("prefect")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    others = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    site = Site(
        f"http://127.0.0.1:{port}/api",
        others
        | {
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SEC),
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "DO_NOT_TRACK": "1",
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(home / "huggingface"),
        },
    )
    started = []
    try:
        started.append(start(site, home / "server.log", "server", "start", "--host", "127.0.0.1", "--port", str(port)))
        until(lambda: healthy(site), 120, f"the server, see {home / 'server.log'}")
        for command in (
            ("work-pool", "create", "local", "--type", "process"),
            ("deploy", "--prefect-file", "flows/prefect.yaml", "--all"),
            ("automation", "create", "--from-file", "flows/zombies.yaml"),
        ):
            done = site.prefect(*command)
            assert done.returncode == 0, done.stdout + done.stderr
        started.append(
            start(site, home / "worker.log", "worker", "start", "--pool", "local", "--install-policy", "never")
        )
        yield site
    finally:
        for process in reversed(started):
            process.terminate()
        for process in reversed(started):
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pid in site.processes():
            os.kill(pid, signal.SIGKILL)


def start(site: Site, log: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """With SIGINT as a terminal gives it: where it is ignored, a worker does not obey SIGTERM either."""
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "prefect", *arguments],
            cwd=ROOT,
            env=site.env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )


def healthy(site: Site) -> bool:
    try:
        with urllib.request.urlopen(f"{site.url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


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
    parameters = f'{{"conversations": 100, "out": "{out}"}}'
    begun = site.prefect("deployment", "run", "build/local", "--params", parameters)
    assert begun.returncode == 0, begun.stdout + begun.stderr
    killed = site.last_run()
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
