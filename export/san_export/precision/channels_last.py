"""Normalise pixels with the channels innermost, as 8-bit convolutions on the CPU want them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from ..graph.graph import Graph, copy_with, new_name, view

_ARITHMETIC = frozenset({"Add", "Div", "Mul", "Sub"})
_TO_LAST = (0, 2, 3, 1)
_TO_FIRST = (0, 3, 1, 2)


def normalise_channels_last(model: onnx.ModelProto) -> onnx.ModelProto:
    """Move the arithmetic on the pixels in front of their Transpose, bit for bit the same.

    ONNX Runtime's 8-bit convolutions have the channels innermost, and its optimiser carries that layout
    back to the input, where a constant for each of three channels makes arithmetic ten times as slow.
    Constants as wide as a row of pixels, which it carries nowhere, cost nothing.

    Args:
        model: not changed.

    Returns:
        The model as it is where it does not start with such arithmetic.
    """
    graph = view(model)
    chain = _chain(graph)
    if not chain:
        return model
    last = graph.nodes[chain[-1]].output[0]
    (pixels,) = graph.dynamic(graph.nodes[chain[0]])
    _, channels, _, width = graph.shapes[pixels]
    assert channels and width
    taken = {*graph.types, *graph.constants}
    moved: list[NodeProto] = []
    rows: dict[str, TensorProto] = {}
    dropped = set(chain)
    turned = graph.producer.get(pixels)
    if turned is not None and _is_transpose(graph.nodes[turned]):
        dropped.add(turned)
        source = graph.nodes[turned].input[0]
    else:
        source = new_name(f"{pixels}.last", taken)
        moved.append(helper.make_node("Transpose", [pixels], [source], source, perm=_TO_LAST))
    for index in chain:
        node = NodeProto()
        node.CopyFrom(graph.nodes[index])
        for place, name in enumerate(node.input):
            number = graph.constant_value(name)
            row = None if number is None else _per_channel(number, channels)
            if row is None:
                node.input[place] = source
                continue
            if name not in rows:
                rows[name] = numpy_helper.from_array(np.tile(row, (width, 1)), new_name(f"{name}.row", taken))
            node.input[place] = rows[name].name
        source = new_name(f"{node.output[0]}.last", taken)
        node.output[0] = source
        moved.append(node)
    moved.append(helper.make_node("Transpose", [source], [last], f"{last}.first", perm=_TO_FIRST))
    nodes = []
    for index, node in enumerate(graph.nodes):
        if index not in dropped:
            nodes.append(node)
        elif index == chain[-1]:
            nodes += moved
    read = {name for node in nodes for name in node.input}
    weights = [weight for weight in model.graph.initializer if weight.name in read]
    return copy_with(model, nodes, [*weights, *rows.values()])


def _chain(graph: Graph) -> list[int]:
    """The nodes that do arithmetic on `(N, C, H, W)` pixels and constants for each channel, one after the other."""
    (value,) = graph.inputs[:1]
    found: list[int] = []
    while True:
        consumers = graph.consumers.get(value, ())
        if len(consumers) != 1 or value in graph.outputs:
            return found
        node = graph.nodes[consumers[0]]
        if node.op_type in _ARITHMETIC and _fits(graph, node, value):
            found.append(consumers[0])
        elif found or not (node.op_type == "Cast" or _is_transpose(node)):
            return found
        value = node.output[0]


def _fits(graph: Graph, node: NodeProto, value: str) -> bool:
    shape = graph.shapes.get(value, ())
    if len(shape) != 4 or not shape[1] or not shape[3]:
        return False
    numbers = [graph.constant_value(name) for name in node.input if name != value]
    return len(numbers) == 1 and numbers[0] is not None and _per_channel(numbers[0], shape[1]) is not None


def _per_channel(number: np.ndarray, channels: int) -> np.ndarray | None:
    """A constant for each channel, `(channels,)`; None where it varies otherwise."""
    dims = (1,) * (4 - number.ndim) + number.shape
    if number.ndim > 4 or dims[0] != 1 or dims[2:] != (1, 1) or dims[1] not in (1, channels):
        return None
    return np.broadcast_to(number.reshape(-1), (channels,))


def _is_transpose(node: NodeProto) -> bool:
    return node.op_type == "Transpose" and tuple(node.attribute[0].ints) == _TO_FIRST
