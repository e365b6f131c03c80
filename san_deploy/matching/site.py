"""What is known of a site besides pictures: when tracklets were seen, how far cameras are apart, what a user marked.

All of it becomes rules for pairs of tracklets: this pair must match, that one cannot.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..errors import SanError, UsageError
from ..io.typed_json import read_record
from ..video.tracks import TRACKS, read_track_times
from .cameras import Camera

#: Tracklets of one camera: never one person, or only where they do not overlap in time.
APART, OVERLAP = "apart", "overlap"
SAME_CAMERA = (APART, OVERLAP)
_MAX_BYTES = 64_000_000


@dataclass(frozen=True)
class Passage:
    """One line of site.csv: how people come from one camera to another.

    Attributes:
        overlap: whether a person may be before both at the same time.
        min_s: seconds that the way takes at least.
        max_s: at most; infinite for no limit.
    """

    overlap: bool
    min_s: float
    max_s: float


@dataclass(frozen=True)
class Marks:
    """Pairs that a user confirmed or rejected in the report; `(camera, track, camera, track)` each."""

    confirmed: tuple[tuple[str, str, str, str], ...] = ()
    rejected: tuple[tuple[str, str, str, str], ...] = ()
    schema_version: int = 1


@dataclass(frozen=True)
class Rule:
    """`similarity.PairRule` of two cameras.

    Attributes:
        must: pairs that must match, rows and columns.
        partner_of_row, partner_of_column: the other half of such a pair, -1 for the other tracklets.
        cannot: codes `row * width + column` of pairs that a user rejected, sorted.
        width: tracklets of the second camera.
        possible: by time, of rows and columns; None where nothing is known.
    """

    must: tuple[np.ndarray, np.ndarray]
    partner_of_row: np.ndarray
    partner_of_column: np.ndarray
    cannot: np.ndarray
    width: int
    possible: Callable[[np.ndarray, np.ndarray], np.ndarray] | None

    def allowed(self, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """Whether pairs may match; see `similarity.PairRule`."""
        of_row, of_column = self.partner_of_row[row], self.partner_of_column[column]
        result = ((of_row == -1) | (of_row == column)) & ((of_column == -1) | (of_column == row))
        if self.possible is not None:
            result &= self.possible(row, column) | (of_row == column)
        if len(self.cannot):
            result &= ~np.isin(np.asarray(row, np.int64) * self.width + column, self.cannot)
        return result


@dataclass(frozen=True)
class Site:
    """Rules of a site.

    Attributes:
        passages: `(camera, camera)` to how people come from the first to the second.
        marks: of a user.
        same_camera: `apart` or `overlap`; empty takes `overlap` where every camera's times are known.
    """

    passages: Mapping[tuple[str, str], Passage] = field(default_factory=dict)
    marks: Marks = Marks()
    same_camera: str = ""

    def mode(self, cameras: Sequence[Camera]) -> str:
        """When two tracklets of one camera can be one person, `apart` or `overlap`."""
        known = all(camera.start is not None for camera in cameras)
        return self.same_camera or (OVERLAP if known else APART)

    def rule(self, a: Camera, b: Camera) -> Rule | None:
        """Rules of two different cameras; None where all pairs may match."""
        rows, columns = (_numbers(camera) for camera in (a, b))
        confirmed, rejected = (
            _pairs(marks, a, b, rows, columns) for marks in (self.marks.confirmed, self.marks.rejected)
        )
        possible = self._possible(a, b)
        if possible is None and not confirmed and not rejected:
            return None
        partner_of_row, partner_of_column = np.full(len(rows), -1), np.full(len(columns), -1)
        for row, column in confirmed:
            partner_of_row[row], partner_of_column[column] = column, row
        must = np.array(sorted(confirmed), np.int64).reshape(-1, 2)
        cannot = np.array(sorted(row * len(columns) + column for row, column in rejected), np.int64)
        return Rule(
            (must[:, 0], must[:, 1]), partner_of_row, partner_of_column, cannot, len(columns), possible
        )

    def _possible(self, a: Camera, b: Camera) -> Callable[[np.ndarray, np.ndarray], np.ndarray] | None:
        there, back = self.passages.get((a.name, b.name)), self.passages.get((b.name, a.name))
        there, back = there or back, back or there
        if there is None or back is None:
            return None
        for camera in (a, b):
            if camera.start is None or not camera.clock:
                raise UsageError(
                    f"--topology needs to know when the tracklets of {camera.name} were seen"
                    + ("" if camera.start is None else ", by a clock that other cameras share"),
                    why=f"{camera.folder / TRACKS} "
                    + ("is not there" if camera.start is None else "counts from the start of its video"),
                    do=f"write it with san crops --start TIME, or give --clock {camera.name}=SECONDS",
                )
        assert a.start is not None and a.end is not None and b.start is not None and b.end is not None
        start_a, end_a, start_b, end_b = a.start, a.end, b.start, b.end
        forth, home = there, back

        def possible(row: np.ndarray, column: np.ndarray) -> np.ndarray:
            after, before = start_b[column] - end_a[row], start_a[row] - end_b[column]
            both = (after < 0) & (before < 0)
            result = np.where(
                both,
                forth.overlap or home.overlap,
                np.where(
                    after >= 0,
                    (after >= forth.min_s) & (after <= forth.max_s),
                    (before >= home.min_s) & (before <= home.max_s),
                ),
            )
            # A tracklet of unknown time may be anywhere.
            result |= np.isnan(after) | np.isnan(before)
            return np.asarray(result, bool)

        return possible


def check_passages(passages: Mapping[tuple[str, str], Passage], names: Sequence[str], source: Path) -> None:
    """Refuse a topology that names no two of the cameras: a misspelt name would forbid nothing; SanError."""
    known = set(names)
    if passages and not any(known.issuperset(pair) for pair in passages):
        first = next(iter(passages))
        raise SanError(
            f"{source} names no two of the cameras {', '.join(names)}",
            why=f"the first line is of {first[0]} and {first[1]}",
            do="name cameras as they are given: NAME=PATH",
        )


def check_marks(marks: Marks, cameras: Sequence[Camera], source: Path) -> None:
    """Refuse marks that name a tracklet that is not there, or confirm two partners for one; SanError."""
    known = {(camera.name, track) for camera in cameras for track in camera.tracks.tolist()}
    names = {camera.name for camera in cameras}
    partners: dict[tuple[str, str, str], str] = {}
    for camera_a, track_a, camera_b, track_b in (*marks.confirmed, *marks.rejected):
        for camera, track in ((camera_a, track_a), (camera_b, track_b)):
            if camera in names and (camera, track) not in known:
                raise SanError(
                    f"{source} names {camera}/{track}, which is not there", do="mark the pairs again"
                )
    if both := {*marks.confirmed} & {*marks.rejected}:
        camera_a, track_a, camera_b, track_b = sorted(both)[0]
        raise SanError(
            f"{source} confirms and rejects {camera_a}/{track_a} with {camera_b}/{track_b}",
            do="keep one of them",
        )
    for camera_a, track_a, camera_b, track_b in marks.confirmed:
        for key, partner in (
            ((camera_a, track_a, camera_b), track_b),
            ((camera_b, track_b, camera_a), track_a),
        ):
            if partners.setdefault(key, partner) != partner:
                raise SanError(
                    f"{source} confirms two partners in {key[2]} for {key[0]}/{key[1]}: "
                    f"{partners[key]} and {partner}",
                    do="reject one of them",
                )


def _numbers(camera: Camera) -> dict[str, int]:
    return {track: number for number, track in enumerate(camera.tracks.tolist())}


def _pairs(
    marks: Sequence[tuple[str, str, str, str]],
    a: Camera,
    b: Camera,
    rows: Mapping[str, int],
    columns: Mapping[str, int],
) -> set[tuple[int, int]]:
    found = set()
    for camera_a, track_a, camera_b, track_b in marks:
        if (camera_a, camera_b) == (a.name, b.name):
            found.add((rows[track_a], columns[track_b]))
        elif (camera_b, camera_a) == (a.name, b.name):
            found.add((rows[track_b], columns[track_a]))
    return found


def read_marks(path: Path) -> Marks:
    """Read what the report's button "Save corrections" wrote.

    Raises:
        SanError: missing, too large or not such a file.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("it is larger than 64 MB")
        told = json.loads(path.read_text(encoding="utf-8"))
        marks = read_record(Marks, told)
        if not {"confirmed", "rejected"} & told.keys():
            raise ValueError("it names neither confirmed nor rejected pairs")
        if marks.schema_version != 1:
            raise ValueError(f"its schema is {marks.schema_version}, this is 1")
        return marks
    except OSError as error:
        raise SanError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise SanError(
            f"{path} is no file of corrections",
            why=str(error).split("\n")[0],
            do="save it from the report again",
        ) from error


def read_topology(path: Path) -> dict[tuple[str, str], Passage]:
    """Read site.csv: camera_a, camera_b, overlap, min_s, max_s; an empty limit is none.

    One line for two cameras holds for both directions; where there are two, each holds for its own.

    Raises:
        SanError: missing, not such a file, or a limit that is no number.
    """
    passages: dict[tuple[str, str], Passage] = {}
    for where, row in _read_csv(path, ("camera_a", "camera_b", "overlap", "min_s", "max_s")):
        key = row["camera_a"], row["camera_b"]
        if not all(key) or key[0] == key[1] or key in passages:
            raise SanError(f"{where}: '{key[0]}' and '{key[1]}' are not two cameras named for the first time")
        overlap = row["overlap"].lower()
        if overlap not in ("yes", "no", "1", "0", "true", "false", ""):
            raise SanError(f"{where}: overlap is '{overlap[:40]}'", do="write yes or no")
        low = _seconds(row["min_s"] or "0", where, "min_s")
        high = _seconds(row["max_s"], where, "max_s") if row["max_s"] else math.inf
        if low < 0 or high < low:
            raise SanError(f"{where}: from {low:g} to {high:g} seconds is no span of time")
        passages[key] = Passage(overlap in ("yes", "1", "true"), low, high)
    return passages


def with_times(camera: Camera, offset_s: float | None = None) -> Camera:
    """The camera with the times of its tracks.csv, where it has one.

    Args:
        camera: of its folder.
        offset_s: of `--clock`, seconds to add; None for none.

    Raises:
        UsageError: there is an offset, and no file.
        SanError: see `video.tracks.read_track_times`.
    """
    times = read_track_times(camera.folder)
    if not times:
        if offset_s is not None:
            raise UsageError(f"--clock {camera.name} sets a clock, and {camera.folder / TRACKS} is not there")
        return camera
    start, end = np.full((2, len(camera.tracks)), np.nan)
    boxes = np.zeros(len(camera.tracks), np.int64)
    for number, track in enumerate(camera.tracks.tolist()):
        if track in times:
            start[number], end[number] = times[track].start_s, times[track].end_s
            boxes[number] = times[track].boxes
    clock = offset_s is not None or all(item.clock for item in times.values())
    shift = offset_s or 0.0
    return replace(camera, start=start + shift, end=end + shift, clock=clock, boxes=boxes)


def parse_clocks(texts: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """`--clock NAME=SECONDS`, given any number of times, to seconds by camera.

    Raises:
        UsageError: not of this form, or of a camera that is not given.
    """
    found = {}
    for text in texts:
        name, separator, value = text.rpartition("=")
        if not separator or name not in names:
            raise UsageError(
                f"--clock '{text}' is not CAMERA=SECONDS of a camera given", do=f"for example {names[0]}=-2.5"
            )
        try:
            found[name] = float(value)
        except ValueError:
            found[name] = math.nan
        if not math.isfinite(found[name]):
            raise UsageError(f"--clock '{text}': {value[:40]!r} is no number of seconds")
    return found


def _read_csv(path: Path, wanted: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """The rows with their place, for messages; the columns `wanted` are stripped texts."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise SanError(f"{path} is larger than 64 MB")
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [name for name in wanted if name not in (reader.fieldnames or ())]
            if missing:
                raise SanError(
                    f"the first line of {path} has no column {missing[0]}", do=f"write {','.join(wanted)}"
                )
            return [
                (f"{path}, line {reader.line_num}", {name: (row[name] or "").strip() for name in wanted})
                for row in reader
            ]
    except OSError as error:
        raise SanError(f"cannot read {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise SanError(f"{path} is not a CSV file in UTF-8", why=str(error)) from error


def _seconds(text: str, where: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SanError(f"{where}: {name} is '{text[:40]}', which is no number of seconds")
    return value
