from __future__ import annotations

import dataclasses
import json
from dataclasses import replace

import pytest

from duplexdata.config import (
    Config,
    LayoutConfig,
    MixConfig,
    ShardConfig,
    SpeechConfig,
    TextConfig,
    TimingConfig,
    as_dict,
    fingerprint,
)
from duplexdata.config_file import load_config
from duplexdata.dialogue import INTERRUPTIONS, Scenario
from duplexdata.errors import ConfigError


def test_the_default_mix_is_half_turn_taking_and_half_interruptions_by_the_papers_counts() -> None:
    shares = MixConfig().shares()
    assert sum(shares.values()) == pytest.approx(1)
    assert sum(shares[s] for s in INTERRUPTIONS) == pytest.approx(0.5)
    counts = {
        Scenario.GENERATION_TERMINATION: 1_468_141,
        Scenario.REGENERATION: 806_687,
        Scenario.DIALOGUE_RESET: 300_318,
        Scenario.BACK_ON_TOPIC: 327_286,
    }
    for scenario, n in counts.items():
        assert shares[scenario] / 0.5 == pytest.approx(n / sum(counts.values()))


def test_shares_need_not_add_up() -> None:
    shares = MixConfig(3, 1, 0, 0, 0, 0).shares()
    assert shares[Scenario.UNINTERRUPTED] == 0.75
    assert shares[Scenario.TOPIC_INTERWEAVING] == 0.25


def test_default_times_are_those_of_the_paper() -> None:
    timing = TimingConfig()
    assert timing.reply_gap_sec == 0.8
    assert timing.next_turn_gap_sec == (0.5, 3.0)
    assert timing.reaction_delay_sec == (0.8, 2.0)
    assert timing.late_gap_sec == (2.0, 5.0)
    assert timing.late_delay_sec == (3.0, 5.0)
    assert (LayoutConfig().n_speech, LayoutConfig().n_text, LayoutConfig().causality) == (10, 5, "causal")


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"conversations": 0}, "conversations"),
        ({"sources": ()}, "sources"),
        ({"shards": ShardConfig(conversations=0)}, "shards.conversations"),
        ({"shards": ShardConfig(test_fraction=0.0)}, "shards.test_fraction"),
        ({"shards": ShardConfig(test_fraction=1.0)}, "shards.test_fraction"),
        ({"layout": LayoutConfig(n_speech=0)}, "layout.n_speech"),
        ({"layout": LayoutConfig(n_text=0)}, "layout.n_text"),
        ({"layout": LayoutConfig(causality="none")}, "layout.causality"),
        ({"layout": LayoutConfig(tdm_slicing="time")}, "layout.tdm_slicing"),
        ({"layout": LayoutConfig(emit=("sft", "moshi"))}, "layout.emit"),
        ({"text": TextConfig(max_exchanges=0)}, "text.max_exchanges"),
        ({"timing": TimingConfig(lead_in_sec=(1.0, 0.2))}, "timing.lead_in_sec"),
        ({"timing": TimingConfig(reply_gap_sec=-0.1)}, "timing.reply_gap_sec"),
        ({"timing": TimingConfig(pause_sec=(float("nan"), 1.0))}, "timing.pause_sec"),
        ({"timing": TimingConfig(late_delay_sec=(1.9, 5.0))}, "timing.late_delay_sec"),
        ({"timing": TimingConfig(reply_gap_sec=2.0)}, "timing.late_gap_sec"),
        ({"mix": MixConfig(uninterrupted=-0.1)}, "mix"),
        ({"speech": SpeechConfig(backend="nominal")}, "layout.emit"),
    ],
)
def test_a_value_no_run_can_work_with_is_an_error_that_names_its_key(wrong: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        Config(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"mix": MixConfig(0, 0, 0, 0, 0, 0)}, "mix"),
        ({"layout": LayoutConfig(tdm_user_words=(0, 0))}, "tdm_user_words"),
        ({"layout": LayoutConfig(tdm_user_words=(6, 4))}, "tdm_user_words"),
        ({"layout": LayoutConfig(tdm_assistant_tokens=0)}, "tdm_assistant_tokens"),
        ({"layout": LayoutConfig(tdm_slice_sec=0.0)}, "tdm_slice_sec"),
        ({"shards": ShardConfig(row_group_rows=0)}, "row_group_rows"),
        ({"mix": MixConfig(distractor=1.5)}, "mix.distractor"),
        ({"timing": TimingConfig(reaction_delay_sec=(0.0, 0.0))}, "reaction_delay_sec"),
    ],
)
def test_so_is_every_value_that_would_hang_or_crash_a_later_stage(wrong: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        Config(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"bank": " "}, "voices.bank"),
        ({"test_fraction": 0.0}, "voices.test_fraction"),
        ({"evenly_over": ("age",)}, "voices.evenly_over"),
        ({"limits": {"level_dbfs": (-12.0, -38.0)}}, "voices.limits.level_dbfs"),
    ],
)
def test_voices_that_no_bank_can_give_are_an_error_that_names_its_key(wrong: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        load_config(None, {"voices": wrong})


def test_text_layouts_need_no_sound() -> None:
    config = Config(speech=SpeechConfig(backend="nominal"), layout=LayoutConfig(emit=("tdm", "duo")))
    assert not config.has_sound
    assert Config().has_sound


def leaves(config: object, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    assert dataclasses.is_dataclass(config)
    found = []
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        found += leaves(value, (*path, f.name)) if dataclasses.is_dataclass(value) else [(*path, f.name)]
    return found


def changed(config: object, path: tuple[str, ...]) -> object:
    """A copy with another value at `path`; not checked, so that any value will do."""
    plain = as_dict(config)
    inner = plain
    for name in path[:-1]:
        inner = inner[name]  # type: ignore[assignment]
    inner[path[-1]] = "something else"
    return plain


@pytest.mark.parametrize("path", leaves(Config()), ids=".".join)
def test_the_fingerprint_changes_with_every_setting(path: tuple[str, ...]) -> None:
    assert fingerprint(changed(Config(), path)) != fingerprint(Config())


def test_the_fingerprint_of_equal_settings_is_equal_whatever_their_order() -> None:
    plain = as_dict(Config())
    assert fingerprint(dict(reversed(plain.items()))) == fingerprint(plain) == fingerprint(Config())
    assert len(fingerprint("é\ud800")) == 16


def test_settings_are_plain_values_that_json_gives_back() -> None:
    plain = as_dict(replace(Config(), seed=7))
    assert json.loads(json.dumps(plain)) == plain
    assert plain["seed"] == 7
