"""WARD as its authors published it: one folder of `000100020003.png`, person 1, camera 2, frame 3.

N. Martinel, C. Micheloni, "Re-identify people in wide area camera network", CVPR Workshops 2012. Each person
passes each camera once, so that a pass is a tracklet. It has no split.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import SanError
from .listing import Tree, first_image
from .options import Options
from .records import Crop, Dataset

LAYOUT = "WARD: one folder with names like 000100020003.png (person, camera and frame, four digits each)"
OPTIONS: frozenset[str] = frozenset()
INSIDE: tuple[str, ...] = ("WARD",)
_NAME = re.compile(r"(\d{4})(\d{4})\d{4}\.\w+")


def matches(root: Path) -> bool:
    """Whether `root` looks like WARD."""
    return bool(_NAME.fullmatch(first_image(root)))


def read(root: Path, options: Options) -> Dataset:
    """Read all crops, sorted by name; without a split they stand in `train`.

    Raises:
        SanError: a file name does not have the form, or counts people from 0.
    """
    crops = []
    for file in Tree(root).images():
        found = _NAME.fullmatch(file)
        if not found or int(found[1]) < 1:
            raise SanError(
                f"{root / file} has no name of the form 000100020003.png", do="remove it or rename it"
            )
        crops.append(Crop(root / file, int(found[1]), f"cam{int(found[2])}", found[1]))
    if not crops:
        raise SanError(f"{root} holds no crop", do=f"expected {LAYOUT}")
    return Dataset("WARD", root, {"train": crops}, unsplit=True)
