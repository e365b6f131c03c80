"""Weights of two graphs held against each other: what rounding a weight does not explain.

A fault in the weights may be smaller than the rounding of activations, but never than the rounding of the weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from ..graph.graph import WEIGHTED_OPS, Graph
from .align import origin
from .constants import Constant, constant
from .stages.layer_replay import Segment

#: Of the largest weight of an output channel: batch norms may be folded in FP32 or FP64.
_FP32 = 2.0**-20
_HALF = 2.0**-11
#: Half the smallest step of FP16.
_LEAST_HALF = 2.0**-25
#: A value exactly between two steps, and what computing it in FP32 adds.
_SLACK = 1.01
#: What of a batch norm is compared: scale, bias, mean and variance.
_PLACES = {"BatchNormalization": (1, 2, 3, 4)}


@dataclass(frozen=True, eq=False)
class WeightPair:
    """A constant of a layer in both graphs.

    Attributes:
        name: in the target.
        place: among the inputs of its node.
        reference, target: float64, of one shape.
        tolerance: float64 of that shape, what rounding explains of each difference.
    """

    name: str
    place: int
    reference: np.ndarray
    target: np.ndarray
    tolerance: np.ndarray

    @property
    def excess(self) -> float:
        """The largest difference, in units of what is explained; infinite for a NaN."""
        if not self.target.size:
            return 0.0
        with np.errstate(invalid="ignore"):
            ratio = np.abs(self.target - self.reference) / self.tolerance
        return float(ratio.max()) if np.isfinite(self.target).all() else float("inf")


def weight_pairs(
    reference: Graph,
    target: Graph,
    theirs: NodeProto,
    mine: NodeProto,
    segment: Segment,
    partner: Mapping[str, str],
    pixels: tuple[frozenset[str], frozenset[str]],
) -> tuple[WeightPair, ...]:
    """The constants of two nodes that stand for each other.

    Args:
        reference: the graph of the reference.
        target: the graph of the target.
        theirs: a node of the reference.
        mine: a node of the target.
        segment: of the target, that `mine` is part of.
        partner: `{value of the target: value of the reference}`.
        pixels: the values of both graphs that no product has touched, where those are not paired because the
            inputs have their channels in other orders.

    Returns:
        Nothing where the nodes are of different kinds, or do not read the same value: weights say nothing then.
    """
    if mine.op_type != theirs.op_type or mine.op_type not in WEIGHTED_OPS | _PLACES.keys():
        return ()
    source = origin(target, mine.input[0], set(partner))
    theirs_source = origin(reference, theirs.input[0], set(partner.values()))
    # Pixels that are not paired may be in another order of channels, and the weights with them.
    turned = source not in partner and source in pixels[1] and theirs_source in pixels[0]
    if not turned and partner.get(source) != theirs_source:
        return ()
    half = segment.precision.unit >= _HALF
    found: list[WeightPair] = []
    for place in _PLACES.get(mine.op_type, (1, 2)):
        if place >= min(len(mine.input), len(theirs.input)):
            continue
        a, b = constant(reference, theirs.input[place]), constant(target, mine.input[place])
        if a is None or b is None:
            continue
        if place == 1 and mine.op_type == "Gemm" and _flag(mine) != _flag(theirs):
            a = Constant(a.values.T, None, a.half)
        if turned and place == 1 and a.values.shape == b.values.shape and a.values.ndim == 4:
            other = a.values[:, ::-1]
            if np.abs(other - b.values).sum() < np.abs(a.values - b.values).sum():
                a = Constant(other, None, a.half)
        if a.values.shape == b.values.shape:
            name = origin(target, mine.input[place])
            axis = _axis(mine) if place == 1 else 0
            found.append(WeightPair(name, place, a.values, b.values, _tolerance(a, b, axis, half or b.half)))
    return tuple(found)


def channels(values: np.ndarray, node: NodeProto) -> np.ndarray:
    """A weight as `(outputs, the rest)`."""
    axis = _axis(node) if values.ndim > 1 else 0
    return np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)


def _axis(node: NodeProto) -> int:
    if node.op_type == "Gemm":
        return 0 if _flag(node) else 1
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": -1}.get(node.op_type, 0)


def _flag(node: NodeProto) -> bool:
    return any(item.name == "transB" and item.i for item in node.attribute)


def _tolerance(a: Constant, b: Constant, axis: int, half: bool) -> np.ndarray:
    size = np.abs(a.values)
    size = np.where(np.isfinite(size), size, 0.0)
    rest = tuple(place for place in range(size.ndim) if place != axis % max(size.ndim, 1))
    largest = size.max(axis=rest, keepdims=True, initial=0.0) if size.ndim > 1 else size
    result = _FP32 * largest + np.finfo(np.float32).tiny
    if half:
        result = result + _HALF * size + _LEAST_HALF
    if b.step is not None:
        result = result + b.step / 2
    return np.asarray(np.broadcast_to(_SLACK * result, size.shape))
