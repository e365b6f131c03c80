from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from san_export.parity import sample as module
from san_export.parity.sample import Sample, choose

from san_deploy.errors import SanError, UsageError
from san_deploy.preprocess import read_crop
from tests.san_export.parity.conftest import write_crops


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten people, two crops before each of two cameras."""
    images = np.random.default_rng(0).integers(0, 256, (40, 20, 10, 3), dtype=np.uint8)
    return write_crops(tmp_path_factory.mktemp("crops") / "ward", images)


def test_a_labelled_folder_brings_its_labels(folder: Path) -> None:
    got = Sample(choose(folder), (16, 8))
    assert len(got) == 40 and got.labels is not None
    for name, track, person, camera in zip(
        got.names, got.tracks, got.labels.person, got.labels.camera, strict=True
    ):
        assert name.startswith(f"{camera}/t{person:03d}/") and track == f"{camera}/t{person:03d}"
    assert got.labels.query.tolist() == got.labels.gallery.tolist() == list(range(40))
    (one,) = got.images([17])
    assert np.array_equal(one, read_crop(folder / got.names[17], (16, 8)))


def test_many_people_are_chosen_with_few_crops_each(folder: Path) -> None:
    """Ten people of four crops: each has crops of two cameras, so that each is asked for and found."""
    chosen = choose(folder, count=18, seed=3)
    assert chosen.labels is not None
    people, counts = np.unique(chosen.labels.person, return_counts=True)
    assert sorted(counts.tolist()) == [3, 3, 4, 4, 4]
    assert "18 of 40 chosen by seed 3" in chosen.source
    assert choose(folder, count=18, seed=3).names == chosen.names != choose(folder, count=18, seed=4).names
    for person in people:
        assert set(chosen.labels.camera[chosen.labels.person == person]) == {"cam1", "cam2"}


def test_twenty_people_of_many_crops(tmp_path: Path) -> None:
    """150 crops of 20 people who have 70 each: all of them, with 7 or 8 crops, evenly of both cameras."""
    person = np.repeat(np.arange(1, 21), 70)
    camera = np.array([f"cam{i // 35 % 2}" for i in range(1400)])
    rows = module._spread(person, camera, 150, np.random.default_rng(0))
    assert len(rows) == 150 and (np.diff(rows) > 0).all()
    counts = np.bincount(person[rows], minlength=21)[1:]
    assert set(counts.tolist()) <= {7, 8}
    for one in range(1, 21):
        seen = np.unique(camera[rows][person[rows] == one], return_counts=True)[1]
        assert len(seen) == 2 and abs(int(seen[0]) - int(seen[1])) <= 1


def test_one_person_ranks_nobody(folder: Path, tmp_path: Path) -> None:
    """Every answer would be right, so that no loss could be seen."""
    alone = tmp_path / "alone"
    for camera in ("cam1", "cam2"):
        shutil.copytree(folder / camera / "t001", alone / camera / "t001")
        for index in range(4):
            shutil.copy(
                next((alone / camera / "t001").iterdir()), alone / camera / "t001" / f"more{index}.png"
            )
    (alone / "identities.csv").write_text("camera,track,person\ncam1,t001,1\ncam2,t001,1\n")
    chosen = choose(alone)
    assert chosen.labels is None and "of one person" in chosen.notes[0]
    with pytest.raises(SanError, match="of one person"):
        choose(alone, labels=alone / "identities.csv")


def test_one_camera_is_named_by_its_folder(folder: Path, tmp_path: Path) -> None:
    alone = choose(folder / "cam1", count=15)
    assert alone.labels is None and len(alone.names) == 15 and alone.tracks[0].startswith("t")
    with pytest.raises(SanError, match="one camera"):
        choose(folder / "cam1", labels=folder / "identities.csv")


def test_labels_that_do_not_cover_the_crops(folder: Path, tmp_path: Path) -> None:
    labels = tmp_path / "identities.csv"
    lines = (folder / "identities.csv").read_text().splitlines()
    labels.write_text("\n".join(line for line in lines if not line.startswith("cam2,t007")) + "\n")
    with pytest.raises(SanError, match=r"does not say who is on cam2/t007/\d+.png .*\(2 such crops\)"):
        choose(folder, labels=labels)
    with pytest.raises(UsageError, match="for labelled crops"):
        choose(folder / "cam1", split="test")


def test_unreadable_crops_are_left_out_and_labels_follow(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    spoilt = "cam1/t003/0008.png"
    (copy / spoilt).write_bytes(b"no image")
    got = Sample(choose(copy), (16, 8))
    assert len(got) == 39 and spoilt not in got.names and any("1 of the crops" in note for note in got.notes)
    assert got.labels is not None and got.labels.query.tolist() == list(range(39))
    for name, person in zip(got.names, got.labels.person, strict=True):
        assert f"/t{person:03d}/" in name


def test_decoded_again_beyond_the_limit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Sample(choose(folder), (16, 8))
    monkeypatch.setattr(module, "_KEPT_BYTES", 16 * 8 * 3 * 5)
    few = Sample(choose(folder), (16, 8))
    assert sum(image is not None for image in few._kept) == 5
    assert np.array_equal(few.images(range(40)), whole.images(range(40)))


def test_too_few(tmp_path: Path) -> None:
    for index in range(12):
        Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / f"{index}.png")
    chosen = choose(tmp_path)
    assert chosen.tracks == chosen.names
    for index in range(3):
        (tmp_path / f"{index}.png").write_bytes(b"no image")
    with pytest.raises(SanError, match="9 of the 12 crops"):
        Sample(chosen, (16, 8))
    for index in range(3):
        (tmp_path / f"{index}.png").unlink()
    with pytest.raises(SanError, match="holds 9 crops, at least 10"):
        choose(tmp_path)
