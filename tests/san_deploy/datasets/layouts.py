"""Small data sets in the exact layouts that are published. Files are empty: no reader opens an image."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

FOLDERS = ("bounding_box_train", "query", "bounding_box_test")


def touch(root: Path, files: Iterable[str]) -> Path:
    """Empty files below `root`."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def market_folders(root: Path, **files: list[str]) -> Path:
    """Market-1501's folders; those that are not named hold one crop."""
    default = {name: ["0002_c1s1_000451_03.jpg"] for name in FOLDERS}
    return touch(root, [f"{folder}/{name}" for folder, names in (default | files).items() for name in names])


def msmt17(root: Path, version: int = 1) -> Path:
    """Persons 0 and 1 to train on and 0, 1 and 2 to test on; list_val.txt has crops of those in list_train.txt."""
    train, test = ("train", "test") if version == 1 else ("mask_train_v2", "mask_test_v2")
    lists = {
        "train": (
            train,
            ["0000/0000_000_01_0303morning_0015_0.jpg 0", "0001/0001_000_14_0303noon_0015_1.jpg 1"],
        ),
        "val": (train, ["0001/0001_001_02_0303noon_0017_1_ex.jpg 1"]),
        "query": (test, ["0000/0000_000_05_0303morning_0015_0.jpg 0", "0001/0001_004_06_0113noon_1_0.jpg 1"]),
        "gallery": (
            test,
            [
                "0000/0000_001_07_0303morning_0015_0.jpg 0",
                "0001/0001_005_08_0113noon_1_0.jpg 1",
                "0002/0002_000_15_0113noon_1_0.jpg 2",
            ],
        ),
    }
    for name, (folder, lines) in lists.items():
        touch(root / folder, [line.split()[0] for line in lines])
        (root / f"list_{name}.txt").write_text("".join(f"{line}\n" for line in lines))
    return root


def crop_folder(
    root: Path, rows: Iterable[str], crops: int = 2, header: str = "camera,track,person,split"
) -> Path:
    """A crop folder: a row is `cam1,t001,7,test`."""
    rows = list(rows)
    for row in rows:
        camera, track = row.split(",")[:2]
        touch(root / camera / track, [f"{number:04d}.jpg" for number in range(1, crops + 1)])
    (root / "identities.csv").write_text("\n".join([header, *rows]) + "\n")
    return root
