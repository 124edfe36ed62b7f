"""Budgets: never overrun, whatever happens to the processes that spend."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from tasks_for_tests import config

from duplexdata.errors import BudgetError, WriterError
from duplexdata.writer.ledger import Ledger, Spent

SPAWN = multiprocessing.get_context("spawn")


def ledger(folder: Path, **settings: object) -> Ledger:
    return Ledger(folder / "ledger.sqlite", config("http://127.0.0.1:1/v1", folder, **settings), lease_sec=1.0)


def test_what_is_spent_and_reserved_never_exceeds_the_budget(tmp_path: Path) -> None:
    one, other = ledger(tmp_path, max_tokens=100), ledger(tmp_path, max_tokens=100)
    assert one.reserve("a", 30, 20) == 0.0
    assert other.reserve("b", 30, 20) == 0.0
    assert not one.reserve("c", 1, 0)  # not yet: others may take less than they reserved
    other.settle("b", "line", Spent(1, 10, 5))
    assert one.reserve("c", 30, 5) == 0.0
    assert one.reserve("d", 1, 0) is None
    one.settle("a", "line", Spent(1, 30, 20))
    one.settle("c", "other", Spent(1, 30, 4))
    assert one.reserve("d", 0, 1) == 0.0
    one.settle("d", "other", Spent(1, 0, 1))
    with pytest.raises(BudgetError) as error:
        one.reserve("e", 0, 1)
    assert not error.value.retryable
    assert "100 tokens" in str(error.value) and "writer.max_tokens 100" in str(error.value)
    assert "run the same command again" in str(error.value)
    assert one.spent() == {"line": Spent(2, 40, 25), "other": Spent(2, 30, 5)}
    one.close()
    other.close()
    more = ledger(tmp_path, max_tokens=101)  # resumed with a larger budget
    assert more.reserve("e", 0, 1) == 0.0
    more.close()


def test_money_follows_from_both_prices(tmp_path: Path) -> None:
    one = ledger(tmp_path, max_usd=1.0, usd_per_million_input=100_000.0, usd_per_million_output=400_000.0)
    assert one.reserve("a", 2, 2) == 0.0
    one.settle("a", "line", Spent(1, 2, 2))  # exactly 1 USD
    with pytest.raises(BudgetError, match=r"1\.0000 USD of writer\.max_usd 1\.0"):
        one.reserve("b", 1, 0)
    one.close()


def _reserve_and_hang(folder: Path, ready: str) -> None:
    one = ledger(folder, max_tokens=100)
    assert one.reserve("a", 50, 40) == 0.0
    Path(ready).touch()
    time.sleep(60)


@pytest.mark.slow
def test_what_a_killed_process_had_reserved_counts_as_spent(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    process = SPAWN.Process(target=_reserve_and_hang, args=(tmp_path, str(ready)))
    process.start()
    while not ready.exists():
        assert process.is_alive()
        time.sleep(0.02)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    one = ledger(tmp_path, max_tokens=100)
    assert one.reserve("b", 10, 0) == 0.0
    one.settle("b", "line", Spent(1, 10, 0))
    until = time.monotonic() + 10
    with pytest.raises(BudgetError, match="100 tokens"):
        while time.monotonic() < until:
            assert one.reserve("c", 1, 0) is None
            time.sleep(0.05)
    one.close()


def _spend(folder: Path, worst: int, taken: int) -> None:
    one = ledger(folder, max_tokens=10_000)
    try:
        for i in range(1000):
            key = f"{os.getpid()}-{i}"
            while one.reserve(key, worst, 0) is None:
                time.sleep(0.001)
            one.settle(key, "line", Spent(1, taken, 0))
    except BudgetError:
        return
    finally:
        one.close()


@pytest.mark.slow
def test_several_processes_spend_one_budget_to_its_end_and_not_beyond(tmp_path: Path) -> None:
    processes = [SPAWN.Process(target=_spend, args=(tmp_path, 100, 40)) for _ in range(4)]
    for p in processes:
        p.start()
    for p in processes:
        p.join()
        assert p.exitcode == 0
    one = ledger(tmp_path)
    assert 10_000 - 100 < one.spent()["line"].prompt_tokens <= 10_000
    one.close()


def test_a_settlement_is_put_down_once(tmp_path: Path) -> None:
    one = ledger(tmp_path)
    assert one.reserve("batch", 10, 10, keep=True) == 0.0
    one.close()
    other = ledger(tmp_path)
    other.adopt("batch")
    for _ in range(2):
        other.settle_once("batch", {"line": Spent(2, 5, 5), "other": Spent(1, 1, 1)})
    assert other.spent() == {"line": Spent(2, 5, 5), "other": Spent(1, 1, 1)}
    other.close()


def test_requests_are_spread_at_the_rate_over_all_processes(tmp_path: Path) -> None:
    one, other = ledger(tmp_path, tokens_per_minute=60_000), ledger(tmp_path, tokens_per_minute=60_000)
    began = time.time()
    # Half a second each.
    waits = [(one if i % 2 else other).reserve(str(i), 500, 0, pace=500) or 0.0 for i in range(41)]
    took = time.time() - began
    assert waits == sorted(waits)
    assert waits[0] == 0
    assert waits[-1] >= 40 * 0.5 - 1 - took  # a second's worth may go out at once
    one.settle("0", "line", Spent(1, 10, 10), pace=10_020)  # it took less: 10 s earlier
    after = other.reserve("x", 1, 0, pace=1)
    assert after is not None and 0 < after <= waits[-1] + 0.5 - 10 + 0.01
    one.close()
    other.close()
    assert ledger(tmp_path).reserve("y", 10**9, 0, pace=10**9) == 0.0  # no rate, no wait


def test_a_damaged_ledger_is_an_error_not_a_new_budget(tmp_path: Path) -> None:
    one = ledger(tmp_path, max_tokens=100)
    one.close()
    (tmp_path / "ledger.sqlite").write_bytes(b"no ledger" * 1000)
    with pytest.raises(WriterError, match="damaged"):
        ledger(tmp_path, max_tokens=100)
