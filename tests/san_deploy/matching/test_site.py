"""Times, places and marks: which pairs they forbid, and files that are not what they should be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from san_deploy.errors import SanError, UsageError
from san_deploy.matching.cameras import Camera
from san_deploy.matching.match import FORBIDDEN, iter_rows, match_cameras
from san_deploy.matching.site import (
    Marks,
    Passage,
    Site,
    check_marks,
    check_passages,
    parse_clocks,
    read_marks,
    read_topology,
    with_times,
)


def camera(name: str, start: list[float], length: float = 2.0, *, clock: bool = True) -> Camera:
    tracks = [f"t{k}" for k in range(len(start))]
    rows = np.eye(8, dtype=np.float32)[: len(start)]
    begin = np.array(start, np.float64)
    paths = tuple((f"{t}/1.jpg",) for t in tracks)
    return Camera(
        name, Path(name), np.array(tracks), rows, paths, start=begin, end=begin + length, clock=clock
    )


@pytest.mark.parametrize(
    ("passage", "starts_b", "allowed"),
    [
        # A tracklet of a from 100 to 102; how long after it, or before it, one of b can be.
        (Passage(False, 5, 30), [101, 104, 107, 132, 133], [False, False, True, True, False]),
        (Passage(True, 0, 30), [101, 104, 132, 133], [True, True, True, False]),
        (Passage(False, 5, 30), [93, 95, 68, 67], [True, False, True, False]),
        (Passage(False, 0, float("inf")), [101, 102, 9999, np.nan], [False, True, True, True]),
    ],
)
def test_passages(passage: Passage, starts_b: list[float], allowed: list[bool]) -> None:
    a, b = camera("a", [100]), camera("b", starts_b)
    rule = Site({("a", "b"): passage}).rule(a, b)
    assert rule is not None
    columns = np.arange(len(starts_b))
    assert rule.allowed(np.zeros(1, int)[:, None], columns[None, :])[0].tolist() == allowed
    other = Site({("a", "b"): passage}).rule(b, a)
    assert (
        other is not None
        and other.allowed(columns[:, None], np.zeros(1, int)[None, :])[:, 0].tolist() == allowed
    )


def test_each_direction_has_its_own_time() -> None:
    passages = {("a", "b"): Passage(False, 0, 10), ("b", "a"): Passage(False, 50, 90)}
    rule = Site(passages).rule(camera("a", [100]), camera("b", [105, 40, 85]))
    assert rule is not None
    assert rule.allowed(np.zeros(3, int), np.arange(3)).tolist() == [True, True, False]


def test_what_cannot_be_is_not_matched_and_said_so() -> None:
    a, b = camera("a", [0, 100]), camera("b", [1, 300])
    site = Site({("a", "b"): Passage(False, 5, 1000)})
    pair = match_cameras([a, b], threshold=0.5, rules=site.rule).pairs[0]
    assert pair.match_of_a.tolist() == [-1, 1]
    rows = list(iter_rows(pair, 2))
    assert [(row.track_a, row.reason) for row in rows if not row.matched] == [
        ("t0", FORBIDDEN),
        ("t0", FORBIDDEN),
    ]


def test_topology_needs_a_shared_clock() -> None:
    site = Site({("a", "b"): Passage(False, 5, 10)})
    with pytest.raises(UsageError, match=r"by a clock that other cameras share.*--clock b=SECONDS"):
        site.rule(camera("a", [1]), camera("b", [1], clock=False))
    with pytest.raises(UsageError, match="is not there"):
        site.rule(camera("a", [1]), replace(camera("b", [1]), start=None, end=None))
    assert site.rule(camera("a", [1]), camera("c", [1])) is None


def test_times_of_a_file(tmp_path: Path) -> None:
    item = replace(camera("a", [0, 0, 0]), folder=tmp_path, start=None, end=None, clock=False)
    assert with_times(item).start is None
    path = tmp_path / "tracks.csv"
    path.write_text("camera,track,start,end\na,t0,1.5,2\na,t2,3,4\na,gone,1,2\n")
    seconds = with_times(item)
    assert seconds.start is not None and not seconds.clock
    assert seconds.start[[0, 2]].tolist() == [1.5, 3.0] and np.isnan(seconds.start[1])
    shifted = with_times(item, 10.0)
    assert shifted.end is not None and shifted.end[0] == 12.0 and shifted.clock
    path.write_text("camera,track,start,end\na,t0,2026-05-01T08:30:00,2026-05-01T08:30:01.5+00:00\n")
    timed = with_times(item)
    assert timed.start is not None and timed.end is not None and timed.clock
    assert timed.end[0] - timed.start[0] == 1.5


def test_topology_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "site.csv"
    path.write_text("camera_a,camera_b,overlap,min_s,max_s\na,b,no,5,30\nb,a,yes,,\n")
    assert read_topology(path) == {
        ("a", "b"): Passage(False, 5, 30),
        ("b", "a"): Passage(True, 0, float("inf")),
    }


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("a,a,no,0,1", "two cameras"),
        ("a,b,perhaps,0,1", "yes or no"),
        ("a,b,no,5,1", "no span of time"),
        ("a,b,no,-5,1", "no span of time"),
        ("a,b,no,inf,", "no number"),
        ("a,b,no,0,1\na,b,no,0,1", "line 3"),
    ],
)
def test_topology_that_cannot_be(tmp_path: Path, line: str, told: str) -> None:
    path = tmp_path / "site.csv"
    path.write_text(f"camera_a,camera_b,overlap,min_s,max_s\n{line}\n")
    with pytest.raises(SanError, match=told):
        read_topology(path)


def test_topology_of_other_cameras_is_refused() -> None:
    passages = {("a", "b"): Passage(False, 0, 1)}
    check_passages(passages, ["b", "c", "a"], Path("site.csv"))
    check_passages({}, ["x", "y"], Path("site.csv"))
    with pytest.raises(SanError, match="names no two of the cameras a, c"):
        check_passages(passages, ["a", "c"], Path("site.csv"))


def test_clocks() -> None:
    assert parse_clocks(["a=-2.5", "b=3"], ["a", "b"]) == {"a": -2.5, "b": 3.0}
    for text in ("a", "c=1", "a=x", "a=nan"):
        with pytest.raises(UsageError, match="--clock"):
            parse_clocks([text], ["a", "b"])


def test_marks_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "marks.json"
    path.write_text(json.dumps({"schema_version": 1, "confirmed": [["a", "t0", "b", "t1"]], "rejected": []}))
    marks = read_marks(path)
    assert marks == Marks((("a", "t0", "b", "t1"),))
    cameras = [camera("a", [0, 1]), camera("b", [0, 1])]
    check_marks(marks, cameras, path)
    pair = match_cameras(cameras, threshold=0.5, rules=Site(marks=marks).rule).pairs[0]
    assert pair.match_of_a.tolist() == [1, -1]
    with pytest.raises(SanError, match="names a/t9"):
        check_marks(Marks(rejected=(("a", "t9", "b", "t1"),)), cameras, path)
    with pytest.raises(SanError, match="two partners in b for a/t0"):
        check_marks(Marks((("a", "t0", "b", "t1"), ("b", "t0", "a", "t0"))), cameras, path)
    pair = ("a", "t0", "b", "t1")
    with pytest.raises(SanError, match="confirms and rejects a/t0 with b/t1"):
        check_marks(Marks((pair,), (pair,)), cameras, path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"confirmed": [["a"]]}',
        '{"confirmed": 1}',
        '{"schema_version": 2}',
        '{"schema_version": 1}',
    ],
)
def test_marks_that_cannot_be(tmp_path: Path, text: str) -> None:
    path = tmp_path / "marks.json"
    path.write_text(text)
    with pytest.raises(SanError, match="no file of corrections"):
        read_marks(path)
    with pytest.raises(SanError, match="cannot read"):
        read_marks(tmp_path / "missing.json")
