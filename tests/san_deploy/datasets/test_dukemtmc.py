"""DukeMTMC-reID in its exact layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from san_deploy.datasets import evaluation_set, read_dataset
from san_deploy.errors import SanError
from tests.san_deploy.datasets.layouts import market_folders, touch


def build(root: Path) -> Path:
    market_folders(
        root,
        bounding_box_train=["0001_c2_f0046182.jpg", "0001_c1_f0044158.jpg"],
        query=["0005_c2_f0046985.jpg"],
        bounding_box_test=["0005_c5_f0051341.jpg", "7140_c8_f0223411.jpg"],
    )
    # Licences and citations lie beside the folders.
    return touch(root, ["CITATION_DukeMTMC.txt", "LICENSE_DukeMTMC-reID.txt"])


def test_layout(tmp_path: Path) -> None:
    dataset = read_dataset(build(tmp_path))
    assert dataset.name == "DukeMTMC-reID"
    assert [(crop.person, crop.camera) for crop in dataset.splits["train"]] == [(1, "c1"), (1, "c2")]
    assert [(crop.person, crop.camera) for crop in dataset.splits["query"]] == [(5, "c2")]
    # Its distractors have numbers of their own and count as people.
    assert [(crop.person, crop.camera) for crop in dataset.splits["gallery"]] == [(5, "c5"), (7140, "c8")]
    assert evaluation_set(dataset).rows()[1]["people"] == 2


def test_the_archives_own_folder_is_found(tmp_path: Path) -> None:
    build(tmp_path / "DukeMTMC-reID")
    assert read_dataset(tmp_path).name == "DukeMTMC-reID"


def test_a_name_of_market_is_refused(tmp_path: Path) -> None:
    root = touch(build(tmp_path), ["bounding_box_test/0002_c1s1_000451_03.jpg"])
    with pytest.raises(SanError, match=r"has no name of the form 0005_c2_f0046985\.jpg"):
        read_dataset(root)


def test_market_is_not_taken_for_it(tmp_path: Path) -> None:
    assert read_dataset(market_folders(tmp_path)).name == "Market-1501"
