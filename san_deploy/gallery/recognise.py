"""People whom a gallery knows, for matching new cameras with; and what became of them, for the gallery.

A gallery's numbers stay: no two known people become one, and no number is given twice, unless a user says so; then
it is an event of the gallery, `merge` or `split`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ..errors import SanError
from ..matching.cameras import Camera
from ..matching.identities import Identities
from ..matching.linkage.nodes import Known
from ..matching.similarity import NEAREST, search
from ..matching.site import Marks, Site
from .cameras import camera_pictures, tracks_of
from .tracks import Gallery, Tracks

#: A tracklet with a name that the gallery has is that one from this similarity on: other crops of it, or another
#: precision. A name that comes again for somebody else is refused.
SAME = 0.99
Key: TypeAlias = tuple[str, str]


@dataclass(frozen=True)
class Recognition:
    """A gallery as cameras that are to be matched find it.

    Attributes:
        known: for `matching.identities.find_people`.
        there: for each camera `(T,)` int64, the person whom the gallery has a tracklet for, 0 for none yet; -1 where it
            does not have the tracklet.
    """

    known: Known
    there: tuple[np.ndarray, ...]


def recognise(
    gallery: Gallery, cameras: Sequence[Camera], site: Site, *, threshold: float, unknown: float
) -> Recognition:
    """Look up whom a gallery knows, in a transaction of it. Merges and splits that a user marked are made first.

    Args:
        gallery: opened to write.
        cameras: with their times.
        site: rules; passages hold for the gallery's tracklets too, without their `max_s`: people come again.
        threshold: similarity from which two tracklets match.
        unknown: similarity to everybody known below which a tracklet is somebody new.

    Raises:
        SanError: a camera has a tracklet of another person under a name that the gallery has, or marks contradict.
    """
    _settle(gallery, site.marks)
    entries = gallery.export()
    people = _people(entries)
    there = tuple(_there(gallery.info().location, camera, entries) for camera in cameras)
    owner = tuple(_owners(camera, people, site.marks) for camera in cameras)
    names = {(camera.name, track) for camera in cameras for track in camera.tracks.tolist()}
    outside = [_outside(item, names) for item in entries]
    person, embedding = _means(outside, gallery.info().dim)
    near = _relevant(cameras, embedding, unknown)
    near |= np.isin(person, np.concatenate(owner))
    person, embedding = person[near], embedding[near]
    forbidden = tuple(_forbidden(camera, outside, person, site) for camera in cameras)
    known = Known(person, embedding, owner, forbidden, unknown - threshold, gallery.new_people)
    return Recognition(known, there)


def record(
    gallery: Gallery,
    cameras: Sequence[Camera],
    people: Identities,
    there: Sequence[np.ndarray],
    pictures: int,
) -> int:
    """Add the tracklets that a gallery does not have, and say whose the others are; how many were added.

    Args:
        gallery: in the transaction of `recognise`.
        cameras: likewise.
        people: what was found.
        there: of `Recognition`.
        pictures: small pictures of each tracklet to keep, at most.
    """
    added = 0
    for camera, person, before in zip(cameras, people.person, there, strict=True):
        changed = (before >= 0) & (before != person)
        named = dict(zip(camera.tracks[changed].tolist(), person[changed].tolist(), strict=True))
        if named:
            gallery.assign(camera.name, named)
        fresh = np.flatnonzero(before < 0)
        if len(fresh):
            kept = camera_pictures(camera, pictures)
            tracks = tracks_of(camera, person)
            chosen = None if kept is None else [kept[row] for row in fresh.tolist()]
            added += gallery.add(_part(tracks, fresh), chosen)
    return added


def _settle(gallery: Gallery, marks: Marks) -> None:
    """Split known people whose tracklets a user told apart, and merge those of whom he said that they are one."""
    if not marks.confirmed and not marks.rejected:
        return
    for first, second in map(_keys, marks.rejected):
        people = _people(gallery.export())
        if people.get(first, 0) > 0 and people.get(first) == people.get(second):
            person = people[first]
            members = sorted(key for key, number in people.items() if number == person)
            gallery.split(person, _away(gallery.export(), members, (first, second)))
    for group in _joined(_people(gallery.export()), marks):
        for person in group[1:]:
            gallery.merge(group[0], person)
    people = _people(gallery.export())
    for first, second in map(_keys, marks.rejected):
        if people.get(first, 0) > 0 and people.get(first) == people.get(second):
            raise SanError(
                f"the corrections tell {'/'.join(first)} and {'/'.join(second)} apart, and join them through others",
                do="reject or confirm one pair less",
            )


def _away(entries: Sequence[Tracks], members: Sequence[Key], told_apart: tuple[Key, Key]) -> list[Key]:
    """Of a person's tracklets those that are more like the second of two; the first by name keeps the number."""
    rows = {
        (item.camera, track): item.embedding[at]
        for item in entries
        for at, track in enumerate(item.track.tolist())
        if (item.camera, track) in members
    }
    stays, goes = sorted(told_apart)
    return [
        key
        for key in members
        if key == goes or (key != stays and float(rows[key] @ rows[goes]) > float(rows[key] @ rows[stays]))
    ]


def _joined(people: Mapping[Key, int], marks: Marks) -> list[list[int]]:
    """Known people whom confirmed pairs join, directly or through others, the least number of each group first."""
    home: dict[object, set[object]] = {}
    for first, second in map(_keys, marks.confirmed):
        group: set[object] = set()
        for key in (first, second):
            node: object = people.get(key) or key
            group |= home.get(node, {node})
        home |= dict.fromkeys(group, group)
    groups = {id(group): sorted(node for node in group if isinstance(node, int)) for group in home.values()}
    return [group for group in groups.values() if len(group) > 1]


def _keys(mark: tuple[str, str, str, str]) -> tuple[Key, Key]:
    return (mark[0], mark[1]), (mark[2], mark[3])


def gallery_cameras(gallery: Gallery) -> list[Camera]:
    """Everything that a gallery has, a camera each, without crops."""
    return [_as_camera(item) for item in gallery.export()]


def _people(entries: Sequence[Tracks]) -> dict[Key, int]:
    return {
        (item.camera, track): number
        for item in entries
        for track, number in zip(item.track.tolist(), item.people.tolist(), strict=True)
    }


def _there(location: str, camera: Camera, entries: Sequence[Tracks]) -> np.ndarray:
    """See `Recognition.there`; SanError where a tracklet is somebody else under the same name."""
    found = np.full(len(camera.tracks), -1)
    for item in entries:
        if item.camera == camera.name:
            _, own, old = np.intersect1d(camera.tracks, item.track, return_indices=True)
            alike = np.einsum("nd,nd->n", camera.embedding[own], item.embedding[old])
            if (alike < SAME).any():
                first = camera.tracks[own[int(np.argmin(alike))]]
                raise SanError(
                    f"{location} has another tracklet {first} of camera {camera.name}",
                    why=f"their similarity is {alike.min():.3f}: a name that comes again, as trackers count anew",
                    do=f"name the camera or its day anew: {camera.name}-2=PATH, or delete the old one "
                    f"(san gallery delete --camera {camera.name} --track {first})",
                )
            found[own] = item.people[old]
    return found


def _owners(camera: Camera, people: Mapping[Key, int], marks: Marks) -> np.ndarray:
    """`(T,)` int64, whose a camera's tracklets are for certain: by the gallery, or by a confirmed pair with it."""
    owner = np.array([people.get((camera.name, track), 0) for track in camera.tracks.tolist()], np.int64)
    number = {(camera.name, track): at for at, track in enumerate(camera.tracks.tolist())}
    for pair in map(_keys, marks.confirmed):
        for own, other in (pair, pair[::-1]):
            if own in number and people.get(other, 0):
                owner[number[own]] = people[other]
    return owner


def _part(item: Tracks, rows: np.ndarray) -> Tracks:
    return Tracks(
        item.camera,
        item.track[rows],
        item.embedding[rows],
        item.crops[rows],
        item.start[rows],
        item.end[rows],
        item.people[rows],
    )


def _outside(item: Tracks, names: set[Key]) -> Tracks:
    """The tracklets with a person that are not among those to be matched."""
    new = np.array([(item.camera, track) not in names for track in item.track.tolist()], bool)
    return _part(item, np.flatnonzero(new & (item.people > 0)))


def _means(items: Sequence[Tracks], dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the people, `(P,)` ascending, and the means of their tracklets, `(P, D)` float32."""
    rows = np.concatenate([np.empty((0, dim), np.float32), *(item.embedding for item in items)])
    people = np.concatenate([np.empty(0, np.int64), *(item.people for item in items)])
    if not len(people):
        return people, rows
    order = np.argsort(people, kind="stable")
    person, first, counts = np.unique(people[order], return_index=True, return_counts=True)
    sums = np.add.reduceat(rows[order], first, axis=0, dtype=np.float64)
    return person, (sums / counts[:, None]).astype(np.float32)


def _relevant(cameras: Sequence[Camera], embedding: np.ndarray, unknown: float) -> np.ndarray:
    """`(P,)` bool, known people who may be one of the tracklets, and the two most like each, for its margin."""
    found = np.zeros(len(embedding), bool)
    for camera in cameras if len(embedding) else ():
        near, *_ = search(camera.embedding, embedding, threshold=2.0, count=NEAREST)
        found[near.index[near.similarity >= np.float32(unknown)]] = True
        found[near.index[:, :2]] = True
    return found


def _forbidden(camera: Camera, items: Sequence[Tracks], person: np.ndarray, site: Site) -> np.ndarray:
    """`(F, 2)` int64: tracklets of a camera, and places in `person`, that cannot be one by time, place or marks."""
    found = [np.empty((0, 2), np.int64)]
    people = _people(items)
    number = {(camera.name, track): at for at, track in enumerate(camera.tracks.tolist())}
    place = {pid: at for at, pid in enumerate(person.tolist())}
    for pair in map(_keys, site.marks.rejected):
        for own, other in (pair, pair[::-1]):
            if own in number and people.get(other) in place:
                found.append(np.array([[number[own], place[people[other]]]], np.int64))
    ways = {key: replace(way, max_s=math.inf) for key, way in site.passages.items()}
    timed = Site(passages=ways)
    slack_s = max((way.min_s for way in ways.values()), default=0.0)
    for item in (_meanwhile(camera, each, person, slack_s) for each in items):
        if not len(item.track) or camera.start is None or camera.end is None:
            continue
        rows, columns = np.arange(len(camera.tracks))[:, None], np.arange(len(item.track))[None, :]
        if item.camera == camera.name:
            cannot = (camera.end[:, None] >= item.start) & (camera.start[:, None] <= item.end)
        elif rule := timed.rule(camera, _as_camera(item)):
            cannot = ~rule.allowed(rows, columns)
        else:
            continue
        row, column = np.nonzero(cannot)
        found.append(np.stack([row, np.searchsorted(person, item.people[column])], axis=1))
    return np.unique(np.concatenate(found), axis=0)


def _meanwhile(camera: Camera, item: Tracks, person: np.ndarray, slack_s: float) -> Tracks:
    """The tracklets of those people that were seen while the camera's were, or so many seconds before or after."""
    if camera.start is None or camera.end is None or np.isnan(camera.start).all():
        return _part(item, np.empty(0, np.int64))
    low, high = np.nanmin(camera.start) - slack_s, np.nanmax(camera.end) + slack_s
    return _part(
        item, np.flatnonzero((item.end >= low) & (item.start <= high) & np.isin(item.people, person))
    )


def _as_camera(item: Tracks) -> Camera:
    crops = tuple(() for _ in item.track)
    return Camera(
        item.camera, Path(), item.track, item.embedding, crops, start=item.start, end=item.end, clock=True
    )
