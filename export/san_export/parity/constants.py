"""Constants as the graph uses them: what an INT8 or FP16 weight stands for, and how it was rounded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from ..graph.graph import Graph


@dataclass(frozen=True, eq=False)
class Constant:
    """One constant.

    Attributes:
        values: float64, as they are multiplied or added.
        step: of its grid, float64 that broadcasts to `values`; None where it is not quantised.
        half: whether it is stored in FP16.
    """

    values: np.ndarray
    step: np.ndarray | None
    half: bool


def constant(graph: Graph, name: str) -> Constant | None:
    """Follow a name through casts and DequantizeLinear to an initialiser; None where it is none."""
    number = graph.constant_value(name)
    if number is not None:
        return Constant(number.astype(np.float64), None, graph.types[name] == TensorProto.FLOAT16)
    index = graph.producer.get(name)
    if index is None:
        return None
    node = graph.nodes[index]
    if node.op_type in ("Cast", "Identity"):
        inner = constant(graph, node.input[0])
        half = graph.types.get(name) == TensorProto.FLOAT16
        return None if inner is None else Constant(inner.values, inner.step, inner.half or half)
    if node.op_type != "DequantizeLinear":
        return None
    levels, scale = graph.constant_value(node.input[0]), graph.constant_value(node.input[1])
    zero = graph.constant_value(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1)
    if levels is None or scale is None or zero is None:
        return None
    options = {item.name: item.i for item in node.attribute}
    if options.get("block_size", 0):
        return None
    wide = [1] * levels.ndim
    if scale.size > 1:
        wide[options.get("axis", 1)] = -1
    step = scale.astype(np.float64).reshape(wide)
    offset = zero.astype(np.float64).reshape(wide if zero.size > 1 else [1] * levels.ndim)
    return Constant((levels.astype(np.float64) - offset) * step, step, scale.dtype == np.float16)
