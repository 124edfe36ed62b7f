"""`duplexdata voices …` as a user meets it: exit status, messages, what is printed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from voice_prompts import Prompt

WriteBank = Callable[..., Path]


def run(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "duplexdata.cli", "voices", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=240, check=False)


@pytest.mark.parametrize("command", [(), ("check",), ("import",)])
def test_each_command_explains_itself(command: tuple[str, ...]) -> None:
    result = run(*command, "--help")
    assert result.returncode == 0
    assert "Usage" in result.stdout and len(result.stdout) > 200


def test_help_loads_no_heavy_library() -> None:
    heavy = ("numpy", "soundfile", "datasets", "torch", "matplotlib")
    code = f"import sys, duplexdata.cli; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_good_bank_ends_with_status_0(write_bank: WriteBank) -> None:
    result = run("check", write_bank())
    assert result.returncode == 0, result.stderr
    assert "12 of 12 voices can be used" in result.stdout
    assert "sex: female 6, male 6" in result.stdout


def test_a_bad_voice_ends_with_status_1_and_says_why(
    write_bank: WriteBank, made_prompts: list[Prompt], tmp_path: Path
) -> None:
    folder = write_bank(lambda i, row: {**row, "consent": ""} if i == 2 else row)
    broken = made_prompts[5]
    clipped = np.clip(broken.samples * 30, -1, 1) * np.float32(0.2)
    sf.write(folder / f"{broken.id}.wav", clipped, broken.rate, subtype="PCM_16")
    result = run("check", folder, "--png", tmp_path / "bank.png")
    assert result.returncode == 1
    assert f"refused  {broken.id}" in result.stdout
    assert "clipped: " in result.stdout and "no_consent: " in result.stdout
    assert "10 of 12 voices can be used" in result.stdout
    assert (tmp_path / "bank.png").read_bytes().startswith(b"\x89PNG")
    result = run("check", folder, "--json", "--allow-unlicensed")
    assert result.returncode == 1
    found = json.loads(result.stdout)
    assert (found["found"], found["accepted"], found["refused"]) == (12, 11, {"clipped": 1})
    (bad,) = [v for v in found["voices"] if not v["accepted"]]
    assert bad["id"] == broken.id and bad["measured"]["clipped"] > 0.01
    assert {f["reason"] for f in bad["faults"]} >= {"clipped"}


def test_limits_come_from_a_configuration(write_bank: WriteBank, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(json.dumps({"voices": {"bank": str(write_bank()), "limits": {"seconds": [9.0, 10.0]}}}))
    result = run("check", "--config", config)
    assert result.returncode == 1
    assert "refused: too_short 12" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("check",), 2, "--config"),
        (("check", "no-such-folder/of/mine"), 2, "voices.jsonl"),
        (("import", "timit", "."), 2, "--out"),
        (("import", "timit", ".", "--out", "bank"), 1, "libritts, vctk, common-voice"),
        (("import", "vctk", ".", "--out", "bank"), 1, "wav48_silence_trimmed"),
        (("import", "vctk", ".", "--out", "bank", "--test-fraction", "2"), 2, "--test-fraction"),
        (("import", "vctk", ".", "--out", "bank", "--limit", "0"), 2, "--limit"),
    ],
)
def test_wrong_use_is_one_line(arguments: tuple[str, ...], status: int, says: str, tmp_path: Path) -> None:
    result = run(*arguments, cwd=tmp_path)
    assert result.returncode == status, result.stderr
    assert says in result.stderr and "Traceback" not in result.stderr


def test_an_imported_bank_is_checked_by_the_line_that_is_printed(made_prompts: list[Prompt], tmp_path: Path) -> None:
    root = tmp_path / "LibriTTS" / "train-clean-100"
    for i, prompt in enumerate(made_prompts[:4]):
        stem = root / str(i) / "1" / f"{i}_1_000000_000000"
        stem.parent.mkdir(parents=True)
        sf.write(stem.with_suffix(".wav"), prompt.samples, prompt.rate)
        Path(f"{stem}.normalized.txt").write_text(prompt.transcript)
    result = run("import", "libritts", "LibriTTS", "--out", "bank", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "4 voices; train 2, test 2" in result.stdout
    line = result.stdout.splitlines()[-1].split("duplexdata voices ")[1]
    checked = run(*line.split(), cwd=tmp_path)
    assert checked.returncode == 0 and "4 of 4 voices" in checked.stdout
