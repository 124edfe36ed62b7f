"""The command line as a user meets it: exit status, messages, what is printed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import yaml

from duplexdata.config import Config, SourceConfig
from duplexdata.config_file import PRESETS, dump_config, load_config
from duplexdata.errors import ConfigError


def run(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "duplexdata.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=240, check=False)


@pytest.mark.parametrize("command", ["build", "emit", "verify", "show", "score", "tokenize", "config"])
def test_each_command_explains_itself(command: str) -> None:
    result = run(command, "--help")
    assert result.returncode == 0
    assert "Usage" in result.stdout and len(result.stdout) > 200


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("build", "--conversation", "3"), "--conversations"),
        (("build", "--workers", "0"), "--workers is 0"),
        (("build", "--config", "nope.yaml"), "nope.yaml"),
        (("build", "--conversations", "many"), "--conversations"),
        (("emit", "somewhere"), "--out"),
        (("tokenize", "x.wav", "--codec", "nope"), "mel"),
        (("score", "checkpoint"), "--dataset"),
        (("score", "--dataset", "x", "--history", "mine", "checkpoint"), "own, gold"),
        (("score", "--dataset", "x", "--temperature", "-1", "checkpoint"), "temperature"),
        (("nonsense",), "nonsense"),
    ],
)
def test_wrong_use_ends_with_status_2_and_one_line(arguments: tuple[str, ...], says: str) -> None:
    result = run(*arguments)
    assert result.returncode == 2, result.stderr
    assert says in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("verify", "no-such-folder"), "no-such-folder"),
        (("show", "no-such-folder", "x"), "no-such-folder"),
        (("tokenize", "no-such-file.wav"), "no-such-file.wav"),
        (("build", "--source", "no-such-file.jsonl"), "no-such-file.jsonl"),
        (("score", "--dataset", "no-such-folder", "--reference", "recorded"), "no-such-folder"),
        (("score", "--pairs", "no-such-folder"), "no-such-folder"),
    ],
)
def test_work_that_fails_ends_with_status_1_and_names_the_file(
    arguments: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    result = run(*arguments, cwd=tmp_path)
    assert result.returncode == 1, result.stderr
    assert says in result.stdout + result.stderr
    assert "Traceback" not in result.stderr


def test_tokenize_prints_one_object_a_line_and_goes_on_after_a_bad_file(tmp_path: Path) -> None:
    rate = 22_050
    t = np.arange(rate) / rate
    sf.write(tmp_path / "a.wav", 0.2 * np.sin(2 * np.pi * 220 * t), rate)
    sf.write(tmp_path / "b.flac", np.stack([np.zeros(rate), np.zeros(rate)], axis=1), rate)
    (tmp_path / "bad.wav").write_text("no sound")
    result = run("tokenize", tmp_path / "a.wav", tmp_path / "bad.wav", tmp_path / "b.flac")
    assert result.returncode == 1
    assert "bad.wav" in result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [Path(r["file"]).name for r in rows] == ["a.wav", "b.flac"]
    assert [len(r["tokens"]) for r in rows] == [13, 13]
    assert len(set(rows[1]["tokens"])) == 1


def test_an_unknown_key_is_refused_with_the_nearest_known_one(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("timing:\n  reply_gap: 0.5\n")
    with pytest.raises(ConfigError, match=r"timing\.reply_gap; did you mean reply_gap_sec"):
        load_config(str(file))
    file.write_text("sources:\n  - {pth: x}\n")
    with pytest.raises(ConfigError, match="did you mean path"):
        load_config(str(file))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("conversations: lots", "conversations"),
        ("- a list", "mapping"),
        ("timing: 3", "timing"),
        ("timing: {late_gap_sec: [5, 2]}", "late_gap_sec"),
        ("layout: {emit: [sft, xyz]}", "xyz"),
        ("preset: baylin", "bayling"),
        ("a: [", "YAML"),
        ("speech: {backend: nominal}", "layout.emit"),
    ],
)
def test_a_bad_configuration_is_one_clear_error(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=says):
        load_config(str(file))


@pytest.mark.parametrize("name", [None, *PRESETS])
def test_what_config_prints_is_read_back_as_the_same_configuration(name: str | None, tmp_path: Path) -> None:
    config = load_config(name)
    file = tmp_path / "c.yaml"
    file.write_text(dump_config(config))
    assert load_config(str(file)) == config


def test_options_go_over_the_file_and_the_file_over_its_preset(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump({"preset": "duo", "conversations": 7, "mix": {"regeneration": 0.5}}))
    config = load_config(str(file), {"conversations": 9, "seed": None})
    assert (config.conversations, config.seed) == (9, 0)
    assert config.layout.emit == ("duo",)
    assert config.mix.regeneration == 0.5 and config.mix.distractor == 1.0
    assert load_config(None) == Config(sources=(SourceConfig(),))
