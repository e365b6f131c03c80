"""What every data set reader gives: labelled crops in named splits, and what they hold in numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np

from ..metrics.labels import DISTRACTOR, JUNK

#: The largest person number: sums of two still fit into 64 bits.
LARGEST = 10**18 - 1


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


#: A whole number as data sets write people: `0002`, `-1`, and MARS' `00-1`.
_NUMBER = re.compile(r"[+]?0*(-?[0-9]+)")
#: Whom data sets number so, they do not count: Market-1501's and MARS' bad boxes, PRW's people whom nobody could name.
_JUNK = frozenset({-1, -2})


def is_number(text: str) -> bool:
    """Whether a person is a number, and no name."""
    return _NUMBER.fullmatch(text) is not None


def person_number(text: str) -> int:
    """A person as public data sets write one: a number, `DISTRACTOR` for 0, `JUNK` for -1, MARS' `00-1` or PRW's -2.

    Raises:
        ValueError: it is none of these; its text says what is.
    """
    number = _NUMBER.fullmatch(text)
    person = int(number[1][:40]) if number else LARGEST + 1
    if person in _JUNK:
        return JUNK
    if not 0 <= person <= LARGEST:
        raise ValueError(f"persons are whole numbers from 1 to {LARGEST}; 0 is a distractor, -1 is junk")
    return person


def passes_each_once(cameras: Sequence[str]) -> bool:
    """Whether tracklets before these cameras may be one person's: several cameras, each once.

    Distractors are many tracklets of many people.
    """
    return len(set(cameras)) > 1 and len(set(cameras)) == len(cameras)


def number_from_one(zero: bool, *, is_person: bool) -> tuple[int, tuple[str, ...]]:
    """Whether person 0 is a person, told for all readers in one place.

    Market-1501 gives the number 0 to distractors; MSMT17 and many people's own files number people from 0.

    Args:
        zero: whether the number 0 occurs.
        is_person: whether it is one person, by what the reader knows: it is asked for, or seen as a person is seen.

    Returns:
        What to add to every person number, and sentences for a user to read.
    """
    if not zero:
        return 0, ()
    if is_person:
        return 1, ("Person 0 is taken for a person, as where people are numbered from 0, and no distractor.",)
    return 0, (
        "Person 0 counts as a distractor: a wrong answer to everybody, and never asked for. Where people are "
        "numbered from 0, number them from 1.",
    )


class CropLabels(NamedTuple):
    """CropLabels of N crops: person `(N,)` int64, camera `(N,)` and track `(N,)` text."""

    person: np.ndarray
    camera: np.ndarray
    track: np.ndarray

    @property
    def distractor(self) -> np.ndarray:
        """`(N,)` bool: whether the crop is a distractor, a wrong answer to every query."""
        return np.asarray(self.person == DISTRACTOR)


def labels(crops: Sequence[Crop]) -> CropLabels:
    """The labels of crops as the metrics take them."""
    return CropLabels(
        np.array([crop.person for crop in crops], np.int64),
        np.array([crop.camera for crop in crops], str),
        np.array([crop.track for crop in crops], str),
    )


class SubsetCounts(TypedDict):
    """One subset: crops (distractors included, junk not), people (distractors not), and so on."""

    subset: str
    crops: int
    people: int
    cameras: int
    tracklets: int
    distractors: int
    junk: int


_COLUMNS = ("crops", "people", "cameras", "tracklets", "distractors", "junk")


def count(subset: str, crops: Sequence[Crop], *, junk: int = 0) -> SubsetCounts:
    """Count a subset; `junk` crops were dropped from it."""
    return SubsetCounts(
        subset=subset,
        crops=len(crops),
        people=len({crop.person for crop in crops if crop.person != DISTRACTOR}),
        cameras=len({crop.camera for crop in crops}),
        tracklets=len({(crop.camera, crop.track) for crop in crops}),
        distractors=sum(crop.person == DISTRACTOR for crop in crops),
        junk=junk,
    )


def table(rows: Sequence[SubsetCounts], title: str) -> list[str]:
    """The rows as aligned lines under a header; `title` heads the column of names."""
    width = max(10, *(len(row["subset"]) for row in rows)) if rows else 10
    lines = [f"{title:{width}s}" + "".join(f" {column:>{max(7, len(column))}s}" for column in _COLUMNS)]
    for row in rows:
        values = (f" {row[column]:{max(7, len(column))}d}" for column in _COLUMNS)  # type: ignore[literal-required]
        lines.append(f"{row['subset']:{width}s}" + "".join(values))
    return lines


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

    def rows(self) -> list[SubsetCounts]:
        """What each split holds, as plain data."""
        return [count(name, crops, junk=self.junk.get(name, 0)) for name, crops in self.splits.items()]

    def summary(self) -> str:
        """A table of crops, people, cameras and tracklets by split, to print when it is read."""
        return "\n".join([f"{self.name} in {self.root}", *table(self.rows(), "split"), *self.notes])
