"""Which nodes of a network stay in FP32 when the rest goes to FP16, and why."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, TensorProto

from ..graph.graph import LAYOUT, WEIGHTED_OPS, Graph
from ..graph.mask_branches import find_branches

#: Sums, means among them: runtimes may add up in the type of the values, and 11 bits lose what comes late.
_SUMS = frozenset(
    {
        "CumSum",
        "GlobalAveragePool",
        "GlobalLpPool",
        "LpPool",
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceMean",
        "ReduceProd",
        "ReduceSum",
        "ReduceSumSquare",
    }
)
#: Norms: sums of squares, a root and a quotient in one.
_NORMS = frozenset(
    {
        "GroupNormalization",
        "InstanceNormalization",
        "LayerNormalization",
        "LpNormalization",
        "MeanVarianceNormalization",
        "RMSNormalization",
    }
)
#: These turn a small input's rounding, or an ordinary one's, into a large or infinite result.
_STEEP = frozenset({"Div", "Exp", "Log", "LogSoftmax", "Pow", "Reciprocal", "Softmax", "Sqrt"})
#: Between 64 and 128 FP16 knows sixteenths: too coarse for coordinates.
_COORDINATES = frozenset({"AffineGrid", "GridSample"})
_FLOATING = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16})
_FRAGILE = _SUMS | _NORMS | _STEEP | _COORDINATES
#: What a normalisation of pixels is made of.
_PIXELWISE = LAYOUT | {"Add", "Cast", "Div", "Mul", "Sub"}


@dataclass(frozen=True)
class CastablePorts:
    """Which inputs and outputs of a node take or give FP16 if asked, by the operator's schema.

    Attributes:
        inputs, outputs: for each, whether its FP32 value may become FP16.
    """

    inputs: tuple[bool, ...]
    outputs: tuple[bool, ...]

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return any(self.inputs) or any(self.outputs)


def castable_ports(graph: Graph, node: NodeProto) -> CastablePorts:
    """Look a node up in the operators' schemas.

    Constants of one node may be of several types: a Resize takes FP16 values and FP32 scales. An operator
    of another domain has no schema here and keeps what it has.
    """
    if node.domain not in ("", "ai.onnx"):
        return CastablePorts((False,) * len(node.input), (False,) * len(node.output))
    schema = onnx.defs.get_schema(node.op_type, graph.opset, "")
    half = {
        constraint.type_param_str
        for constraint in schema.type_constraints
        if {"tensor(float)", "tensor(float16)"} <= set(constraint.allowed_type_strs)
    }

    def places(names: list[str], formal: list[onnx.defs.OpSchema.FormalParameter]) -> tuple[bool, ...]:
        # The last of a variadic operator's parameters stands for all that follow.
        kinds = [formal[min(place, len(formal) - 1)].type_str for place in range(len(names))]
        return tuple(
            kind in half and graph.types.get(name) == TensorProto.FLOAT
            for name, kind in zip(names, kinds, strict=True)
        )

    found = CastablePorts(
        places(list(node.input), list(schema.inputs)), places(list(node.output), list(schema.outputs))
    )
    # A generator (ConstantOfShape, RandomNormal) says its type in an attribute, not in its inputs.
    if any(found.inputs) or node.op_type == "Cast":
        return found
    return CastablePorts(found.inputs, (False,) * len(node.output))


def fp32_nodes(model: onnx.ModelProto, graph: Graph) -> frozenset[int]:
    """The nodes that compute in FP32 while the others go to FP16.

    - the normalisation of the pixels, up to the first operator that is none of arithmetic and layout;
    - the threshold part of sharp masks: it is a step, and a rounded threshold flips bits; the span of a
      nearly constant channel underflows;
    - behind the last product, what works on whole rows: the L2 norm of the embedding;
    - the coordinates of a sampling that is written out, and the weights that follow from them alone;
    - sums, means, norms, squares, and functions that are steep or have a pole;
    - nodes with a single number that FP16 would round to zero or to infinity: an epsilon, a bound;
    - what lies between two of these, so that no value is rounded on the way.

    Args:
        model: FP32, or mixed.
        graph: its `view`.

    Returns:
        Indices of `graph.nodes`; nodes without floating point are left out.
    """
    typed = {index: castable_ports(graph, node) for index, node in enumerate(graph.nodes)}
    floating = {index for index, ports in typed.items() if ports.any}
    threshold = {name for branch in find_branches(model) for name in branch.threshold}
    found = {
        index
        for index in floating
        if graph.nodes[index].output[0] in threshold
        or graph.nodes[index].op_type in _FRAGILE
        or _is_square(graph.nodes[index])
        or _has_extreme_number(graph, graph.nodes[index])
    }
    found |= (_normalisation(graph) | _tail(graph) | _coordinates(graph, floating)) & floating
    return frozenset(_joined(graph, found, floating))


def _is_square(node: NodeProto) -> bool:
    return node.op_type == "Mul" and node.input[0] == node.input[1]


def _has_extreme_number(graph: Graph, node: NodeProto) -> bool:
    if node.op_type in WEIGHTED_OPS:
        return False
    for name in node.input:
        number = graph.constant_value(name) if graph.types.get(name) == TensorProto.FLOAT else None
        if number is not None and number.size == 1:
            with np.errstate(over="ignore"):
                rounded = number.astype(np.float16)
            if np.any((rounded == 0) != (number == 0)) or np.any(np.isinf(rounded) != np.isinf(number)):
                return True
    return False


def _normalisation(graph: Graph) -> set[int]:
    """The nodes that do arithmetic on the inputs and constants alone."""
    found: set[int] = set()
    made = set(graph.inputs)
    for index, node in enumerate(graph.nodes):
        names = graph.dynamic(node)
        if names and node.op_type in _PIXELWISE and made.issuperset(names):
            found.add(index)
            made.update(node.output)
    return found


def _tail(graph: Graph) -> set[int]:
    """The nodes on rows, `(N, D)`, that no product follows: maps before a last pooling are not among them."""
    found: set[int] = set()
    for index in reversed(range(len(graph.nodes))):
        node = graph.nodes[index]
        if node.op_type in WEIGHTED_OPS:
            continue
        later = {consumer for name in node.output for consumer in graph.consumers.get(name, ())}
        values = [*node.output, *graph.dynamic(node)]
        if later <= found and all(len(graph.shapes.get(name, (0,) * 4)) <= 2 for name in values):
            found.add(index)
    return found


def _coordinates(graph: Graph, floating: set[int]) -> set[int]:
    """The nodes of bilinear samplings that know places, up to the products on both sides.

    A sampling that is written out without a GridSample weighs pixel j by max(0, 1 - |p - j|), where p counts pixels
    and j is a constant, all pixels of an axis. What p is made of alone belongs to it, and so does what is made of
    these weights alone.
    """
    found: set[int] = set()
    for index, node in enumerate(graph.nodes):
        if node.op_type == "Abs":
            found |= _tent(graph, index)
    # The grid of a GridSample, but not the map that it samples.
    found |= {
        graph.producer[node.input[1]]
        for node in graph.nodes
        if node.op_type == "GridSample" and node.input[1] in graph.producer
    } & floating
    for index in reversed(range(len(graph.nodes))):
        if graph.nodes[index].op_type not in WEIGHTED_OPS and _feeds_only(graph, index, found, floating):
            found.add(index)
    for index, node in enumerate(graph.nodes):
        names = [name for name in graph.dynamic(node) if graph.types.get(name) in _FLOATING]
        if (
            names
            and node.op_type not in WEIGHTED_OPS
            and all(graph.producer.get(name) in found for name in names)
        ):
            found.add(index)
    return found


def _tent(graph: Graph, index: int) -> set[int]:
    """The nodes of max(0, 1 - |p - j|) around an Abs; none where it is part of something else."""
    grid = graph.producer.get(graph.nodes[index].input[0])
    if grid is None or graph.nodes[grid].op_type not in ("Add", "Sub"):
        return set()
    pixels = [graph.constant_value(name) for name in graph.nodes[grid].input]
    if not any(numbers is not None and numbers.size > 1 for numbers in pixels):
        return set()
    found = {grid, index}
    for kinds in (("Sub",), ("Clip", "Max", "Relu")):
        (name,) = graph.nodes[index].output
        consumers = graph.consumers.get(name, ())
        if len(consumers) != 1 or graph.nodes[consumers[0]].op_type not in kinds:
            return set()
        if kinds == ("Sub",) and graph.constant_value(graph.nodes[consumers[0]].input[0]) is None:
            return set()
        index = consumers[0]
        found.add(index)
    return found


def _joined(graph: Graph, found: set[int], floating: set[int]) -> set[int]:
    """`found`, with what takes from it and gives to it alone: a Cast less, and a rounding less.

    What takes from it alone and gives no floating point (a QuantizeLinear) joins, too.
    """
    result = set(found)
    while True:
        more = {
            index
            for index in floating - result
            if graph.nodes[index].op_type not in WEIGHTED_OPS
            and any(graph.producer.get(name) in result for name in graph.nodes[index].input)
            and (_feeds_only(graph, index, result, floating) or _ends_in(graph, index, result))
        }
        if not more:
            return result
        result |= more


def _feeds_only(graph: Graph, index: int, fp32: set[int], floating: set[int]) -> bool:
    consumers = {
        consumer for name in graph.nodes[index].output for consumer in graph.consumers.get(name, ())
    } & floating
    return bool(consumers) and consumers <= fp32


def _ends_in(graph: Graph, index: int, fp32: set[int]) -> bool:
    node = graph.nodes[index]
    if any(graph.types.get(name) in _FLOATING for name in node.output):
        return False
    read = [name for name in graph.dynamic(node) if graph.types.get(name) in _FLOATING]
    return all(graph.producer.get(name) in fp32 for name in read)
