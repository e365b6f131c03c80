"""Listed crops to embeddings: order, batches, what cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from san_deploy.backends import open_backend
from san_deploy.embed import embed_files
from san_deploy.errors import SanError, UsageError
from san_deploy.evaluation import TTA, VIEWS
from san_deploy.images import list_crops
from san_deploy.preprocess import read_crop


def paths_of(crops: Path) -> list[Path]:
    return [crops / path for path in list_crops(crops)]


def test_rows_in_the_order_of_the_list(crops: Path, model: Path) -> None:
    backend, told = open_backend(model), []
    paths = paths_of(crops)[::-1]
    embedded = embed_files(paths, backend, batch=4, workers=3, progress=told.append)
    expected = [backend(read_crop(path, (32, 16))[None])[0] for path in paths]
    np.testing.assert_allclose(embedded.embedding, expected, atol=1e-6)
    assert embedded.kept.tolist() == list(range(len(paths))) and sum(told) == len(paths)
    assert embedded.unreadable == [] and embedded.seconds > 0


@pytest.mark.parametrize("name", VIEWS)
def test_views_are_summed_and_the_batch_is_kept(crops: Path, model: Path, name: str) -> None:
    backend, views, sizes = open_backend(model), TTA(name), []

    class Counting:
        artefact, name, note = backend.artefact, "counting", ""

        def __call__(self, batch: np.ndarray) -> np.ndarray:
            sizes.append(len(batch))
            return backend(batch)

    paths = paths_of(crops)
    rows = embed_files(paths, Counting(), views, batch=24).embedding
    for path, row in zip(paths, rows, strict=True):
        total = backend(views.read(path, (32, 16))).astype(np.float64).sum(0)
        np.testing.assert_allclose(row, total / np.linalg.norm(total), atol=1e-6)
    assert max(sizes) <= 24 and sum(sizes) == views.count * len(paths)
    one_by_one = embed_files(paths, backend, views, batch=1).embedding
    np.testing.assert_allclose(one_by_one, rows, atol=1e-6)


def test_unreadable_files(crops: Path, model: Path) -> None:
    paths = paths_of(crops)
    paths[1].write_bytes(b"no picture")
    paths.insert(4, crops / "gone.png")
    backend = open_backend(model)
    embedded = embed_files(paths, backend, batch=3)
    assert embedded.kept.tolist() == [0, 2, 3, *range(5, len(paths))]
    assert [item.path for item in embedded.unreadable] == [str(paths[1]), str(paths[4])]
    assert embedded.unreadable[1].reason == "does not exist"
    np.testing.assert_allclose(
        embedded.embedding[1], backend(read_crop(paths[2], (32, 16))[None])[0], atol=1e-6
    )
    with pytest.raises(SanError, match="--strict"):
        embed_files(paths, backend, strict=True)
    with pytest.raises(SanError, match="none of the 1 crops is readable"):
        embed_files(paths[1:2], backend)
    with pytest.raises(UsageError):
        embed_files(paths, backend, batch=0)
