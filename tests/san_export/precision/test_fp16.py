from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from san_export.graph.mask_branches import find_branches
from san_export.precision.emulate_fp16 import emulate_fp16
from san_export.precision.fp16 import to_fp16
from san_export.verify import CheckCrops, row_cosine

from san_deploy.errors import SanError

EXPORTS = ("argmax_model", "expected_model", "ramp_model")
FP16, FP32 = TensorProto.FLOAT16, TensorProto.FLOAT


def types(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    found = {item.name: item.data_type for item in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        found[value.name] = value.type.tensor_type.elem_type
    return found


def run(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    ).run(None, inputs)


def images(model: onnx.ModelProto, crops: CheckCrops) -> np.ndarray:
    if model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8:
        return crops.images
    return np.ascontiguousarray(crops.images[..., ::-1].transpose(0, 3, 1, 2)).astype(np.float32)


def small(
    nodes: list[onnx.NodeProto],
    shape: list[int | str],
    constants: dict[str, np.ndarray] | None = None,
    opset: int = 18,
) -> onnx.ModelProto:
    """A graph from FP32 `x` to FP32 `y`."""
    return helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", FP32, shape)],
            [helper.make_tensor_value_info("y", FP32, [None] * len(shape))],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=10,
    )


@pytest.mark.parametrize("fixture", EXPORTS)
def test_types(request: pytest.FixtureRequest, fixture: str) -> None:
    model = request.getfixturevalue(fixture)
    before = model.SerializeToString(deterministic=True)
    half = to_fp16(model)
    assert model.SerializeToString(deterministic=True) == before
    assert to_fp16(model).SerializeToString(deterministic=True) == half.SerializeToString(deterministic=True)
    assert list(half.graph.input) == list(model.graph.input)
    assert list(half.graph.output) == list(model.graph.output)
    kind = types(half)
    threshold = {name for branch in find_branches(half) for name in branch.threshold}
    assert len(find_branches(half)) == 4
    for node in half.graph.node:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm"):
            assert [kind[name] for name in node.input if name] == [FP16] * len([n for n in node.input if n])
        if node.output[0] in threshold and node.op_type != "Cast":
            assert kind[node.input[1 if node.op_type == "Where" else 0]] == FP32, node.op_type
        if node.op_type == "Resize":
            assert (kind[node.input[0]], kind[node.input[2]]) == (FP16, FP32)
    # The mask times the features, in FP16.
    for branch in find_branches(half):
        (reader,) = [node for node in half.graph.node if branch.masks[0] in node.input]
        if reader.op_type == "Cast":
            (reader,) = [node for node in half.graph.node if reader.output[0] in node.input]
        assert reader.op_type == "Mul" and kind[reader.output[0]] == FP16
    # The pixels' normalisation, and the norm from the last product's output on.
    kinds = [node.op_type for node in half.graph.node]
    first, last = kinds.index("Conv"), len(kinds) - 1 - kinds[::-1].index("Gemm")
    assert all(kind[node.output[0]] == FP32 for node in half.graph.node[: first - 1])
    assert all(kind[node.output[0]] == FP32 for node in half.graph.node[last + 1 :])


@pytest.mark.parametrize("fixture", EXPORTS)
def test_no_cast_too_many(request: pytest.FixtureRequest, fixture: str) -> None:
    half = to_fp16(request.getfixturevalue(fixture))
    kind = types(half)
    casts = [node for node in half.graph.node if node.op_type == "Cast"]
    assert len({(node.input[0], kind[node.output[0]]) for node in casts}) == len(casts)
    assert all(kind[node.input[0]] != kind[node.output[0]] for node in casts)
    made = {node.output[0] for node in casts if {kind[node.input[0]], kind[node.output[0]]} == {FP16, FP32}}
    # One after the other they would cancel.
    assert not [node for node in casts if node.input[0] in made]
    # Into the network, around the last pooling, before the norm; for each mask, in and, but for argmax
    # (whose booleans become FP16 at once), out.
    masks = 4 if fixture == "argmax_model" else 8
    assert len(made) == 1 + 2 + 1 + masks


@pytest.mark.numeric
@pytest.mark.parametrize("fixture", EXPORTS)
def test_rows_stay(request: pytest.FixtureRequest, fixture: str, crops: CheckCrops) -> None:
    model = request.getfixturevalue(fixture)
    half = to_fp16(model)
    batch = {"crops": images(model, crops)}
    # FP16 rounds to 2^-11 of a value, and pi_1 keeps 0.03 from the threshold (tests.settled): no bit flips, and
    # some thirty roundings in a row leave a few thousandths of a row's length, 1 - cosine half its square.
    assert row_cosine(run(half, batch)[0], run(model, batch)[0]).min() > 0.999
    # Kept out of the way by ONNX Runtime on a CPU, this rounding shows in the other form.
    assert row_cosine(run(emulate_fp16(half), batch)[0], run(model, batch)[0]).min() > 0.999


def test_half_the_bytes(argmax_model: onnx.ModelProto) -> None:
    # 0.4 MB here; the starter's 13 MB come to 50.1 %.
    assert to_fp16(argmax_model).ByteSize() < 0.52 * argmax_model.ByteSize()


def test_converting_twice_changes_nothing(ramp_model: onnx.ModelProto) -> None:
    half = to_fp16(ramp_model)
    assert to_fp16(half).SerializeToString(deterministic=True) == half.SerializeToString(deterministic=True)


@pytest.mark.parametrize("fixture", EXPORTS)
def test_tensorrt_builds_it_strongly_typed(request: pytest.FixtureRequest, fixture: str) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    half = to_fp16(request.getfixturevalue(fixture))
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    assert parser.parse(half.SerializeToString()), [
        parser.get_error(i).desc() for i in range(parser.num_errors)
    ]
    products = (trt.LayerType.CONVOLUTION, trt.LayerType.DECONVOLUTION, trt.LayerType.MATRIX_MULTIPLY)
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    found = [layer.get_input(0).dtype for layer in layers if layer.type in products]
    assert set(found) == {trt.DataType.HALF} and len(found) == 34
    shape = list(network.get_input(0).shape)[1:]
    for capability in ("SM75", "SM86", "SM120"):
        config = builder.create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
        profile = builder.create_optimization_profile()
        profile.set_shape("crops", (1, *shape), (4, *shape), (8, *shape))
        config.add_optimization_profile(profile)
        assert builder.build_serialized_network(network, config) is not None


def test_weights_beyond_fp16_are_named() -> None:
    nodes = [helper.make_node("Conv", ["x", "layer.weight"], ["y"])]
    for value, why in ((7e4, "Its largest is 70000"), (np.nan, "not finite"), (np.inf, "not finite")):
        weight = np.full((2, 2, 1, 1), value, np.float32)
        with pytest.raises(SanError, match=f"weight layer.weight does not fit FP16.*{why}"):
            to_fp16(small(nodes, ["N", 2, 4, 4], {"layer.weight": weight}))
    tiny = np.array([1e-9, 1], np.float32).reshape(1, 2, 1, 1)
    half = to_fp16(small(nodes, ["N", 2, 4, 4], {"layer.weight": tiny}))
    assert numpy_helper.to_array(half.graph.initializer[0]).ravel().tolist() == [0, 1]


def test_a_decomposed_layer_norm_is_one_island() -> None:
    axes, eps = np.array([1], np.int64), np.float32(1e-12)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("ReduceMean", ["c", "axes"], ["mean"]),
        helper.make_node("Sub", ["c", "mean"], ["centred"]),
        helper.make_node("Mul", ["centred", "centred"], ["square"]),
        helper.make_node("ReduceMean", ["square", "axes"], ["variance"]),
        helper.make_node("Add", ["variance", "eps"], ["guarded"]),
        helper.make_node("Sqrt", ["guarded"], ["deviation"]),
        helper.make_node("Div", ["centred", "deviation"], ["n"]),
        helper.make_node("Conv", ["n", "w"], ["y"]),
    ]
    weight = np.eye(3, dtype=np.float32)[..., None, None] * 300
    model = small(nodes, ["N", 3, 4, 4], {"w": weight, "axes": axes, "eps": eps})
    half = to_fp16(model)
    kind = types(half)
    assert Counter(node.op_type for node in half.graph.node)["Cast"] == 4
    assert {kind[name] for name in ("mean", "centred", "square", "variance", "guarded", "n")} == {FP32}
    # Constant over the channels: the epsilon alone keeps this finite. The squares would overflow FP16.
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32) * np.float32([1, 1, 3]).reshape(
        3, 1, 1
    )
    x[1] = 1
    np.testing.assert_allclose(run(half, {"x": x})[0], run(model, {"x": x})[0], rtol=0.02, atol=2)


def test_the_grid_of_a_sampling_is_computed_in_fp32() -> None:
    """As PyTorch writes affine_grid: places times theta, summed. In FP16 a place among 512 is off by a tenth."""
    width = 512
    places = np.stack([np.linspace(-1, 1, width), np.zeros(width), np.ones(width)], 1).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["map"]),
        helper.make_node("ReduceMean", ["map", "all"], ["mean"]),
        helper.make_node("Tanh", ["mean"], ["shift"]),
        helper.make_node("Concat", ["scale", "shift"], ["theta"], axis=3),
        helper.make_node("Mul", ["places", "theta"], ["products"]),
        helper.make_node("ReduceSum", ["products", "last"], ["sums"], keepdims=1),
        helper.make_node("Concat", ["sums", "zeros"], ["grid"], axis=3),
        helper.make_node("GridSample", ["map", "grid"], ["sampled"], mode="bilinear", align_corners=1),
        helper.make_node("Conv", ["sampled", "w"], ["y"]),
    ]
    model = small(
        nodes,
        [1, 1, 1, width],
        {
            "w": np.ones((1, 1, 1, 1), np.float32),
            "all": np.array([1, 2, 3]),
            "last": np.array([3]),
            "scale": np.array([0.4, 0.0], np.float32).reshape(1, 1, 1, 2),
            "places": places.reshape(1, 1, width, 3),
            "zeros": np.zeros((1, 1, width, 1), np.float32),
        },
    )
    half = to_fp16(model)
    kind = types(half)
    assert {kind[name] for name in ("theta", "products", "sums", "grid")} == {FP32}
    # The map that is sampled is none of the places.
    assert kind["w.fp16"] == FP16 if "w.fp16" in kind else kind["w"] == FP16
    # Steep enough that a tenth of a pixel shows.
    x = (np.arange(width) % 2).astype(np.float32).reshape(1, 1, 1, width)
    np.testing.assert_allclose(run(half, {"x": x})[0], run(model, {"x": x})[0], atol=0.005)


def test_the_parts_of_other_networks_that_need_fp32() -> None:
    """GeM pooling, whose cubes leave FP16, a norm over channels, attention with softmax, and an instance norm."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("InstanceNormalization", ["c", "three", "three"], ["i"]),
        helper.make_node("Clip", ["c", "least"], ["positive"]),
        helper.make_node("Pow", ["positive", "p"], ["cubes"]),
        helper.make_node("GlobalAveragePool", ["cubes"], ["pooled"]),
        helper.make_node("Pow", ["pooled", "q"], ["gem"]),
        helper.make_node("Add", ["gem", "i"], ["sum"]),
        helper.make_node("Reshape", ["sum", "tokens"], ["t"]),
        helper.make_node("LayerNormalization", ["t", "sixteen"], ["normed"], axis=-1),
        helper.make_node("Transpose", ["normed"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["normed", "turned"], ["affinity"]),
        helper.make_node("Softmax", ["affinity"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "normed"], ["y"]),
    ]
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(3, 3, 1, 1)).astype(np.float32) * 40
    constants = {
        "w": weight,
        "three": np.ones(3, np.float32),
        "least": np.float32(1e-6),
        "p": np.float32(3),
        "q": np.float32(1 / 3),
        "tokens": np.array([0, 3, 16]),
        "sixteen": np.ones(16, np.float32),
    }
    model = small(nodes, ["N", 3, 4, 4], constants)
    del model.graph.output[0].type.tensor_type.shape.dim[3]
    half = to_fp16(model)
    kind = types(half)
    assert {kind[name] for name in ("i", "cubes", "pooled", "gem", "weights")} == {FP32}
    x = rng.normal(size=(2, 3, 4, 4)).astype(np.float32)
    # Cubes beyond 65504: in FP16 they would be infinite.
    c = np.einsum("oi,nihw->nohw", weight[:, :, 0, 0], x)
    assert (c.max() ** 3) > 65504
    for converted in (half, emulate_fp16(half)):
        found, wanted = run(converted, {"x": x})[0], run(model, {"x": x})[0]
        assert (
            np.isfinite(found).all()
            and row_cosine(found.reshape(2, -1), wanted.reshape(2, -1)).min() > 0.9999
        )


def test_an_output_in_the_middle_of_fp16_keeps_its_type() -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    half = to_fp16(small(nodes, ["N", 1, 2, 2], {"w": np.ones((1, 1, 1, 1), np.float32)}))
    assert [node.op_type for node in half.graph.node] == ["Cast", "Conv", "Cast"]
    assert types(half)["y"] == FP32
    x = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
    assert np.array_equal(run(half, {"x": x})[0], x)


def test_bounds_and_epsilons_that_fp16_cannot_hold_keep_fp32() -> None:
    for number, kept in ((0.5, FP16), (1e-9, FP32), (1e6, FP32), (np.inf, FP16), (0.0, FP16)):
        nodes = [
            helper.make_node("Conv", ["x", "w"], ["c"]),
            helper.make_node("Max", ["c", "number"], ["m"]),
            helper.make_node("Conv", ["m", "w"], ["y"]),
        ]
        constants = {"w": np.ones((1, 1, 1, 1), np.float32), "number": np.float32(number)}
        assert types(to_fp16(small(nodes, ["N", 1, 2, 2], constants)))["m"] == kept, number


def test_constants_read_in_both_types_and_constant_nodes() -> None:
    nodes = [
        helper.make_node("Constant", [], ["three"], value_float=3.0),
        helper.make_node("Add", ["x", "three"], ["a"]),
        helper.make_node("Conv", ["a", "w"], ["c"]),
        helper.make_node("Add", ["c", "three"], ["b"]),
        helper.make_node("Conv", ["b", "w"], ["y"]),
    ]
    model = small(nodes, ["N", 1, 2, 2], {"w": np.ones((1, 1, 1, 1), np.float32)})
    half = to_fp16(model)
    assert sorted((item.name, item.data_type) for item in half.graph.initializer) == [
        ("three", FP32),
        ("three.fp16", FP16),
        ("w", FP16),
    ]
    x = np.zeros((1, 1, 2, 2), np.float32)
    assert np.array_equal(run(half, {"x": x})[0], run(model, {"x": x})[0])


def test_whole_numbers_are_not_cast_straight_to_fp16() -> None:
    # 100000 is infinite in FP16; its reciprocal times 1000 is not zero.
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Cast", ["many"], ["number"], to=FP32),
        helper.make_node("Div", ["c", "number"], ["d"]),
        helper.make_node("Conv", ["d", "w"], ["y"]),
    ]
    constants = {"w": np.full((1, 1, 1, 1), 100, np.float32), "many": np.array(100000)}
    x = np.ones((1, 1, 2, 2), np.float32)
    half = to_fp16(small(nodes, ["N", 1, 2, 2], constants))
    assert run(half, {"x": x})[0].max() == pytest.approx(0.1, rel=2e-3)


def test_rounding_form_rounds_every_value() -> None:
    # 1 + 2 ** -11 is no FP16 number; added in FP32 and rounded at the end, the sum would be 2 ** -10.
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Add", ["c", "step"], ["a"]),
        helper.make_node("Add", ["a", "step"], ["b"]),
        helper.make_node("Sub", ["b", "one"], ["s"]),
        helper.make_node("Conv", ["s", "w"], ["y"]),
    ]
    one = np.ones((1, 1, 1, 1), np.float32)
    constants = {"w": one, "one": one, "step": one * np.float32(2**-11)}
    half = to_fp16(small(nodes, ["N", 1, 1, 1], constants))
    assert run(emulate_fp16(half), {"x": one})[0].item() == 0


OPERATORS = {
    "Relu": 1,
    "Sigmoid": 1,
    "Exp": 1,
    "Transpose": 1,
    "Identity": 1,
    "Add": 2,
    "Mul": 2,
    "Sub": 2,
    "Max": 2,
    "MatMul": 2,
    "Softmax": 1,
    "LpNormalization": 1,
}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_graph_stays_valid_and_near(data: st.DataObject) -> None:
    """Nodes that read whatever came before them: every mixture of FP16 and FP32 readers occurs."""
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    names, nodes = ["x", "w"], []
    for index in range(data.draw(st.integers(1, 12))):
        kind = data.draw(st.sampled_from(sorted(OPERATORS)))
        read = [data.draw(st.sampled_from(names)) for _ in range(OPERATORS[kind])]
        squashed = f"v{index}"
        nodes.append(helper.make_node(kind, read, [f"raw{index}"]))
        # Keeps values near 1, so that nothing overflows in either type.
        nodes.append(helper.make_node("Sigmoid", [f"raw{index}"], [squashed]))
        names.append(squashed)
    nodes.append(helper.make_node("Add", [names[-1], data.draw(st.sampled_from(names))], ["y"]))
    model = small(nodes, [4, 4], {"w": rng.normal(size=(4, 4)).astype(np.float32)})
    half = to_fp16(model)
    assert types(half)["y"] == FP32
    x = rng.normal(size=(4, 4)).astype(np.float32)
    for form in (half, emulate_fp16(half)):
        np.testing.assert_allclose(run(form, {"x": x})[0], run(model, {"x": x})[0], atol=0.03)
