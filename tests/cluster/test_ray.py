"""A build on a Ray cluster of real processes, one of whose nodes is killed in the middle.

Ray listens on every interface of a machine. So all of it, Prefect's server too, runs in a network namespace that has
nothing but the loopback interface.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cluster.runs import Run
from tests.flows.prefect_site import ROOT, Site, free_port, until

pytest.importorskip("prefect_ray", reason="the extra [ray] is not installed")
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]
_INSIDE = "DUPLEXDATA_TEST_IN_NAMESPACE"
_ONLY_LOOPBACK = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]


@pytest.mark.skipif(_INSIDE in os.environ, reason="is what runs the other")
def test_in_a_namespace_of_its_own() -> None:
    if subprocess.run([*_ONLY_LOOPBACK, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make a network namespace")
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cluster", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(
        [*_ONLY_LOOPBACK, *command],
        cwd=ROOT,
        env=os.environ | {_INSIDE: "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout, done.stdout


@pytest.fixture
def cluster(site: Site, nothing_left: None) -> Iterator[tuple[Site, str, int]]:
    """A head and a node of one CPU each: the site whose processes may join, the address, the node's process id."""
    # Paths of sockets may have 107 characters.
    folder = tempfile.mkdtemp(prefix="ray-")
    ray = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16), "RAY_TMPDIR": folder}
    site = replace(site, env=site.env | ray | {"RAY_USAGE_STATS_ENABLED": "0"})
    address = f"127.0.0.1:{free_port()}"
    common = ("ray.scripts.scripts", "start", "--block", "--num-cpus", "1", "--node-ip-address", "127.0.0.1")
    head = ("--head", "--port", address.rpartition(":")[2], "--include-dashboard", "false", "--temp-dir", folder)
    try:
        with ExitStack() as stack:
            stack.enter_context(site.running("ray-head", *common, *head))
            until(lambda: "Ray runtime started" in site.log("ray-head"), 300, "ray's head")
            before = site.processes()
            stack.enter_context(site.running("ray-node", *common, "--address", address))
            until(lambda: "Ray runtime started" in site.log("ray-node"), 300, "ray's node")
            [raylet] = [pid for pid, c in site.processes().items() if pid not in before and "/raylet/raylet" in c]
            yield site, address, raylet
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.skipif(_INSIDE not in os.environ, reason="runs in a namespace, see above")
def test_a_node_killed_in_the_middle_costs_nothing(
    cluster: tuple[Site, str, int], run: Run, undisturbed: dict[str, str]
) -> None:
    interfaces = [row.partition(":")[0].strip() for row in Path("/proc/net/dev").read_text().splitlines()[2:]]
    assert interfaces == ["lo"]
    site, address, raylet = cluster
    with site.worker():
        which = site.begin(**run.parameters, engine="ray", address=address)
        kept = until(lambda: len(found := run.spoken()) >= 4 and found, 600, "four spoken shards", every=0.05)
        assert len(kept) < 20
        os.kill(raylet, signal.SIGKILL)
        ended = site.ended(which, 800)
    assert ended["state_type"] == "COMPLETED", ended["state"]
    run.check(undisturbed, kept)
