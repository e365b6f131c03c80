from __future__ import annotations

import csv
import json
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest

from san_deploy.errors import SanError, UsageError
from san_deploy.images import read_image
from san_deploy.video.crops import COVERED, NO_FRAME, SMALL, CropOptions, crop_video, written_names
from san_deploy.video.detections import from_arrays
from san_deploy.video.formats import FORMATS, read_detections
from san_deploy.video.frames import Video

from .made import SIZE_WH, WRITERS, boxes_of, cv2, draw, number_in, vary_rate, write_video

FRAMES = 30


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "video.mp4", boxes_of(FRAMES))


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.jpg")}


def test_all_formats_cut_the_same_crops(video: Path, tmp_path: Path) -> None:
    found = {}
    for form, write in WRITERS.items():
        boxes = read_detections(write(tmp_path / f"boxes-{form}", boxes_of(FRAMES)))
        folder = tmp_path / form
        folder.mkdir()
        crop_video(Video(video), boxes, folder, CropOptions(per_track=4))
        found[form] = tree(folder)
    first = found["mot"]
    assert {name.split("/")[0] for name in first} == {"t0001", "t0002", "t0007"}
    for form in set(FORMATS) - {"mot", "deepstream-json"}:
        assert found[form] == first, form
    # DeepStream's messages have no confidence; it is equal for all boxes here, so the choice is the same.
    assert found["deepstream-json"] == first


def test_crops_are_of_the_frame_and_the_person_that_they_name(video: Path, tmp_path: Path) -> None:
    boxes = read_detections(WRITERS["mot"](tmp_path / "boxes.txt", boxes_of(FRAMES)))
    crop_video(Video(video), boxes, tmp_path, CropOptions(per_track=5))
    wanted = boxes_of(FRAMES)
    for name in tree(tmp_path):
        track, frame = int(name[1:5]), int(name[6:12])
        left, top, right, bottom = next(box for number, box in wanted[frame] if number == track)
        crop = read_image(tmp_path / name).astype(int)
        assert crop.shape[:2] == (bottom - top, right - left)
        # MPEG-4 and JPEG change a pixel by little; another frame or another box changes whole garments.
        assert np.abs(crop - draw(frame, wanted[frame])[top:bottom, left:right]).mean() < 12


def test_decoded_frames_are_the_numbered_ones(video: Path) -> None:
    wanted = np.array([0, 3, 4, 17, FRAMES - 1])
    assert [(number, number_in(frame)) for number, frame in Video(video).frames(wanted)] == [
        (number, number) for number in wanted.tolist()
    ]


def test_times_of_a_varying_rate(tmp_path: Path) -> None:
    # The second half of the frames lasts four times as long.
    factors = [1] * 15 + [4] * 15
    path = vary_rate(write_video(tmp_path / "video.mp4", boxes_of(FRAMES)), factors)
    timeline = Video(path).timeline()
    wanted = np.concatenate([[0], np.cumsum(factors)[:-1]]) / 10
    assert np.allclose(timeline.time_s, wanted, atol=2e-3) and timeline.repaired == 0
    boxes = read_detections(WRITERS["mot"](tmp_path / "boxes.txt", boxes_of(FRAMES)))
    folder = tmp_path / "cam"
    folder.mkdir()
    result = crop_video(Video(path), boxes, folder, CropOptions(per_track=4))
    first = next(track for track in result.tracks if track.name == "t0001")
    assert (first.start_s, first.end_s) == pytest.approx((0, wanted[-1]), abs=2e-3)
    # One crop in each quarter of the time, not of the frames.
    times = [wanted[int(path.stem)] for path in sorted((folder / "t0001").iterdir())]
    assert [int(time / (wanted[-1] / 4 + 1e-9)) for time in times] == [0, 1, 2, 3]


def test_a_cut_file_gives_what_is_there(video: Path, tmp_path: Path) -> None:
    # Motion JPEG in AVI keeps its frames readable without an index.
    path = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, SIZE_WH)
    for number, people in enumerate(boxes_of(FRAMES)):
        writer.write(draw(number, people))
    writer.release()
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    boxes = read_detections(WRITERS["mot"](tmp_path / "boxes.txt", boxes_of(FRAMES)))
    folder = tmp_path / "cam"
    folder.mkdir()
    result = crop_video(Video(path), boxes, folder, CropOptions())
    assert 5 < result.frames < FRAMES - 5
    assert result.rejected[NO_FRAME] == sum(len(people) for people in boxes_of(FRAMES)[result.frames :])
    assert any(f"announces {FRAMES} frames, {result.frames} are there" in note for note in result.notes)


def test_a_folder_of_images(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number, people in enumerate(boxes_of(12)):
        cv2.imwrite(str(images / f"{number:04d}.png"), draw(number, people))
    boxes = read_detections(WRITERS["csv"](tmp_path / "boxes.csv", boxes_of(12)))
    folder = tmp_path / "cam"
    folder.mkdir()
    result = crop_video(Video(images, fps=5), boxes, folder, CropOptions(per_track=2))
    assert (result.frames, result.seconds) == (12, pytest.approx(2.2)) and len(tree(folder)) == 6
    with pytest.raises(UsageError, match=r"folder of images. They have no times. Say --fps"):
        Video(images)
    with pytest.raises(UsageError, match="--fps is for folders"):
        Video(boxes_file := WRITERS["mot"](tmp_path / "b.txt", boxes_of(2)), fps=5)
    assert boxes_file.exists()


def test_what_is_left_out_is_counted(video: Path, tmp_path: Path) -> None:
    # A stands behind B, C is too small, D is in no frame.
    frame, track = [0, 0, 1, 500], ["a", "b", "c", "d"]
    xyxy = [[10, 20, 50, 120], [10, 20, 60, 130], [5, 5, 9, 20], [10, 20, 50, 120]]
    result = crop_video(Video(video), from_arrays(frame, track, xyxy), tmp_path, CropOptions())
    assert [(item.track, item.crops) for item in result.tracks] == [("b", 1)]
    assert result.lost == {"a": COVERED, "c": SMALL, "d": NO_FRAME}
    assert result.rejected == {COVERED: 1, SMALL: 1, NO_FRAME: 1}


def test_sharp_crops_are_preferred(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 256, (50, 20, 3), np.uint8).repeat(2, 0).repeat(2, 1)
    for number in range(6):
        frame = np.full((240, 320, 3), 128, np.uint8)
        frame[40:140, 100:140] = texture if number == 4 else cv2.GaussianBlur(texture, (0, 0), 5)
        cv2.imwrite(str(images / f"{number}.png"), frame)
    found = from_arrays(range(6), [1] * 6, [[100, 40, 140, 140]] * 6)
    folder = tmp_path / "cam"
    folder.mkdir()
    crop_video(Video(images, fps=10), found, folder, CropOptions(per_track=1))
    assert list(tree(folder)) == ["t0001/000004.jpg"]


def test_tracks_csv(video: Path, tmp_path: Path) -> None:
    boxes = read_detections(WRITERS["mot"](tmp_path / "boxes.txt", boxes_of(FRAMES)))
    start = datetime(2026, 3, 1, 9, 30, tzinfo=timezone.utc)
    crop_video(Video(video), boxes, tmp_path, CropOptions(start=start, camera="door", per_track=3))
    with (tmp_path / "tracks.csv").open(newline="") as file:
        rows = {row["track"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"t0001", "t0002", "t0007"} and {row["camera"] for row in rows.values()} == {"door"}
    late = rows["t0002"]
    assert late["start"] == "2026-03-01T09:30:00.500+00:00" and late["end"] == "2026-03-01T09:30:02.400+00:00"
    assert (late["first_frame"], late["last_frame"], late["boxes"], late["crops"]) == ("5", "24", "20", "3")
    assert written_names(tmp_path) == {"tracks.csv", "crops.json", "t0001", "t0002", "t0007"}


@pytest.mark.parametrize(
    ("xyxy", "frame", "message"),
    [
        ([[1000, 900, 1100, 1000]], 0, "boxes lie outside .* 320 x 240 pixels.*--box-size"),
        ([[10, 20, 50, 120]], 99, "has 30 frames, and the first box is in frame 99"),
        ([[10, 20, 50, 30]], 0, "no box gives a crop .1 below --min-height"),
    ],
)
def test_boxes_that_do_not_fit(
    video: Path, tmp_path: Path, xyxy: list[list[float]], frame: int, message: str
) -> None:
    with pytest.raises(SanError, match=message):
        crop_video(Video(video), from_arrays([frame], [1], xyxy), tmp_path, CropOptions())


def test_boxes_for_resized_frames(video: Path, tmp_path: Path) -> None:
    doubled = [[20, 40, 100, 240]]
    options = CropOptions(made_for_wh=(640, 480))
    crop_video(Video(video), from_arrays([0], [1], doubled), tmp_path, options)
    assert read_image(tmp_path / "t0001" / "000000.jpg").shape == (100, 40, 3)


def test_bad_videos(tmp_path: Path) -> None:
    with pytest.raises(SanError, match=r"none.mp4 does not exist"):
        Video(tmp_path / "none.mp4")
    with pytest.raises(SanError, match=r"is an address.*Record it"):
        Video(Path("rtsp://camera/1"))
    (tmp_path / "a.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(SanError, match=r"a.mp4 is no video that OpenCV can read"):
        Video(tmp_path / "a.mp4").timeline()
    (tmp_path / "folder").mkdir()
    with pytest.raises(SanError, match="holds no image"):
        Video(tmp_path / "folder", fps=5)


def test_names_of_tracks_stay_inside_and_apart(video: Path, tmp_path: Path) -> None:
    names = ["../up", "a/b", "a b", "A_B"]
    xyxy = [[10, 20, 50, 120], [60, 20, 100, 120], [110, 20, 150, 120], [160, 20, 200, 120]]
    folder = tmp_path / "cam"
    folder.mkdir()
    result = crop_video(Video(video), from_arrays([0] * 4, names, xyxy), folder, CropOptions())
    assert sorted(item.name for item in result.tracks) == ["A_B-3", "___up", "a_b", "a_b-2"]
    assert len(tree(folder)) == 4 and list(tmp_path.iterdir()) == [folder]
    assert json.loads((folder / "crops.json").read_text())["schema_version"] == 1
