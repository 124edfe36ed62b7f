"""Which settings of the writer decide on a dataset, and which are refused."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from duplexdata.config import WRITINGS, WriterConfig
from duplexdata.errors import ConfigError

OTHER: dict[str, Any] = {
    "model": "other", "write": ("rewrite",), "on_failure": "drop", "structured": "none", "temperature": 0.1,
    "omit": ("seed",), "base_url": "http://host/v1", "api_key_env": "OTHER", "mode": "batch", "in_flight": 3,
    "tokens_per_minute": 9, "timeout_sec": 9.0, "max_retries": 9, "patience_sec": 9.0, "max_usd": 9.0, "max_tokens": 9,
    "usd_per_million_input": 9.0, "usd_per_million_output": 9.0, "cache": "elsewhere", "batch_requests": 9,
    "batches": 9, "batch_poll_sec": 9.0,
}  # fmt: skip
DECIDING = {"model", "write", "on_failure", "structured", "temperature", "omit"}
PRICED = WriterConfig(model="m", usd_per_million_input=1.0, usd_per_million_output=2.0)


def test_every_setting_is_covered_here() -> None:
    assert set(OTHER) == {f.name for f in fields(WriterConfig)}


@pytest.mark.parametrize("name", sorted(OTHER))
def test_what_decides_on_texts_is_in_the_fingerprint_and_nothing_else(name: str) -> None:
    changed = replace(PRICED, **{name: OTHER[name]})
    assert (changed.deciding_part() != PRICED.deciding_part()) is (name in DECIDING)
    public = name in DECIDING or name.startswith("usd_per_million")
    assert (changed.public_part() != PRICED.public_part()) is public


def test_without_a_model_no_setting_counts() -> None:
    assert WriterConfig().deciding_part() == {}
    for name in set(OTHER) - {"model", "max_usd", "usd_per_million_input", "usd_per_million_output"}:
        changed = replace(WriterConfig(), **{name: OTHER[name]})
        assert changed.deciding_part() == {} and changed.public_part() == WriterConfig()


def test_everything_is_written_by_default() -> None:
    assert WriterConfig(model="m").write == WRITINGS


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"write": ("novels",)}, "writer.write"),
        ({"on_failure": "cry"}, "writer.on_failure"),
        ({"structured": "yaml"}, "writer.structured"),
        ({"mode": "slow"}, "writer.mode"),
        ({"omit": ("messages",)}, "writer.omit"),
        ({"model": " "}, "writer.model"),
        ({"base_url": "localhost:8000"}, "writer.base_url"),
        ({"base_url": "file:///etc"}, "writer.base_url"),
        ({"api_key_env": ""}, "writer.api_key_env"),
        ({"in_flight": 0}, "writer.in_flight"),
        ({"max_retries": -1}, "writer.max_retries"),
        ({"batches": 0}, "writer.batches"),
        ({"batch_requests": 0}, "writer.batch_requests"),
        ({"batch_requests": 50_001}, "writer.batch_requests"),
        ({"temperature": 2.1}, "writer.temperature"),
        ({"timeout_sec": 0.0}, "writer.timeout_sec"),
        ({"patience_sec": float("nan")}, "writer.patience_sec"),
        ({"tokens_per_minute": 0}, "writer.tokens_per_minute"),
        ({"max_tokens": 0}, "writer.max_tokens"),
        ({"max_usd": 1.0}, "writer.max_usd needs both"),
        ({"usd_per_million_input": 1.0}, "belong together"),
        ({"usd_per_million_input": -1.0, "usd_per_million_output": 1.0}, "negative"),
    ],
)
def test_a_value_that_no_run_can_work_with_is_refused_by_name(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        WriterConfig(**wrong)
