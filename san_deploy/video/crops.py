"""A video and a tracker's boxes to a camera's folder: the best crops of each track, and tracks.csv."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SanError
from .detections import Detections
from .frames import Timeline, Video, opencv
from .quality import overlaps, quality, sharpness, touches_border
from .tracks import TRACKS

#: Files at the top of a folder that `san crops` writes, beside one folder per track.
SUMMARY = "crops.json"
#: Reasons for which a box gives no crop, in the order in which they are looked at.
NO_FRAME, OUTSIDE, SMALL, COVERED, BLURRED = (
    "in frames that the video does not have",
    "outside the frame",
    "below --min-height",
    "over --max-overlap",
    "below --min-sharpness",
)
#: A video of which more boxes than this leave the frame by far was tracked at another size.
_MISFIT = 0.5
_JPEG_QUALITY = 95


@dataclass(frozen=True)
class CropOptions:
    """Which crops are taken.

    Attributes:
        per_track: crops of a track at most: the best one of each of so many equal spans of its time.
        min_height: of a box, pixels.
        max_overlap: part of a box that a nearer one may cover, 0..1.
        min_sharpness: see `quality.sharpness`.
        made_for_wh: width and height of the frames that the tracker saw, where it saw them resized.
        start: when the first frame was shown; None gives times in seconds from it.
        camera: name in tracks.csv.
    """

    per_track: int = 16
    min_height: float = 48
    max_overlap: float = 0.5
    min_sharpness: float = 0.0
    made_for_wh: tuple[int, int] | None = None
    start: datetime | None = None
    camera: str = ""


@dataclass(frozen=True)
class Track:
    """One pass of a person before the camera.

    Attributes:
        name: name of its folder.
        track: the tracker's.
        start_s, end_s: of its first and last box, seconds from the first frame.
        first_frame, last_frame: numbers from 0.
        boxes: that the tracker gave it, in frames that exist.
        crops: that were written.
        quality: mean of those crops' quality; compares tracks of one camera.
    """

    name: str
    track: str
    start_s: float
    end_s: float
    first_frame: int
    last_frame: int
    boxes: int
    crops: int
    quality: float


@dataclass(frozen=True)
class CropsResult:
    """What was written, and what was left out.

    Attributes:
        tracks: those with crops, in the order of their start.
        lost: names of the tracker's tracks without one, with the commonest reason.
        rejected: boxes that were left out, by reason.
        frames: frames of the video.
        announced: frames that its container promised; 0 where it does not say.
        seconds: length of the video.
        notes: what a user should know.
    """

    tracks: tuple[Track, ...]
    lost: dict[str, str]
    rejected: dict[str, int]
    frames: int
    announced: int
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass
class _Best:
    """The best crop of a span of a track's time so far."""

    quality: float = -1.0
    frame: int = -1
    jpeg: bytes = b""


@dataclass
class _Candidates:
    """Boxes that may give crops: arrays of N, ordered by frame."""

    frame: np.ndarray
    track: np.ndarray
    xyxy: np.ndarray
    confidence: np.ndarray
    overlap: np.ndarray
    at_border: np.ndarray
    span: np.ndarray  # number of the span of the track's time
    rejected: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, Counter[str]] = field(default_factory=dict)


def crop_video(
    video: Video,
    detections: Detections,
    folder: Path,
    options: CropOptions,
    progress: Callable[[int], Callable[[int], object]] = lambda total: lambda count: None,
) -> CropsResult:
    """Write the best crops of each track to `folder`, an empty one that exists.

    Each track's time, from its first box to its last, is divided into `options.per_track` equal spans, and in each
    the box of highest quality gives a crop: a person is seen from all sides that the track shows, not 16 times in
    the sharpest second.

    Args:
        video: what was tracked.
        detections: the tracker's boxes.
        folder: gets `TRACK/FRAME.jpg`, `tracks.csv` and `crops.json`.
        options: which crops.
        progress: called with the number of frames to decode, gives what is called with 1 after each.

    Raises:
        SanError: the boxes do not fit the video, or no crop is left.
    """
    timeline = video.timeline(progress(0))
    size_wh = video.size_wh()
    boxes = _candidates(detections, timeline, size_wh, options, video.path)
    best = _choose(video, boxes, options, progress)
    result = _write(folder, detections, timeline, boxes, best, options)
    if not result.tracks:
        reasons = ", ".join(f"{count} {reason}" for reason, count in result.rejected.items())
        raise SanError(
            f"{video.path}: no box gives a crop ({reasons})",
            do="lower --min-height or --min-sharpness, or raise --max-overlap",
        )
    return result


def _candidates(
    detections: Detections, timeline: Timeline, size_wh: tuple[int, int], options: CropOptions, path: Path
) -> _Candidates:
    xyxy = detections.in_pixels(size_wh, options.made_for_wh)
    width, height = size_wh
    frames = len(timeline.time_s)
    # A box may leave the frame by a little; whole boxes beyond it were made for another size.
    centre = (xyxy[:, :2] + xyxy[:, 2:]) / 2
    beyond = ((centre < 0) | (centre > np.array([width, height]))).any(axis=1)
    if beyond.mean() > _MISFIT:
        raise SanError(
            f"{int(beyond.sum())} of {len(xyxy)} boxes lie outside {path}, whose frames have {width} x {height} pixels",
            why="the tracker saw frames of another size, or another video",
            do="say which: --box-size WIDTHxHEIGHT",
        )
    missing = detections.frame >= frames
    if missing.all():
        raise SanError(
            f"{path} has {frames} frames, and the first box is in frame {int(detections.frame.min())}",
            do="give the boxes of this video, or say --first-frame",
        )
    clipped = np.clip(xyxy, 0, np.array([width, height, width, height], float))
    tall = clipped[:, 3] - clipped[:, 1]
    wide = clipped[:, 2] - clipped[:, 0]
    overlap = np.zeros(len(xyxy))
    for start, end in _runs(detections.frame):
        overlap[start:end] = overlaps(xyxy[start:end])
    why = np.full(len(xyxy), "", dtype=object)
    for reason, bad in (
        (COVERED, overlap > options.max_overlap),
        (SMALL, tall < options.min_height),
        (OUTSIDE, (np.round(wide) < 1) | (np.round(tall) < 1) | beyond),
        (NO_FRAME, missing),
    ):
        why[bad] = reason
    span = _spans(detections, timeline, options.per_track)
    keep = why == ""
    reasons: dict[str, Counter[str]] = {}
    for track, reason in zip(detections.track.tolist(), why.tolist(), strict=True):
        if reason:
            reasons.setdefault(track, Counter())[reason] += 1
    return _Candidates(
        frame=detections.frame[keep],
        track=detections.track[keep],
        xyxy=clipped[keep],
        confidence=detections.confidence[keep],
        overlap=overlap[keep],
        at_border=touches_border(xyxy[keep], size_wh),
        span=span[keep],
        rejected=Counter(reason for reason in why.tolist() if reason),
        reasons=reasons,
    )


def _spans(detections: Detections, timeline: Timeline, count: int) -> np.ndarray:
    """`(N,)` int64: in which of `count` equal spans of its track's time a box lies; 0 for frames that are missing."""
    last = len(timeline.time_s) - 1
    time = timeline.time_s[np.minimum(detections.frame, last)]
    span = np.zeros(len(time), np.int64)
    for track in np.unique(detections.track):
        own = (detections.track == track) & (detections.frame <= last)
        if own.any():
            length = time[own].max() - time[own].min()
            part = (time[own] - time[own].min()) / length if length else np.zeros(int(own.sum()))
            span[own] = np.minimum((part * count).astype(np.int64), count - 1)
    return span


def _runs(frame: np.ndarray) -> Iterator[tuple[int, int]]:
    """Start and end of each run of equal numbers."""
    edges = [0, *(np.flatnonzero(np.diff(frame)) + 1).tolist(), len(frame)]
    yield from itertools.pairwise(edges)


def _choose(
    video: Video,
    boxes: _Candidates,
    options: CropOptions,
    progress: Callable[[int], Callable[[int], object]],
) -> dict[tuple[str, int], _Best]:
    cv2 = opencv()
    best: dict[tuple[str, int], _Best] = {}
    wanted = np.unique(boxes.frame)
    start = dict(zip(wanted.tolist(), np.searchsorted(boxes.frame, wanted).tolist(), strict=True))
    advance = progress(len(wanted))
    for number, frame in video.frames(wanted):
        at = start[number]
        while at < len(boxes.frame) and boxes.frame[at] == number:
            left, top, right, bottom = np.round(boxes.xyxy[at]).astype(int).tolist()
            crop = frame[top:bottom, left:right]
            track = str(boxes.track[at])
            sharp = sharpness(crop)
            if sharp < options.min_sharpness:
                boxes.rejected[BLURRED] += 1
                boxes.reasons.setdefault(track, Counter())[BLURRED] += 1
            else:
                height, sure = float(bottom - top), float(boxes.confidence[at])
                value = quality(height, sharp, float(boxes.overlap[at]), bool(boxes.at_border[at]), sure)
                entry = best.setdefault((track, int(boxes.span[at])), _Best())
                if value > entry.quality:
                    good, data = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
                    assert good
                    entry.quality, entry.frame, entry.jpeg = value, number, data.tobytes()
            at += 1
        advance(1)
    return best


def _write(
    folder: Path,
    detections: Detections,
    timeline: Timeline,
    boxes: _Candidates,
    best: dict[tuple[str, int], _Best],
    options: CropOptions,
) -> CropsResult:
    chosen: dict[str, list[_Best]] = {}
    for (track, _), entry in sorted(best.items(), key=lambda item: item[1].frame):
        chosen.setdefault(track, []).append(entry)
    names = _folder_names(chosen)
    tracks = []
    exists = detections.frame < len(timeline.time_s)
    for track, entries in chosen.items():
        own = detections.frame[(detections.track == track) & exists]
        (folder / names[track]).mkdir()
        for entry in entries:
            (folder / names[track] / f"{entry.frame:06d}.jpg").write_bytes(entry.jpeg)
        tracks.append(
            Track(
                name=names[track],
                track=track,
                start_s=float(timeline.time_s[own[0]]),
                end_s=float(timeline.time_s[own[-1]]),
                first_frame=int(own[0]),
                last_frame=int(own[-1]),
                boxes=len(own),
                crops=len(entries),
                quality=float(np.mean([entry.quality for entry in entries])),
            )
        )
    tracks.sort(key=lambda item: (item.start_s, item.name))
    lost = {
        str(track): boxes.reasons.get(str(track), Counter({NO_FRAME: 1})).most_common(1)[0][0]
        for track in np.unique(detections.track)
        if track not in chosen
    }
    result = CropsResult(
        tracks=tuple(tracks),
        lost=lost,
        rejected={**detections.dropped, **boxes.rejected},
        frames=len(timeline.time_s),
        announced=timeline.announced,
        seconds=float(timeline.time_s[-1]),
        notes=tuple(_notes(detections, timeline)),
    )
    _write_tracks(folder / TRACKS, result, options)
    (folder / SUMMARY).write_text(
        json.dumps(as_dict(result), indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )
    return result


def _notes(detections: Detections, timeline: Timeline) -> Iterator[str]:
    yield from detections.notes
    frames = len(timeline.time_s)
    if timeline.announced and timeline.announced != frames:
        yield f"the container announces {timeline.announced} frames, {frames} are there"
    if timeline.repaired:
        yield f"{timeline.repaired} frames had no time, or one before their predecessor's; the frame rate set it"


def _folder_names(tracks: dict[str, list[_Best]]) -> dict[str, str]:
    """Track -> name of its folder: `t0012` for numbers; what no file system minds of other names, all different."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for track in tracks:
        name = (
            f"t{int(track):04d}" if track.isdecimal() else re.sub(r"[^\w-]", "_", track, flags=re.ASCII)[:64]
        )
        base, count = name, 2
        while name.lower() in taken:
            name, count = f"{base}-{count}", count + 1
        taken.add(name.lower())
        names[track] = name
    return names


def _write_tracks(path: Path, result: CropsResult, options: CropOptions) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["camera", "track", "start", "end", "first_frame", "last_frame", "boxes", "crops", "quality"]
        )
        for track in result.tracks:
            start, end = (_time(seconds, options.start) for seconds in (track.start_s, track.end_s))
            row = [options.camera, track.name, start, end, track.first_frame, track.last_frame, track.boxes]
            writer.writerow([*row, track.crops, f"{track.quality:.1f}"])


def _time(seconds: float, start: datetime | None) -> str:
    if start is None:
        return f"{seconds:.3f}"
    return (start + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")


def as_dict(result: CropsResult) -> dict[str, Any]:
    """The result for JSON."""
    return {
        "schema_version": 1,
        "tracks": [vars(track) for track in result.tracks],
        "lost": result.lost,
        "rejected": result.rejected,
        "frames": result.frames,
        "announced_frames": result.announced,
        "seconds": round(result.seconds, 3),
        "notes": list(result.notes),
    }


def written_names(folder: Path) -> set[str]:
    """Names at the top of a folder that an earlier `san crops` wrote; empty where it did not write it.

    They are what `--force` may replace.
    """
    try:
        told = json.loads((folder / SUMMARY).read_bytes())
        tracks = {str(track["name"]) for track in told["tracks"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()
    return {TRACKS, SUMMARY, *tracks}
