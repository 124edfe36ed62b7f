from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from duplexdata.errors import ConfigError
from duplexdata.training.config import DpoConfig
from duplexdata.training.settings import load_dpo, load_sft


def test_defaults_are_the_papers() -> None:
    sft, dpo = load_sft(), load_dpo()
    assert (sft.weights.silence, sft.weights.assistant, sft.weights.epad, sft.weights.other) == (0.1, 10, 10, 1)
    assert (sft.data.batch, dpo.beta, dpo.sft_weight) == (32, 0.5, 0.5)
    assert isinstance(dpo, DpoConfig)


def test_files_names_and_options(tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    file.write_text("weights: uniform\noptim: {steps: 5}\nseed: 3\n")
    config = load_sft(str(file), {"optim": {"lr": 0.1}, "seed": None})
    assert (config.weights.silence, config.optim.steps, config.optim.lr, config.seed) == (1, 5, 0.1, 3)
    assert load_sft("duo").data.rows == "duo"
    assert load_sft("duo", {"weights": {"silence": 0.5}}).weights.silence == 0.5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optim": {"learning_rate": 1}}, r"unknown key optim\.learning_rate"),
        ({"data": {"batch": 0}}, r"data\.batch is 0"),
        ({"weights": "papr"}, "expected paper or uniform"),
        ({"weights": {"assistent": 1}}, "did you mean assistant"),
        ({"weights": {"silence": -1}}, r"weights\.silence is -1"),
        ({"optim": {"steps": 1, "epochs": 1}}, "both set"),
        ({"optim": {"warmup": 1.5}}, r"optim\.warmup"),
        ({"model": {"precision": "fp8"}}, r"model\.precision is 'fp8'"),
        ({"data": {"rows": "codes"}}, r"data\.rows is 'codes'"),
        ({"optim": {"lr": "fast"}}, r"optim\.lr"),
    ],
)
def test_what_no_run_could_work_with(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_sft(None, values)


def test_pairs_are_of_one_layout() -> None:
    with pytest.raises(ConfigError, match="interleaved layout only"):
        load_dpo(None, {"data": {"rows": "duo"}})
