"""Words that the table, the page and the JUnit file share."""

from __future__ import annotations

from dataclasses import replace

import pytest
from san_export.parity import text as words
from san_export.parity.result import EmbeddingFigures, LayerError, Stage

from tests.san_export.parity import made


@pytest.mark.parametrize(
    ("mask", "precision", "told", "not_told"),
    [
        ("argmax", "FP16", ["--mask ramp:0.0625", "or in a higher precision"], ["--calib", "wider"]),
        ("argmax", "FP32", ["export with --mask ramp:0.0625"], ["--calib", "higher precision"]),
        ("ramp:0.0625", "FP16", ["wider ramp, such as --mask ramp:0.125"], ["--calib"]),
        ("ramp:0.75", "INT8", ["--mask ramp:1,", "--calib DIR", "higher precision"], []),
        ("ramp:1", "FP16", ["export in a higher precision"], ["--mask"]),
        ("expected", "INT8", ["--calib DIR", "or in a higher precision"], ["--mask"]),
        ("none", "FP16", ["export in a higher precision"], ["--mask", "the masks"]),
        ("soft", "INT8", ["--calib DIR"], ["--mask", "the masks"]),
        # Nothing rounds less.
        ("expected", "FP32", ["the first divergence"], ["export", "--mask"]),
        ("", "", ["higher precision"], ["--mask"]),
    ],
)
@pytest.mark.parametrize("rung", ["embeddings", "masks", "ranking"])
def test_what_helps_goes_by_the_mask_and_the_precision(
    rung: str, mask: str, precision: str, told: list[str], not_told: list[str]
) -> None:
    text = words.remedy(Stage(rung, None), {"mask": mask, "precision": precision})
    for part in told:
        assert part in text
    for part in not_told:
        assert part not in text


def test_a_batch_is_told_with_its_reason() -> None:
    figures = made.embeddings(crops=1000).figures
    assert isinstance(figures, EmbeddingFigures)
    rows = words.batches(figures)
    assert [row[0] for row in rows] == [f"{item.batch} ({item.why})" for item in figures.batches]
    assert rows[0][1:3] == ("1 000", f"{figures.batches[0].min_cosine:.7f}")
    assert words.batches(replace(figures, batches=())) == []


@pytest.mark.parametrize(
    ("local", "weights", "told"),
    [
        (1e-6, 0.5, ""),
        (1e-6, 37.5, "37.5"),
        (1e-6, float("nan"), "NaN"),
        # Then the error is reason enough.
        (1e-2, 37.5, ""),
        (float("nan"), 37.5, ""),
    ],
)
def test_weights_are_told_where_they_alone_differ(local: float, weights: float, told: str) -> None:
    layer = LayerError("conv1", "Conv", "", local, local, 1e-4, weights)
    assert words.by_weights(layer) is bool(told)
    _, _, weight = words.error(layer).partition("; ")
    assert weight == (f"a weight is off by {told} times what its rounding explains" if told else "")
