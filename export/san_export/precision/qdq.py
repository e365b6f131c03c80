"""Writing a quantised graph: QuantizeLinear and DequantizeLinear around what runs in 8 bits."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper, version_converter

from ..graph.graph import LAYOUT, WEIGHTED_OPS, Graph, check_model, copy_with, new_name, view
from .channels_last import normalise_channels_last
from .quantization_plan import QuantizationPlan, candidates, place, weight_axis
from .ranges import Range

#: Weights use -127..127, so that zero lies in the middle.
_LEVELS = 127
#: Scales of FP16 exist from here on.
_SCALE_OPSET = 19
#: FP16 has smaller numbers, but not with any precision.
_LEAST_SCALE = 2.0**-20
#: Products, and what ONNX Runtime moves a DequantizeLinear past.
_LEADS_ON = WEIGHTED_OPS | LAYOUT | {"MaxPool"}
#: A bias becomes INT32 in units of its operands' scales.
_BIAS_ROOM = 2.0**30


def prepared(model: onnx.ModelProto, form: str) -> onnx.ModelProto:
    """The FP32 graph that a form starts from: same values, same names of all that is quantised."""
    if form == "cpu":
        return normalise_channels_last(model)
    if view(model).opset < _SCALE_OPSET:
        model = version_converter.convert_version(model, _SCALE_OPSET)
    return model


def write_int8(
    model: onnx.ModelProto,
    ranges: Mapping[str, Range],
    *,
    form: str,
    reverted: Collection[str] = (),
    floating: Collection[str] = (),
) -> onnx.ModelProto:
    """Quantise all candidates but those given back.

    Args:
        model: FP32; not changed.
        ranges: of every value that may be rounded (`ranges.collect_ranges`).
        form: one of `quantization_plan.FORMS`.
        reverted: names of weighted ops that stay in floating point.
        floating: names of modules that do, see `quantization_plan.candidates`.

    Returns:
        A checked model with the same inputs and outputs; the same bytes for the same arguments.
    """
    model = prepared(model, form)
    graph = view(model)
    weighted = frozenset(
        index
        for name, indices in candidates(model, graph, form, floating).items()
        if name not in reverted
        for index in indices
    )
    result = _Writer(model, graph, place(graph, weighted, form), ranges, form).write()
    check_model(result)
    return result


class _Writer:
    """One pass over one model."""

    def __init__(
        self,
        model: onnx.ModelProto,
        graph: Graph,
        plan: QuantizationPlan,
        ranges: Mapping[str, Range],
        form: str,
    ) -> None:
        self.model = model
        self.graph = graph
        self.plan = plan
        self.form = form
        self.ranges = dict(ranges)
        for index in sorted(plan.integer):
            if graph.nodes[index].op_type == "MaxPool":
                # It changes no value, so its kernel knows one scale.
                self.ranges[graph.nodes[index].output[0]] = self.ranges[graph.nodes[index].input[0]]
        self.taken = {*graph.types, *graph.constants}
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self.rounded: dict[str, str] = {}
        self.narrow: dict[str, str] = {}
        self.apart: dict[str, str] = {}

    def write(self) -> onnx.ModelProto:
        for index, node in enumerate(self.graph.nodes):
            written = NodeProto()
            written.CopyFrom(node)
            for number, name in enumerate(node.input):
                if (index, name) in self.plan.rounded:
                    inside = index in self.plan.weighted or index in self.plan.integer
                    apart = node.op_type in _LEADS_ON and not inside
                    written.input[number] = self._apart(name) if apart else self._round(name)
            if index in self.plan.weighted:
                self._quantise_weight(node, written)
            self.nodes.append(written)
        read = {name for node in self.nodes for name in node.input}
        nodes = [node for node in self.nodes if node.op_type != "Constant" or node.output[0] in read]
        kept = [weight for weight in self.model.graph.initializer if weight.name in read]
        return copy_with(self.model, nodes, [*kept, *self.weights])

    def _scale(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Scale and zero point of a value."""
        low, high = self.ranges[name]
        if self.form == "tensorrt":
            return np.array(_half_above(max(-low, high) / _LEVELS)), np.array(0, np.int8)
        scale = np.float32((high - low) / 255)
        return np.array(scale), np.array(np.clip(np.rint(-low / scale), 0, 255), np.uint8)

    def _round(self, name: str) -> str:
        """The name of a value rounded to 8 bits; it is rounded once for all its consumers."""
        if name not in self.rounded:
            parameters = [
                self._weight(f"{name}.{what}", number)
                for what, number in zip(("scale", "zero"), self._scale(name), strict=True)
            ]
            self.narrow[name] = new_name(f"{name}.int8", self.taken)
            self.nodes.append(
                helper.make_node(
                    "QuantizeLinear", [name, *parameters], [self.narrow[name]], self.narrow[name]
                )
            )
            self.rounded[name] = self._dequantise(self.narrow[name], parameters, f"{name}.rounded")
        return self.rounded[name]

    def _apart(self, name: str) -> str:
        """The same as `_round` for a product that stays in floating point, or for what leads to one.

        Where such a product stands between two values of 8 bits, ONNX Runtime (seen in 1.31) quantises its
        weight all the same, with one scale for all channels. It knows the place by the single scale of what
        is read; a scale for each channel, all equal, keeps it away.
        """
        rounded = self._round(name)
        shape = self.graph.shapes.get(name, ())
        if len(shape) < 2 or not shape[1]:
            return rounded
        if name not in self.apart:
            scale, zero = self._scale(name)
            parameters = [
                self._weight(f"{name}.{what}s", np.full(shape[1], number, number.dtype))
                for what, number in (("scale", scale), ("zero", zero))
            ]
            self.apart[name] = self._dequantise(self.narrow[name], parameters, f"{name}.apart", 1)
        return self.apart[name]

    def _quantise_weight(self, node: NodeProto, written: NodeProto) -> None:
        name = node.input[1]
        weight = self.graph.constant_value(name)
        bias = self.graph.constant_value(node.input[2]) if len(node.input) > 2 else None
        assert weight is not None
        axis = weight_axis(node, weight.ndim)
        others = tuple(place for place in range(weight.ndim) if place != axis)
        largest = np.abs(weight).max(axis=others).astype(np.float64)
        if self.form == "tensorrt":
            scale = np.array([_half_above(value / _LEVELS) for value in largest], np.float32)
            bias = None
        else:
            unit = float(self._scale(node.input[0])[0])
            scale = np.maximum(largest / _LEVELS, _LEAST_SCALE**2)
            if bias is not None and bias.shape == scale.shape:
                # A channel whose weights vanish beside its bias: INT32 must hold the bias.
                scale = np.maximum(scale, np.abs(bias).astype(np.float64) / (unit * _BIAS_ROOM))
            else:
                bias = None
            scale = scale.astype(np.float32)
        if name not in self.rounded or bias is not None:
            wide = [1] * weight.ndim
            wide[axis] = -1
            levels = np.clip(np.rint(weight / scale.reshape(wide)), -_LEVELS, _LEVELS).astype(np.int8)
            self.rounded[name] = self._constant(name, levels, scale, axis)
        written.input[1] = self.rounded[name]
        if bias is not None:
            step = (scale.astype(np.float64) * unit).astype(np.float32)
            steps = np.rint(bias / step.astype(np.float64)).astype(np.int32)
            written.input[2] = self._constant(node.input[2], steps, step, 0)

    def _constant(self, name: str, levels: np.ndarray, scale: np.ndarray, axis: int) -> str:
        """Write a constant in integers; the name of what it stands for."""
        narrow = self._weight(f"{name}.int{8 * levels.itemsize}", levels)
        parameters = [
            self._weight(f"{name}.scale", scale),
            self._weight(f"{name}.zero", np.zeros(len(scale), levels.dtype)),
        ]
        return self._dequantise(narrow, parameters, f"{name}.rounded", axis)

    def _dequantise(self, narrow: str, parameters: list[str], name: str, axis: int | None = None) -> str:
        name = new_name(name, self.taken)
        node = helper.make_node("DequantizeLinear", [narrow, *parameters], [name], name)
        if axis is not None:
            node.attribute.append(helper.make_attribute("axis", axis))
        self.nodes.append(node)
        return name

    def _weight(self, name: str, values: np.ndarray) -> str:
        name = new_name(name, self.taken)
        self.weights.append(numpy_helper.from_array(values, name))
        return name


def _half_above(value: float) -> np.float32:
    """The least number of FP16 that is not below `value`: a scale that FP16 holds exactly."""
    half = np.float16(max(value, _LEAST_SCALE))
    return np.float32(half if half >= value else np.nextafter(half, np.float16(np.inf)))
