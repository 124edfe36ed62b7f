"""The writer against a real server that fails in every way there is."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server import Running
from tasks_for_tests import PROMPT, Line, config, reasons, task, tasks

from duplexdata.errors import BudgetError, WriterError
from duplexdata.writer.ledger import Spent
from duplexdata.writer.live import LiveWriter
from duplexdata.writer.open import open_writer
from duplexdata.writer.types import Failed, Task, Written
from duplexdata.writer.usage import Tally, read_spending


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with Running() as running:
        yield running


def write(url: str, folder: Path, asked: list[Task], **settings: Any) -> list[Written | Failed]:
    writer = open_writer(config(url, folder, **settings), folder / "run")
    try:
        return list(writer.write(asked))
    finally:
        writer.close()


def test_replies_come_in_the_order_of_the_tasks_and_follow_their_seed(server: Running, tmp_path: Path) -> None:
    asked = list(tasks(300))
    first = write(server.base_url, tmp_path / "a", asked)
    assert [o.key for o in first] == [t.key for t in asked]
    assert all(isinstance(o, Written) and isinstance(o.reply, Line) and o.model == "m" and not o.cached for o in first)
    again = write(server.base_url, tmp_path / "b", asked[::-1], in_flight=3)
    assert [o.reply for o in again if isinstance(o, Written)] == [o.reply for o in first if isinstance(o, Written)][
        ::-1
    ]


def test_nothing_is_paid_for_twice_by_this_run_or_the_next(tmp_path: Path) -> None:
    asked = [*tasks(150), *tasks(150), task(3), task(4)]
    with Running() as server:
        first = write(server.base_url, tmp_path, asked)
        assert server.stats()["answered"] == 150
        assert [o.usage.calls for o in first] == [1] * 302
    # The next run does not even need the server.
    again = write(server.base_url, tmp_path, asked)
    assert all(isinstance(o, Written) and o.cached for o in again)
    assert [o.reply for o in again if isinstance(o, Written)] == [o.reply for o in first if isinstance(o, Written)]


@pytest.mark.parametrize(
    ("faults", "outcome", "calls"),
    [
        ("fenced", "", 1),
        ("think", "", 1),
        ("control", "", 1),
        ("no_json", "repaired", 2),
        ("schema", "repaired", 2),
        ("empty", "repaired", 2),
        ("cut", "repaired", 2),
        ("filtered", "repaired", 2),
        ("refusal", "repaired", 2),
        ("wrong", "repaired", 2),
        ("no_json,no_json", "no_json", 2),
        ("schema,empty", "empty", 2),
        ("no_json,refusal", "refusal", 2),
        ("cut,cut", "cut", 2),
        ("empty,filtered", "filtered", 2),
        ("wrong,wrong", "wrong_words", 2),
        ("500", "", 1),
        ("502,529", "", 1),
        ("429/0.1", "", 1),
        ("drop", "", 1),
        ("cut_mid_reply", "", 1),
        ("400*", "bad_request", 0),
        ("no_json,400*", "bad_request", 1),
    ],
)
def test_each_fault_is_repaired_once_or_counted(
    server: Running, tmp_path: Path, faults: str, outcome: str, calls: int
) -> None:
    good, found = write(server.base_url, tmp_path, [task(1), task(2, faults)])
    assert isinstance(good, Written)
    assert found.usage.calls == calls
    if isinstance(found, Written):
        assert outcome == ("repaired" if found.repaired else "")
        assert found.usage.repaired == found.repaired
    else:
        assert found.reason == outcome
        assert not found.transient
    # It is the same when it is read from the cache, and nothing more is paid for.
    before = server.stats()["answered"]
    _, again = write(server.base_url, tmp_path, [task(1), task(2, faults)])
    assert server.stats()["answered"] == before
    assert reasons([again]) == reasons([found])
    assert (again.usage.calls, again.usage.prompt_tokens) == (found.usage.calls, found.usage.prompt_tokens)


@pytest.mark.parametrize("faults", ["html", "no_choices", "error_in_200"])
@pytest.mark.slow
def test_what_is_no_completion_is_asked_for_again(server: Running, tmp_path: Path, faults: str) -> None:
    assert reasons(write(server.base_url, tmp_path, [task(1, faults)])) == [""]


@pytest.mark.slow
def test_a_slow_and_a_dripping_reply_are_given_up_and_asked_for_again(server: Running, tmp_path: Path) -> None:
    before = server.stats()["requests"]
    asked = [task(1, "slow/600"), task(2, "drip"), task(3)]
    outcomes = write(server.base_url, tmp_path, asked, timeout_sec=1.0)
    assert reasons(outcomes) == ["", "", ""]
    assert server.stats()["requests"] - before == 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "reason"), [("500*", "server_error"), ("drop*", "connection"), ("slow/60*", "timeout")]
)
def test_a_request_that_never_gets_a_reply_fails_alone(
    server: Running, tmp_path: Path, fault: str, reason: str
) -> None:
    timeout_sec = 1.0 if reason == "timeout" else 10.0

    def asked() -> Iterator[Task]:
        yield task(0, fault)
        for i in range(1, 700):
            time.sleep(0.005)
            yield task(i)

    writer = LiveWriter(
        config(server.base_url, tmp_path, timeout_sec=timeout_sec, patience_sec=10.0, max_retries=1), tmp_path / "run"
    )
    outcomes = list(writer.write(asked()))
    writer.close()
    assert reasons(outcomes) == [reason] + [""] * 699
    assert isinstance(outcomes[0], Failed) and outcomes[0].transient


def test_a_fault_of_the_whole_endpoint_stops_the_run_and_says_what_to_do(tmp_path: Path) -> None:
    cases = [
        ({"key": "right-key-123"}, False, r"key is refused \(401\).*OPENAI_API_KEY"),
        ({"always": "403"}, False, r"403.*lack a right"),
        ({"always": "404"}, False, r"404.*writer\.model \(m\)"),
        ({"always": "402"}, False, "no credit left"),
        ({"always": "429/insufficient_quota"}, False, "no credit left"),
        ({"always": "400"}, False, r"refuses every request for 'line'.*writer\.structured"),
        ({"always": "429/500"}, True, r"asks to wait 500 s, more than writer\.patience_sec"),
    ]
    sent = 0
    with Running() as server:
        for i, (settings, retryable, told) in enumerate(cases):
            server.set(**{"key": None, "always": None} | settings)
            with pytest.raises(WriterError, match=told) as error:
                write(server.base_url, tmp_path / str(i), list(tasks(500)), max_retries=1)
            assert error.value.retryable is retryable
            assert f"127.0.0.1:{server.port}" in str(error.value)
            before, sent = sent, server.stats().get("requests", 0)
            assert sent - before <= 33 * 2  # the first ones in flight with their retries, and a probe: not all


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("500", "check writer.base_url and that it is up"),
        ("drop", "check writer.base_url and that it is up"),
        ("429", "lower writer.tokens_per_minute or in_flight"),
        ("slow/600", "raise writer.timeout_sec"),
        ("html", "no chat completion"),
        (None, "check writer.base_url and that it is up"),
    ],
)
def test_an_endpoint_that_is_down_stops_the_run_when_patience_is_over_and_nothing_is_lost(
    tmp_path: Path, fault: str | None, told: str
) -> None:
    with Running() as server:
        write(server.base_url, tmp_path, list(tasks(40)))
        server.set(always=fault)
        if fault is None:
            server.kill()
        settings = {"patience_sec": 3.0, "timeout_sec": 1.0, "max_retries": 1}
        outcomes = []
        writer = open_writer(config(server.base_url, tmp_path, **settings), tmp_path / "run")
        with pytest.raises(WriterError, match=told) as error:
            for outcome in writer.write(tasks(80)):
                outcomes.append(outcome)
        writer.close()
        assert error.value.retryable
        assert len(outcomes) == 40
        if fault is not None:
            server.set(always=None)
            assert reasons(write(server.base_url, tmp_path, list(tasks(80)))) == [""] * 80
            assert server.stats()["paid twice"] == 0


@pytest.mark.slow
def test_an_endpoint_that_is_away_for_a_while_costs_nothing_but_time(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    started: list[Running] = []
    later = threading.Timer(4.0, lambda: started.append(Running(port=port)))
    later.start()
    try:
        outcomes = write(f"http://127.0.0.1:{port}/v1", tmp_path, list(tasks(100)), max_retries=1)
        assert reasons(outcomes) == [""] * 100
    finally:
        later.join()
        started[0].__exit__(None, None, None)


@pytest.mark.slow
def test_a_thousand_requests_with_faults_mixed_in_add_up_exactly(tmp_path: Path) -> None:
    kinds = (
        [""] * 8
        + ["no_json", "schema", "empty", "cut", "filtered", "refusal", "wrong", "fenced", "think", "control"]
        + ["no_json,no_json", "schema,cut", "refusal,refusal", "wrong,wrong", "400*", "no_json,400*"]
        + ["500", "502", "529", "429/0.05", "drop", "cut_mid_reply", "500,no_json", "drop,empty,empty"]
    )
    asked = [task(i, kinds[i % len(kinds)]) for i in range(1000)]
    assert kinds[0] == ""
    failing = {
        "no_json,no_json": "no_json", "schema,cut": "cut", "refusal,refusal": "refusal", "wrong,wrong": "wrong_words",
        "400*": "bad_request", "no_json,400*": "bad_request", "drop,empty,empty": "empty",
    }  # fmt: skip
    repaired = {"no_json", "schema", "empty", "cut", "filtered", "refusal", "wrong", "500,no_json"}
    expected = Counter(kinds[i % len(kinds)] for i in range(1000))
    tallies = []
    with Running() as server:
        for _ in range(2):
            settings = config(server.base_url, tmp_path, usd_per_million_input=2.0, usd_per_million_output=8.0)
            writer = LiveWriter(settings, tmp_path / "run")
            tally = Tally()
            for part in (asked[:1], asked[1:]):  # one good reply first, else a 400 makes it send a probe
                for outcome in writer.write(part):
                    tally.add(outcome)
            spent = writer.ledger.spent()["line"]
            writer.close()
            tallies.append(tally.facts())
        stats = server.stats()
    facts = tallies[0]["line"]
    assert tallies[1] == tallies[0]  # whatever was cached
    assert facts["items"] == 1000
    failed: Counter[str] = Counter()
    for kind, reason in failing.items():
        failed[reason] += expected[kind]
    assert facts["failed"] == dict(sorted(failed.items()))
    assert facts["written"] == 1000 - sum(facts["failed"].values())
    assert facts["repaired"] == sum(expected[k] for k in repaired)
    replies = sum(
        0 if k == "400*" else 2 if k in repaired or (k in failing and k != "no_json,400*") else 1
        for k in expected.elements()
    )
    assert facts["replies"] == replies == stats["answered"] == stats["bodies"] == spent.replies
    assert stats["paid twice"] == 0
    # Tokens: the tally's are those of the replies; the ledger's also those that may have been billed for lost ones.
    assert (facts["prompt_tokens"], facts["completion_tokens"]) == (stats["prompt_tokens"], stats["completion_tokens"])
    assert spent.lost == expected["drop"] + expected["cut_mid_reply"] + expected["drop,empty,empty"]
    assert spent.completion_tokens == facts["completion_tokens"] + spent.lost * PROMPT.max_tokens
    assert spent.prompt_tokens > facts["prompt_tokens"]
    assert tally.nominal_usd(settings) == pytest.approx(
        (2 * facts["prompt_tokens"] + 8 * facts["completion_tokens"]) / 1e6, abs=1e-6
    )
    report = read_spending(tmp_path / "run", settings)
    assert report is not None and report["replies_paid"] == replies and report["lost"] == spent.lost
    assert report["usd"] == spent.usd(settings)
    assert read_spending(tmp_path / "another run", settings) is None
    # The server's requests: those answered, those failed on purpose, and no others.
    on_purpose = sum(
        n for name, n in stats.items() if name.startswith("fault ") and name.split()[1].split("/")[0].isdecimal()
    )
    lost = stats["fault drop"] + stats["fault cut_mid_reply"]
    assert stats["requests"] == stats["answered"] + on_purpose + lost


def test_facts_of_shards_merge_into_those_of_the_whole(server: Running, tmp_path: Path) -> None:
    outcomes = write(server.base_url, tmp_path, [task(i, "cut,cut" if i % 5 == 0 else "") for i in range(50)])
    whole, merged, halves = Tally(), Tally(), (Tally(), Tally())
    for i, outcome in enumerate(outcomes):
        whole.add(outcome)
        halves[i % 2].add(outcome)
    for half in halves:
        merged.merge(half.facts())
    assert merged.facts() == whole.facts()
    assert whole.facts()["line"]["failed"] == {"cut": 10}


def test_a_budget_of_tokens_is_never_overrun_and_what_it_bought_is_kept(tmp_path: Path) -> None:
    asked = list(tasks(300))
    with Running(delay=0.005) as server:
        for budget in (1000, 5000):
            got: list[Written | Failed] = []
            writer = LiveWriter(config(server.base_url, tmp_path, max_tokens=budget), tmp_path / "run")
            with pytest.raises(BudgetError, match=f"writer.max_tokens {budget:,}"):
                got.extend(writer.write(asked))
            spent = writer.ledger.spent()["line"]
            writer.close()
            stats = server.stats()
            taken = stats["prompt_tokens"] + stats["completion_tokens"]
            assert spent == Spent(stats["answered"], stats["prompt_tokens"], stats["completion_tokens"])
            assert budget - 700 < taken <= budget  # the next request may have taken so much
        assert reasons(write(server.base_url, tmp_path, asked)) == [""] * 300
        assert server.stats()["paid twice"] == 0
        assert server.stats()["answered"] == 300


def test_a_budget_of_money_stops_a_run_too(tmp_path: Path) -> None:
    prices = {"usd_per_million_input": 1000.0, "usd_per_million_output": 1000.0}
    with Running() as server, pytest.raises(BudgetError, match=r"USD of writer\.max_usd 2"):
        write(server.base_url, tmp_path, list(tasks(300)), max_usd=2.0, **prices)


def test_newer_models_get_the_newer_name_of_the_token_limit(tmp_path: Path) -> None:
    with Running(newer=True) as server:
        assert reasons(write(server.base_url, tmp_path, list(tasks(60)))) == [""] * 60
    assert reasons(write(server.base_url, tmp_path, list(tasks(60)))) == [""] * 60  # and it is the same request


@pytest.mark.parametrize("structured", ["json_object", "json_object_schema", "none"])
def test_other_ways_to_ask_for_json_work_as_well(server: Running, tmp_path: Path, structured: str) -> None:
    assert reasons(write(server.base_url, tmp_path, list(tasks(5)), structured=structured)) == [""] * 5


def test_a_server_that_counts_no_tokens_has_them_estimated(tmp_path: Path) -> None:
    with Running(no_usage=True) as server:
        (outcome,) = write(server.base_url, tmp_path, [task(1)])
    assert outcome.usage.prompt_tokens > 50 and outcome.usage.completion_tokens > 5


def test_tasks_are_read_as_they_are_needed(server: Running, tmp_path: Path) -> None:
    read = 0

    def asked() -> Iterator[Task]:
        nonlocal read
        for i in range(5000):
            read += 1
            yield task(i)

    with LiveWriter(config(server.base_url, tmp_path), tmp_path / "run") as writer:
        outcomes = writer.write(asked())
        next(outcomes)
        outcomes.close()
        assert read < 1000
        assert len(list(writer.write(tasks(10)))) == 10  # and it goes on working


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_tasks(server: Running, tmp_path: Path) -> None:
    def peak(n: int, start: int) -> int:
        tracemalloc.reset_peak()
        count = sum(isinstance(o, Written) for o in writer.write(tasks(n, start)))
        assert count == n
        return tracemalloc.get_traced_memory()[1]

    with LiveWriter(config(server.base_url, tmp_path), tmp_path / "run") as writer:
        list(writer.write(tasks(100)))  # loads what is loaded once
        tracemalloc.start(1)
        small = peak(600, 1000)
        large = peak(2000, 10_000)
        cached = peak(2000, 10_000)
        tracemalloc.stop()
    assert large < 1.2 * small
    assert cached < 1.2 * small


@pytest.mark.slow
def test_two_writers_at_the_same_tasks_pay_once(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[3]); from pathlib import Path; from tasks_for_tests import *; "
        "from duplexdata.writer.open import open_writer; f = Path(sys.argv[2]); "
        "w = open_writer(config(sys.argv[1], f), f / 'run'); "
        "out = list(w.write(tasks(200))); w.close(); assert reasons(out) == [''] * 200"
    )
    with Running(delay=0.02) as server:
        here = str(Path(__file__).parent)
        both = [subprocess.Popen([sys.executable, "-c", code, server.base_url, str(tmp_path), here]) for _ in range(2)]
        assert [p.wait() for p in both] == [0, 0]
        stats = server.stats()
    assert stats["answered"] == 200
    assert stats["paid twice"] == 0


_UNTIL_KILLED = """
import sys; sys.path.insert(0, sys.argv[3])
from pathlib import Path
from tasks_for_tests import config, tasks
from duplexdata.writer.open import open_writer
folder = Path(sys.argv[2])
for n, _ in enumerate(open_writer(config(sys.argv[1], folder), folder / "run").write(tasks(1000))):
    print(n, flush=True)
"""


@pytest.mark.slow
def test_after_a_kill_nothing_that_was_answered_and_kept_is_paid_for_again(tmp_path: Path) -> None:
    with Running(delay=0.1) as server:
        command = [sys.executable, "-c", _UNTIL_KILLED, server.base_url, str(tmp_path), str(Path(__file__).parent)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        while int(process.stdout.readline()) < 150:
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        time.sleep(0.5)
        first = server.stats()
        assert first["answered"] < 1000
        server.set(delay=0)
        outcomes = write(server.base_url, tmp_path, list(tasks(1000)))
        stats = server.stats()
    assert reasons(outcomes) == [""] * 1000
    known = sum(isinstance(o, Written) and o.cached for o in outcomes)
    # Those in flight at the kill were answered to nobody: they are asked again, and no others are.
    assert known >= 150
    assert stats["paid twice"] == first["answered"] - known <= 32
    assert stats["answered"] == 1000 + stats["paid twice"]
