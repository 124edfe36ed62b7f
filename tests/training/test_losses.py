from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from duplexdata.training import losses
from duplexdata.training.losses import preference_losses, sequence_sums, token_log_probs, weighted_cross_entropy


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that several are needed."""
    monkeypatch.setattr(losses, "_chunk", lambda head: 7)


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    hidden = torch.randn(31, 8, generator=g).requires_grad_()
    head = torch.randn(50, 8, generator=g).requires_grad_()
    return hidden, head, torch.randint(50, (31,), generator=g), torch.rand(31, generator=g)


def test_loss_and_gradients_are_those_of_plain_cross_entropy() -> None:
    hidden, head, labels, weights = inputs()
    plain = F.cross_entropy(hidden @ head.T, labels, reduction="none")
    (plain * weights).sum().mul(0.3).backward()
    wanted = hidden.grad, head.grad
    hidden.grad = head.grad = None
    total, each = weighted_cross_entropy(hidden, head, labels, weights)
    (total * 0.3).backward()
    torch.testing.assert_close(each, plain.detach())
    torch.testing.assert_close((hidden.grad, head.grad), wanted)


def test_log_probabilities_and_gradients_are_the_plain_ones() -> None:
    hidden, head, labels, weights = inputs()
    plain = (hidden @ head.T).log_softmax(1).gather(1, labels[:, None])[:, 0]
    (plain * weights).sum().tanh().backward()
    wanted = hidden.grad, head.grad
    hidden.grad = head.grad = None
    found = token_log_probs(hidden, head, labels)
    (found * weights).sum().tanh().backward()
    torch.testing.assert_close(found, plain)
    torch.testing.assert_close((hidden.grad, head.grad), wanted)


def test_nothing_to_predict_is_no_loss() -> None:
    hidden, head, labels, weights = inputs()
    total, each = weighted_cross_entropy(hidden[:0], head, labels[:0], weights[:0])
    total.backward()
    assert total.item() == 0
    assert each.shape == (0,)
    assert head.grad is not None
    assert not head.grad.any()


def test_sums_are_by_sequence() -> None:
    found = sequence_sums(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 2, 2]), 4)
    assert found.tolist() == [1, 0, 6, 0]


def test_the_preference_loss_is_equation_6() -> None:
    one = torch.tensor([-10.0], dtype=torch.float64)
    loss, margin = preference_losses(one, one - 3, one - 1, one - 2, beta=0.5)
    assert margin.item() == pytest.approx(0.5 * ((0 + 1) - (-3 + 2)))
    assert loss.item() == pytest.approx(-torch.tensor(1.0, dtype=torch.float64).sigmoid().log().item())
    even, _ = preference_losses(one, one, one, one, beta=0.5)
    assert even.item() == pytest.approx(0.6931, abs=1e-4)
