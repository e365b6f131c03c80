"""What is asked for and compared, and the explanations where no figure can come of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from san_deploy.datasets import (
    Crop,
    Dataset,
    EvaluationSet,
    Options,
    count_positives,
    diagnose,
    evaluation_set,
    labels,
    notes,
    read_dataset,
)
from san_deploy.errors import SanError
from tests.san_deploy.datasets.layouts import crop_folder, market_folders


def crops(*labelled: tuple[int, str]) -> list[Crop]:
    return [Crop(Path(f"{i}.jpg"), person, camera, f"{i}") for i, (person, camera) in enumerate(labelled)]


def dataset(**splits: list[Crop]) -> Dataset:
    return Dataset("made up", Path("data"), splits)


def test_query_against_gallery(tmp_path: Path) -> None:
    root = market_folders(
        tmp_path,
        query=["0002_c1s1_0_0.jpg"],
        bounding_box_test=["0002_c2s1_0_0.jpg", "0000_c2s1_0_0.jpg", "-1_c2s1_0_0.jpg"],
    )
    chosen = evaluation_set(read_dataset(root))
    assert (chosen.split, chosen.query_rows, chosen.junk) == ("query/gallery", None, 1)
    assert [row["crops"] for row in chosen.rows()] == [1, 2]
    person, camera, track = labels(chosen.gallery)
    assert (person.tolist(), camera.tolist()) == ([0, 2], ["c2", "c2"]) and len(set(track)) == 2
    assert labels(chosen.gallery).distractor.tolist() == [True, False]
    assert chosen.summary().splitlines() == [
        f"Market-1501 in {root} (query/gallery: query against gallery)",
        "subset       crops  people cameras tracklets distractors    junk",
        "query            1       1       1         1           0       0",
        "gallery          2       1       1         2           1       1",
    ]
    assert evaluation_set(read_dataset(root), "test").split == "query/gallery"
    assert len(evaluation_set(read_dataset(root), "train").query) == 1
    assert len(evaluation_set(read_dataset(root), "all").gallery) == 4


def test_every_crop_against_all_others(tmp_path: Path) -> None:
    rows = ["cam1,t1,7,test", "cam2,t1,7,test", "cam1,t2,0,test", "cam1,t3,5,train", "cam2,t3,6,val"]
    chosen = evaluation_set(read_dataset(crop_folder(tmp_path, rows)))
    assert chosen.split == "test" and len(chosen.gallery) == 6
    # A distractor is compared with, and never asked for; a query is embedded once.
    assert chosen.query_rows is not None
    assert [chosen.gallery[row] for row in chosen.query_rows] == chosen.query
    assert {crop.person for crop in chosen.query} == {7}
    assert "every crop against all others" in chosen.summary()
    assert count_positives(chosen).tolist() == [2, 2, 2, 2]
    (note,) = notes(chosen)
    assert diagnose(chosen) is None and "Person 0 counts as a distractor" in note


def test_splits(tmp_path: Path) -> None:
    made = read_dataset(crop_folder(tmp_path / "a", ["c1,t1,7,train", "c2,t1,7,val", "c2,t2,8,"]))
    with pytest.raises(SanError, match=r"no split to test on\. It has train, val.*--split all"):
        evaluation_set(made)
    with pytest.raises(SanError, match=r"no split tset\. It has train, val"):
        evaluation_set(made, "tset")
    assert [crop.person for crop in evaluation_set(made, "val").query] == [7, 7]
    assert [crop.person for crop in evaluation_set(made, "all").query] == [7, 7, 8, 8, 7, 7]
    rows = ["c1,t1,7", "c2,t1,7"]
    everybody = evaluation_set(read_dataset(crop_folder(tmp_path / "b", rows, header="camera,track,person")))
    assert (everybody.split, len(everybody.query)) == ("all", 4)


def test_a_crop_in_two_splits_is_one(tmp_path: Path) -> None:
    same = crops((1, "a"), (1, "b"), (2, "a"))
    assert len(evaluation_set(dataset(query=same[:2], gallery=same), "all").gallery) == 3


def explained(chosen: EvaluationSet) -> str:
    error = diagnose(chosen)
    assert isinstance(error, SanError)
    assert "\n" not in str(error)
    return str(error)


def test_one_camera() -> None:
    chosen = evaluation_set(dataset(test=crops((1, "a"), (1, "a"), (2, "a"))))
    assert "are of one camera (a)" in explained(chosen) and "--no-camera" in explained(chosen)


def test_one_person() -> None:
    assert "one person alone (4)" in explained(evaluation_set(dataset(test=crops((4, "a"), (4, "b")))))
    # Distractors are somebody to confuse the person with.
    assert diagnose(evaluation_set(dataset(test=crops((4, "a"), (4, "b"), (0, "b"))))) is None


def test_query_that_shares_nothing_with_the_gallery() -> None:
    query, gallery = crops((1, "a"), (2, "a")), crops((3, "b"), (4, "b"), (5, "b"), (6, "b"), (0, "b"))
    text = explained(evaluation_set(dataset(query=query, gallery=gallery)))
    assert "nobody of the 2 people asked for" in text
    assert "Queries are of 1, 2, the gallery is of 3, 4, 5 and others." in text
    assert "is of distractors" in explained(evaluation_set(dataset(query=query, gallery=gallery[4:])))


def test_nobody_seen_by_two_cameras() -> None:
    text = explained(evaluation_set(dataset(test=crops((1, "a"), (1, "a"), (2, "b")))))
    assert "no query of data (test) has a right answer" in text
    assert "People with a single crop: 1, people without a crop by another camera: 1." in text


def test_no_query() -> None:
    assert "has no query" in explained(evaluation_set(dataset(test=crops((0, "a"), (0, "b")))))


def test_queries_without_a_right_answer_are_counted() -> None:
    query = crops((1, "a"), (1, "b"), (2, "a"), (3, "a"), (3, "a"))
    chosen = evaluation_set(dataset(query=query, gallery=crops((1, "a"), (2, "a"), (2, "a"))))
    assert count_positives(chosen).tolist() == [0, 1, 0, 0, 0] and diagnose(chosen) is None
    assert notes(chosen) == [
        "4 of 5 queries have no right answer and are left out: people without a crop in the gallery: 1, "
        "people without a crop by another camera: 2."
    ]


def test_no_camera_drops_nothing_but_the_crop_itself(tmp_path: Path) -> None:
    root = crop_folder(tmp_path, ["cam1,t1,7,test", "cam1,t2,7,test", "cam1,t3,8,test"])
    with_cameras = evaluation_set(read_dataset(root))
    assert "one camera (cam1)" in explained(with_cameras)
    chosen = evaluation_set(read_dataset(root, Options(no_camera=True)))
    assert diagnose(chosen) is None
    assert count_positives(chosen).tolist() == [3, 3, 3, 3, 1, 1]
    assert chosen.name == "crop folder, cameras ignored"


_CROPS = st.lists(st.tuples(st.integers(0, 3), st.sampled_from("abc")), max_size=12)


@given(query=_CROPS, gallery=_CROPS)
def test_right_answers_are_those_of_the_rule(
    query: list[tuple[int, str]], gallery: list[tuple[int, str]]
) -> None:
    chosen = evaluation_set(dataset(query=crops(*query), gallery=crops(*gallery)))
    want = [
        sum(person == q.person and camera != q.camera for person, camera in gallery) for q in chosen.query
    ]
    assert count_positives(chosen).tolist() == want
    if diagnose(chosen) is None:
        assert np.any(want)
    elif any(want):
        # One person is the only reason to refuse where there is a right answer.
        assert "one person alone" in explained(chosen)
