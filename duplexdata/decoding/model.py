"""A causal language model of `transformers`, asked for nothing but what a decoder needs of it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from duplexdata.decoding.cache import KeyValueCache
from duplexdata.errors import CheckpointError, TokenizerError
from duplexdata.text.vocabulary import Vocabulary

_RESCALED = ("final_logit_softcapping", "logit_scale", "logits_scaling", "logits_scale")
"""Settings of models that do more to a hidden state than to multiply it with the output embeddings."""
_DTYPES = {"auto": "auto", "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class LanguageModel:
    """Hidden states of new tokens behind a cache, and logits of one channel's tokens.

    A model whose logits are its last hidden states times its output embeddings computes only the rows that the slot
    admits: a speech slot of a vocabulary of 150,000 tokens needs a few thousand of them.

    Attributes:
        text, speech: ranges of ids that the text slots and the speech slots lie in.
        bytes_per_token: of keys and values, for one conversation.
        max_tokens: positions that the model knows; None where nothing limits them.
    """

    def __init__(self, model: Any, vocabulary: Vocabulary) -> None:
        rows = model.get_input_embeddings().num_embeddings
        if rows < len(vocabulary):
            raise CheckpointError(
                f"the model has embeddings for {rows} tokens, the dataset's vocabulary has {len(vocabulary)}: "
                "it was trained on another dataset, or not yet extended by this one's tokenizer/"
            )
        self.model = model.eval()
        self.device = next(model.parameters()).device
        state, duo = vocabulary.state, vocabulary.duo
        first, behind = state.speech_offset, state.speech_offset + vocabulary.codebook_size
        self.speech = range(first, behind)
        other = {duo.query, duo.non_query, duo.eos} - {state.silence, state.assistant, state.pad, state.epad}
        allowed = torch.ones(len(vocabulary), dtype=torch.bool)
        allowed[first:behind] = False
        allowed[sorted(other)] = False
        at = allowed.nonzero()
        self.text = range(int(at[0]), int(at[-1]) + 1)
        self._forbidden = ~allowed[self.text.start : self.text.stop].to(self.device)
        self.max_tokens: int | None = getattr(model.config, "max_position_embeddings", None)
        self._plain = False
        self.bytes_per_token = self._try()

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        vocabulary: Vocabulary,
        *,
        device: str = "auto",
        precision: str = "auto",
        trust_remote_code: bool = False,
    ) -> LanguageModel:
        """
        Args:
            checkpoint: a folder or hub id that `AutoModelForCausalLM` loads.
            precision: auto (as it was saved), fp32, bf16 or fp16.

        Raises: CheckpointError: it cannot be loaded, or belongs to another vocabulary.
        """
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging as library_logging

        folder = Path(checkpoint).expanduser()
        if folder.exists() and not (folder / "config.json").is_file():
            raise CheckpointError(f"{folder} has no config.json: it is no checkpoint of a language model")
        if (folder / "tokenizer.json").is_file():
            check_tokenizer(folder, vocabulary)
        library_logging.set_verbosity_error()
        library_logging.disable_progress_bar()
        try:
            model = AutoModelForCausalLM.from_pretrained(
                str(folder) if folder.exists() else str(checkpoint),
                dtype=_DTYPES[precision],
                trust_remote_code=trust_remote_code,
                use_safetensors=True,
            )
        except Exception as error:  # whatever the library meets in a damaged or missing checkpoint
            raise CheckpointError(
                f"no language model can be loaded from {str(checkpoint)!r}: "
                f"{(str(error).strip() or type(error).__name__).splitlines()[0]}"
            ) from error
        return cls(model.to(_device(device)), vocabulary)

    @torch.inference_mode()
    def hidden(
        self, ids: torch.Tensor, positions: torch.Tensor, cache: KeyValueCache, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Behind the last of the new tokens: hidden states (n_rows, width), or logits of the whole vocabulary where
        those cannot be had from hidden states alone. `logits` takes either.

        Args:
            ids, positions: (n_rows, n_new).
            mask: (n_rows, tokens in the cache + n_new), False on padding; None where there is none.
        """
        arguments = {
            "input_ids": ids,
            "position_ids": positions,
            "attention_mask": mask,
            "past_key_values": cache,
            "use_cache": True,
        }
        if self._plain:
            return self.model.base_model(**arguments).last_hidden_state[:, -1]
        return self.model(**arguments, logits_to_keep=1).logits[:, -1]

    @torch.inference_mode()
    def text_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(n_rows, len(text)): -inf on what is neither text nor a state token."""
        return self._logits(hidden, self.text).masked_fill(self._forbidden, -torch.inf)

    @torch.inference_mode()
    def speech_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(n_rows, len(speech))."""
        return self._logits(hidden, self.speech)

    def _logits(self, hidden: torch.Tensor, ids: range) -> torch.Tensor:
        if not self._plain:
            return hidden[:, ids.start : ids.stop].float()
        head = self.model.get_output_embeddings()
        bias = None if head.bias is None else head.bias[ids.start : ids.stop]
        return functional.linear(hidden, head.weight[ids.start : ids.stop], bias).float()

    def _try(self) -> int:
        """Two tokens: whether the model keeps keys and values and nothing else, and how its logits come about."""
        ids = torch.tensor([[self.text.start, self.speech.start]], device=self.device)
        cache = KeyValueCache(1, 2)
        try:
            with torch.inference_mode():
                out = self.model(input_ids=ids, past_key_values=cache, use_cache=True)
        except (AttributeError, ValueError, TypeError, IndexError, NotImplementedError) as error:
            raise CheckpointError(
                f"{type(self.model).__name__} cannot decode token by token with keys and values alone: {error}"
            ) from error
        if cache.length != 2 or any(layer.length != 2 for layer in cache.layers):
            raise CheckpointError(
                f"{type(self.model).__name__} keeps another state than keys and values; that is not supported"
            )
        head = self.model.get_output_embeddings()
        if isinstance(head, torch.nn.Linear) and not any(getattr(self.model.config, x, None) for x in _RESCALED):
            with torch.inference_mode():
                hidden = self.model.base_model(input_ids=ids, past_key_values=KeyValueCache(1, 2), use_cache=True)
                found = head(hidden.last_hidden_state)
            self._plain = found.shape == out.logits.shape and torch.allclose(found, out.logits, atol=1e-5, rtol=1e-4)
        if not self._plain:
            logging.getLogger(__name__).info("%s: logits of the whole vocabulary", type(self.model).__name__)
        return cache.bytes_per_token


def check_tokenizer(folder: Path, vocabulary: Vocabulary) -> None:
    """Raises CheckpointError: the tokenizer saved with a checkpoint is not the dataset's."""
    try:
        own = Vocabulary.read(folder).facts()
    except TokenizerError as error:
        raise CheckpointError(
            f"{folder}: its tokenizer is none of a dataset ({error}); extend it by the dataset's tokenizer/ and train"
        ) from error
    wanted = vocabulary.facts()
    if different := [k for k in wanted if own[k] != wanted[k]]:
        parts = ", ".join(f"{k} {own[k]}, expected {wanted[k]}" for k in different)
        raise CheckpointError(f"{folder}: its vocabulary is not the dataset's ({parts}): it is of another dataset")


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise CheckpointError(f"the device is {name!r}, expected auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise CheckpointError(f"the device is {name!r}, but there is no CUDA device here")
    return device
