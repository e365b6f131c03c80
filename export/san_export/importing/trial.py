"""Which convention a network expects, tried on labelled crops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from san_deploy import metrics
from san_deploy.datasets import is_dataset, labels, read_dataset
from san_deploy.errors import SanError
from san_deploy.preprocess import read_crop

from .convention import Convention, plausible
from .foreign import Foreign
from .run import open_original

#: Crops at most; whole people are taken.
MOST_CROPS = 600
_BATCH = 32


@dataclass(frozen=True)
class Trial:
    """One convention and how well the network tells people apart under it.

    Attributes:
        convention: that was tried.
        rank1, mean_ap: 0..1, each crop a query against those of other cameras; None where rows were not finite.
    """

    convention: Convention
    rank1: float | None
    mean_ap: float | None

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"convention": self.convention.as_dict(), "rank1": self.rank1, "mAP": self.mean_ap}


def try_conventions(
    foreign: Foreign, folder: Path, *, seed: int = 0, advance: Callable[[int], object] = lambda count: None
) -> list[Trial]:
    """Rank labelled crops with the network under every plausible convention, the best first.

    Args:
        foreign: the network.
        folder: labelled crops of several cameras, as `san eval` reads them.
        seed: that chooses people.
        advance: called with 1 after each convention.

    Raises:
        SanError: no labels, or nobody was seen by two cameras.
    """
    if not is_dataset(folder):
        raise SanError(
            f"{folder} has no labels", do="put identities.csv (camera,track,person) into it, or name a preset"
        )
    crops = [crop for split in read_dataset(folder).splits.values() for crop in split]
    people = np.random.default_rng(seed).permutation(
        np.unique([crop.person for crop in crops if crop.person > 0])
    )
    chosen = []
    for person in people.tolist():
        chosen += [crop for crop in crops if crop.person == person]
        if len(chosen) >= MOST_CROPS:
            break
    found = []
    conventions = plausible()
    images = np.stack([read_crop(crop.path, foreign.size_hw, conventions[0].resize) for crop in chosen])
    person, camera, _ = labels(chosen)
    for convention in conventions:
        original = open_original(foreign, convention)
        rows = np.concatenate([original(images[at : at + _BATCH]) for at in range(0, len(images), _BATCH)])
        norm = np.linalg.norm(rows, axis=1, keepdims=True)
        if np.isfinite(norm).all() and (norm > 0).all():
            ranking = metrics.evaluate_among((rows / norm).astype(np.float32), person=person, camera=camera)
            found.append(Trial(convention, ranking.rank1, ranking.mean_ap))
        else:
            found.append(Trial(convention, None, None))
        advance(1)
    return sorted(
        found,
        key=lambda item: (-1.0 if item.mean_ap is None else item.mean_ap, str(item.convention)),
        reverse=True,
    )
