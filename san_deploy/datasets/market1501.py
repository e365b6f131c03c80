"""Market-1501: person and camera in the file name, `0002_c1s1_000451_03.jpg`.

Person -1 is junk (a box that is mostly background) and is dropped; 0000 is a distractor and stays in the
gallery (Zheng et al., ICCV 2015). Other data sets are handed on in the same folders: CUHK03-NP and many
people's own.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from ..errors import SanError
from ..metrics.labels import DISTRACTOR, JUNK
from .listing import Tree, first_image
from .options import Options
from .records import Crop, Dataset, number_from_one, person_number

LAYOUT = (
    "Market-1501: bounding_box_train/, query/ and bounding_box_test/ with names like 0002_c1s1_000451_03.jpg"
)
OPTIONS = frozenset({"distractors"})
INSIDE: tuple[str, ...] = ("Market-1501-v15.09.15",)
_FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
#: Where distractors_500k.zip comes to lie: it holds a folder images/.
_DISTRACTORS = ("images", "distractors_500k/images", "distractors_500k")
# Matched against the base name alone: a parent folder such as x1_c2/ must not be read as a label.
_NAME = re.compile(r"(-1|\d{4,18})_c(\d+)(s\d+)?_")


def matches(root: Path) -> bool:
    """Whether `root` looks like Market-1501."""
    return any_folder(root)


def read(root: Path, options: Options) -> Dataset:
    """Read the splits `train`, `query` and `gallery`, files sorted by name, each crop its own tracklet.

    Raises:
        SanError: a folder is missing or empty, a file name does not have the form, or the distractors were
            asked for and are not there.
    """
    own = re.match(r"(-1|\d{4,18})_c\d+s\d+_", first_image(root / "query"))
    name = "Market-1501" if own else "Market-1501 layout"
    dataset = read_folders(root, name, _NAME, "0002_c1s1_000451_03.jpg", LAYOUT)
    folder = next((name for name in _DISTRACTORS if (root / name).is_dir()), None)
    if not options.distractors:
        note = f"{folder}/ is there and is not in the gallery; --distractors adds it."
        return replace(dataset, notes=(*dataset.notes, note)) if folder else dataset
    if folder is None:
        raise SanError(
            f"{root} holds no distractors",
            do=f"unpack distractors_500k.zip there, so that {root / _DISTRACTORS[0]} exists",
        )
    added = _read_distractors(root, folder)
    return replace(
        dataset,
        name=f"{name} + {len(added)} distractors",
        splits=dataset.splits | {"gallery": dataset.splits["gallery"] + added},
    )


def any_folder(root: Path) -> bool:
    """Whether `root` has the folders of this layout, or enough of them to say what is missing."""
    return (root / _FOLDERS["train"]).is_dir() or all(
        (root / _FOLDERS[split]).is_dir() for split in ("query", "gallery")
    )


def read_folders(root: Path, name: str, form: re.Pattern[str], example: str, layout: str) -> Dataset:
    """Read a data set that has Market-1501's folders.

    Args:
        root: the folder that holds them. One without bounding_box_train/ can be tested on.
        name: of the data set.
        form: matched at the start of a file name; its groups 1 and 2 are person and camera.
        example: a file name of that form, for messages.
        layout: the expected tree, for messages.

    Raises:
        SanError: a folder is missing or empty, or a file name does not have the form.
    """
    tree = Tree(root)
    found: dict[str, list[tuple[str, int, str]]] = {}
    junk: dict[str, int] = {}
    notes: list[str] = []
    for split, folder in _FOLDERS.items():
        if not (root / folder).is_dir():
            if split == "train":
                notes.append(f"{folder}/ is not there: nothing to train on.")
                continue
            raise SanError(f"{root / folder} does not exist", do=f"expected {layout}")
        found[split] = []
        for file in tree.images(folder):
            match = form.match(file)
            if not match:
                raise SanError(
                    f"{root / folder / file} has no name of the form {example}", do="remove it or rename it"
                )
            person = person_number(match[1])
            if person == JUNK:
                junk[split] = junk.get(split, 0) + 1
            else:
                found[split].append((file, person, f"c{int(match[2])}"))
        if not found[split]:
            raise SanError(f"{root / folder} holds no crop", do=f"expected {layout}")
    # MSMT17 in these folders counts people from 0. Nobody asks for a distractor, so a query shows which it is.
    asked = any(person == DISTRACTOR for _, person, _ in found["query"])
    shift, note = number_from_one(asked, is_person=True)
    notes += note
    splits = {
        split: [
            Crop(root / _FOLDERS[split] / file, person + shift, camera, file) for file, person, camera in rows
        ]
        for split, rows in found.items()
    }
    return Dataset(name, root, splits, junk=junk, notes=tuple(notes))


def _read_distractors(root: Path, folder: str) -> list[Crop]:
    """Everybody in the folder is a distractor, whatever the number; -1 is junk, as in the gallery."""
    crops = []
    for file in Tree(root).images(folder):
        match = _NAME.match(file)
        if match and person_number(match[1]) == JUNK:
            continue
        camera = f"c{int(match[2])}" if match else "unknown"
        crops.append(Crop(root / folder / file, DISTRACTOR, camera, f"{folder}/{file}"))
    if not crops:
        raise SanError(f"{root / folder} holds no distractor", do="unpack distractors_500k.zip there")
    return crops
