"""A gallery as files that `san match` and other programs read."""

from __future__ import annotations

import csv
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from ..datasets.crop_folder import IDENTITIES
from ..embed import Embeddings, write_embeddings
from ..errors import SanError
from ..io.atomic import atomic_folder
from ..video.tracks import TRACKS
from .tracks import Gallery


def write_export(gallery: Gallery, out: Path, *, force: bool = False) -> int:
    """Write `CAMERA.npz` (a row for each tracklet, in the form of `san embed`), `tracks.csv`
    of those whose time is known, and `identities.csv` of those whose person is.

    Args:
        gallery: what to write.
        out: the folder; an earlier export is replaced with `force`.
        force: see there.

    Returns:
        The number of cameras.

    Raises:
        SanError: it holds nothing, or cannot be written.
    """
    cameras = gallery.export()
    if not cameras:
        raise SanError(f"{gallery.info().location} holds no tracklet")
    model = dict(gallery.info().model)
    ours = sorted(path.name for path in out.glob("*.npz")) if out.is_dir() else []
    with atomic_folder(out, force=force, ours=[*ours, TRACKS, IDENTITIES]) as folder:
        rows: list[list[object]] = [["camera", "track", "start", "end", "crops"]]
        people: list[list[object]] = [["camera", "track", "person"]]
        for index, tracks in enumerate(cameras):
            # A camera's name may be no file's name.
            safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in tracks.camera).lstrip(".")
            name = f"{safe or index}.npz"
            if (folder / name).exists():
                name = f"{safe}-{index}.npz"
            names = np.array(tracks.track)
            write_embeddings(Embeddings(tracks.embedding, names, names, model), folder / name)
            for row in np.flatnonzero(~np.isnan(tracks.start)).tolist():
                times = (_iso(tracks.start[row]), _iso(tracks.end[row]))
                rows.append([tracks.camera, tracks.track[row], *times, tracks.crops[row]])
            for row in np.flatnonzero(tracks.people).tolist():
                people.append([tracks.camera, tracks.track[row], tracks.people[row]])
        for name, table in ((TRACKS, rows), (IDENTITIES, people)):
            with (folder / name).open("w", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows(table)
    return len(cameras)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(float(seconds), timezone.utc).isoformat(timespec="milliseconds")
