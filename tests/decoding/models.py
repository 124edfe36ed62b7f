"""Small language models with random weights."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from duplexdata.text.vocabulary import Vocabulary

SIZE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 8192,
}


def llama(vocabulary: Vocabulary, seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return lively(LlamaForCausalLM(LlamaConfig(**({"vocab_size": len(vocabulary)} | SIZE | changes))))


def mistral(vocabulary: Vocabulary) -> MistralForCausalLM:
    """Attention within a window that is shorter than the conversations."""
    torch.manual_seed(1)
    return lively(MistralForCausalLM(MistralConfig(vocab_size=len(vocabulary), sliding_window=40, **SIZE)))


def gemma2(vocabulary: Vocabulary) -> Gemma2ForCausalLM:
    """Logits that are capped, every other layer with a window."""
    torch.manual_seed(2)
    size = SIZE | {"query_pre_attn_scalar": 8, "sliding_window": 40, "final_logit_softcapping": 2.0}
    return lively(Gemma2ForCausalLM(Gemma2Config(vocab_size=len(vocabulary), attn_implementation="eager", **size)))


def gpt2(vocabulary: Vocabulary) -> GPT2LMHeadModel:
    """Learned positions."""
    torch.manual_seed(3)
    config = GPT2Config(vocab_size=len(vocabulary) + 7, n_embd=32, n_layer=2, n_head=4, n_positions=1000)
    return lively(GPT2LMHeadModel(config))


def lively(model: Any) -> Any:
    """Larger weights: what a model says then depends on what it has read, and near ties are rare."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    return model.eval()
