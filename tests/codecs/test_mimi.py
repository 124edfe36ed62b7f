"""Mimi: what the model gives for each clip alone, on our clock, and refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soxr
import torch
from glm4voice_plain import speechlike
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import MimiConfig, MimiModel

from duplexdata.backends import make_speech_tokenizer
from duplexdata.codecs.base import SpeechTokenizer
from duplexdata.codecs.mimi import MimiTokenizer
from duplexdata.config import CodecConfig
from duplexdata.errors import CodecError, ConfigError

N_QUANTIZERS = 12


def write_tiny_mimi(folder: Path, seed: int = 0) -> Path:
    """A checkpoint of random weights and the released clock, as `save_pretrained` writes it."""
    config = MimiConfig(
        hidden_size=32,
        num_filters=4,
        codebook_size=64,
        codebook_dim=16,
        vector_quantization_hidden_dimension=16,
        num_quantizers=N_QUANTIZERS,
        upsample_groups=32,
        num_hidden_layers=2,
        intermediate_size=64,
        num_attention_heads=4,
        num_key_value_heads=4,
        sliding_window=20,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MimiModel(config)
        for name, buffer in model.named_buffers():
            if name.endswith("embed_sum"):  # zero in a new model
                buffer.normal_(std=0.1 if "acoustic" in name else 0.3)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_mimi(tmp_path_factory.mktemp("mimi") / "tiny")


@pytest.fixture(scope="module")
def mimi(checkpoint: Path) -> MimiTokenizer:
    return MimiTokenizer.load(str(checkpoint), device="cpu")


def test_it_states_its_clock(mimi: MimiTokenizer) -> None:
    codec: SpeechTokenizer = mimi
    assert (codec.sample_rate, codec.frame_rate, codec.n_codebooks) == (16_000, Fraction(25, 2), 8)
    assert codec.codebook_size == 64 and codec.context_samples is None and codec.can_decode
    assert codec.describe().items() >= {"name": "mimi", "codebooks": "8", "precision": "fp32", "device": "cpu"}.items()


@pytest.mark.parametrize("n", [0, 1, 2, 1279, 1280, 1281, 2560, 24_000, 33_333])
def test_a_clip_has_one_frame_for_each_begun_1280_samples(mimi: MimiTokenizer, n: int) -> None:
    (codes,) = mimi.encode([speechlike(n, n)])
    assert codes.dtype == np.int32 and codes.shape == (8, -(-n // 1280))
    assert n == 0 or (codes.min() >= 0 and codes.max() < 64)


def test_the_codes_are_those_of_the_model_for_the_clip_at_24_khz(mimi: MimiTokenizer, checkpoint: Path) -> None:
    model = MimiModel.from_pretrained(checkpoint).eval()
    clip = speechlike(1, 50_001)
    resampled = soxr.resample(clip.astype(np.float32) / 32768, 16_000, 24_000, quality="HQ")
    padded = np.zeros((1, 1, 40 * 1920), np.float32)
    padded[0, 0, : len(resampled)] = resampled
    with torch.no_grad():
        expected = model.encode(torch.from_numpy(padded)).audio_codes[0].numpy()
    (codes,) = mimi.encode([clip])
    assert expected.shape == (N_QUANTIZERS, 40)
    np.testing.assert_array_equal(codes, expected[:8])
    assert all(len(np.unique(book)) > 3 for book in codes)


CLIPS: list[npt.NDArray[np.int16]] = [
    speechlike(n, n_samples) for n, n_samples in enumerate((1, 900, 1280, 20_000, 20_000, 40_000))
]


@given(order=st.lists(st.integers(0, len(CLIPS) - 1), min_size=1, max_size=8))
@settings(max_examples=15, deadline=None)
def test_tokens_do_not_depend_on_the_rest_of_the_batch(order: list[int], mimi: MimiTokenizer) -> None:
    alone = {i: mimi.encode([CLIPS[i]])[0] for i in set(order)}
    for i, codes in zip(order, mimi.encode([CLIPS[i] for i in order]), strict=True):
        np.testing.assert_array_equal(codes, alone[i])


def test_int16_and_float32_of_the_same_sound_give_the_same_tokens(mimi: MimiTokenizer) -> None:
    clip = speechlike(5, 12_345)
    a, b = mimi.encode([clip, clip.astype(np.float32) / 32768])
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("k", [1, 3, N_QUANTIZERS])
def test_fewer_codebooks_are_the_first_of_more(mimi: MimiTokenizer, checkpoint: Path, k: int) -> None:
    codec = make_speech_tokenizer(CodecConfig("mimi", str(checkpoint), "cpu", n_codebooks=k))
    (codes,) = codec.encode([CLIPS[3]])
    (eight,) = mimi.encode([CLIPS[3]])
    assert codec.n_codebooks == k
    np.testing.assert_array_equal(np.atleast_2d(codes)[:8], eight[:k])
    assert codes.ndim == (1 if k == 1 else 2)
    assert codec.decode(codes).shape == (16 * 1280,)


def test_decoding_gives_sound_of_the_frames_length_at_16_khz(mimi: MimiTokenizer) -> None:
    (codes,) = mimi.encode([CLIPS[5]])
    sound = mimi.decode(codes)
    assert sound.dtype == np.float32 and sound.shape == (32 * 1280,)
    assert np.isfinite(sound).all() and sound.any()
    assert mimi.decode(codes[:, :0]).shape == (0,)


@pytest.mark.parametrize("codes", [np.full((8, 3), 64), np.full((8, 3), -1), np.zeros((7, 3)), np.zeros(3)])
def test_tokens_of_another_shape_or_range_are_not_decoded(mimi: MimiTokenizer, codes: npt.NDArray[np.float64]) -> None:
    with pytest.raises(CodecError, match="expected"):
        mimi.decode(codes.astype(np.int32))


@pytest.mark.parametrize("clip", [np.zeros((2, 9), np.int16), np.zeros(9, np.int32), np.full(9, np.nan, np.float32)])
def test_clips_of_another_kind_are_refused(mimi: MimiTokenizer, clip: npt.NDArray[np.int16]) -> None:
    with pytest.raises(CodecError, match="clip 1"):
        mimi.encode([CLIPS[0], clip])


# ---- checkpoints


def test_a_missing_or_misshapen_tensor_is_named(checkpoint: Path, tmp_path: Path) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    shutil.copy(checkpoint / "config.json", tmp_path)
    name = "quantizer.acoustic_residual_vector_quantizer.layers.0.codebook.embed_sum"
    save_file({k: v for k, v in tensors.items() if k != name}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CodecError, match=rf"not whole; missing: {name}"):
        MimiTokenizer.load(str(tmp_path))
    save_file(tensors | {name: torch.zeros(3, 5)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CodecError, match="cannot be loaded as Mimi"):
        MimiTokenizer.load(str(tmp_path))


def test_a_pickle_is_not_read(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copy(checkpoint / "config.json", tmp_path)
    torch.save(load_file(checkpoint / "model.safetensors"), tmp_path / "pytorch_model.bin")
    with pytest.raises(CodecError, match="cannot be loaded as Mimi"):
        MimiTokenizer.load(str(tmp_path))


def test_another_model_and_another_clock_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    config = json.loads((checkpoint / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"sampling_rate": 16_000, "frame_rate": None}))
    with pytest.raises(CodecError, match="frames a second"):
        MimiTokenizer.load(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "encodec"}))
    with pytest.raises(CodecError, match="model_type is 'encodec'"):
        MimiTokenizer.load(str(tmp_path))
    with pytest.raises(CodecError, match="no such folder"):
        MimiTokenizer.load(str(tmp_path / "nothing"))


def test_settings_that_it_does_not_have_are_refused(checkpoint: Path) -> None:
    with pytest.raises(CodecError, match="13 codebooks asked for, it has 12"):
        MimiTokenizer.load(str(checkpoint), n_codebooks=13)
    with pytest.raises(CodecError, match="precision is 'bf16'"):
        MimiTokenizer.load(str(checkpoint), precision="bf16")
    with pytest.raises(ConfigError, match="precision is 'bf16'"):
        make_speech_tokenizer(CodecConfig("mimi", str(checkpoint), precision="bf16"))
    with pytest.raises(ConfigError, match="kyutai/mimi"):
        make_speech_tokenizer(CodecConfig("mimi"))


def test_loading_prints_nothing(checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    MimiTokenizer.load(str(checkpoint))
    assert capfd.readouterr() == ("", "")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_nearly_the_same_tokens(checkpoint: Path, mimi: MimiTokenizer) -> None:
    for precision, most in (("fp32", 0.01), ("tf32", 0.1)):
        codec = MimiTokenizer.load(str(checkpoint), device="cuda", precision=precision)
        first, expected = codec.encode([CLIPS[5]])[0][0], mimi.encode([CLIPS[5]])[0][0]
        assert np.mean(first != expected) <= most
        assert codec.describe()["device"] == "cuda"
        np.testing.assert_array_equal(codec.encode(CLIPS)[5], codec.encode([CLIPS[5]])[0])
