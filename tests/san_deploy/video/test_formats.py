from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from san_deploy.errors import SanError, UsageError
from san_deploy.video.detections import EMPTY, NO_TRACK, NOT_A_PERSON, Detections, from_arrays, track_name
from san_deploy.video.formats import FORMATS, ReadOptions, read_detections

from .made import SIZE_WH, WRITERS, boxes_of


def flat(found: Detections) -> list[tuple[int, str, tuple[float, ...]]]:
    boxes = found.in_pixels(SIZE_WH)
    order = sorted(range(len(found)), key=lambda at: (found.frame[at], found.track[at]))
    return [
        (int(found.frame[at]), str(found.track[at]), tuple(np.round(boxes[at], 4).tolist())) for at in order
    ]


def test_every_format_has_a_writer() -> None:
    assert set(WRITERS) == set(FORMATS)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("named", [True, False])
def test_all_formats_give_the_same_boxes(tmp_path: Path, form: str, named: bool) -> None:
    boxes = boxes_of(12)
    wanted = sorted(
        (number, str(track), tuple(map(float, box)))
        for number, people in enumerate(boxes)
        for track, box in people
    )
    found = read_detections(
        WRITERS[form](tmp_path / "boxes", boxes), form if named else "", ReadOptions(video="video")
    )
    assert found.format == form
    assert flat(found) == wanted
    assert found.dropped == ({NOT_A_PERSON: 1} if form == "coco" else {})


def test_arrays_of_a_tracker() -> None:
    found = from_arrays(
        [0, 0, 1], [3, None, -1], [[0, 0, 9, 20], [5, 5, 9, 20], [1, 1, 9, 20]], [0.5, 0.5, 0.5]
    )
    assert flat(found) == [(0, "3", (0.0, 0.0, 9.0, 20.0))] and found.dropped == {NO_TRACK: 2}
    with pytest.raises(SanError, match="2, 1, 2, 2 entries"):
        from_arrays([0, 1], [1], [[0, 0, 1, 1]] * 2)


@pytest.mark.parametrize(
    ("value", "name"),
    [(3, "3"), (3.0, "3"), ("007", "7"), ("a-1", "a-1"), ("\0", None), ("7\0", "7"), ("a\0", "a"),
     (-1, None), ("-1", None), (None, None), ("", None),
     (float("nan"), None), (18446744073709551615, None), ("18446744073709551615", None)],
)  # fmt: skip
def test_names_of_tracks(value: object, name: str | None) -> None:
    assert track_name(value) == name


def test_numbers_below_zero_and_empty_boxes_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "boxes.txt"
    path.write_text("1,-1,1,1,10,20,1\n1,4,1,1,0,20,1\n2,4,1,1,10,20,1\n")
    found = read_detections(path)
    assert len(found) == 1 and found.dropped == {NO_TRACK: 1, EMPTY: 1}


def test_first_frame(tmp_path: Path) -> None:
    path = tmp_path / "boxes.txt"
    path.write_text("0,1,1,1,10,20,1\n")
    with pytest.raises(SanError, match=r"line 1: frame -1 is before the first. Say which .* --first-frame"):
        read_detections(path)
    assert read_detections(path, options=ReadOptions(first_frame=0)).frame.tolist() == [0]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "1,2,3,4,nan,6\n", "line 1: a box holds NaN or infinity"),
        ("a.txt", "1,2,3,4,5,inf\n", "line 1: a box holds NaN or infinity"),
        ("a.txt", "1,2,3,4,5,6\n1,2,3\n", "line 2: frame, id, left, top, width, height are wanted"),
        ("a.txt", "1.5,2,3,4,5,6\n", "line 1: the frame number is not whole"),
        ("a.txt", "1e300,2,3,4,5,6\n", r"line 1: frame 1e\+300 is beyond any video"),
        ("a.txt", "9300000000000000000,2,3,4,5,6\n", "line 1: frame 9.3e\\+18 is beyond any video"),
        ("a.txt", "1,2,3,4,5,6\n1,2,3,4,5,6\n", "frame 0 has track 2 twice"),
        ("a.txt", "1,-1,3,4,5,6\n", "none of its 1 boxes has a track number.*not the detector's"),
        ("a.txt", "", "format of .* is not recognised.*--format"),
        ("a.txt", "hello\n", "format of .* is not recognised"),
        ("a.csv", "frame,x1,y1,x2,y2,conf\n0,1,2,3,4,1\n", "no column for track. Its columns are frame, x1"),
        ("a.csv", "frame,track,x1,y1,conf\n0,1,2,3,4\n", "no column for right and bottom, or width and height"),
        ("a.csv", "frame,track,x1,y1,x2,y2\n0,1,2,3\n", "line 2: 4 cells, 6 wanted"),
        ("a.csv", "frame,track,x1,y1,x2,y2\n0,1,2,x,3,4\n", "line 2: could not convert"),
        ("a.json", '{"images": [', "is not JSON"),
        ("a.json", '{"images": [], "annotations": [{"image_id": 3}]}', "holds no box"),
        ("a.json", '{"images": [{"id": 3}], "annotations": [{"image_id": 3}]}', "not COCO's form: KeyError 'bbox'"),
        ("a.json", '{"images": [{"id": 3}], "annotations": [{"image_id": 3, "bbox": [1, 2, 3, 4]}]}', "no frame_id"),
        ("a.json", '[{"name": "person", "box": {"x1": 1}}]', "frame 1: KeyError 'y1'"),
        ("a.json", '{"id": "0", "objects": ["1|2"]}', "line 1: ValueError"),
    ],
)  # fmt: skip
def test_bad_files(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(SanError, match=message):
        read_detections(path)


def test_missing_binary_and_unknown(tmp_path: Path) -> None:
    with pytest.raises(SanError, match=r"none.txt does not exist"):
        read_detections(tmp_path / "none.txt")
    with pytest.raises(SanError, match=r"holds no .txt file"):
        read_detections(tmp_path)
    (tmp_path / "a.bin").write_bytes(b"1,2,3,4,5,6\n\xff\xfe")
    with pytest.raises(SanError, match="not text in UTF-8"):
        read_detections(tmp_path / "a.bin")
    (tmp_path / "a.txt").write_text("1,2,3,4,5,6\n")
    with pytest.raises(UsageError, match=r"--stream is for DeepStream's files; .*a\.txt is read as MOT"):
        read_detections(tmp_path / "a.txt", options=ReadOptions(stream=1))
    with pytest.raises(UsageError, match=r"--format yolo is unknown. One of csv, mot"):
        read_detections(tmp_path / "a.bin", "yolo")


@pytest.mark.parametrize(
    ("line", "tracks", "message"),
    [
        ("0 0.5 0.5 0.1 0.4 3", ["3"], ""),
        ("0 0.5 0.5 0.1 0.4 0.87 3", ["3"], ""),
        ("inf 0.5 0.5 0.1 0.4 0.87 3", [], "holds no box: 1 not a person"),
        ("0 0.5 0.5 0.1 0.4 0.87", [], "yolo track save_txt=True"),
        ("0 0.5 0.5 0.1 0.4", [], "yolo track save_txt=True"),
        ("2 0.5 0.5 0.1 0.4 3", [], "1 not a person"),
    ],
)
def test_columns_of_ultralytics(tmp_path: Path, line: str, tracks: list[str], message: str) -> None:
    (tmp_path / "video_1.txt").write_text(line + "\n")
    if message:
        with pytest.raises(SanError, match=message):
            read_detections(tmp_path)
    else:
        assert read_detections(tmp_path).track.tolist() == tracks


def test_kitti_without_a_tracker_and_of_two_streams(tmp_path: Path) -> None:
    zeros = " ".join(["0.0"] * 7)
    (tmp_path / "00_000_000000.txt").write_text(f"person 0.0 0 0.0 1.0 2.0 30.0 80.0 {zeros} 0.9\n")
    with pytest.raises(SanError, match="kitti-track-output-dir"):
        read_detections(tmp_path)
    (tmp_path / "00_001_000000.txt").write_text(f"person 5 0.0 0 0.0 1.0 2.0 30.0 80.0 {zeros} 0.9\n")
    with pytest.raises(SanError, match=r"holds streams 0, 1. Choose one: --stream N"):
        read_detections(tmp_path, "kitti")
    assert read_detections(tmp_path, "kitti", ReadOptions(stream=1)).track.tolist() == ["5"]


def test_coco_of_two_videos(tmp_path: Path) -> None:
    def image(number: int, video: int) -> dict[str, int]:
        return {"id": number, "frame_id": 0, "video_id": video}

    whole = {
        "videos": [{"id": 1, "name": "door.mp4"}, {"id": 2, "name": "hall.mp4"}],
        "images": [image(1, 1), image(2, 2)],
        "annotations": [{"image_id": n, "track_id": n, "bbox": [0, 0, 9, 20]} for n in (1, 2)],
    }
    path = tmp_path / "a.json"
    path.write_text(json.dumps(whole))
    assert read_detections(path, options=ReadOptions(video="hall")).track.tolist() == ["2"]
    with pytest.raises(SanError, match=r"holds 2 videos .door, hall., none or several named yard"):
        read_detections(path, options=ReadOptions(video="yard"))
