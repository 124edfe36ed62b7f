"""The Batch API: everything comes back, once, whatever happens in between."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from server import Running
from tasks_for_tests import config, reasons, task, tasks

from duplexdata.errors import BudgetError, WriterError
from duplexdata.writer.batch import BatchWriter
from duplexdata.writer.ledger import Spent
from duplexdata.writer.live import LiveWriter
from duplexdata.writer.open import open_writer
from duplexdata.writer.types import Failed, Task, Written
from duplexdata.writer.usage import Tally

BATCH: dict[str, Any] = {"mode": "batch", "batch_requests": 40, "batch_poll_sec": 0.05}


def write(url: str, folder: Path, asked: list[Task], **settings: Any) -> list[Written | Failed]:
    writer = open_writer(config(url, folder, **(BATCH | settings)), folder / "run")
    try:
        return list(writer.write(asked))
    finally:
        writer.close()


def spent(folder: Path) -> Spent:
    writer = LiveWriter(config("http://127.0.0.1:1/v1", folder), folder / "run")
    total = Spent()
    for one in writer.ledger.spent().values():
        total = total.plus(one)
    writer.close()
    return total


def test_batches_write_what_live_requests_write(tmp_path: Path) -> None:
    faults = {3: "no_json", 7: "cut,cut", 9: "400*", 11: "missing", 13: "500", 15: "fenced"}
    asked = [task(i, faults.get(i, "")) for i in range(100)]
    tallies = []
    with Running() as server:
        for mode in ("batch", "live"):
            server.set(faults={})
            outcomes = write(server.base_url, tmp_path / mode, asked, mode=mode)
            tally = Tally()
            for outcome in outcomes:
                tally.add(outcome)
            tallies.append(tally.facts())
            if mode == "batch":
                stats = server.stats()
                assert stats["batches made"] == 3
                assert stats["answered in batches"] == 97
                assert stats["requests"] == stats["answered"] + 1 == 5  # two repairs, two unanswered, a bad one
                assert stats["files_left"] == 0
                assert list((tmp_path / mode / "run" / "batches").iterdir()) == []
                assert reasons(outcomes)[7:10] == ["cut", "", "bad_request"]
                assert spent(tmp_path / mode) == Spent(101, stats["prompt_tokens"], stats["completion_tokens"])
                again = write(server.base_url, tmp_path / mode, asked, mode=mode)
                assert reasons(again) == reasons(outcomes)
                assert server.stats()["batches made"] == 4  # of the bad one alone
                first = [o for o in outcomes if isinstance(o, Written)]
                assert [o.reply for o in again if isinstance(o, Written)] == [o.reply for o in first]
            else:  # the marks have done their faults: all but the last for ever
                assert [o.key for o in outcomes] == [t.key for t in asked]
    assert tallies[0]["line"]["failed"] == {"bad_request": 1, "cut": 1}


@pytest.mark.parametrize("end", ["expired", "cancelled"])
def test_what_a_batch_left_undone_is_asked_for_one_by_one(tmp_path: Path, end: str) -> None:
    with Running(batch_end=end) as server:
        outcomes = write(server.base_url, tmp_path, list(tasks(40)))
        stats = server.stats()
    assert reasons(outcomes) == [""] * 40
    assert (stats["answered in batches"], stats["answered"]) == (20, 20)
    assert stats["paid twice"] == 0
    assert spent(tmp_path) == Spent(40, stats["prompt_tokens"], stats["completion_tokens"])


def test_a_refused_batch_stops_the_run_and_says_why(tmp_path: Path) -> None:
    with Running(batch_end="failed") as server:
        with pytest.raises(WriterError, match=r"line 1 is wrong.*writer\.structured") as error:
            write(server.base_url, tmp_path, list(tasks(10)))
        assert not error.value.retryable
        server.set(batch_end="completed")
        assert reasons(write(server.base_url, tmp_path, list(tasks(10)))) == [""] * 10
    assert spent(tmp_path).replies == 10


def test_an_endpoint_without_batches_is_told_apart(tmp_path: Path) -> None:
    with (
        Running(batch_faults={"POST files": ["404"]}) as server,
        pytest.raises(WriterError, match=r"writer\.mode: live"),
    ):
        write(server.base_url, tmp_path, list(tasks(10)))
    assert list((tmp_path / "run" / "batches").iterdir()) == []


@pytest.mark.slow
def test_troubles_of_the_batch_api_make_no_second_batch(tmp_path: Path) -> None:
    troubles = {
        "POST files": ["500", "drop"],
        "POST batches": ["drop_after", "500"],
        "GET batches": ["502"],
        "GET batches/id": ["429", "500", "drop"],
        "GET files/id": ["500", "drop"],
    }
    with Running(batch_faults=troubles) as server:
        outcomes = write(server.base_url, tmp_path, list(tasks(40)), max_retries=1)
        stats = server.stats()
    assert reasons(outcomes) == [""] * 40
    assert stats["batches made"] == 1
    assert stats["answered in batches"] == 40 and stats["paid twice"] == 0


@pytest.mark.slow
def test_a_batch_api_that_is_down_stops_the_run_when_patience_is_over(tmp_path: Path) -> None:
    with Running(polls=10**6) as server:
        settings: dict[str, Any] = {"patience_sec": 3.0, "max_retries": 0}
        writer = BatchWriter(config(server.base_url, tmp_path, **(BATCH | settings)), tmp_path / "run")
        outcomes = writer.write(tasks(40))
        server.set(batch_faults={"GET batches/id": ["500"] * 10**4})
        with pytest.raises(WriterError, match="batches under way are kept") as error:
            next(outcomes)
        writer.close()
        assert error.value.retryable
        server.set(batch_faults={}, polls=1)
        assert reasons(write(server.base_url, tmp_path, list(tasks(40)))) == [""] * 40
        assert server.stats()["batches made"] == 1


def test_a_budget_smaller_than_a_batch_makes_smaller_batches(tmp_path: Path) -> None:
    with Running() as server:
        with pytest.raises(BudgetError):
            write(server.base_url, tmp_path, list(tasks(400)), max_tokens=8000, batch_requests=60, batches=1)
        stats = server.stats()
        assert stats["batches made"] >= 2
        assert 1000 < stats["prompt_tokens"] + stats["completion_tokens"] <= 8000
        assert reasons(write(server.base_url, tmp_path, list(tasks(400)), batch_requests=400)) == [""] * 400
        assert server.stats()["paid twice"] == 0


def test_equal_tasks_in_different_batches_are_one_request(tmp_path: Path) -> None:
    asked = [*tasks(30), *tasks(30)]
    with Running(polls=5) as server:
        assert reasons(write(server.base_url, tmp_path, asked, batch_requests=20)) == [""] * 60
        stats = server.stats()
    assert stats["answered in batches"] + stats.get("answered", 0) == 30
    assert stats["paid twice"] == 0


_UNTIL_KILLED = """
import sys; sys.path.insert(0, sys.argv[3])
from pathlib import Path
from tasks_for_tests import config, tasks
from duplexdata.writer.open import open_writer
folder = Path(sys.argv[2])
settings = dict(mode="batch", batch_requests=40, batch_poll_sec=0.05)
list(open_writer(config(sys.argv[1], folder, **settings), folder / "run").write(tasks(100)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["uploading", "making", "made", "downloading"])
def test_a_batch_of_a_killed_run_is_found_again(tmp_path: Path, moment: str) -> None:
    hang = {
        "uploading": "POST files",
        "making": "POST batches",
        "made": "GET batches/id",
        "downloading": "GET files/id",
    }
    with Running(hang=hang[moment], polls=3) as server:
        command = [sys.executable, "-c", _UNTIL_KILLED, server.base_url, str(tmp_path), str(Path(__file__).parent)]
        process = subprocess.Popen(command)
        while server.stats().get("hanging", 0) < 3:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        made = server.stats().get("batches made", 0)
        assert made == (0 if moment == "uploading" else 3)
        server.set(hang=None)
        outcomes = write(server.base_url, tmp_path, list(tasks(100)))
        stats = server.stats()
    assert reasons(outcomes) == [""] * 100
    assert stats["batches made"] == 3
    assert stats["paid twice"] == 0
    assert stats["answered in batches"] == 100
    assert spent(tmp_path) == Spent(100, stats["prompt_tokens"], stats["completion_tokens"])
