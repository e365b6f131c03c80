"""The mask branches of sharp attention, found in the graph by what it computes, not by the names of weights."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from .graph import LAYOUT, Graph, ancestors, view


@dataclass(frozen=True)
class MaskBranch:
    """A part of a graph that does nothing but make a mask.

    Nodes are named by their first output, which stays theirs in a copy of the graph.

    Attributes:
        x: the value that the mask is drawn from (the paper's X).
        masks: values in 0..1, or booleans, that leave the branch.
        threshold: nodes between X and the masks: minimum and maximum, and what compares X with them.
        context: nodes before them whose result nothing else reads: the context-aware unit. Empty where X is
            the trunk itself.
    """

    x: str
    masks: tuple[str, ...]
    threshold: tuple[str, ...]
    context: tuple[str, ...]

    @property
    def nodes(self) -> tuple[str, ...]:
        """The whole branch, in the order of the graph."""
        return self.context + self.threshold


def find_branches(model: onnx.ModelProto) -> tuple[MaskBranch, ...]:
    """Find every mask that a minimum and a maximum of the same value make.

    Of all that follows from X, its minimum and its maximum alone, the mask is the last that stays as it is
    when X is scaled: a comparison of two of them, a quotient of two of them, what is clipped or cast of it.
    Mask times X scales with X, so it lies outside; so does a product with anything else. A gate that needs
    no minimum and maximum (a sigmoid, a softmax) is none.

    Args:
        model: FP32 or FP16, not quantised; not changed.

    Returns:
        In the order of the graph; empty for a network without sharp attention.
    """
    graph = view(model)
    branches = [_branch(graph, name) for name in _bounded(graph)]
    return tuple(branch for branch in branches if branch is not None)


#: Makes a boolean, which no scale changes.
_COMPARISONS = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"})
_LOGIC = frozenset({"And", "Not", "Or", "Xor"})
#: Gives a value that scales as its inputs do, which therefore must agree; constants adapt to them.
_SAME_DEGREE = LAYOUT | {"Abs", "Add", "Cast", "Clip", "Max", "Min", "Neg", "Relu", "Sub", "Sum", "Where"}
_BOUNDS = frozenset({"ReduceMin", "ReduceMax"})


@dataclass(frozen=True)
class _Derived:
    """What is known of a value that follows from X: x scaled by s scales it by s ** degree."""

    degree: int
    bounds: frozenset[str]


def _bounded(graph: Graph) -> list[str]:
    """Values that have both their minimum and their maximum taken, over the same axes."""
    found: dict[str, dict[str, set[tuple[object, ...]]]] = {}
    for node in graph.nodes:
        if node.op_type in _BOUNDS and node.input[0] not in graph.constants:
            axes = found.setdefault(node.input[0], {"ReduceMin": set(), "ReduceMax": set()})
            axes[node.op_type].add(_axes(graph, node))
    return [name for name, axes in found.items() if axes["ReduceMin"] & axes["ReduceMax"]]


def _axes(graph: Graph, node: onnx.NodeProto) -> tuple[object, ...]:
    given = next((list(item.ints) for item in node.attribute if item.name == "axes"), None)
    if len(node.input) > 1 and node.input[1]:
        values = graph.constant_value(node.input[1])
        # Axes that are computed equal only themselves.
        if values is None:
            return (node.input[1],)
        given = values.tolist()
    if given is None:
        return ()
    rank = len(graph.shapes.get(node.input[0], ()))
    return tuple(sorted(axis % rank if rank else axis for axis in given))


def _branch(graph: Graph, x: str) -> MaskBranch | None:
    derived, members = _closure(graph, x)
    fixed = {
        graph.producer[name]
        for name, value in derived.items()
        if name != x and value.degree == 0 and value.bounds == _BOUNDS
    }
    if not fixed:
        return None
    threshold = ancestors(graph, fixed, members)
    masks = tuple(
        name
        for index in sorted(threshold)
        for name in graph.nodes[index].output
        if name in graph.outputs or not set(graph.consumers.get(name, ())) <= threshold
    )
    context = _only_for(graph, threshold)
    return MaskBranch(x, masks, _names(graph, threshold), _names(graph, context))


def _closure(graph: Graph, x: str) -> tuple[dict[str, _Derived], set[int]]:
    """Every value that follows from `x` and its bounds alone, `x` among them, and the nodes that make them."""
    derived = {x: _Derived(1, frozenset())}
    members = set()
    for index, node in enumerate(graph.nodes):
        if not any(name in derived for name in node.input):
            continue
        value = _derive(graph, node, derived, x)
        if value is not None:
            members.add(index)
            derived.update({name: value for name in node.output if name})
    return derived, members


def _derive(graph: Graph, node: onnx.NodeProto, derived: dict[str, _Derived], x: str) -> _Derived | None:
    if node.op_type in _BOUNDS:
        return _Derived(1, frozenset({node.op_type})) if node.input[0] == x else None
    names = graph.dynamic(node)
    if not names or any(name not in derived for name in names):
        return None
    bounds = frozenset[str]().union(*(derived[name].bounds for name in names))
    if node.op_type in _COMPARISONS or node.op_type in _LOGIC:
        return _Derived(0, bounds)
    if node.op_type in ("Mul", "Div"):
        first, second = (derived[name].degree if name in derived else 0 for name in node.input)
        return _Derived(first + second if node.op_type == "Mul" else first - second, bounds)
    if node.op_type in _SAME_DEGREE:
        # A Where's condition chooses, and does not scale; neither do the bounds of a Clip, or indices.
        sources = {"Where": node.input[1:], "Clip": node.input[:1]}.get(node.op_type, node.input)
        degrees = {derived[name].degree for name in sources if name in derived}
        return _Derived(degrees.pop(), bounds) if len(degrees) == 1 else None
    return None


def _only_for(graph: Graph, ends: set[int]) -> set[int]:
    """The nodes that nothing needs but the nodes `ends`, those left out."""
    inside = set(ends)
    for index in reversed(range(max(ends, default=0))):
        node = graph.nodes[index]
        consumers = {consumer for name in node.output for consumer in graph.consumers.get(name, ())}
        if consumers and consumers <= inside and not set(node.output) & set(graph.outputs):
            inside.add(index)
    return {index for index in inside - ends if graph.dynamic(graph.nodes[index])}


def _names(graph: Graph, indices: set[int]) -> tuple[str, ...]:
    return tuple(graph.nodes[index].output[0] for index in sorted(indices))
