"""Recognisers of both kinds, tiny and random: what they hear is nonsense, and the gate lets nothing of it pass."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from duplexdata.backends import asr_identity, make_synthesizer
from duplexdata.config import Config, QualityConfig
from duplexdata.errors import ConfigError, UtteranceRejected
from duplexdata.speech.base import SpeechRequest, Voice
from duplexdata.speech.gate import Tally
from duplexdata.speech.transcribe import AsrTranscriber

RATE = 24_000


@pytest.fixture(scope="module")
def ctc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import (
        Wav2Vec2Config,
        Wav2Vec2CTCTokenizer,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2ForCTC,
        Wav2Vec2Processor,
    )

    folder = tmp_path_factory.mktemp("ctc")
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghijklmnopqrstuvwxyz"]
    (folder / "vocab.json").write_text(json.dumps({letter: i for i, letter in enumerate(letters)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(), tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        vocab_size=len(letters),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        pad_token_id=0,
    )
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizerFast,
    )

    folder = tmp_path_factory.mktemp("whisper")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|zh|>", "<|translate|>", "<|transcribe|>"]
    special += ["<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    special += [f"<|{i * 0.02:.2f}|>" for i in range(1501)]
    plain = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    plain.pre_tokenizer, plain.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    plain.add_special_tokens(special)
    tokenizer = WhisperTokenizerFast(
        tokenizer_object=plain, bos_token=special[0], eos_token=special[0], unk_token=special[0], pad_token=special[0]
    )
    WhisperProcessor(WhisperFeatureExtractor(feature_size=16), tokenizer).save_pretrained(folder)
    ids = {token: plain.token_to_id(token) for token in special}
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=plain.get_vocab_size(),
        num_mel_bins=16,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_target_positions=40,
        bos_token_id=0 + ids[special[0]],
        eos_token_id=ids[special[0]],
        pad_token_id=ids[special[0]],
        decoder_start_token_id=ids[special[1]],
        suppress_tokens=[],
        begin_suppress_tokens=[],
    )
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        bos_token_id=ids[special[0]],
        eos_token_id=ids[special[0]],
        pad_token_id=ids[special[0]],
        decoder_start_token_id=ids[special[1]],
        is_multilingual=True,
        lang_to_id={"<|en|>": ids["<|en|>"], "<|zh|>": ids["<|zh|>"]},
        task_to_id={"translate": ids["<|translate|>"], "transcribe": ids["<|transcribe|>"]},
        no_timestamps_token_id=ids["<|notimestamps|>"],
        max_length=30,
    )
    model.save_pretrained(folder)
    return folder


def _clips(*seconds: float, language: str = "en") -> list[tuple[np.ndarray, int, str]]:
    rng = np.random.default_rng(1)
    return [((0.1 * rng.standard_normal(int(s * RATE))).astype(np.float32), RATE, language) for s in seconds]


@pytest.mark.parametrize("kind", ["ctc", pytest.param("whisper", marks=pytest.mark.slow)])
def test_each_clip_has_its_text_and_the_same_each_time(kind: str, request: pytest.FixtureRequest) -> None:
    transcriber = AsrTranscriber(str(request.getfixturevalue(kind)), "cpu")
    clips = _clips(1.0, 2.5, 1.7)
    heard = transcriber.transcribe(clips)
    assert len(heard) == 3 and all(isinstance(text, str) for text in heard)
    assert transcriber.transcribe(clips) == heard
    assert transcriber.transcribe([]) == []


@pytest.mark.slow
def test_languages_and_long_clips_are_read_apart_and_put_back_in_order(whisper: Path) -> None:
    transcriber = AsrTranscriber(str(whisper), "cpu")
    mixed = [*_clips(1.0), *_clips(1.0, language="zh-CN"), *_clips(31.0), *_clips(1.0)]
    heard = transcriber.transcribe(mixed)
    assert len(heard) == 4 and heard[0] == heard[3]


@pytest.mark.parametrize("kind", ["ctc", "whisper"])
def test_a_recogniser_that_knows_nothing_rejects_everything(kind: str, request: pytest.FixtureRequest) -> None:
    pytest.importorskip("espeakng_loader")
    folder: Path = request.getfixturevalue(kind)
    tally = Tally()
    made = make_synthesizer(Config(quality=QualityConfig(asr=str(folder), asr_device="cpu")), tally)
    voice = Voice("x", "train", (("variant", "f1"), ("rate", "160")))
    texts = ["The museum opens at nine and closes at five.", "Would you like another cup of tea with your cake?"]
    results = list(made.synthesize_many([SpeechRequest(text, voice) for text in texts]))
    made.close()
    assert all(isinstance(r, UtteranceRejected) for r in results)
    assert tally.takes.total() == 2 == sum(tally.faults["x"].values())
    assert set(tally.faults["x"]) <= {"word_error_rate", "repeated_words"}


def test_other_weights_are_another_recogniser(ctc: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.numpy import load_file, save_file

    copy = tmp_path / "copy"
    shutil.copytree(ctc, copy)
    assert asr_identity(str(copy)) == asr_identity(str(ctc)) != ""
    weights = load_file(copy / "model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, copy / "model.safetensors")
    assert asr_identity(str(copy)) != asr_identity(str(ctc))
    assert asr_identity(None) == ""


def test_what_is_no_recogniser_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConfigError, match=r"quality\.asr"):
        AsrTranscriber(str(tmp_path), "cpu")
    with pytest.raises(ConfigError, match=r"quality\.asr.*no such folder"):
        make_synthesizer(Config(quality=QualityConfig(asr=str(tmp_path / "missing"))))
