"""Boxes with track numbers, as trackers write them, in one form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import SanError

#: Reasons for which a box is left out, in the order in which they are looked at.
NO_TRACK = "without a track number"
NOT_A_PERSON = "not a person"
EMPTY = "empty"


@dataclass(frozen=True)
class Detections:
    """A tracker's boxes over one video, ordered by frame.

    Attributes:
        frame: `(N,)` int64, frame number from 0.
        track: `(N,)` unicode, the tracker's name of the person's pass.
        xyxy: `(N, 4)` float64: left, top, right, bottom. Pixels of the frame with (0, 0) at its upper left corner, or
            parts of the frame's width and height where `relative`.
        confidence: `(N,)` float64, 0..1; 1 where the tracker gives none.
        relative: whether boxes are parts of the frame.
        format: what was read, for example `mot`.
        dropped: boxes that were left out while reading, by reason.
        notes: what a user should know of how the file was understood.
    """

    frame: np.ndarray
    track: np.ndarray
    xyxy: np.ndarray
    confidence: np.ndarray
    relative: bool = False
    format: str = "arrays"
    dropped: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.frame)

    def in_pixels(self, size_wh: tuple[int, int], made_for_wh: tuple[int, int] | None = None) -> np.ndarray:
        """The boxes in pixels of frames of `size_wh`.

        Args:
            size_wh: width and height of the decoded frames.
            made_for_wh: width and height of the frames that the tracker saw, where it saw them resized.

        Returns:
            `(N, 4)` float64, not clipped to the frame.
        """
        width, height = size_wh
        if self.relative:
            return self.xyxy * np.array([width, height, width, height], float)
        if made_for_wh is None:
            return self.xyxy
        across, down = width / made_for_wh[0], height / made_for_wh[1]
        return self.xyxy * np.array([across, down, across, down])


class Collector:
    """Collects boxes one by one, counts those that it leaves out, and checks each number."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._frame: list[int] = []
        self._track: list[str] = []
        self._xyxy: list[tuple[float, float, float, float]] = []
        self._confidence: list[float] = []
        self.dropped: Counter[str] = Counter()

    def add(self, where: str, frame: Any, track: Any, xyxy: Sequence[Any], confidence: Any = None) -> None:
        """Add one box, or count why not.

        Args:
            where: for messages, for example `line 12`.
            frame: number from 0.
            track: the tracker's; None, empty, negative, or the largest unsigned 64-bit number mean none.
            xyxy: left, top, right, bottom.
            confidence: None where there is none.

        Raises:
            SanError: something is not a finite number, or the frame number is negative or beyond any video.
        """
        try:
            number = int(frame)
            box = tuple(float(value) for value in xyxy)
            sure = 1.0 if confidence is None or confidence == "" else float(confidence)
            if number != float(frame):
                raise ValueError("the frame number is not whole")
        except (TypeError, ValueError, OverflowError) as error:
            raise SanError(f"{self._source}, {where}: {error}", do=_LOOK) from error
        if not np.isfinite([*box, sure]).all():
            raise SanError(f"{self._source}, {where}: a box holds NaN or infinity", do=_LOOK)
        if number > _LAST:
            raise SanError(f"{self._source}, {where}: frame {number:.3g} is beyond any video", do=_LOOK)
        if number < 0:
            raise SanError(
                f"{self._source}, {where}: frame {number} is before the first",
                do="say which number the first frame has: --first-frame",
            )
        name = track_name(track)
        if name is None:
            self.dropped[NO_TRACK] += 1
        elif box[2] <= box[0] or box[3] <= box[1]:
            self.dropped[EMPTY] += 1
        else:
            self._frame.append(number)
            self._track.append(name)
            self._xyxy.append(box)  # type: ignore[arg-type]
            # MOTChallenge's ground truth has 0 for boxes to ignore and -1 for unknown.
            self._confidence.append(1.0 if sure < 0 else min(sure, 1.0))

    def skip(self, reason: str) -> None:
        """Count a box that is left out."""
        self.dropped[reason] += 1

    def done(
        self, form: str, *, ids_from: str, relative: bool = False, notes: Sequence[str] = ()
    ) -> Detections:
        """All boxes, ordered by frame, those of one frame as they came.

        Args:
            form: name of the format.
            ids_from: which option makes the tracker write track numbers, for the message where none has one.
            relative: see `Detections`.
            notes: see `Detections`.

        Raises:
            SanError: no box is left, or two boxes of one frame have the same track.
        """
        if not self._frame:
            if self.dropped[NO_TRACK]:
                raise SanError(
                    f"{self._source}: none of its {sum(self.dropped.values())} boxes has a track number",
                    why="crops are grouped by the tracker's numbers",
                    do=ids_from,
                )
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items())
            raise SanError(f"{self._source} holds no box" + (f": {reasons}" if reasons else ""), do=_LOOK)
        frame = np.array(self._frame, np.int64)
        order = np.argsort(frame, kind="stable")
        found = Detections(
            frame=frame[order],
            track=np.array(self._track)[order],
            xyxy=np.array(self._xyxy, np.float64)[order],
            confidence=np.array(self._confidence, np.float64)[order],
            relative=relative,
            format=form,
            dropped=dict(self.dropped),
            notes=tuple(notes),
        )
        seen: set[tuple[int, str]] = set()
        for number, track in zip(found.frame.tolist(), found.track.tolist(), strict=True):
            if (number, track) in seen:
                raise SanError(
                    f"{self._source}: frame {number} has track {track} twice",
                    why="one person stands in one place; frames of several videos may be in one file",
                    do="give the boxes of one video",
                )
            seen.add((number, track))
        return found


def from_arrays(
    frame: Iterable[int],
    track: Iterable[Any],
    xyxy: Iterable[Sequence[float]],
    confidence: Iterable[float] | None = None,
) -> Detections:
    """Detections of arrays, such as `tracker_id`, `xyxy` and `confidence` of `supervision.Detections`.

    Args:
        frame: N frame numbers from 0.
        track: N track numbers or names; None and negative numbers mean none and are counted.
        xyxy: N boxes: left, top, right, bottom in pixels.
        confidence: N numbers, 0..1; None where the tracker gives none.

    Raises:
        SanError: lengths differ, a number is not finite, or no box has a track.
    """
    frames, tracks, boxes = list(frame), list(track), list(xyxy)
    sure: list[float | None] = [None] * len(frames) if confidence is None else list(confidence)
    if not len(frames) == len(tracks) == len(boxes) == len(sure):
        lengths = f"{len(frames)}, {len(tracks)}, {len(boxes)}, {len(sure)}"
        raise SanError(f"frame, track, xyxy and confidence have {lengths} entries")
    found = Collector("the arrays")
    for index, (number, name, box, value) in enumerate(zip(frames, tracks, boxes, sure, strict=True)):
        found.add(f"entry {index}", number, name, box, value)
    return found.done("arrays", ids_from="run a tracker over the detections")


def track_name(value: Any) -> str | None:
    """A track's name: `12` of 12, 12.0 and "12"; None for none, negative, NaN and DeepStream's untracked id."""
    if value is None:
        return None
    # NumPy's strings end at zeros, as C's do.
    text = str(value).replace("\0", "").strip()
    try:
        number = float(text)
    except ValueError:
        return text or None
    if not np.isfinite(number) or number < 0 or number >= 2**64 - 1:
        return None
    return str(int(number)) if number == int(number) else text


#: The last frame number: larger ones are no longer exact in the floats that some formats write.
_LAST = 1 << 53
_LOOK = "look at that place, or name the file's format: --format"
