"""Which crops are asked for and which they are compared with, and why that may give no figure at all."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import SanError
from .records import DISTRACTOR, Crop, Dataset, SubsetCounts, count, table

#: Names that stand for no single split.
ALL = "all"
QUERY_GALLERY = "query/gallery"


@dataclass(frozen=True)
class EvaluationSet:
    """Queries and the gallery that each is compared with.

    Attributes:
        name: name of the data set, with what was chosen of it.
        root: its folder.
        split: `query/gallery`, a split by name, or `all`.
        query: crops that are asked for; no distractor among them.
        gallery: what they are compared with, distractors included, junk not.
        query_rows: `(Q,)` int64, where each query stands in the gallery, so that it is embedded once; None
            where queries are crops of their own.
        junk: crops that were dropped from the gallery as junk.
        single_shot: published results draw one gallery crop per person (CUHK03's old protocol).
        notes: remarks of the data set's reader.
    """

    name: str
    root: Path
    split: str
    query: list[Crop]
    gallery: list[Crop]
    query_rows: np.ndarray | None = None
    junk: int = 0
    single_shot: bool = False
    notes: tuple[str, ...] = field(default=())

    def rows(self) -> list[SubsetCounts]:
        """What query and gallery hold, as plain data."""
        return [count("query", self.query), count("gallery", self.gallery, junk=self.junk)]

    def summary(self) -> str:
        """The same as a table, to print when the data set is read."""
        what = "every crop against all others" if self.query_rows is not None else "query against gallery"
        head = f"{self.name} in {self.root} ({self.split}: {what})"
        return "\n".join([head, *table(self.rows(), "subset")])


def evaluation_set(dataset: Dataset, split: str | None = None) -> EvaluationSet:
    """Choose what is evaluated.

    Args:
        dataset: as read.
        split: None takes `query` against `gallery` where the data set has them, else its `test` people, else
            everybody where nothing names a split. `all` takes everybody, a name that split. Within a split
            every crop is a query against all the others (Market-1501's rule drops its own person and camera).

    Raises:
        SanError: there is no such split, or none that is there to test on.
    """
    splits = dataset.splits
    both = "query" in splits and "gallery" in splits
    if both and split in (None, "test", QUERY_GALLERY):
        return EvaluationSet(
            dataset.name,
            dataset.root,
            QUERY_GALLERY,
            [crop for crop in splits["query"] if crop.person != DISTRACTOR],
            list(splits["gallery"]),
            junk=dataset.junk.get("gallery", 0),
            single_shot=dataset.single_shot,
            notes=dataset.notes,
        )
    if split is None:
        split = "test" if "test" in splits else ALL if dataset.unsplit else None
    if split is None or (split != ALL and split not in splits):
        asked = f"no split {split}" if split else "no split to test on"
        raise SanError(
            f"{dataset.root} has {asked}",
            why=f"it has {', '.join(splits)}",
            do=f"choose one with --split, or --split {ALL}",
        )
    names = list(splits) if split == ALL else [split]
    # A crop may stand in two splits: a query that is in the gallery as well.
    crops = list({crop.path: crop for name in names for crop in splits[name]}.values())
    rows = np.array([row for row, crop in enumerate(crops) if crop.person != DISTRACTOR], np.int64)
    return EvaluationSet(
        dataset.name,
        dataset.root,
        split,
        [crops[row] for row in rows.tolist()],
        crops,
        rows,
        junk=sum(dataset.junk.get(name, 0) for name in names),
        single_shot=dataset.single_shot,
        notes=dataset.notes,
    )


def count_positives(chosen: EvaluationSet) -> np.ndarray:
    """How many right answers each query has: gallery crops of the same person by another camera.

    Returns:
        `(Q,)` int64.
    """
    of_person = Counter(crop.person for crop in chosen.gallery)
    of_camera = Counter((crop.person, crop.camera) for crop in chosen.gallery)
    return np.array(
        [of_person[crop.person] - of_camera[crop.person, crop.camera] for crop in chosen.query], np.int64
    )


def diagnose(chosen: EvaluationSet) -> SanError | None:
    """Why no figure can come of this, to be raised; None where one can.

    No query, one person in all, nobody of the queries in the gallery, one camera, nobody seen by two cameras.
    """
    asked = {crop.person for crop in chosen.query}
    answers = {crop.person for crop in chosen.gallery}
    cameras = {crop.camera for crop in (*chosen.query, *chosen.gallery)}
    where = f"{chosen.root} ({chosen.split})"
    if not asked:
        return SanError(
            f"{where} has no query",
            why=f"all of its {len(chosen.gallery)} crops are distractors (person 0)",
            do="number people from 1",
        )
    if len(asked | answers) == 1:
        return SanError(
            f"{where} has crops of one person alone ({min(asked)})",
            why="with nobody to confuse them with, every answer is right",
            do="add crops of other people",
        )
    if not asked & answers:
        return SanError(
            f"nobody of the {len(asked)} people asked for in {where} is in the gallery",
            why=f"queries are of {_some(asked)}, the gallery is of {_some(answers - {DISTRACTOR})}",
            do="check that the same number means the same person in both",
        )
    if len(cameras) == 1:
        return SanError(
            f"all crops of {where} are of one camera ({min(cameras)})",
            why="crops of one person by one camera do not count as right answers",
            do="--no-camera compares all crops with each other",
        )
    if not count_positives(chosen).any():
        return SanError(
            f"no query of {where} has a right answer",
            why=_exclusions(chosen),
            do="--no-camera compares all crops with each other",
        )
    return None


def notes(chosen: EvaluationSet) -> list[str]:
    """What to say beside the figures, a sentence each: the reader's notes, queries without a right answer."""
    lines = list(chosen.notes)
    lost = int((count_positives(chosen) == 0).sum())
    if lost:
        lines.append(
            f"{lost} of {len(chosen.query)} queries have no right answer and are left out: {_exclusions(chosen)}."
        )
    return lines


def _exclusions(chosen: EvaluationSet) -> str:
    """Why queries have no right answer, in numbers of people."""
    lost = {
        crop.person for crop, found in zip(chosen.query, count_positives(chosen), strict=True) if found == 0
    }
    own = chosen.query_rows is not None
    # Within a split everybody stands in the gallery, by the query itself if by nothing else.
    crops = Counter(crop.person for crop in chosen.gallery)
    absent = {person for person in lost if crops[person] <= int(own)}
    parts = []
    if absent:
        parts.append(
            f"people {'with a single crop' if own else 'without a crop in the gallery'}: {len(absent)}"
        )
    if lost - absent:
        parts.append(f"people without a crop by another camera: {len(lost - absent)}")
    return ", ".join(parts)


def _some(people: set[int]) -> str:
    first = sorted(people)[:3]
    others = " and others" if len(people) > 3 else ""
    return ", ".join(map(str, first)) + others if first else "distractors"
