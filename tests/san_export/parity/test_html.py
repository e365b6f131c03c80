"""The page: whole in itself, safe against names, finite in its drawings, bounded in size."""

from __future__ import annotations

import base64
import functools
import io
import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from san_export.parity import pictures, plots
from san_export.parity.html import write_page
from san_export.parity.result import EmbeddingFigures, LayerFigures, MaskFigures, ParityRun, Stage

from san_deploy.errors import SanError
from tests.san_export.parity import made

EVIL = '<script>alert(1)</script><img src=x onerror="y">'
SVG = "{http://www.w3.org/2000/svg}"
#: Of SVG elements, attributes that are numbers.
NUMBERS = ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "width", "height")


class Page(HTMLParser):
    """Tags, what they load and where they lead."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for key, value in attrs if key in ("src", "href", "srcset", "data")]
        self.ids += [value or "" for key, value in attrs if key == "id"]


def written(run: ParityRun, folder: Path) -> str:
    write_page(run, folder / "parity.html")
    return (folder / "parity.html").read_text(encoding="utf-8")


def drawings(text: str) -> list[ElementTree.Element]:
    """The plots, which are XML of their own."""
    found = re.findall(r'<svg xmlns="http://www.w3.org/2000/svg".*?</svg>', text, re.S)
    return [ElementTree.fromstring(svg) for svg in found]


def picture(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1])))


def figures(stage: Stage, kind: type) -> object:
    assert isinstance(stage.figures, kind)
    return stage.figures


RUNS = {
    "holds": made.run(),
    "fails": made.failing(),
    "broken": made.broken(),
    "skipped": made.all_skipped(),
    "small": made.run(
        made.masks(names=[], shown=0),
        made.layers(0),
        made.embeddings(crops=1, outliers=0),
        made.ranking(labelled=False),
        crops=1,
    ),
    "large": made.run(
        made.layers(200, first=150, detail="the operator is Less"),
        made.masks(names=[f"/backbone/layer/block{k}/Mul_output_0" for k in range(16)], shown=2),
    ),
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The page of one of `RUNS`, written once."""
    return functools.cache(lambda name: written(RUNS[name], tmp_path_factory.mktemp(name)))


@pytest.mark.parametrize("name", RUNS)
def test_the_page_loads_nothing_and_draws_numbers(name: str, pages: Callable[[str], str]) -> None:
    text = pages(name)
    page = Page(text)
    inside = [source for source in page.sources if source.startswith("#")]
    assert all(source[1:] in page.ids for source in inside)
    assert all(source.startswith("data:") for source in page.sources if source not in inside)
    assert not {"script", "iframe", "object", "embed", "form", "base", "use", "image"} & set(page.tags)
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in text
    assert "@import" not in text and "url(" not in text
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) <= {"http://www.w3.org/2000/svg"}
    # NaN is told in tables, and drawn nowhere.
    assert not re.search(r"\bnan\b|\binf\b", text)
    for drawing in drawings(text):
        left, top, width, height = map(float, drawing.attrib["viewBox"].split())
        assert (left, top) == (0, 0) and drawing.attrib["aria-label"]
        for item in drawing.iter():
            values = [float(item.attrib[key]) for key in NUMBERS if key in item.attrib]
            assert all(np.isfinite(values)) and min(values, default=0) >= 0
            for point in item.attrib.get("points", "").split():
                x, y = map(float, point.split(","))
                assert 0 <= x <= width and 0 <= y <= height
            assert "NaN" not in "".join(value for value in item.attrib.values())


@pytest.mark.parametrize("name", RUNS)
def test_all_gates_and_rungs_are_there(name: str, pages: Callable[[str], str]) -> None:
    run, text = RUNS[name], pages(name)
    for stage in run.stages:
        assert f'<section id="{stage.name}">' in text or stage.figures is None
        if stage.skipped:
            assert stage.skipped in text
        for check in stage.checks:
            setting = re.search(rf"--gate {check.gate}=([^<]+)<", text)
            assert setting and float(setting[1]) == check.limit
    badge = {"holds": "pass", "small": "pass", "skipped": "nothing checked"}.get(name, "fail")
    assert re.search(rf'<h1><span class="badge \w+">{badge}</span>', text)
    assert ("What was missed" in text) == bool(run.failed)


def test_names_are_text(tmp_path: Path) -> None:
    text = written(made.with_names([EVIL] * 4), tmp_path)
    page = Page(text)
    assert "script" not in page.tags and "<img src=x" not in text and 'onerror="y"' not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 8
    text = written(made.with_names(["a\udcff\x00\x1b.onnx"] * 4), tmp_path)
    assert "a\\udcff\\x00\\x1b.onnx" in text and "\x1b" not in text


@pytest.mark.parametrize("name", RUNS)
def test_tables_are_whole(name: str, pages: Callable[[str], str]) -> None:
    for table in re.findall(r"<table.*?</table>", pages(name), re.S):
        cells = [len(re.findall(r"<t[hd][ >]", row)) for row in re.findall(r"<tr.*?</tr>", table, re.S)]
        assert len(cells) > 1 and len(set(cells)) == 1


def test_figures_are_told(pages: Callable[[str], str]) -> None:
    text = pages("fails")
    assert "starter-fp16.onnx differs from starter.onnx" in text and "5 of 10 held" in text
    assert "The operator is Less, the reference&#39;s is Greater" in text
    assert "first: backbone.layer3.1.conv2" in text
    assert "89.50 %" in text and "88.88 %" in text and "-0.62" in text
    rows = figures(made.failing().stages[1], EmbeddingFigures)
    assert isinstance(rows, EmbeddingFigures)
    for row in rows.batches:
        cells = [
            f"{row.batch} ({row.why})",
            f"{row.min_cosine:.7f}",
            f"{row.p1_cosine:.7f}",
            f"{row.mean_cosine:.7f}",
        ]
        assert all(f"<td>{cell}</td>" in text for cell in cells)
    for stage in made.failing().stages:
        for check in stage.checks:
            assert check.message.replace("'", "&#39;") in text


def test_the_size_is_bounded(tmp_path: Path) -> None:
    many = made.masks(shown=4)
    shown = figures(many, MaskFigures)
    assert isinstance(shown, MaskFigures)
    many = replace(many, figures=replace(shown, crops=shown.crops * 25))
    usual = len(written(made.run(made.masks(shown=4)), tmp_path))
    assert usual < 400_000
    # 100 crops and 3,000 layers: twice the crops, and the first layers alone.
    text = written(made.run(many, made.layers(3000, first=2900)), tmp_path)
    assert text.count('<article class="card"') == 8
    assert len(text) < 2_000_000 and "2600 more are in the JSON" in text


def test_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "parity.html"
    write_page(made.all_skipped(), path)
    before = path.read_text()
    stage = made.masks(shown=1)
    shown = figures(stage, MaskFigures)
    assert isinstance(shown, MaskFigures)
    torn = replace(shown, crops=(replace(shown.crops[0], image=np.zeros((0, 0), np.uint8)),))
    with pytest.raises(IndexError):
        write_page(made.run(replace(stage, figures=torn)), path)
    assert path.read_text() == before and list(tmp_path.iterdir()) == [path]
    (tmp_path / "folder").mkdir()
    with pytest.raises(SanError, match="cannot write"):
        write_page(made.all_skipped(), tmp_path / "folder")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["folder", "parity.html"]


def test_the_histogram_counts_every_crop() -> None:
    stage = made.embeddings(crops=1000, outliers=7)
    rows = figures(stage, EmbeddingFigures)
    assert isinstance(rows, EmbeddingFigures)
    gate = stage.checks[0]
    chart = plots.cosines(rows, [gate])
    assert chart is not None
    counts = [int(re.match(r"([\d ]+) crop", bar.title)[1].replace(" ", "")) for bar in chart.bars]  # type: ignore[index]
    assert sum(counts) == 1000
    # Bars beyond the gate are the crops that miss it, up to the bin that it cuts.
    beyond = sum(count for count, bar in zip(counts, chart.bars, strict=True) if bar.kind == "bad")
    assert beyond == np.count_nonzero(rows.cosine < 1 - 1e-3)
    assert [text.text for text in chart.texts if text.kind == "bad"] == ["min_cosine"]
    assert plots.cosines(replace(rows, cosine=np.full(1000, np.nan)), [gate]) is None


def test_equal_rows_are_drawn() -> None:
    rows = figures(made.embeddings(crops=5, outliers=0), EmbeddingFigures)
    assert isinstance(rows, EmbeddingFigures)
    chart = plots.cosines(replace(rows, cosine=np.array([1.0, 1.0 + 1e-16, 1.0, -1.0, np.nan])), [])
    assert chart is not None
    assert [bar.title.split(" with")[0] for bar in chart.bars] == ["3 crops", "1 crop"]


def test_errors_keep_their_order_and_the_allowance() -> None:
    stage = figures(made.layers(50, first=31), LayerFigures)
    assert isinstance(stage, LayerFigures)
    chart = plots.errors(stage)
    assert chart is not None and len(chart.dots) == 50
    assert [k for k, dot in enumerate(chart.dots) if dot.kind == "bad"] == [31]
    local = np.array([layer.local for layer in stage.layers])
    heights = np.array([dot.y for dot in chart.dots])
    assert (np.argsort(local, kind="stable") == np.argsort(-heights, kind="stable")).all()
    # A point is above the line of the allowance exactly where the layer differs.
    line = float(chart.lines[0].points.split()[0].split(",")[1])
    assert [bool(height < line) for height in heights] == [layer.differs for layer in stage.layers]
    assert any(text.text == "first: backbone.layer3.1.conv2" for text in chart.texts)


@pytest.mark.parametrize("count", [1, 5, 50, 200, 2000])
def test_labels_of_layers_do_not_cover_each_other(count: int) -> None:
    for first in {0, count // 3, count - 1}:
        stage = figures(made.layers(count, first=first), LayerFigures)
        assert isinstance(stage, LayerFigures)
        chart = plots.errors(stage)
        assert chart is not None
        places = sorted(text.x for text in chart.texts if text.slanted)
        assert 1 <= len(places) <= 15
        assert all(b - a > 20 for a, b in itertools.pairwise(places))


def test_a_single_flip_is_seen_and_none_is_not() -> None:
    flips = np.zeros((16, 8), np.int64)
    assert np.asarray(picture(pictures.heat_uri(flips)))[:, :, 3].max() == 0
    flips[3, 5], flips[9, 1] = 1, 40
    heat = np.asarray(picture(pictures.heat_uri(flips)))[:, :, 3]
    assert heat.shape == (16, 8)
    assert (np.argwhere(heat > 0) == [(3, 5), (9, 1)]).all() and heat[9, 1] == 255 and heat[3, 5] > 100
    crop = made.images(1)[0]
    drawn = np.asarray(picture(pictures.flips_uri(crop, flips))).astype(int)
    redness = drawn[:, :, 0] - drawn[:, :, 1]
    height, width = drawn.shape[:2]

    def middle(row: int, column: int) -> int:
        return int(redness[int((row + 0.5) * height / 16), int((column + 0.5) * width / 8)])

    assert middle(9, 1) > 120 and middle(3, 5) > 60
    others = [middle(row, column) for row in range(16) for column in range(8) if not flips[row, column]]
    assert max(map(abs, others)) < 30


def test_equal_masks_are_drawn_alike() -> None:
    crop = made.images(1)[0]
    mask = np.random.default_rng(0).uniform(0.3, 0.4, (16, 8)).astype(np.float32)
    one, two = pictures.mask_uris(crop, mask, mask.copy())
    assert one == two
    # Half a bit of difference is drawn, although both are stretched.
    other = mask.copy()
    other[4, 4] += 0.05
    assert pictures.mask_uris(crop, mask, other)[1] != one
    constant = np.full((4, 2), 0.5, np.float32)
    assert picture(pictures.mask_uris(crop, constant, constant)[0]).height == 120
