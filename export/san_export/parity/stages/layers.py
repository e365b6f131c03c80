"""The first layer at which two graphs differ by more than rounding explains.

Every layer of the target is given the reference's values, so that an error counts where it is made and nowhere
else (`forced`). Then "one of the first k layers is wrong" is monotone in k, and the graph can be cut in halves until
the values of a piece fit in memory; the pieces are run in order. All layers of a piece take one pass, so that the
search for the first costs no more than the error of each.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from san_deploy.artefact import Artefact
from san_deploy.errors import SanError

from ...graph.graph import LAYOUT, WEIGHTED_OPS, Graph, view
from ..align import Pair, align, fed, kind, origin, pixels
from ..modules import modules
from ..pixel_form import SLACK_OF_PIXELS, another_normalisation, pixel_form
from ..result import DivergenceFigures, LayerError
from ..told import Case, Side, tell
from ..weight_error import weight_pairs
from .layer_replay import Forced, Segment, force, norm, segment
from .subgraph import steps

#: Times what is allowed further on, from where on a difference would be seen there.
_ANOTHER = 4.0
#: Of the values of one piece of the reference; some five times as much is held for a moment.
_PIECE_BYTES = 96 * 2**20
_AFFINE = (
    LAYOUT
    | WEIGHTED_OPS
    | {
        "Add",
        "BatchNormalization",
        "Cast",
        "DequantizeLinear",
        "Div",
        "Identity",
        "Mul",
        "QuantizeLinear",
        "Sub",
    }
)


def find_divergence(
    reference: onnx.ModelProto,
    target: onnx.ModelProto,
    images: np.ndarray,
    *,
    reference_artefact: Artefact,
    target_artefact: Artefact,
) -> DivergenceFigures:
    """Compare two graphs layer by layer, and say where and how they first differ.

    Graphs are run as they are written: what a runtime makes of one is not seen here.

    Args:
        reference: FP32.
        target: in any precision; FP16 in its rounded form (`emulate_fp16.emulate_fp16`), which a CPU rounds.
        images: `(N, H, W, 3)` uint8 BGR; 8 to 16 say as much as more.
        reference_artefact: what the reference takes.
        target_artefact: what the target takes.

    Raises:
        SanError: no images or images of another size, a graph that does not run, graphs without a common output.
    """
    if not len(images):
        raise SanError("there is no crop to compare the layers on")
    comparison = _Comparison(
        _side(reference, images, reference_artefact), _side(target, images, target_artefact), len(images)
    )
    pairs = align(comparison.reference.graph, comparison.target.graph)
    if reference_artefact.input != target_artefact.input:
        # Their channels are in another order, as are the weights that read them.
        untouched = comparison.pixels = (
            pixels(comparison.reference.graph),
            pixels(comparison.target.graph),
        )
        pairs = tuple(p for p in pairs if p.reference not in untouched[0] and p.target not in untouched[1])
    if not pairs:
        raise SanError("the graphs have no layer in common", do="compare exports of one network")
    found = comparison.scan(pairs)
    if any(item.layer.differs for item in found):
        pairs, found = comparison.without_other_forms(pairs, found)
    layers = [item.layer for item in found]
    told = ""
    if reference_artefact.input != target_artefact.input:
        layer, told = comparison.normalisation(images)
        layers = [*layer, *layers]
    first = next((item for item in found if item.layer.differs), None)
    if first is not None and not told:
        told = tell(comparison.case(pairs, first, images))
    return DivergenceFigures(
        tuple(layers), next((layer for layer in layers if layer.differs), None), told, len(images)
    )


def _side(model: onnx.ModelProto, images: np.ndarray, artefact: Artefact) -> Side:
    graph = view(model)
    if len(graph.inputs) != 1:
        raise SanError(f"a graph has {len(graph.inputs)} inputs; a network of ours has one")
    return Side(model, graph, {graph.inputs[0]: artefact.to_input(images)})


@dataclass(frozen=True)
class _Found:
    pair: Pair
    segment: Segment
    layer: LayerError


class _Comparison:
    def __init__(self, reference: Side, target: Side, crops: int) -> None:
        self.reference, self.target, self.crops = reference, target, crops
        #: Of both graphs, where they are not compared.
        self.pixels: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())
        self.modules = modules(target.graph)
        self.reference_modules = modules(reference.graph)

    def scan(self, pairs: Sequence[Pair]) -> list[_Found]:
        """The error of every pair, in order."""
        partner = {pair.target: pair.reference for pair in pairs}
        segments = {pair.target: segment(self.target.graph, pair.target, partner) for pair in pairs}
        pieces = self._halves(pairs)
        plan = [
            [pair.reference for pair in piece]
            + [partner[name] for pair in piece for name in segments[pair.target].given]
            for piece in pieces
        ]
        theirs = steps(self.reference.model, self.reference.graph, self.reference.feeds, plan)
        free = steps(
            self.target.model,
            self.target.graph,
            self.target.feeds,
            [[pair.target for pair in piece] for piece in pieces],
        )
        found: list[_Found] = []
        for piece, wanted, carried in zip(pieces, theirs, free, strict=True):
            values = {mine: wanted[name] for mine, name in partner.items() if name in wanted}
            parts = [segments[pair.target] for pair in piece]
            forced = force(self.target.model, self.target.graph, parts, values, self.target.feeds)
            for pair, part in zip(piece, parts, strict=True):
                layer = self._layer(pair, part, wanted[pair.reference], forced[pair.target])
                layer = replace(layer, carried=_relative(wanted[pair.reference], carried[pair.target]))
                found.append(_Found(pair, part, replace(layer, weights=self._weights(pair, part, partner))))
        return found

    def _halves(self, pairs: Sequence[Pair]) -> list[Sequence[Pair]]:
        size = sum(self._bytes(pair.reference) for pair in pairs)
        if size <= _PIECE_BYTES or len(pairs) == 1:
            return [pairs]
        middle = len(pairs) // 2
        return [*self._halves(pairs[:middle]), *self._halves(pairs[middle:])]

    def _bytes(self, name: str) -> int:
        shape = self.reference.graph.shapes.get(name, ())
        return 4 * self.crops * int(np.prod([dimension or 1 for dimension in shape[1:]], dtype=np.int64))

    def _layer(self, pair: Pair, part: Segment, expected: np.ndarray, forced: Forced) -> LayerError:
        size = norm(expected)
        local = float("nan") if forced.value is None else _relative(expected, forced.value)
        allowed = 0.0
        if not (part.exact and expected.dtype == bool):
            allowed = part.precision.allowed(forced.explained, size)
            if size == 0 and forced.value is not None and norm(forced.value) <= forced.explained:
                local = 0.0
        module = self.modules.get(pair.target, "") or self.reference_modules.get(pair.reference, "")
        return LayerError(
            name=self._name(pair),
            operator=kind(self.target.graph, pair.target),
            module=module,
            local=local,
            carried=float("nan"),
            allowed=allowed,
        )

    def _name(self, pair: Pair) -> str:
        """The name in the target; the reference's where one of the target's casts of the value has it, too."""
        graph = self.target.graph
        known = pair.reference in graph.producer and pair.reference not in graph.constants
        alike = known and origin(graph, pair.reference) == origin(graph, pair.target)
        return pair.reference if alike else pair.target

    def _weights(self, pair: Pair, part: Segment, partner: Mapping[str, str]) -> float:
        case = self._nodes(pair)
        if case is None:
            return 0.0
        graphs = self.reference.graph, self.target.graph
        return max(
            (item.excess for item in weight_pairs(*graphs, *case, part, partner, self.pixels)), default=0.0
        )

    def _nodes(self, pair: Pair) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
        theirs = self.reference.graph.producer.get(origin(self.reference.graph, pair.reference))
        mine = self.target.graph.producer.get(origin(self.target.graph, pair.target))
        if theirs is None or mine is None:
            return None
        return self.reference.graph.nodes[theirs], self.target.graph.nodes[mine]

    def without_other_forms(
        self, pairs: Sequence[Pair], found: list[_Found]
    ) -> tuple[tuple[Pair, ...], list[_Found]]:
        """Forget pairs that differ where what follows from them does not: the same, written in another way.

        Pixels in another channel order before weights in that order, a factor that moved from one side of a
        product to the other. Only products, factors and summands that are constant may stand between.
        """
        varying = fed(self.target.graph)
        known = {pair.target for pair in pairs}
        before = {item.pair.target: item for item in found}
        chains: dict[str, set[str]] = {}
        for item in found:
            if item.layer.differs:
                chain = _affine_chain(self.target.graph, item.pair.target, known, varying)
                if len(chain) > 1:
                    chains.setdefault(chain[-1], set()).update(chain[:-1])
        dropped = set().union(*chains.values()) - chains.keys()
        if not dropped:
            return tuple(pairs), found
        fewer = [pair for pair in pairs if pair.target not in dropped]
        again = {item.pair.target: item for item in self.scan(fewer)}
        # Another form is another value altogether. A difference that rounding further on could hide is none.
        healed = {
            end
            for end in chains
            if not again[end].layer.differs
            and all(
                not before[name].layer.local <= _ANOTHER * again[end].layer.allowed
                for name in chains[end]
                if before[name].layer.differs
            )
        }
        gone = set().union(*(chains[end] for end in healed)) if healed else set()
        kept = tuple(pair for pair in pairs if pair.target not in gone)
        return kept, [(again if pair.target in healed else before)[pair.target] for pair in kept]

    def normalisation(self, images: np.ndarray) -> tuple[list[LayerError], str]:
        """The normalised pixels of two forms of input, colour by colour; what is wrong with them, in words.

        Nothing where the graphs do something else to the pixels than to normalise them.
        """
        theirs, mine = (
            pixel_form(side.model, side.graph, side.feeds, images) for side in (self.reference, self.target)
        )
        if theirs is None or mine is None:
            return [], ""
        put_right = theirs.value[:, [theirs.colours.index(colour) for colour in mine.colours]]
        error = _relative(put_right, mine.value)
        layer = LayerError(mine.name, kind(self.target.graph, mine.name), "", error, error, SLACK_OF_PIXELS)
        return [layer], another_normalisation(theirs, mine) if layer.differs else ""

    def case(self, pairs: Sequence[Pair], item: _Found, images: np.ndarray) -> Case:
        """All that is known of a layer, its values among it."""
        partner = {pair.target: pair.reference for pair in pairs}
        part = item.segment
        names = [item.pair.reference, *(partner[name] for name in part.given)]
        (values,) = steps(self.reference.model, self.reference.graph, self.reference.feeds, [names])
        given = {name: values[partner[name]] for name in part.given}
        forced = force(self.target.model, self.target.graph, [part], given, self.target.feeds)[part.end]
        nodes = self._nodes(item.pair)
        graphs = self.reference.graph, self.target.graph
        return Case(
            reference=self.reference,
            target=self.target,
            pair=item.pair,
            layer=item.layer,
            theirs=None if nodes is None else nodes[0],
            mine=None if nodes is None else nodes[1],
            weights=() if nodes is None else weight_pairs(*graphs, *nodes, part, partner, self.pixels),
            expected=values[item.pair.reference],
            value=forced.value,
            given=given,
            partner=partner,
            images=images,
        )


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


def _affine_chain(graph: Graph, name: str, known: Collection[str], varying: Collection[str]) -> list[str]:
    """The paired values from `name` on that follow from it, and from it alone, by constants."""
    chain: list[str] = []
    while True:
        if name in known:
            chain.append(name)
        readers = graph.consumers.get(name, ())
        if len(readers) != 1 or name in graph.outputs:
            return chain
        node = graph.nodes[readers[0]]
        if node.op_type not in _AFFINE or sum(item in varying for item in node.input) != 1:
            return chain
        name = node.output[0]
