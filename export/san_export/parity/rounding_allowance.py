"""What rounding explains of a layer's error: how its result moves when what it reads moves by a rounding."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from ..graph.graph import WEIGHTED_OPS, Graph
from .align import origin
from .constants import constant

_FP16: int = TensorProto.FLOAT16
_BF16: int = TensorProto.BFLOAT16
_QUANTISED = frozenset({"DequantizeLinear", "QuantizeLinear"})
_UNIT_FP32, _UNIT_FP16, _UNIT_BF16 = 2.0**-24, 2.0**-11, 2.0**-8
#: The smallest step of FP16, below which a rounding is no longer relative.
_LEAST_FP16 = 2.0**-25
#: The most that the ends of a grid may cut off, of a value's norm. Calibration cuts off rare large values, on its
#: own crops: up to 0.11 here. A scale that is half of what it should be cuts off more.
_MOST_CUT = 0.2
#: How many times what one rounding of the inputs does is allowed. Honest graphs (the starter, a ResNet-50, small
#: networks of every architecture, mask, upsampling and form of INT8) reach 0.29 of what is allowed in FP16, 0.26
#: in INT8 and 0.06 in FP32, whose sums other kernels may add in another order.
_TIMES_FP32, _TIMES_FP16, _TIMES_INT8 = 32.0, 4.0, 4.0
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

    @property
    def times(self) -> float:
        """How many times what a rounding of the inputs does is allowed."""
        if self.int8:
            return _TIMES_INT8
        return _TIMES_FP32 if self.unit == _UNIT_FP32 else _TIMES_FP16

    def allowed(self, explained: float, norm: float) -> float:
        """What is allowed of a relative error.

        Args:
            explained: norm of how far the result moved with its inputs.
            norm: of the reference's result.
        """
        if not norm > 0:
            return 0.0
        return self.times * float(np.hypot(explained / norm, self.unit))


def precision(graph: Graph, nodes: Iterable[int]) -> Precision:
    """How nodes round, by their types, their casts (an FP16 graph in its rounded form has no more) and Q/DQ."""
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


def _even(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Evenly spread over -1..1, float32."""
    return np.asarray(2 * rng.random(shape, np.float32) - 1)


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
            weight = constant(graph, node.input[1])
            if weight is not None and weight.step is not None and np.any(weight.values):
                error = np.sqrt(np.mean(np.square(weight.step)) / 12)
                largest = max(largest, float(error / np.sqrt(np.mean(np.square(weight.values)))))
    return largest
