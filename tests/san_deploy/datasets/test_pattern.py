"""Folders read by a pattern: what it means, what it never looks at, what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from san_deploy.datasets import Dataset, Options, count_positives, evaluation_set, read_dataset
from san_deploy.datasets.pattern import compile_pattern
from san_deploy.errors import SanError, UsageError
from tests.san_deploy.datasets.layouts import touch


def read(root: Path, pattern: str, **options: bool) -> Dataset:
    return read_dataset(root, Options(pattern=pattern, **options))


@pytest.mark.parametrize(
    ("pattern", "path", "labels"),
    [
        ("{person}_c{camera}s{}_{}.jpg", "0002_c1s1_000451_03.jpg", {"person": "0002", "camera": "1"}),
        # Without a slash the name alone counts, wherever the file lies.
        ("{person}_c{camera}_{}.jpg", "9_c9_9/deep/7_c3_1.jpg", {"person": "7", "camera": "3"}),
        ("{person}_c{camera}_{}.jpg", "7_c3_1.JPG", None),
        ("{person}/{camera}/{}", "alice/door/1.jpg", {"person": "alice", "camera": "door"}),
        ("{person}/{camera}/{}", "deep/alice/door/1.jpg", None),
        ("{person}/{camera}/{}", "alice/1.jpg", None),
        (
            "{split}/{person}/{camera}_{track}_{}",
            "test/3/c1_5_0.png",
            {"split": "test", "person": "3", "camera": "c1", "track": "5"},
        ),
        # The ending may be left out; it never becomes part of a field.
        ("{person}_{camera}", "5_2.png", {"person": "5", "camera": "2"}),
        ("{person}_{camera}", "v1.2/5_2.jpeg", {"person": "5", "camera": "2"}),
        # Fixed widths, the same field twice, names that look like expressions.
        ("{person:4}{camera:4}{:4}.png", "000100020003.png", {"person": "0001", "camera": "0002"}),
        ("{person:4}{camera:4}{:4}.png", "00010002000.png", None),
        ("{person}/{person}_{camera}_{}.jpg", "12/12_3_1.jpg", {"person": "12", "camera": "3"}),
        ("{person}/{person}_{camera}_{}.jpg", "12/13_3_1.jpg", None),
        ("a+({person}).{camera}.jpg", "a+(1).2.jpg", {"person": "1", "camera": "2"}),
        ("a+({person}).{camera}.jpg", "aa1x2.jpg", None),
        ("{person}_{camera}{}.jpg", "1_2.jpg", {"person": "1", "camera": "2"}),
        (r"(?P<person>[-\d]+)_c(?P<camera>\d)", "x1_c2/0005_c3_9.jpg", {"person": "0005", "camera": "3"}),
        (r"^(?P<camera>\w+)/.*/p(?P<person>\d+)", "door/x/p12_1.jpg", {"person": "12", "camera": "door"}),
        (r"(?P<person>\d+)_c(?P<camera>\d)?", "5_cx.jpg", None),
    ],
)  # fmt: skip
def test_meaning(pattern: str, path: str, labels: dict[str, str] | None) -> None:
    assert compile_pattern(pattern).labels(path) == labels


_NAMES = st.text("abcXYZ0123456789-+.() []{}^$äß", min_size=1, max_size=8).filter(
    lambda name: "/" not in name
)


@given(person=_NAMES, camera=_NAMES, rest=_NAMES)
def test_fields_come_back_as_they_were_written(person: str, camera: str, rest: str) -> None:
    path = f"p_{person}_{camera}_{rest}.jpg"
    assert compile_pattern("p_{person}_{camera}_{}.jpg").labels(path) == {
        "person": person,
        "camera": camera,
    }
    assert compile_pattern("{camera}/{person}/{}").labels(f"{camera}/{person}/{rest}.jpg") == {
        "person": person,
        "camera": camera,
    }


def test_folders_above_the_root_are_never_looked_at(tmp_path: Path) -> None:
    root = touch(tmp_path / "0099_c9_x", ["0001_c1_0.jpg", "0001_c2_0.jpg", "sub/0002_c1_0.jpg"])
    dataset = read(root, r"(?P<person>\d+)_c(?P<camera>\d)")
    assert [(crop.person, crop.camera, crop.track) for crop in dataset.splits["train"]] == [
        (1, "1", "0001_c1_0.jpg"),
        (1, "2", "0001_c2_0.jpg"),
        (2, "1", "sub/0002_c1_0.jpg"),
    ]
    assert dataset.unsplit and dataset.notes == ()
    with pytest.raises(SanError, match="none of the 3 images"):
        read(root, "0099_c{camera}_x/{person}_{}")


def test_splits_tracks_and_left_out_files(tmp_path: Path) -> None:
    root = touch(
        tmp_path,
        [
            *("train/1/a_0_0.jpg", "train/2/a_0_0.jpg", "train/2/a_0_1.jpg"),
            *("query/3/a_0_0.jpg", "gallery/3/b_0_0.jpg", "gallery/-1/b_0_0.jpg", "gallery/0/b_0_0.jpg"),
            *("logo.png", "notes.txt", ".hidden/1/a_0_0.jpg"),
        ],
    )
    dataset = read(root, "{split}/{person}/{camera}_{track}_{}.jpg")
    assert list(dataset.splits) == ["gallery", "query", "train"] and not dataset.unsplit
    assert [(crop.person, crop.camera) for crop in dataset.splits["gallery"]] == [(0, "b"), (3, "b")]
    # Track 0 of person 1 and track 0 of person 2 are two tracklets of one camera.
    assert {(crop.camera, crop.track) for crop in dataset.splits["train"]} == {("a", "1/0"), ("a", "2/0")}
    assert dataset.junk == {"gallery": 1}
    assert "do not fit the pattern and are left out: 1 (logo.png)" in dataset.summary()
    assert "Person 0 counts as a distractor" in dataset.summary()
    chosen = evaluation_set(dataset)
    assert (len(chosen.query), len(chosen.gallery), chosen.junk) == (1, 2, 1)


_TRACKS = "{person}_{camera}_{track}_{}.jpg"


@pytest.mark.parametrize(
    ("pattern", "names", "people", "junk"),
    [
        # MARS: 00-1 is junk, 0000 a distractor.
        (
            "{person:4}C{camera:1}T{track:4}F{}.jpg",
            ["00-1C1T0001F001.jpg", "0000C1T0001F001.jpg", "0002C1T0001F001.jpg", "0002C2T0001F001.jpg"],
            [0, 2, 2],
            1,
        ),
        # PRW: -2 is somebody whom nobody could name.
        ("{person}_c{camera}s{}.jpg", ["-2_c1s1_000151.jpg", "479_c1s1_000151.jpg"], [479], 1),
        # Numbered from 0: asked for, or a tracklet before each of several cameras.
        (
            "{split}/{person}_{camera}_{}.jpg",
            ["query/0_1_a.jpg", "gallery/0_2_a.jpg", "gallery/1_2_a.jpg"],
            [1, 1, 2],
            0,
        ),
        (_TRACKS, ["0_1_a_1.jpg", "0_1_a_2.jpg", "0_2_b_1.jpg", "1_2_a_1.jpg"], [1, 1, 1, 2], 0),
        # Distractors: several tracklets before one camera.
        (_TRACKS, ["0_1_a_1.jpg", "0_1_b_2.jpg", "0_2_b_1.jpg", "1_2_a_1.jpg"], [0, 0, 0, 1], 0),
    ],
)
def test_how_data_sets_spell_who_is_nobody(
    tmp_path: Path, pattern: str, names: list[str], people: list[int], junk: int
) -> None:
    dataset = read(touch(tmp_path, names), pattern)
    assert sorted(crop.person for crops in dataset.splits.values() for crop in crops) == people
    assert sum(dataset.junk.values()) == junk
    assert ("Person 0 is taken" in dataset.summary()) == (min(people) == 1)
    assert ("Person 0 counts as" in dataset.summary()) == (min(people) == 0)


def test_people_by_name(tmp_path: Path) -> None:
    root = touch(tmp_path, ["zoe/c1_0.jpg", "adam/c1_0.jpg", "adam/c2_0.jpg", "0/c1_0.jpg"])
    dataset = read(root, "{person}/{camera}_{}.jpg")
    # Not all are numbers, so 0 is a name as well.
    assert {crop.path.parent.name: crop.person for crop in dataset.splits["train"]} == {
        **{"0": 1, "adam": 2, "zoe": 3}
    }


def test_without_cameras(tmp_path: Path) -> None:
    root = touch(tmp_path, [f"{person}/{crop}.jpg" for person in "12" for crop in range(3)])
    with pytest.raises(UsageError, match=r"no field \{camera\}.*--no-camera"):
        read(root, "{person}/{}.jpg")
    dataset = read(root, "{person}/{}.jpg", no_camera=True)
    assert dataset.name.endswith("cameras ignored")
    assert [crop.camera for crop in dataset.splits["train"][:2]] == ["1/0.jpg", "1/1.jpg"]
    assert count_positives(evaluation_set(dataset)).tolist() == [2] * 6
    # A camera that the pattern names is ignored just as well.
    again = read(root, "{person}/{camera}.jpg", no_camera=True)
    assert again.splits == dataset.splits


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("{camera}_{}.jpg", "has no field {person}"),
        ("*.jpg", "has no field {person}"),
        ("{person}_{pid}.jpg", "unknown field pid"),
        ("{person}_{camera.jpg", "brace that belongs to no field"),
        ("{person}_camera}.jpg", "brace that belongs to no field"),
        ("(?P<person>[)", "is no regular expression"),
        ("(?P<person>.)(?P<id>.)", "unknown field id"),
        ("(?P<camera>.)", "has no field {person}"),
        ("{person:99999999999999999999}_{camera}", "is no regular expression"),
    ],
)
def test_bad_patterns(tmp_path: Path, pattern: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(touch(tmp_path, ["1_1.jpg"]), pattern)
    assert told in str(caught.value)


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(SanError, match="holds no image"):
        read(tmp_path, "{person}_{camera}")
    touch(tmp_path, ["b.jpg", "a/x.jpg"])
    with pytest.raises(SanError, match=r"none of the 2 images .* fits .* The first is a/x\.jpg"):
        read(tmp_path, "{person}_{camera}")
    touch(tmp_path, ["-3_1.jpg"])
    with pytest.raises(SanError, match=r"-3_1\.jpg is of person -3.*0 is a distractor, -1 is junk"):
        read(tmp_path, "{person}_{camera}")


def test_a_number_too_large_for_64_bits(tmp_path: Path) -> None:
    root = touch(tmp_path, ["1_1.jpg", "9" * 30 + "_1.jpg"])
    with pytest.raises(SanError, match=r"9{30}_1\.jpg is of person 9{30}"):
        read(root, "{person}_{camera}.jpg")
    assert read(touch(tmp_path / "most", ["9" * 18 + "_1.jpg"]), "{person}_{camera}.jpg").splits


def test_pattern_and_layout(tmp_path: Path) -> None:
    touch(tmp_path, ["1_1.jpg"])
    assert read_dataset(tmp_path, Options(layout="pattern", pattern="{person}_{camera}")).splits["train"]
    for options in (Options(layout="pattern"), Options(layout="ward", pattern="{person}_{camera}")):
        with pytest.raises(UsageError, match="belong together"):
            read_dataset(tmp_path, options)
    with pytest.raises(UsageError, match="'prid' is no layout"):
        read_dataset(tmp_path, Options(layout="prid"))
