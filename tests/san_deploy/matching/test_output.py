"""matches.csv, matches.json and similarity.npz as another program reads them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from san_deploy.artefact import Threshold
from san_deploy.datasets.tables import cell
from san_deploy.matching.cameras import Camera
from san_deploy.matching.identities import find_people
from san_deploy.matching.match import Matching, match_cameras
from san_deploy.matching.output import COLUMNS, PEOPLE_COLUMNS
from san_deploy.matching.output import write_matches as write_all


def found(tracks: tuple[str, ...] = ("t1", "t2"), *, full: bool = False) -> Matching:
    rng = np.random.default_rng(0)
    people = rng.normal(size=(4, 8))

    def view(name: str, who: list[int], names: list[str]) -> Camera:
        rows = (people[who] + 0.1 * rng.normal(size=(len(who), 8))).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        broken = (SimpleNamespace(path="t9/1.jpg", reason="cut short"),) if name == "b" else ()
        return Camera(
            name, Path("/site") / name, np.array(names), rows, tuple(("1.jpg",) for _ in who), broken, 2.0
        )  # type: ignore[arg-type]

    return match_cameras(
        [view("a", [0, 1], list(tracks)), view("b", [1, 0, 2], ["u1", "u2", "u3"]), view("c", [3], ["v1"])],
        threshold=0.6,
        calibration=Threshold(0.6, 0.01, 0.95, 1000, 90, "drawn people"),
        top=2,
        full=full,
        model={"arch": "san-test"},
        parameters={"batch": 32},
    )


def write_matches(folder: Path, matching: Matching, **arguments: object) -> None:
    write_all(folder, matching, people=find_people(matching), **arguments)  # type: ignore[arg-type]


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
        assert tuple(reader.fieldnames or ()) == COLUMNS
    return rows


def test_csv(tmp_path: Path) -> None:
    matching = found(full=True)
    write_matches(tmp_path, matching)
    rows = read_csv(tmp_path / "matches.csv")
    matched = {
        (r["camera_a"], r["track_a"], r["camera_b"], r["track_b"]) for r in rows if r["matched"] == "1"
    }
    assert matched == {("a", "t1", "b", "u2"), ("a", "t2", "b", "u1")}
    # Every tracklet of every camera pair stands in exactly one row, as a match or as `track_a` of its own.
    for pair in matching.pairs:
        seen: list[tuple[str, str]] = []
        for r in rows:
            if {r["camera_a"], r["camera_b"]} == {pair.camera_a, pair.camera_b}:
                seen.append((r["camera_a"], r["track_a"]))
                if r["matched"] == "1":
                    seen.append((r["camera_b"], r["track_b"]))
        expected = [(pair.camera_a, t) for t in pair.tracks_a.tolist()] + [
            (pair.camera_b, t) for t in pair.tracks_b.tolist()
        ]
        assert sorted(seen) == sorted(expected)
    alone = next(r for r in rows if r["camera_a"] == "b" and r["track_a"] == "u3" and r["camera_b"] == "a")
    best = matching.pairs[0].similarity[:, 2]
    assert alone["track_b"] == ["t1", "t2"][int(best.argmax())]
    assert float(alone["similarity"]) == pytest.approx(float(best.max()), abs=1e-6)


@pytest.mark.parametrize("name", ['a "quoted", name', "line\nbreak", "grün", "=1+1", "<b>"])
def test_names_survive(tmp_path: Path, name: str) -> None:
    write_matches(tmp_path, found((name, "t2")))
    # As a spreadsheet shows it and does not run it; the other files have the name itself.
    assert cell(name) in {row["track_a"] for row in read_csv(tmp_path / "matches.csv")}
    with np.load(tmp_path / "similarity.npz", allow_pickle=False) as arrays:
        assert name in arrays["a|b|rows"].tolist()
    told = json.loads((tmp_path / "matches.json").read_text(encoding="utf-8"))
    assert name in {row["track_a"] for row in told["pairs"][0]["matches"]}


def test_name_that_is_not_utf8(tmp_path: Path) -> None:
    write_matches(tmp_path, found(("caf\udce9", "t2")))
    assert "caf\\udce9" in {row["track_a"] for row in read_csv(tmp_path / "matches.csv")}
    json.loads((tmp_path / "matches.json").read_text(encoding="utf-8"))


ARRAYS = (
    "rows",
    "columns",
    "nearest_rows",
    "nearest_rows_similarity",
    "nearest_columns",
    "nearest_columns_similarity",
    "edges",
    "edges_similarity",
)


@pytest.mark.parametrize("full", [False, True])
def test_npz(tmp_path: Path, full: bool) -> None:
    matching = found(full=full)
    write_matches(tmp_path, matching)
    matrix = matching.cameras[0].embedding @ matching.cameras[1].embedding.T
    with np.load(tmp_path / "similarity.npz", allow_pickle=False) as arrays:
        pairs = ("a|b", "a|c", "b|c")
        assert set(arrays) == {
            "threshold",
            *(f"{pair}|{name}" for pair in pairs for name in ARRAYS),
            *(pairs if full else ()),
        }
        if full:
            assert arrays["a|b"].dtype == np.float32
            assert np.array_equal(arrays["a|b"], matrix)
        assert arrays["a|b|rows"].tolist() == ["t1", "t2"]
        assert arrays["a|b|columns"].tolist() == ["u1", "u2", "u3"]
        assert arrays["a|b|rows"].dtype.kind == "U"
        row, column = arrays["a|b|edges"].T
        assert {*zip(row.tolist(), column.tolist(), strict=True)} == {
            *zip(
                *(axis.tolist() for axis in np.nonzero(matrix >= np.float32(arrays["threshold"]))),
                strict=True,
            )
        }
        assert np.array_equal(arrays["a|b|edges_similarity"], matrix[row, column])
        nearest, values = arrays["a|b|nearest_columns"], arrays["a|b|nearest_columns_similarity"]
        assert np.array_equal(np.take_along_axis(matrix.T, nearest.astype(int), axis=1), values)


def test_json(tmp_path: Path) -> None:
    write_matches(tmp_path, found(), shown={"a": "cameras/a"})
    told = json.loads((tmp_path / "matches.json").read_text(encoding="utf-8"))
    assert told["threshold"]["similarity"] == 0.6
    assert told["threshold"]["false_match_rate"] == 0.01
    assert told["threshold"]["source"] == "drawn people"
    assert told["model"] == {"arch": "san-test"}
    assert [camera["folder"] for camera in told["cameras"]] == ["cameras/a", "/site/b", "/site/c"]
    assert told["cameras"][1]["unreadable"] == [{"path": "t9/1.jpg", "reason": "cut short"}]
    pair = told["pairs"][0]
    assert (pair["matched"], pair["no_match_a"], pair["no_match_b"]) == (2, 0, 1)
    assert len(pair["matches"]) == 2 and len(pair["no_match"]) == 1
    assert pair["matches"][0]["track_b"] not in [item["track"] for item in pair["matches"][0]["runners_up_a"]]
    assert len(pair["matches"][0]["runners_up_a"]) == 2


def test_two_runs_write_the_same_tables(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_matches(tmp_path / name, found())
    for file in ("matches.csv", "matches.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_people(tmp_path: Path) -> None:
    matching = found()
    write_matches(tmp_path, matching)
    with (tmp_path / "identities.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert tuple(reader.fieldnames or ()) == PEOPLE_COLUMNS
    assert [(r["camera"], r["track"]) for r in rows] == [
        (camera.name, track) for camera in matching.cameras for track in camera.tracks.tolist()
    ]
    person = {(r["camera"], r["track"]): r["person"] for r in rows}
    assert person["a", "t1"] == person["b", "u2"] and person["a", "t2"] == person["b", "u1"]
    alone = next(r for r in rows if r["track"] == "v1")
    assert alone["confidence"] == "" and float(alone["margin"]) > 0
    told = json.loads((tmp_path / "matches.json").read_text())["people"]
    assert told["count"] == 4 and told["tracklets_of_each"] == {"1": 2, "2": 2}
    assert (told["method"], told["same_camera"], told["floor"]) == ("average", "apart", None)
