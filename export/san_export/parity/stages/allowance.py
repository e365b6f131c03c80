"""What rounding explains of a layer's error: how its result moves when what it reads moves by a rounding.

The unit is measured: the layer is run once more on inputs that were moved at random by one rounding, so that
cancellation and saturation count as they happen. How many units are allowed follows from the number of roundings
on the way: n independent ones add up to sqrt(n), and exceed LAMBDA sqrt(n) with a probability of 2 exp(-LAMBDA^2 / 2)
for one value (Higham and Mary, "A New Approach to Probabilistic Rounding Error Analysis", 2019), next to never for
the norm over thousands of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, TensorProto, helper

from ...graph.graph import WEIGHTED_OPS, Graph

#: Standard deviations of the sum of independent roundings that are allowed.
LAMBDA = 2.0
#: What changes the type or the grid of a value and nothing else.
ROUNDING = frozenset({"Cast", "DequantizeLinear", "Identity", "QuantizeLinear"})
_FP16: int = TensorProto.FLOAT16
_BF16: int = TensorProto.BFLOAT16
_QUANTISED = frozenset({"DequantizeLinear", "QuantizeLinear"})
_UNIT_FP32, _UNIT_FP16, _UNIT_BF16 = 2.0**-24, 2.0**-11, 2.0**-8
#: Half of the smallest step of FP16, below which a rounding is no longer relative.
_LEAST_FP16 = 2.0**-25
#: The most that the ends of a grid may cut off, of a value's norm. Calibration cuts off rare large values, on its
#: own crops: up to 0.11 here. A scale that is half of what it should be cuts off more.
_MOST_CUT = 0.2
#: Operators that give the same bits for the same bits.
_EXACT = frozenset(
    {
        "Abs",
        "And",
        "Cast",
        "Equal",
        "Greater",
        "GreaterOrEqual",
        "Identity",
        "Less",
        "LessOrEqual",
        "Max",
        "MaxPool",
        "Min",
        "Neg",
        "Not",
        "Or",
        "ReduceMax",
        "ReduceMin",
        "Relu",
        "Reshape",
        "Transpose",
        "Where",
        "Xor",
    }
)


@dataclass(frozen=True)
class Precision:
    """How a part of a graph rounds.

    Attributes:
        unit: largest relative error of rounding one value.
        int8: whether values go through the grid of a QuantizeLinear besides.
    """

    unit: float
    int8: bool


def allowed(explained: float, size: float, unit: float, roundings: int) -> float:
    """What rounding explains of a relative error.

    Args:
        explained: norm of how far the result moved with its inputs.
        size: norm of the reference's result.
        unit: largest relative error of rounding one value, for the result itself.
        roundings: on the way, see `count_roundings`.
    """
    if not size > 0:
        return 0.0
    return LAMBDA * float(np.sqrt(roundings) * np.hypot(explained / size, unit))


def precision(graph: Graph, nodes: Iterable[int]) -> Precision:
    """How nodes round, by their types, their casts (an emulated FP16 graph has no more) and Q/DQ."""
    unit, int8 = _UNIT_FP32, False
    for index in nodes:
        node = graph.nodes[index]
        int8 = int8 or node.op_type in _QUANTISED
        kinds = {graph.types.get(name) for name in (*node.input, *node.output)}
        if _BF16 in kinds:
            unit = _UNIT_BF16
        elif _FP16 in kinds:
            unit = max(unit, _UNIT_FP16)
    return Precision(unit, int8)


def count_roundings(graph: Graph, nodes: Iterable[int], how: Precision) -> int:
    """Roundings between what a part of a graph reads and what it gives.

    Two for the inputs and for the weights, one for each operator, and in FP32 one for each summand of a sum, which
    another kernel adds up in another order. FP16 and INT8 accumulate in FP32, whose roundings are nothing beside
    their own.
    """
    total = 2
    for index in nodes:
        node = graph.nodes[index]
        if node.op_type in _EXACT:
            continue
        total += 1
        if how == Precision(_UNIT_FP32, False):
            total += _summands(graph, node)
    return total


def is_exact(graph: Graph, nodes: Iterable[int], how: Precision) -> bool:
    """Whether nothing is rounded between what a part reads and what it gives."""
    return how == Precision(_UNIT_FP32, False) and all(graph.nodes[i].op_type in _EXACT for i in nodes)


def noise(
    value: np.ndarray, name: str, graph: Graph, nodes: Iterable[int], how: Precision, seed: int
) -> np.ndarray:
    """What a rounding of `value` may look like, and with it the rounding of the weights that multiply it.

    A weight's rounding moves a product as much as a rounding of the same relative size of what it multiplies.

    Args:
        value: floating point, any shape.
        name: of the value in the graph; `nodes` read it.
        graph: that the value is of.
        nodes: the part of it that is looked at.
        how: that part rounds.
        seed: of the noise.

    Returns:
        float32 of the same shape.
    """
    rng = np.random.default_rng(seed)
    wide = value.astype(np.float32, copy=False)
    result = wide * (_even(rng, value.shape) * np.float32(how.unit))
    if how.unit == _UNIT_FP16:
        result += _even(rng, value.shape) * np.float32(_LEAST_FP16)
    if how.int8:
        grid, relative = _grid(graph, name, nodes), _weight_error(graph, name, nodes)
        size = float(np.linalg.norm(wide)) / np.sqrt(max(wide.size, 1))
        result += np.float32(relative * size) * rng.standard_normal(value.shape, np.float32)
        if grid is not None:
            result += np.float32(grid.step / 2) * _even(rng, value.shape)
            cut = np.clip(wide, grid.low, grid.high) - wide
            if np.linalg.norm(cut) <= _MOST_CUT * np.linalg.norm(wide):
                # Beyond the end nothing moves any more: as far within it as the value lies beyond it.
                result = np.where(cut == 0, result, 2 * cut)
    return np.asarray(result, np.float32)


def origin(graph: Graph, name: str, stop: frozenset[str] | set[str] | dict[str, str] = frozenset()) -> str:
    """The value that `name` is a cast or a rounding of; what is in `stop` is not looked behind."""
    while name not in stop and (index := graph.producer.get(name)) is not None:
        node = graph.nodes[index]
        if node.op_type not in ROUNDING or not node.input[0] or name in graph.constants:
            break
        name = node.input[0]
    return name


def _even(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Evenly spread over -1..1, float32."""
    return np.asarray(2 * rng.random(shape, np.float32) - 1)


def _summands(graph: Graph, node: NodeProto) -> int:
    """How many numbers are added up to one of a node's result; 0 where that is not known."""
    if node.op_type in ("ReduceMean", "ReduceSum", "GlobalAveragePool", "AveragePool"):
        return int(np.prod([size or 1 for size in graph.shapes.get(node.input[0], ())[2:]], dtype=np.int64))
    if node.op_type not in WEIGHTED_OPS:
        return 0
    weight = graph.constants.get(origin(graph, node.input[1]))
    if weight is None or not weight.dims:
        return 0
    turned = any(item.name == "transB" and item.i for item in node.attribute)
    # The axis of the outputs.
    axis = {"Conv": 0, "ConvTranspose": 1, "Gemm": 0 if turned else 1}.get(node.op_type, len(weight.dims) - 1)
    return int(np.prod(weight.dims, dtype=np.int64)) // max(1, weight.dims[axis])


@dataclass(frozen=True)
class _Grid:
    step: float
    low: float
    high: float


def _grid(graph: Graph, name: str, nodes: Iterable[int]) -> _Grid | None:
    """What a value is rounded to; the coarsest where there are several."""
    found = None
    for index in nodes:
        node = graph.nodes[index]
        if node.op_type != "QuantizeLinear" or origin(graph, node.input[0], {name}) != name:
            continue
        scale = graph.constant_value(node.input[1])
        zero = (
            graph.constant_value(node.input[2])
            if len(node.input) > 2 and node.input[2]
            else np.zeros(1, np.uint8)
        )
        if scale is None or zero is None or zero.dtype.kind not in "iu":
            continue
        step, middle, ends = float(scale.max()), float(zero.flat[0]), np.iinfo(zero.dtype)
        if found is None or step > found.step:
            found = _Grid(step, (ends.min - middle) * step, (ends.max - middle) * step)
    return found


def _weight_error(graph: Graph, name: str, nodes: Iterable[int]) -> float:
    """The largest relative error of the quantised weights that a value meets."""
    largest = 0.0
    for index in nodes:
        node = graph.nodes[index]
        if node.op_type in WEIGHTED_OPS and origin(graph, node.input[0], {name}) == name:
            largest = max(largest, _quantisation_error(graph, node.input[1]))
    return largest


def _quantisation_error(graph: Graph, weight: str) -> float:
    """Root mean square of the error of rounding a weight to its grid, over that of its values."""
    while (index := graph.producer.get(weight)) is not None and graph.nodes[index].op_type in (
        "Cast",
        "Identity",
    ):
        weight = graph.nodes[index].input[0]
    if index is None or graph.nodes[index].op_type != "DequantizeLinear":
        return 0.0
    node = graph.nodes[index]
    levels, scale = graph.constant_value(node.input[0]), graph.constant_value(node.input[1])
    zero = graph.constant_value(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1)
    options = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    if levels is None or scale is None or zero is None or options.get("block_size"):
        return 0.0
    shape = [1] * levels.ndim
    if scale.size > 1:
        shape[options.get("axis", 1)] = -1
    step = scale.astype(np.float64).reshape(shape)
    middle = zero.astype(np.float64).reshape(shape if zero.size > 1 else [1] * levels.ndim)
    values = (levels.astype(np.float64) - middle) * step
    # A rounding is evenly spread over a step, whose standard deviation is a twelfth of its square.
    error = np.sqrt(np.mean(np.square(step)) / 12)
    return float(error / np.sqrt(np.mean(np.square(values)))) if np.any(values) else 0.0
