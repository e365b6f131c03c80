"""Market-1501 in its exact layout, with and without the 500k distractors, and what else comes in its folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from san_deploy.datasets import DISTRACTOR, Options, evaluation_set, read_dataset
from san_deploy.errors import SanError, UsageError
from tests.san_deploy.datasets.layouts import FOLDERS, market_folders, touch


def test_layout(tmp_path: Path) -> None:
    # The parent folder looks like a label; only the base name may be read.
    root = market_folders(
        tmp_path / "0099_c9s1_x1_c2",
        bounding_box_train=[
            "0007_c3s2_000451_01.jpg",
            "0002_c1s1_000451_03.jpg",
            "Thumbs.db",
            ".0002_c1s1_1_1.jpg",
        ],
        query=["1501_c6s4_000001_00.jpg"],
        bounding_box_test=[
            "-1_c1s1_000401_03.jpg",
            "-1_c2s1_000401_03.jpg",
            "0000_c2s1_000401_03.jpg",
            "1501_c1s6_011741_02.jpg",
        ],
        gt_bbox=["0002_c1s1_000451_00.jpg"],
    )
    dataset = read_dataset(root)
    assert dataset.name == "Market-1501"
    labels = {
        split: [(crop.path.name, crop.person, crop.camera) for crop in crops]
        for split, crops in dataset.splits.items()
    }
    assert labels == {
        "train": [("0002_c1s1_000451_03.jpg", 2, "c1"), ("0007_c3s2_000451_01.jpg", 7, "c3")],
        "query": [("1501_c6s4_000001_00.jpg", 1501, "c6")],
        # Junk (-1) is gone, the distractor (0000) stays.
        "gallery": [("0000_c2s1_000401_03.jpg", DISTRACTOR, "c2"), ("1501_c1s6_011741_02.jpg", 1501, "c1")],
    }
    assert dataset.splits["query"][0].track == "1501_c6s4_000001_00.jpg"
    assert dataset.splits["query"][0].path.parent == root / "query"
    # A distractor is no person in the summary; junk is counted.
    assert dataset.summary().splitlines()[1].split() == [
        *("split", "crops", "people", "cameras", "tracklets", "distractors", "junk")
    ]
    assert dataset.summary().splitlines()[4].split() == ["gallery", "2", "1", "2", "2", "1", "2"]
    assert dataset.rows()[2] == {
        **{"subset": "gallery", "crops": 2, "people": 1, "cameras": 2, "tracklets": 2},
        **{"distractors": 1, "junk": 2},
    }


def test_the_archives_own_folder_is_found(tmp_path: Path) -> None:
    market_folders(tmp_path / "Market-1501-v15.09.15")
    assert read_dataset(tmp_path).root == tmp_path / "Market-1501-v15.09.15"
    market_folders(tmp_path / "DukeMTMC-reID", **{name: ["0005_c2_f0046985.jpg"] for name in FOLDERS})
    with pytest.raises(SanError, match=r"several data sets: DukeMTMC-reID, Market-1501-v15\.09\.15"):
        read_dataset(tmp_path)
    assert read_dataset(tmp_path, Options(layout="market1501")).name == "Market-1501"


@pytest.mark.parametrize("folder", ["images", "distractors_500k/images", "distractors_500k"])
def test_distractors(tmp_path: Path, folder: str) -> None:
    root = market_folders(tmp_path)
    names = ["0000_c1s1_000001_00.jpg", "1234_c2s1_000001_00.jpg", "-1_c2s1_000001_01.jpg", "00000017.jpg"]
    touch(root / folder, names)
    without = read_dataset(root)
    assert len(without.splits["gallery"]) == 1
    assert f"{folder}/ is there" in without.summary()
    dataset = read_dataset(root, Options(distractors=True))
    assert dataset.name == "Market-1501 + 3 distractors"
    gallery = dataset.splits["gallery"]
    # Whatever their numbers, they are nobody; -1 is junk.
    assert [(crop.path.name, crop.person) for crop in gallery[1:]] == [
        (name, DISTRACTOR) for name in sorted(names) if not name.startswith("-1")
    ]
    assert len(dataset.splits["query"]) == len(evaluation_set(dataset).query) == 1
    assert evaluation_set(dataset).rows()[1]["distractors"] == 3


def test_distractors_that_are_not_there(tmp_path: Path) -> None:
    root = market_folders(tmp_path)
    with pytest.raises(SanError, match=r"holds no distractors.*distractors_500k\.zip"):
        read_dataset(root, Options(distractors=True))
    touch(root / "images", ["-1_c2s1_000001_01.jpg"])
    with pytest.raises(SanError, match="holds no distractor"):
        read_dataset(root, Options(distractors=True))


def test_option_of_another_data_set(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--boxes does not go with this data set"):
        read_dataset(market_folders(tmp_path), Options(boxes="labelled"))


def test_people_counted_from_zero(tmp_path: Path) -> None:
    # MSMT17 is handed on in these folders: who is asked for is no distractor.
    names = ["0000_c1_0000.jpg", "0001_c2_0001.jpg"]
    dataset = read_dataset(market_folders(tmp_path, **{folder: names for folder in FOLDERS}))
    assert dataset.name == "Market-1501 layout"
    for crops in dataset.splits.values():
        assert [crop.person for crop in crops] == [1, 2]
    assert "is taken for a person" in dataset.summary()


@pytest.mark.parametrize(
    "name", ["person.jpg", "002_c1s1_0_0.jpg", "0002c1s1_0_0.jpg", "-2_c1s1_0_0.jpg", "x0002_c1s1_0.jpg"]
)
def test_bad_names(tmp_path: Path, name: str) -> None:
    root = market_folders(tmp_path, query=[name])
    with pytest.raises(SanError, match="has no name of the form") as caught:
        read_dataset(root)
    assert name in str(caught.value)


@pytest.mark.parametrize("missing", FOLDERS[1:])
def test_missing_folder(tmp_path: Path, missing: str) -> None:
    root = market_folders(tmp_path)
    (root / missing / "0002_c1s1_000451_03.jpg").unlink()
    with pytest.raises(SanError, match=f"{missing} holds no crop"):
        read_dataset(root)
    (root / missing).rmdir()
    with pytest.raises(
        SanError, match=f"{missing} does not exist.*Expected Market-1501: bounding_box_train/"
    ):
        read_dataset(root)


def test_without_training_crops_it_can_be_tested_on(tmp_path: Path) -> None:
    dataset = read_dataset(market_folders(tmp_path, bounding_box_train=[]))
    assert list(dataset.splits) == ["query", "gallery"]
    assert "nothing to train on" in dataset.summary()


def test_gallery_of_junk_alone(tmp_path: Path) -> None:
    root = market_folders(tmp_path, bounding_box_test=["-1_c1s1_000401_03.jpg"])
    with pytest.raises(SanError, match="holds no crop"):
        read_dataset(root)


def test_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = market_folders(tmp_path)

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(SanError, match=r"cannot read .*bounding_box_train: Permission denied"):
        read_dataset(root)
