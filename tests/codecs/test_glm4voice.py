"""The GLM-4-Voice tokenizer: golden tokens, the plain implementation, independence of the batch, refusals."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch
from glm4voice_plain import TINY, Pcm, PlainTokenizer, random_tensors, speechlike, write_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from duplexdata.codecs.base import SpeechTokenizer
from duplexdata.codecs.glm4voice import Glm4VoiceTokenizer, model
from duplexdata.codecs.glm4voice.features import Packing, mel_filters
from duplexdata.codecs.glm4voice.model import Attention, Encoder, GroupedAttention, Tiling, attention_pairs
from duplexdata.errors import CodecError

SHARED = Path(os.environ.get("DUPLEXDATA_SHARED", Path(__file__).parents[3] / "shared"))
GOLDEN = SHARED / "golden" / "glm4voice_tokenizer"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="no golden data (DUPLEXDATA_SHARED)")
LAYOUTS = ["checkpoint", "checkpoint_prefixed"]

Settings = dict[str, Any]


def fake_varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    seqused_k: torch.Tensor,
    num_splits: int,
) -> torch.Tensor:
    """What the documentation of torch's `varlen_attn` says, sequence by sequence."""
    out = torch.empty_like(query)
    assert cu_seq_q[-1] == len(query) and cu_seq_k[-1] <= len(key) and num_splits == 1
    for number, used in enumerate(seqused_k.tolist()):
        rows = slice(*cu_seq_q[number : number + 2].tolist())
        start, end = cu_seq_k[number : number + 2].tolist()
        assert used <= end - start <= max_k and rows.stop - rows.start <= max_q
        q, k, v = (x.transpose(0, 1) for x in (query[rows], key[start : start + used], value[start:][:used]))
        out[rows] = torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None])[0].transpose(0, 1)
    return out


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Matrices this small are done before a second thread has heard of them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "tiny", TINY)


def load(folder: Path, **options: Any) -> Glm4VoiceTokenizer:
    return Glm4VoiceTokenizer.load(str(folder), device="cpu", **options)


def packed(audio: Pcm, pool: int = 4) -> tuple[torch.Tensor, Packing]:
    packing = Packing((len(audio),), pool)
    buffer = torch.empty(packing.n_samples, dtype=torch.int16)
    packing.fill(buffer.numpy(), [audio])
    return buffer, packing


# ---- golden data


@cache
def golden() -> tuple[Settings, dict[str, Pcm]]:
    """The expected results, and the audio of each case."""
    expected = json.loads((GOLDEN / "expected.json").read_text())
    clips = {}
    for case in expected["cases"]:
        parts = [np.zeros(0, np.int16)]
        for part in case["parts"]:
            if "zeros" in part:
                samples = np.zeros(part["zeros"], np.int16)
            else:
                samples = soundfile.read(GOLDEN / "wav" / part["wav"], dtype="int16")[0]
                samples = samples[part.get("start", 0) : part.get("stop")]
            samples = samples >> part.get("shift_right", 0)
            parts.append(np.clip(samples.astype(int) * part.get("gain", 1), -32768, 32767).astype(np.int16))
        clip = np.concatenate(parts)[: case["n_samples"]]
        assert hashlib.sha256(clip.astype("<i2").tobytes()).hexdigest() == case["pcm_sha256"]
        clips[case["name"]] = clip
    return expected, clips


def assert_golden(case: Settings, tokens: npt.NDArray[np.int32]) -> None:
    assert tokens.dtype == np.int32 and tokens.shape == (case["n_tokens"],)
    allowed = {(position, other) for position, other, _ in case["ambiguous"]}
    wrong = np.flatnonzero(tokens != np.array(case["tokens"], np.int32))
    assert {(at, tokens[at]) for at in wrong} <= allowed, case["name"]


@needs_golden
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("token_budget", [None, 1])
def test_golden_tokens(layout: str, token_budget: int | None) -> None:
    """In batches, and each chunk in a batch of its own."""
    expected, clips = golden()
    codec = load(GOLDEN / layout, token_budget=token_budget)
    for case, tokens in zip(expected["cases"], codec.encode(list(clips.values())), strict=True):
        assert_golden(case, tokens)


@needs_golden
def test_golden_wav_files() -> None:
    expected, _ = golden()
    codec = load(GOLDEN / "checkpoint")
    clips = [soundfile.read(GOLDEN / name, dtype="float32")[0] for name in expected["files"]]
    for tokens, (name, wanted) in zip(codec.encode(clips), expected["files"].items(), strict=True):
        differing = np.flatnonzero(tokens != np.array(wanted))
        ambiguous = {c["name"]: [a[0] for a in c["ambiguous"]] for c in expected["cases"]}[Path(name).stem]
        assert set(differing) <= set(ambiguous)


@needs_golden
@pytest.mark.parametrize("layout", LAYOUTS)
def test_golden_mel_and_prequant(layout: str) -> None:
    encoder = load(GOLDEN / layout)._encoder
    _, clips = golden()
    with np.load(GOLDEN / "intermediates.npz") as wanted:
        for key in wanted:
            kind, name = key.split("/")
            audio, packing = packed(clips[name])
            if kind == "mel":
                mel = encoder.log_mel(audio, packing)[: 2 * packing.frames[0]].T.numpy()
                np.testing.assert_allclose(mel, wanted[key], rtol=0, atol=1e-4)
            else:
                error = np.linalg.norm(encoder.prequant(audio, packing).numpy() - wanted[key], axis=1)
                assert (error / np.linalg.norm(wanted[key], axis=1)).max() < 2e-5


@needs_golden
@pytest.mark.parametrize(("precision", "most"), [("tf32", 0.0), ("fp16", 0.005), ("bf16", 0.03)])
def test_golden_tokens_that_a_precision_changes(precision: str, most: float) -> None:
    """Few; on a CPU tf32 is fp32. The bounds leave room above what was seen: 0, 0.2 and 1 %."""
    expected, clips = golden()
    cases = [case for case in expected["cases"] if case["n_samples"] <= 128_000]
    tokens = load(GOLDEN / "checkpoint", precision=precision).encode([clips[case["name"]] for case in cases])
    wrong = [np.array(c["tokens"], np.int32) != found for c, found in zip(cases, tokens, strict=True)]
    assert np.concatenate(wrong).mean() <= most


# ---- the plain implementation

ABSENT = object()

VARIANTS: dict[str, Settings] = {
    "as released": {},
    "max pooling": {"pooling_type": "max"},
    "pooling type by default": {"pooling_type": ABSENT},
    "pooling before the last layer": {"pooling_position": 1},
    "max pooling early, odd block": {
        "pooling_position": 2,
        "pooling_type": "max",
        "quantize_causal_block_size": 13,
    },
    "pooling early, no blocks": {"pooling_position": 1, "quantize_causal_block_size": None},
    "blocks of one frame": {"quantize_causal_block_size": 1},
    "one block": {"quantize_causal_block_size": 1000},
    "no blocks": {"quantize_causal_block_size": None},
    "no blocks by default": {"quantize_causal_block_size": ABSENT},
    "symmetric convolutions": {"encoder_causal_convolution": False},
    "symmetric convolutions by default": {"encoder_causal_convolution": ABSENT},
    "symmetric, no blocks, pooling early": {
        "encoder_causal_convolution": False,
        "quantize_causal_block_size": None,
        "pooling_position": 1,
    },
    "pooling by 5": {"pooling_kernel_size": 5, "pooling_position": 2},
    "no pooling kernel": {"pooling_kernel_size": None},
    "never pools": {"pooling_position": 0},
    "other widths": {
        "d_model": 36,
        "encoder_attention_heads": 3,
        "encoder_ffn_dim": 50,
        "num_mel_bins": 80,
        "quantize_vocab_size": 77,
        "quantize_position": 2,
        "pooling_position": 2,
    },
}


@pytest.mark.parametrize("attention", ["each", "grouped", "varlen"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_as_the_plain_implementation(
    variant: str, attention: Attention, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {k: v for k, v in (TINY | VARIANTS[variant]).items() if v is not ABSENT}
    folder = write_checkpoint(tmp_path, config)
    plain, codec = PlainTokenizer.read(folder), load(folder)
    codec._encoder.attention = attention
    monkeypatch.setattr(model, "varlen_attn", fake_varlen)
    clips = [speechlike(i, n) for i, n in enumerate([1, 640, 5000, 12_800, 16_001, 31_999, 32_000, 40_000])]
    frame = codec.config.frame_samples
    seen = set()
    for clip, tokens in zip(clips, codec.encode(clips), strict=True):
        wanted, margins = plain.encode(clip)
        assert len(tokens) == -(-len(clip) // frame)
        np.testing.assert_array_equal(tokens[margins > 1e-5], wanted[margins > 1e-5])
        seen |= set(wanted.tolist())
        chunk = clip[:32_000]
        audio, packing = packed(chunk, codec.config.pool)
        error = codec._encoder.prequant(audio, packing) - plain.prequant(torch.from_numpy(chunk / np.float32(32768)))
        assert error.norm(dim=1).max() < 1e-4
    assert len(seen) >= 15, "a test whose tokens are all the same would prove nothing"


def test_mel_filters_are_whispers() -> None:
    audio_utils = pytest.importorskip("transformers.audio_utils")
    for mels in (80, 128):
        wanted = audio_utils.mel_filter_bank(
            num_frequency_bins=201,
            num_mel_filters=mels,
            min_frequency=0.0,
            max_frequency=8000.0,
            sampling_rate=16000,
            norm="slaney",
            mel_scale="slaney",
        )
        np.testing.assert_allclose(mel_filters(mels).numpy(), wanted, atol=1e-9)


# ---- independence of the batch


@pytest.fixture(scope="module")
def shared_tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("glm4voice"), TINY)


@cache
def _codec(folder: Path, attention: Attention) -> Glm4VoiceTokenizer:
    codec = load(folder)
    codec._encoder.attention = attention
    return codec


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 70_000) | st.integers(0, 2600), min_size=1, max_size=7),
    token_budget=st.integers(1, 200),
    attention=st.sampled_from(["each", "grouped"]),
    as_float=st.lists(st.booleans(), min_size=7, max_size=7),
    tile=st.sampled_from([16, 32, 1024]),
)
def test_tokens_do_not_depend_on_the_batch(
    shared_tiny: Path,
    lengths: list[int],
    token_budget: int,
    attention: Attention,
    as_float: list[bool],
    tile: int,
) -> None:
    clips = [speechlike(1000 + i, n) for i, n in enumerate(lengths)]
    alone = [_codec(shared_tiny, "each").encode([clip])[0] for clip in clips]
    codec = _codec(shared_tiny, attention)
    codec.token_budget = token_budget
    codec._encoder.tiling = Tiling(rows=tile, last=16, code_rows=32)
    given = [
        (clip / np.float32(32768)).astype(np.float32) if f else clip for clip, f in zip(clips, as_float, strict=False)
    ]
    for found, wanted in zip(codec.encode(given), alone, strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_chunk_is_the_same_to_the_last_bit_in_any_batch(precision: str, tiny: Path) -> None:
    encoder = load(tiny, precision=precision)._encoder
    clips = [speechlike(i, n) for i, n in enumerate([32_000, 30_001, 20_000, 6400, 1281, 5])]
    packing = Packing(tuple(map(len, clips)), 4)
    buffer = torch.empty(packing.n_samples, dtype=torch.int16)
    packing.fill(buffer.numpy(), clips)
    together = encoder.prequant(buffer, packing).split(packing.tokens)
    for clip, part in zip(clips, together, strict=True):
        assert torch.equal(encoder.prequant(*packed(clip)), part)


def test_tiles_filled_up_as_on_a_gpu_change_nothing(tiny: Path) -> None:
    clips = [speechlike(i, n) for i, n in enumerate([70_000, 20_000, 1])]
    codec, filled = load(tiny), load(tiny)
    filled._encoder.tiling = Tiling(rows=512, last=512, code_rows=128)
    for wanted, found in zip(codec.encode(clips), filled.encode(clips), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_the_variable_length_kernel_is_used_only_if_it_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask() -> bool:
        return model.varlen_is_right(torch.device("cpu"), torch.bfloat16, 2, 8)

    def wrong(query: torch.Tensor, *args: Any, seqused_k: torch.Tensor, **options: Any) -> torch.Tensor:
        """A kernel that lets every query see the whole chunk."""
        starts = args[3]
        return fake_varlen(query, *args, seqused_k=starts.diff(), **options)

    def absent(*_: Any, **__: Any) -> torch.Tensor:
        raise RuntimeError("not compiled with flash attention")

    for kernel, right in ((fake_varlen, True), (wrong, False), (absent, False), (None, False)):
        monkeypatch.setattr(model, "varlen_attn", kernel)
        assert ask() is right


def test_large_groups_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = attention_pairs((40,) * 9 + (10, 4), (40,) * 9 + (9, 1), 16)
    qkv = torch.randn(9 * 40 + 14, 3 * 8)
    results = []
    for most in (65_536, 100, 1):
        monkeypatch.setattr(model, "_KEYS_AT_ONCE", most)
        out = torch.zeros(len(qkv), 8)
        GroupedAttention(pairs, 2, torch.device("cpu")).into(out, qkv)
        results.append(out)
    torch.testing.assert_close(results[1], results[0])
    torch.testing.assert_close(results[2], results[0])


# ---- what the interface promises


def test_it_is_a_speech_tokenizer(tiny: Path) -> None:
    codec: SpeechTokenizer = load(tiny)
    assert codec.name == "glm-4-voice-tokenizer" and codec.sample_rate == 16_000 and codec.n_codebooks == 1
    assert codec.frame_rate == Fraction(25, 2) and codec.codebook_size == 128
    assert codec.context_samples is None and not codec.can_decode
    with pytest.raises(CodecError, match="no decoder"):
        codec.decode(np.zeros(3, np.int32))
    digest = hashlib.sha256((tiny / "model.safetensors").read_bytes()).hexdigest()[:16]
    assert codec.describe() == {
        "name": "glm-4-voice-tokenizer",
        "weights": digest,
        "precision": "fp32",
        "device": "cpu",
        "torch": torch.__version__,
    }


@pytest.mark.parametrize("pool", [1, 4])
def test_token_counts(pool: int, tmp_path: Path) -> None:
    codec = load(write_checkpoint(tmp_path, TINY | {"pooling_kernel_size": pool}))
    frame = 320 * pool
    lengths = [0, 1, frame - 1, frame, frame + 1, 32_000, 32_001, 64_000, 65_000]
    tokens = codec.encode([np.zeros(n, np.int16) for n in lengths])
    assert [len(t) for t in tokens] == [-(-n // frame) for n in lengths]
    assert codec.encode([]) == []


@pytest.mark.parametrize(
    "clip",
    [
        np.zeros((2, 100), np.int16),
        np.zeros(100, np.float64),
        np.zeros(100, np.int32),
        np.full(100, np.nan, np.float32),
        [0, 1],
    ],
)
def test_clips_it_does_not_take(clip: Any, tiny: Path) -> None:
    with pytest.raises(CodecError, match="clip 1"):
        load(tiny).encode([np.zeros(5, np.int16), clip])


def test_a_chunk_beyond_the_position_table(tmp_path: Path) -> None:
    codec = load(write_checkpoint(tmp_path, TINY, chunk_seconds=3))
    assert len(codec.encode([np.zeros(32_000, np.int16)])[0]) == 25
    with pytest.raises(CodecError, match="max_source_positions 100"):
        codec.encode([np.zeros(32_001, np.int16)])


def test_the_lowest_of_equal_codes_wins(tmp_path: Path) -> None:
    tensors = random_tensors(TINY)
    codes = tensors["codebook.weight"]
    clip = speechlike(3, 30_000)
    before = load(write_checkpoint(tmp_path / "a", TINY, tensors)).encode([clip])[0]
    # every code twice, the second half being the first again
    tensors["codebook.weight"] = torch.cat([codes, codes])
    tensors |= {"ema_count": torch.ones(256), "ema_weight": torch.zeros(256, 32)}
    config = TINY | {"quantize_vocab_size": 256}
    np.testing.assert_array_equal(load(write_checkpoint(tmp_path / "b", config, tensors)).encode([clip])[0], before)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
def test_spectrum_and_quantizer_are_always_float32(precision: str, tiny: Path) -> None:
    """Whatever the products are computed in, and whatever the caller lets torch round; which is left as it
    was."""
    torch.set_float32_matmul_precision("medium")
    try:
        encoder, exact = load(tiny, precision=precision)._encoder, load(tiny)._encoder
        audio, packing = packed(speechlike(0, 32_000))
        assert torch.equal(encoder.log_mel(audio, packing), exact.log_mel(audio, packing))
        x = exact.prequant(audio, packing)
        assert torch.equal(encoder.quantize(x), exact.quantize(x))
        error = (encoder.prequant(audio, packing) - x).norm() / x.norm()
        assert error < {"fp32": 1e-6, "tf32": 1e-6, "fp16": 5e-3, "bf16": 5e-2}[precision]
        assert error > 0 or precision in ("fp32", "tf32")
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_overflow_is_an_error(tmp_path: Path) -> None:
    tensors = random_tensors(TINY)
    tensors["layers.1.fc2.weight"] *= 1e6
    folder = write_checkpoint(tmp_path, TINY, tensors)
    clip = speechlike(0, 10_000)
    assert len(load(folder).encode([clip])[0]) == 8
    with pytest.raises(CodecError, match="not finite in fp16"):
        load(folder, precision="fp16").encode([clip])


# ---- memory


def out_of_memory_above(most: int, calls: list[int]) -> Callable[..., torch.Tensor]:
    real = Encoder.encode

    def encode(self: Encoder, audio: torch.Tensor, packing: Packing) -> torch.Tensor:
        calls.append(sum(packing.tokens))
        if calls[-1] > most:
            raise torch.OutOfMemoryError("no room")
        return real(self, audio, packing)

    return encode


def test_a_batch_that_does_not_fit_is_halved(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [speechlike(i, 8000 + 999 * i) for i in range(20)]
    wanted = load(tiny).encode(clips)
    calls: list[int] = []
    monkeypatch.setattr(Encoder, "encode", out_of_memory_above(60, calls))
    codec = load(tiny)
    for found, expected in zip(codec.encode(clips), wanted, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert calls[0] > 60 and codec.token_budget is not None and codec.token_budget <= 60 < 2 * calls[0]
    assert sum(c <= 60 for c in calls) > 1


def test_the_budget_of_a_gpu_is_what_the_free_memory_holds(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the memory counters of a device that is not there: 1 MB per token, 500 MB free, 20 MB cached."""
    codec = load(tiny)
    codec._encoder.tiling = Tiling(rows=200, last=200, code_rows=25)
    peak = 30_000_000 + 2 * 25 * 1_000_000
    for name, value in {
        "synchronize": None,
        "reset_peak_memory_stats": None,
        "memory_allocated": 30_000_000,
        "max_memory_allocated": peak,
        "memory_reserved": 50_000_000,
        "mem_get_info": (500_000_000, 600_000_000),
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    # 0.8 x 520 = 416 tokens; whole tiles of 50
    assert codec._measure_budget() == 400
    monkeypatch.setattr(Encoder, "encode", out_of_memory_above(0, []))
    assert codec._measure_budget() == 25


def test_a_chunk_that_does_not_fit_is_an_error(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Encoder, "encode", out_of_memory_above(10, []))
    with pytest.raises(CodecError, match="single chunk of 32000 samples"):
        load(tiny).encode([np.zeros(32_000, np.int16)] * 3)


# ---- loading


def test_shards_are_read_together(tiny: Path) -> None:
    clip = speechlike(0, 30_000)
    wanted = load(tiny).encode([clip])[0]
    tensors = load_file(tiny / "model.safetensors")
    names = sorted(tensors)
    for number, part in enumerate((names[::2], names[1::2])):
        save_file({n: tensors[n] for n in part}, tiny / f"model-0000{number + 1}-of-00002.safetensors")
    with pytest.raises(CodecError, match=r"twice: codebook\.weight"):
        load(tiny)
    (tiny / "model.safetensors").unlink()
    np.testing.assert_array_equal(load(tiny).encode([clip])[0], wanted)


def test_the_training_layout_gives_the_same_tokens(tiny: Path) -> None:
    clip = speechlike(0, 30_000)
    wanted = load(tiny).encode([clip])[0]
    tensors = {f"model.encoder.{k}": v for k, v in load_file(tiny / "model.safetensors").items()}
    more = {
        "model.encoder.layers.3.fc1.bias",
        "model.encoder.layer_norm.bias",
        "model.decoder.x",
        "proj_out.weight",
    }
    save_file(tensors | {name: torch.zeros(3) for name in more}, tiny / "model.safetensors")
    np.testing.assert_array_equal(load(tiny).encode([clip])[0], wanted)


def test_training_statistics_may_be_absent(tiny: Path) -> None:
    tensors = load_file(tiny / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if not k.startswith("ema_")}, tiny / "model.safetensors")
    load(tiny)


REQUIRED = sorted(name for name in random_tensors(TINY) if not name.startswith("ema_"))


@pytest.mark.parametrize("prefix", ["", "model.encoder."])
def test_any_missing_tensor_is_named(prefix: str, tiny: Path) -> None:
    tensors = {prefix + k: v for k, v in load_file(tiny / "model.safetensors").items()}
    for name in REQUIRED:
        save_file({k: v for k, v in tensors.items() if k != prefix + name}, tiny / "model.safetensors")
        with pytest.raises(CodecError) as error:
            load(tiny)
        assert f"missing: {name}" in str(error.value)


def test_any_misshapen_tensor_is_named(tiny: Path) -> None:
    tensors = load_file(tiny / "model.safetensors")
    for name in REQUIRED:
        save_file(tensors | {name: torch.cat([tensors[name], tensors[name]])}, tiny / "model.safetensors")
        with pytest.raises(CodecError) as error:
            load(tiny)
        assert f"wrong: {name} is F32" in str(error.value)


@pytest.mark.parametrize(
    "name",
    [
        "layers.0.self_attn.k_proj.bias",
        "decoder.layers.0.fc1.weight",
        "conv3.weight",
        "encoder.conv1.weight",
        "model.encoder.x",
    ],
)
def test_a_surplus_tensor_is_named(name: str, tiny: Path) -> None:
    tensors = load_file(tiny / "model.safetensors")
    save_file(tensors | {name: torch.zeros(32)}, tiny / "model.safetensors")
    with pytest.raises(CodecError, match=f"unknown: {name}"):
        load(tiny)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32])
def test_a_tensor_of_another_type_is_named(dtype: torch.dtype, tiny: Path) -> None:
    tensors = load_file(tiny / "model.safetensors")
    tensors["layers.1.fc1.bias"] = tensors["layers.1.fc1.bias"].to(dtype)
    save_file(tensors, tiny / "model.safetensors")
    with pytest.raises(CodecError, match=r"layers\.1\.fc1\.bias is .*expected F32 \[64\]"):
        load(tiny)


def test_both_layouts_at_once_are_refused(tiny: Path) -> None:
    tensors = load_file(tiny / "model.safetensors")
    save_file(tensors | {"model.encoder.conv1.bias": torch.zeros(32)}, tiny / "model.safetensors")
    with pytest.raises(CodecError, match=r"twice: .*conv1\.bias"):
        load(tiny)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder_causal_attention": True}, "encoder_causal_attention is True"),
        ({"quantize_causal_encoder": True}, "quantize_causal_encoder is True"),
        ({"activation_function": "relu"}, "activation_function is 'relu'"),
        ({"pooling_type": "sum"}, "pooling_type is 'sum'"),
        ({"pooling_position": 4}, "pooling_position 4 > quantize_position 3"),
        ({"quantize_position": 5}, "quantize_position 5"),
        ({"encoder_attention_heads": 5}, "no multiple of encoder_attention_heads 5"),
        ({"quantize_causal_block_size": 0}, "quantize_causal_block_size is 0"),
        ({"quantize_causal_block_size": 3, "pooling_position": 1}, "blocks of no frame"),
        ({"d_model": "32"}, "d_model is '32'"),
        ({"d_model": None}, "d_model is missing"),
        ({"encoder_causal_convolution": 1}, "encoder_causal_convolution is 1"),
        ({"d_model": 64}, r"conv1\.weight is F32 \[32, 16, 3\], expected F32 \[64, 16, 3\]"),
        ({"quantize_vocab_size": 129}, r"codebook\.weight is F32 \[128, 32\]"),
    ],
)
def test_configs_it_does_not_run(change: Settings, message: str, tiny: Path) -> None:
    (tiny / "config.json").write_text(json.dumps(TINY | change))
    with pytest.raises(CodecError, match=message):
        load(tiny)


@pytest.mark.parametrize("name", ["d_model", "encoder_ffn_dim", "num_mel_bins", "quantize_vocab_size"])
def test_a_size_that_is_missing_is_named(name: str, tiny: Path) -> None:
    (tiny / "config.json").write_text(json.dumps({k: v for k, v in TINY.items() if k != name}))
    with pytest.raises(CodecError, match=f"{name} is missing"):
        load(tiny)


@pytest.mark.parametrize(
    "change",
    [
        {"sampling_rate": 24000},
        {"hop_length": 320},
        {"n_fft": 512},
        {"feature_size": 80},
        {"do_normalize": True},
    ],
)
def test_features_it_does_not_compute(change: Settings, tiny: Path) -> None:
    (tiny / "preprocessor_config.json").write_text(json.dumps(change))
    with pytest.raises(CodecError, match=next(iter(change))):
        load(tiny)


def test_without_a_preprocessor_config_chunks_are_30_seconds(tiny: Path) -> None:
    (tiny / "preprocessor_config.json").unlink()
    assert load(tiny).config.chunk_samples == 480_000


def test_folders_that_hold_no_checkpoint(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CodecError, match="no such folder"):
        load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CodecError, match=r"config\.json: no such file"):
        load(tmp_path / "empty")
    (tiny / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0damaged")
    with pytest.raises(CodecError, match="cannot be read as safetensors"):
        load(tiny)
    (tiny / "model.safetensors").unlink()
    (tiny / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CodecError, match=r"no model\*\.safetensors"):
        load(tiny)
    (tiny / "config.json").write_text("{")
    with pytest.raises(CodecError, match="cannot be read as JSON"):
        load(tiny)


def test_hub_ids(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(name: str, *, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        if name != "zai-org/glm-4-voice-tokenizer":
            raise ConnectionError("offline")
        return str(tiny)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    Glm4VoiceTokenizer.load("zai-org/glm-4-voice-tokenizer", device="cpu")
    assert all(pattern.endswith((".json", ".safetensors")) for pattern in asked[0][1])
    with pytest.raises(CodecError, match="offline"):
        Glm4VoiceTokenizer.load("nobody/nothing", device="cpu")


def test_options_it_does_not_know(tiny: Path) -> None:
    with pytest.raises(CodecError, match="precision is 'fp8'"):
        load(tiny, precision="fp8")
    with pytest.raises(CodecError, match="token_budget is 0"):
        load(tiny, token_budget=0)
    for device in ("tpu", "meta", "cuda:99"):
        with pytest.raises(CodecError, match="device is"):
            Glm4VoiceTokenizer.load(str(tiny), device=device)


# ---- on a GPU


@pytest.mark.gpu
@needs_golden
@pytest.mark.parametrize("layout", LAYOUTS)
def test_golden_tokens_on_a_gpu(layout: str) -> None:
    expected, clips = golden()
    codec = Glm4VoiceTokenizer.load(str(GOLDEN / layout), device="cuda")
    for case, tokens in zip(expected["cases"], codec.encode(list(clips.values())), strict=True):
        assert_golden(case, tokens)
    assert codec.token_budget is not None and codec.token_budget > 375


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
@pytest.mark.parametrize("attention", ["grouped", "varlen"])
def test_tokens_do_not_depend_on_the_batch_on_a_gpu(precision: str, attention: Attention, tiny: Path) -> None:
    if attention == "varlen" and precision in ("fp32", "tf32"):
        pytest.skip("the variable-length kernel takes 16 bits")
    codec = Glm4VoiceTokenizer.load(str(tiny), device="cuda", precision=precision, token_budget=60)
    if attention == "varlen" and codec._encoder.attention != "varlen":
        pytest.skip("this torch or device has no variable-length kernel that is right")
    codec._encoder.attention = attention
    clips = [speechlike(i, n) for i, n in enumerate([70_000, 32_000, 30_001, 20_000, 6400, 1281, 5])]
    for clip, tokens in zip(clips, codec.encode(clips), strict=True):
        np.testing.assert_array_equal(codec.encode([clip])[0], tokens)
