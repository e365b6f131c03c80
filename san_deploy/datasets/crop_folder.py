"""`cameraN/track/*.jpg` with identities.csv: the form of WARD as san-deploy keeps it, and of `san demo`.

identities.csv has the columns camera, track, person and, optionally, split (`train` where it is missing).
"""

from __future__ import annotations

import csv
from pathlib import Path

from ..errors import SanError
from ..images import SUFFIXES
from .records import Crop, Dataset

LAYOUT = "a crop folder: identities.csv (camera,track,person[,split]) beside CAMERA/TRACK/*.jpg"
IDENTITIES = "identities.csv"


def matches(root: Path) -> bool:
    """Whether `root` looks like a crop folder."""
    return (root / IDENTITIES).is_file()


def read(root: Path) -> Dataset:
    """Read every tracklet that identities.csv names; splits come in the order train, val, test, others.

    Raises:
        SanError: a column is missing, a person is no number, a track is named twice, unknown or empty.
    """
    splits: dict[str, list[Crop]] = {}
    for (camera, track), (person, split) in read_identities(root / IDENTITIES).items():
        folder = root / camera / track
        files = sorted(
            path
            for path in (folder.iterdir() if folder.is_dir() else ())
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
        )
        if not files:
            raise SanError(
                f"{root / IDENTITIES} names {camera}/{track}, which holds no image",
                do="remove the line, or put the tracklet's crops there",
            )
        splits.setdefault(split, []).extend(Crop(path, person, camera, track) for path in files)
    order = ["train", "val", "test"]
    known = {name: splits[name] for name in order if name in splits}
    return Dataset(
        "crop folder", root, known | {name: splits[name] for name in sorted(splits) if name not in known}
    )


def read_identities(path: Path) -> dict[tuple[str, str], tuple[int, str]]:
    """`{(camera, track): (person, split)}` in the order of the file. Names must stay inside the folder."""
    rows: dict[tuple[str, str], tuple[int, str]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = {"camera", "track", "person"} - set(reader.fieldnames or ())
            if missing:
                raise SanError(
                    f"{path} has no column {', '.join(sorted(missing))}",
                    do="its first line is camera,track,person,split",
                )
            for row in reader:
                camera, track = (row["camera"] or "").strip(), (row["track"] or "").strip()
                where = f"{path}, line {reader.line_num}"
                if not _inside(camera) or not _inside(track):
                    raise SanError(f"{where}: '{camera}/{track}' is no name of a camera and a track")
                try:
                    person = int(row["person"])
                except (TypeError, ValueError):
                    person = -1
                if person < 0:
                    raise SanError(f"{where}: person '{row['person']}' is not a whole number >= 0")
                if (camera, track) in rows:
                    raise SanError(f"{where}: {camera}/{track} is named a second time")
                rows[camera, track] = (person, (row.get("split") or "").strip() or "train")
    except OSError as error:
        raise SanError(f"cannot read {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise SanError(f"{path} is not a CSV file in UTF-8", why=str(error)) from error
    if not rows:
        raise SanError(f"{path} names no tracklet")
    return rows


def _inside(name: str) -> bool:
    """A relative name that does not climb out of the data set, in its one plain spelling: not `t1/`."""
    path = Path(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and path.as_posix() == name
