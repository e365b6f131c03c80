"""MSMT17, both versions, in their exact layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from san_deploy.datasets import evaluation_set, read_dataset
from san_deploy.errors import SanError
from tests.san_deploy.datasets import layouts


@pytest.mark.parametrize(("version", "folder"), [(1, "test"), (2, "mask_test_v2")])
def test_layout(tmp_path: Path, version: int, folder: str) -> None:
    dataset = read_dataset(layouts.msmt17(tmp_path / f"MSMT17_V{version}", version))
    assert dataset.name == f"MSMT17 v{version}"
    got = {split: [(crop.person, crop.camera) for crop in crops] for split, crops in dataset.splits.items()}
    # Everybody counts from 0 in the lists: person 0 is no distractor, and no person to train on is tested.
    assert got == {
        "train": [(1, "c1"), (2, "c14")],
        "query": [(3, "c5"), (4, "c6")],
        "gallery": [(3, "c7"), (4, "c8"), (5, "c15")],
        # The people of list_val.txt are trained on: no split `val`.
        "list_val": [(2, "c2")],
    }
    query = dataset.splits["query"][0]
    assert query.path == dataset.root / folder / "0000" / "0000_000_05_0303morning_0015_0.jpg"
    assert query.path.is_file()
    chosen = evaluation_set(dataset)
    assert (len(chosen.query), len(chosen.gallery), chosen.rows()[1]["people"]) == (2, 3, 3)
    everybody = evaluation_set(dataset, "all")
    assert len(everybody.gallery) == len({(crop.camera, crop.track) for crop in everybody.gallery}) == 8


def test_the_archives_own_folder_is_found(tmp_path: Path) -> None:
    layouts.msmt17(tmp_path / "MSMT17_V2", 2)
    assert read_dataset(tmp_path).name == "MSMT17 v2"


def test_validation_people_of_their_own_are_a_split(tmp_path: Path) -> None:
    root = layouts.msmt17(tmp_path)
    (root / "list_val.txt").write_text("0001/0001_001_02_0303noon_0017_1_ex.jpg 2\n")
    assert [crop.person for crop in read_dataset(root).splits["val"]] == [3]
    assert [crop.person for crop in read_dataset(root).splits["query"]] == [4, 5]


def test_lists_that_may_be_missing(tmp_path: Path) -> None:
    root = layouts.msmt17(tmp_path)
    (root / "list_val.txt").unlink()
    (root / "list_train.txt").unlink()
    dataset = read_dataset(root)
    assert list(dataset.splits) == ["query", "gallery"] and "nothing to train on" in dataset.summary()
    (root / "list_gallery.txt").unlink()
    with pytest.raises(SanError, match=r"list_gallery\.txt does not exist.*Expected MSMT17: list_train"):
        read_dataset(root)


def test_lists_that_may_be_empty(tmp_path: Path) -> None:
    root = layouts.msmt17(tmp_path)
    (root / "list_val.txt").write_text("\n")
    dataset = read_dataset(root)
    assert list(dataset.splits) == ["train", "query", "gallery"]
    assert "list_val.txt names no crop." in dataset.summary()
    (root / "list_query.txt").write_text("")
    with pytest.raises(SanError, match=r"list_query\.txt names no crop"):
        read_dataset(root)


def test_crops_that_are_not_there(tmp_path: Path) -> None:
    root = layouts.msmt17(tmp_path)
    (root / "test/0002/0002_000_15_0113noon_1_0.jpg").unlink()
    with pytest.raises(SanError, match=r"names test/0002/0002_000_15.*1 of its 3 crops are missing"):
        read_dataset(root)
    (root / "test").rename(root / "tests")
    with pytest.raises(SanError, match="no folder test or mask_test_v2"):
        read_dataset(root)


@pytest.mark.parametrize(
    "line",
    [
        "0000/0000_000_05_0303morning_0015_0.jpg",
        "0000/0000_000_05_0303morning_0015_0.jpg -1",
        "0000/0000_000_05_0303morning_0015_0.jpg " + "9" * 19,
        "0000/person.jpg 0",
        "../test/0000/0000_000_05_0303morning_0015_0.jpg 0",
        "0000/../0000/0000_000_05_0303morning_0015_0.jpg 0",
        "/etc/0000_000_05_0303morning_0015_0.jpg 0",
    ],
)
def test_bad_lines(tmp_path: Path, line: str) -> None:
    root = layouts.msmt17(tmp_path)
    path = root / "list_query.txt"
    path.write_text(path.read_text() + "\n" + line + "\n")
    with pytest.raises(SanError, match=r"list_query\.txt, line 4: .* is no file and person"):
        read_dataset(root)


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe\x00"])
def test_bad_list(tmp_path: Path, content: bytes) -> None:
    root = layouts.msmt17(tmp_path)
    (root / "list_query.txt").write_bytes(content)
    with pytest.raises(SanError, match=r"list_query\.txt (names no crop|is not a list of files)"):
        read_dataset(root)
