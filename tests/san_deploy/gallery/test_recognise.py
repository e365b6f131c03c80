"""New cameras and days: whoever is known keeps the number, in a folder and in PostgreSQL alike."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from san_deploy.errors import SanError
from san_deploy.gallery import Gallery, Tracks
from san_deploy.gallery.cameras import tracks_of
from san_deploy.gallery.recognise import recognise, record
from san_deploy.matching import identities
from san_deploy.matching.cameras import Camera
from san_deploy.matching.identities import Identities, find_people
from san_deploy.matching.match import match_cameras
from san_deploy.matching.site import Marks, Passage, Site

from .conftest import Open
from .made import DIM, unit

People = dict[tuple[str, str], int]


def camera(name: str, rows: np.ndarray, *, first: int = 0, start: float | None = None) -> Camera:
    """Tracklets `t000...`, five seconds each, ten apart, from `start` on."""
    tracks = [f"t{first + k:03d}" for k in range(len(rows))]
    begin = None if start is None else start + 10.0 * np.arange(len(rows))
    return Camera(
        name,
        Path(name),
        np.array(tracks),
        unit(rows),
        tuple((f"{track}/1.jpg",) for track in tracks),
        start=begin,
        end=None if begin is None else begin + 5,
        clock=begin is not None,
    )


NOWHERE = Site()


def day(
    gallery: Gallery,
    cameras: Sequence[Camera],
    *,
    site: Site = NOWHERE,
    unknown: float = 0.8,
    method: str = identities.DEFAULT,
) -> tuple[People, Identities]:
    """One run of `san match --gallery`, without its files."""
    with gallery.transaction():
        matching = match_cameras(cameras, threshold=0.8, rules=site.rule, at_least=1)
        found = recognise(gallery, cameras, site, threshold=0.8, unknown=unknown)
        people = find_people(matching, site, method, found.known)
        record(gallery, cameras, people, found.there, 0)
    return {
        (item.name, track): person
        for item, persons in zip(cameras, people.person, strict=True)
        for track, person in zip(item.tracks.tolist(), persons.tolist(), strict=True)
    }, people


def stored(gallery: Gallery) -> People:
    return {
        (item.camera, track): person
        for item in gallery.export()
        for track, person in zip(item.track.tolist(), item.people.tolist(), strict=True)
    }


def axes(*numbers: int, noise: float = 0.1, seed: int = 0) -> np.ndarray:
    """Rows near unit vectors: people who are told apart for certain."""
    rows: np.ndarray = np.eye(DIM)[list(numbers)]
    return rows + noise * np.random.default_rng(seed).normal(size=rows.shape)


def test_people_of_yesterday_keep_their_numbers(opened: Open) -> None:
    gallery = opened(write=True)
    first, told = day(gallery, [camera("door", axes(0, 1, 2)), camera("hall", axes(1, 2, 3, seed=1))])
    assert set(first.values()) == {1, 2, 3, 4} and told.known == frozenset()
    # One camera alone, another day: 3 comes again, 5 is new.
    second, told = day(gallery, [camera("yard", axes(5, 3, seed=2))])
    assert second == {("yard", "t000"): 5, ("yard", "t001"): first["hall", "t002"]}
    assert told.known == {first["hall", "t002"]}
    assert stored(gallery) == first | second
    # The same camera and names again is the same tracklets: nothing changes, whatever else comes.
    again, _ = day(gallery, [camera("yard", axes(5, 3, seed=2)), camera("roof", axes(5, 0, seed=3))])
    assert {key: again[key] for key in second} == second
    assert again["roof", "t000"] == 5 and again["roof", "t001"] == first["door", "t000"]
    assert gallery.info().people == 5
    assert gallery.new_people(1) == [6]


def test_both_stores_and_every_order_give_the_same(opened: Open) -> None:
    rng = np.random.default_rng(3)
    centre = unit(rng.normal(size=(9, DIM)))
    before = [camera(name, centre[:6] + 0.2 * rng.normal(size=(6, DIM))) for name in "ab"]
    today = [camera(name, centre[3:] + 0.2 * rng.normal(size=(6, DIM))) for name in "cde"]
    gallery = opened(write=True)
    first, _ = day(gallery, before)
    found = []
    for order in itertools.permutations(today):
        people, _ = day(gallery, list(order))
        found.append(people)
        for item in today:
            gallery.delete(item.name)
    groups = [
        {frozenset(key for key, number in people.items() if number == person) for person in people.values()}
        for people in found
    ]
    assert all(item == groups[0] for item in groups) and 6 <= len(groups[0]) < 18
    known = set(first.values())
    named = [{key: number for key, number in people.items() if number in known} for people in found]
    assert all(item == named[0] for item in named) and len(named[0]) > 5


@pytest.mark.parametrize("method", identities.METHODS)
@pytest.mark.parametrize("exact", [True, False])
def test_two_known_people_never_become_one(
    opened: Open, monkeypatch: pytest.MonkeyPatch, method: str, exact: bool
) -> None:
    if not exact:
        monkeypatch.setattr(identities, "EXACT", 0)
    gallery = opened(write=True)
    first, _ = day(gallery, [camera("door", axes(0, 1, noise=0.0))])
    # Alike to both, and to each other.
    between = axes(0, 0, noise=0.0) + 0.95 * axes(1, 1, noise=0.0)
    second, _ = day(
        gallery,
        [camera("hall", between[:1]), camera("yard", between[1:])],
        method=method,
        unknown=0.5,
    )
    assert first == {("door", "t000"): 1, ("door", "t001"): 2}
    assert {key: stored(gallery)[key] for key in first} == first
    assert set(second.values()) == {1}


def test_unknown_is_a_threshold_of_its_own(opened: Open) -> None:
    gallery = opened(write=True)
    day(gallery, [camera("door", axes(0, noise=0.0))])
    near = camera("hall", axes(0, noise=0.0) + 0.5 * axes(1, noise=0.0))  # cosine 0.894
    strict, _ = day(gallery, [near], unknown=0.95)
    assert strict == {("hall", "t000"): 2}
    gallery.delete("hall")
    mild, _ = day(gallery, [near], unknown=0.85)
    assert mild == {("hall", "t000"): 1}


def test_groups_are_average_linkage_with_a_known_person_as_one_more(opened: Open) -> None:
    """Against SciPy: one known person, nobody before one camera twice."""
    gallery = opened(write=True)
    rng = np.random.default_rng(11)
    centre = unit(rng.normal(size=(1, DIM)))
    history = unit(centre + 0.3 * rng.normal(size=(4, DIM)))
    for number, row in enumerate(history):
        gallery.add(replace(_tracks(f"old{number}", row[None]), person=np.array([1])))
    today = [camera(f"new{k}", centre + 0.35 * rng.normal(size=(1, DIM))) for k in range(7)]
    _, people = day(gallery, today, unknown=0.8)
    rows = np.concatenate([*(item.embedding for item in today), history.mean(axis=0)[None]]).astype(
        np.float64
    )
    distance = 1 - rows @ rows.T
    np.fill_diagonal(distance, 0)
    expected = fcluster(linkage(squareform(distance, checks=False), "average"), 0.2, "distance")
    person = np.concatenate([*people.person, [1]])
    assert np.array_equal(person[:, None] == person, expected[:, None] == expected)
    assert 1 < len(set(person.tolist())) < 8


def _tracks(name: str, rows: np.ndarray) -> Tracks:
    return tracks_of(camera(name, rows))


def test_a_name_that_comes_again_for_somebody_else_is_refused(opened: Open) -> None:
    gallery = opened(write=True)
    day(gallery, [camera("door", axes(0, 1))])
    with pytest.raises(SanError, match=r"another tracklet t000 of camera door.*a name that comes again"):
        day(gallery, [camera("door", axes(5, 1))])
    assert gallery.info().tracks == 2


def test_nobody_is_twice_before_a_camera_at_a_time_and_comes_again_later(opened: Open) -> None:
    gallery = opened(write=True)
    first, _ = day(gallery, [camera("door", axes(0, noise=0.0), start=1000.0)])
    meanwhile, _ = day(gallery, [camera("door", axes(0, noise=0.0), first=1, start=1002.0)])
    later, _ = day(gallery, [camera("door", axes(0, noise=0.0), first=2, start=2000.0)])
    assert (*first.values(), *meanwhile.values()) == (1, 2)
    assert later["door", "t002"] in (1, 2)


@pytest.mark.parametrize(("start", "person"), [(1010.0, 2), (1100.0, 1), (90_000.0, 1)])
def test_the_way_between_cameras_holds_for_known_people_but_its_longest_time(
    opened: Open, start: float, person: int
) -> None:
    site = Site(passages={("door", "hall"): Passage(False, 60.0, 120.0)})
    gallery = opened(write=True)
    day(gallery, [camera("door", axes(0, noise=0.0), start=1000.0)])
    found, _ = day(gallery, [camera("hall", axes(0, noise=0.0), start=start)], site=site)
    assert found == {("hall", "t000"): person}


def test_marks_merge_and_split_known_people(opened: Open) -> None:
    gallery = opened(write=True)
    cameras = [camera("door", axes(0, 1)), camera("hall", axes(0, 2, seed=1))]
    first, _ = day(gallery, cameras)
    assert first["door", "t000"] == first["hall", "t000"] == 1
    marks = Marks(confirmed=(("door", "t001", "hall", "t001"),), rejected=(("door", "t000", "hall", "t000"),))
    for _ in range(2):  # the second time there is nothing left to do
        second, _ = day(gallery, cameras, site=Site(marks=marks))
        assert second == {
            ("door", "t000"): 1, ("hall", "t000"): 4, ("door", "t001"): 2, ("hall", "t001"): 2,
        }  # fmt: skip
        assert [item.what for item in gallery.events() if item.what in ("merge", "split")] == [
            "split",
            "merge",
        ]
    # A confirmed pair of a known tracklet and a new one; a rejected one.
    third, _ = day(
        gallery,
        [camera("yard", axes(6, 0, seed=2))],
        site=Site(marks=Marks((("yard", "t000", "door", "t001"),), (("yard", "t001", "door", "t000"),))),
    )
    assert third["yard", "t000"] == 2 and third["yard", "t001"] != 1
    contrary = Marks(
        confirmed=(("door", "t000", "yard", "t000"), ("hall", "t000", "yard", "t000")),
        rejected=(("door", "t000", "hall", "t000"),),
    )
    before = stored(gallery)
    with pytest.raises(SanError, match="tell door/t000 and hall/t000 apart, and join them"):
        day(gallery, [camera("yard", axes(6, 0, seed=2))], site=Site(marks=contrary))
    assert stored(gallery) == before


def test_tracklets_that_nobody_named_get_a_person(opened: Open) -> None:
    gallery = opened(write=True)
    gallery.add(_tracks("door", axes(0, 1)))
    found, told = day(gallery, [camera("door", axes(0, 1)), camera("hall", axes(1, seed=1))])
    assert told.known == frozenset() and found["door", "t001"] == found["hall", "t000"]
    assert stored(gallery) == found
    assert [item.what for item in gallery.events()] == ["create", "add", "assign", "add"]
