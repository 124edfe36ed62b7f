from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from duplexdata.layouts.interleaved import IGNORED
from duplexdata.training.classes import CLASSES, TokenTable
from duplexdata.training.config import UNIFORM, LossWeights
from duplexdata.training.packing import Example, make_pack, plan_packs

VOCABULARY = {
    "vocabulary_size": 40,
    "speech_offset": 20,
    "codebook_size": 16,
    "state_tokens": {
        "silence": 10, "assistant": 11, "pad": 12, "epad": 13, "query": 14, "non_query": 15, "eos": 16
    },
}  # fmt: skip
PAPER = TokenTable.make(VOCABULARY, LossWeights())


def example(rng: np.random.Generator, n: int, first: int = 0) -> Example:
    ids = rng.integers(first, 20, n).astype(np.int32)
    return Example(ids, np.where(rng.random(n) < 0.4, IGNORED, ids).astype(np.int32))


@given(st.lists(st.integers(1, 900), max_size=60), st.integers(900, 3000), st.integers(1, 5))
def test_every_sequence_is_in_one_pack_and_packs_hold_what_they_may(
    lengths: list[int], capacity: int, devices: int
) -> None:
    packs = plan_packs(lengths, capacity, devices)
    assert sorted(i for pack in packs for i in pack) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in pack) <= capacity for pack in packs)
    assert len(packs) % devices == 0
    assert packs == plan_packs(lengths, capacity, devices)


@given(st.lists(st.integers(1, 900), min_size=1, max_size=60))
def test_no_more_packs_than_twice_what_would_hold_the_tokens(lengths: list[int]) -> None:
    capacity = 1000
    assert len(plan_packs(lengths, capacity)) <= 2 * -(-sum(lengths) // capacity)


def test_packs_of_conversations_are_almost_all_real_tokens() -> None:
    """Lengths as a default build has them, padded as for a GPU."""
    rng = np.random.default_rng(0)
    lengths = (25 * np.clip(rng.lognormal(3.8, 0.7, 320), 12, 225).astype(int)).tolist()
    real = padded = 0
    for a in range(0, len(lengths), 32):
        step = lengths[a : a + 32]
        for pack in plan_packs(step, 8192, devices=2):
            made = make_pack(
                [Example(np.zeros(step[i], np.int32), np.zeros(step[i], np.int32)) for i in pack], PAPER, 128
            )
            real, padded = real + made.n_real, padded + len(made.input_ids)
    assert real == sum(lengths)
    assert real / padded >= 0.97


@given(st.lists(st.integers(1, 30), max_size=8), st.sampled_from([1, 16]), st.integers(0, 5))
def test_a_position_predicts_the_next_token_of_its_own_sequence(lengths: list[int], multiple: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    examples = [example(rng, n) for n in lengths]
    pack = make_pack(examples, PAPER, multiple)
    assert len(pack.input_ids) % multiple == 0
    expected = []
    for s, (e, start) in enumerate(zip(examples, pack.starts.tolist(), strict=False)):
        assert pack.position[start : start + len(e)].tolist() == list(range(len(e)))
        for i in range(1, len(e)):
            if e.labels[i] != IGNORED:
                expected.append((start + i - 1, int(e.labels[i]), s))
    found = zip(pack.predicting.tolist(), pack.labels.tolist(), pack.of.tolist(), strict=True)
    assert list(found) == expected


def test_weights_are_those_of_equation_5() -> None:
    state = VOCABULARY["state_tokens"]
    assert isinstance(state, dict)
    labels = np.array([state["silence"], state["assistant"], state["epad"], state["pad"], 3, 25, IGNORED], np.int32)
    assert PAPER.weights(labels).tolist() == np.float32([0.1, 10, 10, 1, 1, 1, 0]).tolist()
    uniform = TokenTable.make(VOCABULARY, LossWeights(**UNIFORM))
    assert uniform.weights(labels).tolist() == [1, 1, 1, 1, 1, 1, 0]


def test_every_token_has_the_class_it_is_reported_under() -> None:
    names = [CLASSES[c] for c in PAPER.class_of]
    assert names[10] == "silence"
    assert names[12] == "pad"
    assert {names[i] for i in (11, 13, 14, 15, 16)} == {"state"}
    assert set(names[20:36]) == {"speech"}
    assert set(names[:10]) == {"text"}
