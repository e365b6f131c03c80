"""Where a network is quantised: which weighted ops run in INT8, and between which of them values stay 8 bits."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx
from onnx import NodeProto, TensorProto

from ..graph.graph import WEIGHTED_OPS, Graph
from ..graph.mask_branches import find_branches

#: What the two runtimes need; see `int8`.
FORMS = ("tensorrt", "cpu")
#: Products that gain nothing. ONNX Runtime has no 8-bit transposed convolution on the CPU. For TensorRT the
#: head stays in floating point: a thousandth of the work, TensorRT-RTX multiplies no INT8 matrices on Turing,
#: and nothing behind it averages its rounding out.
_WITHOUT_KERNEL = {"cpu": frozenset({"ConvTranspose"}), "tensorrt": frozenset({"Gemm", "MatMul"})}
#: Operators, apart from weighted ones, for which ONNX Runtime has a fast 8-bit kernel on the CPU. Its product of
#: two values (QLinearMul) is slower than FP32's.
_INTEGER = frozenset({"Add", "AveragePool", "Concat", "GlobalAveragePool", "MaxPool"})
#: These may give FP32 out of 8-bit operands; a QLinearConv cannot.
_FREE_OUTPUT = frozenset({"Gemm", "MatMul"})


@dataclass(frozen=True)
class QuantizationPlan:
    """What is quantised, by the index of the nodes.

    Attributes:
        weighted: their input and weight are 8 bits.
        integer: other nodes that read and give 8 bits.
        rounded: (node, value) where a node reads a value rounded to 8 bits.
    """

    weighted: frozenset[int]
    integer: frozenset[int]
    rounded: frozenset[tuple[int, str]]

    @property
    def values(self) -> frozenset[str]:
        """All that are rounded for somebody."""
        return frozenset(name for _, name in self.rounded)


def product_name(graph: Graph, node: NodeProto) -> str:
    """What to call a product: its weight's name without `.weight`, or its own output's."""
    weight = node.input[1]
    return weight.removesuffix(".weight") if weight in graph.constants else node.output[0]


def weight_axis(node: NodeProto, rank: int) -> int:
    """The axis of a product's weight that runs over its outputs."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        return 0 if any(item.name == "transB" and item.i for item in node.attribute) else 1
    return 1 if node.op_type == "ConvTranspose" else rank - 1


def candidates(
    model: onnx.ModelProto, graph: Graph, form: str, floating: Collection[str] = ()
) -> dict[str, list[int]]:
    """The weighted ops that may be quantised, by name, in the order of the graph; shared weights share a name.

    A product of two dynamic values is none, nor is one in a sharp mask's branch: quantised, it would flip bits of
    the mask. Nor is a layer of a module that `floating` names (`Architecture.floating`): HA-CNN's spatial attention
    is of single channels, which fill a 32nd of what integer kernels take at once; RGA's gates are 2 % of the work of
    its attention, and nine tenths of what it loses in the form `cpu`; FMN's mask is made by its mask head.
    """
    masks = {name for branch in find_branches(model) for name in branch.nodes}
    found: dict[str, list[int]] = {}
    for index, node in enumerate(graph.nodes):
        if _is_candidate(graph, node, form) and node.output[0] not in masks:
            name = product_name(graph, node)
            if not set(floating) & set(name.split(".")):
                found.setdefault(name, []).append(index)
    return found


def _is_candidate(graph: Graph, node: NodeProto, form: str) -> bool:
    if node.op_type not in WEIGHTED_OPS or node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type in _WITHOUT_KERNEL[form]:
        return False
    # With its input transposed, or in groups along the axis of its scales, a product is of no network here.
    numbers = {item.name: item.i for item in node.attribute}
    if numbers.get("transA", 0) or (node.op_type == "ConvTranspose" and numbers.get("group", 1) > 1):
        return False
    constant = all(name in graph.constants for name in node.input[1:] if name)
    given = node.input[0] not in graph.constants and graph.types.get(node.input[0]) == TensorProto.FLOAT
    return constant and given


def place(graph: Graph, weighted: frozenset[int], form: str) -> QuantizationPlan:
    """Settle what is rounded, given the weighted ops that run in 8 bits."""
    return _for_cpu(graph, weighted) if form == "cpu" else _for_tensorrt(graph, weighted)


def _for_tensorrt(graph: Graph, weighted: frozenset[int]) -> QuantizationPlan:
    """Round what weighted ops read, and the shortcut of a residual sum.

    TensorRT fuses a convolution with the sum and the ReLU behind it, and takes the shortcut in INT8 where
    it is rounded. What comes out of the convolution itself must not be, or the fusion breaks.
    """
    rounded = {(index, graph.nodes[index].input[0]) for index in weighted}
    read = {name for _, name in rounded}
    for index, node in enumerate(graph.nodes):
        if node.op_type == "Add":
            shortcut = _shortcut(graph, node, weighted, read)
            if shortcut is not None:
                rounded.add((index, shortcut))
    return QuantizationPlan(weighted, frozenset(), frozenset(rounded))


def _shortcut(graph: Graph, node: NodeProto, weighted: frozenset[int], read: set[str]) -> str | None:
    """The input of a sum that does not come out of the product it is fused with; None where nothing fuses."""
    made = [name for name in node.input if _fusable(graph, name, weighted)]
    others = [name for name in node.input if name not in made]
    if not made or len(set(node.input)) < 2:
        return None
    if len(made) == 1:
        # A shortcut that no product reads would be rounded for the sum alone.
        return others[0] if others[0] in read else None
    # Two weighted ops: the smaller one is the shortcut (a 1 x 1 convolution), the larger one fuses.
    return min(made, key=lambda name: _weights(graph, graph.nodes[graph.producer[name]]))


def _fusable(graph: Graph, name: str, weighted: frozenset[int]) -> bool:
    return graph.producer.get(name) in weighted and len(graph.consumers.get(name, ())) == 1


def _weights(graph: Graph, node: NodeProto) -> int:
    size = 1
    for dimension in graph.constants[node.input[1]].dims:
        size *= dimension
    return size


def _for_cpu(graph: Graph, weighted: frozenset[int]) -> QuantizationPlan:
    """Keep values in 8 bits from product to product: ONNX Runtime fuses nothing else into integer kernels.

    Sums and poolings run in 8 bits where all that they read is in 8 bits and all who read them want it so.
    """
    integer = {
        index
        for index, node in enumerate(graph.nodes)
        if node.op_type in _INTEGER
        and len(node.output) == 1
        and graph.types.get(node.output[0]) == TensorProto.FLOAT
    }
    while True:
        given = {
            name
            for index in weighted | integer
            if (name := _result(graph, index)) is not None
            and (graph.nodes[index].op_type not in _FREE_OUTPUT or _wanted(graph, name, weighted, integer))
        }
        read = {graph.nodes[index].input[0] for index in weighted}
        failing = {
            index
            for index in integer
            if not given.union(read).issuperset(graph.nodes[index].input)
            or not _wanted(graph, _result(graph, index), weighted, integer)
        }
        if not failing:
            break
        integer -= failing
    rounded = {(index, graph.nodes[index].input[0]) for index in weighted}
    rounded |= {(index, name) for index in integer for name in graph.nodes[index].input}
    # What an integer kernel gives exists in 8 bits alone, so all others read it from there.
    rounded |= {(consumer, name) for name in given for consumer in graph.consumers.get(name, ())}
    return QuantizationPlan(weighted, frozenset(integer), frozenset(rounded))


def _result(graph: Graph, index: int) -> str | None:
    """What a node gives, behind the ReLU that ONNX Runtime fuses; None where the graph itself gives it."""
    name = graph.nodes[index].output[0]
    consumers = graph.consumers.get(name, ())
    if len(consumers) == 1 and graph.nodes[consumers[0]].op_type == "Relu" and name not in graph.outputs:
        name = graph.nodes[consumers[0]].output[0]
    return None if name in graph.outputs else name


def _wanted(graph: Graph, name: str | None, weighted: frozenset[int], integer: set[int]) -> bool:
    consumers = graph.consumers.get(name, ()) if name is not None else ()
    return any(consumer in weighted or consumer in integer for consumer in consumers)
