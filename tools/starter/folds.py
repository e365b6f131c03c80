"""Folds of WARD's `train` people; its `test` people are left out of everything here."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from san_deploy.io.atomic import atomic_file


def fold_of(ward: Path, out: Path, fold: int, folds: int) -> Path:
    """A crop folder whose `val` people are one fold of WARD's `train` people; the crops are links to WARD's.

    `test` people are left out of its identities.csv, so that nothing can look at them.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (ward / "identities.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
    people = sorted({int(row["person"]) for row in rows})
    order = np.random.default_rng(123).permutation(people)
    held = set(np.array_split(order, folds)[fold].tolist())
    for camera in sorted({row["camera"] for row in rows}):
        link = out / camera
        link.unlink(missing_ok=True)
        link.symlink_to((ward / camera).resolve(), target_is_directory=True)
    with atomic_file(out / "identities.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["camera", "track", "person", "split"])
        for row in rows:
            split = "val" if int(row["person"]) in held else "train"
            writer.writerow([row["camera"], row["track"], row["person"], split])
    return out
