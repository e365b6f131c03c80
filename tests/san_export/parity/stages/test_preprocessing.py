from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from san_export.parity.gates import make_gates
from san_export.parity.models import ModelPair, open_pair
from san_export.parity.result import PreprocessingFigures, Stage
from san_export.parity.sample import Sample, choose
from san_export.parity.stages.preprocessing import compare_preprocessing, graph_input
from san_export.precision.emulate_fp16 import emulate_fp16
from san_export.precision.fp16 import to_fp16
from san_export.precision.int8 import quantise
from san_export.verify import CheckCrops
from san_train.data import normalise

from san_deploy.preprocess import MEAN_RGB, STD_RGB
from tests.san_export.parity import faults
from tests.san_export.parity.conftest import Files, wrong_mean
from tests.tiny_models import tiny_model


@pytest.fixture(scope="module")
def sample(files: Files) -> Sample:
    return Sample(choose(files.crops), files.artefact.size_hw)


def compare(pair: ModelPair, sample: Sample) -> Stage:
    return compare_preprocessing(pair, sample, make_gates(pair.target.artefact, pair.reference.artefact.mask))


def figures(stage: Stage) -> PreprocessingFigures:
    assert isinstance(stage.figures, PreprocessingFigures)
    return stage.figures


def test_training_and_graph_are_equal_to_the_bit(files: Files, sample: Sample) -> None:
    got = figures(compare(open_pair(files.checkpoint, files.fp32), sample))
    assert got == PreprocessingFigures(20, 0, 0.0, 1.0, "")


def test_every_form_sees_the_normalised_crop(
    files: Files,
    sample: Sample,
    crops: CheckCrops,
    expected_model: onnx.ModelProto,
    argmax_model: onnx.ModelProto,
) -> None:
    """uint8 and float input, quantised for TensorRT and for the CPU, which moves the channels."""
    images = sample.images(range(20))
    rgb = images[..., ::-1].transpose(0, 3, 1, 2) / 255
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (MEAN_RGB, STD_RGB))
    bits = normalise(images, torch.device("cpu")).numpy()
    np.testing.assert_allclose(bits, (rgb - mean) / std, atol=1e-6)
    forms = {
        "uint8": (argmax_model, "uint8"),
        "float": (expected_model, "float"),
        "tensorrt": (quantise(argmax_model, crops.images, form="tensorrt"), "uint8"),
        "cpu": (quantise(argmax_model, crops.images, form="cpu"), "uint8"),
    }
    for name in ("tensorrt", "cpu"):
        forms[f"{name}, the rest in FP16"] = (emulate_fp16(to_fp16(forms[name][0])), "uint8")
    for name, (model, form) in forms.items():
        seen = graph_input(model, dataclasses.replace(files.artefact, input=form))
        assert seen is not None
        if "FP16" in name:
            np.testing.assert_allclose(seen(images), bits, atol=2**-10)
        else:
            assert np.array_equal(seen(images), bits), name


def test_half_of_a_step_of_fp16(files: Files, sample: Sample) -> None:
    stage = compare(open_pair(files.fp32, files.fp16), sample)
    assert stage.passed and 0 < figures(stage).input_max_abs <= 2**-10
    assert figures(stage).pixels_differ == 0


def test_a_wrong_mean_is_found(files: Files, sample: Sample, tmp_path: Path) -> None:
    target = files.write(tmp_path / "broken.onnx", wrong_mean(files.model))
    stage = compare(open_pair(files.checkpoint, target), sample)
    # Half of the largest mean, in units of its deviation.
    assert figures(stage).input_max_abs == pytest.approx(max(np.divide(MEAN_RGB, STD_RGB)) / 2, rel=1e-5)
    assert not stage.passed and figures(stage).worst in sample.names and figures(stage).input_equal == 0


def test_swapped_channels_are_named(files: Files, sample: Sample, tmp_path: Path) -> None:
    """The graph turns the channels round, but not the convolution's weights."""
    model = onnx.ModelProto()
    model.CopyFrom(files.model)
    place = next(i for i, node in enumerate(model.graph.node) if node.op_type == "Conv")
    first = model.graph.node[place].input[0]
    model.graph.node[place].input[0] = "turned"
    index = onnx.numpy_helper.from_array(np.array([2, 1, 0]), "turn")
    model.graph.initializer.append(index)
    model.graph.node.insert(place, onnx.helper.make_node("Gather", [first, "turn"], ["turned"], axis=1))
    target = files.write(tmp_path / "broken.onnx", model)
    stage = compare(open_pair(files.fp32, target), sample)
    assert not stage.passed and any("red and blue are swapped" in note for note in stage.notes)


def test_pixels_that_training_decodes_otherwise(
    files: Files, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resize that is not the runtime's."""

    def other(image: np.ndarray, size_hw: tuple[int, int], resize: str) -> np.ndarray:
        height, width = size_hw
        return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST)) // 2

    monkeypatch.setattr("san_export.parity.stages.preprocessing.resize_crop", other)
    stage = compare(open_pair(files.fp32, files.fp32), sample)
    assert figures(stage).pixels_differ > 0 and not stage.passed


def test_a_network_without_a_convolution(sample: Sample, tmp_path: Path) -> None:
    height, width = sample.size_hw
    path = tiny_model(tmp_path / "tiny.onnx", size_hw=(height, width))
    stage = compare(open_pair(path, path), sample)
    assert stage.passed and figures(stage).input_equal == 1
    assert any("not seen" in note for note in stage.notes)


def test_a_scale_that_went_into_the_weights_is_no_difference(
    files: Files, sample: Sample, tmp_path: Path
) -> None:
    """As onnxsim folds it; weights that took in another scale are a difference."""
    folded = faults.scale_folded(files.model)
    stage = compare(open_pair(files.fp32, files.write(tmp_path / "folded.onnx", folded)), sample)
    assert figures(stage).input_max_abs > 1 and not stage.checks
    assert any("normalises in another place" in note for note in stage.notes)
    wrong = faults.scale_folded(faults.standard_deviation(files.model))
    stage = compare(open_pair(files.fp32, files.write(tmp_path / "wrong.onnx", wrong)), sample)
    assert [check.gate for check in stage.checks if not check.passed] == ["preprocess_equal"]
