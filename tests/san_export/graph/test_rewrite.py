from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, parser
from san_export.graph.rewrite import rewrite


def run(model: onnx.ModelProto, **inputs: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, inputs)[0]


def count(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def parse(body: str, opset: int = 18) -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> g {body}')


def whole_numbers(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Their sums of products are exact in FP32, in whatever order they are taken."""
    return rng.integers(-8, 9, shape).astype(np.float32)


def deconvolution(
    size_hw: tuple[int, int],
    *,
    inputs: int = 6,
    outputs: int = 4,
    kernel: int = 1,
    group: int = 1,
    bias: bool = False,
    behind: list[onnx.NodeProto] | None = None,
    **options: Any,
) -> onnx.ModelProto:
    """`x` (N, inputs, H, W) through one deconvolution, and `behind` it what makes `z` of its output `y`."""
    rng = np.random.default_rng(0)
    weights = {"w": whole_numbers(rng, inputs, outputs // group, kernel, kernel)}
    if bias:
        weights["b"] = whole_numbers(rng, outputs)
    node = helper.make_node("ConvTranspose", ["x", *weights], ["y"], name="up", group=group, **options)
    graph = helper.make_graph(
        [node, *(behind or [])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", inputs, *size_hw])],
        [helper.make_tensor_value_info("z" if behind else "y", TensorProto.FLOAT, ["N", None, None, None])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def assert_alike(model: onnx.ModelProto, size_hw: tuple[int, int], inputs: int = 6) -> onnx.ModelProto:
    """The rewritten model holds no deconvolution, and gives the same to the bit; returns it."""
    before = model.SerializeToString()
    rewritten = rewrite(model)
    assert model.SerializeToString() == before
    onnx.checker.check_model(rewritten, full_check=True)
    assert not count(rewritten)["ConvTranspose"]
    for batch in (1, 3):
        x = whole_numbers(np.random.default_rng(1), batch, inputs, *size_hw)
        assert np.array_equal(run(rewritten, x=x), run(model, x=x))
    return rewritten


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("size_hw", "padding", "nodes"),
    [
        # The context unit's cases: an even size is doubled, an odd one has no place behind its last.
        ((4, 3), (1, 1), ["Conv", "Resize", "Mul"]),
        ((5, 3), (0, 0), ["Conv", "Resize", "Slice", "Mul"]),
        ((5, 4), (0, 1), ["Conv", "Resize", "Slice", "Mul"]),
        ((1, 1), (1, 1), ["Conv", "Resize", "Mul"]),
        ((1, 1), (0, 0), ["Conv", "Resize", "Slice", "Mul"]),
    ],
)
def test_stride_2(size_hw: tuple[int, int], padding: tuple[int, int], nodes: list[str], bias: bool) -> None:
    model = deconvolution(size_hw, bias=bias, strides=[2, 2], output_padding=padding, kernel_shape=[1, 1])
    rewritten = assert_alike(model, size_hw)
    assert [node.op_type for node in rewritten.graph.node] == nodes + ["Add"] * bias
    # Whoever names convolutions and weights (calibration, mask branches, reports) finds the old names.
    assert rewritten.graph.node[0].name == "up" and rewritten.graph.node[0].input[1] == "w"


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_stride_group_and_crop(data: st.DataObject) -> None:
    size_hw = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)), "size")
    strides = data.draw(st.tuples(st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4])), "strides")
    added = [data.draw(st.integers(0, stride - 1), "output_padding") for stride in strides]
    full = [
        stride * (size - 1) + 1 + more for stride, size, more in zip(strides, size_hw, added, strict=True)
    ]
    starts = [data.draw(st.integers(0, min(2, size - 1)), "start") for size in full]
    ends = [
        data.draw(st.integers(0, min(2, size - start - 1)), "end")
        for size, start in zip(full, starts, strict=True)
    ]
    model = deconvolution(
        size_hw,
        group=data.draw(st.sampled_from([1, 2]), "group"),
        bias=data.draw(st.booleans(), "bias"),
        strides=strides,
        output_padding=added,
        pads=[*starts, *ends],
    )
    assert_alike(model, size_hw)


def test_shared_weights_are_turned_for_each() -> None:
    # The same weights, turned, and as they are.
    second = helper.make_node("ConvTranspose", ["y", "w"], ["u"], strides=[1, 2], name="again")
    third = helper.make_node("Conv", ["u", "w"], ["z"])
    model = deconvolution((4, 3), inputs=4, strides=[2, 1], behind=[second, third])
    rewritten = assert_alike(model, (4, 3), inputs=4)
    assert count(rewritten)["Conv"] == 3


def test_stride_1_is_one_convolution() -> None:
    # The bilinear form: the deconvolution's weights at the low resolution, then a Resize.
    resize = helper.make_node("Resize", ["y", "", "", "sizes"], ["z"], mode="linear")
    sizes = helper.make_node("Constant", [], ["sizes"], value_ints=[1, 4, 9, 5])
    model = deconvolution((5, 3), bias=True, behind=[sizes, resize])
    rewritten = rewrite(model)
    assert [node.op_type for node in rewritten.graph.node] == ["Conv", "Constant", "Resize"]
    x = whole_numbers(np.random.default_rng(1), 1, 6, 5, 3)
    assert np.array_equal(run(rewritten, x=x), run(model, x=x))


def test_a_linear_resize_behind_stays_right() -> None:
    resize = helper.make_node("Resize", ["y", "", "scales"], ["z"], mode="linear")
    scales = helper.make_node("Constant", [], ["scales"], value_floats=[1.0, 1.0, 2.0, 2.0])
    model = deconvolution((4, 3), strides=[2, 2], output_padding=[1, 1], behind=[scales, resize])
    assert_alike(model, (4, 3))


def test_it_is_the_paper_s_deconvolution() -> None:
    # An oracle apart from ONNX Runtime's: one position in four, zeros elsewhere.
    model = deconvolution((3, 2), strides=[2, 2], output_padding=[1, 1])
    x = whole_numbers(np.random.default_rng(1), 2, 6, 3, 2)
    weight = numpy_helper.to_array(model.graph.initializer[0])[:, :, 0, 0]
    expected = np.zeros((2, 4, 6, 4), np.float32)
    for image, row, column in np.ndindex(2, 3, 2):
        expected[image, :, 2 * row, 2 * column] = x[image, :, row, column] @ weight
    assert np.array_equal(run(rewrite(model), x=x), expected)
    torchs = torch.nn.functional.conv_transpose2d(
        torch.tensor(x), torch.tensor(weight)[:, :, None, None], stride=2, output_padding=1
    )
    assert np.array_equal(torchs.numpy(), expected)


def test_fractions_differ_by_rounding_alone() -> None:
    rng = np.random.default_rng(2)
    model = deconvolution((8, 4), inputs=256, outputs=32, strides=[2, 2], output_padding=[1, 1])
    weight = (rng.normal(size=(256, 32, 1, 1)) / 16).astype(np.float32)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w"))
    x = rng.normal(size=(2, 256, 8, 4)).astype(np.float32)
    before, after = run(model, x=x), run(rewrite(model), x=x)
    # Rounding of a sum of 256 products of about 1/16: 256 x 2^-24 / 16 at the very most.
    assert np.abs(before - after).max() < 256 * 2**-24 * np.abs(x).max() * np.abs(weight).max()
    assert np.array_equal(after == 0, before == 0)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel": 3, "strides": [2, 2]},
        # 1/3 is not exact: a runtime that multiplies by it may take the neighbour of a nearest place.
        {"strides": [3, 3]},
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"strides": [2, 2], "output_shape": [8, 6]},
        # More places behind the last than the stride has; ONNX Runtime refuses it.
        {"strides": [2, 2], "output_padding": [3, 0], "dilations": [4, 4]},
    ],
)
def test_others_are_left_alone(options: dict[str, Any]) -> None:
    model = deconvolution((4, 3), **options)
    assert rewrite(model).graph.node[:] == model.graph.node[:]


def test_what_is_not_known_is_left_alone() -> None:
    of_any_size = parse("(float[N,2,H,W] x) => (float[N,2,h,w] y) <float[2,2,1,1] w = {1,2,3,4}>"
                        " { y = ConvTranspose<strides=[2,2]>(x, w) }")  # fmt: skip
    computed = parse(
        "(float[N,2,4,4] x, float[2,2,1,1] w) => (float[N,2,7,7] y) { y = ConvTranspose<strides=[2,2]>(x, w) }"
    )
    for model in (of_any_size, computed):
        assert [node.op_type for node in rewrite(model).graph.node] == ["ConvTranspose"]


RESIZED = """
    (float[N,2,5,3] x) => (float[N,2,{h},{w}] y) <int64[2] hw = {{{h},{w}}}, float[0] none = {{}}>
    {{
        nc = Shape<start=0, end=2>(x)
        size = Concat<axis=0>(nc, hw)
        y = Resize<mode="linear", coordinate_transformation_mode="half_pixel">(x, none, none, size)
    }}
"""


def test_whole_factors_become_scales() -> None:
    model = parse(RESIZED.format(h=10, w=9))
    rewritten = rewrite(model)
    assert [node.op_type for node in rewritten.graph.node] == ["Resize"]
    weights = {item.name: numpy_helper.to_array(item) for item in rewritten.graph.initializer}
    assert weights[rewritten.graph.node[0].input[2]].tolist() == [1, 1, 2, 3]
    x = np.random.default_rng(0).normal(size=(3, 2, 5, 3)).astype(np.float32)
    assert np.array_equal(run(rewritten, x=x), run(model, x=x))


def test_other_factors_stay_sizes() -> None:
    model = parse(RESIZED.format(h=9, w=5))
    assert rewrite(model).graph.node[:] == model.graph.node[:]


def test_a_constant_stays_a_constant() -> None:
    model = parse("""
        (float[N,4] x) => (float[N,4] y) <float[1] one = {1}>
        {
            condition = Greater(x, one)
            shape = Shape(x)
            ones = Expand(one, shape)
            y = Where(condition, x, ones)
        }
    """)
    rewritten = rewrite(model)
    assert [node.op_type for node in rewritten.graph.node] == ["Greater", "Where"]
    x = np.random.default_rng(0).normal(1, 1, size=(3, 4)).astype(np.float32)
    assert np.array_equal(run(rewritten, x=x), run(model, x=x))


@pytest.mark.parametrize(("rank", "stated"), [("2", False), ("2", True), ("K", False)])
def test_a_constant_of_unknown_size_is_left_alone(rank: str, stated: bool) -> None:
    # The expanded constant may be what gives y its size.
    model = parse(f"""
        (float[N,4] x, int64[{rank}] s, int64[{rank}] t) => (float[A,B] y) <float[1] one = {{1}}>
        {{
            r = Reshape(x, s)
            condition = Greater(r, one)
            ones = Expand(one, t)
            z = Where(condition, r, ones)
            y = Identity(z)
        }}
    """)
    if stated:
        for name, kind in (("condition", TensorProto.BOOL), ("z", TensorProto.FLOAT)):
            model.graph.value_info.append(helper.make_tensor_value_info(name, kind, [None, None]))
    inputs = {"x": np.ones((1, 4), np.float32), "s": np.array([1, 4]), "t": np.array([3, 4])}
    assert run(rewrite(model), **inputs).shape == run(model, **inputs).shape == (3, 4)


def test_convolutions_state_their_kernel() -> None:
    model = parse("(float[N,1,4,4] x) => (float[N,1,3,2] y) <float[1,1,2,3] w = {1,2,3,4,5,6}>"
                  " { y = Conv(x, w) }")  # fmt: skip
    rewritten = rewrite(model)
    assert [list(item.ints) for item in rewritten.graph.node[0].attribute] == [[2, 3]]
    x = whole_numbers(np.random.default_rng(0), 2, 1, 4, 4)
    assert np.array_equal(run(rewritten, x=x), run(model, x=x))


@pytest.mark.parametrize(("reduction", "stays"), [("none", False), ("add", True)])
def test_scatter_loses_what_says_nothing(reduction: str, stays: bool) -> None:
    model = parse(
        "(float[4] x, int64[2,1] i, float[2] u) => (float[4] y)"
        f' {{ y = ScatterND<reduction="{reduction}">(x, i, u) }}'
    )
    rewritten = rewrite(model)
    assert bool(rewritten.graph.node[0].attribute) == stays
    inputs = {"x": np.ones(4, np.float32), "i": np.array([[2], [0]]), "u": np.array([3, 4], np.float32)}
    assert np.array_equal(run(rewritten, **inputs), run(model, **inputs))
