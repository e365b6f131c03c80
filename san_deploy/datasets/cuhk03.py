"""CUHK03 (Li et al., CVPR 2014): labelled and detected boxes, the old protocol and the new one.

The crops are arrays inside cuhk-03.mat. They are extracted once, as PNG files (nothing is lost), to
images_labeled/ or images_detected/ under the names that the new protocol and other toolkits use:
`1_003_2_08.png` is camera pair 1, person 3 of it, view 2, image 8. A folder that FastReID or torchreid has
extracted is read as it is, and so is CUHK03-NP, the new protocol in Market-1501's folders.

- Old protocol: 20 test sets of 100 people, one of them at a time; one gallery crop per person is drawn.
- New protocol (Zhong et al., CVPR 2017): 767 people to train on and 700 to test on, Market-1501's rule.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from ..errors import SanError, UsageError
from ..io.atomic import atomic_folder
from . import cuhk03_mat, market1501
from .listing import Tree
from .options import Options
from .records import Crop, Dataset

LAYOUT = (
    "CUHK03: cuhk03_release/cuhk-03.mat, for the new protocol beside "
    "cuhk03_new_protocol_config_labeled.mat and ..._detected.mat; or CUHK03-NP: labeled/ and detected/, each "
    "with bounding_box_train/, query/ and bounding_box_test/"
)
OPTIONS = frozenset({"boxes", "protocol", "testset", "cache"})
INSIDE: tuple[str, ...] = ("cuhk03", "CUHK03", "cuhk03-np", "CUHK03-NP")
#: Our names of the boxes, and how files spell them.
_BOXES = {"labelled": "labeled", "detected": "detected"}
_MAT = ("cuhk03_release/cuhk-03.mat", "cuhk-03.mat")
_NAME = re.compile(r"([1-9])_(\d{3})_([12])_\d{2}\.\w+")
_NP_NAME = re.compile(r"(\d{4,18})_c(\d+)_")
#: Where our own extraction keeps the old protocol, so that the .mat is read once.
TESTSETS = "testsets.json"


def matches(root: Path) -> bool:
    """Whether `root` looks like CUHK03, in one of its forms."""
    return _mat(root) is not None or any(
        (root / f"images_{spelt}").is_dir() or _is_np(root, spelt) for spelt in _BOXES.values()
    )


def read(root: Path, options: Options) -> Dataset:
    """Read one kind of boxes by one protocol.

    Old protocol: splits `train` (everybody else) and `test`. New: `train`, `query` and `gallery`. Files are
    sorted by name, each crop its own tracklet; a person's number is 1000 x camera pair + number in the pair,
    and the camera is the view, as in the published protocol.

    Raises:
        UsageError: boxes or protocol have to be chosen and are not, or do not exist.
        SanError: files are missing or malformed, or h5py or scipy is needed and not installed.
    """
    boxes = _choose("boxes", options.boxes.replace("labeled", "labelled"), _boxes_there(root, options))
    spelt = _BOXES[boxes]
    protocol = _choose("protocol", options.protocol, _protocols_there(root, options, spelt))
    if options.testset and protocol == "new":
        raise UsageError("--testset belongs to CUHK03's old protocol", do="give --protocol old")
    if protocol == "new" and not _config_there(root, spelt):
        return market1501.read_folders(
            root / spelt, f"CUHK03-NP {boxes}, new protocol", _NP_NAME, "0003_c1_8.png", LAYOUT
        )
    folder, note = _extracted(root, options, spelt)
    crops = _crops(folder)
    if protocol == "new":
        lists = _new_protocol(root, spelt)
        splits = {split: _pick(folder, crops, files) for split, files in lists.items()}
        return Dataset(f"CUHK03 {boxes}, new protocol", root, splits, notes=note)
    testsets = _old_protocol(root, folder, spelt)
    number = options.testset or 1
    if not 1 <= number <= len(testsets):
        raise UsageError(f"--testset {number} does not exist", do=f"give one from 1 to {len(testsets)}")
    tested = testsets[number - 1]
    lost = tested - {crop.person for crop in crops.values()}
    if lost:
        raise SanError(f"{folder} has no crop of person {min(lost)} of test set {number}", do=_AGAIN)
    splits = {
        "train": [crop for crop in crops.values() if crop.person not in tested],
        "test": [crop for crop in crops.values() if crop.person in tested],
    }
    name = f"CUHK03 {boxes}, old protocol, test set {number} of {len(testsets)}"
    return Dataset(name, root, splits, notes=note, single_shot=True)


_AGAIN = "remove the folder, and it is extracted again"


def _choose(what: str, asked: str, there: list[str]) -> str:
    """What was asked for, or the only one there is: the two never share a table of results."""
    if asked and asked not in there:
        raise UsageError(f"--{what} {asked} is not there", do=f"choose from: {', '.join(there)}")
    if asked:
        return asked
    if len(there) > 1:
        raise UsageError(
            f"CUHK03 has the {what} {' and '.join(there)}",
            why="results of one do not compare with the other's",
            do=f"give --{what} {there[0]} or --{what} {there[1]}",
        )
    if not there:
        raise SanError(f"CUHK03 has no {what} here", do=f"expected {LAYOUT}")
    return there[0]


def _mat(root: Path) -> Path | None:
    return next((root / name for name in _MAT if (root / name).is_file()), None)


def _is_np(root: Path, spelt: str) -> bool:
    return market1501.any_folder(root / spelt)


def _images(root: Path, options: Options, spelt: str) -> Path | None:
    """The folder of extracted crops, if there is one: in the cache, then beside the .mat."""
    places = ([options.cache] if options.cache else []) + [root]
    return next((place / f"images_{spelt}" for place in places if (place / f"images_{spelt}").is_dir()), None)


def _boxes_there(root: Path, options: Options) -> list[str]:
    return [
        boxes
        for boxes, spelt in _BOXES.items()
        if _mat(root) or _images(root, options, spelt) or _is_np(root, spelt)
    ]


def _protocols_there(root: Path, options: Options, spelt: str) -> list[str]:
    images = _images(root, options, spelt)
    old = _mat(root) or (images and (images / TESTSETS).is_file()) or _classic(root, spelt).is_file()
    new = _config_there(root, spelt) or _is_np(root, spelt)
    return [name for name, there in (("old", old), ("new", new)) if there]


def _config(root: Path, spelt: str) -> Path | None:
    name = f"cuhk03_new_protocol_config_{spelt}.mat"
    return next((path for path in (root / name, root / "cuhk03_release" / name) if path.is_file()), None)


def _classic(root: Path, spelt: str) -> Path:
    return root / f"splits_classic_{spelt}.json"


def _config_there(root: Path, spelt: str) -> bool:
    return _config(root, spelt) is not None or (root / f"splits_new_{spelt}.json").is_file()


def _extracted(root: Path, options: Options, spelt: str) -> tuple[Path, tuple[str, ...]]:
    """The folder of extracted crops; made now where it is not there yet, with a note that says so."""
    folder, mat = _images(root, options, spelt), _mat(root)
    if folder is not None:
        return folder, ()
    if mat is None:
        raise SanError(f"{root} holds neither cuhk-03.mat nor images_{spelt}", do=f"expected {LAYOUT}")
    target = (options.cache or root) / f"images_{spelt}"
    if not os.access(root, os.W_OK) and options.cache is None:
        raise SanError(
            f"{target} cannot be written", why="the crops have to be extracted", do="name a folder: --cache"
        )
    with cuhk03_mat.opened(mat) as file, atomic_folder(target) as temporary:
        cuhk03_mat.extract(file, spelt, temporary)
        testsets = [sorted(people) for people in cuhk03_mat.test_sets(file)]
        (temporary / TESTSETS).write_text(json.dumps(testsets), encoding="utf-8")
    return target, (f"The crops of {mat.name} were extracted to {target}, once for all.",)


def _crops(folder: Path) -> dict[str, Crop]:
    """All crops by file name without its ending, sorted."""
    crops = {}
    for file in Tree(folder).images():
        crop = _crop(folder, file)
        if crop is None:
            raise SanError(f"{folder / file} has no name of the form 1_003_2_08.png", do="remove it")
        crops[file.rpartition(".")[0]] = crop
    if not crops:
        raise SanError(f"{folder} holds no crop", do=_AGAIN)
    return crops


def _crop(folder: Path, file: str) -> Crop | None:
    found = _NAME.fullmatch(file)
    if not found:
        return None
    return Crop(folder / file, cuhk03_mat.person(int(found[1]), int(found[2])), f"c{found[3]}", file)


def _pick(folder: Path, crops: dict[str, Crop], files: list[str]) -> list[Crop]:
    lost = [file for file in files if file.rpartition(".")[0] not in crops]
    if lost:
        raise SanError(
            f"{folder} does not hold {lost[0]}",
            why=f"{len(lost)} of {len(files)} crops of the protocol are missing",
            do=_AGAIN,
        )
    return [crops[file.rpartition(".")[0]] for file in sorted(files)]


def _new_protocol(root: Path, spelt: str) -> dict[str, list[str]]:
    """File names by split."""
    config = _config(root, spelt)
    if config is not None:
        return cuhk03_mat.new_protocol(config)
    path = root / f"splits_new_{spelt}.json"
    lists = _json(path)
    try:
        return {split: [_base(row[0]) for row in lists[0][split]] for split in ("train", "query", "gallery")}
    except (LookupError, TypeError, AttributeError) as error:
        raise SanError(f"{path} is not torchreid's list of the new protocol", why=repr(error)) from error


def _old_protocol(root: Path, folder: Path, spelt: str) -> list[set[int]]:
    """People of each test set."""
    path = folder / TESTSETS
    try:
        if path.is_file():
            return [set(map(int, people)) for people in _json(path)]
        mat = _mat(root)
        if mat is not None:
            with cuhk03_mat.opened(mat) as file:
                return cuhk03_mat.test_sets(file)
        path = _classic(root, spelt)
        people = []
        for split in _json(path):
            crops = [_crop(folder, _base(row[0])) for row in split["query"]]
            people.append({crop.person for crop in crops if crop})
        return people
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise SanError(f"{path} is not a list of CUHK03's test sets", why=repr(error)) from error


def _base(path: str) -> str:
    """File name of a path that may have been written on Windows."""
    return re.split(r"[/\\]", path)[-1]


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SanError(f"{path} cannot be read", why=str(error)) from error
