"""The report: one self-contained page of people, camera pairs and runners-up; it opens from disk.

The tables stand in the page as data, and a script shows some dozens at a time: a site of 5,000 tracklets opens as
fast as one of 50. The first people are also written as plain HTML, for a browser without scripts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from ..images import spread
from ..matching.accuracy import Accuracy
from ..matching.identities import Identities
from ..matching.identity_accuracy import IdentityAccuracy
from ..matching.match import FORBIDDEN, TAKEN, Candidate, Matching, MatchRow, PairMatching, iter_rows
from .html import environment, model_facts, write_page
from .pictures import crop_uri

if TYPE_CHECKING:
    from ..matching.accuracy import TrackToPid
    from ..matching.sources import Progress

#: Crops of one tracklet that are shown, at most.
CROPS_PER_TRACKLET = 4
#: Pictures in one page, 2 to 3 KB each: every camera has its share, and with more tracklets each shows fewer crops.
CROP_BUDGET = 1500
#: One picture for each tracklet up to so many; beyond, every camera shows a part of its tracklets.
MAX_PICTURES = 6000
#: Rows in one page (tracklets times camera pairs). The tables beside the page always hold all of them.
MAX_ROWS = 60_000
#: Beyond this many rows only the first runners-up are shown.
MANY_ROWS = 1500
RUNNERS_UP_OF_MANY = 3
#: People that are also written as plain HTML.
PLAIN_PEOPLE = 24
_BINS = 28
#: States of a row, by number in the page's data.
_MATCH, _UNSURE, _TAKEN, _BELOW, _FORBIDDEN = range(5)
_NOT_JUDGED, _RIGHT, _WRONG, _MISSED, _ALONE = range(5)


@dataclass(frozen=True)
class Findings:
    """What the report shows.

    Attributes:
        matching: the camera pairs.
        people: the identities over all cameras.
        track_to_pid: labels, `{(camera, track): person}`; where given, every row says whether it is right.
        accuracy: what `matching.accuracy.score` made of them.
        people_accuracy: what `matching.identity_accuracy.score_people` made of them.
    """

    matching: Matching
    people: Identities
    track_to_pid: TrackToPid | None = None
    accuracy: Accuracy | None = None
    people_accuracy: IdentityAccuracy | None = None


def write_report(
    path: Path, findings: Findings, *, title: str = "", progress: Progress | None = None
) -> None:
    """Write the page. Crops are read from the cameras' folders again, a few for each tracklet.

    Args:
        path: the .html file to write, in a folder of `atomic_folder`.
        findings: what to show.
        title: headline; empty names the cameras.
        progress: `san_deploy.io.progress.bar` or the like: called with the number of pictures, a label and a unit.

    Raises:
        OSError: no space, no permission; `atomic_folder` says it in words.
    """
    album = _Album(findings.matching)
    tables = _Tables(findings, album)
    context = _context(findings, album, tables, title)
    template = environment().get_template("match_report.html.j2")
    with progress(len(album), "report", "picture") if progress else nullcontext() as album.advance:
        write_page(path, template, context)


class _Album:
    """Which crops of each tracklet are shown; each is read when the page is written."""

    def __init__(self, matching: Matching) -> None:
        cameras = matching.cameras
        #: Called for each picture.
        self.advance: Callable[[int], Any] | None = None
        self._files: list[Path] = []
        self.total: list[int] = []
        #: For each tracklet of all cameras, numbers of its pictures.
        self.pictures: list[list[int]] = []
        tracklets = sum(len(camera.tracks) for camera in cameras)
        budget = MAX_PICTURES
        shown: dict[str, set[int]] = {}
        unsure = _unsure(matching)
        for left, camera in zip(
            range(len(cameras), 0, -1), sorted(cameras, key=lambda item: len(item.tracks)), strict=True
        ):
            count = (
                len(camera.tracks) if tracklets <= MAX_PICTURES else min(len(camera.tracks), budget // left)
            )
            # Where not all fit, those that somebody should look at come first.
            first = spread(sorted(unsure[camera.name]), min(count, len(unsure[camera.name])))
            others = sorted({*range(len(camera.tracks))} - {*first})
            shown[camera.name] = {*first, *spread(others, max(1 - len(first), count - len(first)))}
            budget -= count
        for camera in cameras:
            each = min(CROPS_PER_TRACKLET, max(1, CROP_BUDGET // len(cameras) // max(1, len(camera.tracks))))
            for number, paths in enumerate(camera.crops):
                self.total.append(len(paths))
                chosen = spread(paths, each) if number in shown[camera.name] else []
                self.pictures.append(list(range(len(self._files), len(self._files) + len(chosen))))
                self._files += [camera.folder / crop for crop in chosen]

    def __len__(self) -> int:
        return len(self._files)

    def uri(self, number: int) -> str:
        """One picture as a data URI; empty where the crop is gone."""
        return crop_uri(self._files[number])

    def __iter__(self) -> Iterator[str]:
        """All pictures in their order, base64 of JPEG; empty for a crop that was deleted since it was embedded."""
        for path in self._files:
            if self.advance:
                self.advance(1)
            yield crop_uri(path).partition("base64,")[2]


def _unsure(matching: Matching) -> dict[str, set[int]]:
    """By camera the tracklets of unsure matches."""
    found: dict[str, set[int]] = {camera.name: set() for camera in matching.cameras}
    for pair in matching.pairs:
        rows = np.flatnonzero(pair.unsure)
        found[pair.camera_a].update(rows.tolist())
        found[pair.camera_b].update(pair.match_of_a[rows].tolist())
    return found


class _Tables:
    """The page's data: tracklets by number, rows of each camera pair, people."""

    def __init__(self, findings: Findings, album: _Album) -> None:
        matching = findings.matching
        self.labels = findings.track_to_pid or {}
        self.number: dict[tuple[str, str], int] = {}
        self.tracklets: list[list[Any]] = []
        self.pid: list[int] = []
        for place, camera in enumerate(matching.cameras):
            for track in camera.tracks.tolist():
                key = (camera.name, track)
                self.number[key] = number = len(self.tracklets)
                self.pid.append(self.labels.get(key, -1))
                self.tracklets.append([place, _text(track), album.total[number], album.pictures[number]])
        rows = sum(len(pair.tracks_a) + len(pair.tracks_b) - pair.matched for pair in matching.pairs)
        self.runners_up = matching.top if rows <= MANY_ROWS else min(matching.top, RUNNERS_UP_OF_MANY)
        self.rows_left_out = max(0, rows - MAX_ROWS)
        self.pairs: list[dict[str, Any]] = []
        self.charts: list[dict[str, Any]] = []
        left = MAX_ROWS
        place_of = {camera.name: place for place, camera in enumerate(matching.cameras)}
        self.doubtful: set[int] = set()
        for pair in matching.pairs:
            all_rows = list(iter_rows(pair, self.runners_up))
            self.charts.append(_chart(all_rows))
            # Where not all fit, those that somebody should look at come first.
            kept = sorted(all_rows, key=_urgency)[:left] if len(all_rows) > left else all_rows
            left -= len(kept)
            self.pairs.append(
                {
                    "a": place_of[pair.camera_a],
                    "b": place_of[pair.camera_b],
                    "rows": [self._row(row, pair) for row in kept],
                }
            )
            for row in all_rows:
                if row.unsure:
                    self.doubtful |= {
                        self.number[row.camera_a, row.track_a],
                        self.number[row.camera_b, row.track_b],
                    }
        self.people = self._people(findings)

    def _row(self, row: MatchRow, pair: PairMatching) -> list[Any]:
        a, b = self.number[row.camera_a, row.track_a], self.number[row.camera_b, row.track_b]
        if row.matched:
            state = _UNSURE if row.unsure else _MATCH
        else:
            state = {TAKEN: _TAKEN, FORBIDDEN: _FORBIDDEN}.get(row.reason, _BELOW)
        margin = round(row.margin, 4) if row.matched and np.isfinite(row.margin) else None
        lists = [
            self._candidates(row.camera_b, row.runners_up_a),
            self._candidates(row.camera_a, row.runners_up_b),
        ]
        return [a, b, round(row.similarity, 4), state, margin, *lists, self._verdict(row, pair, a, b)]

    def _candidates(self, camera: str, items: Sequence[Candidate]) -> list[list[Any]]:
        return [[self.number[camera, item.track], round(item.similarity, 4)] for item in items]

    def _verdict(self, row: MatchRow, pair: PairMatching, a: int, b: int) -> int:
        if self.pid[a] < 0 or (row.matched and self.pid[b] < 0):
            return _NOT_JUDGED
        if row.matched:
            return _RIGHT if self.pid[a] == self.pid[b] != 0 else _WRONG
        tracks = pair.tracks_b if row.camera_b == pair.camera_b else pair.tracks_a
        seen = self.pid[a] > 0 and any(
            self.labels.get((row.camera_b, track)) == self.pid[a] for track in tracks.tolist()
        )
        return _MISSED if seen else _ALONE

    def _people(self, findings: Findings) -> list[list[Any]]:
        """Members, mean confidence, least margin, whether somebody should look, what the labels say, number, known."""
        members: dict[int, list[int]] = {}
        confidence = np.concatenate(findings.people.confidence)
        margin = np.concatenate(findings.people.margin)
        for number, person in enumerate(np.concatenate(findings.people.person).tolist()):
            members.setdefault(person, []).append(number)
        of_pid: dict[int, int] = {}
        for pid in self.pid:
            of_pid[pid] = of_pid.get(pid, 0) + 1
        people = []
        for person in sorted(members):
            group = members[person]
            sure = confidence[group]
            pids = {self.pid[number] for number in group}
            verdict = _NOT_JUDGED
            if min(pids) >= 0:
                pure = len(pids) == 1 and (0 not in pids or len(group) == 1)
                whole = pure and (0 in pids or of_pid[next(iter(pids))] == len(group))
                verdict = _RIGHT if whole else _MISSED if pure else _WRONG
            value = round(float(np.mean(sure)), 4) if np.isfinite(sure).all() else None
            doubt = len(group) > 1 and bool(self.doubtful.intersection(group))
            least = round(float(margin[group].min()), 4)
            known = int(person in findings.people.known)
            people.append([group, value, least, int(doubt), verdict, person, known])
        return people

    def as_json(self, findings: Findings) -> Markup:
        """For a script element: no sequence of it may end the element."""
        matching = findings.matching
        calibration = matching.calibration
        data = {
            "cameras": [_text(camera.name) for camera in matching.cameras],
            "tracklets": self.tracklets,
            "pids": self.pid if self.labels else None,
            "pairs": self.pairs,
            "people": self.people,
            "threshold": round(matching.threshold, 4),
            "curve": [list(point) for point in calibration.curve] if calibration else [],
        }
        return Markup(json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"))


def _urgency(row: MatchRow) -> tuple[int, float]:
    return (0 if row.unsure else 1 if row.matched else 2, row.margin if row.matched else -row.similarity)


def _text(name: str) -> str:
    """A name that need not be Unicode on disk, as the tables beside the page write it."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _context(findings: Findings, album: _Album, tables: _Tables, title: str) -> dict[str, Any]:
    matching = findings.matching
    cameras = matching.cameras
    return {
        "title": title or " · ".join(camera.name for camera in cameras),
        "album": album,
        "data": tables.as_json(findings),
        "plain": [_plain(tables, person) for person in _first(tables.people)],
        "pairs": [
            {
                "camera_a": pair.camera_a,
                "camera_b": pair.camera_b,
                "tracklets_a": len(pair.tracks_a),
                "tracklets_b": len(pair.tracks_b),
                "matched": pair.matched,
                "unsure": int(pair.unsure.sum()),
                "noise": pair.noise,
                "chart": chart,
            }
            for pair, chart in zip(matching.pairs, tables.charts, strict=True)
        ],
        "cameras": [
            {
                "name": camera.name,
                "tracklets": len(camera.tracks),
                "crops": camera.crop_count,
                "unreadable": len(camera.unreadable),
                "lost": camera.lost_tracks,
            }
            for camera in cameras
        ],
        "tracklets": len(tables.tracklets),
        "crops": matching.crop_count,
        "people": findings.people,
        "several": sum(size > 1 for size in findings.people.sizes),
        "matched": sum(pair.matched for pair in matching.pairs),
        "unsure": sum(int(pair.unsure.sum()) for pair in matching.pairs),
        "gallery": matching.parameters.get("gallery"),
        "seconds": matching.seconds,
        "crops_per_s": matching.crops_per_s,
        "threshold": matching.threshold,
        "calibration": matching.calibration,
        "accuracy": findings.accuracy,
        "people_accuracy": findings.people_accuracy,
        "labelled": bool(tables.labels),
        "model": model_facts(matching.model, str(matching.parameters.get("backend", ""))),
        "unreadable": [
            (camera.name, item.path, item.reason) for camera in cameras for item in camera.unreadable
        ],
        "without_pictures": sum(not pictures for pictures in album.pictures),
        "rows_left_out": tables.rows_left_out,
        "runners_up": tables.runners_up,
        "runners_up_in_all": matching.top,
    }


def _first(people: Sequence[list[Any]]) -> list[list[Any]]:
    """As the page begins: those somebody should look at, then people of several tracklets, least margin first."""
    return sorted(people, key=lambda person: (-person[3], len(person[0]) == 1, person[2]))[:PLAIN_PEOPLE]


def _plain(tables: _Tables, person: Sequence[Any]) -> Mapping[str, Any]:
    return {
        "number": person[5],
        "tracklets": [
            {
                "camera": tables.tracklets[number][0],
                "track": tables.tracklets[number][1],
                "picture": pictures[len(pictures) // 2]
                if (pictures := tables.tracklets[number][3])
                else None,
            }
            for number in person[0]
        ],
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
