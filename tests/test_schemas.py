"""What ships in `schemas/` and `prompts/` is what the code means."""

from __future__ import annotations

import json

import jsonschema
import pytest
import yaml

from duplexdata.resources import banks, data_file, folder
from duplexdata.write_schemas import schemas


def test_the_shipped_schemas_are_those_of_the_code() -> None:
    shipped = {p.name: json.loads(p.read_text(encoding="utf-8")) for p in folder("schemas").glob("*.json")}
    assert shipped == schemas()


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", ["transitions", "distractors", "backchannels", "fillers"])
def test_every_bank_follows_its_schema(language: str, name: str) -> None:
    value = yaml.safe_load((folder("prompts") / language / f"{name}.yaml").read_text(encoding="utf-8"))
    jsonschema.validate(value, schemas()[f"prompts.{name}.json"])


def test_english_banks_hold_at_least_the_papers_counts() -> None:
    english = banks("en")
    assert english is not None
    assert len([t for t in english.transitions["generation_termination"] if t]) >= 11
    assert len(english.transitions["regeneration"]) >= 15
    assert len(english.transitions["dialogue_reset"]) >= 18
    assert len(english.distractors) >= 200
    kinds = {d.kind for d in english.distractors}
    assert kinds >= {"side_talk", "phone_call", "reading_aloud", "child_or_pet", "television", "thinking_aloud"}


def test_the_bundled_corpus_is_large_enough_and_a_third_of_it_multi_turn() -> None:
    rows = [json.loads(line) for line in data_file("corpus.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) >= 60
    assert len({r["id"] for r in rows}) == len(rows)
    assert sum(len(r["messages"]) > 2 for r in rows) * 3 >= len(rows)
