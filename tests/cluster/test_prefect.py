"""A deployment's runs, as Prefect's workers start them: killed, cancelled, two at a time, and shared by two workers."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest

from tests.cluster.runs import TWENTY_SHARDS, Run
from tests.flows.prefect_site import Site, until

pytest.importorskip("prefect", reason="the extra [prefect] is not installed")
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500), pytest.mark.usefixtures("nothing_left")]
STOPS_WITHIN_SEC = 10


def some_spoken(run: Run, at_least: int) -> dict[str, int]:
    found: dict[str, int] = until(
        lambda: len(found := run.spoken()) >= at_least and found, 400, f"{at_least} spoken shards", every=0.02
    )
    return found


def test_all_that_a_worker_started_is_killed_and_the_run_gone_on_with(
    site: Site, run: Run, undisturbed: dict[str, str]
) -> None:
    """As by a power cut. The dead run is found out by the automation, 90 s later: nobody has to wait for that."""
    others = site.processes()
    with site.worker("killed"):
        site.begin(**run.parameters)
        kept = some_spoken(run, 3)
        while mortal := set(site.processes()) - set(others):
            for pid in mortal:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
    assert not (run.out / "manifest.json").exists()
    with site.worker("next"):
        done = site.build(**run.parameters)
    assert done.returncode == 0, done.stdout + done.stderr
    run.check(undisturbed, kept)


def test_a_run_whose_worker_alone_is_killed_ends_and_is_gone_on_with(
    site: Site, run: Run, undisturbed: dict[str, str]
) -> None:
    """Nobody is left to read what it says: the run fails by itself, its processes with it."""
    others = site.processes()
    with site.worker("killed-alone") as worker:
        which = site.begin(**run.parameters, workers=1)
        kept = some_spoken(run, 2)
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
        site.ended(which)
        until(lambda: set(site.processes()) <= set(others), 100, "the run's processes to end")
    with site.worker("next-alone"):
        done = site.build(**run.parameters)
    assert done.returncode == 0, done.stdout + done.stderr
    run.check(undisturbed, kept)


def test_a_cancelled_run_stops_in_seconds_and_is_gone_on_with(site: Site, tmp_path: Path) -> None:
    settings = TWENTY_SHARDS | {"conversations": 120, "shards": {"conversations": 6, "test_fraction": 0.2}}
    run, expected = Run(tmp_path / "cancelled", settings), Run(tmp_path / "expected", settings).undisturbed()
    others = site.processes()
    with site.worker("cancelling") as worker:
        which = site.begin(**run.parameters, workers=1)
        some_spoken(run, 2)
        begun = time.monotonic()
        site.cancel(which)
        until(lambda: set(site.processes()) <= {*others, worker.pid}, 100, "the run's processes to end", every=0.05)
        seconds = time.monotonic() - begun
        print(f"stopped in {seconds:.1f} s")
        assert site.ended(which)["state_type"] == "CANCELLED"
        assert not (run.out / "manifest.json").exists()
        kept = run.spoken()
        assert len(kept) < 20
        done = site.build(**run.parameters)
    assert done.returncode == 0, done.stdout + done.stderr
    run.check(expected, kept)
    assert seconds <= STOPS_WITHIN_SEC


def test_the_second_of_two_runs_at_once_is_told_and_the_first_ends_well(
    site: Site, run: Run, undisturbed: dict[str, str]
) -> None:
    with site.worker("busy"):
        first = site.begin(**run.parameters, workers=1)
        until((run.folder / ".dataset.lock").exists, 200, "the first run to begin", every=0.02)
        second = site.ended(site.begin(**run.parameters))
        ended = site.ended(first)
        assert ended["state_type"] == "COMPLETED", ended["state"]
        if second["state_type"] != "COMPLETED":  # it came after the first had ended
            message = second["state"]["message"]
            assert re.match(r"DatasetError: another run is at work on .*/dataset \(process \d+\): wait", message)
    run.check(undisturbed, {})


def test_two_workers_of_a_pool_share_a_build(site: Site, tmp_path: Path, undisturbed: dict[str, str]) -> None:
    """Two runs at a time in each: the build itself and three parts need both."""
    run = Run(tmp_path, TWENTY_SHARDS | {"engine": {"kind": "pool", "parts": 3}})
    with site.worker("one", "--limit", "2"), site.worker("two", "--limit", "2"):
        done = site.build(**run.parameters, workers=1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [site.log(name).count("submitted to infrastructure") for name in ("one", "two")] == [2, 2]
    run.check(undisturbed, {})
