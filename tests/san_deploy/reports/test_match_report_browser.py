"""The report in a browser: pages, filters, marks that are saved, what a phone shows. Needs playwright and chromium."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from san_deploy.artefact import Threshold
from san_deploy.matching.cameras import Camera
from san_deploy.matching.identities import find_people
from san_deploy.matching.match import match_cameras
from san_deploy.matching.site import Site, read_marks
from san_deploy.reports.match_report import Findings, write_report

sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="apt-get install chromium")
PEOPLE = 100


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        instance = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield instance
        instance.close()


@pytest.fixture(scope="module")
def cameras(tmp_path_factory: pytest.TempPathFactory) -> list[Camera]:
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("site")
    centre = rng.normal(size=(PEOPLE, 24))
    found = []
    for number in range(3):
        folder = root / f"cam{number}"
        folder.mkdir()
        Image.new("RGB", (20, 60), (200, 40 + 60 * number, 90)).save(folder / "0.png")
        rows = centre + 0.5 * rng.normal(size=centre.shape)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        tracks = np.array([f"t{k:03d}" for k in range(PEOPLE)])
        half = (0.05 * rng.normal(size=centre.shape)).astype(np.float32)
        paths = (("0.png", "0.png"),) * PEOPLE
        found.append(
            Camera(folder.name, folder, tracks, rows.astype(np.float32), paths, half_difference=half)
        )
    return found


@pytest.fixture(scope="module")
def page_path(cameras: list[Camera]) -> Path:
    calibration = Threshold(0.5, 0.01, 0.9, 100, 10, "numbers", curve=((0.4, 0.1, 1.0), (0.7, 0.01, 0.5)))
    matching = match_cameras(cameras, threshold=0.5, calibration=calibration)
    path = cameras[0].folder.parent / "report.html"
    write_report(path, Findings(matching, find_people(matching)))
    return path


def opened(browser: Any, path: Path, **options: Any) -> tuple[Any, list[str]]:
    page = browser.new_context(**options).new_page()
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    return page, errors


def test_views_pages_and_filters(browser: Any, page_path: Path) -> None:
    page, errors = opened(browser, page_path, viewport={"width": 1280, "height": 900})
    assert page.locator("#list > .person").count() == 40
    page.get_by_role("button", name="Next").click()
    assert "41 to 80 of" in page.locator("#pager").inner_text()
    page.get_by_role("tab", name="cam0 ↔ cam1").click()
    total = page.locator("#shows button").nth(0).inner_text()
    assert total.startswith("All")
    assert "matched" in page.locator("#summary").inner_text()
    assert page.locator("#list > .card").count() == 40
    page.locator("#shows button", has_text="Unsure").click()
    cards = page.locator("#list > .card")
    assert cards.count() and page.locator("#list > .card.unsure").count() == cards.count()
    page.locator("input[type=search]").fill("t007")
    page.locator("#shows button", has_text="All").click()
    assert 1 <= page.locator("#list > .card").count() <= 2
    assert "t007" in page.locator("#list").inner_text()
    page.locator("input[type=search]").fill("nobody")
    assert page.locator("#empty").is_visible()
    assert errors == []


def test_uncertain_come_first_and_the_slider_counts(browser: Any, page_path: Path) -> None:
    page, errors = opened(browser, page_path)
    page.get_by_role("tab", name="cam0 ↔ cam1").click()
    assert "unsure" in (page.locator("#list > .card").first.get_attribute("class") or "")
    page.locator("#at").fill("0.9")
    page.locator("#at").dispatch_event("change")
    text = page.locator("#at-text").inner_text()
    kept, _, rest = text.partition(" of ")
    assert int(kept) < int(rest.split()[0])
    page.locator("#at").fill("0.65")
    assert "1.00 % of impostor, 50.0 % of genuine" in page.locator("#at-text").inner_text()
    assert errors == []


def test_marks_are_saved_and_taken_back(
    browser: Any, page_path: Path, cameras: list[Camera], tmp_path: Path
) -> None:
    page, errors = opened(browser, page_path, accept_downloads=True)
    page.get_by_role("tab", name="cam0 ↔ cam1").click()
    page.locator("#order").select_option("name")
    first, second = page.locator("#list > .card").nth(0), page.locator("#list > .card").nth(1)
    assert "t000" in first.inner_text()
    first.get_by_role("button", name="Not").click()
    second.get_by_role("button", name="Same").click()
    assert page.locator("#save-text").inner_text() == "1 confirmed, 1 rejected"
    with page.expect_download() as download:
        page.get_by_role("button", name="Save corrections").click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    assert path.name == "marks.json" and json.loads(path.read_text())["schema_version"] == 1
    marks = read_marks(path)
    assert marks.rejected == (("cam0", "t000", "cam1", "t000"),)
    site = Site(marks=marks)
    matching = match_cameras(cameras, threshold=0.5, rules=site.rule)
    people = find_people(matching, site)
    assert people.person[0][0] != people.person[1][0]
    assert people.person[0][1] == people.person[1][1]
    assert errors == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways(browser: Any, page_path: Path, scheme: str) -> None:
    page, errors = opened(browser, page_path, viewport={"width": 390, "height": 800}, color_scheme=scheme)
    for tab in range(2):
        page.get_by_role("tab").nth(tab).click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert errors == []


def test_without_scripts_the_first_people_show(browser: Any, page_path: Path) -> None:
    page, _ = opened(browser, page_path, java_script_enabled=False)
    assert page.locator("#list > .person").count() == 24
    assert page.locator("#list img").count() >= 24
    assert not page.locator(".toolbar").is_visible()
