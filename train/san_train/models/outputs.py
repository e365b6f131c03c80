"""What training needs of one pass of a network, whatever its architecture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Head:
    """One embedding that is trained with an identity loss of its own.

    Attributes:
        metric: `(N, D)`, for the triplet loss; before the neck where there is one.
        identity: `(N, D)`, for the classifier; behind the neck where there is one.
    """

    metric: Tensor
    identity: Tensor


@dataclass(frozen=True)
class Outputs:
    """What the losses need.

    Attributes:
        heads: one or more, in the order of the network's `head_dims`.
        attended: A, the masked features of each attention block, `(N, C, H, W)`, for the TV penalty; may be empty.
        pi: pi_1 of each sharp block, `(N, C, H, W)` in 0..1; empty in evaluation and without sharp blocks.
        maps: what each stage hands on, `(N, C, H, W)`, first to last; empty where the network does not show them.
    """

    heads: tuple[Head, ...]
    attended: list[Tensor]
    pi: list[Tensor]
    maps: Sequence[Tensor] = ()


@dataclass(frozen=True)
class SoftMask:
    """The smooth gate of one attention block over a batch, for people to look at.

    Attributes:
        stage: which block, from 1.
        mask: `(N, C, h, w)`, or `(N, 1, h, w)` where all channels share one; 0..1.
        features: what it is multiplied onto, `(N, C, h, w)`.
    """

    stage: int
    mask: Tensor
    features: Tensor
