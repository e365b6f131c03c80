"""People of WARD who are held out: the five splits of all fifty, and folds of the first starter's `train` people."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from san_deploy.io.atomic import atomic_file

#: Whom each of the five splits holds out: everybody is held out twice.
SPLITS = (range(1, 21), range(11, 31), range(21, 41), range(31, 51), (*range(41, 51), *range(1, 11)))


def split_of(ward: Path, out: Path, split: int) -> Path:
    """A crop folder whose `val` people are the twenty of one of the five splits; the crops are links to WARD's.

    Args:
        ward: as a crop folder.
        out: the folder to write; one of an earlier call is written again.
        split: an index of `SPLITS`.
    """
    rows = _rows(ward)
    held = SPLITS[split]
    return _write(
        ward, out, [{**row, "split": "val" if int(row["person"]) in held else "train"} for row in rows]
    )


def fold_of(ward: Path, out: Path, fold: int, folds: int) -> Path:
    """A crop folder whose `val` people are one fold of WARD's `train` people; the crops are links to WARD's.

    `test` people are left out of its identities.csv, so that nothing can look at them.
    """
    rows = [row for row in _rows(ward) if row["split"] == "train"]
    people = sorted({int(row["person"]) for row in rows})
    order = np.random.default_rng(123).permutation(people)
    held = set(np.array_split(order, folds)[fold].tolist())
    return _write(
        ward, out, [{**row, "split": "val" if int(row["person"]) in held else "train"} for row in rows]
    )


def _rows(ward: Path) -> list[dict[str, str]]:
    with (ward / "identities.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _write(ward: Path, out: Path, rows: list[dict[str, str]]) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    for camera in sorted({row["camera"] for row in rows}):
        link = out / camera
        link.unlink(missing_ok=True)
        link.symlink_to((ward / camera).resolve(), target_is_directory=True)
    with atomic_file(out / "identities.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["camera", "track", "person", "split"])
        for row in rows:
            writer.writerow([row["camera"], row["track"], row["person"], row["split"]])
    return out
