"""`cameraN/track/*.jpg` with identities.csv: the form of WARD as san-deploy keeps it, and of `san demo`.

identities.csv has the columns camera, track, person (see `records.person_number`) and, optionally, split (`train`
where it is missing).
"""

from __future__ import annotations

import csv
from pathlib import Path

from ..errors import SanError
from .listing import Tree
from .options import Options
from .records import DISTRACTOR, JUNK, Crop, Dataset, number_from_one, passes_each_once, person_number
from .tables import read_table

LAYOUT = "a crop folder: identities.csv (camera,track,person[,split]) beside CAMERA/TRACK/*.jpg"
OPTIONS: frozenset[str] = frozenset()
INSIDE: tuple[str, ...] = ()
IDENTITIES = "identities.csv"


def matches(root: Path) -> bool:
    """Whether `root` looks like a crop folder."""
    return (root / IDENTITIES).is_file()


def read(root: Path, options: Options) -> Dataset:
    """Read every tracklet that identities.csv names; splits come in the order train, val, test, others.

    Raises:
        SanError: a column is missing, a person is no number, a track is named twice, unknown or empty.
    """
    splits: dict[str, list[Crop]] = {}
    junk: dict[str, int] = {}
    tree = Tree(root)
    rows, split_named, notes = _read_rows(root / IDENTITIES)
    for (camera, track), (person, split) in rows.items():
        folder = root / camera / track
        files = tree.images(f"{camera}/{track}") if folder.is_dir() else []
        if not files:
            raise SanError(
                f"{root / IDENTITIES} names {camera}/{track}, which holds no image",
                do="remove the line, or put the tracklet's crops there",
            )
        if person == JUNK:
            junk[split] = junk.get(split, 0) + len(files)
            continue
        splits.setdefault(split, []).extend(Crop(folder / name, person, camera, track) for name in files)
    order = ["train", "val", "test"]
    known = {name: splits[name] for name in order if name in splits}
    return Dataset(
        "crop folder",
        root,
        known | {name: splits[name] for name in sorted(splits) if name not in known},
        junk=junk,
        notes=notes,
        unsplit=not split_named,
    )


def read_identities(path: Path) -> dict[tuple[str, str], tuple[int, str]]:
    """`{(camera, track): (person, split)}` in the order of the file. Names must stay inside the folder.

    Where people are numbered from 0 they are numbered from 1 here; see `records.number_from_one`. Junk is left out: it
    counts neither as right nor as wrong.
    """
    rows = _read_rows(path)[0]
    return {key: value for key, value in rows.items() if value[0] != JUNK}


def identity_notes(path: Path) -> tuple[str, ...]:
    """What to know of the numbers of an identities.csv, one sentence each."""
    return _read_rows(path)[2]


def _read_rows(path: Path) -> tuple[dict[tuple[str, str], tuple[int, str]], bool, tuple[str, ...]]:
    """The rows of identities.csv, whether any of them names a split, and what to know of its numbers."""
    rows: dict[tuple[str, str], tuple[int, str]] = {}
    split_named = False
    columns, lines = read_table(path)
    if not {"camera", "track", "person"} <= set(columns):
        raise SanError(
            f"the first line of {path} must be camera,track,person or camera,track,person,split",
            why=f"found {','.join(columns)[:100]!r}" if columns else "it is empty",
        )
    try:
        for line, row in lines:
            camera, track = row["camera"], row["track"]
            where = f"{path}, line {line}"
            if not _inside(camera) or not _inside(track):
                raise SanError(f"{where}: '{camera}/{track}' is no name of a camera and a track")
            try:
                person = person_number(row["person"])
            except ValueError as error:
                raise SanError(f"{where}: '{row['person'][:40]}' is no person", why=str(error)) from error
            if (camera, track) in rows:
                raise SanError(f"{where}: {camera}/{track} is named a second time")
            split = row.get("split", "")
            split_named |= bool(split)
            rows[camera, track] = (person, split or "train")
    except csv.Error as error:
        raise SanError(f"{path} is not a CSV file in UTF-8", why=str(error)) from error
    if not rows:
        raise SanError(f"{path} names no tracklet")
    zero = [camera for (camera, _), (person, _) in rows.items() if person == DISTRACTOR]
    shift, notes = number_from_one(bool(zero), is_person=passes_each_once(zero))
    if junk := sum(person == JUNK for person, _ in rows.values()):
        notes += (f"Tracklets of person -1, junk, which count neither as right nor as wrong: {junk}.",)
    shifted = {
        key: (person if person == JUNK else person + shift, split) for key, (person, split) in rows.items()
    }
    return shifted, split_named, notes


def _inside(name: str) -> bool:
    """A relative name that does not climb out of the data set, in its one plain spelling: not `t1/`."""
    path = Path(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and path.as_posix() == name
