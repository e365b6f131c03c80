"""Market-1501 in its exact layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from san_deploy.datasets import DISTRACTOR, read_dataset
from san_deploy.errors import SanError

FOLDERS = ("bounding_box_train", "query", "bounding_box_test")


def build(root: Path, **files: list[str]) -> Path:
    """Empty files: the reader opens none."""
    default = {name: ["0002_c1s1_000451_03.jpg"] for name in FOLDERS}
    for folder, names in (default | files).items():
        (root / folder).mkdir(parents=True)
        for name in names:
            (root / folder / name).touch()
    return root


def test_layout(tmp_path: Path) -> None:
    # The parent folder looks like a label; only the base name may be read.
    root = build(
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
            "0000_c2s1_000401_03.jpg",
            "1501_c1s6_011741_02.jpg",
        ],
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
    # A distractor is no person in the summary.
    assert dataset.summary().splitlines()[4].split() == ["gallery", "2", "1", "2", "2"]


def test_dukemtmc_names_are_read_too(tmp_path: Path) -> None:
    root = build(tmp_path, query=["0005_c2_f0046985.jpg"])
    crop = read_dataset(root).splits["query"][0]
    assert (crop.person, crop.camera) == (5, "c2")


@pytest.mark.parametrize(
    "name", ["person.jpg", "002_c1s1_0_0.jpg", "0002c1s1_0_0.jpg", "-2_c1s1_0_0.jpg", "x0002_c1s1_0.jpg"]
)
def test_bad_names(tmp_path: Path, name: str) -> None:
    root = build(tmp_path, query=[name])
    with pytest.raises(SanError, match="has no name of the form") as caught:
        read_dataset(root)
    assert name in str(caught.value)


@pytest.mark.parametrize("missing", FOLDERS[1:])
def test_missing_folder(tmp_path: Path, missing: str) -> None:
    root = build(tmp_path)
    (root / missing / "0002_c1s1_000451_03.jpg").unlink()
    with pytest.raises(SanError, match=f"{missing} holds no crop"):
        read_dataset(root)
    (root / missing).rmdir()
    with pytest.raises(SanError, match=f"{missing} does not exist"):
        read_dataset(root)


def test_gallery_of_junk_alone(tmp_path: Path) -> None:
    root = build(tmp_path, bounding_box_test=["-1_c1s1_000401_03.jpg"])
    with pytest.raises(SanError, match="holds no crop"):
        read_dataset(root)


@pytest.mark.parametrize(
    ("name", "told"), [("missing", "does not exist"), ("file", "is not a folder"), ("other", "no layout")]
)
def test_no_data_set(tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "other").mkdir()
    with pytest.raises(SanError, match=told):
        read_dataset(tmp_path / name)


def test_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = build(tmp_path)

    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(SanError, match=r"cannot read .*bounding_box_train: Permission denied"):
        read_dataset(root)
