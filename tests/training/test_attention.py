"""Conversations in a pack do not see each other, whatever the model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from models_for_tests import small_model
from test_packing import PAPER

from duplexdata.layouts.duo import attention_mask
from duplexdata.training.config import ModelSettings
from duplexdata.training.packing import Example, Pack, make_pack
from duplexdata.training.predictor import Place, Predictor

CPU = Place(torch.device("cpu"), bf16=False)
KINDS = ["llama", "mistral", "qwen2", "gemma2", "gpt2", "granite"]


def example(n: int, seed: int, **over: Any) -> Example:
    ids = np.random.default_rng(seed).integers(0, 40, n).astype(np.int32)
    return Example(ids, ids, **over)


def logits(predictor: Predictor, pack: Pack) -> torch.Tensor:
    """Of every position, (n_tokens, vocabulary)."""
    predictor.model.eval()
    every = np.arange(len(pack.input_ids))
    given = predictor.on_device(replace(pack, predicting=every))
    with torch.no_grad():
        return predictor._logits(given)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_of_a_packed_conversation_are_those_of_it_alone(kind: str) -> None:
    """Also of conversations longer than a sliding window; alone means without anything of ours."""
    plain = small_model(kind).eval()
    predictor = Predictor(small_model(kind), ModelSettings(device="cpu"), CPU)
    examples = [example(n, seed=n) for n in (40, 150, 1, 300, 77)]
    pack = make_pack(examples, PAPER, multiple=64)
    packed = logits(predictor, pack)
    for e, start in zip(examples, pack.starts.tolist(), strict=False):
        with torch.no_grad():
            alone = plain(input_ids=torch.from_numpy(e.input_ids.astype(np.int64))[None], use_cache=False).logits[0]
        torch.testing.assert_close(packed[start : start + len(e)], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention", ["segments", "dense"])
@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2"])
def test_ways_of_attention_agree(kind: str, attention: str) -> None:
    examples = [example(n, seed=n) for n in (40, 150, 9)]
    pack = make_pack(examples, PAPER)
    one = logits(Predictor(small_model(kind), ModelSettings(attention="eager"), CPU), pack)
    other = logits(Predictor(small_model(kind), ModelSettings(attention=attention), CPU), pack)
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_a_model_of_today_needs_no_mask_of_the_whole_pack() -> None:
    assert Predictor(small_model("llama"), ModelSettings(), CPU).kind == "segments"
    assert Predictor(small_model("mistral"), ModelSettings(), CPU).kind == "segments"


def test_only_models_whose_logits_are_a_plain_product_skip_them() -> None:
    assert Predictor(small_model("llama"), ModelSettings(), CPU).plain_head
    assert not Predictor(small_model("granite"), ModelSettings(), CPU).plain_head
    assert not Predictor(small_model("gemma2"), ModelSettings(), CPU).plain_head


@pytest.mark.parametrize("kind", ["llama", "granite", "mistral"])
def test_losses_are_those_of_the_model_itself(kind: str) -> None:
    plain = small_model(kind)
    predictor = Predictor(small_model(kind), ModelSettings(), CPU)
    e = example(60, seed=3)
    total, each = predictor.losses(predictor.on_device(make_pack([e], PAPER)))
    total.backward()
    ids = torch.from_numpy(e.input_ids.astype(np.int64))
    out = plain(input_ids=ids[None], use_cache=False).logits[0, :-1]
    wanted = torch.nn.functional.cross_entropy(out, ids[1:], reduction="none")
    weights = torch.from_numpy(PAPER.weights(e.labels[1:]))
    (wanted * weights).sum().backward()
    torch.testing.assert_close(each, wanted.detach())
    mine = dict(predictor.model.named_parameters())
    for name, p in plain.named_parameters():
        torch.testing.assert_close(mine[name].grad, p.grad, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("attention", ["segments", "dense"])
def test_what_comes_in_during_an_answer_and_the_answer_do_not_see_each_other(attention: str) -> None:
    """channel 0 0 0 0 1 1 1 0 0 0 1 1 1 1, as drawn in `layouts/duo.py`, behind another conversation."""
    channel = np.array([0] * 4 + [1] * 3 + [0] * 3 + [1] * 4, np.int8)
    position = np.array([0, 1, 2, 3, 4, 5, 6, 4, 5, 6, 7, 8, 9, 10], np.int32)
    duo = example(14, seed=5, channel=channel, position=position)
    other = example(9, seed=6, channel=np.zeros(9, np.int8), position=np.arange(9, dtype=np.int32))
    predictor = Predictor(small_model("llama", num_hidden_layers=1), ModelSettings(attention=attention), CPU)
    before = logits(predictor, make_pack([other, duo], PAPER))[9:]
    seen = attention_mask(channel, position)
    for j in range(14):
        ids = duo.input_ids.copy()
        ids[j] = (ids[j] + 1) % 40
        after = logits(predictor, make_pack([other, replace(duo, input_ids=ids)], PAPER))[9:]
        changed = ((before - after).abs().amax(1) > 1e-6).numpy()
        assert changed.tolist() == seen[:, j].tolist()


def test_gradient_checkpointing_changes_no_gradient() -> None:
    pack = make_pack([example(40, 1), example(30, 2)], PAPER)
    grads = []
    for on in (False, True):
        predictor = Predictor(small_model("mistral"), ModelSettings(gradient_checkpointing=on), CPU)
        predictor.losses(predictor.on_device(pack))[0].backward()
        grads.append([p.grad for p in predictor.model.parameters()])
    torch.testing.assert_close(*grads)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_flex_attention_on_a_gpu(kind: str) -> None:
    cuda = Place(torch.device("cuda"), bf16=False)
    examples = [example(n, seed=n) for n in (40, 150, 9)]
    pack = make_pack(examples, PAPER, multiple=128)
    wide = {"hidden_size": 64}  # heads of 16: the narrowest that the kernel takes
    one = logits(Predictor(small_model(kind, **wide), ModelSettings(attention="dense"), CPU), pack)
    other = logits(Predictor(small_model(kind, **wide), ModelSettings(attention="flex"), cuda), pack)
    torch.testing.assert_close(one[: pack.n_real], other[: pack.n_real].cpu(), atol=1e-3, rtol=1e-3)
