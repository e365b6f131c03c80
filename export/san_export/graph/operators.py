"""What the ONNX parser of TensorRT 10.3 (JetPack 6) refuses, and what it takes but computes otherwise.

The facts stand in onnx/onnx-tensorrt at commit 62bdde2a04fcd53c2409cb895ee18db445b7e755, which is parsers/onnx
of NVIDIA/TensorRT v10.3.0: docs/operators.md (operators and types), onnxOpImporters.cpp, onnxOpCheckers.cpp,
importerUtils.cpp and ModelImporter.cpp (the rest; each rule names its function), and NvInfer.h of TensorRT
itself. Networks are taken to be strongly typed. Later parsers take more; where the changelog or an issue tells
since when, the rule says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from san_deploy.errors import SanError

from .graph import Graph, view

#: First and last opset that docs/operators.md names. The parser itself checks no upper bound.
STATED_OPSETS = (9, 20)
#: The newest opset whose changes were compared with the importers. Those of 21 and 22 add element types, but for
#: GroupNormalization, blocked quantisation and the size of pools that round up.
LAST_OPSET = 22

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})
_NUMBERS = _FLOATS | {TensorProto.INT32, TensorProto.INT64}
_ALL = _NUMBERS | {TensorProto.BOOL}
_NARROW = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16})
_QUANTISED = frozenset({TensorProto.INT8, TensorProto.INT4, TensorProto.FLOAT8E4M3FN})


def _each(types: frozenset[int], names: str) -> dict[str, frozenset[int]]:
    return dict.fromkeys(names.split(), types)


#: Operator -> element types of its data. docs/operators.md, and the importer where that is stricter. Left out:
#: what needs a plugin, random numbers (the seed is ignored), recurrence and control flow.
OPERATORS: Mapping[str, frozenset[int]] = {
    **_each(
        _FLOATS,
        "Acos Acosh Asin Asinh Atan Atanh AveragePool BatchNormalization Ceil Conv ConvTranspose Cos Cosh CumSum"
        " Dropout Einsum Elu Erf Exp Floor Gelu Gemm GlobalAveragePool GlobalMaxPool GroupNormalization HardSigmoid"
        " Hardmax LayerNormalization LeakyRelu Log LogSoftmax LpNormalization LpPool LRN MatMul MaxPool PRelu Pow"
        " QuantizeLinear Reciprocal Relu Resize Round Selu Sigmoid Sin Sinh Softmax Softplus Softsign Sqrt Tan"
        " Tanh ThresholdedRelu",
    ),
    **_each(_NARROW, "GlobalLpPool GridSample HardSwish InstanceNormalization Mish NonZero RoiAlign"),
    # Their importers bring FP32 constants, which nothing but FP32 may meet in a strongly typed network.
    **_each(frozenset({TensorProto.FLOAT}), "Celu MeanVarianceNormalization Shrink"),
    **_each(
        _NUMBERS,
        "Abs Add ArgMax ArgMin Clip DepthToSpace Div Equal Greater GreaterOrEqual IsNaN Less LessOrEqual"
        " Max Mean Min Mod Mul Neg Pad ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean"
        " ReduceMin ReduceProd ReduceSum ReduceSumSquare ScatterElements ScatterND Sign SpaceToDepth Sub Sum TopK",
    ),
    **_each(
        _ALL,
        "Concat Constant ConstantOfShape Expand EyeLike Flatten Gather GatherElements GatherND Identity OneHot"
        " Reshape Size Slice Split Squeeze Tile Transpose Trilu Unsqueeze Where",
    ),
    **_each(_ALL | {TensorProto.UINT8}, "Cast CastLike Shape"),
    **_each(frozenset({TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64}), "Range"),
    **_each(_QUANTISED, "DequantizeLinear"),
    **_each(frozenset({TensorProto.BOOL}), "And Not Or Xor"),
}
#: Which input holds the data, where it is not the first.
_DATA = {"Where": 1}
_REDUCE = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
#: Operator -> the input that must be constant, and its name: reduceTensor, importSqueeze (until 10.6),
#: importUnsqueeze (likewise), importPad (until 10.3), importCumSum (until 10.7).
_CONSTANT = {
    **{f"Reduce{kind}": (1, "axes") for kind in _REDUCE},
    "Squeeze": (1, "axes"),
    "Unsqueeze": (1, "axes"),
    "Pad": (3, "axes"),
    "CumSum": (1, "axis"),
}
#: Operator -> attribute -> values that it may have: checkResize, docs/operators.md, poolingCheckHelper,
#: checkBatchNormalization, importPad, checkLpNormalization, checkLpPool, importTopK.
_ATTRIBUTES: dict[str, dict[str, tuple[Any, ...]]] = {
    "Resize": {
        "mode": ("nearest", "linear"),
        "coordinate_transformation_mode": (
            "half_pixel",
            "pytorch_half_pixel",
            "tf_half_pixel_for_nn",
            "asymmetric",
            "align_corners",
        ),
        "antialias": (0,),
        "keep_aspect_ratio_policy": ("stretch",),
    },
    "AveragePool": {"dilations": ([1], [1, 1], [1, 1, 1])},
    "MaxPool": {"dilations": ([1], [1, 1], [1, 1, 1])},
    "LpPool": {"dilations": ([1], [1, 1], [1, 1, 1]), "p": (1, 2)},
    "LpNormalization": {"p": (1, 2)},
    "BatchNormalization": {"training_mode": (0,)},
    "Pad": {"mode": ("constant", "reflect", "edge", "wrap")},
    "TopK": {"sorted": (1,)},
}
#: Operator -> how many outputs it may have.
_OUTPUTS = {"BatchNormalization": 1, "LayerNormalization": 1, "MaxPool": 1}


def check_operators(model: onnx.ModelProto) -> list[str]:
    """Every node that TensorRT 10.3 refuses or computes otherwise than ONNX says, in words.

    Args:
        model: of any precision; not changed.

    Returns:
        One line for each, `Operator name: what`, in the order of the graph; empty where all is well. A graph
        that cannot be looked at (control flow, functions, weights in another file) is one line.
    """
    try:
        graph = view(model)
    except SanError as error:
        return [str(error)]
    lines = []
    if not STATED_OPSETS[0] <= graph.opset <= LAST_OPSET:
        lines.append(
            f"opset {graph.opset}: known to be read rightly are {STATED_OPSETS[0]} to {LAST_OPSET}, and "
            f"NVIDIA states {STATED_OPSETS[0]} to {STATED_OPSETS[1]}"
        )
    for node in graph.nodes:
        name = f"{node.op_type} {node.name or next(iter(node.output), '')}".strip()
        lines.extend(f"{name}: {line}" for line in _node(graph, node))
    return lines


def _node(graph: Graph, node: onnx.NodeProto) -> Iterator[str]:
    if node.domain not in ("", "ai.onnx"):
        # The parser looks at the operator's name alone (ModelImporter.cpp, parseNode).
        yield f"is of the domain {node.domain}, which is not ONNX's own"
        return
    if node.op_type not in OPERATORS:
        yield "is no operator that TensorRT 10.3 is known to run"
        return
    options = _options(node)
    yield from _types(graph, node)
    if node.op_type in _CONSTANT:
        place, name = _CONSTANT[node.op_type]
        if len(node.input) > place and node.input[place] and node.input[place] not in graph.constants:
            yield f"{name} must be constant"
    for name, allowed in _ATTRIBUTES.get(node.op_type, {}).items():
        if name in options and options[name] not in allowed:
            yield f"{name} {options[name]} is not taken"
    if len([name for name in node.output if name]) > _OUTPUTS.get(node.op_type, len(node.output)):
        yield "has more outputs than are taken"
    special = _SPECIAL.get(node.op_type)
    if special is not None:
        yield from special(graph, node, options)


def _options(node: onnx.NodeProto) -> dict[str, Any]:
    values = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


def _types(graph: Graph, node: onnx.NodeProto) -> Iterator[str]:
    """Element types; UINT8 is the graph's own input or output and nothing else (ModelImporter.cpp, parseNode)."""
    allowed = OPERATORS[node.op_type]
    place = _DATA.get(node.op_type, 0)
    kind = graph.types.get(node.input[place]) if len(node.input) > place else None
    if kind is not None and kind not in allowed:
        yield f"does not take {TensorProto.DataType.Name(kind)}"
    for name in node.output:
        kind = graph.types.get(name)
        if kind == TensorProto.UINT8 and name not in graph.outputs:
            yield "gives UINT8, which only an output of the whole graph may be"
        elif node.op_type in ("Cast", "CastLike") and kind is not None and kind not in allowed:
            yield f"does not cast to {TensorProto.DataType.Name(kind)}"


Special = Callable[[Graph, onnx.NodeProto, dict[str, Any]], Iterator[str]]


def _conv(graph: Graph, node: onnx.NodeProto, options: dict[str, Any]) -> Iterator[str]:
    # convMultiInput, which convolutions with quantised weights take, reads the attribute alone (until 10.3).
    computed = any(name and name not in graph.constants for name in node.input[1:])
    if computed and "kernel_shape" not in options:
        yield "has weights that are computed or quantised, and so must state kernel_shape"


def _gemm(graph: Graph, node: onnx.NodeProto, options: dict[str, Any]) -> Iterator[str]:
    # importGemm multiplies with FP32 constants.
    scaled = options.get("alpha", 1.0) != 1.0 or (len(node.input) > 2 and options.get("beta", 1.0) != 1.0)
    if scaled and graph.types.get(node.input[0]) != TensorProto.FLOAT:
        yield "alpha and beta other than 1 are taken in FP32 alone"


def _grid_sample(graph: Graph, node: onnx.NodeProto, options: dict[str, Any]) -> Iterator[str]:
    # importGridSample; NVIDIA/TensorRT issue 4646 and onnx-tensorrt pull request 1060 report it up to 11.1.
    mode = options.get("mode", "linear" if graph.opset >= 20 else "bilinear")
    if mode not in ("nearest", "bilinear", "bicubic") and graph.opset >= 20:
        yield f"mode {mode} is run as nearest, without a word: export with an opset below 20"
    rank = len(graph.shapes.get(node.input[0], (None,) * 4))
    if rank != 4:
        yield f"takes 4 dimensions, not {rank}"


def _group_normalization(graph: Graph, node: onnx.NodeProto, options: dict[str, Any]) -> Iterator[str]:
    # importGroupNormalization; from opset 21 on, scale and bias are per channel (read since 10.9).
    if graph.opset >= 21:
        yield "is read as before opset 21, with scale and bias per group: export with a lower opset"


def _einsum(graph: Graph, node: onnx.NodeProto, options: dict[str, Any]) -> Iterator[str]:
    # checkEinsum; NvInfer.h, IEinsumLayer (diagonals since 10.12).
    terms = options["equation"].replace(" ", "").split("->")[0].split(",")
    if options["equation"].lower() != options["equation"]:
        yield "takes lower-case letters alone"
    letters = [term.replace(".", "") for term in terms]
    if any(len(set(term)) != len(term) for term in letters):
        yield "takes no diagonal"


def _pool(graph: Graph, node: onnx.NodeProto, options: dict[str, Any]) -> Iterator[str]:
    # poolingHelper; NvInfer.h, PaddingMode::kEXPLICIT_ROUND_UP. ONNX leaves out what starts behind the input.
    if not options.get("ceil_mode", 0):
        return
    kernel = options["kernel_shape"]
    strides = options.get("strides", [1] * len(kernel))
    pads = options.get("pads", [0] * 2 * len(kernel))
    sizes = graph.shapes.get(node.input[0], (None,) * (len(kernel) + 2))[2:]
    for size, extent, stride, start, end in zip(
        sizes, kernel, strides, pads[: len(kernel)], pads[len(kernel) :], strict=True
    ):
        if size is None or -(-(size + start + end - extent) // stride) * stride >= size + start:
            yield "with ceil_mode has a place more than in ONNX, all in the padding"
            return


def _pow(graph: Graph, node: onnx.NodeProto, options: dict[str, Any]) -> Iterator[str]:
    # elementwiseCheck; both sides of a strongly typed element-wise layer have one type.
    base, exponent = (graph.types.get(name) for name in node.input)
    if base is not None and exponent is not None and base != exponent:
        yield (
            f"takes base and exponent of one type, not {TensorProto.DataType.Name(base)} and "
            f"{TensorProto.DataType.Name(exponent)}"
        )


def _resize(graph: Graph, node: onnx.NodeProto, options: dict[str, Any]) -> Iterator[str]:
    shape = graph.shapes.get(node.input[0])
    sizes = node.input[3] if len(node.input) > 3 else ""
    axes = options.get("axes")
    rounding = options.get("nearest_mode", "round_prefer_floor")
    if (
        options.get("coordinate_transformation_mode") == "tf_half_pixel_for_nn"
        and rounding != "round_prefer_floor"
    ):
        yield "tf_half_pixel_for_nn goes with nearest_mode round_prefer_floor alone"
    if axes is not None and (shape is None or len(axes) < len(shape)):
        # importResize fills the sizes of the other axes from a shape that must be wholly known.
        if sizes in graph.constants and (shape is None or None in shape):
            yield "axes with constant sizes need a constant shape: give all sizes"
        elif not sizes and node.input[2] not in graph.constants:
            yield "axes with computed scales are not taken"
    scales = graph.constant_value(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    # canUseNDResize
    if options.get("mode") == "linear" and axes is None and scales is not None and any(scales[:-3] != 1):
        yield "linear resizes the last 3 dimensions alone"


def _scatter_nd(graph: Graph, node: onnx.NodeProto, options: dict[str, Any]) -> Iterator[str]:
    # importScatterND refuses the attribute, whatever its value (until 10.8).
    if "reduction" in options:
        yield "reduction is not taken, not even none"


def _dropout(graph: Graph, node: onnx.NodeProto, options: dict[str, Any]) -> Iterator[str]:
    if len(node.input) > 2 and node.input[2]:
        training = graph.constant_value(node.input[2])
        if training is None or training.any():
            yield "does not run as in training"


def _quantize(graph: Graph, node: onnx.NodeProto, options: dict[str, Any]) -> Iterator[str]:
    # QuantDequantLinearHelper, here and in the next two functions.
    given = len(node.input) > 2 and node.input[2] != ""
    kind = graph.types.get(node.input[2]) if given else options.get("output_dtype", TensorProto.UINT8)
    if kind not in _QUANTISED:
        # A UINT8 zero point is read as INT32 weights, and INT8 is taken instead of it with a warning.
        yield "gives UINT8 as ONNX reads it, and INT8 in TensorRT: give a zero point of INT8"
    if _per_axis(graph, node) and node.input[0] not in graph.constants:
        yield "has a scale for each channel, which only weights may have"
    yield from _scales(graph, node, options)


def _dequantize(graph: Graph, node: onnx.NodeProto, options: dict[str, Any]) -> Iterator[str]:
    yield from _scales(graph, node, options)


def _scales(graph: Graph, node: onnx.NodeProto, options: dict[str, Any]) -> Iterator[str]:
    scale = graph.constant_value(node.input[1])
    if scale is not None and not (scale > 0).all():
        yield "has a scale that is not above 0"
    zero = graph.constant_value(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if zero is not None and zero.any():
        yield "has a zero point other than 0"
    if len(node.input) > 2 and node.input[2] and zero is None:
        yield "has a zero point that is not constant"
    if _per_axis(graph, node) and "axis" not in options:
        yield "has no axis, which ONNX reads as 1 and TensorRT as 0: state it"


def _per_axis(graph: Graph, node: onnx.NodeProto) -> bool:
    shape = graph.shapes.get(node.input[1], ())
    return int(np.prod([size or 2 for size in shape])) != 1


_SPECIAL: dict[str, Special] = {
    "AveragePool": _pool,
    "Conv": _conv,
    "DequantizeLinear": _dequantize,
    "Dropout": _dropout,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "GridSample": _grid_sample,
    "GroupNormalization": _group_normalization,
    "LpPool": _pool,
    "MaxPool": _pool,
    "Pow": _pow,
    "QuantizeLinear": _quantize,
    "Resize": _resize,
    "ScatterND": _scatter_nd,
}
