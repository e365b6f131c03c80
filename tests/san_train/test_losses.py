"""Losses against slow loops."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from san_train.losses import batch_hard_triplet, identity_loss, pairwise_distance  # noqa: E402


def literal_batch_hard(x: np.ndarray, person: np.ndarray, margin: float) -> float:
    """Hermans et al., eq. 5, as it is written."""
    terms = []
    for a in range(len(x)):
        distance = np.sqrt(((x - x[a]) ** 2).sum(1))
        positive = [distance[p] for p in range(len(x)) if p != a and person[p] == person[a]]
        negative = [distance[n] for n in range(len(x)) if person[n] != person[a]]
        if positive and negative:
            terms.append(max(0.0, margin + max(positive) - min(negative)))
    return float(np.mean(terms)) if terms else 0.0


@pytest.mark.parametrize("margin", [0.0, 0.3, 5.0])
def test_batch_hard_equals_the_literal_form(margin: float) -> None:
    rng = np.random.default_rng(0)
    x, person = rng.normal(size=(12, 5)), np.repeat(np.arange(4), 3)
    ours = batch_hard_triplet(torch.tensor(x), torch.tensor(person), margin=margin).item()
    assert ours == pytest.approx(literal_batch_hard(x, person, margin), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("person", [[0, 0, 0], [0, 1, 2]])
def test_a_batch_without_triplets_gives_a_zero_with_a_gradient(person: list[int]) -> None:
    x = torch.randn(3, 4, requires_grad=True)
    loss = batch_hard_triplet(x, torch.tensor(person), margin=0.3)
    loss.backward()
    assert loss.item() == 0 and x.grad is not None and x.grad.abs().sum() == 0


def test_equal_rows_have_a_finite_gradient() -> None:
    x = torch.ones(4, 3, requires_grad=True)
    batch_hard_triplet(x, torch.tensor([0, 0, 1, 1]), margin=0.3).backward()
    assert torch.isfinite(x.grad).all()


def test_distances() -> None:
    x = torch.randn(5, 7)
    torch.testing.assert_close(pairwise_distance(x), torch.cdist(x, x), atol=2e-3, rtol=1e-3)


def test_identity_loss_smooths() -> None:
    logits, label, eps = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0]), 0.1
    log_p = np.log(np.exp(logits.numpy()[0]) / np.exp(logits.numpy()[0]).sum())
    target = np.full(3, eps / 3) + np.array([1 - eps, 0, 0])
    assert identity_loss(logits, label, smoothing=eps).item() == pytest.approx(
        -(target * log_p).sum(), rel=1e-5
    )
