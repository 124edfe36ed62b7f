"""Attention within each sequence of a pack.

Five ways to compute the same, all reached through `transformers`' own choice of attention:

    segments   one call of PyTorch's attention per sequence: no work is done between sequences (CPUs)
    flex       FlexAttention with a block mask over the pack (GPUs)
    flash      FlashAttention 2 by cumulative lengths (GPUs, where it is installed)
    dense      a mask of all pairs of the pack, for models whose attention cannot be chosen; quadratic in the pack
    eager      the same without a kernel: for models that bend their scores
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface

from duplexdata.errors import TrainingError
from duplexdata.layouts.duo import attention_mask as duo_mask
from duplexdata.layouts.duo import group_starts
from duplexdata.training.packing import Pack

SEGMENTS = "duplexdata_segments"


@dataclass(frozen=True, slots=True)
class Segments:
    """Where the sequences of a pack lie.

    Attributes:
        lengths: of the sequences, and of the padding behind them.
        masks: bool (length, length) of each, where it is not the causal one; None: it is for all.
        windows: by window, the masks of `_look_back`: made by the first layer, used by all.
    """

    lengths: list[int]
    masks: list[Tensor] | None
    windows: dict[int, Tensor] = field(default_factory=dict)


def implementation(kind: str) -> str:
    """What `transformers` calls it."""
    names = {"segments": SEGMENTS, "flex": "flex_attention", "flash": "flash_attention_2", "dense": "sdpa"}
    return names.get(kind, kind)


Windows = Mapping[str, int | None]
"""How far back layers look, by their type; None: to the sequence's start. One without a name: all layers."""


def windows_of(config: Any) -> Windows:
    """
    Args:
        config: of a text model.

    Raises: TrainingError: it has layers that look elsewhere, or remember in another way.
    """
    types = set(getattr(config, "layer_types", None) or [])
    window = getattr(config, "sliding_window", None)
    if unknown := types - {"full_attention", "sliding_attention"}:
        raise TrainingError(f"layers of type {', '.join(sorted(unknown))} cannot be kept within a conversation")
    if len(types) == 2:
        return {"full_attention": None, "sliding_attention": window}
    return {"": None if types == {"full_attention"} else window}


def arguments(kind: str, pack: Pack, device: torch.device, dtype: torch.dtype, windows: Windows) -> dict[str, Any]:
    """What a model's forward needs beside `input_ids` and `position_ids`.

    Args:
        dtype: that attention is computed in.

    Raises: TrainingError: FlashAttention has no mask for `duo` rows.
    """
    if kind == "segments":
        return {"attention_mask": None, "segments": _segments(pack, device)}
    if kind == "flex":
        return {"attention_mask": _by_type({t: _block_mask(pack, device, w) for t, w in windows.items()})}
    if kind == "flash":
        if pack.channel is not None:
            raise TrainingError("rows of duo need a mask that FlashAttention lacks: set model.attention to flex")
        ends = torch.tensor(_bounds(pack), dtype=torch.int32, device=device)
        longest = int(np.diff(_bounds(pack)).max())
        return {
            "attention_mask": None,
            "cu_seq_lens_q": ends,
            "cu_seq_lens_k": ends,
            "max_length_q": longest,
            "max_length_k": longest,
        }
    return {"attention_mask": _by_type({t: _dense_mask(pack, device, dtype, w) for t, w in windows.items()})}


def _by_type(masks: dict[str, Any]) -> Any:
    return masks.get("", masks)


def _bounds(pack: Pack) -> list[int]:
    """Padding is a sequence of its own: nobody sees it, and no row of a mask is empty."""
    n = len(pack.input_ids)
    return pack.starts.tolist() + ([n] if pack.n_real < n else [])


def _segments(pack: Pack, device: torch.device) -> Segments:
    masks = [m.to(device) for m in _dense_masks(pack)] if pack.channel is not None else None
    return Segments(np.diff(_bounds(pack)).tolist(), masks)


def _dense_masks(pack: Pack) -> list[Tensor]:
    bounds = _bounds(pack)
    if pack.channel is None:
        return [torch.ones(b - a, b - a, dtype=torch.bool).tril_() for a, b in pairwise(bounds)]
    return [torch.from_numpy(duo_mask(pack.channel[a:b], pack.position[a:b])) for a, b in pairwise(bounds)]


def _dense_mask(pack: Pack, device: torch.device, dtype: torch.dtype, window: int | None) -> Tensor:
    """0 where a token is seen, else the lowest number: (1, 1, n_tokens, n_tokens)."""
    seen = torch.block_diag(*(m.to(torch.uint8) for m in _dense_masks(pack))).bool().to(device)
    if window is not None:
        seen &= _within(len(seen), window, device)
    mask = torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, torch.finfo(dtype).min)
    return mask[None, None]


def _block_mask(pack: Pack, device: torch.device, window: int | None) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    bounds = _bounds(pack)
    n = len(pack.input_ids)
    back = n if window is None else window
    document = torch.from_numpy(np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))).to(device)
    if pack.channel is None:

        def causal(_b: Tensor, _h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return (k <= q) & (k > q - back) & (document[q] == document[k])

        return create_block_mask(causal, None, None, n, n, device=str(device))
    groups = [group_starts(pack.channel[a:b], pack.position[a:b]) for a, b in pairwise(bounds)]
    group = torch.from_numpy(np.concatenate(groups)).to(device)
    channel = torch.from_numpy(pack.channel).to(device)
    position = torch.from_numpy(pack.position).to(device)

    def divided(_b: Tensor, _h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        seen = (channel[q] == channel[k]) | (position[k] < group[q])
        return (k <= q) & (k > q - back) & (document[q] == document[k]) & seen

    return create_block_mask(divided, None, None, n, n, device=str(device))


def _segments_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    segments: Segments | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """
    Args:
        query: (1, heads, n_tokens, head_dim); key, value: the same, perhaps with fewer heads.

    Returns: (1, n_tokens, heads, head_dim).
    Raises: ValueError: the model wants something that is not computed here; `models.py` then takes "dense".
    """
    unknown = [name for name in ("softcap", "s_aux", "position_bias") if others.get(name) is not None]
    if segments is None or attention_mask is not None or unknown:
        raise ValueError(f"attention by segments cannot do {', '.join(unknown) or 'without them'}")
    if (groups := query.shape[1] // key.shape[1]) > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    lengths, masks = segments.lengths, segments.masks
    if sliding_window is not None and sliding_window < max(lengths) and masks is None and not dropout:
        return _look_back(query, key, value, segments, sliding_window, scaling), None
    outputs = []
    parts = zip(query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True)
    for i, (q, k, v) in enumerate(parts):
        mask = masks[i] if masks is not None else None
        if sliding_window is not None and sliding_window < lengths[i]:
            within = _within(lengths[i], sliding_window, q.device)
            mask = within if mask is None else mask & within
        found = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout, scale=scaling, is_causal=mask is None
        )
        outputs.append(found.transpose(1, 2))
    return torch.cat(outputs, 1), None


def _within(n: int, window: int, device: torch.device) -> Tensor:
    at = torch.arange(n, device=device)
    return (at[None, :] <= at[:, None]) & (at[None, :] > at[:, None] - window)


_BLOCK = 128


def _look_back(q: Tensor, k: Tensor, v: Tensor, segments: Segments, window: int, scaling: float | None) -> Tensor:
    """Attention to the last `window` tokens, in blocks over the whole pack: linear in its length.

    A block of queries sees the keys of its own block and of the `window` tokens before it.

        keys      [ window ............][ block ]
        queries                         [ block ]
    """
    _, heads, n, width = q.shape
    blocks, seen = -(-n // _BLOCK), _BLOCK + window
    pad = blocks * _BLOCK - n
    scale = width**-0.5 if scaling is None else scaling
    if window not in segments.windows:
        segments.windows[window] = _look_back_mask(segments.lengths, window, q)
    bias = segments.windows[window]
    queries = F.pad(q[0] * scale, (0, 0, 0, pad)).view(heads, blocks, _BLOCK, width)
    keys = F.pad(k[0], (0, 0, window, pad)).unfold(1, seen, _BLOCK)  # (heads, blocks, width, seen)
    values = F.pad(v[0], (0, 0, window, pad)).unfold(1, seen, _BLOCK).transpose(2, 3)
    scores = torch.matmul(queries, keys) + bias
    found = torch.matmul(scores.softmax(-1), values)
    return found.view(heads, blocks * _BLOCK, width)[:, :n].transpose(0, 1)[None]


def _look_back_mask(lengths: list[int], window: int, like: Tensor) -> Tensor:
    """0 where a key is seen, else very low: (blocks, block, window + block)."""
    device = like.device
    n = sum(lengths)
    blocks, seen = -(-n // _BLOCK), _BLOCK + window
    number = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(device)
    number = F.pad(number, (window, blocks * _BLOCK - n), value=-1)
    query = torch.arange(blocks * _BLOCK, device=device).view(blocks, _BLOCK, 1)
    key = (torch.arange(blocks, device=device) * _BLOCK - window)[:, None, None] + torch.arange(seen, device=device)
    same = number[window:].view(blocks, _BLOCK, 1) == number.unfold(0, seen, _BLOCK)[:, None, :]
    shown = same & (key <= query) & (key > query - window)
    return torch.zeros(shown.shape, dtype=like.dtype, device=device).masked_fill_(~shown, -1e4)


AttentionInterface.register(SEGMENTS, _segments_forward)
