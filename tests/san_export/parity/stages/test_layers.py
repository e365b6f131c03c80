"""Faults put into real exports: each is found at its layer, in every precision; sound exports are not accused."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from san_export.graph.graph import view
from san_export.onnx_writer import to_onnx
from san_export.parity.result import LayerFigures
from san_export.parity.stages import layers as module
from san_export.parity.stages.layers import GraphRun, compare_layers, pair_layers
from san_export.precision.emulate_fp16 import emulate_fp16
from san_export.precision.fp16 import to_fp16
from san_export.precision.int8 import quantise
from san_export.verify import CheckCrops
from san_export.wrapper import OnnxWrapper
from san_train.models import SharpAttentionNetwork

from san_deploy.artefact import Artefact
from san_deploy.errors import SanError
from tests.san_export.parity import faults
from tests.settled import SIZE_HW
from tests.tiny_models import tiny_artefact

_WEIGHT = "network.backbone.layer2.1.conv1.weight"
Change = Callable[[onnx.ModelProto], onnx.ModelProto]


def artefact(model: onnx.ModelProto) -> Artefact:
    integer = model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    return tiny_artefact(size_hw=SIZE_HW, input="uint8" if integer else "float")


def compare(
    reference: onnx.ModelProto,
    target: onnx.ModelProto,
    crops: CheckCrops,
    count: int = 4,
    *,
    same_masks: bool = True,
) -> LayerFigures:
    one, two = (GraphRun.of(model, artefact(model), crops.images[:count]) for model in (reference, target))
    return compare_layers(one, two, same_masks=same_masks)


@pytest.fixture(scope="module")
def lower(crops: CheckCrops) -> dict[str, Change]:
    """What brings a graph to each precision."""
    return {
        "fp32": lambda model: model,
        "fp16": lambda model: emulate_fp16(to_fp16(model)),
        "tensorrt": lambda model: quantise(model, crops.images[:8], form="tensorrt"),
        "cpu": lambda model: quantise(model, crops.images[:8], form="cpu"),
    }


@pytest.fixture(scope="module")
def other_epsilon(network: SharpAttentionNetwork) -> onnx.ModelProto:
    """The same network, folded with 1e-3 in place of 1e-5."""
    other = copy.deepcopy(network)
    for layer in other.modules():
        if isinstance(layer, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
            layer.eps = 1e-3
    return to_onnx(OnnxWrapper(other, mask="argmax"), SIZE_HW)


@pytest.fixture(scope="module")
def float_model(network: SharpAttentionNetwork) -> onnx.ModelProto:
    """Deconvolution, argmax, float."""
    return to_onnx(OnnxWrapper(network, mask="argmax", input_form="float"), SIZE_HW)


PRECISIONS = ("fp32", "fp16", "tensorrt", "cpu")
#: For faults: the two forms of INT8 differ in what the form `cpu` does to the graph.
FAULTY = ("fp32", "fp16", pytest.param("tensorrt", marks=pytest.mark.slow), "cpu")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["argmax_model", "expected_model", "ramp_model"])
def test_a_sound_export_is_not_accused(
    name: str, precision: str, lower: dict[str, Change], crops: CheckCrops, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(name)
    figures = compare(model, lower[precision](model), crops)
    assert figures.first is None and figures.detail == "" and figures.crops == 4
    assert len(figures.layers) >= len(model.graph.node) - 4
    # Half of what is allowed is left.
    assert all(layer.local <= layer.allowed / 2 for layer in figures.layers if layer.allowed)
    assert all(np.isfinite(layer.carried) for layer in figures.layers)
    if precision != "fp32":
        # Bits flip, and are carried on: that is no fault of the layers behind.
        assert (
            max(layer.carried for layer in figures.layers) > max(layer.local for layer in figures.layers) / 2
        )


def test_typed_fp16_and_int8_with_the_rest_in_fp16(argmax_model: onnx.ModelProto, crops: CheckCrops) -> None:
    assert compare(argmax_model, to_fp16(argmax_model), crops).first is None
    mixed = to_fp16(quantise(argmax_model, crops.images, form="tensorrt"))
    assert compare(argmax_model, emulate_fp16(mixed), crops).first is None


def test_other_input_forms_are_no_difference(
    argmax_model: onnx.ModelProto, float_model: onnx.ModelProto, lower: dict[str, Change], crops: CheckCrops
) -> None:
    assert compare(argmax_model, float_model, crops).first is None
    assert compare(float_model, lower["fp16"](argmax_model), crops).first is None
    assert compare(argmax_model, lower["tensorrt"](float_model), crops).first is None


@pytest.mark.parametrize("precision", FAULTY)
@pytest.mark.parametrize(
    ("change", "name"),
    [
        (faults.normalisation, "SUB|MUL"),
        (faults.standard_deviation, "MUL"),
        (faults.colours_of_weights, "getitem"),
        (faults.colours_of_pixels, "_to_copy"),
        (faults.without_norm, "embedding"),
    ],
)
def test_faults_at_the_ends(
    change: Change,
    name: str,
    precision: str,
    argmax_model: onnx.ModelProto,
    lower: dict[str, Change],
    crops: CheckCrops,
) -> None:
    figures = compare(argmax_model, lower[precision](change(argmax_model)), crops)
    sub, mul = faults.normalised(argmax_model)
    names = [{"SUB": sub, "MUL": mul}.get(one, one) for one in name.split("|")]
    assert figures.first is not None and figures.first.name in names


def test_another_epsilon(
    argmax_model: onnx.ModelProto, other_epsilon: onnx.ModelProto, lower: dict[str, Change], crops: CheckCrops
) -> None:
    """No cause is named: one channel that was scaled looks the same."""
    figures = compare(argmax_model, other_epsilon, crops)
    assert figures.first is not None and figures.first.module == "backbone.conv1"
    assert figures.detail == ""
    # In FP16 rounding hides it in the first layers, and it is found at one where it is larger.
    assert compare(argmax_model, lower["fp16"](other_epsilon), crops).first is not None


@pytest.mark.parametrize("precision", FAULTY)
@pytest.mark.parametrize("fault", ["less", "exchanged", "inverted"])
def test_flipped_masks(
    fault: str, precision: str, argmax_model: onnx.ModelProto, lower: dict[str, Change], crops: CheckCrops
) -> None:
    mask = faults.nodes(argmax_model, "Greater")[1].output[0]
    (cast,) = (node.output[0] for node in argmax_model.graph.node if node.input[0] == mask)
    changes: dict[str, Change] = {
        "less": lambda model: faults.with_operator(model, mask, "Less"),
        "exchanged": lambda model: faults.exchanged(model, mask),
        "inverted": lambda model: faults.inverted(model, cast),
    }
    figures = compare(argmax_model, lower[precision](changes[fault](argmax_model)), crops)
    assert figures.first is not None
    assert figures.first.name.removesuffix(".fp16") == (cast if fault == "inverted" else mask)
    assert figures.first.local > 0.9
    if fault == "less":
        assert figures.detail == "the operator is Less, the reference's is Greater"


def test_another_threshold(argmax_model: onnx.ModelProto, crops: CheckCrops) -> None:
    mask = faults.nodes(argmax_model, "Greater")[1].output[0]
    middle = faults.node_of(argmax_model, mask).input[1]
    target = faults.copy(argmax_model)
    target.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0.495), "lower"))
    faults.node_of(target, middle).input[1] = "lower"
    figures = compare(argmax_model, target, crops)
    assert figures.first is not None and figures.first.name == middle


@pytest.mark.parametrize("precision", FAULTY)
def test_one_weight_in_the_middle(
    precision: str, argmax_model: onnx.ModelProto, lower: dict[str, Change], crops: CheckCrops
) -> None:
    figures = compare(argmax_model, lower[precision](faults.one_value(argmax_model, _WEIGHT, 3.0)), crops)
    assert figures.first is not None and figures.first.module == "backbone.layer2.1.conv1"
    assert figures.first.operator == "Conv"
    # What follows is given the reference's values, and is not accused.
    assert [layer.name for layer in figures.layers if layer.differs] == [figures.first.name]


def test_weights_that_grew(
    argmax_model: onnx.ModelProto, lower: dict[str, Change], crops: CheckCrops
) -> None:
    grown = faults.with_weight(argmax_model, _WEIGHT, faults.weight(argmax_model, _WEIGHT) * 1.02)
    for precision in ("fp32", "fp16"):
        figures = compare(argmax_model, lower[precision](grown), crops)
        assert figures.first is not None and figures.first.module == "backbone.layer2.1.conv1"
        assert figures.first.local == pytest.approx(0.02, rel=0.2)


def test_a_nan_among_the_weights(argmax_model: onnx.ModelProto, crops: CheckCrops) -> None:
    figures = compare(argmax_model, faults.one_value(argmax_model, _WEIGHT, np.nan), crops)
    assert figures.first is not None and figures.first.module == "backbone.layer2.1.conv1"
    assert np.isnan(figures.first.local) and np.isnan(figures.layers[-1].carried)
    assert "not finite" in figures.detail


@pytest.mark.parametrize("precision", ["fp32", "tensorrt"])
def test_padding_on_the_other_side(
    precision: str, argmax_model: onnx.ModelProto, lower: dict[str, Change], crops: CheckCrops
) -> None:
    value = next(
        node.output[0]
        for node in faults.nodes(argmax_model, "Conv")
        if node.input[1] == "network.backbone.layer2.0.conv2.weight"
    )
    target = lower[precision](faults.with_attribute(argmax_model, value, "pads", [0, 0, 2, 2]))
    figures = compare(argmax_model, target, crops)
    assert figures.first is not None and figures.first.name == value
    assert figures.detail == "pads is [0, 0, 2, 2], the reference's is [1, 1, 1, 1]"


def test_a_stride_in_the_wrong_place(argmax_model: onnx.ModelProto, crops: CheckCrops) -> None:
    """The first convolution leaves the stride to the pooling behind it: all later shapes are right."""
    first, pool = (faults.nodes(argmax_model, kind)[0].output[0] for kind in ("Conv", "MaxPool"))
    target = faults.with_attribute(argmax_model, first, "strides", [1, 1])
    target = faults.with_attribute(target, pool, "strides", [4, 4])
    figures = compare(argmax_model, target, crops)
    assert figures.first is not None and figures.first.name == first and np.isinf(figures.first.local)
    assert "strides is [1, 1], the reference's is [2, 2]" in figures.detail and "shape" in figures.detail


def test_another_operator(argmax_model: onnx.ModelProto, lower: dict[str, Change], crops: CheckCrops) -> None:
    relu = faults.nodes(argmax_model, "Relu")[8].output[0]
    for precision in ("fp32", "fp16", "cpu"):
        target = lower[precision](faults.with_operator(argmax_model, relu, "LeakyRelu"))
        figures = compare(argmax_model, target, crops)
        assert figures.first is not None and figures.first.operator == "LeakyRelu"
        assert figures.detail == "the operator is LeakyRelu, the reference's is Relu"


def test_a_scale_of_int8_that_is_a_quarter_of_what_it_should_be(
    argmax_model: onnx.ModelProto, lower: dict[str, Change], crops: CheckCrops
) -> None:
    sound = lower["tensorrt"](argmax_model)
    wide = faults.nodes(argmax_model, "Relu")[9].output[0]
    scale = next(n.input[1] for n in sound.graph.node if n.op_type == "QuantizeLinear" and wide in n.input[0])
    figures = compare(argmax_model, faults.with_weight(sound, scale, faults.weight(sound, scale) / 4), crops)
    assert figures.first is not None and figures.first.module == "backbone.layer2.1.conv2"


def test_layers_that_draw_other_masks_are_left_out(
    argmax_model: onnx.ModelProto, ramp_model: onnx.ModelProto, crops: CheckCrops
) -> None:
    """Exporters number their values: the same name may be another value, and no layer is to blame."""
    figures = compare(argmax_model, ramp_model, crops, same_masks=False)
    named = {layer.module for layer in figures.layers if layer.module}
    assert {"backbone.conv1", "backbone.layer1.0.conv1"} <= named
    assert figures.first is None


def test_a_name_counts_where_the_values_behind_it_have_the_same(argmax_model: onnx.ModelProto) -> None:
    one, two = (node.output[0] for node in faults.nodes(argmax_model, "Relu")[3:5])
    graph = view(argmax_model)
    pairs = pair_layers(graph, view(faults.with_names_exchanged(argmax_model, one, two)))
    assert {one, two} & set(pairs) != {one, two}
    whole = pair_layers(graph, graph)
    assert whole == {name: name for name in graph.producer if name not in graph.constants and name in whole}
    assert len(whole) > 100 and list(whole) == sorted(whole, key=lambda name: graph.producer[name])


def test_pieces_say_the_same_as_the_whole(
    argmax_model: onnx.ModelProto,
    lower: dict[str, Change],
    crops: CheckCrops,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = lower["fp16"](faults.one_value(argmax_model, _WEIGHT, 0.0))
    whole = compare(argmax_model, target, crops, 2)
    monkeypatch.setattr(module, "_PIECE_BYTES", 100_000)
    cut = compare(argmax_model, target, crops, 2)
    assert [layer.name for layer in cut.layers] == [layer.name for layer in whole.layers]
    for a, b in zip(cut.layers, whole.layers, strict=True):
        assert a.local == pytest.approx(b.local, rel=1e-4, abs=1e-7)
        assert a.carried == pytest.approx(b.carried, rel=1e-4, abs=1e-7)
    assert (cut.first and cut.first.name) == (whole.first and whole.first.name)


def test_bad_input_is_one_line(argmax_model: onnx.ModelProto, crops: CheckCrops) -> None:
    with pytest.raises(SanError, match="no crop to compare"):
        compare(argmax_model, argmax_model, crops, 0)
    small = CheckCrops(crops.images[:, :32], crops.names, crops.source)
    with pytest.raises(SanError, match="the model takes crops of"):
        compare(argmax_model, argmax_model, small)
