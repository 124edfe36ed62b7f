"""Cross-entropy where there is something to learn, and preference optimisation.

Source: arXiv 2606.14528, equations 5 (SFT), 6 and 7 (DPO).

Logits of a whole pack would be the largest thing in memory (and in a CPU's caches), so both functions make those of
some hundred positions at a time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_CHUNK_NUMBERS = {"cpu": 1 << 21, "cuda": 1 << 28}
"""Logits at a time: 8 MiB on a CPU, where a chunk should stay in its caches, 1 GiB on a GPU."""


def _chunk(head: Tensor) -> int:
    return max(64, _CHUNK_NUMBERS.get(head.device.type, 1 << 26) // head.shape[0] // 64 * 64)


def _slope(log_p: Tensor, labels: Tensor, dtype: torch.dtype) -> Tensor:
    """softmax − one-hot; overwrites `log_p`."""
    slope = log_p.exp_()
    slope.scatter_add_(1, labels[:, None], slope.new_full((len(labels), 1), -1.0))
    return slope.to(dtype)


class _WeightedCrossEntropy(torch.autograd.Function):
    """Gradients are made in the forward pass, while a chunk's logits are at hand: three products instead of four."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        losses = torch.empty(len(labels), dtype=torch.float32, device=hidden.device)
        matrix = head.to(hidden.dtype)
        needed = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        d_hidden = torch.empty_like(hidden) if needed else None
        d_head = torch.zeros_like(head) if needed else None
        for a in range(0, len(labels), _chunk(head)):
            b = a + _chunk(head)
            log_p = F.log_softmax(hidden[a:b] @ matrix.T, 1, dtype=torch.float32)
            losses[a:b] = -log_p.gather(1, labels[a:b, None])[:, 0]
            if d_hidden is None or d_head is None:
                continue
            # d loss / d logits = weight * (softmax - one-hot); the weights are put on the narrow side
            slope = _slope(log_p, labels[a:b], hidden.dtype)
            by = weights[a:b, None].to(hidden.dtype)
            d_hidden[a:b] = (slope @ matrix).mul_(by)
            d_head += slope.T @ (hidden[a:b] * by)
        ctx.save_for_backward(d_hidden, d_head)
        return (losses * weights).sum(), losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, d_head = ctx.saved_tensors
        by = grads[0]
        return d_hidden * by.to(d_hidden.dtype), d_head * by, None, None


class _TokenLogProbs(torch.autograd.Function):
    """Logits are made again in the backward pass: their gradient depends on the sums over whole sequences."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
        found = torch.empty(len(labels), dtype=torch.float32, device=hidden.device)
        matrix = head.to(hidden.dtype)
        for a in range(0, len(labels), _chunk(head)):
            b = a + _chunk(head)
            log_p = F.log_softmax(hidden[a:b] @ matrix.T, 1, dtype=torch.float32)
            found[a:b] = log_p.gather(1, labels[a:b, None])[:, 0]
        ctx.save_for_backward(hidden, head, labels)
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, head, labels = ctx.saved_tensors
        matrix = head.to(hidden.dtype)
        d_hidden, d_head = torch.empty_like(hidden), torch.zeros_like(head)
        for a in range(0, len(labels), _chunk(head)):
            b = a + _chunk(head)
            log_p = F.log_softmax(hidden[a:b] @ matrix.T, 1, dtype=torch.float32)
            slope = _slope(log_p, labels[a:b], hidden.dtype)
            by = -grads[0][a:b, None].to(hidden.dtype)
            d_hidden[a:b] = (slope @ matrix).mul_(by)
            d_head += slope.T @ (hidden[a:b] * by)
        return d_hidden, d_head, None


def weighted_cross_entropy(hidden: Tensor, head: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of weighted losses, for which gradients flow, and each position's own loss, for which none do.

    Args:
        hidden: (n, width), the positions that predict something.
        head: float32, (vocabulary, width); products are made in the type of `hidden`.
        labels: int64, (n,); weights: float32, (n,).

    Returns: float32, () and (n,). The caller divides by the sum of weights of the whole step.
    """
    total, losses = _WeightedCrossEntropy.apply(hidden, head, labels, weights)
    return total, losses.detach()


def token_log_probs(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    """Log-probability of each label, float32, (n,). Arguments as in `weighted_cross_entropy`."""
    found: Tensor = _TokenLogProbs.apply(hidden, head, labels)
    return found


def log_probs_of_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """The same from logits, for models that do more to them than one product."""
    return -F.cross_entropy(logits.float(), labels, reduction="none")


def sequence_sums(values: Tensor, of: Tensor, n: int) -> Tensor:
    """Sums by sequence, float64: a sum of thousands of logarithms is large beside the differences that matter.

    Args:
        values: (n_positions,); of: int64, which of `n` sequences each belongs to.
    """
    return torch.zeros(n, dtype=torch.float64, device=values.device).index_add_(0, of, values.double())


def preference_losses(
    chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float
) -> tuple[Tensor, Tensor]:
    """Equation 6 for each pair: −log σ(β (log-ratio of the chosen − log-ratio of the rejected)).

    Args:
        chosen, rejected: summed log-probabilities of the sequences, (n_pairs,); the reference's likewise. They are
            sums, as in DPO itself (arXiv 2305.18290): in long sequences they differ by many nats, so the learning
            rate that suits short answers is too large here.

    Returns: the losses, and the reward margins β (… − …), (n_pairs,).
    """
    margin = beta * ((chosen - reference_chosen) - (rejected - reference_rejected))
    return -F.logsigmoid(margin), margin
