"""What a user chooses beside the data set and the model."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ..metrics import rerank
from .test_time_augmentation import TTA


@dataclass(frozen=True)
class Rerank:
    """Values of `rerank.Reranked`; the paper's."""

    k1: int = rerank.K1
    k2: int = rerank.K2
    weight: float = rerank.LAMBDA


@dataclass(frozen=True)
class Expansion:
    """Values of `query_expansion.expand_queries`."""

    count: int = 10
    alpha: float = 3.0


@dataclass(frozen=True)
class EvalConfig:
    """How a data set is evaluated.

    Attributes:
        views: test-time augmentation.
        tracklets: give figures of pooled tracklets as well.
        expansion: query expansion; None for none.
        rerank: k-reciprocal re-ranking, after it; None for none.
        single_shot: give CUHK03's single-gallery-shot figures as well, whichever the data set.
        draws: number of drawn galleries; 0 gives the exact expectation alone.
        seed: seed of the draws.
        center: take each camera's mean off its crops' embeddings first, as `san match --center` does of tracklets.
    """

    views: TTA = field(default_factory=TTA)
    tracklets: bool = False
    expansion: Expansion | None = None
    rerank: Rerank | None = None
    single_shot: bool = False
    draws: int = 20
    seed: int = 0
    center: bool = False

    @property
    def plain(self) -> bool:
        """Whether similarities are cosines, untouched by the rest of the gallery."""
        return self.expansion is None and self.rerank is None

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {"views": {"name": self.views.name, "count": self.views.count}}
