"""Market-1501: person and camera in the file name, `0002_c1s1_000451_03.jpg`.

Person -1 is junk (a box that is mostly background) and is dropped; 0000 is a distractor and stays in the
gallery (Zheng et al., ICCV 2015).
"""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import SanError
from ..images import SUFFIXES
from .records import JUNK, Crop, Dataset

LAYOUT = (
    "Market-1501: bounding_box_train/, query/ and bounding_box_test/ with names like 0002_c1s1_000451_03.jpg"
)
_FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
# Matched against the base name alone: a parent folder such as x1_c2/ must not be read as a label.
_NAME = re.compile(r"(-1|\d{4,})_c(\d+)(s\d+)?_")


def matches(root: Path) -> bool:
    """Whether `root` looks like Market-1501."""
    return (root / _FOLDERS["train"]).is_dir()


def read(root: Path) -> Dataset:
    """Read the splits `train`, `query` and `gallery`, files sorted by name, each crop its own tracklet.

    Raises:
        SanError: a folder is missing or empty, or a file name does not have the form.
    """
    return Dataset(
        "Market-1501", root, {split: _read_folder(root / name) for split, name in _FOLDERS.items()}
    )


def _read_folder(folder: Path) -> list[Crop]:
    if not folder.is_dir():
        raise SanError(f"{folder} does not exist", do=f"expected {LAYOUT}")
    crops = []
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        found = _NAME.match(path.name)
        if not found:
            raise SanError(
                f"{path} has no name of the form 0002_c1s1_000451_03.jpg", do="remove it or rename it"
            )
        person = int(found[1])
        if person != JUNK:
            crops.append(Crop(path, person, f"c{int(found[2])}", path.name))
    if not crops:
        raise SanError(f"{folder} holds no crop", do=f"expected {LAYOUT}")
    return crops
