"""Real processes: one that is killed, two that share the work, the command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from duplexdata.training.logs import read_log

ENV = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
SETTINGS = """
data: {limit: 8, max_tokens: 1500, batch: 4}
model: {device: cpu, precision: %s}
optim: {steps: 8}
run: {log_every: 1, checkpoint_every: 2}
"""


def command(dataset: Path, out: Path, config: Path) -> list[str]:
    return ["train", "sft", "--config", str(config), "--dataset", str(dataset), "--out", str(out)]


def settings(tmp_path: Path, precision: str = "fp32") -> Path:
    file = tmp_path / "train.yaml"
    file.write_text(SETTINGS % precision)
    return file


def finish(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *arguments], env=ENV, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]


def equal(a: Path, b: Path) -> bool:
    one, other = load_file(a / "final/model.safetensors"), load_file(b / "final/model.safetensors")
    return one.keys() == other.keys() and all(bool((one[k] == other[k]).all()) for k in one)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_killed_run_ends_where_an_undisturbed_one_does(precision: str, small_dataset: Path, tmp_path: Path) -> None:
    config = settings(tmp_path, precision)
    finish(["duplexdata", *command(small_dataset, tmp_path / "whole", config)])
    out = tmp_path / "killed"
    for at_least in (2, 4):  # twice
        process = subprocess.Popen(
            [sys.executable, "-m", "duplexdata", *command(small_dataset, out, config)], env=ENV, start_new_session=True
        )
        try:
            until = time.monotonic() + 200
            while len(read_log_safely(out)) <= at_least and process.poll() is None:
                assert time.monotonic() < until
                time.sleep(0.01)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    finish(["duplexdata", *command(small_dataset, out, config)])
    assert equal(tmp_path / "whole", out)
    assert [x["loss"] for x in read_log(out)] == [x["loss"] for x in read_log(tmp_path / "whole")]


def read_log_safely(out: Path) -> list[object]:
    try:
        return list(read_log(out))
    except ValueError:  # half a line
        return []


@pytest.mark.slow
def test_two_processes_learn_what_one_does(small_dataset: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    config = settings(tmp_path)
    finish(["duplexdata", *command(small_dataset, tmp_path / "one", config)])
    launch = ["accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    finish([*launch, "-m", "duplexdata", *command(small_dataset, tmp_path / "two", config)])
    one, two = read_log(tmp_path / "one"), read_log(tmp_path / "two")
    assert [x["tokens"] for x in one] == [x["tokens"] for x in two]
    for name in ("loss", "loss/speech", "loss/silence", "gradient_norm"):
        assert [x[name] for x in two] == pytest.approx([x[name] for x in one], rel=2e-3), name


@pytest.mark.slow
def test_the_commands_of_the_readme(small_dataset: Path, tmp_path: Path) -> None:
    """SFT, then DPO from its folder; a second call says that all is done."""
    small = ["--batch", "3", "--max-tokens", "1500", "--device", "cpu"]
    sft = ["duplexdata", "train", "sft", "--dataset", str(small_dataset), "--out", str(tmp_path / "sft"), *small]
    finish([*sft, "--epochs", "0.5"])
    dpo = ["duplexdata", "train", "dpo", "--dataset", str(small_dataset), "--model", str(tmp_path / "sft")]
    finish([*dpo, "--out", str(tmp_path / "dpo"), "--steps", "2", *small])
    again = subprocess.run(
        [sys.executable, "-m", *sft, "--epochs", "0.5"], env=ENV, capture_output=True, text=True, timeout=200
    )
    assert "complete already" in again.stdout
    wrong = subprocess.run([sys.executable, "-m", *dpo, "--beta", "-1"], env=ENV, capture_output=True, text=True)
    assert (wrong.returncode, wrong.stderr) == (2, "duplexdata: beta is -1.0, expected more than 0\n")
