"""A build on a Dask cluster of real processes, one of which is killed in the middle."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cluster.runs import Run
from tests.flows.prefect_site import Site, free_port, until

pytest.importorskip("prefect_dask", reason="the extra [dask] is not installed")
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
_LISTENING = "0A"


@pytest.fixture
def cluster(site: Site, nothing_left: None) -> Iterator[tuple[str, list[int]]]:
    """A scheduler and two workers of one thread each: its address, and the workers' process ids."""
    address = f"tcp://127.0.0.1:{free_port()}"
    loopback = ("--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0")
    with ExitStack() as stack:
        scheduler = ("distributed.cli.dask_scheduler", "--port", address.rpartition(":")[2], *loopback)
        stack.enter_context(site.running("dask-scheduler", *scheduler))
        pids = []
        for n in range(2):
            folder = site.home / f"dask-{n}"
            options = (*loopback, "--nthreads", "1", "--no-nanny", "--name", str(n), "--local-directory", str(folder))
            worker = stack.enter_context(
                site.running(f"dask-worker-{n}", "distributed.cli.dask_worker", address, *options)
            )
            pids.append(worker.pid)
        for n in range(2):
            until(lambda n=n: "Registered to" in site.log(f"dask-worker-{n}"), 200, f"dask's worker {n}")
        yield address, pids


def listening(pid: int) -> set[str]:
    """Addresses, in the kernel's hexadecimal, at which a process takes connections."""
    sockets = {
        found[1]
        for link in Path(f"/proc/{pid}/fd").iterdir()
        if (found := re.fullmatch(r"socket:\[(\d+)\]", str(link.readlink())))
    }
    rows = [
        row.split()
        for table in ("tcp", "tcp6")
        for row in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
    ]
    return {row[1].partition(":")[0] for row in rows if row[3] == _LISTENING and row[9] in sockets}


def test_a_worker_killed_in_the_middle_costs_nothing(
    site: Site, cluster: tuple[str, list[int]], run: Run, undisturbed: dict[str, str]
) -> None:
    address, workers = cluster
    assert {found for pid in workers for found in listening(pid)} == {"0100007F"}, "loopback, and nothing else"
    with site.worker():
        which = site.begin(**run.parameters, engine="dask", address=address)
        before = until(lambda: len(found := run.spoken()) >= 4 and found, 400, "four spoken shards", every=0.05)
        assert len(before) < 20
        os.kill(workers[0], signal.SIGKILL)
        ended = site.ended(which, 600)
    assert ended["state_type"] == "COMPLETED", ended["state"]
    run.check(undisturbed, kept=before)
    assert "Remove worker addr" in site.log("dask-scheduler")
