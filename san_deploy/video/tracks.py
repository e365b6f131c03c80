"""tracks.csv: when each tracklet was seen. `san crops` writes it beside the crops, other programs may."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from ..errors import SanError

#: The file's name, at the top of a camera's folder.
TRACKS = "tracks.csv"
_WANTED = ("track", "start", "end")
#: Of a count of boxes: more has no video, and sums of fewer fit into 64 bits.
_DIGITS = 12


@dataclass(frozen=True)
class TrackTime:
    """When a tracklet was seen.

    Attributes:
        start_s, end_s: seconds since 1970 (UTC) where `clock`, else since the first frame of its camera's video.
        clock: whether these are times of day, which cameras share.
        boxes: in how many frames it was seen; 0 where the file does not say.
    """

    start_s: float
    end_s: float
    clock: bool
    boxes: int = 0


def read_track_times(folder: Path) -> dict[str, TrackTime]:
    """`{track: when}` of a camera's folder; empty where it has no tracks.csv.

    Times are seconds, or ISO 8601 (`2026-03-01T09:30:00.5`, with or without a zone; without one they are taken for
    UTC, the same for all cameras). A column `boxes` counts frames; further ones are passed over.

    Raises:
        SanError: a column is missing, a line cannot be read, ends before it starts, names a track twice, or some
            times are of day and others not.
    """
    path = Path(folder) / TRACKS
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if lacking := [name for name in _WANTED if name not in (reader.fieldnames or ())]:
                raise SanError(f"{path} has no column {', '.join(lacking)}", do="write track, start and end")
            found: dict[str, TrackTime] = {}
            for line, row in enumerate(reader, 2):
                if not any(value and str(value).strip() for value in row.values()):
                    continue
                track = (row["track"] or "").strip()
                if not track or track in found:
                    what = f"names {track} twice" if track else "has no track"
                    raise SanError(f"{path}, line {line} {what}", do="mend or remove the line")
                found[track] = _times(row, f"{path}, line {line}")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SanError(f"{path} cannot be read", why=str(error)) from error
    if len({item.clock for item in found.values()}) > 1:
        raise SanError(f"{path} mixes times of day and seconds", do="write all of them alike")
    return found


def parse_time(text: str) -> float:
    """Seconds since 1970 (UTC) of a time in ISO 8601; without a zone it is taken for UTC.

    Raises:
        ValueError: it is none.
    """
    # Python 3.10 takes no Z, and fractions of three or six digits alone.
    exact = re.sub(r"\.(\d+)", lambda part: f".{part[1]:0<6.6}", text.strip().replace("Z", "+00:00"))
    moment = datetime.fromisoformat(exact)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return moment.timestamp()


def _times(row: Mapping[str, str | None], where: str) -> TrackTime:
    start, end, boxes = row["start"] or "", row["end"] or "", (row.get("boxes") or "0").strip()
    if not boxes.isdecimal() or len(boxes) > _DIGITS:
        raise SanError(f"{where}: boxes is {boxes[:40]!r}, which is no count", do="mend or remove the line")
    try:
        try:
            found = TrackTime(float(start), float(end), False, int(boxes))
        except ValueError:
            found = TrackTime(parse_time(start), parse_time(end), True, int(boxes))
    except ValueError as error:
        raise SanError(
            f"{where}: {start!r} and {end!r} are no times", do="write seconds, or ISO 8601"
        ) from error
    if not (math.isfinite(found.start_s) and math.isfinite(found.end_s)):
        raise SanError(f"{where} holds NaN or infinity", do="mend or remove the line")
    if found.end_s < found.start_s:
        raise SanError(f"{where} ends before it starts", do="mend or remove the line")
    return found
