"""What every data set reader gives: labelled crops in named splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

#: Person number of a gallery crop of somebody who is never asked for (Market-1501 calls it 0).
DISTRACTOR = 0
#: Person number of a crop that counts neither as right nor as wrong (a bad box). Readers drop these.
JUNK = -1


@dataclass(frozen=True)
class Crop:
    """One labelled crop.

    Attributes:
        path: the image file.
        person: identity, >= 1; `DISTRACTOR` for a person who is never a query.
        camera: name of the camera that saw it.
        track: name of its tracklet, unique within the camera; the file name where there are no tracklets.
    """

    path: Path
    person: int
    camera: str
    track: str


def labels(crops: Sequence[Crop]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The labels of crops as the metrics take them: person `(N,)` int, camera `(N,)` and track `(N,)` text."""
    person = np.array([crop.person for crop in crops])
    camera = np.array([crop.camera for crop in crops])
    return person, camera, np.array([crop.track for crop in crops])


@dataclass(frozen=True)
class Dataset:
    """A data set: its name, its folder and its splits (`train`, `test`, or `query` and `gallery`)."""

    name: str
    root: Path
    splits: dict[str, list[Crop]]

    def summary(self) -> str:
        """A table of crops, people, cameras and tracklets by split, to print when it is read."""
        lines = [
            f"{self.name} in {self.root}",
            f"{'split':10s} {'crops':>7s} {'people':>7s} {'cameras':>7s} {'tracklets':>9s}",
        ]
        for split, crops in self.splits.items():
            people = {crop.person for crop in crops if crop.person != DISTRACTOR}
            cameras = Counter(crop.camera for crop in crops)
            tracks = {(crop.camera, crop.track) for crop in crops}
            lines.append(f"{split:10s} {len(crops):7d} {len(people):7d} {len(cameras):7d} {len(tracks):9d}")
        return "\n".join(lines)
