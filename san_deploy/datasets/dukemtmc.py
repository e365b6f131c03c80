"""DukeMTMC-reID: Market-1501's folders, names like `0005_c2_f0046985.jpg` (Zheng et al., ICCV 2017).

The gallery's distractors are people of other cameras with numbers of their own; nobody is junk.
"""

from __future__ import annotations

import re
from pathlib import Path

from . import market1501
from .listing import first_image
from .options import Options
from .records import Dataset

LAYOUT = (
    "DukeMTMC-reID: bounding_box_train/, query/ and bounding_box_test/ with names like 0005_c2_f0046985.jpg"
)
OPTIONS: frozenset[str] = frozenset()
INSIDE: tuple[str, ...] = ("DukeMTMC-reID",)
_NAME = re.compile(r"(\d{4,18})_c(\d+)_f\d+")


def matches(root: Path) -> bool:
    """Whether `root` looks like DukeMTMC-reID: a file name tells it from Market-1501."""
    return market1501.any_folder(root) and any(
        _NAME.match(first_image(root / folder)) for folder in ("query", "bounding_box_train")
    )


def read(root: Path, options: Options) -> Dataset:
    """Read the splits `train`, `query` and `gallery`, files sorted by name, each crop its own tracklet.

    Raises:
        SanError: a folder is missing or empty, or a file name does not have the form.
    """
    return market1501.read_folders(root, "DukeMTMC-reID", _NAME, "0005_c2_f0046985.jpg", LAYOUT)
