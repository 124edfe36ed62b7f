"""Loads every config of a dataset as a user would, whole and streaming. `load.py DIR`."""

from __future__ import annotations

import sys

from datasets import get_dataset_config_names, load_dataset

from duplexdata import load_audio

path = sys.argv[1]
for name in get_dataset_config_names(path):
    splits = load_dataset(path, name)
    assert set(splits) == {"train", "test"}, splits
    row = next(iter(load_dataset(path, name, split="train", streaming=True)))
    assert row["id"] == splits["train"][0]["id"]
    print(name, {split: len(rows) for split, rows in splits.items()})
audio, rate = load_audio(load_dataset(path, "conversations", split="test")[0])
assert audio.shape[0] == 2 and rate == 16_000
