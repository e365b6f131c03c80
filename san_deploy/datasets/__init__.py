"""Readers of labelled crops. A new data set: one file in the form of `options.Reader`, one line in `READERS`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..errors import SanError, UsageError
from ..metrics.labels import DISTRACTOR, JUNK
from . import crop_folder, cuhk03, dukemtmc, market1501, msmt17, pattern, ward
from .evaluation import EvaluationSet, count_positives, diagnose, evaluation_set, notes
from .options import Options, Reader, refuse_unused
from .records import Crop, CropLabels, Dataset, SubsetCounts, labels

__all__ = [
    "DISTRACTOR",
    "JUNK",
    "READERS",
    "Crop",
    "CropLabels",
    "Dataset",
    "EvaluationSet",
    "Options",
    "SubsetCounts",
    "count_positives",
    "diagnose",
    "evaluation_set",
    "is_dataset",
    "labels",
    "notes",
    "read_dataset",
    "why_not",
]

#: Asked in this order; the first that recognises the folder reads it. DukeMTMC-reID has Market-1501's folders.
READERS: dict[str, Reader] = {
    "crop-folder": crop_folder,
    "dukemtmc": dukemtmc,
    "market1501": market1501,
    "msmt17": msmt17,
    "cuhk03": cuhk03,
    "ward": ward,
    "pattern": pattern,
}


def read_dataset(root: Path, options: Options | None = None) -> Dataset:
    """Read a labelled data set, whichever of the known layouts it has. No image is opened.

    Args:
        root: its folder, or the folder around it under which its archive unpacks.
        options: choices that the folder does not make.

    Raises:
        SanError: the folder is missing, has none of the known layouts, or several.
        UsageError: options that do not go with each other or with this data set.
    """
    root, options = Path(root), options or Options()
    if options.layout and options.layout not in READERS:
        raise UsageError(f"'{options.layout}' is no layout", do=f"one of {', '.join(READERS)}")
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise SanError(f"{root} {what}", do="give the folder of a labelled data set")
    key, root = _recognise(root, options)
    refuse_unused(options, READERS[key])
    try:
        dataset = READERS[key].read(root, options)
    except OSError as error:
        raise SanError(f"cannot read {error.filename or root}: {error.strerror or error}") from error
    return _without_cameras(dataset) if options.no_camera else dataset


def is_dataset(root: Path) -> bool:
    """Whether `read_dataset` would recognise a folder, or several in it; nothing is read but names."""
    return root.is_dir() and bool(_matching(root, READERS))


def _recognise(root: Path, options: Options) -> tuple[str, Path]:
    """The name of the reader, and the folder for it to read."""
    if options.pattern or options.layout == "pattern":
        if options.layout not in ("", "pattern") or not options.pattern:
            raise UsageError("--pattern and --layout pattern belong together", do="give --pattern alone")
        return "pattern", root
    readers = {options.layout: READERS[options.layout]} if options.layout else READERS
    found = _matching(root, readers)
    if len(found) > 1:
        raise SanError(
            f"{root} holds several data sets: {', '.join(path.name for path in found)}", do="name one"
        )
    if found:
        ((folder, key),) = found.items()
        return key, folder
    what = "not the layout that was asked for" if options.layout else "no layout known here"
    lines = [reader.LAYOUT for reader in readers.values()]
    # Seven of them in one line nobody reads.
    do = f"expected {lines[0]}" if len(lines) == 1 else "\n  ".join(["expected one of these:", *lines])
    raise SanError(f"{root} has {what}", do=do)


def _matching(root: Path, readers: Mapping[str, Reader]) -> dict[Path, str]:
    """The folders that readers recognise, and which does: the root itself, or else folders in it."""
    for key, reader in readers.items():
        if reader.matches(root):
            return {root: key}
    inside: dict[Path, str] = {}
    for key, reader in readers.items():
        for name in reader.INSIDE:
            if (root / name).is_dir() and reader.matches(root / name):
                inside.setdefault(root / name, key)
    return inside


def _without_cameras(dataset: Dataset) -> Dataset:
    """Every crop before a camera of its own, which is named by its path below the root."""
    return replace(
        dataset,
        name=f"{dataset.name}, cameras ignored",
        splits={
            split: [replace(crop, camera=_below(dataset.root, crop.path)) for crop in crops]
            for split, crops in dataset.splits.items()
        },
    )


def _below(root: Path, path: Path) -> str:
    """The path below the root; CUHK03's crops may be extracted elsewhere."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
