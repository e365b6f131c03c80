"""From a camera's folder, or what `san embed` made of it, to tracklets for a gallery."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .. import metrics
from ..errors import SanError, UsageError
from ..images import UnreadableImage, read_image, spread
from ..video.tracks import TrackTime, read_track_times
from .tracks import UNKNOWN, Tracks

#: Height of a picture that is kept, pixels, and its JPEG quality.
_PICTURE_H, _PICTURE_QUALITY = 128, 80


@dataclass(frozen=True)
class CameraTracks:
    """One camera, ready to be added or searched with.

    Attributes:
        tracks: its tracklets.
        files: per tracklet, its crops that were embedded, absolute where they are known.
        model: description of the model that embedded them, `Artefact.as_dict()`.
    """

    tracks: Tracks
    files: tuple[tuple[Path, ...], ...]
    model: Mapping[str, Any]


def split_name(argument: str) -> tuple[str, Path]:
    """`door=videos/cam1/` to name and path; without `=` the name is that of the folder, or of the file."""
    name, equals, path = argument.partition("=")
    if equals and name and "/" not in name:
        return name, Path(path)
    whole = Path(argument)
    resolved = whole.resolve()
    return (resolved.stem if resolved.suffix == ".npz" else resolved.name), whole


def read_camera(
    name: str, path: Path, embed: Callable[[Path], Any], *, times: Path | None = None
) -> CameraTracks:
    """Tracklets of a folder of crops, or of an .npz of `san embed`.

    Args:
        name: of the camera.
        path: folder or .npz file.
        embed: from a folder to `san_deploy.embed.Embeddings`.
        times: folder with tracks.csv; None looks in `path`.

    Raises:
        SanError: nothing readable, or tracks.csv is damaged or gives seconds of a video instead of times of day.
    """
    from ..embed import read_embeddings

    if path.suffix == ".npz":
        embedded, root = read_embeddings(path), None
    else:
        embedded, root = embed(path), path
    if not len(embedded.track):
        raise SanError(f"{path} holds no readable crop", do="check the files, or leave the camera out")
    pooled, names = metrics.pool_tracklets(embedded.embedding, embedded.track)
    files: dict[str, list[Path]] = {track: [] for track in names.tolist()}
    for file, track in zip(embedded.path.tolist(), embedded.track.tolist(), strict=True):
        if root is not None:
            files[track].append(root / file)
    counts = dict(zip(*np.unique(embedded.track, return_counts=True), strict=True))
    folder = times or root
    known = read_track_times(folder) if folder is not None else {}
    if any(not item.clock for item in known.values()):
        raise SanError(
            f"{folder}/tracks.csv has seconds of a video", why="a gallery outlives it and needs times of day",
            do="cut the crops again with san crops --start, or remove tracks.csv",
        )  # fmt: skip
    unknown = TrackTime(UNKNOWN, UNKNOWN, True)
    seen = [known.get(track, unknown) for track in names.tolist()]
    tracks = Tracks(
        camera=name,
        track=names,
        embedding=pooled,
        crops=np.array([counts[track] for track in names.tolist()], np.int64),
        start=np.array([item.start_s for item in seen]),
        end=np.array([item.end_s for item in seen]),
    )
    return CameraTracks(tracks, tuple(tuple(files[track]) for track in names.tolist()), embedded.model)


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


def read_people(path: Path, cameras: Sequence[Tracks]) -> list[list[int | None]]:
    """Identities of tracklets from the identities.csv of `san match`: columns camera, track, person.

    Args:
        path: the file.
        cameras: whose tracklets are looked up.

    Returns:
        For each camera, for each tracklet, its person; None where the file does not have it.

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
                if not text.isdecimal() or int(text) < 1:
                    raise SanError(f"{path}, line {line}: person {text!r} is no number above 0")
                found[row["camera"], row["track"]] = int(text)
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist", do="give the identities.csv of san match") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SanError(f"{path} cannot be read", why=str(error)) from error
    return [[found.get((tracks.camera, track)) for track in tracks.track.tolist()] for tracks in cameras]
