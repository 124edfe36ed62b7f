"""Keys appear nowhere: not in logs at their loudest, errors, caches, ledgers or states."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from server import Running
from tasks_for_tests import config, tasks

from duplexdata.config import WriterConfig
from duplexdata.errors import BudgetError, ConfigError, WriterError
from duplexdata.writer.open import open_writer
from duplexdata.writer.redact import Redactor, read_key

KEY = "sk-test-0123456789abcdefXYZ"

_LOUD = """
import logging, sys, traceback, pickle
sys.path.insert(0, sys.argv[3])
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
from pathlib import Path
from tasks_for_tests import config, task, tasks
from duplexdata.writer.open import open_writer
folder = Path(sys.argv[2])
faults = ["", "no_json", "cut,cut", "400*", "500", "drop", "html"]
for mode in ("live", "batch"):
    settings = dict(mode=mode, batch_poll_sec=0.05, patience_sec=2.0, max_retries=1)
    writer = open_writer(config(sys.argv[1], folder / mode, **settings), folder / mode / "run")
    try:
        for outcome in writer.write([*(task(i, f) for i, f in enumerate(faults)), *tasks(20, 100)]):
            print(outcome)
    except Exception as error:
        traceback.print_exc()
        print(repr(error), error.args, pickle.dumps(error))
    print(writer.describe(), writer.__dict__)
    writer.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"key": KEY, "echo": [KEY]}, {"key": "another"}, {"always": "500"}])
def test_nothing_that_a_process_writes_holds_the_key(tmp_path: Path, settings: dict[str, object]) -> None:
    with Running(**settings) as server:
        environment = {"OPENAI_API_KEY": KEY, "OPENAI_LOG": "debug", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", _LOUD, server.base_url, str(tmp_path / "files"), str(Path(__file__).parent)],
            env=environment, capture_output=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
    assert b"DEBUG" in done.stderr  # it was loud
    written = [done.stdout, done.stderr, *(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())]
    assert len(written) > 4
    assert (b"[key]" in b"".join(written)) is ("always" not in settings)  # it was there to be taken out
    for text in written:
        assert KEY.encode() not in text
        assert KEY[3:].encode() not in text


def test_a_key_that_can_be_none_is_refused_without_showing_it() -> None:
    for wrong in ("sk-abc\ndef", "sk-ключ", "sk with spaces"):
        with pytest.raises(WriterError) as error:
            read_key(WriterConfig(model="m"), {"OPENAI_API_KEY": wrong})
        assert wrong not in str(error.value) and wrong.split()[-1] not in str(error.value)
    assert read_key(WriterConfig(model="m"), {"OPENAI_API_KEY": f" {KEY}\n"}) == KEY


def test_a_key_is_needed_for_the_hosted_endpoint_only() -> None:
    with pytest.raises(WriterError, match="MY_KEY holds no key"):
        read_key(WriterConfig(model="m", api_key_env="MY_KEY"), {"OPENAI_API_KEY": KEY})
    local = WriterConfig(model="m", base_url="http://127.0.0.1:8000/v1")
    assert read_key(local, {}) is None
    assert read_key(WriterConfig(model="m"), {"OPENAI_BASE_URL": "http://127.0.0.1:8000/v1"}) is None


def test_settings_that_hold_a_key_are_refused_without_showing_it() -> None:
    for wrong in (
        {"base_url": f"http://me:{KEY}@host/v1"},
        {"base_url": f"http://host/v1?key={KEY}"},
        {"base_url": KEY},
        {"api_key_env": KEY},
    ):
        with pytest.raises(ConfigError) as error:
            WriterConfig(model="m", **wrong)  # type: ignore[arg-type]
        assert KEY not in str(error.value)


def test_a_key_is_taken_out_of_texts_and_a_placeholder_is_not() -> None:
    assert Redactor(KEY).clean(f"a {KEY} b{KEY}") == "a [key] b[key]"
    assert Redactor("none").clean("none of it") == "none of it"
    assert Redactor(None).clean("x") == "x"


def test_errors_survive_the_way_from_another_process(tmp_path: Path) -> None:
    for error in (WriterError("down", retryable=True), WriterError("wrong"), BudgetError("spent")):
        again = pickle.loads(pickle.dumps(error))  # noqa: S301
        assert type(again) is type(error)
        assert (str(again), again.retryable) == (str(error), error.retryable)


def test_a_key_reaches_the_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    with Running(key=KEY) as server:
        writer = open_writer(config(server.base_url, tmp_path, api_key_env="MY_KEY"), tmp_path / "run")
        assert len(list(writer.write(tasks(3)))) == 3
        writer.close()
        assert "unauthorised" not in server.stats()
