"""Videos of moving people of one colour each, with the frame number in the pixels, and their boxes in every format."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

cv2 = __import__("pytest").importorskip("cv2")

SIZE_WH = (320, 240)
FPS = 10
#: Track -> colour, BGR.
COLOURS = {1: (40, 40, 220), 2: (40, 200, 40), 7: (220, 60, 40)}
_BITS, _BLOCK = 8, 16


def draw(number: int, boxes: list[tuple[int, list[int]]]) -> np.ndarray:
    """A frame: people as textured rectangles, the number as eight black and white blocks at the bottom left."""
    frame = np.full((SIZE_WH[1], SIZE_WH[0], 3), 128, np.uint8)
    for track, (left, top, right, bottom) in boxes:
        frame[top:bottom, left:right] = COLOURS[track]
        frame[(top + bottom) // 2 : bottom, left:right] //= 2
    for bit in range(_BITS):
        value = 255 if number >> bit & 1 else 0
        frame[-_BLOCK:, bit * _BLOCK : (bit + 1) * _BLOCK] = value
    return frame


def number_in(frame: np.ndarray) -> int:
    """What `draw` wrote."""
    middle = frame[-_BLOCK // 2, _BLOCK // 2 : _BITS * _BLOCK : _BLOCK].mean(axis=1)
    return sum(1 << bit for bit, value in enumerate(middle) if value > 127)


def boxes_of(frames: int) -> list[list[tuple[int, list[int]]]]:
    """Per frame, `(track, [left, top, right, bottom])`: three people who walk; the second comes late, leaves early."""
    made = []
    for number in range(frames):
        step = number * 3
        people = [(1, [10 + step, 20, 50 + step, 120]), (7, [200 - step, 90, 250 - step, 210])]
        if 5 <= number < frames - 5:
            people.append((2, [100 + step, 30, 140 + step, 130]))
        made.append(people)
    return made


def write_video(path: Path, boxes: list[list[tuple[int, list[int]]]]) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), FPS, SIZE_WH)
    for number, people in enumerate(boxes):
        writer.write(draw(number, people))
    writer.release()
    return path


def vary_rate(path: Path, factors: list[int]) -> Path:
    """Give each frame of an .mp4 of `write_video` its own duration, in multiples of the constant one.

    The index stands behind the pictures, so only its own boxes change their sizes.
    """
    data = path.read_bytes()
    count, delta = struct.unpack_from(">II", data, data.index(b"stts") + 12)
    assert count == len(factors)
    entries = b"".join(struct.pack(">II", 1, delta * factor) for factor in factors)
    at = data.index(b"stts") - 4
    old = struct.unpack_from(">I", data, at)[0]
    new = struct.pack(">I4sII", 16 + len(entries), b"stts", 0, len(factors)) + entries
    out = bytearray(data[:at] + new + data[at + old :])
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        place = bytes(out).index(name) - 4
        assert place > bytes(out).index(b"mdat")
        struct.pack_into(">I", out, place, struct.unpack_from(">I", out, place)[0] + len(new) - old)
    # Longer in all: the movie, the track and the media each say how long.
    for name, offset in ((b"mvhd", 16), (b"tkhd", 20), (b"mdhd", 16)):
        place = bytes(out).index(name) + 4 + offset
        length = struct.unpack_from(">I", out, place)[0]
        struct.pack_into(">I", out, place, length * sum(factors) // len(factors))
    while (place := bytes(out).find(b"edts")) >= 0:
        out[place : place + 4] = b"free"
    path.write_bytes(bytes(out))
    return path


def _mot(path: Path, boxes: list[list[tuple[int, list[int]]]]) -> Path:
    lines = [
        f"{number + 1},{track},{x1 + 1},{y1 + 1},{x2 - x1},{y2 - y1},0.9,-1,-1,-1"
        for number, people in enumerate(boxes)
        for track, (x1, y1, x2, y2) in people
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def _csv(path: Path, boxes: list[list[tuple[int, list[int]]]]) -> Path:
    lines = ["x_min,y_min,x_max,y_max,class_id,confidence,tracker_id,frame_index"]
    for number, people in enumerate(boxes):
        lines += [f"{x1},{y1},{x2},{y2},0,0.9,{track},{number}" for track, (x1, y1, x2, y2) in people]
    path.write_text("\r\n".join(lines) + "\r\n")
    return path


def _coco(path: Path, boxes: list[list[tuple[int, list[int]]]]) -> Path:
    annotations = [
        {
            "image_id": number + 100,
            "category_id": 1,
            "track_id": track,
            "score": 0.9,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
        }
        for number, people in enumerate(boxes)
        for track, (x1, y1, x2, y2) in people
    ]
    images = [{"id": number + 100, "frame_id": number, "video_id": 1} for number in range(len(boxes))]
    # A dog, who is no person.
    annotations.append({"image_id": 100, "category_id": 2, "track_id": 99, "bbox": [1, 1, 50, 100]})
    whole = {
        "videos": [{"id": 1, "name": "video"}],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}],
    }
    path.write_text(json.dumps(whole))
    return path


def _ultralytics_json(path: Path, boxes: list[list[tuple[int, list[int]]]]) -> Path:
    lines = []
    for people in boxes:
        frame = [
            {
                "name": "person",
                "class": 0,
                "confidence": 0.9,
                "box": dict(zip(("x1", "y1", "x2", "y2"), map(float, box), strict=True)),
                "track_id": track,
            }
            for track, box in people
        ]
        lines.append(json.dumps(frame))
    path.write_text("\n".join(lines))
    return path


def _ultralytics(path: Path, boxes: list[list[tuple[int, list[int]]]]) -> Path:
    path.mkdir()
    width, height = SIZE_WH
    for number, people in enumerate(boxes):
        lines = [
            f"0 {(x1 + x2) / 2 / width:.10f} {(y1 + y2) / 2 / height:.10f} {(x2 - x1) / width:.10f} "
            f"{(y2 - y1) / height:.10f} 0.9 {track}"
            for track, (x1, y1, x2, y2) in people
        ]
        (path / f"video_{number + 1}.txt").write_text("\n".join(lines) + "\n")
    return path


def _kitti(path: Path, boxes: list[list[tuple[int, list[int]]]]) -> Path:
    path.mkdir()
    zeros = " ".join(["0.0"] * 7)
    for number, people in enumerate(boxes):
        lines = [
            f"person {track} 0.0 0 0.0 {x1}.0 {y1}.0 {x2}.0 {y2}.0 {zeros} 0.9"
            for track, (x1, y1, x2, y2) in people
        ]
        (path / f"00_000_{number:06d}.txt").write_text("\n".join(lines) + "\n")
    return path


def _deepstream_json(path: Path, boxes: list[list[tuple[int, list[int]]]]) -> Path:
    lines = []
    for number, people in enumerate(boxes):
        objects = [f"{track}|{x1}|{y1}|{x2}|{y2}|person" for track, (x1, y1, x2, y2) in people]
        lines.append(json.dumps({"version": "4.0", "id": str(number), "sensorId": "0", "objects": objects}))
    path.write_text("\n".join(lines) + "\n")
    return path


#: Format -> writer of the boxes of `boxes_of`, all with confidence 0.9 where the format has one.
WRITERS: dict[str, Callable[[Path, list[list[tuple[int, list[int]]]]], Path]] = {
    "mot": _mot,
    "csv": _csv,
    "coco": _coco,
    "ultralytics-json": _ultralytics_json,
    "ultralytics": _ultralytics,
    "kitti": _kitti,
    "deepstream-json": _deepstream_json,
}
