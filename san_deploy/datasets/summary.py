"""What a set of crops holds, as numbers and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from .records import Crop


class Row(TypedDict):
    """One subset: crops (distractors included, junk not), people (distractors not), and so on."""

    subset: str
    crops: int
    people: int
    cameras: int
    tracklets: int
    distractors: int
    junk: int


_COLUMNS = ("crops", "people", "cameras", "tracklets", "distractors", "junk")


def count(subset: str, crops: Sequence[Crop], *, junk: int = 0) -> Row:
    """Count a subset; `junk` crops were dropped from it."""
    return Row(
        subset=subset,
        crops=len(crops),
        people=len({crop.person for crop in crops if crop.person > 0}),
        cameras=len({crop.camera for crop in crops}),
        tracklets=len({(crop.camera, crop.track) for crop in crops}),
        distractors=sum(crop.person == 0 for crop in crops),
        junk=junk,
    )


def table(rows: Sequence[Row], title: str) -> list[str]:
    """The rows as aligned lines under a header; `title` heads the column of names."""
    width = max(10, *(len(row["subset"]) for row in rows)) if rows else 10
    lines = [f"{title:{width}s}" + "".join(f" {column:>{max(7, len(column))}s}" for column in _COLUMNS)]
    for row in rows:
        values = (f" {row[column]:{max(7, len(column))}d}" for column in _COLUMNS)  # type: ignore[literal-required]
        lines.append(f"{row['subset']:{width}s}" + "".join(values))
    return lines
