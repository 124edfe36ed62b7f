"""What is built, trained and scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from duplexdata.config import Config, LayoutConfig, TextConfig
from duplexdata.decoding import DecodeSettings
from duplexdata.scoring.score import OFFICIAL
from duplexdata.training.config import WEIGHTS as WEIGHTINGS
from duplexdata.training.config import DataSettings, DpoConfig, LossWeights, OptimSettings, SftConfig


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to train.

    Attributes:
        weights: of the loss, a name of `duplexdata.training.config.WEIGHTS`.
        brief: trained for `Evidence.brief_epochs` only.
        shuffled: on rows whose assistant timing says nothing about the user.
        after: the arm whose model it begins with, and goes on from by preference.
    """

    title: str
    weights: str = "paper"
    brief: bool = False
    shuffled: bool = False
    after: str | None = None


ARMS: Mapping[str, Arm] = {
    "uniform_brief": Arm("brief, uniform", "uniform", brief=True),
    "weighted_brief": Arm("brief, paper's", brief=True),
    "uniform": Arm("uniform", "uniform"),
    "weighted": Arm("paper's"),
    "uniform_dpo": Arm("uniform + DPO", "uniform", after="uniform"),
    "dpo": Arm("paper's + DPO", after="weighted"),
    "shuffled": Arm("control: shuffled", shuffled=True),
}
CLAIMS = (
    ("uniform_brief", "weighted_brief"),
    ("uniform", "weighted"),
    ("uniform", "uniform_dpo"),
    ("weighted", "dpo"),
    ("weighted", "shuffled"),
)
"""Pairs of arms that are compared, worse and better as the paper has it (the last: as a control must)."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """
    Attributes:
        conversations: built; a tenth of them is held out.
        seeds: of training and of sampling; the dataset is the same for all.
        sft_epochs, brief_epochs, dpo_steps, dpo_batch: of each model.
        scored: held-out conversations that each model is scored on, at most.
    """

    conversations: int = 2400
    seeds: tuple[int, ...] = (0, 1, 2)
    sft_epochs: float = 1.5
    brief_epochs: float = 0.45
    dpo_steps: int = 100
    dpo_batch: int = 8
    dpo_lr: float = 1e-4
    sft_batch: int = 8
    sft_lr: float = 2e-3
    scored: int = 200

    @property
    def dataset(self) -> Config:
        """Embedded defaults, in short conversations: what is to be learned is timing, not facts."""
        return Config(
            conversations=self.conversations,
            text=TextConfig(max_query_sec=5.0, max_reply_sec=9.0, max_exchanges=2),
            layout=LayoutConfig(emit=("sft", "dpo")),
        )

    def sft(self, dataset: str, seed: int, arm: Arm) -> SftConfig:
        return SftConfig(
            data=DataSettings(dataset=dataset, batch=self.sft_batch),
            optim=OptimSettings(lr=self.sft_lr, epochs=self.brief_epochs if arm.brief else self.sft_epochs),
            weights=LossWeights(**WEIGHTINGS[arm.weights]),
            seed=seed,
        )

    def dpo(self, dataset: str, seed: int, arm: Arm, checkpoint: str) -> DpoConfig:
        sft = self.sft(dataset, seed, arm)
        return DpoConfig(
            data=replace(sft.data, batch=self.dpo_batch),
            model=replace(sft.model, name=checkpoint),
            optim=OptimSettings(lr=self.dpo_lr, steps=self.dpo_steps),
            weights=sft.weights,
            seed=seed,
        )

    def decoding(self, seed: int) -> DecodeSettings:
        return replace(OFFICIAL, seed=seed)


FULL = Evidence()
MINIATURE = Evidence(conversations=60, seeds=(0,), sft_epochs=0.3, brief_epochs=0.2, dpo_steps=2, scored=4)
"""Shows in a minute that every step works; its models have learned nothing."""
