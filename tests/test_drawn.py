"""Drawn pedestrians: reproducible, well formed, and recognizable by their clothes from camera to camera."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from drawn import draw_camera, draw_cameras, draw_crop, draw_person, draw_track
from PIL import Image

from san_deploy.errors import SanError


def crops(person: int, camera: int, count: int = 2, *, seed: int = 5, size_h: int = 100) -> list[np.ndarray]:
    who, where = draw_person(seed, person), draw_camera(seed, camera)
    rng = np.random.default_rng([seed, person, camera])
    return [draw_crop(who, where, pose, rng) for pose in draw_track(who, where, count, rng, size_h)]


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "identities.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def by_person(folder: Path, camera: str) -> dict[str, list[bytes]]:
    """The files of each person in one camera, whatever the number of the track."""
    return {
        row["person"]: [path.read_bytes() for path in sorted((folder / camera / row["track"]).iterdir())]
        for row in rows_of(folder)
        if row["camera"] == camera
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("drawn") / "crops"
    draw_cameras(out, people=6, cameras=3, crops_per_track=2, distractors=4, seed=1, size_h=80)
    return out


class TestCrop:
    def test_same_seed_same_crop(self) -> None:
        for first, second in zip(crops(3, 1), crops(3, 1), strict=True):
            np.testing.assert_array_equal(first, second)

    def test_shape_and_type(self) -> None:
        for camera in range(8):
            for crop in crops(camera, camera):
                height, width, channels = crop.shape
                assert crop.dtype == np.uint8
                assert channels == 3
                assert width >= 12
                # Resolution 0.6..1.2, heights and boxes vary: about the size asked for.
                assert 30 <= height <= 220
                assert crop.std() > 3

    def test_channels_are_bgr(self) -> None:
        # Skin, leather and warm ground: a street is redder than blue under a neutral camera only on average,
        # so take a camera whose white balance is strong and see which channel it lifts.
        warm = next(c for c in (draw_camera(9, k) for k in range(200)) if c.gain[0] / c.gain[2] > 1.25)
        who = draw_person(9, 0)
        rng = np.random.default_rng(0)
        crop = draw_crop(who, warm, draw_track(who, warm, 1, rng, 100)[0], rng)
        corners = crop[:6].reshape(-1, 3).mean(axis=0)
        assert corners[2] > corners[0]

    def test_a_tracklet_changes_little_from_moment_to_moment(self) -> None:
        who, where = draw_person(2, 1), draw_camera(2, 1)
        poses = draw_track(who, where, 10, np.random.default_rng(0))
        assert np.abs(np.diff([pose.yaw for pose in poses])).max() < 0.2
        assert np.abs(np.diff(np.log([pose.scale for pose in poses]))).max() < 0.1

    def test_people_and_cameras_differ(self) -> None:
        assert len({draw_person(0, k) for k in range(300)}) == 300
        assert len({draw_camera(0, k) for k in range(50)}) == 50
        assert draw_person(0, 1) != draw_person(1, 0)

    def test_many_people_can_be_drawn(self) -> None:
        # Every hat, bag, skirt and obstacle passes by.
        kinds = set()
        for k in range(150):
            who = draw_person(11, k)
            kinds |= {who.bag.kind, who.lower.kind, who.head.hat, who.upper.pattern}
            assert crops(k, k % 20, 1, seed=11, size_h=60)[0].size > 0
        assert kinds >= {
            "backpack",
            "shoulder",
            "handbag",
            "skirt",
            "dress",
            "shorts",
            "cap",
            "stripes",
            "print",
        }


def colour_histogram(crop: np.ndarray) -> np.ndarray:
    """Colours of the upper and the lower garment, relative to the picture's average. (432,), sums to 2."""
    height, width, _ = crop.shape
    middle = crop[:, width // 3 : width - width // 3].astype(np.float32)
    parts = [middle[int(a * height) : int(b * height)].reshape(-1, 3) for a, b in ((0.2, 0.45), (0.55, 0.85))]
    balance = crop.reshape(-1, 3).mean(axis=0)
    histograms = []
    for part in parts:
        balanced = np.clip(part / balance * 110, 0, 255)
        counts, _ = np.histogramdd(balanced, bins=(6, 6, 6), range=((0, 255),) * 3)
        histograms.append(counts.ravel() / counts.sum())
    return np.concatenate(histograms)


def test_clothes_tell_people_apart_across_cameras() -> None:
    people, cameras = 14, 3
    looks = np.array(
        [
            [np.mean([colour_histogram(crop) for crop in crops(p, c, 3)], axis=0) for p in range(people)]
            for c in range(cameras)
        ]
    )
    same, other = [], []
    for first in range(cameras):
        for second in range(first):
            distance = np.abs(looks[first][:, None] - looks[second][None]).sum(axis=-1)
            same.append(np.diag(distance).mean())
            other.append(distance[~np.eye(people, dtype=bool)].mean())
    assert np.mean(same) < 0.8 * np.mean(other)


class TestFolder:
    def test_identities_name_every_track(self, folder: Path) -> None:
        rows = rows_of(folder)
        header = (folder / "identities.csv").read_text(encoding="utf-8").splitlines()[0]
        assert header == "camera,track,person,split"
        assert len(rows) == 6 * 3 + 4
        tracks = {(row["camera"], row["track"]) for row in rows}
        assert tracks == {(path.parent.name, path.name) for path in folder.glob("cam*/t*")}
        assert {row["split"] for row in rows} == {"test"}
        for camera, track in tracks:
            files = sorted((folder / camera / track).iterdir())
            assert [file.name for file in files] == ["0001.jpg", "0002.jpg"]
            with Image.open(files[0]) as image:
                assert image.mode == "RGB"

    def test_people_are_in_all_cameras_and_distractors_in_one(self, folder: Path) -> None:
        seen: dict[int, list[str]] = {}
        for row in rows_of(folder):
            seen.setdefault(int(row["person"]), []).append(row["camera"])
        for number in range(1, 7):
            assert sorted(seen[number]) == ["cam1", "cam2", "cam3"]
        for number in range(7, 11):
            assert len(seen[number]) == 1

    def test_equal_track_numbers_are_different_people(self, folder: Path) -> None:
        by_track: dict[str, list[str]] = {}
        for row in rows_of(folder):
            by_track.setdefault(row["track"], []).append(row["person"])
        for people in by_track.values():
            assert len(set(people)) == len(people)

    def test_same_seed_same_folder(self, folder: Path, tmp_path: Path) -> None:
        out = tmp_path / "again"
        draw_cameras(out, people=6, cameras=3, crops_per_track=2, distractors=4, seed=1, size_h=80)
        assert contents(out) == contents(folder)

    def test_a_camera_more_leaves_the_others_as_they_are(self, tmp_path: Path) -> None:
        for cameras in (1, 2):
            draw_cameras(tmp_path / str(cameras), people=3, cameras=cameras, crops_per_track=1, size_h=60)
        assert by_person(tmp_path / "1", "cam1") == by_person(tmp_path / "2", "cam1")

    def test_split_by_person_and_progress(self, tmp_path: Path) -> None:
        told: list[int] = []
        draw_cameras(
            tmp_path / "new",
            people=2,
            cameras=2,
            crops_per_track=3,
            size_h=60,
            split={1: "train", 2: "test"},
            progress=told.append,
        )
        assert {(row["person"], row["split"]) for row in rows_of(tmp_path / "new")} == {
            ("1", "train"),
            ("2", "test"),
        }
        assert told == [3] * 4

    def test_refuses_a_split_that_lacks_a_person(self, tmp_path: Path) -> None:
        with pytest.raises(SanError, match="person 2"):
            draw_cameras(tmp_path / "new", people=2, split={1: "train"})
        assert not (tmp_path / "new").exists()

    def test_refuses_a_folder_that_is_not_empty(self, tmp_path: Path) -> None:
        (tmp_path / "holiday.jpg").write_bytes(b"mine")
        with pytest.raises(SanError, match="not an empty folder"):
            draw_cameras(tmp_path, people=1)
        assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]

    @pytest.mark.parametrize(
        "wrong", [{"people": 0}, {"people": 1, "cameras": 0}, {"people": 1, "size_h": 5}]
    )
    def test_refuses_impossible_numbers(self, tmp_path: Path, wrong: dict[str, int]) -> None:
        with pytest.raises(SanError, match="must be at least"):
            draw_cameras(tmp_path / "new", **wrong)  # type: ignore[arg-type]
        assert not (tmp_path / "new").exists()
