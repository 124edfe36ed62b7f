"""A causal LM over packs: hidden states where there is something to predict, by the fastest way that is right.

What a model's attention can do, and whether its logits are one plain product, is tried and not assumed: two
sequences in a pack must give what each gives alone.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from duplexdata.errors import ConfigError, TrainingError
from duplexdata.training import attention
from duplexdata.training.config import ModelSettings
from duplexdata.training.losses import log_probs_of_logits, token_log_probs, weighted_cross_entropy
from duplexdata.training.packing import Pack

log = logging.getLogger(__name__)
_TOLERANCE = 2e-3
"""Largest difference of logits, relative to the largest logit, that passes as rounding (fp32, any kernel)."""
_FLASH_TOLERANCE = 0.05
"""The same in bf16."""


@dataclass(frozen=True, slots=True)
class PackOnDevice:
    """A pack's tensors, shapes as there; the first two have a leading axis of 1.

    `arguments` are what attention within sequences needs.
    """

    input_ids: Tensor
    position_ids: Tensor
    predicting: Tensor
    labels: Tensor
    weights: Tensor
    of: Tensor
    n_sequences: int
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Where and in what numbers a model is computed."""

    device: torch.device
    bf16: bool

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.bf16 else torch.float32

    @property
    def multiple(self) -> int:
        """Packs are padded to a multiple of this: tiles of a GPU, and fewer shapes to compile for."""
        return 128 if self.device.type == "cuda" else 1


def choose_place(settings: ModelSettings, device: torch.device | None = None) -> Place:
    """Raises ConfigError: a device that is not there."""
    if settings.device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"model.device is {settings.device!r}, expected auto, cpu or cuda")
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("model.device is 'cuda', and there is no CUDA device here: take auto or cpu")
    if device is None:
        cuda = settings.device != "cpu" and torch.cuda.is_available()
        device = torch.device("cuda" if cuda else "cpu")
    if settings.precision != "auto":
        return Place(device, settings.precision == "bf16")
    if device.type == "cuda":
        return Place(device, torch.cuda.is_bf16_supported())
    return Place(device, _cpu_computes_in_bf16())


def _cpu_computes_in_bf16() -> bool:
    """AVX-512 BF16 or AMX: products are two to four times as fast as in fp32; without, they are much slower."""
    tests = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return any(test() for test in tests if test is not None)


class Predictor(nn.Module):
    """Attributes:
    model: the causal LM.
    place: where it is.
    kind: how attention is computed, see `attention`.
    plain_head: whether logits are hidden states times the output embeddings, and nothing more.
    """

    def __init__(self, model: Any, settings: ModelSettings, place: Place) -> None:
        super().__init__()
        self.model, self.place = model.to(place.device), place
        self._windows = attention.windows_of(model.config.get_text_config())
        self.kind = _choose_attention(model, settings.attention, place)
        self.plain_head = _has_plain_head(model, self.kind, place)
        if settings.gradient_checkpointing:
            _checkpoint_gradients(model)
        model.train()

    def compile_model(self) -> None:
        """Compile the layers, at whatever lengths packs have."""
        self.model.compile(dynamic=True)
        self.model.base_model.compile(dynamic=True)

    def on_device(self, pack: Pack) -> PackOnDevice:
        return on_device(pack, self.kind, self.place, self._windows)

    def losses(self, pack: PackOnDevice) -> tuple[Tensor, Tensor]:
        """Sum of weighted losses, and each predicting position's own loss. See `weighted_cross_entropy`."""
        if not self.plain_head:
            found = -log_probs_of_logits(self._logits(pack), pack.labels)
            return (found * pack.weights).sum(), found.detach()
        return weighted_cross_entropy(*self._head(pack), pack.labels, pack.weights)

    def log_probs(self, pack: PackOnDevice) -> Tensor:
        """Of each predicting position's label, float32, (n_predicting,)."""
        if not self.plain_head:
            return log_probs_of_logits(self._logits(pack), pack.labels)
        return token_log_probs(*self._head(pack), pack.labels)

    def _head(self, pack: PackOnDevice) -> tuple[Tensor, Tensor]:
        hidden = self.model.base_model(
            input_ids=pack.input_ids, position_ids=pack.position_ids, use_cache=False, **pack.arguments
        ).last_hidden_state[0]
        return hidden.index_select(0, pack.predicting).to(self.place.dtype), self.model.get_output_embeddings().weight

    def _logits(self, pack: PackOnDevice) -> Tensor:
        return _logits(self.model, pack)


def _checkpoint_gradients(model: Any) -> None:
    if enable := getattr(model, "activation_checkpointing_enable", None):  # its name in newer releases
        enable(activation_checkpointing_kwargs={"use_reentrant": False})
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def on_device(pack: Pack, kind: str, place: Place, windows: attention.Windows) -> PackOnDevice:
    def move(values: np.ndarray[Any, Any], dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(values).to(dtype).to(place.device, non_blocking=True)

    return PackOnDevice(
        input_ids=move(pack.input_ids, torch.int64)[None],
        position_ids=move(pack.position, torch.int64)[None],
        predicting=move(pack.predicting, torch.int64),
        labels=move(pack.labels, torch.int64),
        weights=move(pack.weights, torch.float32),
        of=move(pack.of, torch.int64),
        n_sequences=pack.n_sequences,
        arguments=attention.arguments(kind, pack, place.device, place.dtype, windows),
    )


def _logits(model: Any, pack: PackOnDevice) -> Tensor:
    out: Tensor = model(
        input_ids=pack.input_ids, position_ids=pack.position_ids, use_cache=False, **pack.arguments
    ).logits[0]
    return out.index_select(0, pack.predicting)


# -- what a model can do


def _choose_attention(model: Any, wanted: str, place: Place) -> str:
    """Raises TrainingError: no way keeps sequences apart, or not the one wanted."""
    cuda = place.device.type == "cuda"
    if wanted == "auto":
        order = (
            (["flash"] if _has_flash() else []) + ["flex", "segments", "dense", "eager"]
            if cuda
            else ["segments", "dense", "eager"]
        )
    else:
        order = [wanted]
    reasons = []
    model.eval()
    alone = _alone(model, place)
    for kind in order:
        try:
            model.set_attn_implementation(attention.implementation(kind))
            off = _distance(model, alone, kind, place)
        except Exception as error:  # a model may refuse in any way
            reasons.append(f"{kind}: {(str(error).strip() or type(error).__name__).splitlines()[0]}")
            continue
        if off <= (_FLASH_TOLERANCE if kind == "flash" else _TOLERANCE):
            return kind
        reasons.append(f"{kind}: logits in a pack are off by {off:.1e}")
        log.info("attention %s does not keep sequences apart in this model", kind)
    raise TrainingError(
        f"{type(model).__name__} cannot train on packs, one conversation would see another ({'; '.join(reasons)})"
    )


def _has_flash() -> bool:
    from transformers.utils import is_flash_attn_2_available

    return bool(is_flash_attn_2_available())


def _probe(model: Any, sequences: list[np.ndarray[Any, Any]], kind: str, place: Place) -> PackOnDevice:
    ids = np.concatenate(sequences).astype(np.int32)
    lengths = [len(s) for s in sequences]
    every = np.arange(len(ids))
    pack = Pack(
        input_ids=ids,
        position=np.concatenate([np.arange(n) for n in lengths]).astype(np.int32),
        starts=np.concatenate([[0], np.cumsum(lengths)]),
        channel=None,
        predicting=every,
        labels=np.zeros(len(ids), np.int64),
        weights=np.ones(len(ids), np.float32),
        of=np.repeat(np.arange(len(lengths)), lengths),
    )
    return on_device(pack, kind, place, attention.windows_of(model.config.get_text_config()))


def _sequences(model: Any) -> list[np.ndarray[Any, Any]]:
    size = model.get_input_embeddings().weight.shape[0]
    rng = np.random.Generator(np.random.PCG64(0))
    return [rng.integers(0, size, n) for n in (40, 24)]


@torch.no_grad()
def _alone(model: Any, place: Place) -> Tensor:
    """Logits of a sequence that is in no pack, by the attention that the model has come with."""
    ids = torch.from_numpy(_sequences(model)[1])[None].to(place.device)
    logits: Tensor = model(input_ids=ids, use_cache=False).logits[0].float()
    return logits


@torch.no_grad()
def _distance(model: Any, alone: Tensor, kind: str, place: Place) -> float:
    """How far logits of the same sequence behind another one are from those, relative to the largest."""
    exact = _exact(kind, place)
    first, second = _sequences(model)
    with exact.autocast():
        packed = _logits(model, _probe(model, [first, second], kind, exact))[len(first) :].float()
    return float((packed - alone).abs().max() / alone.abs().max().clamp_min(1e-6))


def _exact(kind: str, place: Place) -> Place:
    return Place(place.device, bf16=kind == "flash")  # FlashAttention knows no fp32


@torch.no_grad()
def _has_plain_head(model: Any, kind: str, place: Place) -> bool:
    """Some models scale or bend their logits, or have a bias there."""
    head = model.get_output_embeddings()
    base = model.base_model
    if head is None or base is model or getattr(head, "bias", None) is not None:
        return False
    exact = _exact(kind, place)
    seen: dict[str, Tensor] = {}

    def enlarge(_: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
        # Large, so that a cap on logits shows too.
        seen["in"], seen["out"] = given[0], out * 1000
        return seen["out"]

    hook = head.register_forward_hook(enlarge)
    try:
        probe = _probe(model, _sequences(model), kind, exact)
        with exact.autocast():
            logits = _logits(model, probe)
            hidden = base(
                input_ids=probe.input_ids, position_ids=probe.position_ids, use_cache=False, **probe.arguments
            ).last_hidden_state
        return _same(logits, seen["out"][0]) and _same(hidden, seen["in"])
    except Exception:  # a model of another build
        return False
    finally:
        hook.remove()


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a.float() - b.float()).abs().max() <= 1e-3 * b.float().abs().max())
