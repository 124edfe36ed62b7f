"""The encoder on packed frames: no padding anywhere but to a whole number of tiles.

Everything that works on one frame at a time runs over the frames of all chunks laid end to end, a tile of
rows at a time. Only attention knows chunks. A frame of block b sees the valid frames of blocks 0..b of its
chunk, so the frames of one (chunk, block) are queries with one common set of keys, the chunk's first `seen`
frames, and need no mask:

    chunk of 2.5 blocks:   queries of block 0  -> keys |--- 0 ---|
                           queries of block 1  -> keys |--- 0 ---|--- 1 ---|
                           queries of block 2  -> keys |--- 0 ---|--- 1 ---|-2-|

What a row of a matrix product comes to must not depend on how many other rows are in it, or tokens would
depend on the batch. On a GPU the kernel is chosen by the number of rows: there every product has exactly
`Tiling.rows` of them, the last tile being filled up. On a CPU it depends on it only below eight rows: there
the last tile may be short, down to 16.

Source: `WhisperEncoder` as changed by GLM-4-Voice (arXiv 2412.02612, section 2.1; arXiv 2212.04356, section
2.2).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from duplexdata.codecs.glm4voice.config import Glm4VoiceConfig
from duplexdata.codecs.glm4voice.features import LogMel, PackedIndex, Packing, to_device

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch < 2.10; the grouped path serves
    varlen_attn = None  # type: ignore[assignment]

Precision = Literal["fp32", "tf32", "fp16", "bf16"]
Attention = Literal["each", "grouped", "varlen"]
"""How (chunk, block) pairs reach a kernel.

each: one call per pair, on views (CPU, where a call costs nothing beside its arithmetic).
grouped: pairs of one block in one padded call, the shorter ones masked (GPU in float32).
varlen: pairs of one block in one call of the variable-length kernel (GPU in 16 bits).
"""

LAYER_NORM_EPS = 1e-5
_log = logging.getLogger(__name__)
_DTYPES: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
_KEYS_AT_ONCE = 65_536
_MASK_MULTIPLE = 16


@dataclass(frozen=True, slots=True)
class Tiling:
    """Rows per matrix product.

    Attributes:
        rows: of a full tile.
        last: the last tile is filled up to a multiple of it.
        code_rows: rows per product with the codebook; divides what a full tile holds.
    """

    rows: int
    last: int
    code_rows: int

    @classmethod
    def for_device(cls, device: torch.device) -> Tiling:
        if device.type == "cuda":
            return cls(rows=16_384, last=16_384, code_rows=4096)
        return cls(rows=1024, last=16, code_rows=256)

    def padded(self, rows: int) -> int:
        return -(-rows // self.last) * self.last

    def padded_codes(self, rows: int) -> int:
        multiple = min(self.last, self.code_rows)
        return -(-rows // multiple) * multiple

    def tiles(self, rows: int) -> Iterator[slice]:
        return (slice(start, min(start + self.rows, rows)) for start in range(0, rows, self.rows))


@contextmanager
def matmul_precision(tf32: bool) -> Iterator[None]:
    """Whether float32 products may be rounded to TF32 inside; put back as found after."""
    on_cuda, on_cpu = torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)
    if on_cpu is None or not hasattr(on_cuda, "fp32_precision"):  # torch < 2.9
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = tf32
        try:
            yield
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before
        return
    found = on_cuda.fp32_precision, on_cpu.fp32_precision
    on_cuda.fp32_precision = "tf32" if tf32 else "ieee"
    on_cpu.fp32_precision = "ieee"
    try:
        yield
    finally:
        on_cuda.fp32_precision, on_cpu.fp32_precision = found


@dataclass(frozen=True, slots=True)
class Linear:
    """weight: shape (inputs, outputs), the transposed view of what is stored; bias: (outputs,)."""

    weight: Tensor
    bias: Tensor

    def into(self, out: Tensor, x: Tensor) -> None:
        torch.addmm(self.bias, x, self.weight, out=out)

    def add_to(self, residual: Tensor, x: Tensor) -> None:
        """Adds the product to float32 `residual`."""
        if x.dtype == residual.dtype:
            residual.add_(self.bias).addmm_(x, self.weight)
        else:
            residual.add_(torch.addmm(self.bias, x, self.weight))


@dataclass(frozen=True, slots=True)
class Norm:
    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], self.weight, self.bias, LAYER_NORM_EPS)


@dataclass(frozen=True, slots=True)
class Layer:
    norm1: Norm
    qkv: Linear
    out: Linear
    norm2: Norm
    fc1: Linear
    fc2: Linear


@dataclass(frozen=True, slots=True)
class Pair:
    """One block of one chunk: its queries' rows and the rows they see, each as (first, one past the last)."""

    queries: tuple[int, int]
    keys: tuple[int, int]


def attention_pairs(frames: tuple[int, ...], valid: tuple[int, ...], block: int | None) -> list[list[Pair]]:
    """Who sees whom, by number of block.

    Args:
        frames: of each chunk, in descending order.
        valid: of each chunk, those that may be seen.

    Returns: for each block, one pair per chunk that reaches into it: the first so many chunks.
    """
    starts = list(accumulate(frames, initial=0))
    size = block or max(frames)
    return [
        [
            Pair((start + first, start + min(n, first + size)), (start, start + min(seen, first + size)))
            for start, n, seen in zip(starts, frames, valid, strict=False)
            if n > first
        ]
        for first in range(0, max(frames), size)
    ]


class EachAttention:
    """See `Attention`."""

    def __init__(self, pairs: list[list[Pair]], heads: int) -> None:
        self._pairs = [pair for block in pairs for pair in block]
        self._heads = heads

    def into(self, out: Tensor, qkv: Tensor) -> None:
        """Args: out: shape (rows, d); qkv: shape (rows, 3 d)."""
        q, k, v = (part.unflatten(1, (self._heads, -1)).transpose(0, 1) for part in qkv.chunk(3, dim=1))
        seen = out.unflatten(1, (self._heads, -1)).transpose(0, 1)
        for pair in self._pairs:
            queries, keys = slice(*pair.queries), slice(*pair.keys)
            seen[:, queries] = functional.scaled_dot_product_attention(
                q[None, :, queries], k[None, :, keys], v[None, :, keys]
            )[0]


class GroupedAttention:
    """See `Attention`."""

    def __init__(self, pairs: list[list[Pair]], heads: int, device: torch.device) -> None:
        self._heads = heads
        self._groups = [
            self._group(group, device) for block in pairs for shape in _by_shape(block) for group in _cut(shape)
        ]

    @staticmethod
    def _group(pairs: list[Pair], device: torch.device) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor]:
        q_start, q_end = np.array([pair.queries for pair in pairs]).T[:, :, None]
        k_start, k_end = np.array([pair.keys for pair in pairs]).T[:, :, None]
        n_keys = int((k_end - k_start).max())
        even = bool((k_end - k_start == n_keys).all())
        if not even:
            n_keys = -(-n_keys // _MASK_MULTIPLE) * _MASK_MULTIPLE
        q_rows = q_start + np.arange(int((q_end - q_start).max()))
        k_rows = k_start + np.arange(n_keys)
        kept = np.flatnonzero((q_rows < q_end).ravel())
        rows = q_rows.ravel()[kept]
        mask = None if even else to_device(torch.from_numpy(k_rows < k_end), device)[:, None, None, :]
        # what is only filled up repeats the last row that is there: never out of range, and dropped or masked
        return (
            to_device(torch.from_numpy(np.minimum(q_rows, q_end - 1)), device),
            to_device(torch.from_numpy(np.minimum(k_rows, k_end - 1)), device),
            mask,
            to_device(torch.from_numpy(kept), device),
            to_device(torch.from_numpy(rows), device),
        )

    def into(self, out: Tensor, qkv: Tensor) -> None:
        """Args: out: shape (rows, d); qkv: shape (rows, 3 d)."""
        parts = qkv.unflatten(1, (3, self._heads, -1)).unbind(1)
        for q_rows, k_rows, mask, kept, rows in self._groups:
            q, k, v = (part[index].transpose(1, 2) for part, index in zip(parts, (q_rows, k_rows, k_rows), strict=True))
            seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            flat = seen.transpose(1, 2).reshape(-1, out.shape[1])
            out.index_copy_(0, rows, flat[kept])


def _by_shape(pairs: list[Pair]) -> list[list[Pair]]:
    """The pairs of one block that are whole, and those that are not: the whole ones need no mask."""
    sizes = [(pair.queries[1] - pair.queries[0], pair.keys[1] - pair.keys[0]) for pair in pairs]
    largest = max(sizes)
    whole = [pair for pair, size in zip(pairs, sizes, strict=True) if size == largest]
    rest = [pair for pair, size in zip(pairs, sizes, strict=True) if size != largest]
    return [group for group in (whole, rest) if group]


def _cut(pairs: list[Pair]) -> Iterator[list[Pair]]:
    """Groups of so many pairs that their copied keys stay within `_KEYS_AT_ONCE` rows."""
    most = max(1, _KEYS_AT_ONCE // max(pair.keys[1] - pair.keys[0] for pair in pairs))
    return (pairs[start : start + most] for start in range(0, len(pairs), most))


class VarlenAttention:
    """See `Attention`. No key is copied: those of chunk i start where it starts, and `used` of them count."""

    def __init__(self, pairs: list[list[Pair]], n_rows: int, heads: int, device: torch.device) -> None:
        self._heads = heads
        self._blocks = []
        starts = [pair.keys[0] for pair in pairs[0]] + [n_rows]
        for block in pairs:
            counts = [pair.queries[1] - pair.queries[0] for pair in block]
            used = [pair.keys[1] - pair.keys[0] for pair in block]
            rows = np.concatenate([np.arange(*pair.queries) for pair in block])
            ints = [list(accumulate(counts, initial=0)), starts[: len(block) + 1], used]
            q_ends, k_ends, k_used = (to_device(torch.tensor(x, dtype=torch.int32), device) for x in ints)
            rows_there = to_device(torch.from_numpy(rows), device)
            longest = max(b - a for a, b in zip(ints[1], ints[1][1:], strict=False))
            self._blocks.append((rows_there, q_ends, k_ends, k_used, max(counts), longest))

    def into(self, out: Tensor, qkv: Tensor) -> None:
        """Args: out: shape (rows, d); qkv: shape (rows, 3 d)."""
        q, k, v = (part.unflatten(1, (self._heads, -1)) for part in qkv.chunk(3, dim=1))
        for rows, q_ends, k_ends, used, most_queries, most_keys in self._blocks:
            # one split: the sum over keys is then not cut up by how many pairs there are
            seen = varlen_attn(q[rows], k, v, q_ends, k_ends, most_queries, most_keys, seqused_k=used, num_splits=1)
            assert isinstance(seen, Tensor)
            out.index_copy_(0, rows, seen.flatten(1))


def default_attention(device: torch.device, dtype: torch.dtype, heads: int, head_width: int) -> Attention:
    """The fastest way that the device has for what is computed."""
    if device.type != "cuda":
        return "each"
    if dtype == torch.float32:
        return "grouped"
    return "varlen" if varlen_is_right(device, dtype, heads, head_width) else "grouped"


def varlen_is_right(device: torch.device, dtype: torch.dtype, heads: int, head_width: int) -> bool:
    """Whether the variable-length kernel is there, takes what we give it and answers as plain attention does.

    It is young, and kernels of several origins stand behind it: asking once costs less than believing.
    """
    if varlen_attn is None:
        return False
    draws = torch.Generator().manual_seed(0)
    qkv = torch.randn(40, 3 * heads * head_width, generator=draws).to(device, dtype)
    pairs = attention_pairs((24, 9, 4), (22, 9, 1), 8)
    found, wanted = (torch.zeros(40, heads * head_width, dtype=dtype, device=device) for _ in range(2))
    EachAttention(pairs, heads).into(wanted, qkv)
    try:
        VarlenAttention(pairs, 37, heads, device).into(found, qkv)
    except (RuntimeError, TypeError, ValueError) as error:
        _log.warning("no variable-length attention in %s on %s: %s", dtype, device, error)
        return False
    if not torch.allclose(found.float(), wanted.float(), atol=0.05):
        _log.warning("variable-length attention in %s on %s is wrong; doing without it", dtype, device)
        return False
    return True


class Encoder:
    """From packed audio to what the quantizer is fed, and to tokens.

    Args:
        tensors: as `read_weights` returns them.
        tiling, attention: by default the ones for the device.
    """

    def __init__(
        self,
        config: Glm4VoiceConfig,
        tensors: dict[str, Tensor],
        device: torch.device,
        precision: Precision = "fp32",
        *,
        tiling: Tiling | None = None,
        attention: Attention | None = None,
    ) -> None:
        self.config = config
        self.device = device
        self.dtype = _DTYPES[precision]
        self.tiling = tiling or Tiling.for_device(device)
        self.attention = attention or default_attention(
            device, self.dtype, config.heads, config.d_model // config.heads
        )
        self._tf32 = precision == "tf32"
        self._mel = LogMel(config, device)

        def on_device(tensor: Tensor, dtype: torch.dtype) -> Tensor:
            return tensor.to(device=device, dtype=dtype).contiguous()

        def exact(name: str) -> Tensor:
            return on_device(tensors[name], torch.float32)

        def linear(*names: str) -> Linear:
            """The product with several weights at once; a missing bias is zero."""
            weights = [tensors[f"{name}.weight"] for name in names]
            # (outputs, inputs, 3) of a convolution becomes (outputs, 3 inputs): three rows as they
            # lie in memory
            weights = [w.transpose(1, 2).flatten(1) if w.ndim == 3 else w for w in weights]
            biases = [tensors.get(f"{name}.bias", torch.zeros(config.d_model)) for name in names]
            return Linear(
                on_device(torch.cat(weights), self.dtype).t(),
                on_device(torch.cat(biases), self.dtype),
            )

        def norm(name: str) -> Norm:
            return Norm(exact(f"{name}.weight"), exact(f"{name}.bias"))

        self._conv1, self._conv2 = linear("conv1"), linear("conv2")
        self._positions = exact("embed_positions.weight")
        self._layers = []
        for number in range(config.layers):
            at = f"layers.{number}."
            self._layers.append(
                Layer(
                    norm1=norm(f"{at}self_attn_layer_norm"),
                    qkv=linear(*(f"{at}self_attn.{x}_proj" for x in "qkv")),
                    out=linear(f"{at}self_attn.out_proj"),
                    norm2=norm(f"{at}final_layer_norm"),
                    fc1=linear(f"{at}fc1"),
                    fc2=linear(f"{at}fc2"),
                )
            )
        self._codes = exact("codebook.weight").t()
        self._code_norms = on_device(tensors["codebook.weight"].double().square().sum(1), torch.float32)

    def encode(self, audio: Tensor, packing: Packing) -> Tensor:
        """Tokens of packed audio.

        Args:
            audio: on the device, int16 or float32, shape (packing.n_samples,).

        Returns: int32, shape (sum(packing.tokens),), on the device; -1 where the encoder gave
            numbers that are not finite.
        """
        return self.quantize(self.prequant(audio, packing))

    @torch.inference_mode()
    def log_mel(self, audio: Tensor, packing: Packing) -> Tensor:
        """The spectrum alone: float32, shape (packing.n_rows, mels), gap rows zero."""
        out = torch.empty(packing.n_rows, self.config.mels, device=self.device)
        with matmul_precision(tf32=False):
            self._mel.into(out, audio, packing, PackedIndex.of(packing, self.device))
        return out

    @torch.inference_mode()
    def prequant(self, audio: Tensor, packing: Packing) -> Tensor:
        """What is compared with the codes: float32, shape (sum(packing.tokens), d_model)."""
        config, tiling = self.config, self.tiling
        n_frames = sum(packing.frames)
        hidden = torch.zeros(tiling.padded(n_frames), config.d_model, device=self.device)
        with matmul_precision(tf32=False):
            index = PackedIndex.of(packing, self.device)
            mel = torch.zeros(self._conv_rows(packing), config.mels, device=self.device)
            self._mel.into(mel[config.conv_lead :][: packing.n_rows], audio, packing, index)
        with matmul_precision(self._tf32):
            self._convolve(hidden[:n_frames], mel, packing, index)
            del mel, index
            first = config.pool_after or config.layers
            self._run(hidden, self._layers[:first], packing.frames, packing.valid_frames, config.block)
            if config.pool == 1:
                return hidden[:n_frames]
            groups = hidden[:n_frames].unflatten(0, (-1, config.pool))
            pooled = groups.mean(1) if config.pool_type == "avg" else groups.amax(1)
            if first == config.layers:
                return pooled
            hidden = torch.zeros(tiling.padded(len(pooled)), config.d_model, device=self.device)
            hidden[: len(pooled)] = pooled
            block = config.block and config.block // config.pool
            self._run(hidden, self._layers[first:], packing.tokens, packing.tokens, block)
            return hidden[: len(pooled)]

    @torch.inference_mode()
    def quantize(self, prequant: Tensor) -> Tensor:
        """The nearest code of each row, the lowest of several as near; never in less than float32.

        Args: prequant: float32, shape (n, d_model).
        Returns: int32, shape (n,); -1 where a row is not finite.
        """
        n, rows = len(prequant), self.tiling.code_rows
        padded = torch.zeros(self.tiling.padded_codes(n), self.config.d_model, device=self.device)
        padded[:n] = prequant
        tokens = torch.empty(len(padded), dtype=torch.int64, device=self.device)
        with matmul_precision(tf32=False):
            for start in range(0, len(padded), rows):
                # |x|^2 is the same for all codes
                part = padded[start : start + rows]
                distances = torch.addmm(self._code_norms, part, self._codes, alpha=-2.0)
                tokens[start : start + rows] = distances.argmin(1)
        finite = torch.isfinite(prequant).all(1)
        return torch.where(finite, tokens[:n], -1).to(torch.int32)

    def _conv_rows(self, packing: Packing) -> int:
        """Rows of a convolution's input: zeros before and after, and windows for whole tiles."""
        windows = self.tiling.padded(packing.n_rows)
        stride2 = 2 * self.tiling.padded(packing.n_rows // 2)
        return max(windows, stride2) + 2 + self.config.conv_lead

    def _convolve(self, hidden: Tensor, mel: Tensor, packing: Packing, index: PackedIndex) -> None:
        """Both convolutions and the positions.

        Args:
            hidden: written, shape (n_frames, d_model).
            mel: shape (_conv_rows, mels), the spectrum after `conv_lead` rows of zeros.
        """
        config, tiling = self.config, self.tiling
        d, lead, n_windows = config.d_model, config.conv_lead, packing.n_rows // 2
        first = torch.zeros(self._conv_rows(packing), d, dtype=self.dtype, device=self.device)
        windows = mel.as_strided((tiling.padded(packing.n_rows), 3 * config.mels), (config.mels, 1))
        self._convolve_into(first[lead:], windows, self._conv1)
        first.index_fill_(0, index.gap_rows + lead, 0.0)
        second = torch.empty(tiling.padded(n_windows), d, dtype=self.dtype, device=self.device)
        windows = first.as_strided((len(second), 3 * d), (2 * d, 1))
        self._convolve_into(second, windows, self._conv2)
        torch.index_select(self._positions, 0, index.frame_position, out=hidden)
        hidden.add_(second.index_select(0, index.frame_window))

    def _convolve_into(self, out: Tensor, windows: Tensor, convolution: Linear) -> None:
        for tile in self.tiling.tiles(len(windows)):
            # overlapping windows are no matrix for BLAS: this copies them out
            convolution.into(out[tile], windows[tile].to(self.dtype).contiguous())
            torch.ops.aten.gelu_(out[tile])

    def _run(
        self,
        hidden: Tensor,
        layers: list[Layer],
        frames: tuple[int, ...],
        valid: tuple[int, ...],
        block: int | None,
    ) -> None:
        """Runs layers in place on `hidden`, shape (rows, d_model): all chunks' frames, then what fills up."""
        tiling, d = self.tiling, self.config.d_model
        pairs = attention_pairs(frames, valid, block)
        attend: EachAttention | GroupedAttention | VarlenAttention
        if self.attention == "each":
            attend = EachAttention(pairs, self.config.heads)
        elif self.attention == "grouped":
            attend = GroupedAttention(pairs, self.config.heads, self.device)
        else:
            attend = VarlenAttention(pairs, sum(frames), self.config.heads, self.device)
        qkv = torch.empty(len(hidden), 3 * d, dtype=self.dtype, device=self.device)
        seen = torch.zeros(len(hidden), d, dtype=self.dtype, device=self.device)
        wide = torch.empty(min(tiling.rows, len(hidden)), self.config.ffn, dtype=self.dtype, device=self.device)
        for layer in layers:
            for tile in tiling.tiles(len(hidden)):
                layer.qkv.into(qkv[tile], layer.norm1(hidden[tile]).to(self.dtype))
            attend.into(seen, qkv)
            for tile in tiling.tiles(len(hidden)):
                residual = hidden[tile]
                inner = wide[: len(residual)]
                layer.out.add_to(residual, seen[tile])
                layer.fc1.into(inner, layer.norm2(residual).to(self.dtype))
                torch.ops.aten.gelu_(inner)
                layer.fc2.add_to(residual, inner)
