"""Whole builds: the user's channel is what changes, and nothing else; what was done is in the row and is verified."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf

from duplexdata.audio import from_flac, to_flac
from duplexdata.augment.config import (
    AugmentConfig,
    DistractorConfig,
    EchoConfig,
    GainConfig,
    NoiseConfig,
    RoomConfig,
)
from duplexdata.augment.draw import draw
from duplexdata.build import build
from duplexdata.config import Config, MixConfig, ShardConfig, SpeechConfig, as_dict
from duplexdata.forecast.corpus import read_part
from duplexdata.forecast.sample import plan_sample
from duplexdata.forecast.spoken import speak_sample
from duplexdata.manifest import read_manifest
from duplexdata.records import read_conversations
from duplexdata.stages.plan import make_plan
from duplexdata.storage import Store
from duplexdata.verify import verify

pytest.importorskip("espeakng_loader")
Row = dict[str, Any]
OFF = Config(
    conversations=12,
    seed=3,
    mix=MixConfig(distractor=0.8, backchannel=0.3),
    shards=ShardConfig(conversations=6, test_fraction=0.2),
)
AUGMENT = AugmentConfig(
    gain=GainConfig(share=0.5),
    noise=NoiseConfig(share=0.4),
    room=RoomConfig(share=0.4),
    echo=EchoConfig(share=0.4),
    distractor=DistractorConfig(side_talk=0.4, background=0.4),
)
ON = replace(OFF, augment=AUGMENT)


def built(config: Config, out: Path, workers: int = 1) -> Path:
    build(config, out, workers=workers, report=lambda *_: None)
    return out


@pytest.fixture(scope="module")
def off(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(OFF, tmp_path_factory.mktemp("off") / "dataset")


@pytest.fixture(scope="module")
def on(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(ON, tmp_path_factory.mktemp("on") / "dataset")


def rows(dataset: Path, config: str = "conversations") -> Iterator[Row]:
    for file in sorted((dataset / config).glob("*.parquet")):
        yield from pq.read_table(file).to_pylist()


def hashes(dataset: Path) -> dict[str, str]:
    files = (p for p in sorted(dataset.rglob("*")) if p.is_file())
    return {str(p.relative_to(dataset)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_off_leaves_a_null_column_and_no_trace_in_manifest_or_card(off: Path) -> None:
    assert {str(r["augmentation"]) for r in rows(off)} == {"None"}
    manifest = read_manifest(off)
    assert "augment" not in manifest["config"]
    assert "augment" not in (off / "README.md").read_text()


def test_only_the_users_sound_and_what_says_so_differ(off: Path, on: Path) -> None:
    changed = 0
    for plain, row in zip(rows(off), rows(on), strict=True):
        told = {k: v for k, v in row.items() if k not in ("audio", "augmentation", "provenance")}
        assert told == {k: v for k, v in plain.items() if k not in ("audio", "augmentation", "provenance")}
        before, after = from_flac(plain["audio"]["bytes"]), from_flac(row["audio"]["bytes"])
        assert np.array_equal(before[:, 0], after[:, 0])
        same = np.array_equal(before[:, 1], after[:, 1])
        assert same == (row["augmentation"] is None)
        changed += not same
    assert changed >= 6


def test_the_tokens_that_are_trained_on_are_those_of_what_is_heard(off: Path, on: Path) -> None:
    augmented = {r["id"]: r["augmentation"] is not None for r in rows(on)}
    for plain, codes in zip(rows(off, "codes"), rows(on, "codes"), strict=True):
        assert plain["assistant"] == codes["assistant"]
        assert plain["negatives"] == codes["negatives"]
        assert (plain["user"] != codes["user"]) == augmented[codes["id"]]
    user = {r["id"]: r["user"] for r in rows(on, "codes")}
    offset = read_manifest(on)["vocabulary"]["speech_offset"]
    for row in rows(on, "sft"):
        n, m = row["n_speech"], row["n_text"]
        blocks = np.array(row["input_ids"]).reshape(-1, 2 * n + m)
        heard = (blocks[:, :n].reshape(-1) - offset).tolist()
        assert heard == user[row["id"]][: len(heard)]


def test_a_row_says_what_was_drawn_for_it(on: Path) -> None:
    told = {r["id"]: r["augmentation"] for r in rows(on)}
    found = dict.fromkeys(("gain_db", "room", "echo", "noise", "distractors"), 0)
    for file in sorted((on / "conversations").glob("*.parquet")):
        for c in read_conversations(file):
            expected = draw(AUGMENT, ON.seed, c.id, c.utterances)
            row = told[c.id]
            assert row == (None if expected is None else expected.as_row(row["scale_db"]))
            for name in found:
                found[name] += bool(row and row[name])
    assert min(found.values()) >= 1


@pytest.mark.slow
def test_every_file_is_the_same_with_two_workers(on: Path, tmp_path: Path) -> None:
    assert hashes(built(ON, tmp_path / "dataset", workers=2)) == hashes(on)


def test_the_card_says_so_in_a_line(on: Path) -> None:
    lines = [line for line in (on / "README.md").read_text().splitlines() if "was augmented" in line]
    assert len(lines) == 1
    assert "5 to 30 dB SNR (40 %)" in lines[0]
    assert "-8 dB" in lines[0]


def test_other_libraries_read_the_column(on: Path, off: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    for dataset in (on, off):
        cache = str(tmp_path / dataset.parent.name)
        loaded = datasets.load_dataset(str(dataset), "conversations", split="train", cache_dir=cache)
        told = {r["id"]: r["augmentation"] for r in rows(dataset)}
        for row in loaded:
            assert row["augmentation"] == told[row["id"]]


# -- fingerprints


def test_settings_of_what_is_off_decide_on_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    plain = make_plan(OFF, store)
    idle = make_plan(replace(OFF, augment=AugmentConfig(noise=NoiseConfig(snr_db=(1.0, 2.0)))), store)
    assert (idle.speech, idle.config_fingerprint, idle.record_fingerprint) == (
        plain.speech,
        plain.config_fingerprint,
        plain.record_fingerprint,
    )
    on = make_plan(ON, store)
    assert (on.ingest, on.scripts) == (plain.ingest, plain.scripts)
    assert on.speech != plain.speech


def test_the_recordings_of_noise_decide_and_where_they_lie_does_not(tmp_path: Path) -> None:
    def plan_of(folder: Path) -> Any:
        noise = NoiseConfig(share=0.5, folder=str(folder))
        return make_plan(replace(OFF, augment=AugmentConfig(noise=noise)), Store(tmp_path))

    first, second = tmp_path / "a" / "noises", tmp_path / "b" / "noises"
    for folder in (first, second):
        folder.mkdir(parents=True)
        sf.write(folder / "rain.wav", np.random.default_rng(0).uniform(-0.1, 0.1, 9000), 16_000)
    assert plan_of(first).speech == plan_of(second).speech
    assert plan_of(first).config_fingerprint == plan_of(second).config_fingerprint
    sf.write(second / "rain.wav", np.random.default_rng(1).uniform(-0.1, 0.1, 9000), 16_000)
    assert plan_of(first).speech != plan_of(second).speech
    assert plan_of(first).config_fingerprint != plan_of(second).config_fingerprint


def test_a_build_with_it_can_be_forecast(tmp_path: Path) -> None:
    config = replace(ON, speech=SpeechConfig(backend="tone"))
    corpus = read_part(config, Store(tmp_path / "work"))
    planned = plan_sample(corpus, 8)
    assert sum(len(s.drawn) for s in planned.shards) > 0
    assert speak_sample(corpus, planned, 4, 1) is not None


# -- a folder of recordings


@pytest.mark.slow
def test_noise_from_a_folder_is_heard_at_its_ratio_and_silent_stretches_are_counted(off: Path, tmp_path: Path) -> None:
    folder = tmp_path / "noises"
    (folder / "quiet").mkdir(parents=True)
    hiss = np.random.default_rng(0).uniform(-0.3, 0.3, 44_100 * 3)
    sf.write(folder / "hiss.flac", hiss, 44_100)
    sf.write(folder / "quiet" / "none.wav", np.zeros(50_000, np.float32), 16_000)
    augment = AugmentConfig(noise=NoiseConfig(share=1.0, snr_db=(10.0, 10.0), folder=str(folder)))
    out = built(replace(OFF, augment=augment), tmp_path / "dataset")
    assert list(verify(out)) == []
    manifest = read_manifest(out)
    assert manifest["config"]["augment"]["noise"]["folder"] == "noises"
    assert str(tmp_path) not in (out / "manifest.json").read_text()
    speech = next(s for s in manifest["stages"] if s["stage"] == "speech")
    made = list(rows(out))
    assert speech["dropped"]["unusable_noise"] == 12 - len(made) > 0
    assert {r["augmentation"]["noise"]["file"] for r in made} == {"hiss.flac"}
    plain = {r["id"]: from_flac(r["audio"]["bytes"])[:, 1] for r in rows(off)}
    for row in made:
        noise = from_flac(row["audio"]["bytes"])[:, 1].astype(np.float64) - plain[row["id"]]
        speech_at_level = 20 * np.log10(np.sqrt(np.mean((noise / 32768) ** 2))) + 10.0
        assert speech_at_level == pytest.approx(OFF.speech.level_dbfs, abs=1.5)


# -- verify


def test_what_was_just_built_is_whole(off: Path, on: Path) -> None:
    assert list(verify(off)) == []
    assert list(verify(on)) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "augment",
    [
        AugmentConfig(gain=GainConfig(share=1.0, db=(-40.0, -20.0))),
        AugmentConfig(gain=GainConfig(share=1.0, db=(20.0, 24.0))),
        AugmentConfig(distractor=DistractorConfig(side_talk=1.0)),
        AugmentConfig(gain=GainConfig(share=1.0), distractor=DistractorConfig(background=1.0)),
        AugmentConfig(
            noise=NoiseConfig(share=1.0, snr_db=(-20.0, -10.0)),
            room=RoomConfig(share=1.0, rt60_sec=(1.0, 2.0), drr_db=(-10.0, 0.0)),
            echo=EchoConfig(share=1.0, attenuation_db=(0.0, 3.0)),
        ),
    ],
    ids=["quiet", "loud", "side talk", "background", "all"],
)
def test_whole_is_also_what_is_at_the_edges(augment: AugmentConfig, tmp_path: Path) -> None:
    config = replace(OFF, conversations=6, shards=ShardConfig(conversations=4, test_fraction=0.3), augment=augment)
    assert list(verify(built(config, tmp_path / "dataset"))) == []


def rewritten(dataset: Path, edit: Callable[[Row], bool]) -> str:
    """The first row that `edit` changes (it says so) is written again, and the manifest told."""
    manifest = json.loads((dataset / "manifest.json").read_text())
    for file in sorted((dataset / "conversations").glob("train*.parquet")):
        table = pq.read_table(file)
        values = table.to_pylist()
        id_ = next((r["id"] for r in values if edit(r)), None)
        if id_ is None:
            continue
        file.unlink()
        with pq.ParquetWriter(file, table.schema, write_page_checksum=True) as writer:
            writer.write_table(pa.Table.from_pylist(values, schema=table.schema))
        facts = manifest["files"][f"conversations/{file.name}"]
        facts["bytes"], facts["sha256"] = file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest()
        (dataset / "manifest.json").unlink()
        (dataset / "manifest.json").write_text(json.dumps(manifest))
        return str(id_)
    raise AssertionError("no row could be changed")


def value(*path: str, to: object) -> Callable[[Row], bool]:
    def edit(row: Row) -> bool:
        inner: Any = row["augmentation"]
        for key in path[:-1]:
            inner = inner and inner[key]
        if not inner or inner[path[-1]] is None:
            return False
        inner[path[-1]] = to
        return True

    return edit


def nothing_told(row: Row) -> bool:
    """Noise, echo or a room is heard where the row says that nothing was done."""
    told = row["augmentation"]
    covered = told is not None and (told["noise"] or told["room"])
    if covered:
        row["augmentation"] = None
    return bool(covered)


def wrong_distractor(row: Row) -> bool:
    if not (row["augmentation"] and row["augmentation"]["distractors"]):
        return False
    row["augmentation"]["distractors"][0]["utterance"] = 0
    return True


def other_acoustics(row: Row) -> bool:
    if not (row["augmentation"] and row["augmentation"]["distractors"]):
        return False
    row["augmentation"]["distractors"][0]["level_db"] = -1.0
    return True


def with_sound(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Row], bool]:
    def edit(row: Row) -> bool:
        if row["augmentation"] is None:
            return False
        row["audio"]["bytes"] = to_flac(change(from_flac(row["audio"]["bytes"])))
        return True

    return edit


def loud(x: np.ndarray) -> np.ndarray:
    x[100, 1] = 32_000
    return x


def assistant_noise(x: np.ndarray) -> np.ndarray:
    x[:1600, 0] = 900
    return x


def shorter(x: np.ndarray) -> np.ndarray:
    return x[:-1280]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "edit"),
    [
        ("augmentation", value("gain_db", to=7.0)),
        ("augmentation", value("noise", "snr_db", to=4.0)),
        ("augmentation", value("noise", "kind", to="blue")),
        ("augmentation", value("room", "rt60_sec", to=3.0)),
        ("augmentation", value("echo", "delay_ms", to=float("nan"))),
        ("augmentation", value("scale_db", to=1.0)),
        ("augmentation", wrong_distractor),
        ("augmentation", other_acoustics),
        ("sound-outside", nothing_told),
        ("clipping", with_sound(loud)),
        ("sound-outside", with_sound(assistant_noise)),
        ("audio", with_sound(shorter)),
    ],
)
def test_damage_to_an_augmented_row_is_reported(
    on: Path, tmp_path: Path, rule: str, edit: Callable[[Row], bool]
) -> None:
    copy = Path(shutil.copytree(on, tmp_path / "dataset", copy_function=os.link))
    id_ = rewritten(copy, edit)
    assert (id_, rule) in {(v.row, v.rule) for v in verify(copy)}


def test_what_the_manifest_does_not_configure_is_reported(on: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(on, tmp_path / "dataset", copy_function=os.link))
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["config"]["augment"] = as_dict(AugmentConfig())
    (copy / "manifest.json").unlink()
    (copy / "manifest.json").write_text(json.dumps(manifest))
    found = {v.row for v in verify(copy) if v.rule == "augmentation"}
    assert found == {r["id"] for r in rows(on) if r["augmentation"] is not None}
