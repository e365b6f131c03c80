from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from san_export.onnx_writer import to_onnx
from san_export.parity.stages.probes import MaskProbe, onnx_probe
from san_export.precision.emulate_fp16 import emulate_fp16
from san_export.precision.fp16 import to_fp16
from san_export.precision.int8 import quantise
from san_export.verify import CheckCrops
from san_export.wrapper import OnnxWrapper
from san_train.models import SharpAttentionNetwork

from san_deploy.artefact import Artefact, Calibration
from san_deploy.errors import SanError
from tests.tiny_models import tiny_artefact

SIZE_HW = (64, 32)
STAGES = ("stage1", "stage2", "stage3", "stage4")


def artefact(**changes: object) -> Artefact:
    told = {
        "size_hw": SIZE_HW,
        "embedding_dim": 16,
        "mask": "argmax",
        "settings": {"attention": [1, 2, 3, 4]},
    }
    return tiny_artefact(**(told | changes))


def calibration(form: str, rest: str) -> Calibration:
    return Calibration(20, "0" * 64, "drawn", 0, "minmax", form, rest)


@pytest.fixture(scope="module")
def forms(argmax_model: onnx.ModelProto, crops: CheckCrops) -> dict[str, tuple[onnx.ModelProto, Artefact]]:
    quantised = {
        form: quantise(argmax_model, crops.images, form=form, method="minmax") for form in ("tensorrt", "cpu")
    }
    return {
        "fp32": (argmax_model, artefact()),
        "fp16": (emulate_fp16(to_fp16(argmax_model)), artefact(precision="fp16")),
        "unrounded": (to_fp16(argmax_model), artefact(precision="fp16")),
        **{
            f"int8 {form}": (
                model,
                artefact(precision="int8", calibration=calibration(form, "fp32")),
            )
            for form, model in quantised.items()
        },
        "int8 fp16": (
            emulate_fp16(to_fp16(quantised["tensorrt"])),
            artefact(precision="int8", calibration=calibration("tensorrt", "fp16")),
        ),
    }


def argmax(x: np.ndarray) -> np.ndarray:
    middle = (x.min((2, 3), keepdims=True) + x.max((2, 3), keepdims=True)) * np.float32(0.5)
    return (x > middle).astype(np.float32)


@pytest.mark.parametrize("form", ["fp32", "fp16", "unrounded", "int8 tensorrt", "int8 cpu", "int8 fp16"])
def test_every_form_shows_its_blocks(
    forms: dict[str, tuple[onnx.ModelProto, Artefact]], crops: CheckCrops, form: str
) -> None:
    probe = onnx_probe(*forms[form], threads=1)
    assert probe.blocks == STAGES
    truth = onnx_probe(*forms["fp32"], threads=1)(crops.images)
    assert [values.x.shape[1:] for values in truth] == [(8, 16, 8), (16, 8, 4), (32, 4, 2), (64, 2, 1)]
    for number, (values, right) in enumerate(zip(probe(crops.images), truth, strict=True)):
        assert values.x.dtype == values.mask.dtype == np.float32
        assert values.x.shape == values.mask.shape == right.x.shape
        # The mask is read from the graph; what X says it should be is another way to it.
        assert np.array_equal(values.mask, argmax(values.x))
        assert 0 < values.mask.mean() < 1
        assert np.array_equal(probe.redraw(number, right.x), right.mask)
    # In the first block nothing is carried yet, so X differs by the rounding of a few layers.
    difference = np.abs(probe(crops.images)[0].x - truth[0].x).max() / np.ptp(truth[0].x)
    assert difference == 0 if form == "fp32" else 0 < difference < 0.2


def test_unrounded_fp16_takes_its_x_in_fp16(
    forms: dict[str, tuple[onnx.ModelProto, Artefact]], crops: CheckCrops
) -> None:
    # What is not rounded in the graph must not be rounded on the way out: X of an FP16 file is an FP16 number.
    for values in onnx_probe(*forms["fp16"], threads=1)(crops.images[:2]):
        assert np.array_equal(values.x, values.x.astype(np.float16).astype(np.float32))


def test_batches_do_not_matter(forms: dict[str, tuple[onnx.ModelProto, Artefact]], crops: CheckCrops) -> None:
    probe = onnx_probe(*forms["fp32"], threads=1)
    for whole, one in zip(probe(crops.images[:4]), probe(crops.images[3:4]), strict=True):
        np.testing.assert_allclose(whole.x[3:], one.x, rtol=0, atol=1e-4)


def test_a_wrong_comparison_is_in_the_mask(
    forms: dict[str, tuple[onnx.ModelProto, Artefact]], crops: CheckCrops
) -> None:
    right, told = forms["fp32"]
    wrong = onnx.ModelProto()
    wrong.CopyFrom(right)
    comparisons = [node for node in wrong.graph.node if node.op_type == "Greater"]
    comparisons[1].op_type = "Less"
    probe, truth = onnx_probe(wrong, told, threads=1), onnx_probe(right, told, threads=1)(crops.images)
    found = probe(crops.images)
    assert probe.blocks == STAGES
    assert np.array_equal(found[0].mask, truth[0].mask)
    assert np.array_equal(found[1].x, truth[1].x)
    assert np.mean(found[1].mask != truth[1].mask) > 0.9
    # Blocks behind it get other features; given the right ones, theirs are right.
    own = [int((probe.redraw(k, truth[k].x) != truth[k].mask).sum()) for k in range(4)]
    assert own[0] == own[2] == own[3] == 0 and own[1] > 0


@pytest.mark.parametrize("fixture", ["expected_model", "ramp_model"])
def test_masks_between_0_and_1(request: pytest.FixtureRequest, crops: CheckCrops, fixture: str) -> None:
    told = artefact(input="float" if fixture == "expected_model" else "uint8")
    probe = onnx_probe(request.getfixturevalue(fixture), told, threads=1)
    for values in probe(crops.images):
        low, high = values.x.min((2, 3), keepdims=True), values.x.max((2, 3), keepdims=True)
        span = np.where(high > low, high - low, np.inf)
        pi = (values.x - low) / span
        eps = 1.0 if fixture == "expected_model" else 0.25
        expected = np.where(np.isfinite(span), np.clip((pi - 0.5) / eps + 0.5, 0, 1), 0)
        np.testing.assert_allclose(values.mask, expected, atol=2e-5)


def test_without_sharp_attention_there_is_nothing_to_see(
    make_network: Callable[..., SharpAttentionNetwork], crops: CheckCrops
) -> None:
    soft = to_onnx(OnnxWrapper(make_network(context=(), gate="soft", attention=(2,))), SIZE_HW)
    probe = onnx_probe(soft, artefact(mask="soft", settings={"attention": [2]}))
    assert probe.blocks == () and probe(crops.images) == []


def threshold(*, comparison: str, shift: float = 0.0) -> onnx.ModelProto:
    """Crops of 4 x 4 pixels, times a number that comes with them, and one mask."""
    nodes = [
        helper.make_node("Cast", ["crops"], ["floats"], to=1),
        helper.make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["planes", "scale"], ["x"]),
        helper.make_node("ReduceMin", ["x", "axes"], ["low"]),
        helper.make_node("ReduceMax", ["x", "axes"], ["high"]),
        helper.make_node("Add", ["low", "high"], ["sum"]),
        helper.make_node("Mul", ["sum", "half"], ["middle"]),
        helper.make_node(comparison, ["x", "middle"], ["bit"]),
        helper.make_node("Cast", ["bit"], ["m"], to=1),
        helper.make_node("Add", ["m", "shift"], ["mask"]),
        helper.make_node("Mul", ["mask", "planes"], ["f"]),
        helper.make_node("ReduceSum", ["f", "axes"], ["embedding"], keepdims=0),
    ]
    numbers = {
        "axes": np.array([2, 3], np.int64),
        "half": np.float32(0.5),
        "scale": np.array([1, np.nan if comparison == "Less" else 1, 1], np.float32)[:, None, None],
        "shift": np.float32(shift),
    }
    return helper.make_model(
        helper.make_graph(
            nodes,
            "threshold",
            [helper.make_tensor_value_info("crops", 2, ["N", 4, 4, 3])],
            [helper.make_tensor_value_info("embedding", 1, ["N", 3])],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in numbers.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )


def small(comparison: str, shift: float = 0.0) -> MaskProbe:
    told = artefact(size_hw=(4, 4), embedding_dim=3, settings={})
    return onnx_probe(threshold(comparison=comparison, shift=shift), told, threads=1)


def test_blocks_are_named_by_their_value_where_the_settings_do_not_say() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)
    probe = small("Greater")
    assert probe.blocks == ("x",)
    (values,) = probe(images)
    assert np.array_equal(values.x, images.transpose(0, 3, 1, 2).astype(np.float32))
    assert np.array_equal(values.mask, argmax(values.x))


def test_values_that_are_none() -> None:
    images = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 3), np.uint8)
    with pytest.raises(SanError, match="not finite at x"):
        small("Less")(images)
    with pytest.raises(SanError, match="mask of x is not between 0 and 1"):
        small("Greater", shift=1)(images)
    with pytest.raises(SanError, match=r"takes crops of \(N, 4, 4, 3\)"):
        small("Greater")(images[:, :2])
