"""Losses on a batch of P identities x K crops."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pairwise_distance(x: Tensor) -> Tensor:
    """Euclidean distances of all pairs of rows, `(N, D)` to `(N, N)` float32, with a finite gradient at 0."""
    x = x.float()
    square = x.square().sum(1)
    squared = square[:, None] + square[None, :] - 2.0 * (x @ x.T)
    # sqrt has an infinite gradient at 0, where a row meets itself.
    return squared.clamp_min(1e-12).sqrt()


def batch_hard_triplet(embedding: Tensor, person: Tensor, *, margin: float) -> Tensor:
    """Batch-hard triplet loss (Hermans et al., arXiv 1703.07737, eq. 5), mean over anchors.

    Args:
        embedding: `(N, D)`.
        person: `(N,)` int64 identities.
        margin: in units of distance.

    Returns:
        A scalar >= 0. A batch without a positive or without a negative pair gives a zero with a gradient.
    """
    distance = pairwise_distance(embedding)
    same = person[:, None] == person[None, :]
    itself = torch.eye(len(person), dtype=torch.bool, device=person.device)
    hardest_positive = distance.masked_fill(~same | itself, float("-inf")).amax(1)
    hardest_negative = distance.masked_fill(same, float("inf")).amin(1)
    valid = torch.isfinite(hardest_positive) & torch.isfinite(hardest_negative)
    if not valid.any():
        return embedding.float().sum() * 0.0
    return F.relu(hardest_positive[valid] - hardest_negative[valid] + margin).mean()


def identity_loss(logits: Tensor, label: Tensor, *, smoothing: float) -> Tensor:
    """Cross-entropy over identities with label smoothing; `(N, classes)`, `(N,)` int64 -> scalar."""
    return F.cross_entropy(logits.float(), label, label_smoothing=smoothing)
