"""The first layer at which two graphs differ by more than rounding explains.

Every layer of the target is given the reference's values, so that an error counts where it is made and nowhere
else (`layer_replay`). All layers of a piece of the graph take one pass; the pieces, small enough for their values to
fit in memory, are run in order.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from san_deploy.artefact import Artefact
from san_deploy.errors import SanError

from ...graph.graph import LAYOUT, WEIGHTED_OPS, Graph, view
from ...graph.mask_branches import find_branches
from ..result import LayerError, LayerFigures
from .allowance import ROUNDING, allowed, origin
from .layer_replay import FLOATING, Replayed, Segment, norm, replay, segment
from .subgraph import steps

#: Of the values of one piece of the reference; some five times as much is held for a moment.
_PIECE_BYTES = 32 * 2**20
_BOOL: int = TensorProto.BOOL


@dataclass(frozen=True, eq=False)
class GraphRun:
    """A graph and the crops that it is run on.

    Attributes:
        model: FP32, INT8, or FP16 emulated in FP32 (`emulate_fp16`), which a CPU rounds.
        graph: its `view`.
        feeds: of its inputs.
        input: form of the pixels, as in `Artefact.input`.
    """

    model: onnx.ModelProto
    graph: Graph
    feeds: dict[str, np.ndarray]
    input: str

    @staticmethod
    def of(model: onnx.ModelProto, artefact: Artefact, images: np.ndarray) -> GraphRun:
        """Of `(N, H, W, 3)` uint8 BGR, N >= 1; 8 crops say as much as more.

        Raises:
            SanError: no crops, crops of another size, a graph that cannot be looked into.
        """
        if not len(images):
            raise SanError("there is no crop to compare the layers on")
        graph = view(model)
        if len(graph.inputs) != 1:
            raise SanError(f"a graph has {len(graph.inputs)} inputs, a re-ID network has one")
        return GraphRun(model, graph, {graph.inputs[0]: artefact.to_input(images)}, artefact.input)


def compare_layers(reference: GraphRun, target: GraphRun, *, same_masks: bool = True) -> LayerFigures:
    """Compare two graphs layer by layer, and say where they first differ.

    Graphs are run as they are written: what a runtime makes of one is not seen here.

    Args:
        reference: what is right.
        target: compared with it.
        same_masks: whether both draw their masks alike; else the layers that make masks are left out.

    Raises:
        SanError: the graphs have no layer in common, or the reference does not run.
    """
    left_out = set() if same_masks else _mask_values(reference) | _mask_values(target)
    pairs = pair_layers(reference.graph, target.graph, left_out=left_out)
    if not same_masks:
        pairs = {
            name: known
            for name, known in pairs.items()
            if _same_module(reference.graph, known, target.graph, name)
        }
    if reference.input != target.input:
        # Pixels are in another order of channels, as are the weights that read them.
        raw = _pixels(reference.graph) | _pixels(target.graph)
        pairs = {name: known for name, known in pairs.items() if name not in raw and known not in raw}
    if not pairs:
        raise SanError("no layer of the target has the name and the place of one of the reference")
    comparison = _Comparison(reference, target, pairs, left_out)
    layers = comparison.scan()
    first = next((layer for layer in layers if layer.differs), None)
    return LayerFigures(
        layers=tuple(layers),
        first=first,
        detail="" if first is None else comparison.detail(first),
        crops=len(next(iter(target.feeds.values()))),
        unpaired=_unpaired(target.graph, pairs),
    )


def pair_layers(
    reference: Graph, target: Graph, *, left_out: Collection[str] = frozenset()
) -> dict[str, str]:
    """Pair the values of two graphs by their names, which converters keep.

    A name counts where the values behind it have the same names as well: exporters number their values, and another
    mask or version shifts the numbers. GivenRows pair by position.

    Args:
        reference: of any precision; inputs, pixels as they come, are left out.
        target: likewise.
        left_out: values that are not to be paired.

    Returns:
        `{value of the target: value of the reference}`, in the order of the target.
    """
    pairs: dict[str, str] = {}
    for node in target.nodes:
        for name in node.output:
            if name not in left_out and _comparable(reference, name, target, name):
                known = set(pairs.values())
                if _nearest(reference, name, known) == {
                    pairs.get(n, n) for n in _nearest(target, name, pairs)
                }:
                    pairs[name] = name
    for name, output in zip(target.outputs, reference.outputs, strict=False):
        if output not in pairs.values() and _comparable(reference, output, target, name):
            pairs[name] = output
    return dict(sorted(pairs.items(), key=lambda pair: target.producer[pair[0]]))


def _comparable(reference: Graph, known: str, target: Graph, name: str) -> bool:
    if known not in reference.producer or name not in target.producer:
        return False
    if known in reference.constants or name in target.constants:
        return False
    # An operator of a runtime's own has a type that nobody infers.
    kinds = {reference.types.get(known), target.types.get(name)} - {None, TensorProto.UNDEFINED}
    return kinds <= FLOATING or kinds == {_BOOL}


def _same_module(reference: Graph, known: str, target: Graph, name: str) -> bool:
    """Whether two values are made by the operators of one module: other names prove little between other graphs."""
    nodes = _made_by(reference, known), _made_by(target, name)
    modules = _module(reference, nodes[0]), _module(target, nodes[1])
    return modules[0] == modules[1] != "" and nodes[0].op_type == nodes[1].op_type


def _nearest(graph: Graph, name: str, paired: Collection[str]) -> set[str]:
    """The nearest paired values that a value is made of; graph inputs as their place."""
    found: set[str] = set()
    seen = {name}
    stack = [item for item in graph.nodes[graph.producer[name]].input if item]
    while stack:
        value = stack.pop()
        if value in seen or value in graph.constants:
            continue
        seen.add(value)
        if value in paired:
            found.add(value)
        elif value in graph.inputs:
            found.add(f"input {graph.inputs.index(value)}")
        elif value in graph.producer:
            stack += [item for item in graph.nodes[graph.producer[value]].input if item]
    return found


def _pixels(graph: Graph) -> set[str]:
    """The values that no weighted operator has touched: pixels, normalised or not."""
    found = set(graph.inputs)
    for node in graph.nodes:
        read = [name for name in graph.dynamic(node) if name in found]
        if read and node.op_type not in WEIGHTED_OPS and found.issuperset(graph.dynamic(node)):
            found.update(filter(None, node.output))
    return found


def _mask_values(run: GraphRun) -> set[str]:
    return {name for branch in find_branches(run.model) for name in branch.threshold}


def _unpaired(graph: Graph, pairs: Mapping[str, str]) -> int:
    """Values of the target that are not compared: floating point or bits, not a rounding of another one."""
    return sum(
        name not in pairs
        and graph.types.get(name, _BOOL) in FLOATING | {_BOOL}
        and name not in graph.constants
        for node in graph.nodes
        if node.op_type not in ROUNDING | LAYOUT
        for name in node.output
        if not name.endswith(".exact")  # of `emulate_fp16`
    )


class _Comparison:
    def __init__(
        self, reference: GraphRun, target: GraphRun, pairs: Mapping[str, str], left_out: Collection[str]
    ) -> None:
        self.reference, self.target, self.pairs, self._left_out = reference, target, pairs, left_out
        self.crops = len(next(iter(target.feeds.values())))

    def scan(self) -> list[LayerError]:
        """The error of every pair, in order."""
        segments = {name: segment(self.target.graph, name, self.pairs) for name in self.pairs}
        pieces = self._halves(list(self.pairs))
        plan = [
            [self.pairs[name] for name in piece]
            + [self.pairs[item] for name in piece for item in segments[name].given]
            for piece in pieces
        ]
        known = steps(self.reference.model, self.reference.graph, self.reference.feeds, plan)
        free = steps(self.target.model, self.target.graph, self.target.feeds, pieces)
        found: list[LayerError] = []
        for piece in pieces:
            wanted, carried = next(known), _or_nothing(free)
            values = {name: wanted[known] for name, known in self.pairs.items() if known in wanted}
            parts = [segments[name] for name in piece]
            replayed = replay(self.target.model, self.target.graph, parts, values, self.target.feeds)
            for name, part in zip(piece, parts, strict=True):
                if self._touches_left_out(part):
                    continue
                layer = self._layer(part, wanted[self.pairs[name]], replayed[name])
                if name in carried:
                    layer = replace(layer, carried=_relative(wanted[self.pairs[name]], carried[name]))
                found.append(layer)
        return found

    def _touches_left_out(self, part: Segment) -> bool:
        """Whether a layer is made of values that are not to be compared."""
        nodes = self.target.graph.nodes
        return any(name in self._left_out for index in part.nodes for name in nodes[index].output)

    def _halves(self, names: list[str]) -> list[list[str]]:
        if len(names) == 1 or sum(map(self._bytes, names)) <= _PIECE_BYTES:
            return [names]
        middle = len(names) // 2
        return [*self._halves(names[:middle]), *self._halves(names[middle:])]

    def _bytes(self, name: str) -> int:
        shape = self.reference.graph.shapes.get(self.pairs[name], ())
        return 4 * self.crops * int(np.prod([size or 1 for size in shape[1:]], dtype=np.int64))

    def _layer(self, part: Segment, expected: np.ndarray, found: Replayed) -> LayerError:
        graph, size = self.target.graph, norm(expected)
        local = float("nan") if found.value is None else _relative(expected, found.value)
        limit = 0.0
        if not (part.exact and expected.dtype == bool):
            limit = allowed(found.explained, size, part.precision.unit, part.roundings)
            if size == 0 and found.value is not None and norm(found.value) <= found.explained:
                local = 0.0
        node = _made_by(graph, part.end)
        return LayerError(part.end, node.op_type, _module(graph, node), local, float("nan"), limit)

    def detail(self, layer: LayerError) -> str:
        """What can be read off both graphs at a layer, and its values: no guess at a cause."""
        graphs = self.reference.graph, self.target.graph
        names = self.pairs[layer.name], layer.name
        known, node = (_made_by(graph, name) for graph, name in zip(graphs, names, strict=True))
        facts = []
        if node.op_type != known.op_type:
            facts.append(f"the operator is {node.op_type}, the reference's is {known.op_type}")
        else:
            facts += _settings(known, node)
        if np.isnan(layer.local):
            facts.append("the values are not finite, or the layer does not run on the reference's")
        elif np.isinf(layer.local):
            facts.append("the result has another shape, or is anything where the reference is zero")
        return "; ".join(facts)


def _or_nothing(values: Iterator[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The next step of a target that may not run; then there is nothing to follow from the crops on."""
    try:
        return next(values)
    except (SanError, StopIteration):
        return {}


def _made_by(graph: Graph, name: str) -> NodeProto:
    """The node that makes a value; casts and roundings are looked through where there is a node behind."""
    behind = origin(graph, name)
    return graph.nodes[graph.producer[behind if behind in graph.producer else name]]


def _module(graph: Graph, node: NodeProto) -> str:
    """The module of the network that a weighted operator is, by the name of its weight; empty for others."""
    if node.op_type not in WEIGHTED_OPS or origin(graph, node.input[1]) not in graph.constants:
        return ""
    name = origin(graph, node.input[1])
    for ending in (".int8", ".fp16", ".fp32"):
        name = name.removesuffix(ending)
    return name.removesuffix(".weight").removeprefix("network.") if name.endswith(".weight") else ""


def _settings(known: NodeProto, node: NodeProto) -> list[str]:
    """Attributes that both nodes have with other values; layout and types differ between precisions."""
    if node.op_type in LAYOUT | ROUNDING:
        return []
    first, second = (
        {item.name: helper.get_attribute_value(item) for item in one.attribute} for one in (known, node)
    )
    return [
        f"{key} is {second[key]}, the reference's is {first[key]}"
        for key in sorted(first.keys() & second.keys())
        if not isinstance(first[key], TensorProto) and first[key] != second[key]
    ]


def _relative(expected: np.ndarray, value: np.ndarray) -> float:
    """Norm of the difference over norm of the reference; infinite for another shape, NaN where not finite."""
    if expected.shape != value.shape:
        return float("inf")
    difference, size = norm(value, expected), norm(expected)
    if np.isnan(size) or np.isnan(difference):
        return float("nan")
    if size == 0:
        return 0.0 if difference == 0 else float("inf")
    return difference / size
