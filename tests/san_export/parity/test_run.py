from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from san_export.parity.gates import GATES_OF, NAMES, Gates, make_gates
from san_export.parity.models import Sides, open_sides
from san_export.parity.result import (
    STAGES,
    BlockFlips,
    Check,
    DivergenceFigures,
    Ladder,
    LayerError,
    MaskFigures,
    Stage,
)
from san_export.parity.run import run_ladder, verdict
from san_export.parity.sample import Sample, choose

from san_deploy.errors import GateError, SanError
from tests.san_export.parity.conftest import Files
from tests.tiny_models import tiny_model


@pytest.fixture(scope="module")
def sample(files: Files) -> Sample:
    return Sample(choose(files.crops), files.artefact.size_hw)


def block(flipped: int, predicted: float, bits: int = 100_000) -> BlockFlips:
    empty = np.zeros(0, np.int64)
    return BlockFlips(
        "stage1", 1, 1, 1, bits, flipped, predicted, 0, 0.0, 0.0, empty, (0.0, 0.0), empty, empty, (), ()
    )


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the rungs of masks and layers give, without what they cost; a function is called instead."""
    given: dict[str, Any] = {
        "masks": MaskFigures("argmax", (block(5, 4.0),), ()),
        "layers": DivergenceFigures((), None, "", 8),
        "certificates": (),
    }

    def giving(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            given[f"{name} of"] = arguments, named
            value = given[name]
            if isinstance(value, SanError):
                raise value
            return value

        return call

    package = "san_export.parity"
    monkeypatch.setattr(f"{package}.masks.compare_masks", giving("masks"))
    monkeypatch.setattr(f"{package}.divergence.find_divergence", giving("layers"))
    monkeypatch.setattr(f"{package}.certificate.certify", giving("certificates"))
    return given


def climb(sides: Sides, sample: Sample, *asked: str) -> Ladder:
    return run_ladder(sides, sample, make_gates(sides.target.artefact, sides.reference.artefact.mask, asked))


def test_every_rung_in_its_order_with_a_line_each(
    files: Files, sample: Sample, fakes: dict[str, Any]
) -> None:
    lines: list[str] = []
    counted: dict[str, list[int]] = {}

    @contextmanager
    def bar(total: int, label: str, unit: str) -> Iterator[Callable[[int], None]]:
        done: list[int] = []
        yield done.append
        counted[label] = [total, sum(done)]

    sides = open_sides(files.fp32, files.fp32)
    ladder = run_ladder(
        sides, sample, make_gates(sides.target.artefact, "argmax"), report=lines.append, progress=bar
    )
    assert tuple(stage.name for stage in ladder.stages) == STAGES
    # A file that is held against itself is told before anything.
    assert lines.pop(0).startswith("REFERENCE AND TARGET ARE THE SAME FILE: ")
    assert [line.partition(":")[0] for line in lines] == list(STAGES)
    assert verdict(ladder) is None and ladder.crops == 20
    assert all(stage.seconds > 0 for stage in ladder.stages)
    assert all(total == done for total, done in counted.values()) and len(counted) == 2


def test_the_worst_crops_are_looked_at(files: Files, sample: Sample, fakes: dict[str, Any]) -> None:
    sides = open_sides(files.fp32, files.fp32)
    bad = sample.images([11])[0]

    def rows(images: np.ndarray) -> np.ndarray:
        result = sides.reference.rows(images)
        result[(images == bad).all((1, 2, 3))] *= -1
        return result

    sides.target = replace(sides.target, rows=rows)
    ladder = climb(sides, sample)
    (_, _, images, names, cosine), _ = fakes["masks of"]
    assert names[0] == sample.names[11] and cosine[0] == pytest.approx(-1) and len(names) == 20
    assert np.array_equal(images[0], bad)
    layered = fakes["layers of"][0][2]
    assert len(layered) == 8 and any(np.array_equal(image, bad) for image in layered)
    error = verdict(ladder)
    assert isinstance(error, GateError) and "min_cosine -1 (at least " in error.message


def test_a_gate_that_was_asked_for_and_not_measured_fails(
    files: Files, sample: Sample, fakes: dict[str, Any]
) -> None:
    sides = open_sides(files.fp32, files.fp16)
    fakes["masks"] = MaskFigures(sides.target.artefact.mask, (), ())
    assert verdict(climb(sides, sample)) is None
    assert verdict(climb(sides, sample, "flipped=off")) is None
    lines: list[str] = []
    gates = make_gates(sides.target.artefact, "ramp:0.25", ["flipped=0.5"])
    ladder = run_ladder(sides, sample, gates, report=lines.append)
    (check,) = ladder.failed
    assert check.gate == "flipped" and np.isnan(check.value) and "not measured" in check.told
    assert any(line.startswith("masks: FAILED flipped") for line in lines)
    assert frozenset().union(*GATES_OF.values()) == set(NAMES) and list(GATES_OF) == list(STAGES)


@pytest.mark.parametrize(
    ("values", "at_least", "told"),
    [
        ((0.9, 0.5, 0.7), True, "0.5 (at least"),
        ((2.0, 9.0, 3.0), False, "9 (at most"),
        ((0.9, float("nan"), 0.1), True, "nan (at least"),
    ],
)
def test_the_worst_check_of_a_gate_is_named(values: tuple[float, ...], at_least: bool, told: str) -> None:
    checks = tuple(Check("mean_cosine", value, 0.99 if at_least else 1.0, at_least, "") for value in values)
    sides = {"file": "reference.onnx"}, {"file": "target.onnx"}
    error = verdict(Ladder(*sides, 10, "drawn", (Stage("embeddings", None, checks),)))
    assert isinstance(error, GateError)
    assert f"mean_cosine {told}" in error.message and error.message.count("mean_cosine") == 1


def test_a_checkpoints_graph_is_made_once_between_the_rungs(
    files: Files, sample: Sample, fakes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock that nothing but the export moves."""
    now, told = [0.0], list[str]()
    made: list[str] = []

    def to_onnx(*arguments: Any, **named: Any) -> onnx.ModelProto:
        now[0] += 100
        made.append(told[-1])
        return files.model

    monkeypatch.setattr("san_export.onnx_writer.to_onnx", to_onnx)
    monkeypatch.setattr("san_export.parity.run.time", SimpleNamespace(perf_counter=lambda: now[0]))
    sides = open_sides(files.checkpoint, files.fp32)
    gates = make_gates(sides.target.artefact, sides.reference.artefact.mask)
    ladder = run_ladder(sides, sample, gates, report=told.append)
    assert made == ["exporting the reference's graph, to compare masks and layers"]
    assert all(stage.figures is not None and stage.seconds == 0 for stage in ladder.stages)
    assert fakes["layers of"][0][0] is files.model


def test_a_graph_that_cannot_be_made_is_told_by_its_rungs(
    files: Files, sample: Sample, fakes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def to_onnx(*arguments: Any, **named: Any) -> onnx.ModelProto:
        raise SanError("an operator is not allowed")

    monkeypatch.setattr("san_export.onnx_writer.to_onnx", to_onnx)
    ladder = climb(open_sides(files.checkpoint, files.fp32), sample)
    (check,) = ladder.failed
    assert check.gate == "divergence" and "an operator is not allowed" in check.told
    assert any("No certificate: an operator is not allowed" in note for note in ladder.stages[3].notes)


@pytest.mark.parametrize(
    ("flipped", "predicted", "failed"),
    [
        (0, 0.0, set()),
        # A few where none is predicted are chance.
        (8, 0.5, set()),
        (900, 850.0, set()),
        (4000, 850.0, {"unexplained_flips"}),
        # A comparison that is the other way round.
        (90_000, 0.0, {"flipped", "unexplained_flips"}),
    ],
)
def test_flips_and_what_explains_them(
    files: Files, sample: Sample, fakes: dict[str, Any], flipped: int, predicted: float, failed: set[str]
) -> None:
    fakes["masks"] = MaskFigures("argmax", (block(0, 0.0), block(flipped, predicted)), ())
    ladder = climb(open_sides(files.fp32, files.fp32), sample, "flipped=0.05")
    assert {check.gate for check in ladder.failed} == failed


def test_a_layer_that_differs(files: Files, sample: Sample, fakes: dict[str, Any]) -> None:
    layer = LayerError("conv1", "Conv", "backbone.conv1", 0.5, 0.5, 1e-6)
    fakes["layers"] = DivergenceFigures((layer,), layer, "the channels are in the order BGR", 8)
    ladder = climb(open_sides(files.fp32, files.fp32), sample)
    (check,) = ladder.failed
    assert check.gate == "divergence" and "backbone.conv1: the channels are" in check.told
    assert "the channels are in the order BGR" in str(verdict(ladder)).lower() or "BGR" in str(
        verdict(ladder)
    )


def test_graphs_that_cannot_be_compared_fail_and_the_rest_goes_on(
    files: Files, sample: Sample, fakes: dict[str, Any]
) -> None:
    fakes["masks"] = SanError("other blocks")
    fakes["layers"] = SanError("other graphs")
    fakes["certificates"] = SanError("no bound")
    ladder = climb(open_sides(files.fp32, files.fp32), sample)
    assert not any(stage.skipped for stage in ladder.stages)
    told = {check.gate: check.told for check in ladder.failed}
    assert "other blocks" in told["flipped"] and "other graphs" in told["divergence"]
    assert verdict(ladder) is not None and ladder.stages[-1].figures is not None
    off = climb(open_sides(files.fp32, files.fp32), sample, "flipped=off", "divergence=off")
    skipped = {stage.name: stage.skipped for stage in off.stages if stage.skipped}
    assert skipped == {"masks": "other blocks", "divergence": "other graphs"} and not off.failed
    fakes["masks"] = MaskFigures("argmax", (block(0, 0.0),), ())
    masks = climb(open_sides(files.fp32, files.fp32), sample).stages[3]
    assert not masks.skipped and any("No certificate: no bound" in note for note in masks.notes)


def test_an_engine_whose_graph_is_not_here_skips_what_needs_it(
    files: Files, sample: Sample, fakes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(self: Sides) -> None:
        raise SanError("the ONNX file is not beside it")

    monkeypatch.setattr(Sides, "target_graph", property(nothing))
    ladder = climb(open_sides(files.fp32, files.fp32), sample)
    skipped = {stage.name for stage in ladder.stages if stage.skipped}
    assert skipped == {"masks", "divergence"} and not ladder.failed


def test_a_network_without_masks(sample: Sample, fakes: dict[str, Any], tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "tiny.onnx", size_hw=sample.size_hw)
    ladder = climb(open_sides(path, path), sample)
    assert "no sharp mask" in ladder.stages[3].skipped and "masks of" not in fakes
    assert not ladder.failed


def test_no_gate_at_all(files: Files, sample: Sample, fakes: dict[str, Any]) -> None:
    ladder = run_ladder(open_sides(files.fp32, files.fp16), sample, Gates({}))
    assert verdict(ladder) is None and not any(stage.checks for stage in ladder.stages)
