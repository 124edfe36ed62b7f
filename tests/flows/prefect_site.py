"""A Prefect installation of a test's own: a server, workers, deployments, all of them real processes on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from duplexdata.build import build
from duplexdata.config_file import load_config

ROOT = Path(__file__).resolve().parents[2]
HEARTBEAT_SEC = 30


def plain_build(out: Path, config: str | None = None, **settings: object) -> dict[str, str]:
    """What the same settings give without Prefect."""
    build(load_config(config, settings), out, workers=1, report=lambda *_: None)
    return hashes(out)


def hashes(dataset: Path) -> dict[str, str]:
    """Of every file that the manifest names, and of the manifest."""
    names = json.loads((dataset / "manifest.json").read_text(encoding="utf-8"))["files"]
    return {n: hashlib.sha256((dataset / n).read_bytes()).hexdigest() for n in [*names, "manifest.json"]}


def until(condition: Callable[[], Any], seconds: float, what: str, every: float = 0.2) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(every)
    raise AssertionError(f"waited {seconds} s in vain: {what}")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@dataclass(frozen=True)
class Site:
    """
    Attributes:
        env: of every process that belongs to it; by this they are found again.
    """

    url: str
    env: dict[str, str]

    @property
    def home(self) -> Path:
        return Path(self.env["PREFECT_HOME"])

    def prefect(self, *arguments: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=self.env, text=True, capture_output=True, timeout=timeout, check=False
        )

    def build(self, timeout: float = 400, **parameters: object) -> subprocess.CompletedProcess[str]:
        """A run of the deployment, to its end."""
        options = [f"--param={name}={value}" for name, value in parameters.items()]
        return self.prefect("deployment", "run", "build/local", *options, "--watch", timeout=timeout)

    def begin(self, **parameters: object) -> str:
        """Have a run of the deployment started. Returns: its id."""
        done = self.prefect("deployment", "run", "build/local", "--params", json.dumps(parameters))
        assert done.returncode == 0, done.stdout + done.stderr
        return str(self.last_run()["id"])

    def cancel(self, which: str) -> None:
        """As `prefect flow-run cancel` does, without the time that takes to start."""
        self.post(f"flow_runs/{which}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})

    def start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        """A process of this installation, in a group of its own; what it says is in `name`.log.

        With SIGINT as a terminal gives it: where it is ignored, a worker does not obey SIGTERM either.
        """
        with (self.home / f"{name}.log").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=ROOT,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    @contextmanager
    def running(self, name: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """`start`, and its end."""
        process = self.start(name, *arguments)
        try:
            yield process
        finally:
            end(process)

    def worker(self, name: str = "worker", *more: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
        """A Prefect worker of the pool, while the context lasts."""
        options = ("--pool", "local", "--name", name, "--install-policy", "never", *more)
        return self.running(name, "prefect", "worker", "start", *options)

    def log(self, name: str) -> str:
        return (self.home / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def post(self, path: str, body: object) -> Any:
        request = urllib.request.Request(
            f"{self.url}/{path}", data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=100) as answer:
            return json.load(answer)

    def find(self, what: str, **filters: object) -> list[dict[str, Any]]:
        return list(self.post(f"{what}/filter", filters))

    def last_run(self) -> dict[str, Any]:
        return self.find("flow_runs", sort="EXPECTED_START_TIME_DESC", limit=1)[0]

    def run(self, which: str) -> dict[str, Any]:
        return self.find("flow_runs", flow_runs={"id": {"any_": [which]}})[0]

    def ended(self, which: str, seconds: float = 200) -> dict[str, Any]:
        """A run once it has ended, in whatever way."""
        final = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        until(lambda: self.run(which)["state_type"] in final, seconds, f"the end of run {which}", every=0.5)
        return self.run(which)

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
        return {pid: command for pid, command in found.items() if command}  # a dead one that nobody waited for has none

    def healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def installation(home: Path, commands: Sequence[Sequence[str]]) -> Iterator[Site]:
    """A server, set up by these commands of Prefect's. Nothing of it is left behind.

    Args:
        home: an empty folder.
    """
    if sys.platform != "linux":
        pytest.skip("finds its processes in /proc")
    port = free_port()
    (home / "tmp").mkdir()
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
            "TMPDIR": str(home / "tmp"),
        },
    )
    try:
        with site.running("server", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)):
            until(site.healthy, 400, f"the server, see {home / 'server.log'}")
            for command in commands:
                done = site.prefect(*command)
                assert done.returncode == 0, done.stdout + done.stderr
            yield site
    finally:
        for pid in site.processes():
            os.kill(pid, signal.SIGKILL)


SET_UP = (
    ("work-pool", "create", "local", "--type", "process"),
    ("deploy", "--prefect-file", "flows/prefect.yaml", "--all"),
)
