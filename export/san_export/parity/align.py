"""Which value of one graph is which value of another, so that they can be compared layer by layer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher

from onnx import NodeProto, TensorProto

from ..graph.graph import LAYOUT, WEIGHTED_OPS, Graph

#: Values that are compared: numbers with a fraction, and the bits of masks.
FLOATING = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
#: What only changes the type or the grid of a value.
ROUNDING = frozenset({"Cast", "DequantizeLinear", "Identity", "QuantizeLinear"})
_MATRIX = frozenset({"Gemm", "MatMul"})
_COMPARISONS = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"})
_AFFINE = frozenset({"Add", "BatchNormalization", "Div", "Mul", "Sub"})


@dataclass(frozen=True)
class Pair:
    """A value of the reference and the value of the target that stands for it."""

    reference: str
    target: str


def align(reference: Graph, target: Graph) -> tuple[Pair, ...]:
    """Pair the values of two graphs.

    Outputs pair by position. Products pair by their weight's name, which every pass here keeps; what is left of
    them by order. All other values pair where they are made alike from values that are paired. A name of the
    exporter's (`add_239`) counts only there: another mask shifts its numbers.

    Args:
        reference: of any precision; inputs, pixels as they come, are left out.
        target: likewise.

    Returns:
        In the order of the target's graph; each value at most once.
    """
    pairing = _Pairing(reference, target)
    for mine, theirs in zip(target.outputs, reference.outputs, strict=False):
        pairing.add(theirs, mine)
    pairing.products(_by_weight)
    pairing.forward()
    pairing.products(_by_order)
    pairing.forward()
    pairing.backward()
    pairing.forward()
    made = sorted(pairing.partner.items(), key=lambda item: target.producer[item[0]])
    return tuple(Pair(theirs, mine) for mine, theirs in made)


def origin(graph: Graph, name: str, stop: frozenset[str] | set[str] | dict[str, str] = frozenset()) -> str:
    """The value that `name` is a cast or a rounding of; one of `stop` is not looked behind."""
    while name not in stop and (index := graph.producer.get(name)) is not None:
        node = graph.nodes[index]
        if node.op_type not in ROUNDING or not node.input[0] or name in graph.constants:
            break
        name = node.input[0]
    return name


def settled(graph: Graph, name: str) -> str:
    """The last of the casts and identities that a value goes through before anybody else reads it."""
    while name not in graph.outputs and len(graph.consumers.get(name, ())) == 1:
        node = graph.nodes[graph.consumers[name][0]]
        kinds = {graph.types.get(item) for item in (name, node.output[0])}
        if node.op_type not in ("Cast", "Identity") or not kinds <= FLOATING:
            break
        name = node.output[0]
    return name


def kind(graph: Graph, name: str) -> str:
    """The operator that makes a value, casts, roundings and layout looked through where there is one behind."""
    index = graph.producer.get(name)
    if index is None:
        return ""
    own = graph.nodes[index].op_type
    while own in ROUNDING | LAYOUT:
        changing = graph.dynamic(graph.nodes[index])
        if len(changing) != 1 or (index := graph.producer.get(changing[0])) is None:
            break
        if graph.nodes[index].op_type not in ROUNDING | LAYOUT:
            return str(graph.nodes[index].op_type)
    return str(own)


def fed(graph: Graph) -> frozenset[str]:
    """The values that depend on the graph's inputs; a weight that is dequantised does not."""
    found = set(graph.inputs)
    for node in graph.nodes:
        if any(name in found for name in node.input):
            found.update(filter(None, node.output))
    return frozenset(found)


def pixels(graph: Graph) -> frozenset[str]:
    """The values that no product has touched: pixels, normalised or not."""
    found = set(graph.inputs)
    varying = fed(graph)
    for node in graph.nodes:
        read = [name for name in node.input if name in varying]
        if read and node.op_type not in WEIGHTED_OPS and found.issuperset(read):
            found.update(filter(None, node.output))
    return frozenset(found)


def products(graph: Graph) -> Iterator[tuple[int, NodeProto]]:
    """The products with a constant weight, rounded or not, in the order of the graph."""
    for index, node in enumerate(graph.nodes):
        if node.op_type in WEIGHTED_OPS and origin(graph, node.input[1]) in graph.constants:
            yield index, node


def weight_name(graph: Graph, node: NodeProto) -> str:
    """The name of a product's weight before any pass gave it another ending."""
    name = origin(graph, node.input[1])
    for ending in (".int8", ".fp16", ".fp32"):
        name = name.removesuffix(ending)
    return name


def same_shape(a: tuple[int | None, ...] | None, b: tuple[int | None, ...] | None) -> bool:
    """Whether two shapes agree as far as both are known."""
    if a is None or b is None:
        return True
    return len(a) == len(b) and all(x is None or y is None or x == y for x, y in zip(a, b, strict=True))


_Key = tuple[object, ...]


def _by_weight(graph: Graph, node: NodeProto) -> _Key:
    return (_family(node), weight_name(graph, node), _weight_dims(graph, node))


def _by_order(graph: Graph, node: NodeProto) -> _Key:
    return (_family(node), _weight_dims(graph, node))


def _family(node: NodeProto) -> str:
    return "matrix" if node.op_type in _MATRIX else node.op_type


def _weight_dims(graph: Graph, node: NodeProto) -> tuple[int, ...]:
    dims = tuple(graph.constants[origin(graph, node.input[1])].dims)
    # A Gemm may hold its weight transposed.
    return tuple(sorted(dims)) if node.op_type in _MATRIX else dims


class _Pairing:
    def __init__(self, reference: Graph, target: Graph) -> None:
        self.reference, self.target = reference, target
        self.fed, self.their_fed = fed(target), fed(reference)
        self.partner: dict[str, str] = {}
        self.back: dict[str, str] = {}
        self.places = {name: place for place, name in enumerate(target.inputs)}
        self.their_places = {name: place for place, name in enumerate(reference.inputs)}

    def add(self, theirs: str, mine: str) -> None:
        if mine in self.partner or theirs in self.back or not self._comparable(theirs, mine):
            return
        self.partner[mine] = theirs
        self.back[theirs] = mine

    def _comparable(self, theirs: str, mine: str) -> bool:
        if theirs not in self.reference.producer or mine not in self.target.producer:
            return False
        if theirs in self.reference.constants or mine in self.target.constants:
            return False
        kinds = self.reference.types.get(theirs), self.target.types.get(mine)
        return all(item in FLOATING for item in kinds) or kinds == (TensorProto.BOOL, TensorProto.BOOL)

    def products(self, key: object) -> None:
        """Pair products whose key is the same: the k-th with the k-th, or where counts differ by longest runs."""
        assert callable(key)
        theirs = [
            (key(self.reference, node), node)
            for _, node in products(self.reference)
            if settled(self.reference, node.output[0]) not in self.back
        ]
        mine = [
            (key(self.target, node), node)
            for _, node in products(self.target)
            if settled(self.target, node.output[0]) not in self.partner
        ]
        if key is _by_weight:
            waiting: dict[object, list[NodeProto]] = defaultdict(list)
            for item, node in theirs:
                waiting[item].append(node)
            for item, node in mine:
                if waiting[item]:
                    self._add_products(waiting[item].pop(0), node)
            return
        matcher = SequenceMatcher(
            None, [item for item, _ in theirs], [item for item, _ in mine], autojunk=False
        )
        for block in matcher.get_matching_blocks():
            for step in range(block.size):
                self._add_products(theirs[block.a + step][1], mine[block.b + step][1])

    def _add_products(self, theirs: NodeProto, mine: NodeProto) -> None:
        a, a_chain = _affine_end(self.reference, theirs.output[0])
        b, b_chain = _affine_end(self.target, mine.output[0])
        if a_chain == b_chain:
            # Batch norms stand behind both or neither, so the products compute the same.
            a, b = theirs.output[0], mine.output[0]
        self.add(settled(self.reference, a), settled(self.target, b))

    def forward(self) -> None:
        """Pair what is made alike of paired values, in the order of the target."""
        theirs_at: dict[tuple[str, ...], list[str]] | None = None
        for node in self.target.nodes:
            for output in node.output:
                mine = settled(self.target, output)
                if not output or mine in self.partner or output in self.target.constants:
                    continue
                if self.target.types.get(mine) not in FLOATING | {TensorProto.BOOL}:
                    continue
                if theirs_at is None:
                    theirs_at = self._unpaired_by_ancestors()
                ancestors = self._ancestors(self.target, mine, self.partner, self.places)
                wanted = tuple(sorted(self.partner.get(name, f"input {name}") for name in ancestors))
                best = self._best(theirs_at.get(wanted, []), mine, ancestors)
                if best is not None:
                    self.add(best, mine)
                    theirs_at = None

    def _unpaired_by_ancestors(self) -> dict[tuple[str, ...], list[str]]:
        found: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for node in self.reference.nodes:
            for output in node.output:
                name = settled(self.reference, output) if output else ""
                if not name or name in self.back or name in self.reference.constants or name in found:
                    continue
                if self.reference.types.get(name) in FLOATING | {TensorProto.BOOL}:
                    ancestors = self._ancestors(self.reference, name, self.back, self.their_places)
                    wanted = tuple(
                        sorted(item if item in self.back else f"input {item}" for item in ancestors)
                    )
                    if name not in found[wanted]:
                        found[wanted].append(name)
        return found

    def _ancestors(self, graph: Graph, name: str, paired: dict[str, str], places: dict[str, int]) -> set[str]:
        """The nearest paired values that a value is made of; graph inputs as their place."""
        found: set[str] = set()
        seen: set[str] = set()
        stack = [name]
        while stack:
            value = stack.pop()
            if value in seen or value in graph.constants:
                continue
            seen.add(value)
            if value != name and value in paired:
                found.add(value)
            elif value in places:
                found.add(str(places[value]))
            elif value in graph.producer:
                stack += [item for item in graph.nodes[graph.producer[value]].input if item]
        return found

    def _best(self, candidates: list[str], mine: str, ancestors: set[str]) -> str | None:
        def rank(theirs: str) -> tuple[bool, bool]:
            kinds = {kind(self.reference, theirs), kind(self.target, mine)}
            return (self._named(theirs, mine), len(kinds) == 1 or kinds <= _COMPARISONS)

        fitting = [
            name
            for name in candidates
            if same_shape(self.reference.shapes.get(name), self.target.shapes.get(mine))
            and (rank(name)[0] or (rank(name)[1] and self._direct(name, mine)))
            and not self._claimed(name, mine, ancestors)
            and self._comparable(name, mine)
        ]
        return max(fitting, key=rank) if fitting else None

    def _named(self, theirs: str, mine: str) -> bool:
        """Whether a value of the target, or one that it is a cast of, has the name."""
        known = theirs in self.target.producer and theirs not in self.target.constants
        return theirs == mine or (known and origin(self.target, theirs) == origin(self.target, mine))

    def _claimed(self, theirs: str, mine: str, ancestors: set[str]) -> bool:
        """Whether another value of the target, made of the same, has the name: something was put before it."""
        if self._named(theirs, mine) or theirs in self.partner or not self._comparable(theirs, theirs):
            return False
        return self._ancestors(self.target, theirs, self.partner, self.places) == ancestors

    def _direct(self, theirs: str, mine: str) -> bool:
        """Whether both are made of paired values by one operator, so that nothing unknown stands between."""
        read = [name for name in _read(self.reference, theirs) if name in self.their_fed]
        a = {origin(self.reference, name, self.back) for name in read}
        read = [name for name in _read(self.target, mine) if name in self.fed]
        b = {origin(self.target, name, self.partner) for name in read}
        a = {str(self.their_places[name]) if name in self.their_places else name for name in a}
        b = {str(self.places[name]) if name in self.places else self.partner.get(name, "?") for name in b}
        return a == b

    def backward(self) -> None:
        """Pair what paired products read, where it is made by the same operator: the sums behind other masks."""
        makers = {settled(self.reference, node.output[0]): node for _, node in products(self.reference)}
        for _, node in products(self.target):
            partner = makers.get(self.partner.get(settled(self.target, node.output[0]), ""))
            if partner is None:
                continue
            mine = origin(self.target, node.input[0], self.partner)
            theirs = origin(self.reference, partner.input[0], self.back)
            shapes = self.reference.shapes.get(theirs), self.target.shapes.get(mine)
            if kind(self.target, mine) == kind(self.reference, theirs) and same_shape(*shapes):
                self.add(theirs, mine)


def _read(graph: Graph, name: str) -> list[str]:
    """The changing inputs of the node that makes a value, casts behind it looked through."""
    index = (
        graph.producer[origin(graph, name)] if origin(graph, name) in graph.producer else graph.producer[name]
    )
    return graph.dynamic(graph.nodes[index])


def _affine_end(graph: Graph, name: str) -> tuple[str, tuple[str, ...]]:
    """The last value of the arithmetic with constants that follows a product, and its operators."""
    chain: list[str] = []
    name = settled(graph, name)
    while name not in graph.outputs and len(graph.consumers.get(name, ())) == 1:
        node = graph.nodes[graph.consumers[name][0]]
        if node.op_type not in _AFFINE or len(graph.dynamic(node)) != 1:
            break
        chain.append(node.op_type)
        name = settled(graph, node.output[0])
    return name, tuple(chain)
