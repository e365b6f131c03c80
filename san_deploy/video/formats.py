"""Files of boxes that trackers write: one function per format, one row of `FORMATS`, and a choice by content."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SanError, UsageError
from .detections import NOT_A_PERSON, Collector, Detections

#: Larger files of boxes are refused before they are read into memory.
MAX_BYTES = 2**30
#: Names of a person's class, in lower case.
_PEOPLE = frozenset({"person", "people", "pedestrian", "human"})
#: Column of a CSV file -> names that trackers give it, in lower case.
_COLUMNS = {
    "frame": ("frame", "frame_id", "frame_index", "frame_number", "frame_num", "frame_idx"),
    "track": ("track", "track_id", "tracker_id", "id", "object_id"),
    "left": ("x1", "left", "xmin", "x_min", "bb_left"),
    "top": ("y1", "top", "ymin", "y_min", "bb_top"),
    "right": ("x2", "right", "xmax", "x_max"),
    "bottom": ("y2", "bottom", "ymax", "y_max"),
    "width": ("width", "w", "bb_width"),
    "height": ("height", "h", "bb_height"),
    "confidence": ("confidence", "conf", "score"),
    "class": ("class_name", "label", "class"),
}


@dataclass(frozen=True)
class ReadOptions:
    """What a file of boxes does not say of itself.

    Attributes:
        first_frame: number of the first frame; None for the format's own.
        video: the video's file name without its ending, to choose among several in one file.
        stream: DeepStream's stream number; None where there is one.
    """

    first_frame: int | None = None
    video: str = ""
    stream: int | None = None


@dataclass(frozen=True)
class Format:
    """One form of files.

    Attributes:
        title: for messages.
        read: from path and options to detections.
        looks_like: whether a path and the first bytes of it (of a folder: of its first .txt file) are of this form.
        streams: whether it can hold several, so that one is chosen by `ReadOptions.stream`.
    """

    title: str
    read: Callable[[Path, ReadOptions], Detections]
    looks_like: Callable[[Path, str], bool]
    streams: bool = False


def read_detections(path: Path, form: str = "", options: ReadOptions | None = None) -> Detections:
    """Read a tracker's boxes.

    Args:
        path: a file, or a folder with a .txt file per frame.
        form: a name in `FORMATS`; empty to tell by the content.
        options: what the file does not say.

    Raises:
        SanError: missing, unknown, or damaged; no box has a track.
        UsageError: `form` is unknown, or a stream is asked for where there are none.
    """
    path = Path(path)
    if form and form not in FORMATS:
        raise UsageError(f"--format {form} is unknown", do=f"one of {', '.join(FORMATS)}")
    if not path.exists():
        raise SanError(f"{path} does not exist", do="give the file that the tracker wrote")
    chosen = FORMATS[form] if form else _recognise(path)
    options = options or ReadOptions()
    if options.stream is not None and not chosen.streams:
        raise UsageError(f"--stream is for DeepStream's files; {path} is read as {chosen.title}")
    try:
        return chosen.read(path, options)
    except UnicodeDecodeError as error:
        raise SanError(f"{path} is not text in UTF-8", do="give the file that the tracker wrote") from error
    except OSError as error:
        raise SanError(f"cannot read {path}: {error.strerror or error}") from error


def _recognise(path: Path) -> Format:
    head = _head(path)
    for row in FORMATS.values():
        if row.looks_like(path, head):
            return row
    known = "; ".join(f"{name}: {row.title}" for name, row in FORMATS.items())
    raise SanError(f"the format of {path} is not recognised", do=f"name it with --format. Read are {known}")


def _head(path: Path) -> str:
    if path.is_dir():
        files = _frame_files(path)
        if not files:
            raise SanError(f"{path} holds no .txt file", do="give a folder with one text file per frame")
        path = next((file for file in files if file.stat().st_size), files[0])
    with path.open("rb") as file:
        return file.read(4096).decode("utf-8-sig", "replace").lstrip()


def _text(path: Path) -> str:
    if path.is_dir():
        raise SanError(f"{path} is a folder", do="give a file, or another --format")
    if path.stat().st_size > MAX_BYTES:
        raise SanError(f"{path} has {path.stat().st_size} bytes", why=f"the limit is {MAX_BYTES}")
    return path.read_bytes().decode("utf-8-sig")


def _numbers(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"[,;\s]\s*", line.strip()) if cell.strip()]


def _are_numbers(cells: Sequence[str]) -> bool:
    try:
        return all(float(cell) is not None for cell in cells)
    except ValueError:
        return False


# --- MOTChallenge -----------------------------------------------------------------------------------------------


def _is_mot(path: Path, head: str) -> bool:
    cells = _numbers(head.split("\n", maxsplit=1)[0])
    return not path.is_dir() and len(cells) >= 6 and _are_numbers(cells)


def read_mot(path: Path, options: ReadOptions) -> Detections:
    """`frame, id, left, top, width, height[, confidence, class, visibility]`; frames and pixels count from 1."""
    first = 1 if options.first_frame is None else options.first_frame
    found = Collector(str(path))
    for number, line in enumerate(_text(path).splitlines(), 1):
        cells = _numbers(line)
        if not cells:
            continue
        if len(cells) < 6 or not _are_numbers(cells[:6]):
            raise SanError(
                f"{path}, line {number}: frame, id, left, top, width, height are wanted",
                do="look at that line, or name the file's format: --format",
            )
        left, top = float(cells[2]) - 1, float(cells[3]) - 1  # the first pixel is 1
        box = (left, top, left + float(cells[4]), top + float(cells[5]))
        frame = float(cells[0]) - first
        found.add(f"line {number}", frame, cells[1], box, cells[6] if len(cells) > 6 else None)
    return found.done(
        "mot", ids_from="write the tracker's output, not the detector's: the second column is the track"
    )


# --- CSV with named columns -------------------------------------------------------------------------------------


def _is_csv(path: Path, head: str) -> bool:
    names = {cell.strip().strip('"').lower() for cell in re.split(r"[,;\t]", head.split("\n", maxsplit=1)[0])}
    return not path.is_dir() and bool(names & set(_COLUMNS["frame"])) and len(names) >= 5


def read_csv(path: Path, options: ReadOptions) -> Detections:
    """A header line, then a box a line; corners, or a corner with width and height, in pixels from 0.

    Frames count from `first_frame`, else from 0. Names of columns as supervision's CSVSink and most trackers write
    them; columns of other names are passed over.
    """
    text = _text(path)
    delimiter = max(",;\t", key=text.split("\n", 1)[0].count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    names = [cell.strip().lower() for cell in next(rows, [])]
    at = {
        column: names.index(name)
        for column, known in _COLUMNS.items()
        for name in reversed(known)
        if name in names
    }
    # supervision writes `x_min ... tracker_id`; a corner alone is named x, y.
    if "left" not in at and "x" in names and "y" in names:
        at["left"], at["top"] = names.index("x"), names.index("y")
    lacking = [column for column in ("frame", "left", "top") if column not in at]
    if not ({"right", "bottom"} <= at.keys() or {"width", "height"} <= at.keys()):
        lacking.append("right and bottom, or width and height")
    if "track" not in at:
        lacking.append("track")
    if lacking:
        raise SanError(
            f"{path} has no column for {', '.join(lacking)}",
            why=f"its columns are {', '.join(name for name in names if name) or 'none'}",
            do="name them frame, track, x1, y1, x2, y2, confidence",
        )
    first = options.first_frame or 0
    found = Collector(str(path))
    for number, row in enumerate(rows, 2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) < len(names):
            raise SanError(
                f"{path}, line {number}: {len(row)} cells, {len(names)} wanted", do="write it again"
            )
        cell = {column: row[index].strip() for column, index in at.items()}
        if cell.get("class") and not _is_person(cell["class"]):
            found.skip(NOT_A_PERSON)
            continue
        try:
            left, top = float(cell["left"]), float(cell["top"])
            if "right" in cell:
                right, bottom = float(cell["right"]), float(cell["bottom"])
            else:
                right, bottom = left + float(cell["width"]), top + float(cell["height"])
            frame = float(cell["frame"]) - first
        except ValueError as error:
            raise SanError(f"{path}, line {number}: {error}", do="look at that line") from error
        found.add(f"line {number}", frame, cell["track"], (left, top, right, bottom), cell.get("confidence"))
    notes = (
        [] if options.first_frame is not None else ["its first frame is taken for number 0 (--first-frame)"]
    )
    return found.done(
        "csv",
        ids_from="write the tracker's number into the column track (supervision: tracker_id)",
        notes=notes,
    )


def _is_person(label: str) -> bool:
    # A number is a class of COCO (0) or of a detector of people alone; there is no telling, and 0 is both.
    return label.lower() in _PEOPLE or label in ("0", "0.0")


# --- JSON -------------------------------------------------------------------------------------------------------


def _json(path: Path) -> Any:
    try:
        return json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise SanError(f"{path} is not JSON: {str(error).splitlines()[0]}", do="write it again") from error


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(_text(path).splitlines(), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise SanError(f"{path}, line {number} is not JSON", do="write it again") from error


def _is_coco(path: Path, head: str) -> bool:
    keys = ('"annotations"', '"images"', '"videos"', '"categories"')
    return not path.is_dir() and head.startswith("{") and any(key in head for key in keys)


def read_coco(path: Path, options: ReadOptions) -> Detections:
    """COCO for videos: `images` with `frame_id`, `annotations` with `track_id` and `bbox` (x, y, w, h)."""
    whole = _json(path)
    found = Collector(str(path))
    try:
        images = {image["id"]: image for image in _coco_images(path, whole, options)}
        people = {
            item["id"] for item in whole.get("categories", ()) if str(item.get("name", "")).lower() in _PEOPLE
        }
        first = options.first_frame or 0
        for index, item in enumerate(whole["annotations"]):
            image = images.get(item["image_id"])
            if image is None:
                continue  # of another video
            if people and item.get("category_id") not in people:
                found.skip(NOT_A_PERSON)
                continue
            left, top, width, height = map(float, item["bbox"])
            frame = next((image[key] for key in ("frame_id", "frame_index", "frame") if key in image), None)
            if frame is None:
                raise SanError(
                    f"{path}: image {image['id']} has no frame_id",
                    do="write the video extension: frame_id, counted from 0, in each of images",
                )
            track = next((item[key] for key in ("track_id", "instance_id") if key in item), None)
            box = (left, top, left + width, top + height)
            found.add(f"annotation {index}", float(frame) - first, track, box, item.get("score"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SanError(
            f"{path} is not COCO's form: {type(error).__name__} {error}", do="name its format: --format"
        ) from error
    return found.done("coco", ids_from="write track_id into each of annotations")


def _coco_images(path: Path, whole: Mapping[str, Any], options: ReadOptions) -> Iterator[Mapping[str, Any]]:
    videos = whole.get("videos") or []
    if len(videos) > 1:
        names = {
            video["id"]: Path(str(video.get("name", video.get("file_name", "")))).stem for video in videos
        }
        chosen = [number for number, name in names.items() if name == options.video]
        if len(chosen) != 1:
            some = ", ".join(map(str, list(names.values())[:5]))
            raise SanError(
                f"{path} holds {len(videos)} videos ({some}), none or several named {options.video}",
                do="name the video as the file does, or give a file of one video",
            )
        yield from (image for image in whole["images"] if image.get("video_id") == chosen[0])
    else:
        yield from whole["images"]


def _is_ultralytics_json(path: Path, head: str) -> bool:
    return (not path.is_dir() and head.startswith("[") and '"box"' in head) or bool(
        re.match(r"\[\s*(\[\s*)*\]", head)
    )


def read_ultralytics_json(path: Path, options: ReadOptions) -> Detections:
    """A list per frame of `{"name", "confidence", "box": {"x1", "y1", "x2", "y2"}, "track_id"}`.

    One JSON document of lists, or one list a line: what `results.to_json()` gives for each frame, one after another.
    """
    text = _text(path)
    try:
        whole = json.loads(text)
        nested = isinstance(whole, list) and all(isinstance(frame, list) for frame in whole)
        frames = list(enumerate(whole, 1)) if nested else [(1, whole)]
    except (ValueError, RecursionError):
        frames = [(index, frame) for index, (_, frame) in enumerate(_json_lines(path), 1)]
    found = Collector(str(path))
    for number, frame in frames:
        try:
            for item in frame:
                if not _is_person(str(item.get("name", item.get("class", "person")))):
                    found.skip(NOT_A_PERSON)
                    continue
                box = [float(item["box"][key]) for key in ("x1", "y1", "x2", "y2")]
                where = f"frame {number}"
                found.add(where, number - 1, item.get("track_id"), box, item.get("confidence"))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SanError(
                f"{path}, frame {number}: {type(error).__name__} {error}",
                do="write what results.to_json() gives, one frame a line, with normalize=False",
            ) from error
    return found.done(
        "ultralytics-json", ids_from="use model.track(...), which gives track_id, not model.predict(...)"
    )


def _is_deepstream_json(path: Path, head: str) -> bool:
    return not path.is_dir() and head.startswith("{") and '"objects"' in head and '"annotations"' not in head


def read_deepstream_json(path: Path, options: ReadOptions) -> Detections:
    """DeepStream's minimal message schema, one message a line.

    `{"id": frame, "objects": ["track|left|top|right|bottom|label|..."]}`, frames from 0.
    """
    found = Collector(str(path))
    first = options.first_frame or 0
    for number, message in _json_lines(path):
        try:
            frame = float(message["id"]) - first
            if options.stream is not None and str(message.get("sensorId")) != str(options.stream):
                continue
            for item in message["objects"]:
                track, left, top, right, bottom, label, *_ = str(item).split("|")
                if label and not _is_person(label):
                    found.skip(NOT_A_PERSON)
                    continue
                found.add(f"line {number}", frame, track, (left, top, right, bottom))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SanError(
                f"{path}, line {number}: {type(error).__name__} {error}",
                do="write nvmsgconv's minimal schema (payload-type 1), a message a line",
            ) from error
    return found.done("deepstream-json", ids_from="put nvtracker into the pipeline", notes=[_MUXER])


# --- folders with a file per frame ------------------------------------------------------------------------------

_MUXER = "DeepStream's boxes are in pixels of nvstreammux; where that is not the video's size, say --box-size"


def _frame_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() == ".txt" and path.name[0] != ".")


def _is_ultralytics_folder(path: Path, head: str) -> bool:
    cells = _numbers(head.split("\n", maxsplit=1)[0])
    return path.is_dir() and 5 <= len(cells) <= 7 and _are_numbers(cells)


def read_ultralytics_folder(path: Path, options: ReadOptions) -> Detections:
    """`labels/NAME_FRAME.txt`, frames from 1, a box a line: `class x y w h [confidence] track`.

    x and y are the centre; all four are parts of the frame's width and height.
    """
    first = 1 if options.first_frame is None else options.first_frame
    found = Collector(str(path))
    widths: set[int] = set()
    lines: list[tuple[str, int, list[str]]] = []
    for file in _frame_files(path):
        match = re.search(r"(\d+)$", file.stem)
        if match is None:
            raise SanError(f"{file} has no frame number at its end", do="give files named NAME_FRAME.txt")
        for number, line in enumerate(_text(file).splitlines(), 1):
            cells = _numbers(line)
            if not cells:
                continue
            if not 5 <= len(cells) <= 7 or not _are_numbers(cells):
                raise SanError(f"{file}, line {number}: class, x, y, w, h, confidence, track are wanted")
            widths.add(len(cells))
            lines.append((f"{file.name}, line {number}", int(match[1]) - first, cells))
    # Six cells are a confidence or a track; tracks are whole numbers from 1.
    whole = all(float(c[5]) >= 1 and float(c[5]).is_integer() for _, _, c in lines if len(c) == 6)
    for where, frame, cells in lines:
        if float(cells[0]) != 0:
            found.skip(NOT_A_PERSON)
            continue
        x, y, width, height = map(float, cells[1:5])
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        if len(cells) == 7:
            found.add(where, frame, cells[6], box, cells[5])
        elif len(cells) == 6 and whole:
            found.add(where, frame, cells[5], box)
        else:
            found.add(where, frame, None, box)
    return found.done(
        "ultralytics",
        ids_from="write them with `yolo track save_txt=True`, not `yolo predict`",
        relative=True,
    )


def _is_kitti(path: Path, head: str) -> bool:
    cells = head.split("\n", maxsplit=1)[0].split()
    return (
        path.is_dir()
        and len(cells) in (16, 17, 18)
        and not _are_numbers(cells[:1])
        and _are_numbers(cells[1:])
    )


def read_kitti(path: Path, options: ReadOptions) -> Detections:
    """DeepStream's `kitti-track-output-dir`: `APP_STREAM_FRAME.txt`, frames from 0.

    A box a line: `label track 0.0 0 0.0 left top right bottom`, seven zeros, confidence.
    """
    first = options.first_frame or 0
    found = Collector(str(path))
    files = [(file, re.fullmatch(r"(?:(\d+)_)?(?:(\d+)_)?(\d+)", file.stem)) for file in _frame_files(path)]
    named = [(file, match) for file, match in files if match is not None]
    streams = sorted({int(match[2] or 0) for _, match in named})
    if options.stream is None and len(streams) > 1:
        raise SanError(f"{path} holds streams {', '.join(map(str, streams))}", do="choose one: --stream N")
    if not named:
        raise SanError(f"{path} holds no file named as 00_000_000012.txt", do="name its format: --format")
    for file, match in named:
        if options.stream is not None and int(match[2] or 0) != options.stream:
            continue
        for number, line in enumerate(_text(file).splitlines(), 1):
            cells = line.split()
            if not cells:
                continue
            # Seventeen and more with a track behind the label, sixteen without (gie-kitti-output-dir).
            shift = 1 if len(cells) >= 17 else 0
            if len(cells) < 16 or not _are_numbers(cells[1:]):
                raise SanError(f"{file}, line {number} is not KITTI's form", do="name its format: --format")
            if not _is_person(cells[0]):
                found.skip(NOT_A_PERSON)
                continue
            confidence = cells[16] if len(cells) > 16 else None
            track = cells[1] if shift else None
            box = cells[4 + shift : 8 + shift]
            found.add(f"{file.name}, line {number}", int(match[3]) - first, track, box, confidence)
    return found.done(
        "kitti",
        ids_from="set kitti-track-output-dir, not gie-kitti-output-dir, and enable the tracker",
        notes=[_MUXER],
    )


#: Name for `--format` -> how it is told and read, in the order in which they are tried.
FORMATS: dict[str, Format] = {
    "csv": Format("CSV with named columns", read_csv, _is_csv),
    "mot": Format("MOTChallenge: frame, id, left, top, width, height", read_mot, _is_mot),
    "coco": Format("COCO JSON with its video extension", read_coco, _is_coco),
    "deepstream-json": Format(
        "DeepStream's minimal messages", read_deepstream_json, _is_deepstream_json, True
    ),
    "ultralytics-json": Format(
        "Ultralytics' to_json(), one frame a line", read_ultralytics_json, _is_ultralytics_json
    ),
    "ultralytics": Format("Ultralytics' folder of labels", read_ultralytics_folder, _is_ultralytics_folder),
    "kitti": Format("DeepStream's KITTI folder", read_kitti, _is_kitti, True),
}
