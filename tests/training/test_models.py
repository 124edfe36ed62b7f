from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from models_for_tests import small_model

from duplexdata.errors import TokenizerError
from duplexdata.training.config import ModelSettings
from duplexdata.training.data import DatasetFacts
from duplexdata.training.models import extend, load_model, n_parameters


def rows(model: Any) -> torch.Tensor:
    return model.get_input_embeddings().weight.detach().clone()


@pytest.mark.parametrize("tied", [True, False])
def test_new_rows_are_like_the_known_ones_and_each_its_own(tied: bool) -> None:
    model = small_model("llama", vocab_size=3000, tie_word_embeddings=tied)
    before = rows(model)
    extend(model, known=3000, size=4000, seed=0)
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        assert layer.weight.shape[0] == 4000
        known, new = layer.weight[:3000].detach(), layer.weight[3000:].detach()
        assert (new.mean(0) - known.mean(0)).abs().max() < 0.1 * known.std()
        spread = new.std(0) / known.std(0)
        assert spread.min() > 0.08 and spread.max() < 0.12
        assert len(torch.unique(new, dim=0)) == 1000
    assert torch.equal(rows(model)[:3000], before)
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied


def test_new_tokens_hardly_change_what_a_model_says() -> None:
    model = small_model("llama", vocab_size=3000)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits[0].softmax(-1)
        extend(model, known=3000, size=3100, seed=0)
        after = model(input_ids=ids).logits[0].softmax(-1)
    assert after[:, 3000:].sum(1).max() < 0.1
    torch.testing.assert_close(after[:, :3000] / after[:, :3000].sum(1, keepdim=True), before)


def test_new_rows_depend_on_the_seed_alone() -> None:
    made = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(made))
        model = small_model("llama")
        extend(model, known=64, size=80, seed=seed)
        made.append(rows(model))
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0][64:], made[2][64:])


def test_rows_in_reserve_are_made_anew_and_a_larger_model_stays_large() -> None:
    model = small_model("llama", vocab_size=200)
    before = rows(model)
    extend(model, known=100, size=150, seed=0)
    after = rows(model)
    assert torch.equal(after[:100], before[:100])
    assert not torch.equal(after[100:150], before[100:150])
    assert torch.equal(after[150:], before[150:])


@pytest.mark.parametrize(("name", "least", "most"), [("tiny", 1e6, 5e6), ("small", 100e6, 140e6)])
def test_built_in_models_have_the_size_they_are_named_for(
    name: str, least: float, most: float, small_dataset: Path
) -> None:
    facts = DatasetFacts.read(str(small_dataset))
    with torch.device("meta"):
        model = load_model(ModelSettings(name=name), facts, 0)
    assert least < n_parameters(model.model) < most
    assert model.random


def test_a_model_without_a_tokenizer_cannot_contradict_the_dataset(small_dataset: Path, tmp_path: Path) -> None:
    facts = DatasetFacts.read(str(small_dataset))
    small_model("llama", vocab_size=500).save_pretrained(tmp_path)
    found = load_model(ModelSettings(name=str(tmp_path)), facts, 0)
    assert found.model.get_input_embeddings().weight.shape[0] == facts.vocabulary["vocabulary_size"]
    assert not found.random


def test_a_model_whose_tokenizer_the_dataset_extends(small_dataset: Path, tmp_path: Path) -> None:
    """The embedded tokenizer has 8192 tokens of its own; the dataset's adds state and speech tokens."""
    from duplexdata.resources import data_file

    facts = DatasetFacts.read(str(small_dataset))
    small_model("llama", vocab_size=8200).save_pretrained(tmp_path)
    shutil.copytree(data_file("tokenizer"), tmp_path, dirs_exist_ok=True)
    before = rows(small_model("llama", vocab_size=8200))
    after = rows(load_model(ModelSettings(name=str(tmp_path)), facts, 0).model)
    assert torch.equal(after[:8192], before[:8192])
    assert not torch.equal(after[8192:8200], before[8192:])  # never trained: made anew
    file = tmp_path / "tokenizer.json"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace('"A": 32,', '"A": 33,').replace('"B": 33,', '"B": 32,'), encoding="utf-8")
    with pytest.raises(TokenizerError, match=r"token 'B' is 32 in the model and 33 in the dataset.*duplexdata emit"):
        load_model(ModelSettings(name=str(tmp_path)), facts, 0)
    file.write_text(text[: len(text) // 2], encoding="utf-8")
    with pytest.raises(TokenizerError, match="cannot be read, to compare it"):
        load_model(ModelSettings(name=str(tmp_path)), facts, 0)
