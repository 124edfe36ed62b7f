"""The forecast: from a build's own texts, by what it would really ask."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scenes import recorded, scene
from typer.testing import CliRunner

from duplexdata.cli import app
from duplexdata.config import Config, LayoutConfig, MixConfig, ShardConfig, SpeechConfig, TextConfig, WriterConfig
from duplexdata.forecast.plan import plan_build
from duplexdata.forecast.writer import Measured, WriterForecast, forecast_writer, likely_tokens
from duplexdata.writer.types import Task

WRITER = WriterConfig(model="m", usd_per_million_input=1.0, usd_per_million_output=4.0)
BASE = Config(
    conversations=120,
    mix=MixConfig(distractor=0.5),
    speech=SpeechConfig(backend="nominal"),
    layout=LayoutConfig(emit=("tdm",)),
    shards=ShardConfig(conversations=30),
    writer=WRITER,
)
TASKS = [scene(r).task for r in recorded("good")]


def measured(tasks: list[Task], config: WriterConfig = WRITER) -> dict[str, Measured]:
    found: dict[str, Measured] = {}
    for task in tasks:
        found.setdefault(task.prompt.name, Measured()).add(task, config, TextConfig())
    return found


def plan_writer(config: Config, planned: int) -> WriterForecast | None:
    return plan_build(config, sample=8, planned=planned, workers=1).writer


def test_no_model_no_forecast() -> None:
    assert plan_writer(replace(BASE, writer=WriterConfig()), 10) is None


def test_a_sample_tells_what_all_of_it_tells() -> None:
    whole = plan_writer(BASE, 120)
    part = plan_writer(BASE, 50)
    assert whole is not None and part is not None
    assert (whole.sampled, part.sampled) == (120, 54)
    assert abs(part.total.texts / whole.total.texts - 1) < 0.25
    assert abs(part.total.prompt_tokens / whole.total.prompt_tokens - 1) < 0.25


def test_it_counts_what_is_asked_for_and_nothing_else() -> None:
    found = plan_writer(BASE, 120)
    only = plan_writer(replace(BASE, writer=replace(WRITER, write=("distractor",))), 120)
    assert found is not None and only is not None
    assert [k.kind for k in only.kinds] == ["distractor"]
    assert only.kinds[0].texts == next(k for k in found.kinds if k.kind == "distractor").texts
    dropping = plan_writer(replace(BASE, writer=replace(WRITER, on_failure="drop")), 120)
    assert dropping == found


@given(st.integers(1, 100), st.integers(1, 16), st.integers(1, 128))
def test_it_scales(times: int, workers: int, in_flight: int) -> None:
    config = replace(WRITER, in_flight=in_flight)
    one = forecast_writer(measured(TASKS), config, conversations=1000, sampled=1000, workers=workers)
    many = forecast_writer(measured(TASKS), config, conversations=1000 * times, sampled=1000, workers=workers)
    assert one.usd is not None and many.usd is not None
    assert many.total.texts == times * one.total.texts
    assert many.usd == pytest.approx(times * one.usd, rel=0.01)
    assert many.hours == pytest.approx(times * one.hours, rel=0.1)
    assert one.total.calls >= one.total.texts


def test_the_rate_limit_and_the_prices_are_kept_to() -> None:
    slow = replace(WRITER, tokens_per_minute=600, in_flight=512)
    found = forecast_writer(measured(TASKS), slow, conversations=100, sampled=100, workers=8)
    total = found.total
    assert found.hours == pytest.approx((total.prompt_tokens + total.completion_tokens) / 600 / 60)
    assert found.usd == pytest.approx((total.prompt_tokens + 4 * total.completion_tokens) / 1e6)
    free = forecast_writer(
        measured(TASKS), WriterConfig(model="m"), conversations=1, sampled=1, workers=1, seconds_per_call=9.0
    )
    assert free.usd is None and free.seconds_per_call == 9.0
    assert free.hours == pytest.approx(free.total.calls * 9.0 / 32 / 3600)


def test_batches_are_waited_for_round_by_round_and_shard_by_shard() -> None:
    def hours(workers: int, shards: int, requests: int, tasks: list[Task] = TASKS) -> float:
        batch = replace(WRITER, mode="batch", batch_requests=requests, batches=1)
        return forecast_writer(measured(tasks), batch, conversations=1, sampled=1, workers=workers, shards=shards).hours

    # rewrites, follow-ups, drafts, distractors
    assert hours(1, 1, 100) == 24 * 4
    assert hours(4, 4, 100) == 24 * 4
    assert hours(1, 4, 100) == 24 * 4 * 4
    rewrites = [t for t in TASKS if t.prompt.name == "rewrite"]
    assert hours(1, 1, 2, rewrites) == 24 * -(-len(rewrites) // 2)


@pytest.mark.parametrize(
    ("settings", "over"),
    [
        ({"max_usd": 1e-6}, ("writer.max_usd",)),
        ({"max_tokens": 10}, ("writer.max_tokens",)),
        ({"max_tokens": 10**9, "max_usd": 1e6}, ()),
    ],
)
def test_a_budget_that_is_too_small_is_named(settings: dict[str, float], over: tuple[str, ...]) -> None:
    config = replace(WRITER, **settings)  # type: ignore[arg-type]
    assert forecast_writer(measured(TASKS), config, conversations=9, sampled=9, workers=1).over_budget == over


def test_the_lengths_of_replies_are_about_those_of_the_recorded_ones() -> None:
    for kind in {r.kind for r in recorded("good")} - {"follow_up"}:
        replies = [r for r in recorded("good") if r.kind == kind]
        really = sum(likely_tokens(json.dumps(r.reply, ensure_ascii=False)) for r in replies)
        forecast = measured([scene(r).task for r in replies])[kind].completion_tokens
        assert 0.6 < forecast / really < 1.8, kind


def test_plan_prints_a_table_or_json_and_asks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "writer.yaml"
    config.write_text(
        "speech: {backend: nominal}\nlayout: {emit: [tdm]}\n"
        "writer: {model: m, usd_per_million_input: 1, usd_per_million_output: 4, max_usd: 0.001}\n"
    )
    arguments = ["plan", "--config", str(config), "--conversations", "40", "--workers", "2"]
    said = CliRunner().invoke(app, arguments)
    assert said.exit_code == 0, said.output
    assert "rewrite" in said.output and "USD" in said.output and "over budget: writer.max_usd" in said.output
    parsed = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).output)["writer"]
    assert parsed["total"]["texts"] == sum(k["texts"] for k in parsed["kinds"]) > 40
    assert parsed["assumed"]["repaired_share"] > 0
    assert [p.name for p in tmp_path.iterdir()] == ["writer.yaml"]
