"""Figures against slow computations of the same protocols."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from san_deploy.backends import Backend, open_backend
from san_deploy.datasets import EvaluationSet, Options, evaluation_set, read_dataset
from san_deploy.errors import SanError, UsageError
from san_deploy.evaluation import (
    TTA,
    EvalConfig,
    EvaluationResult,
    Expansion,
    Rerank,
    evaluate_set,
)
from san_deploy.metrics.rerank import Reranked
from san_deploy.preprocess import read_crop
from tests.san_deploy.evaluation.sets import (
    crop_folder,
    cuhk03,
    market,
    picture,
    single_shot_expectation,
    slow_figures,
)
from tests.san_deploy.metrics.test_rerank import literal


@pytest.fixture
def backend(model: Path) -> Backend:
    return open_backend(model)


def chosen_of(root: Path, split: str | None = None, **options: object) -> EvaluationSet:
    return evaluation_set(read_dataset(root, Options(**options)), split)  # type: ignore[arg-type]


def rows_of(crops: list, backend: Backend) -> np.ndarray:  # type: ignore[type-arg]
    return np.concatenate([backend(read_crop(crop.path, (32, 16))[None]) for crop in crops])


def assert_figures(result: EvaluationResult, chosen: EvaluationSet, backend: Backend) -> None:
    expected = slow_figures(chosen, rows_of(chosen.query, backend), rows_of(chosen.gallery, backend))
    assert result.crops.queries == expected.queries
    np.testing.assert_allclose(result.crops.cmc[:20], expected.cmc, atol=1e-9)
    assert result.crops.mean_ap == pytest.approx(expected.mean_ap, abs=1e-9)
    assert result.crops.mean_inp == pytest.approx(expected.mean_inp, abs=1e-9)
    assert 0.0 < expected.mean_ap < 1.0


def test_query_against_gallery(tmp_path: Path, backend: Backend) -> None:
    chosen = chosen_of(market(tmp_path / "market"))
    result = evaluate_set(chosen, backend, EvalConfig())
    assert_figures(result, chosen, backend)
    assert (result.crops.absent, result.crops.same_camera, result.crops.distractors) == (1, 1, 0)
    assert result.tracklets is None and result.single_shot is None


def test_every_crop_against_all_others(tmp_path: Path, backend: Backend) -> None:
    chosen = chosen_of(crop_folder(tmp_path / "crops"))
    result = evaluate_set(chosen, backend, EvalConfig())
    assert len(result.embedded.embedding) == len(chosen.gallery) == 30
    assert_figures(result, chosen, backend)


def test_no_cameras(tmp_path: Path, backend: Backend) -> None:
    rng = np.random.default_rng(0)
    for person in "abcd":
        for number in range(3):
            picture(tmp_path / "set" / f"{person}_{number}.png", ord(person), rng)
    chosen = chosen_of(tmp_path / "set", pattern="{person}_{}", no_camera=True)
    result = evaluate_set(chosen, backend, EvalConfig())
    assert_figures(result, chosen, backend)
    assert result.queries.positives.tolist() == [2] * 12


def test_tracklets(tmp_path: Path, backend: Backend) -> None:
    chosen = chosen_of(crop_folder(tmp_path / "crops"))
    result = evaluate_set(chosen, backend, EvalConfig(tracklets=True))
    rows = rows_of(chosen.gallery, backend).astype(np.float64)
    pooled = {}
    for key in {(crop.camera, crop.track, crop.person) for crop in chosen.gallery}:
        inside = [(crop.camera, crop.track, crop.person) == key for crop in chosen.gallery]
        total = rows[inside].sum(0)
        pooled[key] = total / np.linalg.norm(total)
    assert result.tracklets is not None and len(pooled) == 10
    right, precision = {}, {}
    for (camera, track, person), row in pooled.items():
        others = [(float(row @ other), key[2]) for key, other in pooled.items() if key[0] != camera]
        ranked = [who == person for _, who in sorted(others, reverse=True)]
        right[camera, track], precision[camera, track] = ranked[0], 1 / (1 + ranked.index(True))
    for (a, _), ranking in result.tracklets.pairs.items():
        assert ranking.rank1 == np.mean([hit for key, hit in right.items() if key[0] == a])
    assert result.tracklets.mean("mean_ap") == pytest.approx(np.mean(list(precision.values())))
    # Against all tracklets, those of the own camera are rivals, too.
    assert result.tracklets.every.queries == 10
    assert result.tracklets.every.rank1 <= result.tracklets.mean("rank1")


def test_single_shot_is_the_mean_over_all_draws(tmp_path: Path, backend: Backend) -> None:
    chosen = chosen_of(cuhk03(tmp_path / "cuhk03"))
    assert chosen.single_shot and "old protocol" in chosen.name
    result = evaluate_set(chosen, backend, EvalConfig(draws=4000, seed=1))
    shots = result.single_shot
    assert shots is not None and shots.drawn is not None
    crops = chosen.gallery
    expected = single_shot_expectation(
        [crop.person for crop in crops], [crop.camera for crop in crops], rows_of(crops, backend), 3
    )
    np.testing.assert_allclose(shots.expected.cmc[:3], expected, atol=1e-9)
    assert 0.0 < expected[0] < 1.0
    np.testing.assert_allclose(shots.drawn.cmc[:3], expected, atol=0.03)
    again = evaluate_set(chosen, backend, EvalConfig(draws=4000, seed=1)).single_shot
    assert again is not None and again.drawn == shots.drawn
    other = evaluate_set(chosen, backend, EvalConfig(draws=4000, seed=2)).single_shot
    assert other is not None and other.drawn != shots.drawn and other.expected == shots.expected


def test_views_change_the_rows_that_are_ranked(tmp_path: Path, backend: Backend) -> None:
    chosen = chosen_of(crop_folder(tmp_path / "crops"))
    views = TTA("ten-crop")
    result = evaluate_set(chosen, backend, EvalConfig(views=views))
    rows = []
    for crop in chosen.gallery:
        total = backend(views.read(crop.path, (32, 16))).astype(np.float64).sum(0)
        rows.append(total / np.linalg.norm(total))
    expected = slow_figures(chosen, np.array(rows, np.float32), np.array(rows, np.float32))
    assert result.crops.mean_ap == pytest.approx(expected.mean_ap, abs=1e-9)


def test_rerank_and_expansion_rank_what_they_should(tmp_path: Path, backend: Backend) -> None:
    chosen = chosen_of(market(tmp_path / "market"))
    values = Rerank(k1=7, k2=3, weight=0.4)
    result = evaluate_set(chosen, backend, EvalConfig(rerank=values))
    query, gallery = rows_of(chosen.query, backend), rows_of(chosen.gallery, backend)
    distance = Reranked(query, gallery, k1=7, k2=3, weight=0.4).distance()
    # The slow figures take embeddings: here each query's row is its similarities, the gallery's unit vectors.
    expected = slow_figures(chosen, -distance, np.eye(len(gallery)))
    assert result.crops.mean_ap == pytest.approx(expected.mean_ap, abs=1e-6)
    plain = evaluate_set(chosen, backend, EvalConfig())
    assert result.crops != plain.crops

    expanded = evaluate_set(chosen, backend, EvalConfig(expansion=Expansion(count=2, alpha=0.0)))
    nearest = np.argsort(-(query @ gallery.T), axis=1)[:, :2]
    rows = query + gallery[nearest].sum(1)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    assert expanded.crops.mean_ap == pytest.approx(slow_figures(chosen, rows, gallery).mean_ap, abs=1e-9)


def test_a_query_in_the_gallery_is_one_crop(tmp_path: Path, backend: Backend) -> None:
    chosen = chosen_of(crop_folder(tmp_path / "crops"))
    rows = rows_of(chosen.gallery, backend)
    similarity = rows @ rows.T
    np.fill_diagonal(similarity, -2.0)
    nearest = np.argsort(-similarity, axis=1)[:, :3]
    query = rows + rows[nearest].sum(1)
    query /= np.linalg.norm(query, axis=1, keepdims=True)
    expanded = evaluate_set(chosen, backend, EvalConfig(expansion=Expansion(count=3, alpha=0.0)))
    assert expanded.crops.mean_ap == pytest.approx(slow_figures(chosen, query, rows).mean_ap, abs=1e-9)

    distance = np.array(
        [np.insert(literal(rows[[n]], np.delete(rows, n, 0), 6, 3, 0.3)[0], n, 0.0) for n in range(len(rows))]
    )
    reranked = evaluate_set(chosen, backend, EvalConfig(rerank=Rerank(k1=6, k2=3)))
    expected = slow_figures(chosen, -distance, np.eye(len(rows)))
    assert reranked.crops.mean_ap == pytest.approx(expected.mean_ap, abs=1e-6)

    with pytest.raises(UsageError, match="does not go with --rerank"):
        evaluate_set(chosen, backend, EvalConfig(rerank=Rerank(), expansion=Expansion()))


def test_no_draws_of_what_was_re_ranked(tmp_path: Path, backend: Backend) -> None:
    result = evaluate_set(chosen_of(cuhk03(tmp_path / "cuhk03")), backend, EvalConfig(rerank=Rerank()))
    assert result.single_shot is None and result.crops.queries == 11


def test_unreadable_crops_are_left_out_on_both_sides(tmp_path: Path, backend: Backend) -> None:
    root = crop_folder(tmp_path / "crops")
    chosen = chosen_of(root)
    lost = chosen.gallery[4].path
    lost.write_bytes(b"no picture")
    result = evaluate_set(chosen, backend, EvalConfig())
    assert len(result.chosen.gallery) == len(result.chosen.query) == 29
    assert result.chosen.query_rows is not None and result.chosen.query_rows.tolist() == list(range(29))
    assert_figures(result, result.chosen, backend)
    with pytest.raises(SanError, match="--strict"):
        evaluate_set(chosen, backend, EvalConfig(), strict=True)


def test_what_gives_no_figure_is_refused_before_the_network_runs(tmp_path: Path, backend: Backend) -> None:
    class Never:
        artefact, name, note = backend.artefact, "never", ""

        def __call__(self, crops: np.ndarray) -> np.ndarray:
            raise AssertionError("it ran")

    one_camera = chosen_of(crop_folder(tmp_path / "one", cameras=1))
    with pytest.raises(SanError, match="of one camera"):
        evaluate_set(one_camera, Never(), EvalConfig())
    one_person = chosen_of(crop_folder(tmp_path / "alone", people=1))
    with pytest.raises(SanError, match="one person alone"):
        evaluate_set(one_person, Never(), EvalConfig())
    with pytest.raises(SanError, match="has no tracklets"):
        evaluate_set(chosen_of(market(tmp_path / "market")), Never(), EvalConfig(tracklets=True))
    ignored = chosen_of(crop_folder(tmp_path / "crops"), no_camera=True)
    with pytest.raises(SanError, match="cameras are ignored"):
        evaluate_set(ignored, Never(), EvalConfig(tracklets=True))
