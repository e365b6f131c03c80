"""Running error analysis: a graph that gives, beside a value, how far another computation of it may be.

For every value v of a network this builds two more (Higham, Accuracy and Stability of Numerical Algorithms,
chapter 3: every rounding is a factor 1 + d, |d| <= u, and n of them are at most gamma_n = n u / (1 - n u)):

- P, with |b - v| <= P for the v that ONNX Runtime computes here in FP32 and any b that a computation in the
  graph's own types gives: sums in any order, with or without FMA, and with any of the roundings between fused
  operators left out.
- V, the variance of b - v if roundings are independent and none is worse than uniform over one unit.

v is computed with the weights that the typed graph has, so that rounding weights to FP16 is no error here, but a
different v.

What the proof takes for granted of the other computation: convolutions are sums of products (no Winograd or FFT
transform) that accumulate in FP32, FP16 or not; FP32 is not TF32; sums may truncate where operands are FP16, as
tensor cores do; numbers that FP16 or FP32 can hold only as subnormals are rounded to those, not to zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from ..graph.graph import Graph, new_name, view
from ..graph.mask_branches import MaskBranch, find_branches

_FP16: int = TensorProto.FLOAT16
_FP32: int = TensorProto.FLOAT
#: Unit roundoffs. Sums of FP16 products in FP32 may be truncated, which costs one bit.
_UNIT = 2.0**-24
_TRUNCATED = 2.0**-23
_HALF = 2.0**-11
#: Half the distance of FP16's subnormals; and more than all that the bounds' own arithmetic can lose to underflow.
_HALF_SUBNORMAL = 2.0**-25
_TINY = 1e-36
#: Standard deviations by which a value must be below zero for a ReLU to stop its roundings.
_SURE = 6.0
#: No rounding, and as far away as their input: what chooses and reorders.
_EXACT = frozenset({"Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})


class Unbounded(Exception):
    """The analysis does not reach a value: an operator, or a form of it, that it does not know."""


@dataclass(frozen=True)
class Bounded:
    """One sharp block in a graph of `bounding_graph`: names of outputs.

    Attributes:
        x: what the mask is drawn from, as computed here.
        bound: P of it.
        variance: V of it.
    """

    x: str
    bound: str
    variance: str


def bounding_graph(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[Bounded, ...], str]:
    """A graph from crops to X of the sharp blocks, and its bounds.

    Bounds behind a block are those of a computation whose masks, up to there, have no flipped bit.

    Args:
        model: FP32, or FP16 as `fp16.to_fp16` types it; not changed.

    Returns:
        An FP32 graph with the input of `model`; what it gives of each block, in order, as far as the analysis
        reaches; and why it ends before the last block, empty where it does not.
    """
    graph = view(model)
    branches = find_branches(model)
    analysis = _Analysis(graph, branches)
    blocks, why = analysis.run()
    shown = {name: block.x for block in blocks for name in (block.x, block.bound, block.variance)}
    made = helper.make_graph(
        analysis.nodes,
        "bounds",
        list(model.graph.input),
        [helper.make_tensor_value_info(name, _FP32, graph.shapes[x]) for name, x in shown.items()],
        analysis.weights,
    )
    return (
        helper.make_model(made, opset_imports=list(model.opset_import), ir_version=model.ir_version),
        blocks,
        why,
    )


@dataclass(frozen=True)
class _Value:
    """A value and its bounds; None where every computation gives the same.

    Attributes:
        terms: of the sum that it is, before anything is fused to it; 1 where it is none.
        mask: whether it is 0 or 1, with no bit flipped.
        masked: the value that it is the product of with a mask.
    """

    name: str
    bound: str | None = None
    variance: str | None = None
    terms: int = 1
    mask: bool = False
    masked: str = ""


class _Analysis:
    def __init__(self, graph: Graph, branches: Sequence[MaskBranch]) -> None:
        self.graph = graph
        self.branches = branches
        self.threshold = {name for branch in branches for name in branch.threshold}
        self.masks = {name for branch in branches for name in branch.masks}
        self.values = {name: _Value(name) for name in graph.inputs}
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self.taken = {*graph.types, *graph.constants}
        self.made = 0
        self.written: set[str] = set()

    def run(self) -> tuple[tuple[Bounded, ...], str]:
        wanted = {branch.x for branch in self.branches}
        blocks: dict[str, Bounded] = {}
        why = ""
        try:
            for node in self.graph.nodes:
                if wanted <= set(blocks):
                    break
                if node.op_type == "Constant":
                    continue
                self._step(node)
                if node.output[0] in wanted:
                    blocks[node.output[0]] = self._block(self.values[node.output[0]])
        except Unbounded as reason:
            why = str(reason)
        # The search may give branches in another order than they are computed in.
        known = [branch.x for branch in self.branches if branch.x in blocks]
        return tuple(blocks[name] for name in known), why

    def _block(self, value: _Value) -> Bounded:
        # Exact values have bounds as well, of zero.
        zero = self._op("Mul", value.name, self._number(0.0))
        return Bounded(value.name, value.bound or zero, value.variance or zero)

    def _step(self, node: NodeProto) -> None:
        name = node.output[0]
        if len(node.output) > 1:
            raise Unbounded(
                f"the analysis does not know an operator {node.op_type} of {len(node.output)} outputs"
            )
        if name in self.threshold:
            self._emit(node)
            self.values[name] = _Value(name, mask=name in self.masks)
            return
        kind = node.op_type
        if kind in ("Conv", "ConvTranspose"):
            result = self._product(node)
        elif kind in ("Add", "Sub"):
            result = self._sum(node)
        elif kind == "Mul":
            result = self._scaled(node)
        elif kind == "Relu":
            result = self._relu(node)
        elif kind == "Resize":
            result = self._resize(node)
        elif kind == "MaxPool" or kind in _EXACT:
            result = self._same(node)
        elif kind == "Cast":
            result = self._cast(node)
        else:
            raise Unbounded(f"the analysis does not know the operator {kind} ({name})")
        self.values[name] = result

    def _product(self, node: NodeProto) -> _Value:
        weight = self.graph.constant_value(node.input[1])
        bias = self.graph.constant_value(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if weight is None or (len(node.input) > 2 and node.input[2] and bias is None):
            raise Unbounded(f"{node.output[0]} is a product of two values")
        source = self._value(node.input[0])
        size = np.abs(weight.astype(np.float64))
        groups = next((item.i for item in node.attribute if item.name == "group"), 1)
        each = size[0].size if node.op_type == "Conv" else size[:, 0].size // groups
        terms = each + (bias is not None)
        other, here = _gamma(terms, self._sums(node)), _gamma(terms, _UNIT)
        self._emit(node)
        given = self._op("Mul", self._op("Abs", source.name), self._number(other + here))
        if source.bound:
            given = self._op("Add", given, self._op("Mul", source.bound, self._number(1 + other)))
        # What these sums lose themselves, they must not lose.
        outward = 1 + 2 * _gamma(terms + 8, _UNIT)
        inputs = [given, self._constant(_up(size * outward))]
        if bias is not None:
            inputs.append(self._constant(_up(np.abs(bias.astype(np.float64)) * (other + here) * outward)))
        bound = self._like(node, inputs)
        # Partial sums wander from zero to the result: half their squares, on average, are the result's and half
        # are the products'.
        unit = (self._sums(node) ** 2 + _UNIT**2) / 3
        square = self._op("Mul", source.name, source.name)
        given = self._op("Mul", square, self._number(unit * (1 + terms / 2)))
        if source.variance:
            given = self._op("Add", given, source.variance)
        variance = self._like(node, [given, self._constant(_up(np.square(size)))])
        variance = self._op("Add", variance, self._own_variance(node, unit * terms / 2))
        return self._stored(node, bound, variance, terms)

    def _sum(self, node: NodeProto) -> _Value:
        one, two = (self._value(name) for name in node.input)
        self._emit(node)
        bound, variance = self._plus(one.bound, two.bound), self._plus(one.variance, two.variance)
        if one.name == two.masked or two.name == one.masked:
            # T + M T is T or 2 T.
            return _Value(node.output[0], bound, variance)
        # A convolution that the sum is fused to has one more term, which shares all its roundings.
        terms = max(one.terms, two.terms)
        other, here = _gamma(terms, self._sums(node)), _gamma(terms, _UNIT)
        size = self._op("Add", self._op("Abs", one.name), self._op("Abs", two.name))
        local = self._op("Mul", size, self._number(other + here))
        if bound:
            local = self._op("Add", local, self._op("Mul", bound, self._number(1 + other)))
        own = self._own_variance(node, (self._sums(node) ** 2 + _UNIT**2) / 3)
        return self._stored(node, self._outward(local), self._plus(variance, own), 1)

    def _scaled(self, node: NodeProto) -> _Value:
        one, two = (self._value(name) for name in node.input)
        if two.bound is None and (one.bound is not None or one.mask):
            one, two = two, one
        # Now the first is exact: a constant, or a mask.
        if one.bound is not None:
            raise Unbounded(f"{node.output[0]} is a product of two values")
        self._emit(node)
        size = self._op("Abs", one.name)
        bound = self._op("Mul", two.bound, size) if two.bound else None
        variance = None
        if two.variance:
            variance = self._op("Mul", two.variance, self._op("Mul", one.name, one.name))
        if one.mask:
            return _Value(node.output[0], bound, variance, masked=two.name)
        number = self.graph.constant_value(self._constant_name(node))
        if number is not None and np.isin(np.abs(number), (0, 1, 2)).all():
            return _Value(node.output[0], bound and self._outward(bound), variance)
        unit = self._sums(node)
        local = self._op(
            "Mul", self._op("Abs", node.output[0]), self._number((unit + 2 * _UNIT) * (1 + 2**-20))
        )
        if bound:
            local = self._op("Add", local, self._op("Mul", bound, self._number(1 + unit)))
        own = self._own_variance(node, (unit**2 + _UNIT**2) / 3)
        return self._stored(node, self._outward(local), self._plus(variance, own), 1)

    def _relu(self, node: NodeProto) -> _Value:
        source = self._value(node.input[0])
        self._emit(node)
        if source.bound is None:
            return _Value(node.output[0])
        # What is surely negative is zero in every computation. No sum of two numbers is rounded to the wrong sign.
        above = self._op("Relu", self._outward(self._op("Add", source.name, source.bound)))
        bound = self._op("Min", source.bound, above)
        assert source.variance is not None
        reach = self._op("Mul", self._op("Sqrt", source.variance), self._number(_SURE))
        alive = self._op("Greater", self._op("Add", source.name, reach), self._number(0.0))
        variance = self._op("Where", alive, source.variance, self._number(0.0))
        return _Value(node.output[0], bound, variance)

    def _resize(self, node: NodeProto) -> _Value:
        settings = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        scales = self.graph.constant_value(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        place = settings.get("coordinate_transformation_mode", b"half_pixel")
        mode = settings.get("mode", b"nearest")
        whole = scales is not None and np.isin(scales, (1, 2, 4, 8)).all()
        # With others the coefficients themselves are rounded, and a nearest place may be its neighbour.
        if mode not in (b"nearest", b"linear") or not whole or place not in (b"half_pixel", b"asymmetric"):
            raise Unbounded(f"the analysis does not know this Resize ({node.output[0]})")
        if mode == b"nearest":
            return self._same(node)
        source = self._value(node.input[0])
        self._emit(node)
        # Four places, each times a number of each axis.
        terms = 8
        other, here = _gamma(terms, self._sums(node)), _gamma(terms, _UNIT)
        given = self._op("Mul", self._op("Abs", source.name), self._number(other + here))
        if source.bound:
            given = self._op("Add", given, self._op("Mul", source.bound, self._number(1 + other)))
        rest = list(node.input[1:])
        bound = self._outward(self._like(node, [given, *rest]))
        variance = self._own_variance(node, terms * (self._sums(node) ** 2 + _UNIT**2) / 3)
        if source.variance:
            # Neighbours' roundings may be the same ones.
            spread = self._like(node, [self._op("Sqrt", source.variance), *rest])
            variance = self._op("Add", self._op("Mul", spread, spread), variance)
        return self._stored(node, bound, variance, 1)

    def _same(self, node: NodeProto) -> _Value:
        source = self._value(node.input[0])
        self._emit(node)
        rest = list(node.input[1:])
        bound = self._like(node, [source.bound, *rest]) if source.bound else None
        variance = self._like(node, [source.variance, *rest]) if source.variance else None
        return _Value(node.output[0], bound, variance, mask=source.mask)

    def _cast(self, node: NodeProto) -> _Value:
        source, target = self.graph.types[node.input[0]], self.graph.types[node.output[0]]
        value = self._value(node.input[0])
        floats = {_FP32, _FP16}
        if target not in floats or source not in floats | {TensorProto.UINT8, TensorProto.INT8}:
            raise Unbounded(f"the analysis does not know this Cast ({node.output[0]})")
        if source in floats:
            self.nodes.append(helper.make_node("Identity", [node.input[0]], [node.output[0]]))
        else:
            self._emit(node)
        if target == source or source != _FP32:
            return _Value(node.output[0], value.bound, value.variance, value.terms, value.mask, value.masked)
        zero = self._op("Mul", node.output[0], self._number(0.0))
        return self._stored(node, value.bound or zero, value.variance or zero, 1)

    def _stored(self, node: NodeProto, bound: str, variance: str | None, terms: int) -> _Value:
        """A result as it lies in memory: rounded once more where that is FP16."""
        name = node.output[0]
        # Subnormal results, and what the bounds' own arithmetic loses to underflow.
        tiny = _TINY
        if self.graph.types.get(name) == _FP16:
            size = self._op("Add", self._op("Abs", name), bound)
            bound = self._op("Add", bound, self._op("Mul", size, self._number(_HALF)))
            tiny = _HALF_SUBNORMAL * (1 + 2**-20)
            variance = self._plus(variance, self._own_variance(node, _HALF**2 / 3))
        bound = self._outward(self._op("Add", bound, self._number(tiny)))
        return _Value(name, bound, variance, terms)

    def _own_variance(self, node: NodeProto, factor: float) -> str:
        name = node.output[0]
        return self._op("Mul", self._op("Mul", name, name), self._number(factor))

    def _sums(self, node: NodeProto) -> float:
        return _TRUNCATED if self.graph.types.get(node.output[0]) == _FP16 else _UNIT

    def _value(self, name: str) -> _Value:
        if name in self.graph.constants:
            self._write(name)
            return _Value(name)
        if name not in self.values:
            raise Unbounded(f"the analysis does not reach {name}")
        return self.values[name]

    def _constant_name(self, node: NodeProto) -> str:
        return next((name for name in node.input if name in self.graph.constants), "")

    def _emit(self, node: NodeProto) -> None:
        """The node itself, in FP32."""
        written = NodeProto()
        written.CopyFrom(node)
        if node.op_type == "Cast" and self.graph.types.get(node.output[0]) == _FP16:
            del written.attribute[:]
            written.attribute.append(helper.make_attribute("to", _FP32))
        for name in node.input:
            if name in self.graph.constants:
                self._write(name)
        self.nodes.append(written)

    def _write(self, name: str) -> None:
        if name not in self.written:
            self.written.add(name)
            array = numpy_helper.to_array(self.graph.constants[name])
            if array.dtype == np.float16:
                array = array.astype(np.float32)
            self.weights.append(numpy_helper.from_array(array, name))

    def _like(self, node: NodeProto, inputs: list[str]) -> str:
        """The same operator on bounds instead of values."""
        for name in inputs:
            if name in self.graph.constants:
                self._write(name)
        result = self._name()
        made = NodeProto()
        made.CopyFrom(node)
        made.name = ""
        del made.input[:], made.output[:]
        made.input.extend(inputs)
        made.output.append(result)
        self.nodes.append(made)
        return result

    def _op(self, kind: str, *inputs: str) -> str:
        result = self._name()
        self.nodes.append(helper.make_node(kind, list(inputs), [result]))
        return result

    def _name(self) -> str:
        self.made += 1
        return new_name(f"bounds.{self.made}", self.taken)

    def _plus(self, one: str | None, two: str | None) -> str | None:
        if one and two:
            return self._op("Add", one, two)
        return one or two

    def _outward(self, name: str) -> str:
        """A bound times a little more than what a few operations on it may have lost."""
        return self._op("Mul", name, self._number(1 + 2**-19))

    def _constant(self, array: np.ndarray) -> str:
        name = self._name()
        self.weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def _number(self, value: float) -> str:
        return self._constant(_up(np.array(value)))


def _gamma(terms: int, unit: float) -> float:
    return terms * unit / (1 - terms * unit)


def _up(values: np.ndarray) -> np.ndarray:
    """To FP32, away from zero where that rounds; zero stays."""
    near = values.astype(np.float32)
    up = np.where(near.astype(np.float64) < values, np.nextafter(near, np.float32(np.inf)), near)
    return np.asarray(up, np.float32)
