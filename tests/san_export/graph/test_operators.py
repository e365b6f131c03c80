from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper, parser
from san_export.graph.operators import LAST_OPSET, OPERATORS, check_operators


def parse(body: str, opset: int = 18) -> onnx.ModelProto:
    """`(inputs) => (outputs) <constants> { nodes }`, the types of which hold."""
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> g {body}')
    onnx.checker.check_model(model, full_check=True)
    return model


IMAGE = "(float[N,4,8,6] x)"
#: What TensorRT 10.3 runs as ONNX says, opset 18 and 22.
GOOD = {
    "mask": f"""{IMAGE} => (float[N,4,8,6] y) <int64[2] hw = {{2,3}}, float half = {{0.5}}>
        {{ low = ReduceMin(x, hw) high = ReduceMax(x, hw) sum = Add(low, high) middle = Mul(sum, half)
           above = Greater(x, middle) mask = Cast<to=1>(above) y = Mul(x, mask) }}""",
    "bytes": "(uint8[N,8,6,3] x) => (float[N,3,8,6] y) { f = Cast<to=1>(x) y = Transpose<perm=[0,3,1,2]>(f) }",
    "size": "(uint8[N,8,6,3] x) => (int64[4] y) { y = Shape(x) }",
    "to bytes": "(float[N,4] x) => (uint8[N,4] y) { y = Cast<to=2>(x) }",
    "unit rows": """(float[N,4] x) => (float[N,4] y) <int64[1] last = {1}, float least = {1e-24}>
        { s = Mul(x, x) sum = ReduceSum<keepdims=1>(s, last) c = Clip(sum, least) r = Sqrt(c)
          i = Reciprocal(r) y = Mul(x, i) }""",
    "linear": "(float[N,4] x, float[5,4] w, float[5] b) => (float[N,5] y) { y = Gemm<transB=1>(x, w, b) }",
    "scaled linear": "(float[N,4] x, float[4,5] w) => (float[N,5] y) { y = Gemm<alpha=2.0>(x, w) }",
    "nearest": f"""{IMAGE} => (float[N,4,16,12] y) <float[4] s = {{1,1,2,2}}, float[0] roi = {{}}>
        {{ y = Resize<coordinate_transformation_mode="asymmetric", nearest_mode="floor">(x, roi, s) }}""",
    "computed size": f"""{IMAGE} => (float[N,4,9,5] y) <int64[2] hw = {{9,5}}, float[0] no = {{}}>
        {{ nc = Shape<start=0, end=2>(x) s = Concat<axis=0>(nc, hw) y = Resize<mode="linear">(x, no, no, s) }}""",
    "attention": """(float[N,4,8] q, float[N,8,4] k) => (float[N,4,4] y)
        { a = MatMul(q, k) s = Softmax<axis=-1>(a) t = Sigmoid(s) e = Exp(t) y = Div(s, e) }""",
    "layout": f"""{IMAGE} => (float[N,2,8,6] y) <int64[1] at = {{1}}, int64[2] i = {{0,1}}, int64[1] zero = {{0}}>
        {{ a, b = Split<axis=1, num_outputs=2>(x) c = Concat<axis=1>(a, b) d = Gather<axis=1>(c, i)
           e = Slice(d, zero, at, zero) shape = Shape(d) f = Expand(e, shape) y = Identity(f) }}""",
    "pool": f"""{IMAGE} => (float[N,4,1,1] y)
        {{ a = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x)
           b = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(a) y = GlobalAveragePool(b) }}""",
    "instance": """(float[N,4,8,6] x, float[4] s, float[4] b) => (float[N,4,8,6] y)
        { y = InstanceNormalization(x, s, b) }""",
    "power": "(float16[N,4] x, float16[1] p) => (float16[N,4] y) { y = Pow(x, p) }",
    "scatter": "(float[4] x, int64[2,1] i, float[2] u) => (float[4] y) { y = ScatterND(x, i, u) }",
    "int8": """(float[N,2,4,4] x) => (float[N,1,4,4] y)
        <float s = {0.1}, int8 z = {0}, float[1] ws = {0.2}, int8[1] wz = {0}, int8[1,2,1,1] w = {1,2}>
        { q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) dw = DequantizeLinear<axis=0>(w, ws, wz)
          y = Conv<kernel_shape=[1,1]>(d, dw) }""",
    "rounds up": f"{IMAGE} => (float[N,4,4,3] y) {{ y = MaxPool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(x) }}",
}


@pytest.mark.parametrize("opset", [18, 22])
@pytest.mark.parametrize("name", GOOD)
def test_what_runs_is_not_complained_about(name: str, opset: int) -> None:
    assert check_operators(parse(GOOD[name], opset)) == []


GRID = """(float[N,4,8,6] x, float[N,5,5,2] g) => (float[N,4,5,5] y) {{ y = GridSample{mode}(x, g) }}"""
QUANTISED = """(float[N,3,4,4] x) => ({kind}[N,3,4,4] y) <float{n} s = {s}, {kind}{n} z = {z}>
    {{ y = QuantizeLinear{axis}(x, s, z) }}"""
#: Valid ONNX that TensorRT 10.3 refuses or computes otherwise: graph, opset, words of the complaint.
BAD = {
    "grid sample since opset 20": (
        GRID.format(mode='<mode="linear">'),
        20,
        ["mode linear", "nearest", "below 20"],
    ),
    "its default": (GRID.format(mode=""), 22, ["mode linear"]),
    "five dimensions": (
        """(float[1,4,8,6,5] x, float[1,5,5,5,3] g) => (float[1,4,5,5,5] y) { y = GridSample<mode="nearest">(x, g) }""",
        20,
        ["4 dimensions, not 5"],
    ),
    "group normalisation since 21": (
        """(float[N,4,8,6] x, float[4] s, float[4] b) => (float[N,4,8,6] y)
        { y = GroupNormalization<num_groups=2>(x, s, b) }""",
        21,
        ["before opset 21"],
    ),
    "transposed bytes": (
        "(uint8[N,8,6,3] x) => (float[N,3,8,6] y) { t = Transpose<perm=[0,3,1,2]>(x) y = Cast<to=1>(t) }",
        18,
        ["Transpose t", "UINT8"],
    ),
    "bytes between": (
        "(float[N,4] x) => (float[N,4] y) { b = Cast<to=2>(x) y = Cast<to=1>(b) }",
        18,
        ["Cast b", "UINT8"],
    ),
    "double": ("(double[N,4] x) => (double[N,4] y) { y = Relu(x) }", 18, ["DOUBLE"]),
    "cast to short": ("(float[N,4] x) => (int16[N,4] y) { y = Cast<to=5>(x) }", 18, ["cast to INT16"]),
    "axes that are computed": (
        "(float[N,4] x, int64[1] a) => (float[N,M] y) { y = ReduceMax(x, a) }",
        18,
        ["axes must be constant"],
    ),
    "random": ("() => (float[2] y) { y = RandomUniform<shape=[2]>() }", 18, ["RandomUniform", "no operator"]),
    "antialias": (
        """(float[1,1,8,6] x) => (float[1,1,4,3] y) <float[4] s = {1,1,0.5,0.5}, float[0] roi = {}>
        { y = Resize<mode="linear", antialias=1>(x, roi, s) }""",
        18,
        ["antialias 1"],
    ),
    "cubic": (
        """(float[1,1,8,6] x) => (float[1,1,16,12] y) <float[4] s = {1,1,2,2}, float[0] roi = {}>
        { y = Resize<mode="cubic">(x, roi, s) }""",
        18,
        ["mode cubic"],
    ),
    "sizes of some axes": (
        """(float[N,1,8,6] x) => (float[N,1,9,5] y) <int64[2] hw = {9,5}, float[0] no = {}>
        { y = Resize<mode="linear", axes=[2,3]>(x, no, no, hw) }""",
        18,
        ["axes with constant sizes"],
    ),
    "linear in four dimensions": (
        """(float[2,1,8,6] x) => (float[4,1,16,12] y) <float[4] s = {2,1,2,2}, float[0] roi = {}>
        { y = Resize<mode="linear">(x, roi, s) }""",
        18,
        ["last 3 dimensions"],
    ),
    "old rounding": (
        """(float[1,1,8,6] x) => (float[1,1,16,12] y) <float[4] s = {1,1,2,2}, float[0] roi = {}>
        { y = Resize<coordinate_transformation_mode="tf_half_pixel_for_nn", nearest_mode="floor">(x, roi, s) }""",
        11,
        ["round_prefer_floor"],
    ),
    "dilated pool": (
        "(float[1,1,8,6] x) => (float[1,1,4,2] y) { y = MaxPool<kernel_shape=[3,3], dilations=[2,2]>(x) }",
        18,
        ["dilations [2, 2]"],
    ),
    "indices of a pool": (
        "(float[1,1,8,6] x) => (float[1,1,7,5] y, int64[1,1,7,5] i) { y, i = MaxPool<kernel_shape=[2,2]>(x) }",
        18,
        ["more outputs"],
    ),
    "a place in the padding": (
        """(float[1,1,4,4] x) => (float[1,1,h,w] y)
        { y = MaxPool<kernel_shape=[1,1], strides=[2,2], pads=[0,0,1,1], ceil_mode=1>(x) }""",
        22,
        ["ceil_mode"],
    ),
    "scatter that says none": (
        """(float[4] x, int64[2,1] i, float[2] u) => (float[4] y) { y = ScatterND<reduction="none">(x, i, u) }""",
        18,
        ["not even none"],
    ),
    "scaled in FP16": (
        "(float16[N,4] x, float16[4,5] w) => (float16[N,5] y) { y = Gemm<alpha=2.0>(x, w) }",
        18,
        ["FP32 alone"],
    ),
    "two types": (
        "(float16[N,4] x, float[1] p) => (float16[N,4] y) { y = Pow(x, p) }",
        18,
        ["FLOAT16 and FLOAT"],
    ),
    "training": (
        "(float[N,4] x) => (float[N,4] y) <float r = {0.5}, bool t = {1}> { y = Dropout(x, r, t) }",
        18,
        ["training"],
    ),
    "diagonal": (
        """(float[4,4] x) => (float[4] y) { y = Einsum<equation="ii->i">(x) }""",
        18,
        ["diagonal"],
    ),
    "capitals": (
        """(float[4,3] x) => (float[3,4] y) { y = Einsum<equation="NC->CN">(x) }""",
        18,
        ["lower-case"],
    ),
    "quantised to UINT8": (
        QUANTISED.format(kind="uint8", n="", s="{0.1}", z="{0}", axis=""),
        18,
        ["INT8 in TensorRT"],
    ),
    "by default, too": (
        "(float[N,4] x) => (uint8[N,4] y) <float s = {0.1}> { y = QuantizeLinear(x, s) }",
        18,
        ["give a zero point of INT8"],
    ),
    "asymmetric": (
        QUANTISED.format(kind="int8", n="", s="{0.1}", z="{3}", axis=""),
        18,
        ["zero point other than 0"],
    ),
    "no scale": (QUANTISED.format(kind="int8", n="", s="{0}", z="{0}", axis=""), 18, ["not above 0"]),
    "channels of a map": (
        QUANTISED.format(kind="int8", n="[3]", s="{1,2,3}", z="{0,0,0}", axis="<axis=1>"),
        18,
        ["only weights"],
    ),
    "axis that two read differently": (
        """(float[2] x) => (float[2,2] y) <int8[2,2] w = {1,2,3,4}, float[2] s = {1,2}, int8[2] z = {0,0}>
        { y = DequantizeLinear(w, s, z) }""",
        18,
        ["TensorRT as 0"],
    ),
    "INT32 bias": (
        "(float[2] x) => (float[2] y) <int32[2] b = {1,2}, float s = {1}> { y = DequantizeLinear(b, s) }",
        18,
        ["INT32"],
    ),
    "kernel that is not stated": (
        """(float[1,2,4,4] x) => (float[1,1,4,4] y) <int8[1,2,1,1] w = {1,2}, float s = {1}, int8 z = {0}>
        { d = DequantizeLinear(w, s, z) y = Conv(x, d) }""",
        18,
        ["Conv y", "kernel_shape"],
    ),
    "FP32 constants inside": ("(float16[N,4] x) => (float16[N,4] y) { y = Shrink(x) }", 18, ["FLOAT16"]),
    "new opset": ("(float[N,4] x) => (float[N,4] y) { y = Relu(x) }", LAST_OPSET + 1, ["opset 23"]),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_run_is_told(name: str) -> None:
    body, opset, words = BAD[name]
    lines = check_operators(parse(body, opset))
    assert lines
    for word in words:
        assert word in " | ".join(lines)


def test_lines_name_operator_and_node() -> None:
    model = parse("(float16[N,4] x) => (float16[N,4] y) { h = Shrink(x) y = Shrink(h) }")
    model.graph.node[1].name = "second"
    first, second = check_operators(model)
    assert first.startswith("Shrink h: ") and second.startswith("Shrink second: ")
    assert "\n" not in first


def test_another_domain_is_told() -> None:
    model = parse("(float[N,4] x) => (float[N,4] y) { y = Relu(x) }")
    model.graph.node[0].domain = "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert "com.microsoft" in check_operators(model)[0]


def test_control_flow_is_one_line() -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["z"])], "b", [], [helper.make_tensor_value_info("z", 1, [4])]
    )
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)],
        "g",
        [
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [4]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    (line,) = check_operators(model)
    assert "control flow" in line


def test_every_operator_is_onnx_s_own() -> None:
    # A typing error in the table would pass for an operator that nobody uses.
    known = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    assert set(OPERATORS) <= known


def test_tensorrt_rtx_takes_what_is_not_complained_about() -> None:
    # A later parser, but the same code where it was not changed: the good graphs are good to it as well.
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.ERROR)
    for name, body in GOOD.items():
        network = trt.Builder(logger).create_network(0)
        parser_ = trt.OnnxParser(network, logger)
        assert parser_.parse(parse(body).SerializeToString()), name
