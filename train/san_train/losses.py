"""Losses on a batch of P identities x K crops: each on its own, then each as the term of a recipe."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention import mask_margin_loss, tv_penalty
from .models import Head
from .recipe import Recipe


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


def triplet_term(heads: Sequence[Head], label: Tensor, recipe: Recipe) -> Tensor:
    """Batch-hard triplet loss, mean over heads, weighted; `label` is `(N,)` int64."""
    rows = [F.normalize(head.metric.float(), dim=1) if recipe.triplet_unit else head.metric for head in heads]
    losses = [batch_hard_triplet(x, label, margin=recipe.margin) for x in rows]
    return recipe.triplet_weight * torch.stack(losses).mean()


def identity_term(logits: Sequence[Tensor], label: Tensor, recipe: Recipe) -> Tensor:
    """Identity loss, mean over heads, weighted; `logits` has one `(N, classes)` for each head."""
    losses = [identity_loss(x, label, smoothing=recipe.smoothing) for x in logits]
    return recipe.identity_weight * torch.stack(losses).mean()


def tv_term(attended: Sequence[Tensor], recipe: Recipe) -> Tensor:
    """TV penalty of eq. 8, mean over crops, summed over blocks, weighted; `attended` is `Outputs.attended`."""
    penalties = [
        tv_penalty(a) if recipe.tv_reduction == "sum" else tv_penalty(a) / a[0].numel() for a in attended
    ]
    return recipe.tv_weight * torch.stack([penalty.mean() for penalty in penalties]).sum()


def mask_margin_term(pi: Sequence[Tensor], recipe: Recipe) -> Tensor:
    """Mask-margin loss, mean over blocks, weighted; `pi` is `Outputs.pi`."""
    return (
        recipe.mask_margin_weight
        * torch.stack([mask_margin_loss(p, recipe.mask_margin_width) for p in pi]).mean()
    )
