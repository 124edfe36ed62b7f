"""Settings of a training run: typed, every default with its source.

Sources: [B] BayLing-Duplex, arXiv 2606.14528, sections 2.2, 2.3 and 3; [ours] where it leaves a choice open.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from duplexdata.config import as_dict
from duplexdata.errors import ConfigError

ROWS = ("sft", "duo", "tdm")
ATTENTIONS = ("auto", "segments", "flex", "flash", "dense", "eager")
PRECISIONS = ("auto", "fp32", "bf16")
BUILT_IN_MODELS = ("tiny", "small")
UNIFORM: Mapping[str, float] = {"silence": 1.0, "assistant": 1.0, "epad": 1.0, "other": 1.0}
PAPER: Mapping[str, float] = {"silence": 0.1, "assistant": 10.0, "epad": 10.0, "other": 1.0}
WEIGHTS: Mapping[str, Mapping[str, float]] = {"paper": PAPER, "uniform": UNIFORM}


@dataclass(frozen=True, slots=True)
class DataSettings:
    """Which rows, and how many of them make a step."""

    dataset: str = ""
    """A dataset's folder, or its id on the hub."""
    rows: str = "sft"
    """Of SFT: the dataset's config `sft`, `duo` or `tdm`."""
    split: str = "train"
    streaming: bool = False
    """Read rows as they come, through a shuffle buffer, instead of by a permutation of all of them."""
    shuffle_buffer: int = 2048
    """Rows held while streaming. [ours]"""
    limit: int | None = None
    """Rows used, from the first on; None: all."""
    batch: int = 32
    """Conversations (of DPO: pairs) in a step, over all devices. [B, section 3]"""
    batch_tokens: int | None = None
    """Instead of `batch`: as many conversations as fit into this many tokens."""
    max_tokens: int = 8192
    """Most tokens that pass through a model at once; longer conversations are left out and counted. [ours]"""


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """The model, and how it is computed."""

    name: str = "tiny"
    """"tiny" (2 million parameters) or "small" (120 million), with random weights; or a causal LM's folder or hub id;
    or the folder of an earlier run."""
    trust_remote_code: bool = False
    attention: str = "auto"
    """Within each conversation of a pack. "segments": one call per conversation (what CPUs take); "flex": FlexAttention
    and "flash": FlashAttention 2 (GPUs); "dense": a mask over the whole pack, for any model."""
    precision: str = "auto"
    """"fp32" or "bf16" (autocast; weights stay fp32). "auto": bf16 on a GPU and on a CPU that computes in it."""
    gradient_checkpointing: bool = False
    compile: bool = False
    device: str = "auto"
    """"auto", "cpu" or "cuda"."""


@dataclass(frozen=True, slots=True)
class OptimSettings:
    """AdamW with a linear warm-up and a cosine down to 0."""

    lr: float | None = None
    """Peak; None: 1e-5 for a pretrained model [B], 2e-3 for random weights [ours]; DPO: 3e-7 [B], or 1e-4 where
    the checkpoint began with random weights [ours]."""
    warmup: float | None = None
    """Share of the steps; None: 0.1, DPO 0.05. [B]"""
    steps: int | None = None
    """None: as many as `epochs` make; DPO: 200. [B]"""
    epochs: float | None = None
    """None: 1, unless `steps` says."""
    weight_decay: float = 0.01  # [ours]
    beta1: float = 0.9  # [ours]
    beta2: float = 0.98  # [ours]
    clip: float = 1.0
    """Norm to which gradients are cut. [ours]"""


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weight of each position by its label. Equation 5 of [B]."""

    silence: float = PAPER["silence"]
    assistant: float = PAPER["assistant"]
    epad: float = PAPER["epad"]
    other: float = PAPER["other"]


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What has no influence on the weights."""

    log_every: int = 10
    checkpoint_every: int = 100
    keep: int = 2
    """Checkpoints kept beside the final one."""


@dataclass(frozen=True, slots=True)
class SftConfig:
    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    weights: LossWeights = field(default_factory=LossWeights)
    run: RunSettings = field(default_factory=RunSettings)
    seed: int = 0

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, slots=True)
class DpoConfig(SftConfig):
    """Attributes:
    beta: of equation 6 [B].
    sft_weight: of the SFT loss on the chosen row, equation 7 [B].
    """

    beta: float = 0.5
    sft_weight: float = 0.5


TrainConfig = SftConfig | DpoConfig


def check(config: TrainConfig) -> None:
    """Raises ConfigError for values that no run can work with, naming the key and the fix."""
    data, model, optim, run = config.data, config.model, config.optim, config.run
    for key, value, known in (
        ("data.rows", data.rows, ROWS),
        ("model.attention", model.attention, ATTENTIONS),
        ("model.precision", model.precision, PRECISIONS),
    ):
        if value not in known:
            raise ConfigError(f"{key} is {value!r}, expected one of {', '.join(known)}")
    if isinstance(config, DpoConfig) and data.rows != "sft":
        raise ConfigError(f"data.rows is {data.rows!r}: preference pairs exist in the interleaved layout only")
    for key, count in (
        ("data.batch", data.batch),
        ("data.batch_tokens", data.batch_tokens),
        ("data.limit", data.limit),
        ("data.max_tokens", data.max_tokens),
        ("data.shuffle_buffer", data.shuffle_buffer),
        ("optim.steps", optim.steps),
        ("run.log_every", run.log_every),
        ("run.checkpoint_every", run.checkpoint_every),
        ("run.keep", run.keep),
    ):
        if count is not None and count < 1:
            raise ConfigError(f"{key} is {count}, expected at least 1")
    if optim.steps is not None and optim.epochs is not None:
        raise ConfigError("optim.steps and optim.epochs are both set: one decides how long a run is")
    if data.streaming and data.batch_tokens is not None and optim.steps is None:
        raise ConfigError("data.batch_tokens with data.streaming needs optim.steps: lengths are not known beforehand")
    above_zero: list[tuple[str, float | None]] = [
        ("optim.lr", optim.lr), ("optim.epochs", optim.epochs), ("optim.clip", optim.clip)
    ]  # fmt: skip
    if isinstance(config, DpoConfig):
        above_zero.append(("beta", config.beta))
        if not config.sft_weight >= 0:
            raise ConfigError(f"sft_weight is {config.sft_weight}, expected 0 or more")
    for key, number in above_zero:
        if number is not None and not number > 0:
            raise ConfigError(f"{key} is {number}, expected more than 0")
    if optim.warmup is not None and not 0 <= optim.warmup < 1:
        raise ConfigError(f"optim.warmup is {optim.warmup}, expected a share of the steps below 1")
    if not optim.weight_decay >= 0:
        raise ConfigError(f"optim.weight_decay is {optim.weight_decay}, expected 0 or more")
    for key, beta in (("optim.beta1", optim.beta1), ("optim.beta2", optim.beta2)):
        if not 0 <= beta < 1:
            raise ConfigError(f"{key} is {beta}, expected 0 or more and below 1")
    for name, weight in as_dict(config.weights).items():
        if not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
            raise ConfigError(f"weights.{name} is {weight}, expected 0 or more")
    if not any(as_dict(config.weights).values()):
        raise ConfigError("weights: all are 0, nothing would be learned")


def deciding(config: TrainConfig) -> dict[str, Any]:
    """The settings that decide on the weights, as plain values: all but `run`, and where the dataset lies."""
    plain: dict[str, Any] = dict(as_dict(config))
    del plain["run"]
    del plain["data"]["dataset"]  # its fingerprint is compared instead
    return plain
