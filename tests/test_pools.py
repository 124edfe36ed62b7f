"""Worker processes as a run starts them."""

from __future__ import annotations

import os

import pytest

from duplexdata.pools import in_a_process, processes_for


@pytest.mark.slow
def test_workers_have_the_environment_of_the_run_that_starts_them_not_of_an_earlier_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Credentials, say, that were set between two builds of one process."""
    seen = []
    for value in ("first", "second"):
        monkeypatch.setenv("SET_BETWEEN_RUNS", value)
        with processes_for(1, 0):
            seen.append(in_a_process(os.getenv, "SET_BETWEEN_RUNS"))
    assert seen == ["first", "second"]
