"""From an embedded camera to tracklets for a gallery, with small pictures and whose they are."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..datasets.records import person_number
from ..errors import SanError, UsageError
from ..images import UnreadableImage, read_image, spread
from ..matching.cameras import Camera
from ..video.tracks import read_track_times
from .tracks import UNKNOWN, Tracks

#: Height of a picture that is kept, pixels, and its JPEG quality.
_PICTURE_H, _PICTURE_QUALITY = 128, 80


def tracks_of(camera: Camera, person: np.ndarray | None = None) -> Tracks:
    """A camera's tracklets as a gallery takes them.

    Args:
        camera: with its times, see `matching.site.with_times`.
        person: `(T,)` int64, whose they are, 0 for nobody; None says it of none.

    Raises:
        SanError: its times are seconds of a video, not times of day.
    """
    if camera.start is not None and not camera.clock:
        raise _video_seconds(camera.folder)
    unknown = np.full(len(camera.tracks), UNKNOWN)
    return Tracks(
        camera=camera.name,
        track=camera.tracks,
        embedding=camera.embedding,
        crops=np.array([len(paths) for paths in camera.crops], np.int64),
        start=unknown if camera.start is None else camera.start,
        end=unknown if camera.end is None else camera.end,
        person=person,
    )


def refuse_video_seconds(folder: Path) -> None:
    """SanError where a folder's tracks.csv has seconds of a video."""
    if any(not item.clock for item in read_track_times(folder).values()):
        raise _video_seconds(folder)


def _video_seconds(folder: Path) -> SanError:
    return SanError(
        f"{folder}/tracks.csv has seconds of a video",
        why="a gallery outlives it and needs times of day",
        do="cut the crops again with san crops --start, or remove tracks.csv",
    )


def camera_pictures(camera: Camera, count: int) -> list[list[bytes]] | None:
    """Small pictures of each tracklet of a camera, at most `count`; None for none."""
    crops = [[camera.folder / path for path in paths] for paths in camera.crops]
    return kept_pictures(crops, count) if count else None


def kept_pictures(files: Sequence[Sequence[Path]], count: int) -> list[list[bytes]]:
    """Small JPEG files of `count` crops of each tracklet, spread over it; unreadable ones are passed over."""
    return [[data for path in spread(crops, count) if (data := _small(path))] for crops in files]


def _small(path: Path) -> bytes:
    try:
        image = Image.fromarray(read_image(path)[:, :, ::-1])
    except UnreadableImage:
        return b""
    width = max(1, round(image.width * _PICTURE_H / image.height))
    file = io.BytesIO()
    image.resize((width, _PICTURE_H), Image.Resampling.BICUBIC).save(file, "JPEG", quality=_PICTURE_QUALITY)
    return file.getvalue()


def read_people(path: Path, cameras: Sequence[Camera]) -> list[np.ndarray]:
    """Identities of tracklets from the identities.csv of `san match`: columns camera, track, person.

    Args:
        path: the file.
        cameras: whose tracklets are looked up.

    Returns:
        For each camera `(T,)` int64, the person of each tracklet; 0 where the file does not have it.

    Raises:
        UsageError: no such file.
        SanError: a column is missing, or a person is no number above 0.
    """
    found: dict[tuple[str, str], int] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if not {"camera", "track", "person"} <= set(reader.fieldnames or ()):
                raise SanError(
                    f"{path} has not the columns camera, track, person", do="give what san match wrote"
                )
            for line, row in enumerate(reader, 2):
                text = (row["person"] or "").strip()
                try:
                    person = person_number(text)
                except ValueError:
                    person = 0
                if person < 1:
                    raise SanError(f"{path}, line {line}: person {text[:40]!r} is no number above 0")
                found[row["camera"], row["track"]] = person
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist", do="give the identities.csv of san match") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SanError(f"{path} cannot be read", why=str(error)) from error
    return [
        np.array([found.get((camera.name, track), 0) for track in camera.tracks.tolist()], np.int64)
        for camera in cameras
    ]
