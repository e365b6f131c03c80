"""Decoding a video with OpenCV: frames in order, each with the time at which it is shown."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..errors import SanError, UsageError
from ..images import SUFFIXES, UnreadableImage, read_image

#: Images of a sequence beyond this many pixels are refused; 8K is a quarter of it.
_MAX_PIXELS = 2**27


@dataclass(frozen=True)
class Timeline:
    """What a first pass over a video found.

    Attributes:
        time_s: `(F,)` float64, seconds from the first frame, never falling, one for each frame that decodes.
        announced: frames that the container promises; 0 where it does not say.
        repaired: times that ran backwards or were missing, and were set by the frame rate.
    """

    time_s: np.ndarray
    announced: int
    repaired: int


class Video:
    """A video file, or a folder of images in the order of their names.

    Args:
        path: the file or folder. Addresses of live streams are refused: their frames cannot be read twice.
        fps: frames a second of a folder of images; only there.

    Raises:
        SanError: missing, no video, or OpenCV is not installed.
        UsageError: `fps` is missing for a folder, or given for a file.
    """

    def __init__(self, path: Path, fps: float | None = None) -> None:
        self.path = path = Path(path)
        if "://" in str(path) or str(path).startswith(("rtsp:", "http:", "https:")):
            raise SanError(
                f"{path} is an address",
                why="boxes name frames, and a live stream gives none twice",
                do="record it to a file while the tracker runs, and give that",
            )
        if not path.exists():
            raise SanError(f"{path} does not exist", do="give a video file, or a folder of images")
        self._fps = fps
        self._images: list[Path] = []
        if path.is_dir():
            self._images = sorted(
                file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.name[0] != "."
            )
            if not self._images:
                raise SanError(f"{path} holds no image", do="give a video file, or a folder of images")
            if fps is None:
                raise UsageError(f"{path} is a folder of images", why="they have no times", do="say --fps")
        elif fps is not None:
            raise UsageError(f"--fps is for folders of images; {path} has times of its own")

    def timeline(self, advance: Callable[[int], object] = lambda count: None) -> Timeline:
        """Decode all frames without keeping one, for their times.

        `frame / fps` would be wrong where the rate varies; the container's frame count often is.

        Args:
            advance: called with 1 after each frame.
        """
        if self._images:
            return Timeline(np.arange(len(self._images)) / self._rate(), len(self._images), 0)
        cv2 = opencv()
        capture = self._open()
        try:
            announced = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
            rate = float(capture.get(cv2.CAP_PROP_FPS))
            step = 1.0 / rate if np.isfinite(rate) and 0 < rate <= 1000 else 0.04
            times: list[float] = []
            repaired = 0
            while capture.grab():
                time = float(capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000
                if times and not (np.isfinite(time) and time > times[-1]):
                    time, repaired = times[-1] + step, repaired + 1
                times.append(time)
                advance(1)
        finally:
            capture.release()
        if not times:
            raise SanError(f"no frame of {self.path} decodes", do="give a video that OpenCV can read")
        return Timeline(np.array(times) - times[0], announced, repaired)

    def frames(self, wanted: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """The wanted frames.

        Args:
            wanted: frame numbers from 0, in rising order.

        Yields:
            Number and frame, `(H, W, 3)` uint8 BGR, upright where the container says how it is turned.

        Raises:
            SanError: an image of a sequence cannot be read.
        """
        if self._images:
            for number in wanted.tolist():
                try:
                    yield number, read_image(self._images[number], max_pixels=_MAX_PIXELS)
                except UnreadableImage as error:
                    raise SanError(str(error), do="write it again, or remove it") from error
            return
        capture = self._open()
        try:
            at = 0
            for number in wanted.tolist():
                # Seeking is not exact with B-frames; grabbing is, and does not convert the colours.
                while at < number and capture.grab():
                    at += 1
                good, frame = capture.read()
                at += 1
                if not good:
                    return
                yield number, frame
        finally:
            capture.release()

    def size_wh(self) -> tuple[int, int]:
        """Width and height of the frames, pixels, as they are decoded."""
        _, frame = next(self.frames(np.array([0])))
        return frame.shape[1], frame.shape[0]

    def _rate(self) -> float:
        assert self._fps is not None
        return self._fps

    def _open(self) -> Any:
        cv2 = opencv()
        # A playlist that calls itself .mp4 must not fetch what it names.
        os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "protocol_whitelist;file")
        capture = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG)
        if not capture.isOpened():
            capture.release()
            raise SanError(
                f"{self.path} is no video that OpenCV can read", do="convert it: ffmpeg -i IN out.mp4"
            )
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        return capture


def opencv() -> ModuleType:
    """OpenCV's module, quiet.

    Raises:
        ModuleNotFoundError: it is not installed; the command line names the extra that brings it.
    """
    # FFmpeg writes of each damaged packet to stderr; what is lost is counted and said once.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    import cv2

    return cv2
