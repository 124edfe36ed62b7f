"""The GLM-4-Voice tokenizer as its specification reads, step by step: one clip at a time, float32, a dense
mask.

Slow, and written to be compared with the specification; what the package has is compared with this. It shares
no code with the package. Also makes tiny random checkpoints of any configuration.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

Pcm = npt.NDArray[np.int16]

TINY: dict[str, Any] = {
    "d_model": 32,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "encoder_layers": 4,
    "num_mel_bins": 16,
    "max_source_positions": 100,
    "quantize_position": 3,
    "pooling_position": 3,
    "pooling_kernel_size": 4,
    "pooling_type": "avg",
    "quantize_vocab_size": 128,
    "quantize_causal_block_size": 12,
    "encoder_causal_convolution": True,
}
"""A configuration whose chunks of 2 s hold 100 frames: several chunks and blocks fit into a short test
clip."""

TINY_CHUNK_SECONDS = 2


def speechlike(seed: int, n_samples: int) -> Pcm:
    """Noise through a slow random envelope, with silent stretches: every frame differs from the next."""
    rng = np.random.default_rng(seed)
    envelope = np.repeat(10 ** rng.uniform(-3, -0.5, n_samples // 800 + 1), 800)[:n_samples]
    noise = np.convolve(rng.standard_normal(n_samples + 8), rng.standard_normal(8), "valid")[:n_samples]
    return np.clip(noise * envelope * 8000, -32768, 32767).astype(np.int16)


def random_tensors(config: dict[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Every tensor of the released layout, of such sizes that tokens vary with the sound."""
    d, f, mels = config["d_model"], config["encoder_ffn_dim"], config["num_mel_bins"]
    vocab, positions = config["quantize_vocab_size"], config["max_source_positions"]
    pool = config.get("pooling_kernel_size") or 1
    draws = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float) -> Tensor:
        return torch.randn(shape, generator=draws) * scale

    tensors = {
        "conv1.weight": normal(d, mels, 3, scale=2 / math.sqrt(3 * mels)),
        "conv1.bias": normal(d, scale=0.1),
        "conv2.weight": normal(d, d, 3, scale=2 / math.sqrt(3 * d)),
        "conv2.bias": normal(d, scale=0.1),
        "embed_positions.weight": normal(positions, d, scale=0.2),
        "embed_positions2.weight": normal(math.ceil(positions / pool), d, scale=0.2),
        "codebook.weight": torch.zeros(vocab, d),
        "ema_count": torch.ones(vocab),
        "ema_weight": normal(vocab, d, scale=1.0),
    }
    for number in range(config.get("quantize_position", 16)):
        at = f"layers.{number}."
        for norm in ("self_attn_layer_norm", "final_layer_norm"):
            tensors[f"{at}{norm}.weight"] = 1 + normal(d, scale=0.1)
            tensors[f"{at}{norm}.bias"] = normal(d, scale=0.1)
        for name, inputs, outputs in (
            ("self_attn.q_proj", d, d),
            ("self_attn.k_proj", d, d),
            ("self_attn.v_proj", d, d),
            ("self_attn.out_proj", d, d),
            ("fc1", d, f),
            ("fc2", f, d),
        ):
            tensors[f"{at}{name}.weight"] = normal(outputs, inputs, scale=1.5 / math.sqrt(inputs))
            if name != "self_attn.k_proj":
                tensors[f"{at}{name}.bias"] = normal(outputs, scale=0.1)
    # codes amid what the encoder gives, or all frames of a random encoder would share a few
    plain = PlainTokenizer(config, tensors)
    rows: list[Tensor] = []
    while sum(map(len, rows)) < vocab:
        rows.append(plain.prequant(torch.from_numpy(speechlike(100 + len(rows), 32_000) / np.float32(32768))))
    found = torch.cat(rows)[:vocab]
    tensors["codebook.weight"] = found + 0.3 * found.std(0) * normal(vocab, d, scale=1.0)
    return tensors


def write_checkpoint(
    folder: Path,
    config: dict[str, Any],
    tensors: dict[str, Tensor] | None = None,
    *,
    chunk_seconds: int = TINY_CHUNK_SECONDS,
) -> Path:
    """A checkpoint folder with these tensors, by default random ones."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    features = {"feature_size": config["num_mel_bins"], "chunk_length": chunk_seconds, "sampling_rate": 16000}
    (folder / "preprocessor_config.json").write_text(json.dumps(features))
    save_file(random_tensors(config) if tensors is None else tensors, folder / "model.safetensors")
    return folder


class PlainTokenizer:
    """Section 2 of the specification, in its order."""

    def __init__(self, config: dict[str, Any], tensors: dict[str, Tensor], chunk_seconds: int = 30) -> None:
        self.config = config
        self.tensors = tensors
        self.chunk = chunk_seconds * 16_000

    @classmethod
    def read(cls, folder: Path) -> PlainTokenizer:
        """The checkpoint of a folder, in the released layout."""
        config = json.loads((folder / "config.json").read_text())
        features = json.loads((folder / "preprocessor_config.json").read_text())
        return cls(config, load_file(folder / "model.safetensors"), features["chunk_length"])

    def encode(self, pcm: Pcm) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Returns: tokens, and for each how much further the second-best code is, relative to the input's
        norm."""
        audio = torch.from_numpy(pcm.astype(np.float32) / 32768)
        tokens, margins = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0, dtype=torch.float64)]
        for start in range(0, len(audio), self.chunk):
            x = self.prequant(audio[start : start + self.chunk]).double()
            codes = self.tensors["codebook.weight"].double()
            distances = (x[:, None] - codes[None]).square().sum(-1)
            best = distances.topk(2, dim=1, largest=False)
            apart = (codes[best.indices[:, 0]] - codes[best.indices[:, 1]]).norm(dim=1)
            tokens.append(distances.argmin(1))
            margins.append((best.values[:, 1] - best.values[:, 0]) / (2 * apart * x.norm(dim=1)))
        return torch.cat(tokens).numpy(), torch.cat(margins).numpy()

    def prequant(self, audio: Tensor) -> Tensor:
        """What the quantizer gets for one chunk: shape (n_tokens, d_model)."""
        config, w = self.config, self.tensors
        n = len(audio)
        pooling_position = config.get("pooling_position", 0)
        pool = (config.get("pooling_kernel_size") or 1) if pooling_position else 1
        padded = functional.pad(audio, (0, -n % (320 * pool)))
        h = self.log_mel(padded)[None]
        for name, stride in (("conv1", 1), ("conv2", 2)):
            h = functional.pad(h, (2, 0) if config.get("encoder_causal_convolution") else (1, 1))
            h = functional.gelu(functional.conv1d(h, w[f"{name}.weight"], w[f"{name}.bias"], stride=stride))
        h = h[0].T
        h = h + w["embed_positions.weight"][: len(h)]
        valid = torch.tensor([320 * t < n for t in range(len(h))])
        block = config.get("quantize_causal_block_size")
        mask = self.mask(valid, block)
        for number in range(config.get("quantize_position", 16)):
            h = self.layer(h, number, mask)
            if number + 1 == pooling_position and pool > 1:
                groups = h.reshape(-1, pool, h.shape[1])
                h = groups.mean(1) if config.get("pooling_type", "max") == "avg" else groups.max(1).values
                valid = torch.tensor([320 * pool * k < n for k in range(len(h))])
                if number + 1 < config.get("quantize_position", 16):
                    mask = self.mask(valid, block and block // pool)
        return h[valid]

    def log_mel(self, audio: Tensor) -> Tensor:
        """Shape (mels, len(audio) / 160)."""
        window = torch.hann_window(400, periodic=True)
        stft = torch.stft(audio, 400, 160, window=window, center=True, pad_mode="reflect", return_complex=True)
        power = stft[:, :-1].abs() ** 2
        m = torch.log10((self.filters() @ power).clamp(min=1e-10))
        return (torch.maximum(m, m.max() - 8) + 4) / 4

    def filters(self) -> Tensor:
        """Triangles on the Slaney scale: shape (mels, 201)."""
        n = self.config["num_mel_bins"]

        def hz(mel: float) -> float:
            return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)

        top = 15 + 27 * math.log(8) / math.log(6.4)
        edges = [hz(top * i / (n + 1)) for i in range(n + 2)]
        rows = []
        for left, middle, right in zip(edges, edges[1:], edges[2:], strict=False):
            bins = [40.0 * i for i in range(201)]
            slopes = [min((f - left) / (middle - left), (right - f) / (right - middle)) for f in bins]
            rows.append([max(0.0, slope) * 2 / (right - left) for slope in slopes])
        return torch.tensor(rows, dtype=torch.float64).float()

    @staticmethod
    def mask(valid: Tensor, block: int | None) -> Tensor:
        """True where query (row) may look at key (column)."""
        i, j = torch.arange(len(valid))[:, None], torch.arange(len(valid))[None]
        if block is None:
            return valid[None].expand(len(valid), -1)
        return valid[None] & ((j <= i) | (i // block == j // block))

    def layer(self, h: Tensor, number: int, mask: Tensor) -> Tensor:
        w = {k.removeprefix(f"layers.{number}."): v for k, v in self.tensors.items()}
        heads, d = self.config["encoder_attention_heads"], h.shape[1]
        x = functional.layer_norm(h, (d,), w["self_attn_layer_norm.weight"], w["self_attn_layer_norm.bias"], 1e-5)

        def split(name: str) -> Tensor:
            projected = functional.linear(x, w[f"self_attn.{name}.weight"], w.get(f"self_attn.{name}.bias"))
            return projected.reshape(len(x), heads, d // heads).transpose(0, 1)

        scores = split("q_proj") @ split("k_proj").transpose(1, 2) / math.sqrt(d // heads)
        weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
        seen = (weights @ split("v_proj")).transpose(0, 1).reshape(len(x), d)
        h = h + functional.linear(seen, w["self_attn.out_proj.weight"], w["self_attn.out_proj.bias"])
        x = functional.layer_norm(h, (d,), w["final_layer_norm.weight"], w["final_layer_norm.bias"], 1e-5)
        x = functional.gelu(functional.linear(x, w["fc1.weight"], w["fc1.bias"]))
        return h + functional.linear(x, w["fc2.weight"], w["fc2.bias"])
