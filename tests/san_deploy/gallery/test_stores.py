"""What every store of a gallery must do, on each of them."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from san_deploy.errors import SanError
from san_deploy.gallery import Gallery, Hit, SearchFilter, Tracks

from .conftest import Open
from .made import DIM, MODEL, tracks, unit


def names(hits: list[Hit]) -> list[tuple[str, str]]:
    return [(hit.camera, hit.track) for hit in hits]


def expected(items: list[Tracks], query: np.ndarray, k: int) -> list[tuple[str, str]]:
    """Every similarity, sorted: the definition."""
    rows = [
        (-float(item.embedding[at] @ query), item.camera, str(item.track[at]))
        for item in items
        for at in range(len(item.track))
    ]
    return [(camera, track) for _, camera, track in sorted(rows)[:k]]


def test_search_is_exact(opened: Open) -> None:
    items = [tracks("door", 40), tracks("hall", 25), tracks("yard", 1)]
    gallery = opened(write=True)
    for item in items:
        assert gallery.add(item) == len(item.track)
    queries = unit(np.random.default_rng(5).normal(size=(7, DIM)))
    for k in (1, 5, 66, 200):
        found = opened().search(queries, k)
        for query, hits in zip(queries, found, strict=True):
            assert names(hits) == expected(items, query, k)
            assert [hit.similarity for hit in hits] == sorted((hit.similarity for hit in hits), reverse=True)
    own = opened().search(items[0].embedding[3:4], 1)[0][0]
    assert (own.camera, own.track, own.crops, own.person) == ("door", "t0003", 3, None)
    assert own.similarity == pytest.approx(1, abs=1e-6) and (own.start, own.end) == (1030.0, 1035.0)


def test_equal_similarities_come_by_name(opened: Open) -> None:
    gallery = opened(write=True)
    same = unit(np.ones((1, DIM)))
    for camera in ("b", "a"):
        item = tracks(camera, 3)
        gallery.add(replace(item, embedding=same.repeat(3, 0), track=item.track[::-1].copy()))
    assert names(gallery.search(same, 4)[0]) == [
        ("a", "t0000"),
        ("a", "t0001"),
        ("a", "t0002"),
        ("b", "t0000"),
    ]


def test_filters(opened: Open) -> None:
    gallery = opened(write=True)
    gallery.add(tracks("door", 5))
    gallery.add(tracks("hall", 5, start=2000.0))
    gallery.add(tracks("yard", 5, start=None))
    query = unit(np.ones((1, DIM)))

    def found(**given: object) -> set[tuple[str, str]]:
        return set(names(gallery.search(query, 100, SearchFilter(**given))[0]))  # type: ignore[arg-type]

    assert {camera for camera, _ in found(cameras=("door", "yard"))} == {"door", "yard"}
    assert found(after=1025.0, before=2005.0) == {
        ("door", "t0002"),
        ("door", "t0003"),
        ("door", "t0004"),
        ("hall", "t0000"),
    }
    assert {camera for camera, _ in found(after=0.0)} == {"door", "hall"}
    assert found(cameras=("door",), before=1000.0) == set() and found(cameras=("nowhere",)) == set()


def test_all_or_nothing(opened: Open) -> None:
    gallery = opened(write=True)
    gallery.add(tracks("door", 5))
    with pytest.raises(SanError, match="has a tracklet of camera door with a name that comes again"):
        gallery.add(tracks("door", 4, first=3))
    assert opened().info().tracks == 5
    with pytest.raises(SanError, match="holds embeddings of 8 numbers, not 3"):
        gallery.add(replace(tracks("x", 1), embedding=unit(np.ones((1, 3)))))
    gallery.add(tracks("door", 4, first=5))
    assert opened().info().cameras == {"door": 9}


def test_nan_is_refused() -> None:
    good = tracks("door", 2)
    for value in (np.nan, np.inf, 0.5):
        bad = good.embedding.copy()
        bad[1] = value
        with pytest.raises(SanError, match="not finite, or not of length 1"):
            replace(good, embedding=bad)


def test_deletion(opened: Open) -> None:
    gallery = opened(write=True)
    gallery.add(tracks("door", 5), pictures=[[b"one", b"two"]] * 5)
    gallery.add(tracks("hall", 5))
    assert gallery.pictures("door", "t0001") == [b"one", b"two"] and gallery.pictures("hall", "t0001") == []
    assert gallery.delete("door", "t0001") == 1 and gallery.delete("hall") == 5
    assert gallery.pictures("door", "t0001") == []
    left = {track for _, track in names(gallery.search(unit(np.ones((1, DIM))), 100)[0])}
    assert left == {"t0000", "t0002", "t0003", "t0004"}
    for camera, track in (("door", "t0001"), ("hall", None), ("nowhere", None)):
        with pytest.raises(SanError, match="has no"):
            gallery.delete(camera, track)
    gallery.compact()
    assert opened().info().tracks == 4 and opened().info().deleted == 0
    assert {track for _, track in names(opened().search(unit(np.ones((1, DIM))), 100)[0])} == left
    gallery.add(tracks("hall", 2))
    assert opened().info().tracks == 6


def test_expiry_by_when_it_was_seen_or_added(opened: Open) -> None:
    gallery = opened(write=True)
    gallery.add(tracks("door", 5))
    gallery.add(tracks("yard", 2, start=None))
    assert gallery.expire(1026.0) == 3  # seen until 1005, 1015 and 1025
    assert gallery.expire(time.time() - 60) == 2
    assert gallery.info().cameras == {"yard": 2}
    assert gallery.expire(time.time() + 60) == 2 and gallery.info().tracks == 0


def with_people(item: Tracks, people: list[int]) -> Tracks:
    return replace(item, person=np.array(people, np.int64))


def people_of(gallery: Gallery) -> dict[tuple[str, str], int]:
    return {
        (item.camera, track): person
        for item in gallery.export()
        for track, person in zip(item.track.tolist(), item.people.tolist(), strict=True)
        if person
    }


def test_people_keep_their_numbers(opened: Open) -> None:
    gallery = opened(write=True)
    assert gallery.new_people(2) == [1, 2]
    gallery.add(with_people(tracks("door", 4), [2, 0, 2, 7]))
    assert gallery.info().people == 2
    assert people_of(gallery) == {("door", "t0000"): 2, ("door", "t0002"): 2, ("door", "t0003"): 7}
    assert gallery.search(tracks("door", 4).embedding[1:2], 1)[0][0].person is None
    gallery.assign("door", {"t0001": 9})
    with pytest.raises(SanError, match="no such tracklets of camera door"):
        gallery.assign("door", {"t0001": 9, "nothing": 9})
    gallery.delete("door")
    assert gallery.new_people(1) == [10]
    assert opened(write=True).new_people(1) == [11] if gallery.info().store == "postgresql" else True


def test_merges_and_splits_are_events_and_numbers_stay(opened: Open) -> None:
    gallery = opened(write=True)
    gallery.add(with_people(tracks("door", 4), [1, 1, 2, 3]))
    gallery.add(with_people(tracks("hall", 2), [1, 3]))
    assert gallery.merge(1, 3) == 2
    assert gallery.split(1, [("door", "t0001"), ("hall", "t0001")]) == 4
    assert people_of(gallery) == {
        ("door", "t0000"): 1, ("door", "t0001"): 4, ("door", "t0002"): 2, ("door", "t0003"): 1,
        ("hall", "t0000"): 1, ("hall", "t0001"): 4,
    }  # fmt: skip
    told = [(item.what, dict(item.detail)) for item in gallery.events()[-2:]]
    assert told == [
        ("merge", {"into": 1, "person": 3, "tracks": 2}),
        ("split", {"person": 1, "into": 4, "tracks": 2}),
    ]
    for work, message in (
        (lambda: gallery.merge(1, 3), "no tracklet of person 3"),
        (lambda: gallery.merge(1, 1), "cannot be merged with itself"),
        (lambda: gallery.split(2, [("door", "t0002")]), "would have no tracklet left"),
        (lambda: gallery.split(2, [("door", "t0001")]), "door/t0001 is not of person 2"),
    ):
        with pytest.raises(SanError, match=message):
            work()
    assert gallery.new_people(1) == [5]


def test_a_transaction_is_all_or_nothing(opened: Open) -> None:
    gallery = opened(write=True)
    gallery.add(with_people(tracks("door", 2), [1, 2]))
    with pytest.raises(SanError, match="has a tracklet of camera door"), gallery.transaction():
        gallery.merge(1, 2)
        gallery.add(tracks("hall", 3))
        gallery.add(tracks("door", 1))
    assert opened().info().cameras == {"door": 2} and opened().info().people == 2
    with gallery.transaction():
        gallery.add(with_people(tracks("hall", 3), gallery.new_people(3)))
        gallery.add(tracks("yard", 2))
        assert gallery.info().tracks == 7
    assert opened().info().tracks == 7 and set(people_of(gallery).values()) == {1, 2, 3, 4, 5}
    assert names(gallery.search(tracks("hall", 3).embedding[2:], 1)[0]) == [("hall", "t0002")]


def test_events_are_an_audit_without_names_of_the_deleted(opened: Open) -> None:
    gallery = opened(write=True)
    gallery.add(tracks("door", 3))
    gallery.delete("door", "t0001")
    gallery.expire(0)
    gallery.compact()
    found = gallery.events()
    assert [item.what for item in found] == ["create", "add", "delete", "expire", "compact"]
    assert "t0001" not in str(found) and dict(found[1].detail) == {"camera": "door", "tracks": 3}
    assert all(abs(item.when - time.time()) < 600 for item in found)


def test_export_gives_back_what_was_added(opened: Open) -> None:
    gallery = opened(write=True)
    items = [tracks("door", 4), tracks("yard", 2, start=None)]
    for item in items[::-1]:
        gallery.add(item)
    for item, found in zip(items, gallery.export(), strict=True):
        assert found.camera == item.camera
        for name in ("track", "embedding", "crops", "start", "end"):
            assert np.array_equal(
                getattr(found, name), getattr(item, name), equal_nan=name in ("start", "end")
            )


def test_spaces_never_meet(opened: Open) -> None:
    with pytest.raises(
        SanError, match=r"holds embeddings of another network .space aaaaaaaaaaaa, this one is bbbbbbbbbbbb"
    ):
        opened(write=True, create=MODEL | {"space": "b" * 64})
    # Another file of the same network, in FP16 say.
    opened(write=True, create=MODEL | {"sha256": "0" * 64}).add(tracks("door", 1))


def test_queries_of_another_length(opened: Open) -> None:
    with pytest.raises(SanError, match="holds embeddings of 8 numbers"):
        opened().search(unit(np.ones((1, 3))), 1)
