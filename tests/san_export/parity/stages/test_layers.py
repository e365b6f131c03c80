"""Faults put into real exports: each is named where it is, in every precision; sound exports are not accused."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from san_export.onnx_writer import to_onnx
from san_export.parity.result import DivergenceFigures
from san_export.parity.stages import layers as divergence
from san_export.parity.stages.layers import find_divergence
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
_UP = "network.attention.stage2.context.up.weight"
Change = Callable[[onnx.ModelProto], onnx.ModelProto]


def artefact(model: onnx.ModelProto) -> Artefact:
    integer = model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    return tiny_artefact(size_hw=SIZE_HW, input="uint8" if integer else "float")


def diverge(
    reference: onnx.ModelProto, target: onnx.ModelProto, crops: CheckCrops, count: int = 4
) -> DivergenceFigures:
    return find_divergence(
        reference,
        target,
        crops.images[:count],
        reference_artefact=artefact(reference),
        target_artefact=artefact(target),
    )


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
    for module in other.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
            module.eps = 1e-3
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
    figures = diverge(model, lower[precision](model), crops)
    assert figures.first is None and figures.told == "" and figures.crops == 4
    assert len(figures.layers) >= len(model.graph.node) - 4
    # Half of what is allowed is left.
    assert all(layer.local <= layer.allowed / 2 for layer in figures.layers if layer.allowed)
    assert all(layer.weights <= 1 and np.isfinite(layer.carried) for layer in figures.layers)
    if precision != "fp32":
        # Bits flip, and are carried on: that is no fault of the layers behind.
        assert (
            max(layer.carried for layer in figures.layers) > max(layer.local for layer in figures.layers) / 2
        )


def test_typed_fp16_and_int8_with_the_rest_in_fp16(argmax_model: onnx.ModelProto, crops: CheckCrops) -> None:
    assert diverge(argmax_model, to_fp16(argmax_model), crops).first is None
    mixed = to_fp16(quantise(argmax_model, crops.images, form="tensorrt"))
    assert diverge(argmax_model, emulate_fp16(mixed), crops).first is None


def test_other_input_forms_are_no_difference(
    argmax_model: onnx.ModelProto, float_model: onnx.ModelProto, lower: dict[str, Change], crops: CheckCrops
) -> None:
    assert diverge(argmax_model, float_model, crops).first is None
    assert diverge(float_model, lower["fp16"](argmax_model), crops).first is None
    assert diverge(argmax_model, lower["tensorrt"](float_model), crops).first is None


@pytest.mark.parametrize("precision", FAULTY)
@pytest.mark.parametrize(
    ("change", "name", "told"),
    [
        (
            faults.normalisation,
            "SUB|MUL",
            "the normalisation is another one: mean 0.5, 0.5, 0.5 and std 0.5",
        ),
        (faults.standard_deviation, "MUL", "std 0.226, 0.226, 0.226, the reference has mean 0.485"),
        (
            faults.colours_of_weights,
            "getitem",
            "the channels are in the wrong order: .*BGR with weights for RGB",
        ),
        (faults.colours_of_pixels, "_to_copy", "wrong order: .* reads RGB where the reference reads BGR"),
        (faults.without_norm, "embedding", "not of unit length: .*the L2 norm is missing"),
    ],
)
def test_faults_at_the_ends(
    change: Change,
    name: str,
    told: str,
    precision: str,
    argmax_model: onnx.ModelProto,
    lower: dict[str, Change],
    crops: CheckCrops,
) -> None:
    figures = diverge(argmax_model, lower[precision](change(argmax_model)), crops)
    sub, mul = faults.normalised(argmax_model)
    names = [{"SUB": sub, "MUL": mul}.get(one, one) for one in name.split("|")]
    assert figures.first is not None and figures.first.name in names
    assert re.search(told, figures.told), figures.told


@pytest.mark.parametrize("precision", FAULTY)
def test_another_epsilon(
    precision: str,
    argmax_model: onnx.ModelProto,
    other_epsilon: onnx.ModelProto,
    lower: dict[str, Change],
    crops: CheckCrops,
) -> None:
    figures = diverge(argmax_model, lower[precision](other_epsilon), crops)
    assert figures.first is not None and figures.first.module == "backbone.conv1"
    assert "has another epsilon, a larger one" in figures.told
    assert figures.first.weights > 1


def test_faults_between_two_input_forms(
    argmax_model: onnx.ModelProto,
    float_model: onnx.ModelProto,
    other_epsilon: onnx.ModelProto,
    lower: dict[str, Change],
    crops: CheckCrops,
) -> None:
    figures = diverge(argmax_model, lower["tensorrt"](faults.standard_deviation(float_model)), crops)
    assert "std 0.226, 0.226, 0.226, the reference has mean 0.485" in figures.told
    assert figures.first is not None and figures.first.name == faults.normalised(float_model)[1]
    figures = diverge(argmax_model, faults.colours_of_weights(float_model), crops)
    assert "the channels are in the wrong order" in figures.told
    figures = diverge(float_model, lower["fp16"](other_epsilon), crops)
    assert "has another epsilon, a larger one" in figures.told
    assert figures.first is not None and figures.first.module == "backbone.conv1"


@pytest.mark.parametrize("precision", FAULTY)
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("less", r"flipped.*\(Less instead of Greater\)"),
        ("exchanged", "flipped.*the two sides of Greater are exchanged"),
        ("inverted", "the mask is flipped: every bit is the opposite"),
    ],
)
def test_flipped_masks(
    fault: str,
    told: str,
    precision: str,
    argmax_model: onnx.ModelProto,
    lower: dict[str, Change],
    crops: CheckCrops,
) -> None:
    mask = faults.nodes(argmax_model, "Greater")[1].output[0]
    (cast,) = (node.output[0] for node in argmax_model.graph.node if node.input[0] == mask)
    changes: dict[str, Change] = {
        "less": lambda model: faults.with_operator(model, mask, "Less"),
        "exchanged": lambda model: faults.exchanged(model, mask),
        "inverted": lambda model: faults.inverted(model, cast),
    }
    figures = diverge(argmax_model, lower[precision](changes[fault](argmax_model)), crops)
    assert figures.first is not None
    assert figures.first.name.removesuffix(".fp16") == (cast if fault == "inverted" else mask)
    assert figures.first.module == "after attention.stage2.context.up"
    assert re.search(told, figures.told), figures.told


def test_a_mask_that_takes_ties_differs_in_ties_alone(
    argmax_model: onnx.ModelProto, crops: CheckCrops
) -> None:
    # The rewritten deconvolution has its outputs first. One channel is 0 everywhere: minimum and maximum are equal.
    values = faults.weight(argmax_model, _UP)
    values[0] = 0
    constant = faults.with_weight(argmax_model, _UP, values)
    mask = faults.nodes(constant, "Greater")[1].output[0]
    figures = diverge(constant, faults.with_operator(constant, mask, "GreaterOrEqual"), crops)
    assert figures.first is not None and figures.first.name == mask
    assert "differs in ties alone, 6.25% of the bits (GreaterOrEqual instead of Greater)" in figures.told


def test_another_threshold(argmax_model: onnx.ModelProto, crops: CheckCrops) -> None:
    mask = faults.nodes(argmax_model, "Greater")[1].output[0]
    middle = faults.node_of(argmax_model, mask).input[1]
    target = faults.copy(argmax_model)
    target.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0.45), "lower"))
    faults.node_of(target, middle).input[1] = "lower"
    figures = diverge(argmax_model, target, crops)
    assert figures.first is not None and figures.first.name == middle
    assert figures.told == "the mask has another threshold: every channel is the reference's times 0.9"


@pytest.mark.parametrize("precision", FAULTY)
def test_one_weight_in_the_middle(
    precision: str, argmax_model: onnx.ModelProto, lower: dict[str, Change], crops: CheckCrops
) -> None:
    before = np.abs(faults.weight(argmax_model, _WEIGHT)).max()
    figures = diverge(argmax_model, lower[precision](faults.one_value(argmax_model, _WEIGHT, 0.0)), crops)
    assert figures.first is not None and figures.first.module == "backbone.layer2.1.conv1"
    assert figures.first.operator == "Conv"
    assert "1 of 2304 value differs by more than rounding" in figures.told and f"{before:.4g}" in figures.told
    # What follows is given the reference's values, and is not accused.
    assert [layer.name for layer in figures.layers if layer.differs] == [figures.first.name]


def test_weights_that_grew(
    argmax_model: onnx.ModelProto, lower: dict[str, Change], crops: CheckCrops
) -> None:
    grown = faults.with_weight(argmax_model, _WEIGHT, faults.weight(argmax_model, _WEIGHT) * 1.02)
    for precision in ("fp32", "fp16", "cpu"):
        figures = diverge(argmax_model, lower[precision](grown), crops)
        assert figures.first is not None and figures.first.module == "backbone.layer2.1.conv1"
        assert figures.told.startswith("the weights are the reference's times 1.02"), figures.told


def test_a_nan_among_the_weights(argmax_model: onnx.ModelProto, crops: CheckCrops) -> None:
    figures = diverge(argmax_model, faults.one_value(argmax_model, _WEIGHT, np.nan), crops)
    assert figures.first is not None and figures.first.module == "backbone.layer2.1.conv1"
    assert np.isnan(figures.first.local) and np.isnan(figures.layers[-1].carried)
    assert figures.told == f"the weight {_WEIGHT} holds 1 of 2304 values that are not finite"
    # Held against a sound target, the broken reference is to blame.
    figures = diverge(faults.one_value(argmax_model, _WEIGHT, np.nan), argmax_model, crops)
    assert figures.told == "the reference itself is not finite here"


@pytest.mark.parametrize("precision", ["fp32", "tensorrt"])
def test_padding_on_the_other_side(
    precision: str, argmax_model: onnx.ModelProto, lower: dict[str, Change], crops: CheckCrops
) -> None:
    target = lower[precision](faults.with_attribute(argmax_model, "getitem_9", "pads", [0, 0, 2, 2]))
    figures = diverge(argmax_model, target, crops)
    assert figures.first is not None and figures.first.name == "getitem_9"
    assert figures.told == "the operator has other settings: pads [0, 0, 2, 2] instead of [1, 1, 1, 1]"


def test_a_stride_in_the_wrong_place(argmax_model: onnx.ModelProto, crops: CheckCrops) -> None:
    """The first convolution leaves the stride to the pooling behind it: all later shapes are right."""
    target = faults.with_attribute(argmax_model, "getitem", "strides", [1, 1])
    target = faults.with_attribute(target, "max_pool2d", "strides", [4, 4])
    figures = diverge(argmax_model, target, crops)
    assert figures.first is not None and figures.first.name == "getitem" and np.isinf(figures.first.local)
    assert "of shape (8, 64, 32), the reference's of (8, 32, 16): strides [1, 1] instead of" in figures.told


def test_another_operator(argmax_model: onnx.ModelProto, lower: dict[str, Change], crops: CheckCrops) -> None:
    for precision in ("fp32", "fp16", "cpu"):
        target = lower[precision](faults.with_operator(argmax_model, "relu_8", "LeakyRelu"))
        figures = diverge(argmax_model, target, crops)
        assert figures.first is not None and figures.first.operator == "LeakyRelu"
        assert figures.told == "the operator is LeakyRelu, the reference's is Relu"


def test_a_scale_of_int8_that_is_a_quarter_of_what_it_should_be(
    argmax_model: onnx.ModelProto, lower: dict[str, Change], crops: CheckCrops
) -> None:
    sound = lower["tensorrt"](argmax_model)
    scale = next(
        n.input[1] for n in sound.graph.node if n.op_type == "QuantizeLinear" and "relu_9" in n.input[0]
    )
    figures = diverge(argmax_model, faults.with_weight(sound, scale, faults.weight(sound, scale) / 4), crops)
    assert figures.first is not None and figures.first.module == "backbone.layer2.1.conv2"


def test_the_same_written_in_another_way_is_no_difference(
    argmax_model: onnx.ModelProto, crops: CheckCrops
) -> None:
    """Pixels turned round and the weights with them; a factor moved behind the normalisation."""
    turned = faults.colours_of_weights(faults.colours_of_pixels(argmax_model))
    for name in ("mean", "scale"):
        turned = faults.with_weight(turned, name, faults.weight(turned, name)[::-1])
    figures = diverge(argmax_model, turned, crops)
    assert figures.first is None
    assert faults.normalised(argmax_model)[1] not in {layer.name for layer in figures.layers}
    doubled = faults.with_weight(argmax_model, "scale", faults.weight(argmax_model, "scale") * 2)
    first = faults.nodes(argmax_model, "Conv")[0].input[1]
    halved = faults.with_weight(doubled, first, faults.weight(doubled, first) / 2)
    assert diverge(argmax_model, halved, crops).first is None
    assert diverge(argmax_model, doubled, crops).first is not None


def test_pieces_say_the_same_as_the_whole(
    argmax_model: onnx.ModelProto,
    lower: dict[str, Change],
    crops: CheckCrops,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = lower["fp16"](faults.one_value(argmax_model, _WEIGHT, 0.0))
    whole = diverge(argmax_model, target, crops, 2)
    monkeypatch.setattr(divergence, "_PIECE_BYTES", 100_000)
    cut = diverge(argmax_model, target, crops, 2)
    assert [layer.name for layer in cut.layers] == [layer.name for layer in whole.layers]
    for a, b in zip(cut.layers, whole.layers, strict=True):
        assert a.local == pytest.approx(b.local, rel=1e-4, abs=1e-7)
        assert a.carried == pytest.approx(b.carried, rel=1e-4, abs=1e-7)
    assert cut.first is not None and whole.first is not None and cut.first.name == whole.first.name
    assert cut.told == whole.told


def test_bad_input_is_one_line(argmax_model: onnx.ModelProto, crops: CheckCrops) -> None:
    with pytest.raises(SanError, match="no crop to compare"):
        diverge(argmax_model, argmax_model, crops, 0)
    small = CheckCrops(crops.images[:, :32], crops.names, crops.source)
    with pytest.raises(SanError, match="the model takes crops of"):
        diverge(argmax_model, argmax_model, small)
