"""Models: built from a configuration, or loaded; fitted to a dataset's vocabulary."""

from __future__ import annotations

import json
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from duplexdata.errors import TokenizerError, TrainingError
from duplexdata.rng import stable_hash
from duplexdata.training.config import BUILT_IN_MODELS, ModelSettings
from duplexdata.training.data import DatasetFacts, tokenizer_fingerprint

METADATA = "duplexdata.json"
FINAL = "final"

_SHAPES: dict[str, dict[str, Any]] = {
    # A CPU's time goes into attention over thousands of tokens: each layer looks back 256 of them, ten blocks, three
    # layers 25 s. Few wide heads are faster than many narrow ones.
    "tiny": {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "sliding_window": 256,
    },
    "small": {
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
        "sliding_window": None,
    },
}
_POSITIONS = 32_768
_NOISE = 0.1
_SAMPLE = 4096


@dataclass(frozen=True, slots=True)
class Loaded:
    """Attributes:
    model: weights in fp32, on the CPU, its embeddings large enough for the dataset's tokenizer.
    random: whether training began, or begins, with random weights.
    metadata: of one of our checkpoints; None for another model.
    source: the folder or hub id that it came from; None: it was built.
    """

    model: Any
    random: bool
    metadata: dict[str, Any] | None
    source: str | None


def load_model(settings: ModelSettings, facts: DatasetFacts, seed: int) -> Loaded:
    """
    Args:
        seed: of random weights and new rows.

    Raises:
        TrainingError: there is no such model, or it is no causal LM.
        TokenizerError: its vocabulary is another one than the dataset's.
    """
    _be_quiet()
    torch.manual_seed(stable_hash(seed, settings.name, "weights", bits=63))
    if settings.name in BUILT_IN_MODELS:
        return Loaded(_build(settings.name, facts), random=True, metadata=None, source=None)
    source = resolve(settings.name)
    metadata = read_metadata(source)
    if metadata is not None:
        check_metadata(metadata, facts, source)
    model = _pretrained(source, settings.trust_remote_code)
    size = int(facts.vocabulary["vocabulary_size"])
    if metadata is None:
        n_rows = int(model.get_input_embeddings().weight.shape[0])
        extend(model, _known_tokens(source, facts, n_rows, settings.trust_remote_code), size, seed)
    random = bool(metadata and metadata["random_weights"])
    return Loaded(model, random=random, metadata=metadata, source=source)


def resolve(name: str) -> str:
    """The folder of weights that a name means: a run's folder stands for its final weights."""
    folder = Path(name)
    if (folder / FINAL / "config.json").is_file():
        return str(folder / FINAL)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise TrainingError(f"{name} holds no model (no config.json), and no finished run (no {FINAL}/)")
    return name


def read_metadata(source: str) -> dict[str, Any] | None:
    """What we wrote beside a checkpoint's weights; None where somebody else made it."""
    file = Path(source) / METADATA
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or found.get("format") != 1:
            raise ValueError("of another format")
    except ValueError as error:
        raise TrainingError(f"{file} cannot be read ({error})") from error
    return found


def check_metadata(metadata: dict[str, Any], facts: DatasetFacts, source: str) -> None:
    """Raises TrainingError where a checkpoint was trained on data that this dataset's rows do not go on with."""
    for what, theirs, ours in (
        ("tokenizer", metadata["tokenizer"], facts.tokenizer_fingerprint),
        ("speech tokenizer", metadata["codec"], facts.codec),
        ("blocks N:M", metadata["blocks"], [facts.n_speech, facts.n_text]),
    ):
        if theirs != ours:
            raise TrainingError(
                f"{source} was trained on another dataset: its {what} is {_short(theirs)}, that of {facts.name} is "
                f"{_short(ours)}. Take the dataset it was trained on, or emit this one to match"
            )


def _short(value: object) -> str:
    return ":".join(map(str, value)) if isinstance(value, list) else str(value)


def _build(name: str, facts: DatasetFacts) -> Any:
    from transformers import MistralConfig, MistralForCausalLM

    eos = int(facts.vocabulary["state_tokens"]["eos"])
    return MistralForCausalLM(
        MistralConfig(
            vocab_size=int(facts.vocabulary["vocabulary_size"]),
            max_position_embeddings=_POSITIONS,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=eos,
            **_SHAPES[name],
        )
    )


def _pretrained(source: str, trust_remote_code: bool) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.float32, trust_remote_code=trust_remote_code, use_safetensors=True
        )
    except Exception as error:  # anything from a missing file to a class that is no causal LM
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TrainingError(
            f"no causal LM can be loaded from {source!r}: name tiny, small, a folder with config.json and safetensors, "
            f"or a hub id that is cached or reachable ({why})"
        ) from error


def _be_quiet() -> None:
    """Bars of loading and saving would run through our own."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


def _known_tokens(source: str, facts: DatasetFacts, n_rows: int, trust_remote_code: bool) -> int:
    """How many tokens a model has been trained with: ids from there on are the dataset's own.

    Args:
        n_rows: of the model's embeddings.

    Raises: TokenizerError: below that the dataset's tokens are not the model's.
    """
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    if Path(source).is_dir() and not any((Path(source) / name).is_file() for name in _TOKENIZER_FILES):
        return n_rows  # a model without a tokenizer of its own: nothing to compare with
    try:
        theirs = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code).get_vocab()
    except Exception as error:  # anything from a missing file to a broken one
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TokenizerError(
            f"the tokenizer of {source} cannot be read, to compare it with the dataset's ({why})"
        ) from error
    ours = Tokenizer.from_file(str(facts.tokenizer / "tokenizer.json")).get_vocab(with_added_tokens=True)
    for token, id_ in sorted(theirs.items(), key=itemgetter(1)):
        if ours.get(token) != id_:
            found = f"{ours[token]}" if token in ours else "unknown"
            raise TokenizerError(
                f"the tokenizer of {facts.name} is not that of {source}: token {token!r} is {id_} in the model and "
                f"{found} in the dataset. Emit the dataset for this model: "
                f"`duplexdata emit {facts.name} --out DIR --tokenizer {source}`"
            )
    return max(theirs.values()) + 1


def extend(model: Any, known: int, size: int, seed: int) -> None:
    """Give the ids from `known` to `size` fresh rows, in the embeddings and in an output matrix of its own.

    A fresh row is the mean of the known ones, which leaves the probabilities of known tokens almost as they were,
    plus noise of a tenth of their spread and of their own covariance, so that new tokens differ from the start.
    Rows that a model keeps in reserve beyond its own tokenizer have never been trained and are made anew as well.

    Args:
        known: rows with something learned in them.
        size: of the dataset's vocabulary; embeddings grow to it and never shrink.
    """
    if size > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(size, mean_resizing=False)
    if size <= known:
        return
    generator = torch.Generator().manual_seed(stable_hash(seed, "new rows", bits=63))
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    layers = [inputs] if outputs is None or outputs.weight is inputs.weight else [inputs, outputs]
    with torch.no_grad():
        for layer in layers:
            layer.weight[known:size] = _fresh_rows(layer.weight[:known], size - known, generator)
            if getattr(layer, "bias", None) is not None:
                layer.bias[known:size] = layer.bias[:known].mean()


def _fresh_rows(known: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """A random mixture of centred rows has their covariance, without a decomposition of it."""
    mean = known.mean(0)
    if len(known) < 2:
        return mean.expand(n, -1)
    chosen = torch.randperm(len(known), generator=generator)[:_SAMPLE]
    centred = known[chosen] - mean
    mixture = torch.randn(n, len(chosen), generator=generator) / (len(chosen) - 1) ** 0.5
    return mean + _NOISE * (mixture @ centred)


def positions_of(model: Any) -> int | None:
    """The longest sequence that a model takes; None: as long as you like."""
    found = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(found) if found else None


def n_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


__all__ = [
    "FINAL",
    "METADATA",
    "Loaded",
    "check_metadata",
    "extend",
    "load_model",
    "n_parameters",
    "positions_of",
    "read_metadata",
    "resolve",
    "tokenizer_fingerprint",
]
