"""The page: whole in itself, safe against names, and right about ranks."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from san_deploy.backends import open_backend
from san_deploy.datasets import Options, evaluation_set, read_dataset
from san_deploy.evaluation import EvalConfig, EvaluationResult, Rerank, evaluate_set
from san_deploy.evaluation.output import as_dict
from san_deploy.evaluation.rank_lists import LENGTH, worst_and_best
from san_deploy.reports.evaluation_files import write_evaluation
from san_deploy.reports.svg import FIELD, plot
from tests.san_deploy.evaluation.sets import crop_folder, cuhk03, market, picture

EVIL = "<script>alert(1)</script>"


class Page(HTMLParser):
    """Tags and what they load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for key, value in attrs if key in ("src", "href", "srcset", "data")]


def evaluated(
    root: Path, model: Path, choices: EvalConfig | None = None, **options: object
) -> EvaluationResult:
    chosen = evaluation_set(read_dataset(root, Options(**options)))  # type: ignore[arg-type]
    return evaluate_set(chosen, open_backend(model), choices or EvalConfig())


def written(folder: Path, result: EvaluationResult, model: Path, **more: object) -> str:
    folder.mkdir(exist_ok=True)
    told = as_dict(result, open_backend(model), Options(), model=model, split=None, batch=32)
    write_evaluation(folder, result, told, Options(), **more)  # type: ignore[arg-type]
    return (folder / "eval.html").read_text()


def test_the_page_loads_nothing(tmp_path: Path, model: Path) -> None:
    text = written(tmp_path / "out", evaluated(market(tmp_path / "market"), model), model, lists=3)
    page = Page(text)
    assert page.sources and all(source.startswith("data:") for source in page.sources)
    assert not {"script", "iframe", "object", "embed", "form", "base"} & set(page.tags)
    assert "default-src 'none'" in text and "@import" not in text and "url(" not in text
    # The one address is the name of SVG.
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert text.count('<article class="card">') == 6
    assert "the masks need the checkpoint: --checkpoint" in text


def test_names_are_text(tmp_path: Path, model: Path) -> None:
    rng = np.random.default_rng(0)
    root = tmp_path / "a<b>&c"
    for person in (1, 2, 3):
        for camera in ("<img src=x onerror=y>", "b&b"):
            picture(root / f"{person}" / camera / "x'\"<i>.png", person, rng)
    result = evaluated(root, model, pattern="{person}/{camera}/{}")
    text = written(tmp_path / "out", result, model)
    assert "<img src=x" not in text and "<i>" not in text
    assert "&lt;img src=x onerror=y&gt;" in text and "a&lt;b&gt;&amp;c" in text


def test_worst_and_best_are_of_different_people_and_true(tmp_path: Path, model: Path) -> None:
    result = evaluated(market(tmp_path / "market", people=8), model)
    worst, best = worst_and_best(result, 3)
    assert len(worst) == len(best) == 3
    for lists in (worst, best):
        assert len({listed.crop.person for listed in lists}) == 3
    known = result.queries.average_precision[~np.isnan(result.queries.average_precision)]
    assert worst[0].average_precision == known.min() and best[0].average_precision == known.max()
    assert not {listed.crop.path for listed in worst} & {listed.crop.path for listed in best}
    for listed in (*worst, *best):
        query = next(n for n, crop in enumerate(result.chosen.query) if crop == listed.crop)
        assert listed.ranks[0] == result.queries.first[query]
        assert listed.ranks[-1] == result.queries.last[query]
        assert np.mean([k / rank for k, rank in enumerate(listed.ranks, 1)]) == pytest.approx(
            listed.average_precision
        )
        assert [answer.rank for answer in listed.answers] == list(range(1, len(listed.answers) + 1))
        scores = [answer.score for answer in listed.answers]
        assert scores == sorted(scores, reverse=True) and len(scores) <= LENGTH
        for answer in listed.answers:
            assert answer.right == (answer.crop.person == listed.crop.person)
            assert answer.right == (answer.rank in listed.ranks)
            assert not answer.right or answer.crop.camera != listed.crop.camera
        late = listed.first_right
        assert (late is None) == (listed.ranks[0] <= LENGTH)
        assert late is None or (late.rank == listed.ranks[0] and late.crop.person == listed.crop.person)


def test_a_late_right_answer_is_shown(tmp_path: Path, model: Path) -> None:
    """Everybody looks like somebody else: the first right answer stands far behind."""
    rng = np.random.default_rng(1)
    for person in range(1, 31):
        for camera in (1, 2):
            picture(tmp_path / "set" / f"{person}_{camera}.png", person + 50 * camera, rng)
    result = evaluated(tmp_path / "set", model, pattern="{person}_{camera}")
    worst, _ = worst_and_best(result, 2)
    assert worst[0].first_right is not None and worst[0].first_right.rank > LENGTH
    text = written(tmp_path / "out", result, model, lists=2)
    assert re.search(rf'class="right late".*?<b>{worst[0].first_right.rank}</b>', text, re.S)


def test_no_lists_and_vanished_crops(tmp_path: Path, model: Path) -> None:
    result = evaluated(crop_folder(tmp_path / "crops"), model)
    assert "<article" not in written(tmp_path / "none", result, model, lists=0)
    for crop in result.chosen.gallery:
        crop.path.unlink()
    assert "no picture" in written(tmp_path / "gone", result, model)


def test_re_ranked_distances_are_shown_as_such(tmp_path: Path, model: Path) -> None:
    text = written(
        tmp_path / "out", evaluated(market(tmp_path / "market"), model, EvalConfig(rerank=Rerank())), model
    )
    assert "re-ranked distance" in text and not re.search(r'class="score">-', text)


def test_tiles_have_the_published_protocols_figures(tmp_path: Path, model: Path) -> None:
    result = evaluated(cuhk03(tmp_path / "cuhk03"), model)
    assert result.single_shot is not None and result.single_shot.expected.rank(1) != result.crops.rank1
    text = written(tmp_path / "old", result, model)
    shown = f"{100 * result.single_shot.expected.rank(1):.1f}"
    assert f"<dt>Rank-1, single shot</dt><dd>{shown}&nbsp;%" in text
    result = evaluated(market(tmp_path / "market"), model)
    shown = f"{100 * result.crops.rank1:.1f}"
    assert f"<dt>Rank-1</dt><dd>{shown}&nbsp;%" in written(tmp_path / "market-page", result, model)


def test_embeddings_can_be_ranked_again(tmp_path: Path, model: Path) -> None:
    result = evaluated(market(tmp_path / "market"), model)
    written(tmp_path / "out", result, model, embeddings=True)
    with np.load(tmp_path / "out" / "embeddings.npz", allow_pickle=False) as file:
        rows, query, gallery = file["embedding"], file["query"], file["gallery"]
        assert [file["person"][row] for row in query] == [crop.person for crop in result.chosen.query]
        assert file["path"][gallery[0]].startswith("bounding_box_test/")
    np.testing.assert_array_equal(rows[query], result.embedded.embedding[result.query_rows])
    assert len(rows) == len(result.chosen.query) + len(result.chosen.gallery)


def test_plot_is_a_picture_of_the_curve(tmp_path: Path, model: Path) -> None:
    written(tmp_path / "out", evaluated(market(tmp_path / "market"), model), model)
    root = ElementTree.parse(tmp_path / "out" / "cmc.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and root.findall("{*}polyline")
    assert "var(" not in (tmp_path / "out" / "cmc.svg").read_text()
    left, top, width, height = FIELD
    view = plot({"a": [0.5, 0.75, 1.0]})
    points = [tuple(map(float, point.split(","))) for point in view["curves"][0]["points"].split()]
    # The field begins at the ten per cent below: 40 %.
    assert points[0] == pytest.approx((left, top + height * 0.5 / 0.6), abs=0.1)
    assert points[1] == pytest.approx((left + width / 2, top + height * 0.25 / 0.6), abs=0.1)
    assert points[2] == pytest.approx((left + width, top), abs=0.1)
    assert [level["text"] for level in view["levels"]][::6] == ["100 %", "40 %"]
