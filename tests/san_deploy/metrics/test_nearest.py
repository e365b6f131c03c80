"""The nearest of each row against a full sort."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from san_deploy import metrics
from san_deploy.metrics import Similarity
from san_deploy.metrics.nearest import nearest


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 70),
    columns=st.integers(1, 900),
    count=st.integers(1, 25),
    values=st.sampled_from([1, 3, 1000]),
)
def test_against_a_sort(seed: int, rows: int, columns: int, count: int, values: int) -> None:
    rng = np.random.default_rng(seed)
    query, gallery = (rng.integers(-values, values + 1, (n, 3)).astype(np.float32) for n in (rows, columns))
    similarity = query @ gallery.T
    expected = np.argsort(-similarity, axis=1, kind="stable")[:, :count]
    column, score, lowest = nearest(Similarity(query, gallery), count)
    assert column.dtype == np.int32
    assert (column == expected).all()
    assert (score == np.take_along_axis(similarity, expected, axis=1)).all()
    assert (lowest == similarity.min(axis=1)).all()


def test_tiles_and_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    scores = Similarity(*(rng.integers(-9, 9, (n, 3)).astype(np.float32) for n in (40, 300)))
    whole = nearest(scores, 5)
    monkeypatch.setattr(metrics.scores, "_TILE_ROWS", 7)
    done: list[int] = []
    for a, b in zip(nearest(scores, 5, done.append), whole, strict=True):
        assert (a == b).all()
    assert done == [7, 7, 7, 7, 7, 5]
