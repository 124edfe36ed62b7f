"""One token per row from its logits."""

from __future__ import annotations

import torch

from duplexdata.decoding.values import Sampling


def choose(logits: torch.Tensor, sampling: Sampling, uniform: torch.Tensor | None) -> torch.Tensor:
    """Indices of the tokens taken, shape (n_rows,).

    Args:
        logits: (n_rows, n_tokens); -inf for what must not be taken.
        uniform: one number of [0, 1) per row, (n_rows,); not needed where the sampling is greedy. A row's token
            depends on its own logits and number only.
    """
    if sampling.greedy:
        return logits.argmax(-1)
    assert uniform is not None
    sharpened = (logits.float() / sampling.temperature).softmax(-1)
    probability, order = sharpened.sort(dim=-1, descending=True, stable=True)
    reached = probability.cumsum(-1)
    if sampling.top_p < 1:
        # The token with which the share is reached still belongs to it.
        probability = probability.masked_fill(reached - probability >= sampling.top_p, 0)
        reached = probability.cumsum(-1)
    wanted = (uniform[:, None].to(reached) * reached[:, -1:]).clamp_max(reached[:, -1:] * (1 - 1e-6))
    at = torch.searchsorted(reached, wanted, right=True)
    return order.gather(-1, at).squeeze(-1)
