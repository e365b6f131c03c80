from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from san_export.precision.calibration import LEAST, pick_crops, read_labelled
from san_export.verify import check_crops, read_crops, sample_crops

from san_deploy.errors import SanError
from san_deploy.preprocess import read_crop

SIZE_HW = (16, 8)


def write_crops(folder: Path, people: int, *, splits: tuple[str, ...] = (), crops: int = 4) -> Path:
    """`people` people before two cameras, `crops` crops each, of a colour that tells the person."""
    rng = np.random.default_rng(5)
    rows = ["camera,track,person" + (",split" if splits else "")]
    for camera in ("cam1", "cam2"):
        for person in range(1, people + 1):
            track = folder / camera / f"t{person:03d}"
            track.mkdir(parents=True)
            for frame in range(crops):
                pixels = rng.integers(0, 30, (20, 10, 3)) + person * 5
                Image.fromarray(pixels.astype(np.uint8)).save(track / f"{frame}.png")
            split = f",{splits[person % len(splits)]}" if splits else ""
            rows.append(f"{camera},t{person:03d},{person}{split}")
    (folder / "identities.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_the_seed_chooses_and_the_rest_is_for_the_check(tmp_path: Path) -> None:
    folder = write_crops(tmp_path / "site", 12)
    (folder / "identities.csv").unlink()
    first = pick_crops(folder, SIZE_HW, count=64, seed=3)
    again = pick_crops(folder, SIZE_HW, count=64, seed=3)
    other = pick_crops(folder, SIZE_HW, count=64, seed=4)
    assert first.images.shape == (64, 16, 8, 3)
    assert np.array_equal(first.images, again.images) and first.sha256 == again.sha256
    assert first.sha256 != other.sha256
    assert first.folder == "site" and first.check.source == "crops of site"
    # 96 crops in all: what calibration left over is what the check runs on.
    assert len(first.check.images) == 32 == len(set(first.check.names))
    chosen = {image.tobytes() for image in first.images}
    assert not any(image.tobytes() in chosen for image in first.check.images)
    for name, image in zip(first.check.names, first.check.images, strict=True):
        assert np.array_equal(image, read_crop(folder / name, SIZE_HW))


def test_crops_are_resized_as_the_network_takes_them(tmp_path: Path) -> None:
    """A network of somebody else brings its own resize: ranges and checks of other pixels are not its own."""
    folder = write_crops(tmp_path, 12)
    one = "cv2-linear"
    chosen = pick_crops(folder, (32, 16), count=32, seed=0, resize=one)
    # The crops behind the calibration's have their names beside them.
    for image, name in zip(chosen.check.images, chosen.check.names, strict=True):
        assert np.array_equal(image, read_crop(folder / name, (32, 16), one))
        assert not np.array_equal(image, read_crop(folder / name, (32, 16)))
    for crops in (
        read_crops(folder, (32, 16), 5, resize=one),
        check_crops(folder, (32, 16), str, resize=one),
    ):
        assert np.array_equal(crops.images[0], read_crop(folder / crops.names[0], (32, 16), one))
    assert not np.array_equal(sample_crops((32, 16), 2, resize=one).images, sample_crops((32, 16), 2).images)


def test_a_small_folder_is_used_twice(tmp_path: Path) -> None:
    folder = write_crops(tmp_path, 5)
    picked = pick_crops(folder, SIZE_HW, count=512, seed=0)
    assert len(picked.images) == len(picked.check.images) == 40


def test_people_who_judge_are_left_out(tmp_path: Path) -> None:
    folder = write_crops(tmp_path, 12, splits=("train", "test", "val"))
    picked = pick_crops(folder, SIZE_HW, count=512, seed=0)
    assert len(picked.images) == 64
    judges = {person for person in range(1, 13) if person % 3 == 1}
    assert not any(int(Path(name).parent.name[1:]) in judges for name in picked.check.names)
    labelled = read_labelled(folder, SIZE_HW, seed=0)
    assert labelled is not None
    # Where people were held out from training, they alone measure the loss.
    assert set(labelled.person.tolist()) == {2, 5, 8, 11} and "val people" in labelled.source
    with pytest.raises(SanError, match="who judge"):
        read_labelled(write_crops(tmp_path / "judges", 9, splits=("test",)), SIZE_HW, seed=0)


def test_the_judges_of_every_known_data_set_are_left_out(tmp_path: Path) -> None:
    """DukeMTMC-reID: its queries and its gallery are not for ranges."""
    for folder, people in (
        ("bounding_box_train", range(1, 41)),
        ("query", [50]),
        ("bounding_box_test", [50, 51]),
    ):
        (tmp_path / folder).mkdir()
        for person in people:
            for camera in (1, 2):
                Image.new("RGB", (8, 16), (person, 0, 0)).save(
                    tmp_path / folder / f"{person:04d}_c{camera}_f0046182.jpg"
                )
    picked = pick_crops(tmp_path, SIZE_HW, count=512, seed=0)
    assert len(picked.images) == 80
    assert all(name.startswith("bounding_box_train/") for name in picked.check.names)


def test_too_few_crops_and_bad_files(tmp_path: Path) -> None:
    folder = write_crops(tmp_path / "few", 4)
    (folder / "identities.csv").unlink()
    (folder / "cam1" / "t001" / "0.png").write_bytes(b"no image")
    with pytest.raises(
        SanError, match=f"holds 31 crops to calibrate on, at least {LEAST}.*1 files cannot be read"
    ):
        pick_crops(folder, SIZE_HW, count=512, seed=0)
    with pytest.raises(SanError, match="does not exist"):
        pick_crops(tmp_path / "nowhere", SIZE_HW, count=512, seed=0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SanError, match="holds no image"):
        pick_crops(tmp_path / "empty", SIZE_HW, count=512, seed=0)
    assert read_labelled(folder, SIZE_HW, seed=0) is None
    with pytest.raises(SanError, match="test, query and gallery"):
        pick_crops(write_crops(tmp_path / "judges", 9, splits=("test",)), SIZE_HW, count=512, seed=0)


class ByColour:
    """A backend that embeds a crop by its mean colour, or, at random, by nothing of it."""

    name = "by colour"

    def __init__(self, right: bool) -> None:
        self.right = right

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        angle = crops.mean((1, 2, 3)) / 40
        if not self.right:
            angle = np.random.default_rng(len(crops)).uniform(0, 3, len(crops))
        return np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)


def test_accuracy_tells_a_network_that_sees_from_one_that_does_not(tmp_path: Path) -> None:
    labelled = read_labelled(write_crops(tmp_path, 10), SIZE_HW, seed=0)
    assert labelled is not None and len(labelled.images) == 80
    right, wrong = (labelled.accuracy(ByColour(right)) for right in (True, False))  # type: ignore[arg-type]
    assert right["rank1"] > 0.5 > wrong["rank1"]
    assert right["mAP"] > wrong["mAP"] + 0.2
