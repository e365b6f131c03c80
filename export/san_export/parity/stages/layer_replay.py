"""Each layer of the target on its own, given the reference's values: what it does wrong itself.

Run freely, a flipped mask bit or a fault is carried into all that follows. Here what was given wrong upstream does
not count, so the first layer that differs is the one that is different.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from san_deploy.errors import SanError

from ...graph.graph import WEIGHTED_OPS, Graph, new_name
from .allowance import Precision, count_roundings, is_exact, noise, origin, precision
from .subgraph import Subgraph, tensor_type

#: Values that are compared as numbers with a fraction.
FLOATING = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})


@dataclass(frozen=True)
class Segment:
    """The nodes between a value and the nearest values that are paired.

    Attributes:
        end: the value.
        nodes: indices, in order.
        given: the paired values that they read.
        inputs: the graph's inputs that they read.
        loose: values inside that a weighted operator reads: they round, too, but nothing gives them.
        precision: how the nodes round.
        exact: whether they do not.
        roundings: on the way from what is given to the end.
    """

    end: str
    nodes: tuple[int, ...]
    given: tuple[str, ...]
    inputs: tuple[str, ...]
    loose: tuple[str, ...]
    precision: Precision
    exact: bool
    roundings: int


@dataclass(frozen=True, eq=False)
class Replayed:
    """One value, made of the reference's.

    Attributes:
        value: what the target makes; None where it does not run on the reference's values.
        explained: norm of how far it moved when what it is made of moved by a rounding.
    """

    value: np.ndarray | None
    explained: float


def segment(graph: Graph, end: str, paired: Iterable[str]) -> Segment:
    """Find what makes `end` of the values `paired`."""
    stops = set(paired) - {end}
    nodes: set[int] = set()
    given: dict[str, None] = {}
    inputs: dict[str, None] = {}
    stack = [end]
    while stack:
        name = stack.pop()
        if name in stops:
            given[name] = None
        elif name in graph.producer and name not in graph.constants:
            index = graph.producer[name]
            if index not in nodes:
                nodes.add(index)
                stack += [item for item in graph.nodes[index].input if item]
        elif name in graph.inputs:
            inputs[name] = None
    ordered = tuple(sorted(nodes))
    loose = {
        source
        for index in ordered
        if graph.nodes[index].op_type in WEIGHTED_OPS
        for name in graph.dynamic(graph.nodes[index])
        if (source := origin(graph, name, stops)) not in stops
        and source not in graph.constants
        and graph.types.get(source) in FLOATING
        and source in graph.producer
    }
    how = precision(graph, ordered)
    return Segment(
        end,
        ordered,
        tuple(given),
        tuple(inputs),
        tuple(sorted(loose)),
        how,
        is_exact(graph, ordered, how),
        count_roundings(graph, ordered, how),
    )


def replay(
    model: onnx.ModelProto,
    graph: Graph,
    segments: Sequence[Segment],
    values: Mapping[str, np.ndarray],
    feeds: Mapping[str, np.ndarray],
) -> dict[str, Replayed]:
    """Run segments, each on what it is given.

    Args:
        model: the target.
        graph: its `view`.
        segments: of it.
        values: the reference's, by the target's names, of all that the segments are given.
        feeds: of the target's inputs.
    """
    found: dict[str, Replayed] = {}
    groups: dict[Precision, list[Segment]] = {}
    for item in segments:
        groups.setdefault(item.precision, []).append(item)
    for group in groups.values():
        found |= _group(model, graph, group, values, feeds)
    return found


def _group(
    model: onnx.ModelProto,
    graph: Graph,
    group: Sequence[Segment],
    values: Mapping[str, np.ndarray],
    feeds: Mapping[str, np.ndarray],
) -> dict[str, Replayed]:
    """Segments that round alike, in halves where one of them does not run."""
    try:
        return _together(model, graph, group, values, feeds)
    except SanError:
        if len(group) == 1:
            return {group[0].end: Replayed(None, 0.0)}
    middle = len(group) // 2
    first, second = (_group(model, graph, half, values, feeds) for half in (group[:middle], group[middle:]))
    return first | second


def _together(
    model: onnx.ModelProto,
    graph: Graph,
    group: Sequence[Segment],
    values: Mapping[str, np.ndarray],
    feeds: Mapping[str, np.ndarray],
) -> dict[str, Replayed]:
    how = group[0].precision
    indices = sorted({index for item in group for index in item.nodes})
    ends = [item.end for item in group]
    given = {name: values[name] for item in group for name in item.given}
    loose = sorted({name for item in group for name in item.loose} - set(ends))
    wiring = _Wiring(graph, indices, given)
    feed = wiring.feeds(given, feeds)
    plain = wiring.subgraph(model, feed, [*ends, *loose])
    exact = plain(feed)
    if all(item.exact for item in group):
        return {end: Replayed(exact[end], 0.0) for end in ends}
    moved_given = {
        name: _stir(value, noise(value, name, graph, indices, how, seed))
        if value.dtype.kind == "f"
        else value
        for seed, (name, value) in enumerate(sorted(given.items()))
    }
    added = {
        name: noise(exact[name], name, graph, indices, how, len(given) + seed)
        for seed, name in enumerate(sorted({name for item in group for name in item.loose}))
    }
    part = wiring.subgraph(model, feed, ends, added) if added else plain
    moved = part(
        wiring.feeds(moved_given, feeds)
        | {wiring.noise_name(name): value.astype(exact[name].dtype) for name, value in added.items()}
    )
    return {
        item.end: Replayed(exact[item.end], 0.0 if item.exact else norm(moved[item.end], exact[item.end]))
        for item in group
    }


class _Wiring:
    """Nodes that read what they are given in place of what the same model makes."""

    def __init__(self, graph: Graph, indices: Sequence[int], given: Iterable[str]) -> None:
        taken = {*graph.types, *graph.constants}
        self.graph = graph
        self.indices = indices
        self.names = {name: new_name(f"{name}.given", taken) for name in given}
        made = [name for index in indices for name in graph.nodes[index].output if name]
        self._noise = {name: new_name(f"{name}.noise", taken) for name in made}
        self._stirred = {name: new_name(f"{name}.stirred", taken) for name in made}

    def noise_name(self, name: str) -> str:
        return self._noise[name]

    def feeds(
        self, given: Mapping[str, np.ndarray], feeds: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        return {**feeds, **{self.names[name]: self._typed(name, value) for name, value in given.items()}}

    def _typed(self, name: str, value: np.ndarray) -> np.ndarray:
        """As the target has it; where its type is not known, as the reference gives it."""
        known = self.graph.types.get(name)
        return value.astype(helper.tensor_dtype_to_np_dtype(known)) if known else value

    def subgraph(
        self,
        model: onnx.ModelProto,
        feeds: Mapping[str, np.ndarray],
        outputs: Iterable[str],
        added: Iterable[str] = (),
    ) -> Subgraph:
        """The nodes, opened; the values `added` take a noise of their own."""
        renamed = dict(self.names) | {name: self._stirred[name] for name in added}
        nodes: list[NodeProto] = []
        for index in self.indices:
            node = NodeProto()
            node.CopyFrom(self.graph.nodes[index])
            for place, name in enumerate(node.input):
                node.input[place] = renamed.get(name, name)
            nodes.append(node)
            nodes += [
                helper.make_node("Add", [name, self._noise[name]], [self._stirred[name]])
                for name in node.output
                if name in set(added)
            ]
        read = {name for node in nodes for name in node.input}
        inputs = {name: tensor_type(value) for name, value in feeds.items() if name in read}
        inputs |= {self._noise[name]: self.graph.types[name] for name in added}
        return Subgraph(model, self.graph, nodes, inputs, outputs)


def _stir(value: np.ndarray, more: np.ndarray) -> np.ndarray:
    # The noise of FP32 is smaller than a step of FP32, so the sum is rounded to it at random.
    return np.asarray(value + more).astype(value.dtype)


def norm(a: np.ndarray, b: np.ndarray | None = None) -> float:
    """Euclidean norm of a value, or of the difference of two; NaN where it is not finite."""
    if a.dtype == bool:
        return float(np.sqrt(np.count_nonzero(a if b is None else a != b)))
    with np.errstate(invalid="ignore", over="ignore"):
        result = float(np.linalg.norm(_single(a if b is None else _single(a) - _single(b)).reshape(-1)))
    return result if np.isfinite(result) else float("nan")


def _single(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float32, copy=False)
