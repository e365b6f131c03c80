"""Learning rate by progress."""

from __future__ import annotations

import math

from .recipe import Recipe


def learning_rate(recipe: Recipe, epoch: float) -> float:
    """Learning rate at a fractional epoch, 0 <= epoch <= recipe.epochs.

    `hermans` (arXiv 1703.07737, eq. 7): lr up to t0, then lr * 0.001 ** ((t - t0) / (t1 - t0)).
    """
    if epoch < recipe.warmup:
        return recipe.lr * (0.01 + 0.99 * epoch / recipe.warmup)
    if recipe.schedule == "cosine":
        span = max(recipe.epochs - recipe.warmup, 1e-9)
        rate = recipe.lr * (
            0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * min(1.0, (epoch - recipe.warmup) / span)))
        )
    else:
        start = recipe.decay_from * recipe.epochs
        part = max(0.0, epoch - start) / max(recipe.epochs - start, 1e-9)
        rate = recipe.lr * 0.001 ** min(1.0, part)
    if epoch >= recipe.epochs - recipe.sharpen_epochs:
        rate *= recipe.sharpen_lr
    return rate
