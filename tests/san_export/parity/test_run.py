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
from san_export.parity import text
from san_export.parity.gates import GATES_OF, NAMES, Gates, make_gates
from san_export.parity.models import ModelPair, open_pair
from san_export.parity.result import (
    STAGES,
    BlockFlips,
    Check,
    LayerError,
    LayerFigures,
    MaskCost,
    MaskFigures,
    ParityRun,
    Stage,
)
from san_export.parity.run import gate_error, run_parity
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
    """What the stages of masks and layers give, without what they cost; a function is called instead."""
    given: dict[str, Any] = {
        "masks": MaskFigures("argmax", (block(5, 4.0),), ()),
        "layers": LayerFigures((), None, "", 8),
    }

    def giving(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            given[f"{name} of"] = arguments, named
            value = given[name]
            if isinstance(value, SanError):
                raise value
            return value

        return call

    stages = "san_export.parity.stages"
    monkeypatch.setattr(f"{stages}.masks.compare_masks", giving("masks"))
    monkeypatch.setattr(f"{stages}.layers.compare_layers", giving("layers"))
    return given


def parity(pair: ModelPair, sample: Sample, *asked: str) -> ParityRun:
    return run_parity(pair, sample, make_gates(pair.target.artefact, pair.reference.artefact.mask, asked))


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

    pair = open_pair(files.fp32, files.fp32)
    run = run_parity(
        pair, sample, make_gates(pair.target.artefact, "argmax"), report=lines.append, progress=bar
    )
    assert tuple(stage.name for stage in run.stages) == STAGES
    # A file that is held against itself is told before anything.
    assert lines.pop(0).startswith("REFERENCE AND TARGET ARE THE SAME FILE: ")
    assert [line.partition(":")[0] for line in lines] == list(STAGES)
    assert gate_error(run) is None and run.crops == 20
    assert all(stage.seconds > 0 for stage in run.stages)
    assert all(total == done for total, done in counted.values()) and len(counted) == 2


def test_the_worst_crops_are_looked_at(files: Files, sample: Sample, fakes: dict[str, Any]) -> None:
    pair = open_pair(files.fp32, files.fp32)
    bad = sample.images([11])[0]

    def rows(images: np.ndarray) -> np.ndarray:
        result = pair.reference.rows(images)
        result[(images == bad).all((1, 2, 3))] *= -1
        return result

    pair.target = replace(pair.target, rows=rows)
    run = parity(pair, sample)
    (_, _, images, names, cosine), _ = fakes["masks of"]
    assert names[0] == sample.names[11] and cosine[0] == pytest.approx(-1) and len(names) == 20
    assert np.array_equal(images[0], bad)
    (layered,) = fakes["layers of"][0][1].feeds.values()
    assert len(layered) == 8 and any(np.array_equal(image, bad) for image in layered)
    error = gate_error(run)
    assert isinstance(error, GateError) and "min_cosine -1 (at least " in error.message


def test_a_gate_that_was_asked_for_and_not_measured_fails(
    files: Files, sample: Sample, fakes: dict[str, Any]
) -> None:
    pair = open_pair(files.fp32, files.fp16)
    fakes["masks"] = MaskFigures(pair.target.artefact.mask, (), ())
    assert gate_error(parity(pair, sample)) is None
    assert gate_error(parity(pair, sample, "flipped=off")) is None
    lines: list[str] = []
    gates = make_gates(pair.target.artefact, "ramp:0.25", ["flipped=0.5"])
    run = run_parity(pair, sample, gates, report=lines.append)
    (check,) = run.failed
    assert check.gate == "flipped" and np.isnan(check.value) and "not measured" in check.message
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
    pair = {"file": "reference.onnx"}, {"file": "target.onnx"}
    error = gate_error(ParityRun(*pair, 10, "drawn", (Stage("embeddings", None, checks),)))
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
    pair = open_pair(files.checkpoint, files.fp32)
    gates = make_gates(pair.target.artefact, pair.reference.artefact.mask)
    run = run_parity(pair, sample, gates, report=told.append)
    assert made == ["exporting the reference's graph, to compare masks and layers"]
    assert all(stage.figures is not None and stage.seconds == 0 for stage in run.stages)
    assert fakes["layers of"][0][0].model is files.model


def test_a_graph_that_cannot_be_made_is_said_by_its_stages(
    files: Files, sample: Sample, fakes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def to_onnx(*arguments: Any, **named: Any) -> onnx.ModelProto:
        raise SanError("an operator is not allowed")

    monkeypatch.setattr("san_export.onnx_writer.to_onnx", to_onnx)
    run = parity(open_pair(files.checkpoint, files.fp32), sample)
    stage = next(stage for stage in run.stages if stage.name == "layers")
    assert stage.skipped == "not comparable here: an operator is not allowed" and not run.failed


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
    gates = Gates({"flipped": 0.05, "unexplained_flips": 3.0}, frozenset({"flipped", "unexplained_flips"}))
    run = run_parity(open_pair(files.fp32, files.fp32), sample, gates)
    assert {check.gate for check in run.failed} == failed


LAYER = LayerError("conv1", "Conv", "backbone.conv1", 0.5, 0.5, 1e-6)


def broken(pair: ModelPair) -> ModelPair:
    """A pair whose target's embeddings are wrong."""
    target = replace(pair.target, rows=lambda images: -pair.reference.rows(images))
    return replace(pair, target=target)


def test_what_is_found_inside_decides_only_where_the_embeddings_fail(
    files: Files, sample: Sample, fakes: dict[str, Any]
) -> None:
    fakes["layers"] = LayerFigures((LAYER,), LAYER, "the operator is Conv", 8)
    pair = open_pair(files.fp32, files.fp32)
    run = parity(pair, sample)
    stage = next(stage for stage in run.stages if stage.name == "layers")
    assert not run.failed and gate_error(run) is None
    assert [check.gate for check in stage.noted] == ["layers"] == run.as_dict()["noted"]
    # Where the user set the gate, it decides.
    (check,) = parity(pair, sample, "layers=0").failed
    assert check.gate == "layers" and "backbone.conv1" in check.message
    assert [check.gate for check in parity(pair, sample, "divergence=0").failed] == ["layers"]
    error = gate_error(parity(broken(pair), sample))
    assert error is not None and error.why.startswith("first at backbone.conv1, Conv conv1, error 5.0e-01")


def test_where_argmax_misses_its_gates_milder_masks_are_measured(
    files: Files, sample: Sample, fakes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And only there: the advice then carries their figures on these crops."""
    opened = open_pair(files.fp32, files.fp32)
    sides = (
        replace(side, artefact=replace(side.artefact, mask="argmax"))
        for side in (opened.reference, opened.target)
    )
    pair = ModelPair(*sides)
    fakes["masks"] = MaskFigures("argmax", (block(5, 4.0),), ())

    def masks(run: ParityRun) -> MaskFigures:
        figures = next(stage.figures for stage in run.stages if stage.name == "masks")
        assert isinstance(figures, MaskFigures)
        return figures

    assert masks(parity(pair, sample)).alternatives == ()
    run = parity(broken(pair), sample)
    costs = masks(run).alternatives
    assert [cost.mask for cost in costs] == ["argmax", "ramp:0.015625", "ramp:0.0625"]
    assert all(cost.crops == 20 and cost.min_cosine == pytest.approx(1.0) for cost in costs)
    # Nothing is gained by a ramp here, so none is recommended.
    assert "--mask" not in " ".join(text.lines(run))
    dear = tuple(
        MaskCost(mask, 20, least, 1.0)
        for mask, least in (("argmax", 0.93), ("ramp:0.015625", 0.9991), ("ramp:0.0625", 0.9994))
    )
    monkeypatch.setattr("san_export.parity.stages.milder_masks.measure_masks", lambda *given: dear)
    advice = " ".join(" ".join(text.lines(parity(broken(pair), sample))).split())
    assert "if that is rounding, export with --mask ramp:0.0625" in advice
    assert "on 20 crops of these least row cosine 0.9994000 where argmax has 0.9300000" in advice


def test_the_finding_is_what_explains_most(files: Files, sample: Sample, fakes: dict[str, Any]) -> None:
    """A mask that is another one, or missing, comes before any layer; what the file says of itself before all."""
    fakes["layers"] = LayerFigures((LAYER,), LAYER, "", 8)
    pair = broken(open_pair(files.fp32, files.fp32))
    fakes["masks"] = MaskFigures("ramp:0.25", (block(5, 4.0),), (), missing=("stage4",))
    error = gate_error(parity(pair, sample))
    assert (
        error is not None
        and error.why == "the target has other sharp masks: stage4 of the reference is missing"
    )
    other = replace(pair.reference, artefact=replace(pair.reference.artefact, mask="argmax"))
    error = gate_error(parity(replace(pair, reference=other), sample))
    assert error is not None and "the masks differ: argmax in the reference, ramp:0.25" in error.why
    stale = replace(other, artefact=replace(other.artefact, checkpoint_sha256="f" * 64))
    error = gate_error(parity(replace(pair, reference=stale), sample))
    assert error is not None and f"not {'f' * 12}" in error.why and "checkpoint: " in error.why


def test_graphs_that_cannot_be_compared_are_said_and_the_rest_goes_on(
    files: Files, sample: Sample, fakes: dict[str, Any]
) -> None:
    fakes["masks"] = SanError("other blocks")
    fakes["layers"] = SanError("other graphs")
    run = parity(open_pair(files.fp32, files.fp32), sample)
    skipped = {stage.name: stage.skipped for stage in run.stages if stage.skipped}
    assert skipped == {
        "masks": "not comparable here: other blocks",
        "layers": "not comparable here: other graphs",
    }
    assert not run.failed
    # What was asked for and not measured is no pass.
    (check,) = parity(open_pair(files.fp32, files.fp32), sample, "layers=0").failed
    assert check.gate == "layers" and "other graphs" in check.message


def test_an_engine_whose_graph_is_not_here_skips_what_needs_it(
    files: Files, sample: Sample, fakes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(self: ModelPair) -> None:
        raise SanError("the ONNX file is not beside it")

    monkeypatch.setattr(ModelPair, "target_graph", property(nothing))
    run = parity(open_pair(files.fp32, files.fp32), sample)
    skipped = {stage.name for stage in run.stages if stage.skipped}
    assert skipped == {"masks", "layers"} and not run.failed


def test_a_network_without_masks(sample: Sample, fakes: dict[str, Any], tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "tiny.onnx", size_hw=sample.size_hw)
    run = parity(open_pair(path, path), sample)
    assert "no sharp mask" in run.stages[4].skipped and "masks of" not in fakes
    assert not run.failed


def test_no_gate_at_all(files: Files, sample: Sample, fakes: dict[str, Any]) -> None:
    run = run_parity(open_pair(files.fp32, files.fp16), sample, Gates({}))
    assert gate_error(run) is None and not any(stage.checks for stage in run.stages)
