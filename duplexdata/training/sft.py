"""Supervised fine-tuning. Source: arXiv 2606.14528, section 2.2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from duplexdata.training.classes import CLASSES, TokenTable
from duplexdata.training.data import Item
from duplexdata.training.devices import Devices
from duplexdata.training.loop import Part, StepPlan
from duplexdata.training.packing import make_pack, plan_packs
from duplexdata.training.predictor import PackOnDevice, Predictor


def class_sums(losses: Tensor, labels: Tensor, class_of: Tensor) -> Tensor:
    """Sum of losses and number of positions by class, float64, (2 * len(CLASSES),)."""
    n = len(CLASSES)
    of = class_of[labels]
    ones = torch.ones(len(labels), dtype=torch.float64, device=losses.device)
    zeros = torch.zeros(2 * n, dtype=torch.float64, device=losses.device)
    return zeros.index_add_(0, of, losses.double()).index_add_(0, of + n, ones)


def class_means(sums: Mapping[str, float]) -> dict[str, float]:
    """Mean loss of each class that occurred."""
    return {f"loss/{c}": sums[f"loss {c}"] / sums[f"n {c}"] for c in CLASSES if sums[f"n {c}"]}


CLASS_NAMES = [f"loss {c}" for c in CLASSES] + [f"n {c}" for c in CLASSES]


class Sft(nn.Module):
    """Equation 5: weighted cross-entropy, divided by the sum of weights of the whole step."""

    def __init__(self, predictor: Predictor, table: TokenTable, capacity: int) -> None:
        """
        Args:
            capacity: most tokens of a pack.
        """
        super().__init__()
        self.predictor, self._table, self._capacity = predictor, table, capacity
        self.names: Sequence[str] = CLASS_NAMES
        self.register_buffer("_class_of", torch.from_numpy(table.class_of.astype(np.int64)), persistent=False)
        self.to(predictor.place.device)

    @property
    def module(self) -> nn.Module:
        return self

    def plan(self, rows: Sequence[int], items: Sequence[Item], devices: Devices) -> StepPlan:
        examples = [item[0] for item in items]
        dealt = plan_packs([len(e) for e in examples], self._capacity, devices.count)
        weight = sum(float(self._table.weights(e.labels[1:]).sum(dtype=np.float64)) for e in examples)
        multiple = self.predictor.place.multiple
        packs = [make_pack([examples[i] for i in pack], self._table, multiple) for pack in dealt]
        return StepPlan(
            parts=[Part(pack, {}) for pack in packs[devices.rank :: devices.count]],
            scale={"loss": 1.0 / weight if weight else 0.0},
            n_real=sum(p.n_real for p in packs),
            n_tokens=sum(len(p.input_ids) for p in packs),
        )

    def forward(
        self, pack: PackOnDevice, inputs: Mapping[str, Tensor], scale: Mapping[str, float]
    ) -> tuple[Tensor, Tensor]:
        total, losses = self.predictor.losses(pack)
        return total * scale["loss"], class_sums(losses, pack.labels, self._class_of)  # type: ignore[arg-type]

    def summary(self, sums: Mapping[str, float]) -> dict[str, float]:
        return class_means(sums)
