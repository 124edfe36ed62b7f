"""Small causal LMs of several kinds, with random weights."""

from __future__ import annotations

from typing import Any

import torch

_COMMON = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


def small_model(kind: str = "llama", vocab_size: int = 64, **over: Any) -> Any:
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    own = {
        "llama": {},
        "mistral": {"sliding_window": 16},
        "qwen2": {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
        "gemma2": {"head_dim": 8, "sliding_window": 16, "query_pre_attn_scalar": 8},
        "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 8192},
        "granite": {"logits_scaling": 3.0, "embedding_multiplier": 2.0},
    }[kind]
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](vocab_size=vocab_size, **{**_COMMON, **own, **over})
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # far from uniform, so that differences show
        for p in model.parameters():
            if p.ndim > 1:
                p.mul_(4)
    return model
