"""Readers of labelled crops. A new data set: one file with `matches` and `read`, one line in `READERS`."""

from __future__ import annotations

from pathlib import Path

from ..errors import SanError
from . import crop_folder, market1501
from .records import DISTRACTOR, JUNK, Crop, Dataset, labels

__all__ = ["DISTRACTOR", "JUNK", "READERS", "Crop", "Dataset", "labels", "read_dataset"]

#: Asked in this order; the first that recognises the folder reads it.
READERS = {"crop-folder": crop_folder, "market1501": market1501}


def read_dataset(root: Path) -> Dataset:
    """Read a labelled data set, whichever of the known layouts it has.

    Raises:
        SanError: the folder is missing or has none of the known layouts.
    """
    root = Path(root)
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise SanError(f"{root} {what}", do="give the folder of a labelled data set")
    for reader in READERS.values():
        if reader.matches(root):
            try:
                return reader.read(root)
            except OSError as error:
                raise SanError(f"cannot read {error.filename or root}: {error.strerror or error}") from error
    layouts = "; or ".join(reader.LAYOUT for reader in READERS.values())
    raise SanError(f"{root} has no layout known here", do=f"expected {layouts}")
