"""MSMT17, versions 1 and 2 (Wei et al., CVPR 2018): lists of files with person numbers beside two folders.

A line is `0000/0000_045_12_0303morning_0006_2.jpg 0`: the third field of the file name is the camera. People
are counted from 0, in the training and in the test lists anew.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from ..errors import SanError
from .listing import Tree
from .options import Options
from .records import Crop, Dataset, person_number

LAYOUT = (
    "MSMT17: list_train.txt, list_val.txt, list_query.txt and list_gallery.txt beside train/ and test/ "
    "(version 2: mask_train_v2/ and mask_test_v2/) with 0000/0000_045_12_0303morning_0006_2.jpg"
)
OPTIONS: frozenset[str] = frozenset()
INSIDE: tuple[str, ...] = ("MSMT17_V2", "MSMT17_V1")
_VERSIONS = {"MSMT17 v2": ("mask_train_v2", "mask_test_v2"), "MSMT17 v1": ("train", "test")}
_NAME = re.compile(r"\d+_\d+_(\d+)_")
_PERSON = re.compile(r"\d{1,18}")


def matches(root: Path) -> bool:
    """Whether `root` looks like MSMT17."""
    return (root / "list_query.txt").is_file() or (root / "list_train.txt").is_file()


def read(root: Path, options: Options) -> Dataset:
    """Read the splits `train`, `query`, `gallery` and what list_val.txt names, in the order of the lists.

    list_val.txt of the published set names crops of the people of list_train.txt. It is no `val` split then
    (`san train` holds out people), so it is given as `list_val`; most papers leave it out of training.

    Raises:
        SanError: a list or a folder is missing, a line is malformed, or a crop that is named is not there.
    """
    name = next((name for name, (_, test) in _VERSIONS.items() if (root / test).is_dir()), None)
    if name is None:
        raise SanError(f"{root} has no folder test or mask_test_v2", do=f"expected {LAYOUT}")
    train, test = _VERSIONS[name]
    tree = Tree(root)
    lists: dict[str, list[tuple[str, int, str]]] = {}
    notes: list[str] = []
    for split, folder in (("train", train), ("val", train), ("query", test), ("gallery", test)):
        path = root / f"list_{split}.txt"
        if path.is_file():
            lists[split] = _read_list(tree, path, folder)
            if lists[split]:
                continue
            if split in ("query", "gallery"):
                raise SanError(f"{path} names no crop")
            notes.append(f"{path.name} names no crop.")
            del lists[split]
        elif split in ("query", "gallery"):
            raise SanError(f"{path} does not exist", do=f"expected {LAYOUT}")
        elif split == "train":
            notes.append(f"{path.name} is not there: nothing to train on.")
    trained = {person for split in ("train", "val") for _, person, _ in lists.get(split, [])}
    # Numbered from 1, and people to test on after those to train on: the lists count each from 0.
    tested = 2 + max(trained, default=-1)
    splits = {
        split: [
            Crop(root / file, person + (1 if split in ("train", "val") else tested), camera, file)
            for file, person, camera in rows
        ]
        for split, rows in lists.items()
    }
    if {crop.person for crop in splits.get("train", [])} & {crop.person for crop in splits.get("val", [])}:
        splits["list_val"] = splits.pop("val")
    return Dataset(name, root, splits, notes=tuple(notes))


def _read_list(tree: Tree, path: Path, folder: str) -> list[tuple[str, int, str]]:
    """`(file below the root, person, camera)` of each line; empty where there is none."""
    rows: list[tuple[str, int, str]] = []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise SanError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SanError(f"{path} is not a list of files", why=str(error)) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        file, _, person = line.strip().rpartition(" ")
        file = file.rstrip()
        found = _NAME.match(posixpath.basename(file))
        inside = posixpath.normpath(file) == file and not file.startswith(("/", "../"))
        if not found or not _PERSON.fullmatch(person) or not inside:
            raise SanError(
                f"{path}, line {number}: '{line.strip()[:100]}' is no file and person",
                do="a line is 0000/0000_045_12_0303morning_0006_2.jpg 0",
            )
        rows.append((f"{folder}/{file}", person_number(person), f"c{int(found[1])}"))
    folders = {posixpath.dirname(file) for file, _, _ in rows}
    there = {
        f"{name}/{file}" for name in folders if (tree.root / name).is_dir() for file in tree.images(name)
    }
    missing = [file for file, _, _ in rows if file not in there]
    if missing:
        raise SanError(
            f"{path} names {missing[0]}, which is not there",
            why=f"{len(missing)} of its {len(rows)} crops are missing",
            do="unpack the archive again",
        )
    return rows
