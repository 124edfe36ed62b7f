"""Preference optimisation on pairs that differ in timing alone. Source: arXiv 2606.14528, section 2.3."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

from duplexdata.errors import TrainingError
from duplexdata.shards import put_in_place, sha256, temporary_name
from duplexdata.training.classes import TokenTable
from duplexdata.training.data import Item, Rows
from duplexdata.training.devices import Devices
from duplexdata.training.loop import Part, StepPlan
from duplexdata.training.losses import preference_losses, sequence_sums
from duplexdata.training.packing import make_pack, plan_packs
from duplexdata.training.predictor import PackOnDevice, Predictor
from duplexdata.training.sft import CLASS_NAMES, class_means, class_sums

LogProbs = Mapping[int, tuple[float, float]]
"""Summed log-probabilities of the chosen and the rejected sequence, by row."""

_MORE = ["preference", "margin", "accuracy", "chosen", "rejected", "n pairs"]


class Dpo(nn.Module):
    """Equations 6 and 7: the preference loss, and a share of the SFT loss on the chosen sequences.

    In a pack the sequences 2i and 2i + 1 are a pair, the chosen one first.
    """

    def __init__(
        self,
        predictor: Predictor,
        table: TokenTable,
        capacity: int,
        *,
        beta: float,
        sft_weight: float,
        reference: LogProbs,
    ) -> None:
        """
        Args:
            capacity: most tokens of a pack; room for two of the longest sequences.
        """
        super().__init__()
        self.predictor, self._table, self._capacity = predictor, table, capacity
        self.beta, self.sft_weight, self._reference = beta, sft_weight, reference
        self.names: Sequence[str] = CLASS_NAMES + _MORE
        self.register_buffer("_class_of", torch.from_numpy(table.class_of.astype(np.int64)), persistent=False)
        self.to(predictor.place.device)

    @property
    def module(self) -> nn.Module:
        return self

    def plan(self, rows: Sequence[int], items: Sequence[Item], devices: Devices) -> StepPlan:
        dealt = plan_packs([sum(map(len, item)) for item in items], self._capacity, devices.count)
        weight = sum(float(self._table.weights(item[0].labels[1:]).sum(dtype=np.float64)) for item in items)
        packs = [pack_pairs([items[i] for i in pack], self._table, self.predictor) for pack in dealt]
        parts = [
            Part(
                pack,
                {"reference": torch.tensor([self._reference[rows[i]] for i in own], dtype=torch.float64).view(-1, 2)},
            )
            for pack, own in zip(packs, dealt, strict=True)
        ]
        return StepPlan(
            parts=parts[devices.rank :: devices.count],
            scale={"sft": self.sft_weight / weight if weight else 0.0, "pairs": 1.0 / len(items)},
            n_real=sum(p.n_real for p in packs),
            n_tokens=sum(len(p.input_ids) for p in packs),
        )

    def forward(
        self, pack: PackOnDevice, inputs: Mapping[str, Tensor], scale: Mapping[str, float]
    ) -> tuple[Tensor, Tensor]:
        log_probs = self.predictor.log_probs(pack)
        chosen, rejected = sequence_sums(log_probs, pack.of, pack.n_sequences).view(-1, 2).unbind(1)
        reference = inputs["reference"]
        losses, margin = preference_losses(chosen, rejected, reference[:, 0], reference[:, 1], self.beta)
        of_chosen = pack.of % 2 == 0
        sft = -(log_probs * pack.weights * of_chosen).sum()
        loss = losses.sum() * scale["pairs"] + sft.double() * scale["sft"]
        with torch.no_grad():
            by_class = class_sums(-log_probs[of_chosen], pack.labels[of_chosen], self._class_of)  # type: ignore[arg-type]
            more = torch.stack([
                losses.sum(),
                margin.sum(),
                (margin > 0).double().sum(),
                (chosen - reference[:, 0]).sum() * self.beta,
                (rejected - reference[:, 1]).sum() * self.beta,
                torch.tensor(float(len(margin)), dtype=torch.float64, device=margin.device),
            ])  # fmt: skip
        return loss, torch.cat([by_class, more])

    def summary(self, sums: Mapping[str, float]) -> dict[str, float]:
        n = sums["n pairs"]
        return {
            **class_means(sums),
            "loss/preference": sums["preference"] / n,
            "reward/margin": sums["margin"] / n,
            "reward/accuracy": sums["accuracy"] / n,
            "reward/chosen": sums["chosen"] / n,
            "reward/rejected": sums["rejected"] / n,
        }


def pack_pairs(items: Sequence[Item], table: TokenTable, predictor: Predictor) -> Any:
    return make_pack([example for item in items for example in item], table, predictor.place.multiple)


# -- the reference


def reference_key(checkpoint: Path, *parts: object) -> str:
    """What log-probabilities are of: the checkpoint's weights, and whatever else decides on them."""
    digest = hashlib.sha256()
    for file in sorted(checkpoint.glob("*.safetensors")):
        digest.update(f"{file.name} {sha256(file)}\n".encode())
    digest.update(repr(parts).encode())
    return digest.hexdigest()[:16]


class ReferenceCache:
    """Log-probabilities on disk: files of some hundred rows each, written as they are found.

    Args:
        folder: files are named by `key`, so several references may share it.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._folder, self._key = folder, key

    def read(self) -> dict[int, tuple[float, float]]:
        """Raises TrainingError: a file that is damaged."""
        found: dict[int, tuple[float, float]] = {}
        for file in sorted(self._folder.glob(f"{self._key}-*.safetensors")):
            try:
                part = load_file(file)
                triples = zip(part["row"].tolist(), part["chosen"].tolist(), part["rejected"].tolist(), strict=True)
                found |= {row: (chosen, rejected) for row, chosen, rejected in triples}
            except Exception as error:  # safetensors raises its own kinds
                raise TrainingError(f"{file} cannot be read ({error}): remove it, it will be made again") from error
        return found

    def write(self, found: LogProbs) -> None:
        rows = sorted(found)
        columns: dict[str, npt.NDArray[Any]] = {
            "row": np.array(rows, np.int64),
            "chosen": np.array([found[r][0] for r in rows], np.float64),
            "rejected": np.array([found[r][1] for r in rows], np.float64),
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{self._key}-{rows[0]:09d}-{rows[-1]:09d}.safetensors"
        temporary = temporary_name(path)
        save_file(columns, temporary)
        put_in_place(temporary, path)


_AT_A_TIME = 256


def reference_log_probs(
    cache: ReferenceCache,
    predictor: Predictor,
    rows: Rows,
    wanted: Sequence[int],
    table: TokenTable,
    capacity: int,
    devices: Devices,
    report: Callable[[int, int], None],
) -> LogProbs:
    """Of every wanted row, from the cache or made now, once; several devices share the work."""
    known = cache.read()
    missing = [row for row in wanted if row not in known]
    devices.wait()  # nobody writes before all have read
    chunks = [missing[a : a + _AT_A_TIME] for a in range(0, len(missing), _AT_A_TIME)]
    for n, chunk in enumerate(chunks):
        if n % devices.count == devices.rank:
            cache.write(_log_probs(predictor, chunk, rows.take(chunk), table, capacity))
        report(min(len(missing), (n + 1) * _AT_A_TIME), len(missing))
    devices.wait()
    return cache.read() if missing else known


@torch.no_grad()
def _log_probs(
    predictor: Predictor, numbers: Sequence[int], items: Sequence[Item], table: TokenTable, capacity: int
) -> dict[int, tuple[float, float]]:
    found: dict[int, tuple[float, float]] = {}
    predictor.model.eval()  # no dropout in the reference
    try:
        for own in plan_packs([sum(map(len, item)) for item in items], capacity):
            pack = predictor.on_device(pack_pairs([items[i] for i in own], table, predictor))
            with predictor.place.autocast():
                log_probs = predictor.log_probs(pack)
            sums = sequence_sums(log_probs, pack.of, pack.n_sequences).view(-1, 2).tolist()
            found |= {numbers[i]: (chosen, rejected) for i, (chosen, rejected) in zip(own, sums, strict=True)}
    finally:
        predictor.model.train()
    return found
