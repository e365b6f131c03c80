"""WARD in its authors' layout. Our crop-folder form is read in test_crop_folder.py and tests/test_ward.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from san_deploy.datasets import Options, count_positives, evaluation_set, read_dataset, ward
from san_deploy.errors import SanError
from tests.san_deploy.datasets.layouts import touch

NAMES = [
    f"{person:04d}{camera:04d}{frame:04d}.png"
    for person in (1, 70)
    for camera in (1, 2, 3)
    for frame in (1, 2)
]


@pytest.mark.parametrize("inside", ["", "WARD"])
def test_layout(tmp_path: Path, inside: str) -> None:
    root = touch(tmp_path / inside, NAMES)
    dataset = read_dataset(tmp_path)
    assert (dataset.name, dataset.root, dataset.unsplit) == ("WARD", root, True)
    crops = dataset.splits["train"]
    assert [crop.path.name for crop in crops] == sorted(NAMES)
    assert [(crop.person, crop.camera, crop.track) for crop in crops[6:9]] == [
        (70, "cam1", "0070"),
        (70, "cam1", "0070"),
        (70, "cam2", "0070"),
    ]
    assert dataset.rows()[0]["tracklets"] == 6
    # Nothing names a split: everybody is evaluated, each crop against the four by the other cameras.
    assert count_positives(evaluation_set(dataset)).tolist() == [4] * 12


@pytest.mark.parametrize("name", ["00010001001.png", "0001000100011.png", "000000010001.png", "a.png"])
def test_bad_names(tmp_path: Path, name: str) -> None:
    root = touch(tmp_path, [*NAMES, name])
    with pytest.raises(SanError, match=r"has no name of the form 000100020003\.png"):
        ward.read(root, Options())


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(SanError, match="holds no crop"):
        ward.read(tmp_path, Options())
