"""What every data set reader gives: labelled crops in named splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .summary import Row, count, table

#: Person number of a gallery crop of somebody who is never asked for (Market-1501 calls it 0).
DISTRACTOR = 0
#: The largest person number: sums of two still fit into 64 bits.
LARGEST = 10**18 - 1
#: Person number of a crop that counts neither as right nor as wrong (a bad box). Readers drop these.
JUNK = -1


@dataclass(frozen=True, slots=True)
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


class Labels(NamedTuple):
    """Labels of N crops: person `(N,)` int64, camera `(N,)` and track `(N,)` text."""

    person: np.ndarray
    camera: np.ndarray
    track: np.ndarray

    @property
    def distractor(self) -> np.ndarray:
        """`(N,)` bool: whether the crop is a distractor, a wrong answer to every query."""
        return np.asarray(self.person == DISTRACTOR)


def labels(crops: Sequence[Crop]) -> Labels:
    """The labels of crops as the metrics take them."""
    return Labels(
        np.array([crop.person for crop in crops], np.int64),
        np.array([crop.camera for crop in crops], str),
        np.array([crop.track for crop in crops], str),
    )


@dataclass(frozen=True)
class Dataset:
    """A data set as it was read.

    Attributes:
        name: what it is, protocol and boxes included, as a table of results should call it.
        root: its folder.
        splits: crops by split: `train`, `val`, `test`, `query` with `gallery`, or the data set's own names.
            Person numbers mean the same person in all of them.
        junk: crops that were dropped as junk, by split.
        notes: what a user should know about the reading, one sentence each.
        unsplit: nothing says who is there to train on and who to test on; all crops stand in `train`.
        single_shot: published results draw one gallery crop per person (CUHK03's old protocol).
    """

    name: str
    root: Path
    splits: dict[str, list[Crop]]
    junk: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    unsplit: bool = False
    single_shot: bool = False

    def rows(self) -> list[Row]:
        """What each split holds, as plain data."""
        return [count(name, crops, junk=self.junk.get(name, 0)) for name, crops in self.splits.items()]

    def summary(self) -> str:
        """A table of crops, people, cameras and tracklets by split, to print when it is read."""
        return "\n".join([f"{self.name} in {self.root}", *table(self.rows(), "split"), *self.notes])
