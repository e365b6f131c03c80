"""From an FP32 graph to one that is typed FP16, which is what a strongly typed TensorRT builds."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from san_deploy.errors import SanError

from ..graph.graph import Graph, check_model, copy_with, new_name, view
from .fp32_nodes import castable_ports, fp32_nodes

_FP32: int = TensorProto.FLOAT
_FP16: int = TensorProto.FLOAT16
_ENDING = {_FP32: ".fp32", _FP16: ".fp16"}
#: Values that FP16 holds exactly, so that a cast of them may go there directly.
_SMALL = frozenset({TensorProto.BOOL, TensorProto.INT8, TensorProto.UINT8, TensorProto.FLOAT16})


def to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Type a graph FP16, weights included, but for the nodes that `fp32_nodes.fp32_nodes` names.

    Inputs and outputs keep their names, types and shapes. A value is cast once for all its consumers.

    Args:
        model: FP32, of standard operators; not changed.

    Returns:
        A checked model; the same bytes for the same model.

    Raises:
        SanError: a weight is beyond FP16's range, or not a number.
    """
    result = _Typing(model, view(model)).write()
    check_model(result)
    return result


class _Typing:
    """One pass over one model. What each node computes in is settled first, then the nodes are written."""

    def __init__(self, model: onnx.ModelProto, graph: Graph) -> None:
        self.model = model
        self.graph = graph
        self.ports = [castable_ports(graph, node) for node in graph.nodes]
        fp32 = fp32_nodes(model, graph)
        self.kind = [
            _FP16 if ports.any and index not in fp32 else _FP32 for index, ports in enumerate(self.ports)
        ]
        # Backwards: what a Cast gives depends on its consumers.
        for index in reversed(range(len(graph.nodes))):
            if graph.nodes[index].op_type == "Cast":
                self.kind[index] = self._cast_kind(index)
        self.taken = {*graph.types, *graph.constants}
        self.nodes: list[NodeProto] = []
        self.cast: dict[tuple[str, int], str] = {}
        self.weights: dict[tuple[str, int], str] = {}

    def write(self) -> onnx.ModelProto:
        graph = self.graph
        renamed = {name: self._new_name(name, _FP16) for name in graph.outputs if self._made(name) == _FP16}
        for index, node in enumerate(graph.nodes):
            if node.op_type == "Constant" and graph.types[node.output[0]] == _FP32:
                continue  # written as a weight, where it is read
            written = NodeProto()
            written.CopyFrom(node)
            for place, name in enumerate(node.input):
                if name:
                    written.input[place] = self._read(renamed.get(name, name), name, self._wish(index, place))
            for place, name in enumerate(node.output):
                written.output[place] = renamed.get(name, name)
            if node.op_type == "Cast" and graph.types[node.output[0]] == _FP32:
                del written.attribute[:]
                written.attribute.append(helper.make_attribute("to", self.kind[index]))
            self.nodes.append(written)
        self.nodes += [
            helper.make_node("Cast", [half], [name], f"{half}.cast", to=_FP32)
            for name, half in renamed.items()
        ]
        return copy_with(self.model, self.nodes, self._initialisers())

    def _cast_kind(self, index: int) -> int:
        """FP16 for a Cast to floating point that only FP16 reads and that FP16 holds exactly."""
        (source,), (name,) = self.graph.nodes[index].input, self.graph.nodes[index].output
        if self.graph.types.get(name) != _FP32 or self.graph.types.get(source) not in _SMALL | {_FP32}:
            return _FP32
        wishes = {
            self._wish(consumer, place)
            for consumer in self.graph.consumers.get(name, ())
            for place, read in enumerate(self.graph.nodes[consumer].input)
            if read == name
        }
        return _FP16 if wishes == {_FP16} and name not in self.graph.outputs else _FP32

    def _wish(self, index: int, place: int) -> int | None:
        """The type a node wants at an input; None where any will do, or where it is no FP32 value."""
        node = self.graph.nodes[index]
        if node.op_type == "Cast" or self.graph.types.get(node.input[place]) != _FP32:
            return None
        return self.kind[index] if self.ports[index].inputs[place] else _FP32

    def _made(self, name: str) -> int:
        """The type that a value is made in."""
        index = self.graph.producer.get(name)
        if index is None or self.graph.types.get(name) != _FP32:
            return self.graph.types.get(name, TensorProto.UNDEFINED)
        free = self.ports[index].outputs[list(self.graph.nodes[index].output).index(name)]
        return self.kind[index] if free else _FP32

    def _read(self, name: str, original: str, wish: int | None) -> str:
        """The name under which a value is read in the type `wish`; its Cast is written here, once."""
        if original in self.graph.constants:
            if self.graph.types[original] != _FP32:
                return original
            kind = _FP32 if wish is None else wish
            if (original, kind) not in self.weights:
                first = all(known != original for known, _ in self.weights)
                self.weights[original, kind] = original if first else self._new_name(original, kind)
            return self.weights[original, kind]
        if wish is None or wish == self._made(original):
            return name
        if (name, wish) not in self.cast:
            new = self._new_name(original, wish)
            self.nodes.append(helper.make_node("Cast", [name], [new], f"{new}.cast", to=wish))
            self.cast[name, wish] = new
        return self.cast[name, wish]

    def _new_name(self, name: str, kind: int) -> str:
        return new_name(name + _ENDING[kind], self.taken)

    def _initialisers(self) -> list[TensorProto]:
        result = []
        for name, tensor in self.graph.constants.items():
            if self.graph.types[name] != _FP32:
                if name not in self.graph.producer:
                    result.append(tensor)
                continue
            for kind in (_FP32, _FP16):
                if (name, kind) in self.weights:
                    values = numpy_helper.to_array(tensor)
                    if kind == _FP16:
                        values = _rounded(values, name)
                    result.append(numpy_helper.from_array(values, self.weights[name, kind]))
        return result


def _rounded(values: np.ndarray, name: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float16)
    # A single infinity is a bound that bounds nothing; among weights it is damage.
    if np.isfinite(rounded).all() or (values.size == 1 and np.isinf(values).all()):
        return rounded
    why = "it holds values that are not finite"
    if np.isfinite(values).all():
        why = f"its largest is {float(np.abs(values).max()):g}, FP16 ends at 65504"
    raise SanError(f"weight {name} does not fit FP16", why=why, do="export in FP32")
