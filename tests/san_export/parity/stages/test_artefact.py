from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import onnx
import pytest
from san_export.parity.gates import make_gates
from san_export.parity.models import ModelPair, ParityModel, open_pair
from san_export.parity.result import ArtefactFigures, Stage
from san_export.parity.stages.artefact import check_artefact

from san_deploy.artefact import Engine, PrecisionStats, sidecar_path
from tests.san_export.parity.conftest import Files


def look(reference: Path, target: Path) -> Stage:
    pair = open_pair(reference, target)
    return check_artefact(pair, make_gates(pair.target.artefact, pair.reference.artefact.mask))


def wrong(stage: Stage) -> set[str]:
    assert isinstance(stage.figures, ArtefactFigures)
    return {name for name, _, _, agrees in stage.figures.facts if not agrees}


def test_good_files_agree(files: Files) -> None:
    for reference, target in (
        (files.checkpoint, files.fp32),
        (files.checkpoint, files.fp16),
        (files.fp32, files.fp16),
    ):
        stage = look(reference, target)
        assert not wrong(stage) and stage.passed
        assert isinstance(stage.figures, ArtefactFigures)
        names = {name for name, *_ in stage.figures.facts}
        assert {"precision", "operands", "input", "output", "SHA-256", "checkpoint", "mask"} <= names


@pytest.mark.parametrize(
    ("told", "fact"),
    [
        # An FP32 file that says that it is FP16: what was asked for was not built.
        ({"precision": "fp16"}, "precision"),
        ({"operands": PrecisionStats(10, 0.0, 1.0, 0.0)}, "operands"),
        ({"checkpoint_sha256": "f" * 64}, "checkpoint"),
        ({"input": "float"}, "input"),
        ({"mean_rgb": (0.5, 0.5, 0.5)}, "mean_rgb"),
        ({"std_rgb": (0.5, 0.5, 0.5)}, "std_rgb"),
        ({"resize": "opencv-linear"}, "resize"),
        ({"settings": {"depth": 50}}, "settings"),
    ],
)
def test_what_is_not_so(files: Files, tmp_path: Path, told: dict[str, Any], fact: str) -> None:
    stage = look(files.fp32, files.write(tmp_path / "target.onnx", files.model, **told))
    assert wrong(stage) == {fact} and not stage.passed
    (check,) = stage.checks
    assert check.gate == "artefact" and check.value == 1 and fact in check.message


def test_another_mask_is_no_failure(files: Files, tmp_path: Path) -> None:
    stage = look(files.fp32, files.write(tmp_path / "target.onnx", files.model, mask="argmax"))
    assert stage.passed and any("THE MASKS DIFFER" in note for note in stage.notes)


def test_a_sidecar_of_another_file(files: Files, tmp_path: Path) -> None:
    target = files.write(tmp_path / "target.onnx", files.model)
    model = onnx.load(str(target))
    model.graph.name = "other"
    onnx.save(model, str(target))
    assert wrong(look(files.fp32, target)) == {"SHA-256"}
    sidecar_path(target).write_text("{}")
    assert wrong(look(files.fp32, target)) == {"target.onnx.json"}
    sidecar_path(target).unlink()
    assert not wrong(look(files.fp32, target))


def test_a_fixed_batch_is_no_false_statement(files: Files, tmp_path: Path) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(files.model)
    for item in (*model.graph.input, *model.graph.output):
        item.type.tensor_type.shape.dim[0].dim_value = 4
    del model.graph.value_info[:]
    target = files.write(tmp_path / "target.onnx", model)
    assert not wrong(look(files.fp32, target))
    assert open_pair(files.fp32, target).target.fixed


def test_an_engine_by_what_was_counted_when_it_was_built(files: Files) -> None:
    engine = Engine("tensorrt", "10", "", "", ("sm86",), (1, 8, 16), "0" * 64, False, "none", False, "")
    opened = open_pair(files.fp32, files.fp32)
    for operands, precision, expected in (
        (PrecisionStats(20, 0.0, 1.0, 0.0, "engine"), "fp16", set()),
        # It was asked for FP16, and TensorRT built FP32.
        (PrecisionStats(20, 1.0, 0.0, 0.0, "engine"), "fp16", {"precision"}),
        (None, "fp16", {"precision"}),
    ):
        artefact = dataclasses.replace(
            opened.target.artefact, engine=engine, operands=operands, precision=precision
        )
        side = ParityModel(Path("none.engine"), artefact, "made", opened.target.rows)
        assert (
            wrong(check_artefact(ModelPair(opened.reference, side), make_gates(artefact, "none"))) == expected
        )
