"""Query expansion against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from san_deploy.errors import SanError, UsageError
from san_deploy.metrics import query_expansion
from san_deploy.metrics.query_expansion import expand_queries


def literal(rows: np.ndarray, gallery: np.ndarray, count: int, alpha: float, itself: bool) -> np.ndarray:
    rows, gallery = (
        part.astype(float) / np.linalg.norm(part.astype(float), axis=1)[:, None] for part in (rows, gallery)
    )
    result = []
    for i, row in enumerate(rows):
        others = [g for g in range(len(gallery)) if not (itself and g == i)]
        total = row.copy()
        for g in sorted(others, key=lambda g: -(row @ gallery[g]))[:count]:
            total += max(row @ gallery[g], 0.0) ** alpha * gallery[g]
        result.append(total / np.linalg.norm(total))
    return np.array(result)


@pytest.mark.parametrize("count", [1, 4, 50])
@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.5])
def test_against_loops(count: int, alpha: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    query, gallery = rng.normal(size=(12, 5)), rng.normal(size=(30, 5))
    monkeypatch.setattr(query_expansion, "_BLOCK_CELLS", 60)
    rows, others = expand_queries(query, gallery, count=count, alpha=alpha, gallery_too=True)
    assert np.abs(rows - literal(query, gallery, count, alpha, itself=False)).max() < 1e-5
    assert np.abs(others - literal(gallery, gallery, count, alpha, itself=True)).max() < 1e-5
    same, untouched = expand_queries(query, gallery, count=count, alpha=alpha)
    assert (same == rows).all()
    assert np.allclose(untouched, gallery / np.linalg.norm(gallery, axis=1)[:, None], atol=1e-6)


def test_many_copies_of_one_crop() -> None:
    gallery = np.array([[1.0, 0.0]] * 5 + [[0.0, 1.0]])
    _, others = expand_queries(gallery[:1], gallery, count=2, alpha=0.0, gallery_too=True)
    assert np.allclose(others[:5], gallery[:5])


def test_rows_that_cancel_out_are_an_error() -> None:
    with pytest.raises(SanError, match="cancel out"):
        expand_queries(np.array([[1.0, 0.0]]), np.array([[-1.0, 0.0]]), count=1, alpha=0.0)


@pytest.mark.filterwarnings("error")
def test_the_largest_alpha_is_quiet() -> None:
    rows = np.random.default_rng(1).normal(size=(30, 4))
    expanded, _ = expand_queries(rows[:5], rows, alpha=query_expansion.MOST_ALPHA)
    assert np.isfinite(expanded).all()


@pytest.mark.parametrize(
    "bad", [{"count": 0}, {"alpha": -1.0}, {"alpha": np.nan}, {"alpha": np.inf}, {"alpha": 1e308}]
)
def test_values_out_of_range(bad: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="query expansion by"):
        expand_queries(np.eye(2), np.eye(2), **bad)  # type: ignore[arg-type]
