from __future__ import annotations

import json
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duplexdata.config import AlignConfig
from duplexdata.errors import ConfigError
from duplexdata.speech.align import AlignmentError, make_aligner
from duplexdata.speech.align.ctc import ANY, CtcAligner, letter_spans, spell_out
from duplexdata.speech.base import Speech, SpeechRequest
from duplexdata.speech.voices import assistant_voice
from duplexdata.words import word_texts

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
VOCABULARY = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "'": 5} | {c: 6 + i for i, c in enumerate(LETTERS)}


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)


def collapsed(path: tuple[int, ...], blank: int) -> list[int]:
    kept = [a for n, a in enumerate(path) if n == 0 or a != path[n - 1]]
    return [a for a in kept if a != blank]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.lists(st.integers(1, 2), min_size=1, max_size=3), st.integers(0, 2**32 - 1))
def test_the_likeliest_of_all_paths_that_say_the_text_is_found(n_frames: int, tokens: list[int], seed: int) -> None:
    """All paths are tried, one after the other."""
    log_probs = log_softmax(np.random.default_rng(seed).standard_normal((n_frames, 3)) * 2)
    paths = [p for p in product(range(3), repeat=n_frames) if collapsed(p, 0) == tokens]
    if not paths:
        with pytest.raises(AlignmentError):
            letter_spans(log_probs, tokens, 0)
        return
    best = max(paths, key=lambda p: sum(log_probs[t, a] for t, a in enumerate(p)))
    spans = letter_spans(log_probs, tokens, 0)
    drawn = np.zeros(n_frames, int)
    for token, (first, behind) in zip(tokens, spans, strict=True):
        assert first < behind
        drawn[first:behind] = token
    score = log_probs[np.arange(n_frames), drawn].sum()
    assert score == pytest.approx(log_probs[np.arange(n_frames), best].sum(), rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=30), st.integers(0, 2**32 - 1))
def test_letters_are_found_where_the_emissions_have_them(tokens: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, path = [], [0] * int(rng.integers(0, 4))
    for before, token in zip([None, *tokens], tokens, strict=False):
        path += [0] * int(rng.integers(1 if token == before else 0, 5))
        truth.append((len(path), len(path) + int(rng.integers(1, 4))))
        path += [token] * (truth[-1][1] - truth[-1][0])
    path += [0] * int(rng.integers(0, 4))
    logits = rng.standard_normal((len(path), 6))
    logits[np.arange(len(path)), path] += 12
    assert letter_spans(log_softmax(logits), tokens, 0).tolist() == [list(t) for t in truth]


def test_a_letter_that_the_model_does_not_know_takes_the_place_that_is_left() -> None:
    path = [0, 6, 6, 0, 9, 9, 9, 0, 7, 0]
    logits = np.zeros((len(path), 12))
    logits[np.arange(len(path)), path] = 12
    assert letter_spans(log_softmax(logits), [6, ANY, 7], 0).tolist() == [[1, 3], [4, 7], [8, 9]]


def test_too_little_sound_for_the_text_is_an_error_and_not_a_guess() -> None:
    with pytest.raises(AlignmentError, match="too few"):
        letter_spans(np.zeros((3, 5), np.float32), [1, 1, 2], 0)


def test_words_are_spelled_with_what_the_model_knows() -> None:
    tokens, owners = spell_out("Don't, café 你!", VOCABULARY, "|")
    names = {i: c for c, i in VOCABULARY.items()} | {ANY: "*"}
    assert "".join(names[t] for t in tokens) == "DON'T|CAFE|*"
    assert owners == [0, 0, 0, 0, 0, -1, 1, 1, 1, 1, -1, 2]
    assert spell_out("ab", {"a": 1, "b": 2}, None) == ([1, 2], [0, 0])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """wav2vec 2.0 with random weights, all its files as a real one has them."""
    from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    folder = tmp_path_factory.mktemp("wav2vec2")
    config = Wav2Vec2Config(
        vocab_size=len(VOCABULARY), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        conv_dim=(16,) * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2, pad_token_id=0,
    )  # fmt: skip
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(VOCABULARY))
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    return folder


def test_a_checkpoint_gives_every_word_a_time_in_order(checkpoint: Path) -> None:
    made = make_aligner(AlignConfig(model=str(checkpoint), device="cpu"))
    assert isinstance(made, CtcAligner)
    assert made.name == f"ctc-{checkpoint.name}"
    text = "Hello there, it's café 你 time."
    for rate in (16_000, 24_000):
        samples = np.random.default_rng(0).standard_normal(2 * rate).astype(np.float32) * 0.1
        request = SpeechRequest(text, assistant_voice())
        words = made.word_times(request, Speech(samples, rate, None))
        assert [w.text for w in words] == word_texts(text)
        assert all(w.estimated and 0 <= w.start <= w.end <= len(samples) for w in words)
        assert all(a.end <= b.start for a, b in pairwise(words))
        assert words == made.word_times(request, Speech(samples, rate, None))
    with pytest.raises(AlignmentError):
        made.word_times(SpeechRequest(text, assistant_voice()), Speech(np.zeros(100, np.float32), 16_000, None))
    with pytest.raises(AlignmentError):
        made.word_times(SpeechRequest("你好", assistant_voice()), Speech(np.zeros(32_000, np.float32), 16_000, None))
    assert made.word_times(SpeechRequest("...", assistant_voice()), Speech(samples, rate, None)) == ()


def test_the_words_stand_where_the_models_letters_do(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's answer is replaced by one whose truth is known: 20 ms frames, letters at their peaks."""
    made = make_aligner(AlignConfig(model=str(checkpoint), device="cpu"))
    assert isinstance(made, CtcAligner)
    rate, text = 16_000, "one two"
    path = np.zeros(100, int)
    for start, letters in ((10, "ONE"), (60, "TWO")):
        for n, letter in enumerate(letters):
            path[start + 5 * n : start + 5 * n + 2] = VOCABULARY[letter]
    path[50] = VOCABULARY["|"]
    logits = np.zeros((100, len(VOCABULARY)))
    logits[np.arange(100), path] = 12
    monkeypatch.setattr(CtcAligner, "_listen", lambda self, speech: log_softmax(logits))
    samples = np.random.default_rng(0).standard_normal(2 * rate).astype(np.float32) * 0.1
    samples[int(0.6 * rate) : int(1.1 * rate)] *= 1e-4  # a pause behind "one"
    one, two = made.word_times(SpeechRequest(text, assistant_voice()), Speech(samples, rate, None))
    assert abs(one.start / rate - 0.2) < 0.02 and abs(one.end / rate - 0.6) < 0.04
    assert abs(two.start / rate - 1.1) < 0.04 and abs(two.end / rate - 1.44) < 0.02


def test_what_is_no_ctc_model_is_refused_by_its_name(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"align\.model"):
        make_aligner(AlignConfig(model=str(tmp_path)))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(ConfigError, match=r"align\.model"):
        make_aligner(AlignConfig(model=str(tmp_path)))
