"""The report as a file: self-contained, complete, bounded, and safe with hostile names."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from san_deploy.artefact import Threshold
from san_deploy.matching.accuracy import pids_from_labels, score
from san_deploy.matching.cameras import Camera
from san_deploy.matching.match import Matching, match_cameras
from san_deploy.reports import match_report as report
from san_deploy.reports import pictures
from san_deploy.reports.match_report import write_report


class Page(HTMLParser):
    """Elements of a page, in order, and whether its tags are closed."""

    VOID = frozenset({"meta", "link", "img", "input", "path", "circle", "br", "rect"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
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


def render(matching: Matching, path: Path, **arguments: object) -> tuple[str, Page]:
    write_report(path / "report.html", matching, **arguments)  # type: ignore[arg-type]
    text = (path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    return text, page


def test_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    text, page = render(site(tmp_path), tmp_path)
    assert not re.search(r"https?://|@import|url\(", text)
    for tag, attrs in page.elements:
        for name in ("src", "href"):
            assert (attrs.get(name) or "data:").startswith("data:"), (tag, attrs)
    assert any("default-src 'none'" in (attrs.get("content") or "") for attrs in page.all("meta"))


def test_every_tracklet_is_shown(tmp_path: Path) -> None:
    matching = site(tmp_path)
    _, page = render(matching, tmp_path)
    # 3 people before both cameras, one before cam2 alone.
    assert len(page.all("li", "matched")) == 3
    assert len(page.all("li", "none")) == 1
    assert "No match" in page.text and "Best candidate, below the threshold" in page.text
    for row in matching.pairs[0].similarity_of_a.tolist():
        assert f"{row:.3f}" in page.text
    assert "Next in cam2 for t0" in page.text and "Next in cam1 for t0" in page.text
    assert "7 tracklets from 2 cameras: 3 matches , and 1 time a tracklet was left without one" in page.text
    assert "1.25 % of 800 impostor pairs reach it" in page.text
    assert "drawn people" in page.text and "san-test" in page.text and "onnxruntime (CPU)" in page.text


def test_each_crop_is_embedded_once_and_small(tmp_path: Path) -> None:
    text, page = render(site(tmp_path, (3, 3, 3)), tmp_path)
    images = page.all("img")
    originals = [attrs for attrs in images if attrs.get("src")]
    assert len(originals) == 9 * 4  # four of six crops, though every tracklet stands in two pairs
    assert len({attrs["id"] for attrs in originals}) == len(originals)
    known = {attrs["id"] for attrs in originals}
    assert all("i" + str(attrs["data-i"]) in known for attrs in images if not attrs.get("src"))
    assert all("alt" in attrs for attrs in images)
    assert "Tracklet t0 of cam1, 4 of 6 crops" in {attrs["alt"] for attrs in originals}
    for attrs in originals:
        data = base64.b64decode(str(attrs["src"]).partition("base64,")[2])
        with Image.open(io.BytesIO(data)) as image:
            assert (image.format, image.height) == ("JPEG", pictures.HEIGHT)
        assert len(data) < 8000
    assert "18 crops were used but are not shown" in page.text
    assert len(text) < 200_000


def test_truth(tmp_path: Path) -> None:
    matching = site(tmp_path)
    labels = {(c, f"t{k}"): k + 1 for c, size in (("cam1", 3), ("cam2", 4)) for k in range(size)}
    labels["cam1", "t2"], labels["cam2", "t2"] = 50, 60  # their match becomes wrong
    track_to_pid = pids_from_labels(matching, labels, "identities.csv")
    _, page = render(matching, tmp_path, track_to_pid=track_to_pid, accuracy=score(matching, track_to_pid))
    assert "2 of 3 matches are right" in page.text
    assert len(page.all("span", "right")) == 2
    assert len(page.all("span", "wrong")) == 1
    assert len(page.all("span", "alone")) == 1
    assert len(page.all("li", "mistake")) == 1
    assert "Mistakes" in page.text
    _, page = render(matching, tmp_path)
    assert "Mistakes" not in page.text and not page.all("span", "truth-mark")


def test_missed_tracklet_is_marked(tmp_path: Path) -> None:
    matching = match_cameras(site(tmp_path).cameras, threshold=1.0)
    track_to_pid = {(c, f"t{k}"): k + 1 for c, size in (("cam1", 3), ("cam2", 4)) for k in range(size)}
    _, page = render(matching, tmp_path, track_to_pid=track_to_pid, accuracy=score(matching, track_to_pid))
    assert len(page.all("span", "missed")) == 6
    assert "set by hand" in page.text
    assert "no false match rate is known" in page.text


def test_candidate_that_went_to_another(tmp_path: Path) -> None:
    cameras = site(tmp_path, (2, 2)).cameras
    rows = np.eye(2, dtype=np.float32)[[0, 0]]
    a = Camera("cam1", cameras[0].folder, cameras[0].tracks, rows, cameras[0].crops)
    b = Camera("cam2", cameras[1].folder, cameras[1].tracks[:1], rows[:1], cameras[1].crops[:1])
    _, page = render(match_cameras([a, b], threshold=0.5), tmp_path)
    assert re.search(r"Best candidate, but it matches t\d \(1\.000\)", page.text)


@pytest.mark.parametrize(
    "name", ["<script>alert(1)<", '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}", "a&amp;b"]
)
def test_hostile_names_stay_text(tmp_path: Path, name: str) -> None:
    matching = site(tmp_path, (1, 1))
    cameras = [
        Camera(
            c.name,
            c.folder,
            np.array([name]),
            c.embedding,
            c.crops,
            (SimpleNamespace(path=name, reason=name),),
        )  # type: ignore[arg-type]
        for c in matching.cameras
    ]
    text, page = render(match_cameras(cameras, threshold=0.1), tmp_path, title=name)
    assert name in page.text
    assert len(page.all("script")) == 2
    assert not any("onerror" in attrs for _, attrs in page.elements)
    assert "<title>" + name not in text or name.startswith("{{")


def test_name_that_is_not_utf8(tmp_path: Path) -> None:
    matching = site(tmp_path, (1, 1))
    cameras = [
        Camera(c.name, c.folder, np.array(["caf\udce9"]), c.embedding, c.crops) for c in matching.cameras
    ]
    _, page = render(match_cameras(cameras, threshold=0.1), tmp_path)
    assert "caf\\udce9" in page.text


def test_unreadable_crops_are_listed(tmp_path: Path) -> None:
    first, second = site(tmp_path).cameras
    broken = tuple(SimpleNamespace(path=f"t0/{k}.jpg", reason="cut short") for k in range(60))
    first = Camera(first.name, first.folder, first.tracks, first.embedding, first.crops, broken)  # type: ignore[arg-type]
    _, page = render(match_cameras([first, second], threshold=0.6), tmp_path)
    assert "Unreadable crops 60" in page.text
    assert "cam1/t0/49.jpg: cut short" in page.text and "cam1/t0/50.jpg" not in page.text
    assert "and 10 more" in page.text


def test_crop_deleted_meanwhile_leaves_a_gap(tmp_path: Path) -> None:
    matching = site(tmp_path, (2, 2))
    for path in (tmp_path / "cam1" / "t0").iterdir():
        path.unlink()
    _, page = render(matching, tmp_path)
    assert len([attrs for attrs in page.all("img") if attrs.get("src")]) == 3 * 4
    assert len(page.all("span", "blank")) == 4


def test_large_matching_is_bounded_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "CROP_BUDGET", 10)
    monkeypatch.setattr(report, "MAX_PICTURES", 8)
    monkeypatch.setattr(report, "MAX_ROWS", 6)
    monkeypatch.setattr(report, "MANY_ROWS", 3)
    matching = site(tmp_path, (6, 6), crops=2)
    _, page = render(matching, tmp_path)
    assert len([attrs for attrs in page.all("img") if attrs.get("src")]) <= 8
    assert "4 tracklets are shown without pictures" in page.text
    assert "3 of 5 runners-up are shown" in page.text
    assert len(page.all("li", "card")) == 6
    matching = site(tmp_path / "more", (6, 9), crops=2)
    _, page = render(matching, tmp_path)
    assert "3 rows were left out" in page.text and "3 more rows are in matches.csv" in page.text
