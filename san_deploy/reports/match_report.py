"""The report: one self-contained page of every tracklet, its match and its runners-up; it opens from disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from ..images import spread
from ..matching.accuracy import Accuracy, same_person
from ..matching.cameras import Camera
from ..matching.match import Candidate, Matching, MatchRow, PairMatching, iter_rows
from .html import environment, model_facts, write_page
from .pictures import crop_uri

if TYPE_CHECKING:
    from ..matching.accuracy import TrackToPid

#: Crops of one tracklet that are shown, at most.
CROPS_PER_TRACKLET = 4
#: Pictures in one page, about 2 to 3 KB each. With more tracklets each shows fewer crops, at least one ...
CROP_BUDGET = 1200
#: ... until there are this many; further tracklets are shown by name alone.
MAX_PICTURES = 3000
#: Rows in one page (tracklets times camera pairs). The tables beside the page always hold all of them.
MAX_ROWS = 4000
#: Beyond this many rows only the first runners-up are shown.
MANY_ROWS = 1500
RUNNERS_UP_OF_MANY = 3
_BINS = 28


@dataclass(frozen=True)
class _Limits:
    """How much of a matching one page shows."""

    crops_per_tracklet: int
    tracklets_with_pictures: int
    rows: int
    runners_up: int


def write_report(
    path: Path,
    matching: Matching,
    *,
    track_to_pid: TrackToPid | None = None,
    accuracy: Accuracy | None = None,
    title: str = "",
    progress: Callable[[int], Any] | None = None,
) -> None:
    """Write the page. Crops are read from the cameras' folders again, a few for each tracklet.

    Args:
        path: the .html file to write, in a folder of `atomic_folder`.
        matching: what to show.
        track_to_pid: `{(camera, track): person}`; where given, every row says whether it is right.
        accuracy: what `san_deploy.matching.accuracy.score` made of them.
        title: headline; empty names the cameras.
        progress: called with the number of pictures that were added.

    Raises:
        OSError: no space, no permission; `atomic_folder` says it in words.
    """
    limits = _limits(matching)
    album = _Album(matching.cameras, limits, progress)
    context = _context(
        matching, limits=limits, album=album, track_to_pid=track_to_pid or {}, accuracy=accuracy, title=title
    )
    write_page(path, environment().get_template("match_report.html.j2"), context)


def _limits(matching: Matching) -> _Limits:
    tracklets = sum(len(camera.tracks) for camera in matching.cameras)
    rows = sum(len(pair.tracks_a) + len(pair.tracks_b) - pair.matched for pair in matching.pairs)
    per_tracklet = min(CROPS_PER_TRACKLET, max(1, CROP_BUDGET // max(1, tracklets)))
    return _Limits(
        crops_per_tracklet=per_tracklet,
        tracklets_with_pictures=MAX_PICTURES // per_tracklet,
        rows=MAX_ROWS,
        runners_up=matching.top if rows <= MANY_ROWS else min(matching.top, RUNNERS_UP_OF_MANY),
    )


class _Album:
    """Embeds each crop once, where its tracklet is first shown; later places point to it by number."""

    def __init__(
        self, cameras: Sequence[Camera], limits: _Limits, progress: Callable[[int], Any] | None
    ) -> None:
        self._progress = progress
        self._files: dict[tuple[str, str], list[tuple[int, Path]]] = {}
        self._embedded: set[int] = set()
        self._failed: set[int] = set()
        self.total: dict[tuple[str, str], int] = {}
        number = 0
        for camera in cameras:
            for track, paths in zip(camera.tracks.tolist(), camera.crops, strict=True):
                self.total[camera.name, track] = len(paths)
                if len(self._files) >= limits.tracklets_with_pictures:
                    continue
                chosen = spread(paths, limits.crops_per_tracklet)
                self._files[camera.name, track] = [
                    (number + k, camera.folder / crop) for k, crop in enumerate(chosen)
                ]
                number += len(chosen)

    def strip(self, camera: str, track: str) -> Markup:
        """The pictures of a tracklet, embedded where this is their first place."""
        files = self._files.get((camera, track), [])
        pictures: list[Markup] = []
        for number, path in files:
            # One description for the strip: a reader who hears the page is not told four times.
            alt = (
                ""
                if pictures
                else f"Tracklet {track} of {camera}, {len(files)} of {self.total[camera, track]} crops"
            )
            pictures.append(self._picture(number, path, alt))
        return Markup("").join(pictures)

    def copies(self, camera: str, track: str) -> Markup:
        """The pictures of a tracklet whose own row is elsewhere."""
        files = self._files.get((camera, track), [])
        return Markup("").join(Markup('<img data-i="{}" alt="">').format(number) for number, _ in files)

    def thumb(self, camera: str, track: str) -> Markup:
        """The middle one of its pictures; its name stands beside it, so it has no description."""
        files = self._files.get((camera, track), [])
        if not files:
            return Markup('<span class="blank"></span>')
        return Markup('<img data-i="{}" alt="">').format(files[len(files) // 2][0])

    def _picture(self, number: int, path: Path, alt: str) -> Markup:
        if number in self._embedded:
            return Markup('<img data-i="{}" alt="{}">').format(number, alt)
        source = "" if number in self._failed else crop_uri(path)
        if not source:  # deleted since it was embedded by the network
            self._failed.add(number)
            return Markup('<span class="blank" role="img" aria-label="{}"></span>').format(
                alt or "crop missing"
            )
        self._embedded.add(number)
        if self._progress:
            self._progress(1)
        return Markup('<img id="i{}" src="{}" alt="{}" decoding="async">').format(number, source, alt)


def _context(
    matching: Matching,
    *,
    limits: _Limits,
    album: _Album,
    track_to_pid: TrackToPid,
    accuracy: Accuracy | None,
    title: str,
) -> dict[str, Any]:
    pairs = []
    left = limits.rows
    rows_in_all = 0
    for pair in matching.pairs:
        rows = list(iter_rows(pair, limits.runners_up))
        rows_in_all += len(rows)
        shown, left = rows[:left], max(0, left - len(rows))
        pairs.append(_pair_view(pair, rows, shown, track_to_pid))
    tracklets = sum(len(camera.tracks) for camera in matching.cameras)
    return {
        "title": title or " · ".join(camera.name for camera in matching.cameras),
        "album": album,
        "pairs": pairs,
        "cameras": [
            {
                "name": camera.name,
                "tracklets": len(camera.tracks),
                "crops": camera.crop_count,
                "unreadable": len(camera.unreadable),
                "lost": camera.lost_tracks,
            }
            for camera in matching.cameras
        ],
        "tracklets": tracklets,
        "crops": matching.crop_count,
        "matched": sum(pair.matched for pair in matching.pairs),
        "alone": sum(len(pair.tracks_a) + len(pair.tracks_b) - 2 * pair.matched for pair in matching.pairs),
        "seconds": matching.seconds,
        "crops_per_s": matching.crops_per_s,
        "threshold": matching.threshold,
        "calibration": matching.calibration,
        "accuracy": accuracy,
        "model": model_facts(matching.model),
        "backend": matching.parameters.get("backend", ""),
        "unreadable": [
            (camera.name, item.path, item.reason) for camera in matching.cameras for item in camera.unreadable
        ],
        "crops_per_tracklet": limits.crops_per_tracklet,
        "crops_left_out": sum(max(0, count - limits.crops_per_tracklet) for count in album.total.values()),
        "without_pictures": max(0, tracklets - limits.tracklets_with_pictures),
        "rows_left_out": max(0, rows_in_all - limits.rows),
        "runners_up": limits.runners_up,
        "runners_up_in_all": matching.top,
    }


def _pair_view(
    pair: PairMatching, rows: Sequence[MatchRow], shown: Sequence[MatchRow], track_to_pid: TrackToPid
) -> dict[str, Any]:
    partner = {(row.camera_a, row.track_a): row for row in rows if row.matched}
    partner |= {(row.camera_b, row.track_b): row for row in rows if row.matched}
    people = {
        camera: {track_to_pid[camera, track] for track in names.tolist() if (camera, track) in track_to_pid}
        for camera, names in ((pair.camera_a, pair.tracks_a), (pair.camera_b, pair.tracks_b))
    }
    views = [_row_view(row, partner, people, track_to_pid) for row in shown]
    return {
        "camera_a": pair.camera_a,
        "camera_b": pair.camera_b,
        "tracklets_a": len(pair.tracks_a),
        "tracklets_b": len(pair.tracks_b),
        "matched": pair.matched,
        "no_match": len(rows) - pair.matched,
        "wrong": sum(view["verdict"] in ("wrong", "missed") for view in views),
        "rows": views,
        "left_out": len(rows) - len(shown),
        "chart": _chart(rows),
    }


def _row_view(
    row: MatchRow,
    partner: Mapping[tuple[str, str], MatchRow],
    people: Mapping[str, set[int]],
    track_to_pid: TrackToPid,
) -> dict[str, Any]:
    a, b = (row.camera_a, row.track_a), (row.camera_b, row.track_b)
    same = same_person(track_to_pid, a, b)
    verdict = ""
    if row.matched and same is not None:
        verdict = "right" if same else "wrong"
    elif not row.matched and a in track_to_pid:
        seen = track_to_pid[a] > 0 and track_to_pid[a] in people[row.camera_b]
        verdict = "missed" if seen else "alone"

    def candidates(of: tuple[str, str], camera: str, items: Sequence[Candidate]) -> dict[str, Any]:
        return {
            "camera": camera,
            "of": of[1],
            "items": [
                {
                    "track": item.track,
                    "similarity": item.similarity,
                    "same": same_person(track_to_pid, of, (camera, item.track)) is True,
                }
                for item in items
            ],
        }

    lists = [candidates(a, row.camera_b, row.runners_up_a)]
    if row.matched:
        lists.append(candidates(b, row.camera_a, row.runners_up_b))
    # An unmatched tracklet's best candidate may lie above the threshold: then somebody else has it.
    rival = None if row.matched else partner.get(b)
    taken = None
    if rival is not None:
        taken = {
            "track": rival.track_b if (rival.camera_a, rival.track_a) == b else rival.track_a,
            "similarity": rival.similarity,
        }
    return {
        "row": row,
        "verdict": verdict,
        "same": same is True,
        "taken": taken,
        "lists": [item for item in lists if item["items"]],
        "search": f"{row.track_a} {row.track_b if row.matched else ''}".strip().lower(),
    }


def _chart(rows: Sequence[MatchRow]) -> dict[str, Any]:
    """Bars of a small histogram: similarities of matches, and of the best candidates of the unmatched."""
    matched = np.array([row.similarity for row in rows if row.matched], np.float64)
    others = np.array([row.similarity for row in rows if not row.matched], np.float64)
    low = min(0.0, float(min(matched.min(initial=0.0), others.min(initial=0.0))))
    edges = np.linspace(low, 1.0, _BINS + 1)
    heights = [np.histogram(np.clip(values, low, 1.0), edges)[0] for values in (matched, others)]
    top = max(1, int((heights[0] + heights[1]).max()))
    return {
        "low": low,
        "bars": [
            {"matched": int(m) / top, "other": int(o) / top}
            for m, o in zip(heights[0].tolist(), heights[1].tolist(), strict=True)
        ],
    }
