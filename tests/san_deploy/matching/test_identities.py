"""People over all cameras: contradictions settled, nobody twice at a time, the same whatever comes first."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from san_deploy.matching import identities
from san_deploy.matching.cameras import Camera
from san_deploy.matching.identities import METHODS, Identities, find_people
from san_deploy.matching.identity_accuracy import judge, over_frames, score_people
from san_deploy.matching.match import Matching, match_cameras
from san_deploy.matching.site import Marks, Site


def camera(name: str, rows: np.ndarray, tracks: list[str] | None = None) -> Camera:
    names = tracks or [f"t{k:03d}" for k in range(len(rows))]
    unit = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return Camera(name, Path(name), np.array(names), unit, tuple((f"{t}/1.jpg",) for t in names))


def seen(
    people: int = 12, cameras: int = 3, noise: float = 0.5, seed: int = 0, dim: int = 16
) -> list[Camera]:
    """Everybody before every camera, in the same order."""
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(people, dim))
    return [camera(f"c{k}", centre + noise * rng.normal(size=(people, dim))) for k in range(cameras)]


def groups(matching: Matching, found: Identities) -> set[frozenset[tuple[str, str]]]:
    members: dict[int, set[tuple[str, str]]] = {}
    for item, people in zip(matching.cameras, found.person, strict=True):
        for track, person in zip(item.tracks.tolist(), people.tolist(), strict=True):
            members.setdefault(person, set()).add((item.name, track))
    return {frozenset(value) for value in members.values()}


@pytest.mark.parametrize("method", METHODS)
def test_people_seen_clearly_are_found(method: str) -> None:
    matching = match_cameras(seen(noise=0.2), threshold=0.6)
    found = find_people(matching, method=method)
    assert found.count == 12 and found.sizes == [3] * 12
    for people in found.person:
        assert people.tolist() == list(range(1, 13))
    assert min(values.min() for values in found.confidence) > 0.6
    assert min(values.min() for values in found.margin) > 0.0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(4))
def test_nobody_is_twice_before_a_camera(method: str, seed: int) -> None:
    found = find_people(match_cameras(seen(noise=1.5, seed=seed), threshold=0.1), method=method)
    for people in found.person:
        assert len(set(people.tolist())) == len(people)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("exact", [True, False])
def test_neither_order_nor_names_matter(monkeypatch: pytest.MonkeyPatch, method: str, exact: bool) -> None:
    if not exact:
        monkeypatch.setattr(identities, "EXACT", 0)
    cameras = seen(people=20, noise=0.9)
    one = match_cameras(cameras, threshold=0.4)
    rng = np.random.default_rng(5)
    renamed, original = [], {}
    for number, item in enumerate(reversed(cameras)):
        order = rng.permutation(len(item.tracks))
        name, tracks = f"z{number}", [f"x{k:02d}" for k in range(len(order))]
        original |= {
            (name, track): (item.name, str(item.tracks[k])) for track, k in zip(tracks, order, strict=True)
        }
        renamed.append(camera(name, item.embedding[order], tracks))
    two = match_cameras(renamed, threshold=0.4)
    expected = groups(one, find_people(one, method=method))
    assert {
        frozenset(original[key] for key in group) for group in groups(two, find_people(two, method=method))
    } == expected
    assert max(map(len, expected)) == 3 and min(map(len, expected)) == 1


def test_average_linkage_is_scipys() -> None:
    cameras = seen(people=15, noise=1.0, seed=2)
    # Without a rule for one camera: nobody overlaps in time.
    timed = [replace(c, start=np.arange(15) * 10.0, end=np.arange(15) * 10.0 + 1) for c in cameras]
    matching = match_cameras(timed, threshold=0.45)
    found = find_people(matching)
    assert found.same_camera == "overlap"
    rows = np.concatenate([c.embedding for c in cameras]).astype(np.float64)
    distance = 1.0 - rows @ rows.T
    np.fill_diagonal(distance, 0.0)
    tree = linkage(squareform(distance, checks=False), "average")
    expected = fcluster(tree, 1.0 - 0.45, "distance")
    person = np.concatenate(found.person)
    same = person[:, None] == person
    assert np.array_equal(same, expected[:, None] == expected)
    assert 1 < found.count < 45


@pytest.mark.parametrize("overlap", [True, False])
def test_stored_edges_give_the_same_where_all_are_stored(
    monkeypatch: pytest.MonkeyPatch, overlap: bool
) -> None:
    # 14 tracklets a camera, 16 nearest: every pair is stored, so that both ways are the same problem.
    for seed in range(5):
        cameras = seen(people=14, noise=1.0, seed=seed)
        if overlap:
            cameras = [replace(c, start=np.arange(14) * 1.0, end=np.arange(14) + 2.5) for c in cameras]
        matching = match_cameras(cameras, threshold=0.35)
        exact = find_people(matching)
        with monkeypatch.context() as patch:
            patch.setattr(identities, "EXACT", 0)
            stored = find_people(matching)
        assert exact.floor is None and stored.floor is not None
        assert groups(matching, exact) == groups(matching, stored)


def test_tracklets_of_one_camera_join_only_in_turn() -> None:
    rows = np.eye(4)[[0, 0, 0, 1]] + 0.01
    times = {"start": np.array([0.0, 5.0, 6.0, 0.0]), "end": np.array([1.0, 7.0, 8.0, 9.0])}
    cameras = [
        replace(camera("a", rows), **times),
        replace(camera("b", np.eye(4)), start=np.zeros(4), end=np.zeros(4)),
    ]
    matching = match_cameras(cameras, threshold=0.8)
    found = find_people(matching)
    first, second, third, other = found.person[0].tolist()
    # The second and the third overlap: only one of them is the first's person.
    assert len({first, second, third}) == 2 and second != third and other not in (first, second, third)
    apart = find_people(matching, Site(same_camera="apart"))
    assert len(set(apart.person[0].tolist())) == 4


def test_two_cameras_give_the_matches() -> None:
    matching = match_cameras(seen(cameras=2, noise=1.2), threshold=0.2)
    pair = matching.pairs[0]
    found = find_people(matching)
    expected = {
        frozenset({("c0", f"t{i:03d}"), ("c1", f"t{j:03d}")}) for i, j in enumerate(pair.match_of_a) if j >= 0
    }
    assert {group for group in groups(matching, found) if len(group) == 2} == expected


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_marks_are_kept(monkeypatch: pytest.MonkeyPatch, method: str, exact: bool) -> None:
    if not exact:
        monkeypatch.setattr(identities, "EXACT", 0)
    cameras = seen(noise=0.2)
    marks = Marks(confirmed=(("c0", "t000", "c1", "t005"),), rejected=(("c1", "t002", "c2", "t002"),))
    site = Site(marks=marks)
    matching = match_cameras(cameras, threshold=0.6, rules=site.rule)
    found = find_people(matching, site, method)
    assert found.person[0][0] == found.person[1][5]
    assert found.person[1][2] != found.person[2][2]
    assert len({*found.person[0].tolist()}) == 12


def test_margin_of_one_alone_is_to_the_threshold() -> None:
    cameras = [
        camera("a", np.array([[1.0, 0, 0]])),
        camera("b", np.array([[0.6, 0.8, 0]])),
        camera("c", np.array([[0, 0, 1.0]])),
    ]
    found = find_people(match_cameras(cameras, threshold=0.9))
    assert found.count == 3
    assert all(np.isnan(values).all() for values in found.confidence)
    assert [float(values[0]) for values in found.margin] == pytest.approx([0.3, 0.3, 0.9], abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=14))
def test_judging_against_plain_loops(pairs: list[tuple[int, int]]) -> None:
    found, true = [a for a, _ in pairs], [b for _, b in pairs]
    result = judge(found, true)
    both = [(i, j) for i, j in itertools.combinations(range(len(pairs)), 2) if found[i] == found[j]]
    ought = [(i, j) for i, j in itertools.combinations(range(len(pairs)), 2) if true[i] == true[j]]
    right = len({*both} & {*ought})
    assert result.pair_precision == (right / len(both) if both else None)
    assert result.pair_recall == (right / len(ought) if ought else None)
    precision, recall = [], []
    for i in range(len(pairs)):
        mine = {k for k in range(len(pairs)) if found[k] == found[i]}
        his = {k for k in range(len(pairs)) if true[k] == true[i]}
        precision.append(len(mine & his) / len(mine))
        recall.append(len(mine & his) / len(his))
    assert result.b_cubed_precision == pytest.approx(np.mean(precision))
    assert result.b_cubed_recall == pytest.approx(np.mean(recall))
    sets = [{k for k in range(len(pairs)) if found[k] == person} for person in set(found)]
    several = [his for pid in set(true) if len(his := {k for k in range(len(pairs)) if true[k] == pid}) > 1]
    assert (result.whole, result.people) == (sum(his in sets for his in several), len(several))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 5)), min_size=1, max_size=8))
def test_idf1_and_hota_against_their_definitions(items: list[tuple[int, int, int]]) -> None:
    """Box by box: every way to take found people for true ones, and each box's association."""
    found, true, boxes = ([item[k] for item in items] for k in range(3))
    idf1, hota = over_frames(found, true, boxes)
    each = [(f, t) for f, t, count in items for _ in range(count)]
    size = 4
    best = max(sum(order[f] == t for f, t in each) for order in itertools.permutations(range(size)))
    # IDTP / (IDTP + (IDFP + IDFN) / 2); every box that is not right is both a false one and a missed one.
    assert idf1 == pytest.approx(best / (best + (len(each) - best + len(each) - best) / 2))
    association = []
    for f, t in each:
        tpa = sum(item == (f, t) for item in each)
        fna, fpa = sum(b == t and a != f for a, b in each), sum(a == f and b != t for a, b in each)
        association.append(tpa / (tpa + fna + fpa))
    assert hota == pytest.approx(np.sqrt(np.mean(association)))


def test_trackeval_says_the_same(tmp_path: Path) -> None:
    python = os.environ.get("SAN_TRACKEVAL_PYTHON")
    if not python:
        pytest.skip(
            "SAN_TRACKEVAL_PYTHON names no Python with trackeval: python3 -m venv te; te/bin/pip install trackeval"
        )
    rng = np.random.default_rng(0)
    cases = []
    for _ in range(5):
        count = 40
        true = rng.integers(0, 12, count).tolist()
        found = [t if rng.random() < 0.6 else int(rng.integers(0, 15)) for t in true]
        cases.append({"found": found, "true": true, "boxes": rng.integers(1, 30, count).tolist()})
    script = Path(__file__).with_name("trackeval_oracle.py")
    ran = subprocess.run(
        [python, str(script)],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=True,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )
    for case, expected in zip(cases, json.loads(ran.stdout.splitlines()[-1]), strict=True):
        assert over_frames(**case) == pytest.approx(expected, abs=1e-9)


def test_frames_are_judged_where_every_tracklet_has_some() -> None:
    cameras = seen(people=3, noise=0.1)
    labels = {(c.name, t): k + 1 for c in cameras for k, t in enumerate(c.tracks.tolist())}
    for boxes, known in ((np.array([5, 1, 9]), True), (np.array([5, 0, 9]), False)):
        matching = match_cameras([replace(c, boxes=boxes) for c in cameras], threshold=0.6)
        accuracy = score_people(matching, find_people(matching), labels)
        assert accuracy is not None
        assert (accuracy.idf1, accuracy.hota) == ((1.0, 1.0) if known else (None, None))


def test_distractors_are_all_different_people() -> None:
    matching = match_cameras(seen(people=2, noise=0.1), threshold=0.6)
    labels = {(c.name, t): 0 for c in matching.cameras for t in c.tracks.tolist()}
    accuracy = score_people(matching, find_people(matching), labels)
    assert accuracy is not None and accuracy.pair_precision == 0.0 and accuracy.people == 0
    assert score_people(matching, find_people(matching), {}) is None
