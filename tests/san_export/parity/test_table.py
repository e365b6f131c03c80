"""The table: the verdict first, at most 100 columns, no figure that says less than it knows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from san_export.parity import text as words
from san_export.parity.result import (
    STAGES,
    Check,
    DivergenceFigures,
    EmbeddingFigures,
    Ladder,
    MaskFigures,
    Stage,
)
from san_export.parity.table import WIDTH, lines

from tests.san_export.parity import made

ODD = "cam1/\x1b[31m\n\udcff" + "a" * 300 + ".jpg"


def row(told: list[str], name: str) -> str:
    """A rung's line."""
    return next(line for line in told if line.startswith(name))


@pytest.mark.parametrize(
    "ladder",
    [
        made.ladder(),
        made.failing(),
        made.broken(),
        made.all_skipped(),
        made.with_names([ODD] * 4),
        made.ladder(made.divergence(200, first=7), made.masks(names=["x" * 90] * 16)),
        made.ladder(made.masks(names=[]), made.divergence(0), made.embeddings(crops=1, outliers=0), crops=1),
        made.ladder(made.embeddings(crops=10**5, outliers=9)),
    ],
)
def test_lines_fit_and_can_be_printed(ladder: Ladder) -> None:
    told = lines(ladder)
    assert max(map(len, told)) <= WIDTH
    assert all(line.isprintable() and line == line.rstrip() for line in told)
    for name in STAGES:
        assert sum(line.startswith(f"{name} ") for line in told) == 1


def test_two_lines_are_enough() -> None:
    told = lines(made.failing())
    assert told[0].startswith("FAIL ") and told[0].endswith(": 5 of 10 gates missed")
    assert "starter-fp16.onnx differs from starter.onnx" in told[0]
    assert told[1].strip() == "missed: artefact, min_cosine, flipped, divergence, rank1_drop"
    told = lines(made.ladder(made.ranking(drop=0.62)))
    assert told[1].strip() == "missed: rank1_drop 0.62, at most 0.1"
    told = lines(made.ladder(made.skipped("ranking", "too few crops")))
    assert told[0].startswith("PASS ") and told[0].endswith("starter.onnx: 8 gates held")
    assert told[1].strip() == "not run: ranking"
    assert lines(made.all_skipped())[0].startswith("NO GATE ")


def test_the_verdict_survives_long_names() -> None:
    told = lines(made.with_names(["a" * 200 + ".onnx", *[ODD] * 3]))
    assert told[0].startswith("FAIL ") and told[0].endswith(" gates missed")


def test_equal_file_names_are_told_with_their_folders() -> None:
    ladder = made.ladder()
    assert words.names(ladder) == ("starter-fp16.onnx", "starter.onnx")
    ladder = replace(ladder, target={"file": "b/model.onnx"}, reference={"file": "a/model.onnx"})
    assert "b/model.onnx agrees with a/model.onnx" in lines(ladder)[0]
    assert words.names(replace(ladder, target={}, reference={})) == ("the target", "the reference")


def test_each_rung_says_what_decided() -> None:
    told = lines(made.failing())
    assert "PASS" in row(told, "preprocessing")
    assert "FAIL     min_cosine 0.99" in row(told, "embeddings")
    assert "FAIL     flipped 0.00" in row(told, "masks")
    assert "FAIL     rank1_drop 0.62, at most 0.1" in row(told, "ranking")
    assert any("first at backbone.layer3.1.conv2, Relu /Relu_31_output_0: error" in line for line in told)
    assert any("the mask's comparison is the other way round" in line for line in told)
    assert any("rank-1 89.50 -> 88.88 %, mAP 73.60 -> 72.98 %" in line for line in told)
    told = lines(made.ladder(made.skipped("masks", "no sharp block in the network")))
    assert "skipped  no sharp block in the network" in row(told, "masks")


def test_every_miss_is_told_with_what_to_do() -> None:
    ladder = made.failing()
    told = lines(ladder)
    end = told[told.index("", 4) + 1 :]
    assert [line.split()[1] for line in end if line.startswith("missed")] == [
        check.gate for check in ladder.failed
    ]
    assert sum(line.startswith("do ") for line in end) == 5
    assert "--gate NAME=VALUE" in end[-1]
    assert not any(line.startswith(("missed", "do ")) for line in lines(made.ladder()))


def test_a_weight_that_is_off_and_neighbours_are_told() -> None:
    stage = made.divergence(9)
    assert isinstance(stage.figures, DivergenceFigures)
    layers = tuple(
        replace(layer, weights=37.5) if place in (4, 6) else layer
        for place, layer in enumerate(stage.figures.layers)
    )
    figures = replace(stage.figures, layers=layers, first=layers[4])
    told = lines(made.ladder(replace(stage, figures=figures, checks=()), made.ranking(labelled=False)))
    text = " ".join(" ".join(told).split())
    assert text.count("; a weight is off by 37.5 times what its rounding explains") == 2
    assert "the nearest crop of another tracklet is of the same tracklet on both sides" in text


def test_blocks_have_their_flips() -> None:
    stage = made.masks()
    figures = stage.figures
    assert isinstance(figures, MaskFigures)
    told = lines(made.ladder(stage))
    for block in figures.blocks:
        cells = next(line for line in told if line.split()[:1] == [block.name] and " x " in line)
        for value in (block.flipped, block.predicted, block.own):
            assert words.share(value / block.bits) in cells
        assert f"{block.rounding:.1e}" in cells
    # What was not measured is left blank, and a soft mask has its mean difference in place of predicted flips.
    unmeasured = replace(figures, blocks=tuple(replace(block, own=-1) for block in figures.blocks))
    assert "-" not in "".join(
        line for line in lines(made.ladder(replace(stage, figures=unmeasured))) if "own" in line
    )
    assert any("mean |dM|" in line for line in lines(made.ladder(made.masks(mask="ramp:0.0625"))))


def test_nan_is_told_and_fails() -> None:
    told = lines(made.broken())
    assert told[0].startswith("FAIL ")
    assert "min_cosine NaN, at least 0.999" in row(told, "embeddings")
    assert not any("nan" in line for line in told)


def test_batches_and_worst_crops() -> None:
    stage = made.embeddings()
    assert isinstance(stage.figures, EmbeddingFigures)
    text = "\n".join(lines(made.ladder(stage)))
    for batch in stage.figures.batches:
        assert f"{batch.batch} ({batch.why})" in text
    assert f"{stage.figures.batches[0].min_cosine:.7f}" in text and stage.figures.worst[0][0] in text


@pytest.mark.parametrize(
    ("value", "limit", "text"),
    [
        (0.9871234, 0.999, "0.9871"),
        (0.99899999, 0.999, "0.99899999"),
        (0.99999997, 0.9999, "0.99999997"),
        (1.0, 0.9999, "1"),
        (3.0, 0.0, "3"),
        (float("nan"), 0.5, "NaN"),
        (float("inf"), 0.5, "infinity"),
    ],
)
def test_a_figure_is_told_apart_from_its_limit_and_from_one(value: float, limit: float, text: str) -> None:
    assert words.figure(value, limit) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 %"),
        (1.0, "100 %"),
        (0.648, "64.8 %"),
        (0.9997, "99.970 %"),
        (0.000123, "0.012 %"),
        (1e-9, "1.0e-07 %"),
    ],
)
def test_shares_do_not_round_to_none_or_all(value: float, text: str) -> None:
    assert words.share(value) == text


def test_shares_between_none_and_all_never_look_like_them() -> None:
    rng = np.random.default_rng(0)
    for value in 10.0 ** rng.uniform(-9, 0, 500):
        assert float(words.share(value).split()[0]) > 0
        assert float(words.share(1 - max(value, 1e-8)).split()[0]) < 100


def test_a_rung_without_figures_tells_its_gate() -> None:
    stage = Stage("ranking", None, (Check("agreement", 0.4, 0.99, True, "of 8 crops"),))
    told = lines(made.ladder(stage))
    assert "agreement 0.4, at least 0.99" in row(told, "ranking")
