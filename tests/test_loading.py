"""What `load_dataset` gives is what lies in the folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from datasets import load_dataset

from duplexdata.build import build
from duplexdata.config import Config, LayoutConfig, SpeechConfig

SETTINGS = Config(
    conversations=6, speech=SpeechConfig(backend="nominal"), layout=LayoutConfig(emit=("tdm", "duo")), seed=3
)


def _ids(folder: Path) -> list[str]:
    return list(load_dataset(str(folder), "duo", split="train")["id"])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_datasets_of_the_same_name_in_other_folders_are_told_apart(tmp_path: Path, cache: None) -> None:
    """The library caches by the folder's name and the card's head."""
    for seed in (1, 2):
        build(replace(SETTINGS, seed=seed), tmp_path / str(seed) / "dataset", workers=1, report=lambda *_: None)
    first, second = (_ids(tmp_path / str(seed) / "dataset") for seed in (1, 2))
    assert first != second


def test_a_dataset_that_is_built_anew_is_read_anew(tmp_path: Path, cache: None) -> None:
    out = tmp_path / "dataset"
    build(SETTINGS, out, workers=1, report=lambda *_: None)
    before = _ids(out)
    build(replace(SETTINGS, conversations=8), out, workers=1, report=lambda *_: None)
    assert len(_ids(out)) > len(before)
