from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from san_export.parity.gates import make_gates
from san_export.parity.models import ModelPair, ParityModel, Rows
from san_export.parity.result import EmbeddingFigures, Stage
from san_export.parity.sample import Sample
from san_export.parity.stages.embeddings import batch_sizes, crops_run, embed_pair
from san_export.verify import row_cosine

from san_deploy.errors import SanError
from tests.tiny_models import tiny_artefact

SIZE_HW = (8, 4)
DIM = 96
ARTEFACT = tiny_artefact(size_hw=SIZE_HW, embedding_dim=DIM)
GATES = make_gates(ARTEFACT, "none")


def made(count: int, seed: int = 0) -> Sample:
    """A sample that needs no files."""
    images = np.random.default_rng(seed).integers(0, 256, (count, *SIZE_HW, 3), dtype=np.uint8)
    names = tuple(f"crop{i}" for i in range(count))

    class Made:
        def __len__(self) -> int:
            return count

        def images(self, rows: Any, resize: Any = None) -> np.ndarray:
            return images[list(rows)]

    sample = Made()
    sample.names = names  # type: ignore[attr-defined]
    return cast(Sample, sample)


def flat(images: np.ndarray) -> np.ndarray:
    rows = images.reshape(len(images), -1).astype(np.float64) - 127.5
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def side(rows: Rows = flat, **values: Any) -> ParityModel:
    return ParityModel(Path("model.onnx"), ARTEFACT, "made", rows, **values)


def figures(stage: Stage) -> EmbeddingFigures:
    assert isinstance(stage.figures, EmbeddingFigures)
    return stage.figures


def failed(stage: Stage) -> set[str]:
    return {check.gate for check in stage.checks if not check.passed}


@pytest.mark.parametrize("count", [10, 40, 200])
def test_equal_networks_at_every_batch_size(count: int) -> None:
    called: list[int] = []
    told: list[int] = []

    def rows(images: np.ndarray) -> np.ndarray:
        called.append(len(images))
        return flat(images)

    target = side(rows)
    got = embed_pair(ModelPair(side(), target), made(count), GATES, progress=told.append)
    assert not failed(got.stage)
    assert {1, 3, 32, 33} <= set(called) and max(called) == 33
    assert [row.batch for row in figures(got.stage).batches] == [1, 3, 16, 32, 33]
    assert [row.crops for row in figures(got.stage).batches] == [
        min(count, 32),
        min(count, 32),
        count,
        min(count, 32),
        min(count, 32),
    ]
    assert figures(got.stage).equal_rows == 1 and figures(got.stage).not_finite == 0
    assert figures(got.stage).invariance == pytest.approx(1, abs=1e-12)
    assert sum(told) == crops_run(ModelPair(side(), target), count)
    assert np.array_equal(got.reference, got.target)


def test_sizes_of_an_engine() -> None:
    assert batch_sizes(side(optimum=8, maximum=8)) == {
        1: "one",
        3: "odd",
        8: "optimum, maximum",
        9: "over the maximum",
    }
    assert list(batch_sizes(side(optimum=1, maximum=2))) == [1, 3, 2]


def test_one_bad_crop_is_found_named_and_run_at_every_size() -> None:
    sample = made(200)
    bad = sample.images([137])[0]

    def rows(images: np.ndarray) -> np.ndarray:
        result = flat(images)
        result[(images == bad).all((1, 2, 3))] *= -1
        return result

    got = embed_pair(ModelPair(side(), side(rows)), sample, GATES)
    assert got.worst[0] == 137 and figures(got.stage).worst[0][0] == "crop137"
    assert all(row.min_cosine == pytest.approx(-1, abs=1e-6) for row in figures(got.stage).batches)
    assert np.allclose(
        got.cosine, row_cosine(rows(sample.images(range(200))), flat(sample.images(range(200))))
    )
    assert "min_cosine" in failed(got.stage)


def test_the_worst_crops_that_are_added_do_not_shift_the_shares() -> None:
    """A twentieth of the crops is bad; at the other sizes all bad ones among the worst would be a twelfth."""
    sample = made(2000)
    bad = sample.images(range(0, 2000, 20))

    def rows(images: np.ndarray) -> np.ndarray:
        result = flat(images)
        result[(images[:, None] == bad[None]).all((2, 3, 4)).any(1)] *= -1
        return result

    batches = figures(embed_pair(ModelPair(side(), side(rows)), sample, GATES).stage).batches
    whole = next(row for row in batches if row.crops == 2000)
    assert whole.mean_cosine == pytest.approx(0.9, abs=1e-6)
    for row in batches:
        assert row.min_cosine == pytest.approx(-1, abs=1e-6)
        # 24 crops by seed: three standard deviations.
        assert row.mean_cosine == pytest.approx(0.9, abs=3 * 2 * (0.05 * 0.95 / 24) ** 0.5)


def spoil(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def rows(images: np.ndarray) -> np.ndarray:
        result = flat(images)
        result[images[:, 0, 0, 0] < 100, 5] = value
        return result

    return rows


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_counted_and_stop_nothing(value: float) -> None:
    sample = made(50)
    got = embed_pair(ModelPair(side(), side(spoil(value))), sample, GATES)
    expected = int((sample.images(range(50))[:, 0, 0, 0] < 100).sum())
    assert 0 < figures(got.stage).not_finite == expected < 50
    assert {"finite", "min_cosine", "max_abs"} <= failed(got.stage)
    assert "norm" not in failed(got.stage)


def test_no_finite_row_at_all() -> None:
    got = embed_pair(ModelPair(side(), side(lambda images: flat(images) * np.nan)), made(20), GATES)
    assert {"finite", "norm", "min_cosine", "batch_invariance"} <= failed(got.stage)


def test_a_missing_norm_changes_no_cosine() -> None:
    got = embed_pair(ModelPair(side(), side(lambda images: flat(images) * 7)), made(20), GATES)
    assert failed(got.stage) == {"norm"}
    assert figures(got.stage).norm_error == pytest.approx(6, rel=1e-5)
    assert figures(got.stage).batches[0].max_abs < 1e-6


def test_a_batch_size_that_does_not_run() -> None:
    def rows(images: np.ndarray) -> np.ndarray:
        if len(images) > 16:
            raise SanError("the shape is static")
        return flat(images)

    got = embed_pair(ModelPair(side(), side(rows)), made(30), GATES)
    assert [row.min_cosine for row in figures(got.stage).batches[-2:]] == [-1, -1]
    assert figures(got.stage).not_finite == 30
    assert any("At a batch of 32 the target does not run: the shape is static." in n for n in got.stage.notes)


def test_rows_that_depend_on_batch_mates() -> None:
    def rows(images: np.ndarray) -> np.ndarray:
        mixed = flat(images) + 0.3 * flat(images[:1])
        return (mixed / np.linalg.norm(mixed, axis=1, keepdims=True)).astype(np.float32)

    assert "batch_invariance" in failed(embed_pair(ModelPair(side(), side(rows)), made(20), GATES).stage)


def test_a_reference_that_is_none_is_refused() -> None:
    for broken in (lambda images: flat(images) * np.nan, lambda images: flat(images) * 2):
        with pytest.raises(SanError, match="the reference"):
            embed_pair(ModelPair(side(broken), side()), made(20), GATES)


def test_the_file_as_it_is_must_run_as_well() -> None:
    half = make_gates(tiny_artefact(precision="fp16", mask="argmax"), "argmax")

    def none(images: np.ndarray) -> np.ndarray:
        raise SanError("no kernel")

    good = embed_pair(ModelPair(side(), side(as_it_is=flat)), made(20), half)
    assert not failed(good.stage) and any("as it is" in note for note in good.stage.notes)
    assert failed(embed_pair(ModelPair(side(), side(as_it_is=none)), made(20), half).stage) == {"finite"}
    other = embed_pair(ModelPair(side(), side(as_it_is=lambda images: -flat(images))), made(20), half)
    assert failed(other.stage) == {"mean_cosine"}
