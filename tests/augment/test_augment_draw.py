"""What is drawn depends on seed, conversation and the kind itself; on nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import kstest

from duplexdata.augment.config import AugmentConfig
from duplexdata.augment.draw import Augmentation, NoiseFile, draw
from duplexdata.config import Config
from duplexdata.config_file import dump_config, load_config
from duplexdata.conversation import Spoken
from duplexdata.dialogue import Channel, Kind
from duplexdata.errors import ConfigError

NONE = np.zeros(0, np.int64)
KINDS = (Kind.QUERY, Kind.REPLY, Kind.DISTRACTOR, Kind.BACKCHANNEL, Kind.DISTRACTOR)
TALK = tuple(
    Spoken(Channel.ASSISTANT if k is Kind.REPLY else Channel.USER, k, "a", i, i + 1, False, "corpus", "ann", NONE, NONE)
    for i, k in enumerate(KINDS)
)
FILES = tuple(NoiseFile(f"{i}.wav", 1000 * (i + 1), str(i)) for i in range(4))
ALL: dict[str, Any] = {
    **{kind: {"share": 1.0} for kind in ("gain", "noise", "room", "echo")},
    "distractor": {"side_talk": 0.3, "background": 0.4},
}


def config_of(augment: dict[str, Any]) -> AugmentConfig:
    return load_config(None, {"augment": augment}).augment


def drawn(augment: dict[str, Any], n: int = 1000, seed: int = 0) -> list[Augmentation | None]:
    config = config_of(augment)
    return [draw(config, seed, f"talk-{i}", TALK, FILES) for i in range(n)]


def test_nothing_is_done_by_default() -> None:
    assert not Config().augment.on
    assert drawn({}, 20) == [None] * 20


def test_the_same_seed_draws_the_same_and_another_seed_something_else() -> None:
    assert drawn(ALL, 20) == drawn(ALL, 20)
    assert not set(drawn(ALL, 20)) & set(drawn(ALL, 20, seed=1))


@pytest.mark.parametrize("kind", ["gain", "noise", "room", "echo"])
def test_a_share_is_that_of_the_conversations(kind: str) -> None:
    found = drawn({kind: {"share": 0.25}})
    values = [getattr(a, "gain_db" if kind == "gain" else kind) for a in found if a is not None]
    assert all(v is not None for v in values)
    assert len(values) == pytest.approx(250, abs=50)


def test_distractors_are_drawn_one_by_one_and_nothing_else_is_moved_away() -> None:
    found = [d for a in drawn({"distractor": ALL["distractor"]}) if a is not None for d in a.distractors]
    assert {d.utterance for d in found} == {2, 4}
    counts = {x: sum(d.acoustics == x for d in found) for x in ("side_talk", "background")}
    assert counts["side_talk"] == pytest.approx(600, abs=70)
    assert counts["background"] == pytest.approx(800, abs=70)
    assert {(d.acoustics, d.level_db) for d in found} == {("side_talk", -8.0), ("background", -15.0)}


@pytest.mark.parametrize("kind", ["gain", "noise", "room", "echo", "distractor"])
def test_one_kind_more_changes_none_of_the_others(kind: str) -> None:
    field = {"gain": "gain_db", "distractor": "distractors"}.get(kind, kind)
    without = drawn({k: v for k, v in ALL.items() if k != kind}, 50)
    for a, b in zip(drawn(ALL, 50), without, strict=True):
        assert a is not None
        assert b == replace(a, **{field: () if kind == "distractor" else None})


def test_values_are_uniform_between_their_bounds() -> None:
    found = drawn(ALL)
    whole = AugmentConfig()
    values = {
        "gain": ([a.gain_db for a in found if a], whole.gain.db),
        "snr": ([a.noise.snr_db for a in found if a and a.noise], whole.noise.snr_db),
        "rt60": ([a.room.rt60_sec for a in found if a and a.room], whole.room.rt60_sec),
        "drr": ([a.room.drr_db for a in found if a and a.room], whole.room.drr_db),
        "delay": ([a.echo.delay_ms for a in found if a and a.echo], whole.echo.delay_ms),
        "attenuation": ([a.echo.attenuation_db for a in found if a and a.echo], whole.echo.attenuation_db),
    }
    for name, (x, (low, high)) in values.items():
        assert kstest(x, "uniform", (low, high - low)).pvalue > 1e-3, name
    pairs = [np.array(x) for x, _ in values.values()]
    assert np.abs(np.corrcoef(pairs) - np.eye(len(pairs))).max() < 0.12


def test_generated_noise_and_files_are_drawn_evenly() -> None:
    kinds = [a.noise.kind for a in drawn(ALL) if a and a.noise]
    assert all(kinds.count(k) == pytest.approx(333, abs=60) for k in ("white", "pink", "brown"))
    noises = [a.noise for a in drawn({"noise": {"share": 1.0, "folder": "here"}}) if a and a.noise]
    lengths = {f.name: f.length for f in FILES}
    for file, length in lengths.items():
        offsets = [x.offset for x in noises if x.file == file and x.offset is not None]
        assert len(offsets) == pytest.approx(250, abs=50)
        assert 0 <= min(offsets) < max(offsets) < length
    assert {x.seed for x in noises} == {None}


# -- settings


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"gain": {"share": 1.5}}, "augment.gain.share"),
        ({"gain": {"share": float("nan")}}, "augment.gain.share"),
        ({"gain": {"db": [6, -6]}}, "augment.gain.db"),
        ({"noise": {"snr_db": [5, float("inf")]}}, "augment.noise.snr_db"),
        ({"noise": {"kinds": []}}, "augment.noise.kinds"),
        ({"noise": {"kinds": ["blue"]}}, "augment.noise.kinds"),
        ({"noise": {"folder": " "}}, "augment.noise.folder"),
        ({"room": {"rt60_sec": [0.0, 0.5]}}, "augment.room.rt60_sec"),
        ({"room": {"drr_db": [0, 99]}}, "augment.room.drr_db"),
        ({"echo": {"delay_ms": [-1, 5]}}, "augment.echo.delay_ms"),
        ({"echo": {"attenuation_db": [-3, 5]}}, "augment.echo.attenuation_db"),
        ({"echo": {"filtered": -0.1}}, "augment.echo.filtered"),
        ({"distractor": {"side_talk": 0.6, "background": 0.6}}, "augment.distractor"),
        ({"distractor": {"side_talk_db": 3.0}}, "augment.distractor.side_talk_db"),
        ({"reverb": {"share": 1.0}}, "augment.reverb"),
        ({"echo": {"delay": 1}}, "augment.echo.delay"),
    ],
)
def test_a_setting_that_cannot_be_is_an_error_that_names_its_key(wrong: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        config_of(wrong)


def test_without_sound_there_is_nothing_to_augment() -> None:
    silent = {"speech": {"backend": "nominal"}, "layout": {"emit": ["tdm"]}}
    with pytest.raises(ConfigError, match="augment"):
        load_config(None, {**silent, "augment": {"gain": {"share": 0.1}}})
    assert not load_config(None, {**silent, "augment": {"gain": {"share": 0.0}}}).has_sound


def test_settings_are_read_back_as_they_were_written(tmp_path: Any) -> None:
    config = load_config(None, {"augment": ALL})
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(str(tmp_path / "config.yaml")) == config
