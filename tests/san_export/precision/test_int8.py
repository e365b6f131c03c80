from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from san_export.graph.mask_branches import find_branches
from san_export.graph.precision_stats import count_operands
from san_export.precision.emulate_fp16 import emulate_fp16
from san_export.precision.fp16 import to_fp16
from san_export.precision.int8 import METHOD, never_quantised, quantise, within
from san_export.precision.ranges import METHODS
from san_export.verify import CheckCrops, row_cosine, sample_crops

from san_deploy.backends import STARTER, open_backend
from san_deploy.errors import GateError, SanError
from tests.san_export.road import run

EXPORTS = ("argmax_model", "expected_model", "ramp_model")
FORMS = ("tensorrt", "cpu")
Quantised = dict[tuple[str, str], onnx.ModelProto]


@pytest.fixture(scope="module")
def models(request: pytest.FixtureRequest) -> dict[str, onnx.ModelProto]:
    return {name: request.getfixturevalue(name) for name in EXPORTS}


@pytest.fixture(scope="module")
def quantised(models: dict[str, onnx.ModelProto], crops: CheckCrops) -> Quantised:
    return {
        (name, form): quantise(model, crops.images, form=form)
        for name, model in models.items()
        for form in FORMS
    }


def numbers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


def makers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {node.output[0]: node for node in model.graph.node}


def integer_kernels(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    """What ONNX Runtime really runs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


def test_what_stays_and_what_changes(
    models: dict[str, onnx.ModelProto], quantised: Quantised, crops: CheckCrops
) -> None:
    for (name, form), model in quantised.items():
        before = models[name].SerializeToString(deterministic=True)
        again = quantise(models[name], crops.images, form=form)
        assert models[name].SerializeToString(deterministic=True) == before
        assert again.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)
        assert list(model.graph.input) == list(models[name].graph.input)
        assert list(model.graph.output) == list(models[name].graph.output)
        # 20 convolutions of the trunk, and in the form cpu both products of the head.
        share = count_operands(model)
        assert (share.count, round(share.int8 * share.count)) == (68, 40 if form == "tensorrt" else 44)


def test_rows_of_untrained_networks_stay_near(
    models: dict[str, onnx.ModelProto], quantised: Quantised, crops: CheckCrops
) -> None:
    for (name, form), model in quantised.items():
        cosine = row_cosine(run(model, crops.images), run(models[name], crops.images))
        assert np.median(cosine) > (0.5 if name == "argmax_model" else 0.85), (name, form)


@pytest.mark.parametrize("form", FORMS)
def test_rows_of_a_trained_network_stay(form: str) -> None:
    drawn = sample_crops(open_backend().artefact.size_hw, 64).images
    model = onnx.load(STARTER)
    rows = run(model, drawn)
    int8 = quantise(model, drawn[::2], form=form)
    cosine = row_cosine(run(int8, drawn), rows)
    # Argmax masks: rounding flips bits. What that costs in ranks stands in the starter's card.
    assert cosine.mean() > 0.97 and cosine.min() > 0.94
    if form == "tensorrt":
        mixed = to_fp16(int8)
        cosine = row_cosine(run(emulate_fp16(mixed), drawn), rows)
        assert cosine.mean() > 0.97 and cosine.min() > 0.94
        assert mixed.ByteSize() < 0.3 * model.ByteSize()


@pytest.mark.parametrize("form", FORMS)
def test_mask_branches_stay_and_read_what_was_never_rounded(quantised: Quantised, form: str) -> None:
    for name in EXPORTS:
        model = quantised[name, form]
        branches = find_branches(model)
        assert len(branches) == 4
        by_name = makers(model)
        inside = {output for branch in branches for output in branch.nodes}
        kinds = {by_name[output].op_type for output in inside}
        assert "Conv" in kinds and not {"QuantizeLinear", "DequantizeLinear"} & kinds
        for output in inside:
            for read in by_name[output].input:
                assert read not in by_name or by_name[read].op_type != "DequantizeLinear"


def test_left_are_the_mask_branches(models: dict[str, onnx.ModelProto]) -> None:
    left = never_quantised(models["argmax_model"])
    assert len(left) == 12 and all(".context." in name for name in left)
    assert left == never_quantised(models["argmax_model"], form="cpu")


def test_form_for_tensorrt(models: dict[str, onnx.ModelProto], quantised: Quantised) -> None:
    for name in EXPORTS:
        model, values = quantised[name, "tensorrt"], numbers(quantised[name, "tensorrt"])
        weights = numbers(models[name])
        assert not [item for item in model.graph.initializer if item.data_type == TensorProto.INT32]
        assert model.opset_import[0].version >= 19
        for node in model.graph.node:
            if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
                continue
            scale, zero = values[node.input[1]], values[node.input[2]]
            assert zero.dtype == np.int8 and not zero.any()
            assert np.array_equal(scale.astype(np.float16).astype(np.float32), scale) and (scale > 0).all()
            if node.input[0] in values:
                (axis,) = [item.i for item in node.attribute if item.name == "axis"]
                assert axis == 0 and values[node.input[0]].dtype == np.int8
                # Half a step from the trained weight, each output channel by its own step.
                weight = weights[node.input[0].removesuffix(".int8")]
                step = scale.reshape(-1, 1, 1, 1)
                assert (np.abs(values[node.input[0]] * step - weight) <= 0.5001 * step).all()
                assert np.abs(values[node.input[0]]).min() >= 0
                assert np.abs(values[node.input[0]].astype(int)).max() <= 127


def test_residual_sums_for_tensorrt(quantised: Quantised) -> None:
    model = quantised["argmax_model", "tensorrt"]
    by_name = makers(model)
    sums = [
        [by_name[read].op_type for read in node.input]
        for node in model.graph.node
        if node.op_type == "Add"
        and any(by_name[read].op_type == "Conv" for read in node.input if read in by_name)
    ]
    # ResNet-18: eight sums in the trunk, each with its shortcut rounded and its convolution's result not,
    # but for those that read a masked trunk (F is rounded for the convolutions, so it is here, too); and
    # three in context units, in floating point.
    assert sorted(map(sorted, sums)) == [["Conv", "Conv"]] * 3 + [["Conv", "DequantizeLinear"]] * 8


def test_form_for_the_cpu_runs_in_integer_kernels(quantised: Quantised, tmp_path: Path) -> None:
    for name in EXPORTS:
        kernels = integer_kernels(quantised[name, "cpu"], tmp_path)
        assert kernels["QLinearConv"] == 20 and kernels["QGemm"] == 2, name
        # Four sums lie between convolutions; the other four make a masked trunk.
        assert kernels["QLinearAdd"] == 4
        assert kernels["NhwcMaxPool"] == 1
        # What runs in floating point: the context units, three convolutions and a deconvolution in each.
        assert kernels["Conv"] + kernels["ConvTranspose"] == 12


def test_layers_given_back_really_run_in_fp32(
    models: dict[str, onnx.ModelProto], crops: CheckCrops, tmp_path: Path
) -> None:
    # ONNX Runtime quantises a convolution of its own accord where it stands between two of 8 bits.
    back = ["network.backbone.layer1.0.conv1", "network.backbone.layer1.1.conv1", "network.backbone.conv1"]
    model = quantise(models["ramp_model"], crops.images, form="cpu", reverted=back)
    weights = numbers(model)
    assert all(weights[f"{name}.weight"].dtype == np.float32 for name in back)
    kernels = integer_kernels(model, tmp_path)
    assert kernels["QLinearConv"] == 17 and kernels["Conv"] + kernels["ConvTranspose"] == 15


@pytest.mark.parametrize("name", EXPORTS)
def test_tensorrt_builds_it_with_the_rest_in_fp16(quantised: Quantised, name: str) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    int8 = quantised[name, "tensorrt"]
    mixed = to_fp16(int8)
    share = count_operands(mixed)
    assert (share.fp32, round(share.int8 * share.count)) == (0, 40)
    # Scales, too, so that nothing stands between a DequantizeLinear and its convolution.
    by_name = makers(mixed)
    convolutions = [node for node in mixed.graph.node if node.op_type == "Conv"]
    direct = [node for node in convolutions if by_name[node.input[0]].op_type == "DequantizeLinear"]
    assert len(direct) == 20
    # The pixels are rounded as they come out of their normalisation.
    first = next(node for node in mixed.graph.node if node.op_type == "QuantizeLinear")
    assert by_name[first.input[0]].op_type in ("Mul", "Transpose")
    logger = trt.Logger(trt.Logger.ERROR)
    for model, capabilities in ((int8, ("SM86", "SM120")), (mixed, ("SM75", "SM86", "SM120"))):
        builder = trt.Builder(logger)
        network = builder.create_network(0)
        parser = trt.OnnxParser(network, logger)
        assert parser.parse(model.SerializeToString()), [
            parser.get_error(i).desc() for i in range(parser.num_errors)
        ]
        shape = list(network.get_input(0).shape)[1:]
        for capability in capabilities:
            config = builder.create_builder_config()
            config.num_compute_capabilities = 1
            config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
            profile = builder.create_optimization_profile()
            profile.set_shape("crops", (1, *shape), (4, *shape), (8, *shape))
            config.add_optimization_profile(profile)
            assert builder.build_serialized_network(network, config) is not None, capability


def linear(weight: np.ndarray, bias: np.ndarray, *, between: str = "Relu") -> onnx.ModelProto:
    """A 1 x 1 convolution called `a`, an operator, and another convolution `b`, on `(N, 3, 4, 4)`."""
    nodes = [
        helper.make_node("Conv", ["crops", "a.weight", "a.bias"], ["x"]),
        helper.make_node(between, ["x"], ["r"]),
        helper.make_node("Conv", ["r", "b.weight"], ["embedding"]),
    ]
    constants = {"a.weight": weight, "a.bias": bias, "b.weight": np.ones((2, len(weight), 1, 1), np.float32)}
    return helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("crops", 1, ["N", 3, 4, 4])],
            [helper.make_tensor_value_info("embedding", 1, ["N", 2, 4, 4])],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )


def noise(count: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), np.uint8)


def test_a_channel_without_weight_keeps_its_bias() -> None:
    # In units of a vanishing weight's scale the bias is beyond INT32.
    weight = np.array([[1, 1, 1], [0, 0, 0], [1e-20, 0, 0]], np.float32)[..., None, None]
    model = linear(weight, np.array([0, 50, 200], np.float32))
    for form in FORMS:
        got = run(quantise(model, noise(), form=form, method="minmax"), noise())
        assert np.abs(got - run(model, noise())).max() < 0.02 * got.max()


@pytest.mark.parametrize("form", FORMS)
def test_values_without_a_range_are_refused(form: str) -> None:
    ones = np.ones((3, 3, 1, 1), np.float32)
    with pytest.raises(SanError, match="value r of the network is 0 for all 16 crops"):
        quantise(linear(-ones, np.zeros(3, np.float32)), noise(), form=form)
    for bad in (np.nan, np.inf):
        with pytest.raises(SanError, match="not finite at"):
            quantise(linear(ones * np.float32(bad), np.zeros(3, np.float32)), noise(), form=form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", METHODS)
def test_a_path_that_is_always_zero_stays_zero(form: str, method: str) -> None:
    # Beside `linear` a rectified path that no crop wakes: c is 0, and so is what d makes of it.
    ones = np.ones((3, 3, 1, 1), np.float32)
    model = linear(ones, np.zeros(3, np.float32))
    before = run(model, noise())
    graph = model.graph
    graph.node[-1].output[0] = "alive"
    graph.node.extend(
        [
            helper.make_node("Conv", ["crops", "c.weight"], ["y"]),
            helper.make_node("Relu", ["y"], ["c"]),
            helper.make_node("Conv", ["c", "d.weight"], ["d"]),
            helper.make_node("Add", ["alive", "d"], ["embedding"]),
        ]
    )
    graph.initializer.extend(
        [numpy_helper.from_array(-ones, "c.weight"), numpy_helper.from_array(ones[:2], "d.weight")]
    )
    assert np.array_equal(run(model, noise()), before)
    got = run(quantise(model, noise(), form=form, method=method), noise())
    assert np.abs(got - before).max() < 0.03 * before.max()


def test_wrong_arguments_are_named() -> None:
    model = linear(np.ones((3, 3, 1, 1), np.float32), np.zeros(3, np.float32))
    with pytest.raises(SanError, match="8 crops or more to find its ranges on; received 7"):
        quantise(model, noise(7), form="cpu")
    with pytest.raises(SanError, match=r"crops of \(N, 4, 4, 3\) uint8 BGR. Received \(16, 4, 3, 3\)"):
        quantise(model, noise()[:, :, :3], form="cpu")
    with pytest.raises(SanError, match="the form of INT8 is one of tensorrt, cpu; received gpu"):
        quantise(model, noise(), form="gpu")
    with pytest.raises(SanError, match=r"the method of INT8 is one of .*; received max"):
        quantise(model, noise(), form="cpu", method="max")
    with pytest.raises(SanError, match="no layer c that INT8 could leave out"):
        quantise(model, noise(), form="cpu", reverted=["a", "c"])
    model.graph.node[0].op_type = model.graph.node[2].op_type = "Relu"
    for node in model.graph.node:
        del node.input[1:]
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3
    with pytest.raises(SanError, match="no product with a constant weight"):
        quantise(model, noise(), form="cpu")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_quantises(models: dict[str, onnx.ModelProto], crops: CheckCrops, method: str) -> None:
    model = quantise(models["expected_model"], crops.images, form="tensorrt", method=method)
    rows = run(models["expected_model"], crops.images)
    assert np.median(row_cosine(run(model, crops.images), rows)) > 0.85
    assert METHOD in METHODS


def quantised_layers(model: onnx.ModelProto) -> set[str]:
    return {name.removesuffix(".weight.int8") for name in numbers(model) if name.endswith(".weight.int8")}


def test_within_gives_back_nothing_where_nothing_is_lost(
    models: dict[str, onnx.ModelProto], crops: CheckCrops
) -> None:
    lines: list[str] = []
    model, reverted = within(
        models["ramp_model"], crops.images, lambda model: 0.001, 0.005, form="cpu", report=lines.append
    )
    assert reverted == () and lines == ["all layers in INT8: 0.0010 lost"]
    assert len(quantised_layers(model)) == 22


@pytest.fixture(scope="module")
def culprit() -> onnx.ModelProto:
    """Four convolutions, `a` to `d`. One channel between `b` and `c` is a hundred times the others.

    So the value's rounding costs most. TensorRT rounds it for `c`, ONNX Runtime in `b` as well.
    """
    rng = np.random.default_rng(1)
    nodes, constants, value = [], {}, "crops"
    for name, scale in (("a", 1.0), ("b", 1.0), ("c", 100.0), ("d", 1.0)):
        weight = rng.normal(0, 0.4, (6, 3 if name == "a" else 6, 1, 1)).astype(np.float32)
        if name == "b":
            weight[0] *= 100
        if name == "c":
            weight[:, 0] /= scale
        constants[f"{name}.weight"] = weight
        nodes.append(helper.make_node("Conv", [value, f"{name}.weight"], [f"{name}.x"]))
        nodes.append(helper.make_node("Relu", [f"{name}.x"], [f"{name}.r"]))
        value = f"{name}.r"
    nodes += [
        helper.make_node("ReduceMean", [value, "axes"], ["features"], keepdims=0),
        helper.make_node("LpNormalization", ["features"], ["embedding"], axis=1, p=2),
    ]
    return helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("crops", 1, ["N", 3, 4, 4])],
            [helper.make_tensor_value_info("embedding", 1, ["N", 6])],
            [
                numpy_helper.from_array(value, name)
                for name, value in (constants | {"axes": np.array([2, 3])}).items()
            ],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )


def test_within_finds_the_worst_layer(culprit: onnx.ModelProto) -> None:
    reference = run(culprit, noise(64))

    def loss(candidate: onnx.ModelProto) -> float:
        return float(1 - row_cosine(run(candidate, noise(64)), reference).mean())

    whole = loss(quantise(culprit, noise(64), form="tensorrt", method="minmax"))
    lines: list[str] = []
    result, reverted = within(
        culprit, noise(64), loss, whole / 3, form="tensorrt", method="minmax", report=lines.append
    )
    assert reverted == ("c",)
    assert loss(result) <= whole / 3
    assert quantised_layers(result) == {"a", "b", "d"}
    assert lines[-1].startswith("1 of 4 layers given back")


def test_within_reverts_no_more_than_it_must(models: dict[str, onnx.ModelProto], crops: CheckCrops) -> None:
    calls: list[set[str]] = []

    def blames(layer: str) -> Callable[[onnx.ModelProto], float]:
        def loss(model: onnx.ModelProto) -> float:
            calls.append(quantised_layers(model))
            return 1.0 if layer in calls[-1] else 0.0

        return loss

    model, reverted = within(
        models["argmax_model"],
        crops.images,
        blames("network.backbone.layer3.0.conv2"),
        0.5,
        form="tensorrt",
    )
    # The worst first, and none behind the one that was to blame.
    assert reverted[-1] == "network.backbone.layer3.0.conv2" and len(set(reverted)) == len(reverted)
    assert quantised_layers(model) == calls[0] - set(reverted)
    # Bisection of 20 layers, not one try for each.
    assert len(calls) <= 6


def test_within_gives_up_when_a_single_layer_is_too_much(culprit: onnx.ModelProto) -> None:
    with pytest.raises(GateError, match=r"loses more than 0.01 of accuracy, even with one layer alone"):
        within(culprit, noise(), lambda model: 0.2, 0.01, form="cpu")
