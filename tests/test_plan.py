"""The forecast of a whole build: linear, adding up, the same each time, near what is built, silent on the unknown."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from duplexdata.build import build
from duplexdata.cli import app
from duplexdata.config import CodecConfig, Config, LayoutConfig, QualityConfig, ShardConfig, SpeechConfig, TextConfig
from duplexdata.errors import ConfigError
from duplexdata.forecast.build import Setting, forecast_build
from duplexdata.forecast.constants import CHUNK, MOST_TASKS, TASK_BYTES
from duplexdata.forecast.corpus import Corpus, read_part
from duplexdata.forecast.estimates import Cluster, Estimate, file_sizes, makespan, per_slot, ratio
from duplexdata.forecast.plan import Forecast, parse_rates, plan_build
from duplexdata.forecast.sample import plan_sample
from duplexdata.forecast.spoken import speak_sample, stage_names, stand_in
from duplexdata.forecast.table import build_lines
from duplexdata.forecast.values import BuildForecast, Planned, Sample
from duplexdata.manifest import read_manifest
from duplexdata.stages import ingest
from duplexdata.stages.work import shards_of
from duplexdata.storage import Store

TEXT = Config(
    conversations=60,
    speech=SpeechConfig(backend="nominal"),
    layout=LayoutConfig(emit=("tdm", "duo")),
    shards=ShardConfig(conversations=15),
)
SOUND = replace(
    TEXT,
    conversations=16,
    speech=SpeechConfig(backend="tone"),
    layout=LayoutConfig(emit=("sft", "dpo")),
    text=TextConfig(max_query_sec=5.0, max_reply_sec=5.0, max_exchanges=1),
    shards=ShardConfig(conversations=8),
)
Told = tuple[Corpus, Planned, Sample]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """A sample of SOUND."""
    corpus = read_part(SOUND, Store(tmp_path_factory.mktemp("plan") / "work"))
    planned = plan_sample(corpus, 16)
    sample = speak_sample(corpus, planned, 8, 1)
    assert sample is not None
    return corpus, planned, sample


def forecast(
    told: Told, times: int = 1, workers: int = 1, config: Config = SOUND, **rates: tuple[float, float]
) -> BuildForecast:
    """Of a build of `times` the conversations, the shards and the dialogues."""
    corpus, planned, sample = told
    config = replace(config, conversations=SOUND.conversations * times)
    setting = Setting(
        shards=[s.slots for s in shards_of(SOUND)] * times,
        stages=stage_names(config),
        workers=workers,
        cores=workers,
        gpus=1,
        rates=rates,
        stand_in=config.speech.backend != "tone",
        speaks="tone",
    )
    reading = replace(corpus.reading, expected=CHUNK * times, spent=corpus.reading.spent.plus(corpus.reading.opening))
    return forecast_build(config, reading, planned, sample, setting)


@pytest.mark.parametrize("times", [10, 1000])
def test_it_scales_linearly(told: Told, times: int) -> None:
    one, many = forecast(told), forecast(told, times)
    assert many.hours.value == pytest.approx(times * one.hours.value)
    assert many.speech_hours.value == pytest.approx(times * one.speech_hours.value)
    assert many.utterances.value == pytest.approx(times * one.utterances.value)
    assert many.shards == times * one.shards and many.files == times * one.files
    for name in one.rows:
        assert many.rows[name].value == pytest.approx(times * one.rows[name].value)
        assert many.bytes[name].value == pytest.approx(times * one.bytes[name].value)
    assert many.work_bytes == pytest.approx({name: times * n for name, n in one.work_bytes.items()})
    assert many.tasks.runs - 2 == times * (one.tasks.runs - 2)
    for stage in {"speech and codes", "layouts", "dataset"}:
        assert many.cpu_hours[stage] == pytest.approx(times * one.cpu_hours[stage])


def test_the_parts_add_up(told: Told) -> None:
    found = forecast(told, 3)
    assert found.total_bytes.value == pytest.approx(sum(size.value for size in found.bytes.values()))
    assert found.made.value + sum(found.dropped.values()) == pytest.approx(found.conversations, abs=1)
    assert found.tasks.database_bytes == found.tasks.runs * TASK_BYTES.most
    assert found.wall.total is not None
    assert found.wall.total[0] == pytest.approx(found.wall.fixed + found.wall.workers)
    assert found.speech_hours.value < 2 * found.hours.value  # two channels
    assert all(n > 0 for n in found.cpu_hours.values())


def test_workers_shorten_what_is_done_shard_by_shard_and_nothing_else(told: Told) -> None:
    one, two, all_ = (forecast(told, 4, workers) for workers in (1, 2, 1000))
    assert one.wall.workers == pytest.approx(2 * two.wall.workers, rel=0.2)
    assert all_.wall.workers < two.wall.workers
    assert one.wall.fixed == two.wall.fixed == all_.wall.fixed
    assert one.cpu_hours == two.cpu_hours


def test_too_many_tasks_are_named_with_shards_that_are_few_enough(told: Told) -> None:
    assert forecast(told).tasks.shard_conversations is None
    found = forecast(told, 1000)
    assert found.tasks.largest > MOST_TASKS.most
    wanted = found.tasks.shard_conversations
    assert wanted is not None and found.tasks.parts is not None
    better = replace(SOUND, conversations=found.conversations, shards=replace(SOUND.shards, conversations=wanted))
    stages = len(stage_names(better))
    assert len(shards_of(better)) * stages + 2 <= MOST_TASKS.most
    assert math.ceil(found.shards / found.tasks.parts) * stages <= MOST_TASKS.most


def test_what_was_never_measured_is_not_known(told: Told) -> None:
    config = replace(SOUND, codec=CodecConfig(name="glm4voice", checkpoint="somewhere"))
    found = forecast(told, config=config)
    assert [(g.stage, g.hours) for g in found.gpu] == [("codes", None)]
    assert found.wall.total is None and found.wall.gpus is None
    lines = "\n".join(build_lines(found))
    assert "not known" in lines and "--rate codes=X" in lines
    rated = forecast(told, config=config, codes=(100.0, 200.0))
    assert rated.gpu[0].hours == pytest.approx(
        (rated.gpu[0].audio_hours.value / 200, rated.gpu[0].audio_hours.value / 100)
    )
    assert rated.wall.total is not None and rated.gpu[0].rate is not None and rated.gpu[0].rate.how == "given"


def test_only_cosyvoice_has_published_speeds(told: Told) -> None:
    other = replace(SOUND, speech=SpeechConfig(backend="speech_http", servers=("http://127.0.0.1:1",)))
    assert [(g.stage, g.hours) for g in forecast(told, config=other).gpu] == [("speech", None)]
    cosyvoice = replace(SOUND, speech=SpeechConfig(backend="cosyvoice", checkout="here", model="there"))
    found = forecast(told, config=cosyvoice)
    assert found.gpu[0].rate is not None and found.gpu[0].rate.how == "published" and found.gpu[0].hours is not None
    heard = replace(SOUND, quality=QualityConfig(asr="a-recognizer"))
    assert [(g.stage, g.hours) for g in forecast(told, config=heard).gpu] == [("asr", None)]


def test_every_constant_says_where_it_is_from(told: Told) -> None:
    found = forecast(told, speech=(5.0, 6.0))
    assert {c.how for c in found.constants} <= {"measured", "published", "estimated", "given"}
    lines = list(build_lines(found))
    for constant in found.constants:
        assert constant.source and any(constant.name in line and constant.how in line for line in lines)


def test_a_chunk_is_as_large_as_the_reader_cuts_it() -> None:
    assert CHUNK == ingest._CHUNK


def told_of(found: Forecast) -> dict[str, object]:
    """All but the times."""
    plain = found.build.as_dict()
    for name in ("cpu_hours", "wall", "remarks", "workers"):
        del plain[name]
    reading = plain["reading"]
    assert isinstance(reading, dict)
    del reading["spent"], reading["opening"]
    return plain


def test_the_same_settings_tell_the_same_with_any_workers() -> None:
    one, again = (plan_build(SOUND, sample=8, planned=16, workers=n) for n in (1, 2))
    assert told_of(one) == told_of(again)
    other = plan_build(replace(SOUND, seed=1), sample=8, planned=16, workers=1)
    assert told_of(one) != told_of(other)


@pytest.mark.parametrize("config", [TEXT, SOUND], ids=["text", "sound"])
def test_it_is_near_what_is_built(config: Config, tmp_path: Path) -> None:
    found = plan_build(config, sample=16, workers=1).build
    build(config, tmp_path / "out", workers=1, report=lambda *_: None)
    manifest = read_manifest(tmp_path / "out")
    size: dict[str, int] = defaultdict(int)
    rows: dict[str, int] = defaultdict(int)
    for name, facts in manifest["files"].items():
        size[name.split("/")[0]] += facts["bytes"]
        rows[name.split("/")[0]] += facts["rows"]
    assert found.hours.value == pytest.approx(manifest["statistics"]["hours"], rel=0.2)
    assert found.utterances.value == pytest.approx(sum(manifest["statistics"]["kinds"].values()), rel=0.2)
    for name, n in found.rows.items():
        assert n.value == pytest.approx(rows[name], rel=0.2), name
        assert found.bytes[name].value == pytest.approx(size[name], rel=0.2), name


@given(st.integers(1, 50), st.integers(2, 40))
def test_a_sample_of_everything_has_no_error(slots: int, n: int) -> None:
    values = [float(i % 7 + 1) for i in range(n)]
    whole = per_slot([Cluster(1, v) for v in values], n)
    assert whole.value == pytest.approx(sum(values) / n) and whole.error == 0
    assert ratio(values, [2 * v for v in values], slots * n).value == pytest.approx(0.5)
    assert ratio(values, [1.0] * n, n).error == 0
    assert per_slot([Cluster(1, v) for v in values], 10 * n).error >= 0


def test_errors_of_sums_and_products_are_carried_on() -> None:
    a, b = Estimate(100.0, 3.0), Estimate(2.0, 0.08)
    assert a.by(b) == Estimate(200.0, pytest.approx(200 * math.hypot(0.03, 0.04)))
    assert a.plus(a) == a.times(2)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=30), st.floats(0.5, 100.0), st.floats(0.0, 5000.0))
def test_files_that_grow_evenly_are_told_exactly(rows: list[int], each: float, fixed: float) -> None:
    wholes = [(2 * n, round(fixed + 2 * n * each)) for n in rows]
    halves = [(n, round(fixed + n * each)) for n in rows]
    found = file_sizes(wholes, halves)
    told = found.per_group * len(rows) + found.per_row * 2 * sum(rows)
    assert told == pytest.approx(sum(size for _, size in wholes))
    assert found.per_row == pytest.approx(each, abs=2 * len(rows) / sum(rows) + 1e-6)


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=60), st.integers(1, 70))
def test_work_takes_no_less_than_its_share_and_no_more_than_one_worker(jobs: list[float], workers: int) -> None:
    found = makespan(jobs, workers)
    assert max(max(jobs), sum(jobs) / workers) <= found + 1e-9 and found <= sum(jobs) + 1e-9


@pytest.mark.parametrize("text", ["codes", "codes=", "codes=0", "layouts=5", "speech=-3", "speech=1-2-3"])
def test_rates_that_say_nothing_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--rate"):
        parse_rates([text])


def test_rates_are_read() -> None:
    assert parse_rates(["codes=200", "speech=30-15"]) == {"codes": (200.0, 200.0), "speech": (15.0, 30.0)}


def test_what_needs_a_server_or_a_gpu_is_replaced() -> None:
    config = replace(
        SOUND,
        speech=SpeechConfig(backend="cosyvoice", checkout="here", model="there"),
        quality=QualityConfig(asr="a-recognizer"),
        codec=CodecConfig(name="glm4voice", checkpoint="somewhere"),
    )
    made_with = stand_in(config)
    assert made_with.speech.backend in ("espeak", "tone")
    assert (made_with.quality.asr, made_with.codec.name) == (None, "mel")


def test_five_million_conversations_are_told_from_a_handful(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["plan", "--config", "duplex-ultrachat", "--conversations", "5000000", "--dialogues", "1500000"]
    arguments += ["--sample", "8", "--workers", "1"]
    said = CliRunner().invoke(app, arguments)
    assert said.exit_code == 0, said.output
    for expected in ("5,000,000 conversations", "9,767 shards", "29,303", "CPU-hours", "measured on the sample"):
        assert expected in said.output
    parsed = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).output)["build"]
    assert parsed["tasks"]["runs"] == 29_303 and parsed["rows"]["tdm"]["value"] == pytest.approx(5e6, rel=0.1)
    assert list(tmp_path.iterdir()) == []
