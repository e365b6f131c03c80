"""The table: the verdict first, at most 100 columns, no figure that says less than it knows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from san_export.parity import text as words
from san_export.parity.result import (
    STAGES,
    Check,
    EmbeddingFigures,
    MaskFigures,
    ParityRun,
    Stage,
)
from san_export.parity.text import WIDTH, lines

from tests.san_export.parity import made

ODD = "cam1/\x1b[31m\n\udcff" + "a" * 300 + ".jpg"


def row(told: list[str], name: str) -> str:
    """A stage's line."""
    return next(line for line in told if line.startswith(name))


@pytest.mark.parametrize(
    "run",
    [
        made.run(),
        made.failing(),
        made.broken(),
        made.all_skipped(),
        made.with_names([ODD] * 4),
        made.run(made.layers(200, first=7), made.masks(names=["x" * 90] * 16)),
        made.run(made.masks(names=[]), made.layers(0), made.embeddings(crops=1, outliers=0), crops=1),
        made.run(made.embeddings(crops=10**5, outliers=9)),
    ],
)
def test_lines_fit_and_can_be_printed(run: ParityRun) -> None:
    told = lines(run)
    assert max(map(len, told)) <= WIDTH
    assert all(line.isprintable() and line == line.rstrip() for line in told)
    for name in STAGES:
        assert sum(line.startswith(f"{name} ") for line in told) == 1


def test_two_lines_are_enough() -> None:
    told = lines(made.failing())
    assert told[0].startswith("FAIL ") and told[0].endswith(": 5 of 10 gates missed")
    assert "starter-fp16.onnx differs from starter.onnx" in told[0]
    assert told[1].strip() == "missed: artefact, min_cosine, rank1_drop, flipped, layers"
    told = lines(made.run(made.ranking(drop=0.62)))
    assert told[1].strip() == "missed: rank1_drop 0.62, at most 0.1"
    told = lines(made.run(made.skipped("ranking", "too few crops")))
    assert told[0].startswith("PASS ") and told[0].endswith("starter.onnx: 8 gates held")
    assert told[1].strip() == "not run: ranking"
    assert lines(made.all_skipped())[0].startswith("NO GATE ")


def test_the_verdict_survives_long_names() -> None:
    told = lines(made.with_names(["a" * 200 + ".onnx", *[ODD] * 3]))
    assert told[0].startswith("FAIL ") and told[0].endswith(" gates missed")


def test_equal_file_names_are_told_with_their_folders() -> None:
    run = made.run()
    assert words.names(run) == ("starter-fp16.onnx", "starter.onnx")
    run = replace(run, target={"file": "b/model.onnx"}, reference={"file": "a/model.onnx"})
    assert "b/model.onnx agrees with a/model.onnx" in lines(run)[0]
    assert words.names(replace(run, target={}, reference={})) == ("the target", "the reference")


def test_each_rung_says_what_decided() -> None:
    told = lines(made.failing())
    assert "PASS" in row(told, "preprocessing")
    assert "FAIL     min_cosine 0.99" in row(told, "embeddings")
    assert "FAIL     flipped 0.00" in row(told, "masks")
    assert "FAIL     rank1_drop 0.62, at most 0.1" in row(told, "ranking")
    assert any("first at backbone.layer3.1.conv2, Relu /Relu_31_output_0: error" in line for line in told)
    assert any("the operator is Less, the reference's is Greater" in line for line in told)
    assert any("rank-1 89.50 -> 88.88 %, mAP 73.60 -> 72.98 %" in line for line in told)
    told = lines(made.run(made.skipped("masks", "no sharp block in the network")))
    assert "skipped  no sharp block in the network" in row(told, "masks")


def test_every_miss_is_told_with_what_to_do() -> None:
    run = made.failing()
    told = lines(run)
    end = told[told.index("", 4) + 1 :]
    assert [line.split()[1] for line in end if line.startswith("missed")] == [
        check.gate for check in run.failed
    ]
    assert sum(line.startswith("do ") for line in end) == 5
    assert any("--gate NAME=VALUE" in line for line in end)
    assert not any(line.startswith(("missed", "do ")) for line in lines(made.run()))


def test_blocks_have_their_flips() -> None:
    stage = made.masks()
    figures = stage.figures
    assert isinstance(figures, MaskFigures)
    told = lines(made.run(stage))
    for block in figures.blocks:
        cells = next(line for line in told if line.split()[:1] == [block.name] and " x " in line)
        for value in (block.flipped, block.predicted, block.own):
            assert words.share(value / block.bits) in cells
        assert f"{block.rounding:.1e}" in cells
    # A soft mask has its mean difference in place of predicted flips.
    assert any("mean |dM|" in line for line in lines(made.run(made.masks(mask="ramp:0.0625"))))


def test_nan_is_told_and_fails() -> None:
    told = lines(made.broken())
    assert told[0].startswith("FAIL ")
    assert "min_cosine NaN, at least 0.999" in row(told, "embeddings")
    assert not any("nan" in line for line in told)


def test_batches_and_worst_crops() -> None:
    stage = made.embeddings()
    assert isinstance(stage.figures, EmbeddingFigures)
    text = "\n".join(lines(made.run(stage)))
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
    told = lines(made.run(stage))
    assert "agreement 0.4, at least 0.99" in row(told, "ranking")


def models(mask: str, precision: str) -> ParityRun:
    """A run of models with one mask."""
    return replace(made.run(), target={"mask": mask, "precision": precision}, reference={"mask": mask})


@pytest.mark.parametrize(
    ("mask", "precision", "told", "not_told"),
    [
        ("argmax", "FP16", ["--mask ramp:0.0625", "or in a higher precision"], ["--calib", "wider"]),
        ("argmax", "FP32", ["export with --mask ramp:0.0625"], ["--calib", "higher precision"]),
        ("ramp:0.0625", "FP16", ["wider ramp, such as --mask ramp:0.125"], ["--calib"]),
        ("ramp:0.75", "INT8", ["--mask ramp:1,", "--calib DIR", "higher precision"], []),
        ("ramp:1", "FP16", ["export in a higher precision"], ["--mask"]),
        ("expected", "INT8", ["--calib DIR", "or in a higher precision"], ["--mask"]),
        ("none", "FP16", ["export in a higher precision"], ["--mask"]),
        ("soft", "INT8", ["--calib DIR"], ["--mask"]),
        # Nothing rounds less.
        ("expected", "FP32", ["the finding"], ["export", "--mask"]),
        ("", "", ["higher precision"], ["--mask"]),
    ],
)
@pytest.mark.parametrize("stage", ["embeddings", "masks", "ranking"])
def test_what_helps_goes_by_the_mask_and_the_precision(
    stage: str, mask: str, precision: str, told: list[str], not_told: list[str]
) -> None:
    text = words.remedy(Stage(stage, None), models(mask, precision))
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
