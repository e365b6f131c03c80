"""The report as a file: self-contained, complete, bounded, and safe with hostile names."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from san_deploy.artefact import Threshold
from san_deploy.matching.accuracy import score
from san_deploy.matching.cameras import Camera
from san_deploy.matching.identities import find_people
from san_deploy.matching.identity_accuracy import score_people
from san_deploy.matching.match import Matching, match_cameras
from san_deploy.reports import match_report as report
from san_deploy.reports import pictures
from san_deploy.reports.match_report import Findings, write_report


class Page(HTMLParser):
    """Elements of a page, in order, and whether its tags are closed."""

    VOID = frozenset({"meta", "link", "img", "input", "path", "circle", "br", "rect"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: dict[str, str] = {}
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)
        elif self.open[-1] == "script" and (name := self.elements[-1][1].get("id")):
            self.scripts[name] = self.scripts.get(name, "") + data

    def all(self, tag: str, name: str = "") -> list[dict[str, str | None]]:
        return [
            attrs
            for found, attrs in self.elements
            if found == tag and (not name or name in (attrs.get("class") or "").split())
        ]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).replace("\xa0", " ").split())


def site(root: Path, sizes: tuple[int, ...] = (3, 4), crops: int = 6, prefix: str = "t") -> Matching:
    """Cameras cam1, cam2, ... of people 0..n-1, each in another order, with `crops` crops each."""
    rng = np.random.default_rng(0)
    people = rng.normal(size=(max(sizes), 32))
    cameras = []
    for number, size in enumerate(sizes, 1):
        folder = root / f"cam{number}"
        tracks = [f"{prefix}{k}" for k in range(size)]
        paths = []
        for k, track in enumerate(tracks):
            (folder / track).mkdir(parents=True)
            paths.append(tuple(f"{track}/{c}.png" for c in range(crops)))
            for path in paths[-1]:
                Image.new("RGB", (40, 120), (20 * k, 60 * number, 90)).save(folder / path)
        rows = (people[:size] + 0.2 * rng.normal(size=(size, 32))).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        cameras.append(Camera(f"cam{number}", folder, np.array(tracks), rows, tuple(paths), (), 1.0))
    calibration = Threshold(0.6, 0.0125, 0.95, 800, 90, "drawn people")
    return match_cameras(
        cameras,
        threshold=0.6,
        calibration=calibration,
        model={"arch": "san-test", "sha256": "ab" * 32, "size_hw": (64, 32), "embedding_dim": 32},
        parameters={"backend": "onnxruntime (CPU)"},
    )


def render(
    matching: Matching, path: Path, *, labels: dict[tuple[str, str], int] | None = None, title: str = ""
) -> tuple[str, Page, dict[str, Any]]:
    """The page, its elements, and the data that its script shows."""
    people = find_people(matching)
    judged = (score(matching, labels), score_people(matching, people, labels)) if labels else (None, None)
    write_report(path / "report.html", Findings(matching, people, labels, *judged), title=title)
    text = (path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    return text, page, json.loads(page.scripts["data"]) | {"pictures": json.loads(page.scripts["pictures"])}


def test_progress_counts_the_pictures(tmp_path: Path) -> None:
    matching = site(tmp_path)
    told: list[object] = []

    @contextmanager
    def bar(*told_first: object) -> Iterator[Callable[[int], None]]:
        told.append(told_first)
        yield told.append
        told.append("away")

    path = tmp_path / "report.html"
    write_report(path, Findings(matching, find_people(matching)), progress=bar)
    pictures = json.loads(Page(path.read_text("utf-8")).scripts["pictures"])
    assert pictures and told == [(len(pictures), "report", "picture"), *[1] * len(pictures), "away"]


def test_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    text, page, _ = render(site(tmp_path), tmp_path)
    assert not re.search(r"https?://|@import|url\(", text)
    for tag, attrs in page.elements:
        for name in ("src", "href"):
            assert (attrs.get(name) or "data:").startswith("data:"), (tag, attrs)
    assert any("default-src 'none'" in (attrs.get("content") or "") for attrs in page.all("meta"))


def test_every_tracklet_is_in_it(tmp_path: Path) -> None:
    matching = site(tmp_path)
    _, page, data = render(matching, tmp_path)
    names = [(data["cameras"][place], track) for place, track, *_ in data["tracklets"]]
    assert names == [(c.name, t) for c in matching.cameras for t in c.tracks.tolist()]
    (pair,) = data["pairs"]
    # 3 people before both cameras, one before cam2 alone.
    states = [row[3] for row in pair["rows"]]
    assert len(states) == 4 and sum(state <= 1 for state in states) == 3 and states[3] == 3
    for row, similarity in zip(pair["rows"], matching.pairs[0].similarity_of_a.tolist(), strict=False):
        assert row[2] == pytest.approx(similarity, abs=1e-4)
        assert names[row[0]][1] == names[row[1]][1]
        assert row[1] not in [other for other, _ in row[5]] and len(row[5]) == 3 and len(row[6]) == 2
    assert [len(person[0]) for person in data["people"]] == [2, 2, 2, 1]
    assert data["pids"] is None
    assert "7 tracklets from 2 cameras are 4 people , 3 of them seen more than once" in page.text
    assert "1.25 % of 800 impostor pairs reach it" in page.text
    assert "drawn people" in page.text and "san-test" in page.text and "onnxruntime (CPU)" in page.text
    assert "identities.csv" in page.text


def test_first_people_show_without_a_script(tmp_path: Path) -> None:
    _, page, data = render(site(tmp_path), tmp_path)
    assert len(page.all("li", "person")) == 4
    assert len([attrs for attrs in page.all("img") if attrs.get("src")]) == 7
    assert {track for _, track, *_ in data["tracklets"]} <= set(page.text.split())


def test_pictures_are_small_and_stand_in_it_once(tmp_path: Path) -> None:
    text, _, data = render(site(tmp_path, (3, 3, 3)), tmp_path)
    assert len(data["pictures"]) == 9 * 4  # four of six crops, though every tracklet stands in two pairs
    assert [tracklet[2] for tracklet in data["tracklets"]] == [6] * 9
    assert sorted(number for tracklet in data["tracklets"] for number in tracklet[3]) == list(range(36))
    for picture in data["pictures"]:
        raw = base64.b64decode(picture)
        with Image.open(io.BytesIO(raw)) as image:
            assert (image.format, image.height) == ("JPEG", pictures.HEIGHT)
        assert len(raw) < 8000
    assert len(text) < 200_000


RIGHT, WRONG, MISSED, ALONE = 1, 2, 3, 4


def test_truth(tmp_path: Path) -> None:
    matching = site(tmp_path)
    labels = {(c, f"t{k}"): k + 1 for c, size in (("cam1", 3), ("cam2", 4)) for k in range(size)}
    labels["cam1", "t2"], labels["cam2", "t2"] = 50, 60  # their match becomes wrong
    _, page, data = render(matching, tmp_path, labels=labels)
    assert "2 of 3 matches are right" in page.text and "People whole" in page.text
    assert [row[7] for row in data["pairs"][0]["rows"]] == [RIGHT, RIGHT, WRONG, ALONE]
    assert [person[4] for person in data["people"]] == [RIGHT, RIGHT, WRONG, RIGHT]
    assert data["pids"] == [1, 2, 50, 1, 2, 60, 4]


def test_missed_tracklets_are_marked(tmp_path: Path) -> None:
    matching = match_cameras(site(tmp_path).cameras, threshold=1.0)
    labels = {(c, f"t{k}"): k + 1 for c, size in (("cam1", 3), ("cam2", 4)) for k in range(size)}
    _, page, data = render(matching, tmp_path, labels=labels)
    assert [row[7] for row in data["pairs"][0]["rows"]].count(MISSED) == 6
    assert [person[4] for person in data["people"]].count(MISSED) == 6
    assert "set by hand" in page.text
    assert "no false match rate is known" in page.text


@pytest.mark.parametrize(
    "name", ["</script><script>alert(1)<", '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}", "a&amp;b", "<!--"]
)
def test_hostile_names_stay_text(tmp_path: Path, name: str) -> None:
    cameras = [
        Camera(
            c.name,
            c.folder,
            np.array([name]),
            c.embedding,
            c.crops,
            (SimpleNamespace(path=name, reason=name),),  # type: ignore[arg-type]
        )
        for c in site(tmp_path, (1, 1)).cameras
    ]
    text, page, data = render(match_cameras(cameras, threshold=0.1), tmp_path, title=name)
    assert name in page.text
    assert [tracklet[1] for tracklet in data["tracklets"]] == [name, name]
    assert len(page.all("script")) == 4
    assert not any("onerror" in attrs for _, attrs in page.elements)
    assert "<title>" + name not in text or name.startswith("{{")


def test_name_that_is_not_utf8(tmp_path: Path) -> None:
    cameras = [
        Camera(c.name, c.folder, np.array(["caf\udce9"]), c.embedding, c.crops)
        for c in site(tmp_path, (1, 1)).cameras
    ]
    _, page, data = render(match_cameras(cameras, threshold=0.1), tmp_path)
    assert "caf\\udce9" in page.text and data["tracklets"][0][1] == "caf\\udce9"


def test_unreadable_crops_are_listed(tmp_path: Path) -> None:
    first, second = site(tmp_path).cameras
    broken = tuple(SimpleNamespace(path=f"t0/{k}.jpg", reason="cut short") for k in range(60))
    first = Camera(first.name, first.folder, first.tracks, first.embedding, first.crops, broken)  # type: ignore[arg-type]
    _, page, _ = render(match_cameras([first, second], threshold=0.6), tmp_path)
    assert "Unreadable crops 60" in page.text
    assert "cam1/t0/49.jpg: cut short" in page.text and "cam1/t0/50.jpg" not in page.text
    assert "and 10 more" in page.text


def test_crop_deleted_meanwhile_leaves_a_gap(tmp_path: Path) -> None:
    matching = site(tmp_path, (2, 2))
    for path in (tmp_path / "cam1" / "t0").iterdir():
        path.unlink()
    _, page, data = render(matching, tmp_path)
    assert data["pictures"][:4] == [""] * 4 and all(data["pictures"][4:])
    assert len(page.all("span", "blank")) == 1


def test_no_camera_loses_its_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "CROP_BUDGET", 24)
    monkeypatch.setattr(report, "MAX_PICTURES", 10)
    _, page, data = render(site(tmp_path, (2, 20), crops=5), tmp_path)
    of_camera: list[list[int]] = [[], []]
    for place, _, _, shown in data["tracklets"]:
        of_camera[place].append(len(shown))
    # The small camera shows all of its tracklets, and more of each; the large one every second or so.
    assert of_camera[0] == [4, 4]
    assert sum(map(bool, of_camera[1])) == 8 and max(of_camera[1]) == 1
    assert of_camera[1][0] and of_camera[1][-1]
    assert "12 tracklets are shown without pictures" in page.text


def test_unsure_tracklets_keep_their_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MAX_PICTURES", 12)
    matching = site(tmp_path, (20, 20), crops=2)
    pair = matching.pairs[0]
    least = np.sort(pair.margin_of_a[pair.match_of_a >= 0])[3]
    matching = replace(matching, pairs=(replace(pair, noise=float(least)),))
    _, _, data = render(matching, tmp_path)
    unsure = {t for row in data["pairs"][0]["rows"] if row[3] == 1 for t in row[:2]}
    assert len(unsure) == 6 and all(data["tracklets"][t][3] for t in unsure)
    assert sum(bool(shown) for *_, shown in data["tracklets"]) == 12


def test_large_matching_is_bounded_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MAX_ROWS", 6)
    monkeypatch.setattr(report, "MANY_ROWS", 3)
    _, page, data = render(site(tmp_path, (6, 9), crops=2), tmp_path)
    assert "3 of 5 runners-up are shown" in page.text
    assert "3 rows were left out" in page.text
    assert [row[3] <= 1 for row in data["pairs"][0]["rows"]] == [True] * 6  # matches before the rest
    assert all(len(row[5]) == 3 for row in data["pairs"][0]["rows"])
