"""Tiles of inner products."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from san_deploy.errors import SanError
from san_deploy.metrics import CupyProducts, Products, RankingLabels, TorchProducts, products, rank_queries
from san_deploy.metrics import scores as scores_module
from san_deploy.metrics.scores import checked_rows, tiles, unit_rows


def rows(seed: int, count: int, dimension: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dimension), np.float32)


def test_tiles_are_the_matrix() -> None:
    query, gallery = rows(0, 1100), rows(1, 30)
    found = [(start, tile.copy()) for start, tile in tiles(products(query, gallery))]
    assert [start for start, _ in found] == [0, 512, 1024]
    assert np.allclose(np.concatenate([tile for _, tile in found]), query @ gallery.T, atol=1e-5)


def test_float32_is_not_copied() -> None:
    given = rows(0, 3)
    assert checked_rows(given, "query") is given
    assert checked_rows(given.astype(np.float16), "query").dtype == np.float32


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.array([[np.nan, 1.0]]), "NaN or infinity"),
        (np.array([[1e300, 1.0]]), "NaN or infinity"),  # finite, but not in FP32
        (np.array([[1e30, 1.0]]), "NaN or infinity"),  # an inner product overflows
        (np.ones(3), "shape"),
        (np.ones((2, 5)), "5 values, gallery embeddings 2"),
    ],
)
def test_bad_embeddings(bad: np.ndarray, message: str) -> None:
    with pytest.raises(SanError, match=message):
        products(bad, np.eye(2))


def test_a_row_of_zeros_has_no_direction() -> None:
    with pytest.raises(SanError, match="row of zeros"):
        unit_rows(np.zeros((1, 3)), "query")


def test_equal_crops_tie_wherever_they_stand() -> None:
    # Some BLAS kernels compute the last columns in another order of summation.
    query, gallery = rows(0, 40, 501), rows(1, 1003, 501)
    twins = np.array([0, 1, 500, 998, 999, 1000, 1001, 1002])
    gallery[twins] = gallery[700]
    for _, tile in tiles(Products(query, gallery)):
        assert (tile[:, twins] == tile[:, 700:701]).all()
    # One of the nine is right and eight are wrong: it comes ninth of them, for every query.
    person = np.arange(2, 1005)
    person[500] = 1
    scores = Products(gallery[700:701], gallery)
    answers = RankingLabels(
        query_person=np.array([1]),
        gallery_person=person,
        query_camera=np.array([0]),
        gallery_camera=np.ones(1003, int),
    )
    assert rank_queries(scores, answers).first.tolist() == [9]


def test_rows_alike_in_sum_only_are_not_equal() -> None:
    gallery = np.array([[1, 2, 3], [3, 2, 1], [1, 2, 3], [2, 2, 2], [0, 0, 0]], np.float32)
    query = np.array([[1, 10, 100]], np.float32)
    (_, tile), *_ = tiles(Products(query, gallery))
    assert tile.tolist() == [[321, 123, 321, 222, 0]]


def test_torch_makes_the_same_tiles() -> None:
    torch = pytest.importorskip("torch")
    query, gallery = rows(0, 20), rows(1, 50)
    gallery[4] = gallery[9]
    before = torch.get_float32_matmul_precision()
    expected, result = (
        next(tiles(scores))[1].copy()
        for scores in (Products(query, gallery), TorchProducts(query, gallery, "cpu"))
    )
    assert np.allclose(result, expected, atol=1e-5)
    assert (result[:, 4] == result[:, 9]).all()
    assert torch.get_float32_matmul_precision() == before


class _Cupy:
    """Stands in for CuPy: arrays that only its own functions turn into NumPy's, on a device that is current."""

    def __init__(self) -> None:
        self.current: list[int] = []
        outer = self

        class Device:
            def __init__(self, index: int) -> None:
                if index > 1:
                    raise RuntimeError("cudaErrorInvalidDevice")
                self.index = index

            def __enter__(self) -> None:
                outer.current.append(self.index)

            def __exit__(self, *_: object) -> None:
                outer.current.pop()

        self.cuda = types.SimpleNamespace(Device=Device)

    def asarray(self, rows: np.ndarray) -> np.ndarray:
        assert self.current == [1]
        return rows.copy()

    def asnumpy(self, rows: np.ndarray) -> np.ndarray:
        assert self.current == [1]
        return rows


def test_cupy_makes_the_same_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", _Cupy())  # type: ignore[arg-type]
    monkeypatch.setattr(scores_module, "has_cupy", lambda: True)
    monkeypatch.setattr(scores_module, "torch_has_cuda", lambda: False)
    query, gallery = rows(0, 20), rows(1, 50)
    scores = products(query, gallery, "cuda:1")
    assert isinstance(scores, CupyProducts)
    assert np.allclose(next(tiles(scores))[1], query @ gallery.T, atol=1e-5)
    with pytest.raises(SanError, match=r"CuPy cannot use the device cuda:2.*InvalidDevice"):
        products(query, gallery, "cuda:2")


def test_a_device_that_is_not_there_is_an_error() -> None:
    torch = pytest.importorskip("torch")
    device = "cuda:99" if torch.cuda.is_available() else "cuda"
    with pytest.raises(SanError, match=f"cannot use the device {device}"):
        products(rows(0, 2), rows(1, 2), device)
