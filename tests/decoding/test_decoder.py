"""A decoder gives what the model says, whatever is decoded beside it and however it is computed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import embedded_vocabulary

sys.path.insert(0, str(Path(__file__).parent))
from models import gemma2, gpt2, llama, mistral

from duplexdata.decoding import Decoded, DecodeSettings, DuplexDecoder, Request, Sampling
from duplexdata.errors import CheckpointError
from duplexdata.layouts.interleaved import render
from duplexdata.units import Grid

VOCABULARY = embedded_vocabulary()
GRID = Grid(4, 3)
MODELS = {"llama": llama, "mistral": mistral, "gemma2": gemma2, "gpt2": gpt2}
SAMPLED = DecodeSettings(text=Sampling(0.9, 0.8), speech=Sampling(1.1, 0.95), seed=5)


def user_tokens(rng: np.random.Generator, blocks: int) -> np.ndarray:
    return rng.integers(0, VOCABULARY.codebook_size, blocks * GRID.n_speech).astype(np.int32)


def text_ids() -> list[int]:
    duo = VOCABULARY.duo
    speech = range(VOCABULARY.state.speech_offset, VOCABULARY.state.speech_offset + VOCABULARY.codebook_size)
    return [i for i in range(len(VOCABULARY)) if i not in speech and i not in (duo.query, duo.non_query, duo.eos)]


@torch.inference_mode()
def plainly(model: Any, request: Request) -> tuple[np.ndarray, np.ndarray]:
    """Greedy decoding as algorithm 1 is written: the whole sequence again for every token, no cache, no batch."""
    offset, n, m = VOCABULARY.state.speech_offset, GRID.n_speech, GRID.n_text
    text_allowed, speech_allowed = torch.tensor(text_ids()), torch.arange(offset, offset + VOCABULARY.codebook_size)
    ids: list[int] = []
    text, assistant = list(request.text), list(request.assistant)
    for b in range(len(request.user) // n):
        ids += (request.user[b * n : (b + 1) * n] + offset).tolist()
        for channel, per_block, allowed, shift in ((text, m, text_allowed, 0), (assistant, n, speech_allowed, offset)):
            for slot in range(per_block):
                if b * per_block + slot >= len(channel):
                    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
                    channel.append(int(allowed[logits[allowed].argmax()]) - shift)
                ids.append(int(channel[b * per_block + slot]) + shift)
    return np.array(text, np.int32), np.array(assistant, np.int32)


def same(a: Decoded, b: Decoded) -> bool:
    return np.array_equal(a.text, b.text) and np.array_equal(a.assistant, b.assistant) and a.events == b.events


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_of_any_lengths_and_histories_decodes_as_the_algorithm_is_written(name: str) -> None:
    model, rng = MODELS[name](VOCABULARY), np.random.default_rng(0)
    whole = plainly(model, Request("x", user_tokens(rng, 5)))
    requests = []
    for i, (blocks, forced) in enumerate([(5, 0), (2, 0), (6, 4), (4, 1), (3, 3), (1, 0)]):
        text = rng.choice(text_ids(), forced * GRID.n_text).astype(np.int32)
        assistant = rng.integers(0, VOCABULARY.codebook_size, forced * GRID.n_speech).astype(np.int32)
        requests.append(Request(f"talk-{i}", user_tokens(rng, blocks), text, assistant))
    decoded = DuplexDecoder(model, VOCABULARY, GRID).decode(requests)
    for request, answer in zip(requests, decoded, strict=True):
        text, assistant = plainly(model, request)
        assert answer.id == request.id
        np.testing.assert_array_equal(answer.text, text)
        np.testing.assert_array_equal(answer.assistant, assistant)
    # A model that says one thing would test little.
    assert len(set(whole[0].tolist())) > 2 and len(set(whole[1].tolist())) > 4, (
        "a model that says one thing tests little"
    )


@settings(max_examples=15)
@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=7),
    st.sampled_from([1, 2, 64]),
    st.sampled_from([1 << 30, 40_000]),
    st.booleans(),
)
def test_what_is_decoded_together_does_not_matter(
    shape: list[tuple[int, int]], batch_size: int, cache_bytes: int, sampled: bool
) -> None:
    model, rng = llama(VOCABULARY), np.random.default_rng(len(shape))
    base = SAMPLED if sampled else DecodeSettings()
    settings_ = DecodeSettings(base.text, base.speech, base.seed, batch_size, cache_bytes)
    history = Request("t", user_tokens(rng, 6))
    known = DuplexDecoder(model, VOCABULARY, GRID, base).decode([history])[0]
    requests = []
    for i, (blocks, forced) in enumerate(shape):
        forced = min(forced, blocks)
        # Every other one shares its history with others of its id.
        user = history.user[: blocks * GRID.n_speech] if i % 2 else user_tokens(rng, blocks)
        requests.append(
            Request(
                "t" if i % 2 else f"talk-{i}",
                user,
                known.text[: forced * GRID.n_text],
                known.assistant[: forced * GRID.n_speech],
            )
        )
    together = DuplexDecoder(model, VOCABULARY, GRID, settings_).decode(requests)
    alone = [DuplexDecoder(model, VOCABULARY, GRID, base).decode([r])[0] for r in requests]
    assert all(same(a, b) for a, b in zip(together, alone, strict=True))
    # A conversation's own history continues as the conversation did.
    for request, answer in zip(requests, together, strict=True):
        if request.id == "t":
            np.testing.assert_array_equal(answer.assistant, known.assistant[: len(answer.assistant)])


@pytest.mark.parametrize("base", [DecodeSettings(), SAMPLED])
def test_a_stream_says_what_decoding_the_whole_says(base: DecodeSettings) -> None:
    decoder = DuplexDecoder(llama(VOCABULARY), VOCABULARY, GRID, base)
    user = user_tokens(np.random.default_rng(3), 7)
    whole = decoder.decode([Request("talk", user)])[0]
    stream = decoder.stream("talk")
    steps = [stream.push(block) for block in user.reshape(-1, GRID.n_speech)]
    np.testing.assert_array_equal(np.concatenate([s.assistant for s in steps]), whole.assistant)
    np.testing.assert_array_equal(np.concatenate([s.text for s in steps]), whole.text)
    assert tuple(e for s in steps for e in s.events) == whole.events


def test_draws_depend_on_the_seed_and_the_id() -> None:
    model, user = llama(VOCABULARY), user_tokens(np.random.default_rng(4), 6)
    said = {
        (seed, id_): DuplexDecoder(model, VOCABULARY, GRID, DecodeSettings(SAMPLED.text, SAMPLED.speech, seed))
        .decode([Request(id_, user)])[0]
        .assistant.tobytes()
        for seed in (0, 1)
        for id_ in ("a", "b")
    }
    assert len(set(said.values())) == 4


def test_slots_hold_their_channels_tokens_only() -> None:
    hot = DecodeSettings(text=Sampling(50.0), speech=Sampling(50.0))
    answer = DuplexDecoder(llama(VOCABULARY), VOCABULARY, GRID, hot).decode(
        [Request("t", user_tokens(np.random.default_rng(0), 30))]
    )[0]
    assert set(answer.text.tolist()) <= set(text_ids())
    assert answer.assistant.min() >= 0 and answer.assistant.max() < VOCABULARY.codebook_size
    assert len(set(answer.text.tolist())) > 60


def test_a_decoded_conversation_makes_a_row_of_the_layout() -> None:
    user = user_tokens(np.random.default_rng(8), 5)
    answer = DuplexDecoder(llama(VOCABULARY), VOCABULARY, GRID).decode([Request("t", user)])[0]
    before = np.zeros(GRID.n_speech, np.int32)
    row = render(user, answer.text, np.concatenate([before, answer.assistant]), GRID, VOCABULARY.state.speech_offset)
    assert row.n_blocks == 5 and len(row.input_ids) == 5 * GRID.block_tokens


def test_sampling_takes_tokens_as_often_as_their_probability_says() -> None:
    from duplexdata.decoding.sampling import choose

    probability = torch.tensor([0.05, 0.5, 0.15, 0.3])
    u = torch.arange(0, 1, 1 / 4000)
    logits = probability.log().expand(len(u), -1)
    drawn = torch.bincount(choose(logits, Sampling(1.0), u), minlength=4) / len(u)
    torch.testing.assert_close(drawn, probability, atol=2e-3, rtol=0)
    nucleus = torch.bincount(choose(logits, Sampling(1.0, 0.79), u), minlength=4) / len(u)
    torch.testing.assert_close(nucleus, torch.tensor([0, 0.625, 0, 0.375]), atol=2e-3, rtol=0)
    assert set(choose(logits, Sampling(1.0, 0.01), u).tolist()) == {1}


def test_a_conversation_longer_than_the_models_positions_is_refused() -> None:
    decoder = DuplexDecoder(llama(VOCABULARY, max_position_embeddings=50), VOCABULARY, GRID)
    assert decoder.max_blocks == 4
    rng = np.random.default_rng(0)
    with pytest.raises(CheckpointError, match="talk has 5 blocks of 11 tokens"):
        decoder.decode([Request("talk", user_tokens(rng, 5))])
    stream = decoder.stream()
    for _ in range(4):
        stream.push(user_tokens(rng, 1))
    with pytest.raises(CheckpointError, match="4 blocks"):
        stream.push(user_tokens(rng, 1))


@pytest.mark.parametrize(("user", "text", "assistant"), [(5, 0, 0), (8, 3, 8), (8, 2, 4), (4, 6, 8)])
def test_arrays_that_do_not_belong_together_are_refused(user: int, text: int, assistant: int) -> None:
    decoder = DuplexDecoder(llama(VOCABULARY), VOCABULARY, GRID)
    with pytest.raises(ValueError, match="whole blocks"):
        decoder.decode([Request("t", *(np.zeros(n, np.int32) for n in (user, text, assistant)))])


def test_no_requests_no_answers() -> None:
    assert DuplexDecoder(llama(VOCABULARY), VOCABULARY, GRID).decode([]) == []
