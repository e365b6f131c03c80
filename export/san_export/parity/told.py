"""What is different at a layer, as far as it can be told: hypotheses, each tested on values and weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from ..graph.graph import WEIGHTED_OPS, Graph
from .align import Pair, kind, origin, products
from .pixel_form import PixelForm, another_normalisation, pixel_form
from .result import LayerError
from .weight_error import WeightPair, channels

_COMPARISONS = frozenset({"Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"})
#: A factor nearer to 1 is none.
_FACTOR = 1e-5
#: What may be left of a difference that a hypothesis explains.
_LEFT = 0.05
#: Cosine from which on two rows have one direction, INT8's rounding included.
_ALIKE = 0.95


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two graphs.

    Attributes:
        model, graph: and its `view`.
        feeds: of its inputs.
    """

    model: onnx.ModelProto
    graph: Graph
    feeds: dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Case:
    """The first layer that differs.

    Attributes:
        reference, target: the graphs.
        pair: the value in both.
        layer: its errors.
        theirs, mine: the nodes that make it, if any.
        weights: the constants of those nodes.
        expected: the reference's value.
        value: what the target makes of the reference's values; None where it does not run on them.
        given: the reference's values by the target's names.
        partner: `{value of the target: value of the reference}`.
        images: `(N, H, W, 3)` uint8 BGR.
    """

    reference: Side
    target: Side
    pair: Pair
    layer: LayerError
    theirs: NodeProto | None
    mine: NodeProto | None
    weights: tuple[WeightPair, ...]
    expected: np.ndarray
    value: np.ndarray | None
    given: dict[str, np.ndarray]
    partner: Mapping[str, str]
    images: np.ndarray


def tell(case: Case) -> str:
    """One sentence without an end, the most particular that holds."""
    for test in (_not_finite, _shape, _colours, _attributes, _mask, _norm, _weights, _scaled, _operator):
        if told := test(case):
            return told
    if not case.layer.local <= case.layer.allowed:
        return (
            f"the result is {case.layer.local:.2g} of its size away, where rounding explains "
            f"{case.layer.allowed:.2g}"
        )
    return "the weights differ by more than rounding"


def _not_finite(case: Case) -> str:
    if not np.isfinite(case.expected).all():
        return "the reference itself is not finite here"
    for pair in case.weights:
        bad = np.count_nonzero(~np.isfinite(pair.target))
        if bad:
            return f"the weight {pair.name} holds {bad} of {pair.target.size} values that are not finite"
    if case.value is not None and not np.isfinite(case.value).all():
        return f"{np.mean(~np.isfinite(case.value)):.2%} of the values are not finite"
    return ""


def _shape(case: Case) -> str:
    if case.value is None:
        return "the layer does not run on the reference's values: its operator or sizes are others"
    if case.value.shape != case.expected.shape:
        other = _changed(case)
        return (
            f"the result is of shape {case.value.shape[1:]}, the reference's of {case.expected.shape[1:]}"
            + (f": {other}" if other else "")
        )
    return ""


def _colours(case: Case) -> str:
    """Colours and normalisation, looked at where the first product reads them."""
    forms = [
        pixel_form(side.model, side.graph, side.feeds, case.images) for side in (case.reference, case.target)
    ]
    theirs, mine = forms
    if theirs is None or mine is None or not _reads_pixels(case):
        return ""
    order = _weight_order(case, theirs, mine)
    if order is False:
        return f"the channels are in the wrong order: {_swapped(theirs, mine)}"
    if not mine.normalises_like(theirs):
        return another_normalisation(theirs, mine)
    return ""


def _swapped(theirs: PixelForm, mine: PixelForm) -> str:
    if theirs.colours != mine.colours:
        return f"the first product reads {mine.colours} where the reference reads {theirs.colours}, by like weights"
    back = theirs.colours[::-1]
    return f"the first product reads {mine.colours} with weights for {back}"


def _reads_pixels(case: Case) -> bool:
    """Whether no product but the first stands between the crops and the layer."""
    graph = case.target.graph
    count, stack, seen = 0, [case.pair.target], set[str]()
    while stack:
        name = stack.pop()
        if name in seen or name in graph.constants or name not in graph.producer:
            continue
        seen.add(name)
        node = graph.nodes[graph.producer[name]]
        count += node.op_type in WEIGHTED_OPS
        stack += list(filter(None, node.input))
    return count <= 1


def _weight_order(case: Case, theirs: PixelForm, mine: PixelForm) -> bool | None:
    """Whether the first product's weights fit the colours that it reads; None where they tell nothing."""
    first = [next(iter(products(side.graph)), None) for side in (case.reference, case.target)]
    if first[0] is None or first[1] is None:
        return None
    from .constants import constant

    a = constant(case.reference.graph, first[0][1].input[1])
    b = constant(case.target.graph, first[1][1].input[1])
    if a is None or b is None or a.values.shape != b.values.shape or a.values.ndim != 4:
        return None
    if a.values.shape[1] != 3:
        return None
    put_right = a.values[:, [theirs.colours.index(colour) for colour in mine.colours]]
    right, wrong = (np.abs(b.values - w).sum() for w in (put_right, put_right[:, ::-1]))
    if min(right, wrong) > _LEFT * np.abs(a.values).sum():
        return None
    return bool(right <= wrong)


def _attributes(case: Case) -> str:
    changed = _changed(case)
    return f"the operator has other settings: {changed}" if changed else ""


#: Attributes that say the same left out, for the operators that we compare.
_DEFAULTS = {"group": 1, "dilations": None, "kernel_shape": None, "alpha": 1.0, "beta": 1.0, "axis": None}


def _changed(case: Case) -> str:
    """Attributes that both nodes have, or one has and that matter, with other values."""
    if case.theirs is None or case.mine is None or case.theirs.op_type != case.mine.op_type:
        return ""
    if case.mine.op_type in ("Cast", "Transpose"):
        return ""
    theirs, mine = (
        {item.name: helper.get_attribute_value(item) for item in node.attribute}
        for node in (case.theirs, case.mine)
    )
    return ", ".join(
        f"{key} {_short(mine[key])} instead of {_short(theirs[key])}"
        for key in sorted(theirs.keys() & mine.keys())
        if key not in _DEFAULTS and not isinstance(mine[key], TensorProto) and mine[key] != theirs[key]
    )


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _mask(case: Case) -> str:
    """Bits, as such or as 0 and 1."""
    if case.value is None or not (_bits(case.expected) and _bits(case.value)):
        return ""
    expected, value = case.expected.astype(bool), case.value.astype(bool)
    differs = expected != value
    words = _comparison(case)
    tied = _ties(case)
    if tied is not None and (differs == ~tied).all():
        return f"the mask is flipped but for ties: every bit is the opposite of the reference's{words}"
    if differs.all():
        return f"the mask is flipped: every bit is the opposite of the reference's{words}"
    if tied is not None and not differs[~tied].any():
        return f"the mask differs in ties alone, {np.mean(differs):.2%} of the bits{words}"
    return f"the mask has another threshold: {np.mean(differs):.2%} of the bits differ{words}"


def _bits(value: np.ndarray) -> bool:
    return value.dtype == bool or bool(np.isin(value, (0.0, 1.0)).all())


def _comparison(case: Case) -> str:
    """The operators, where they are others; the order of what is compared."""
    if case.theirs is None or case.mine is None or {case.theirs.op_type, case.mine.op_type} - _COMPARISONS:
        return ""
    if case.theirs.op_type != case.mine.op_type:
        return f" ({case.mine.op_type} instead of {case.theirs.op_type})"
    graphs = case.reference.graph, case.target.graph
    a = [origin(graphs[0], name, set(case.partner.values())) for name in case.theirs.input]
    b = [case.partner.get(origin(graphs[1], name, set(case.partner)), "") for name in case.mine.input]
    return f" (the two sides of {case.mine.op_type} are exchanged)" if a == b[::-1] and a != b else ""


def _ties(case: Case) -> np.ndarray | None:
    """Where the two sides of the target's comparison are equal."""
    if case.mine is None or case.mine.op_type not in _COMPARISONS or case.value is None:
        return None
    sides = [case.given.get(origin(case.target.graph, name, set(case.partner))) for name in case.mine.input]
    if sides[0] is None or sides[1] is None:
        return None
    return np.asarray(np.broadcast_to(sides[0] == sides[1], case.value.shape))


def _norm(case: Case) -> str:
    """Rows that are multiples of unit rows."""
    if case.value is None or case.value.ndim != 2 or case.expected.dtype == bool:
        return ""
    expected, value = case.expected.astype(np.float64), case.value.astype(np.float64)
    sizes, theirs = np.linalg.norm(value, axis=1), np.linalg.norm(expected, axis=1)
    if not np.allclose(theirs, 1.0, atol=1e-3) or np.allclose(sizes, 1.0, atol=1e-3):
        return ""
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = (expected * value).sum(1) / (sizes * theirs)
    if not (cosine >= _ALIKE).all():
        return ""
    return (
        f"the embedding is not of unit length: its rows have norms of {sizes.min():.4g} to {sizes.max():.4g}, "
        "the L2 norm is missing or another one"
    )


def _weights(case: Case) -> str:
    worst = [pair for pair in case.weights if pair.excess > 1]
    if not worst or case.mine is None:
        return ""
    kernel = next((pair for pair in worst if pair.place == 1 and pair.target.ndim > 1), None)
    if kernel is not None and (told := _factors(case, kernel)):
        return told
    bias = next((pair for pair in worst if pair.place == 2), None)
    if bias is not None and (told := _bias(case, bias)):
        return told
    pair = max(worst, key=lambda item: item.excess)
    over = np.abs(pair.target - pair.reference) > pair.tolerance
    place = np.unravel_index(np.argmax(np.abs(pair.target - pair.reference) / pair.tolerance), over.shape)
    what = "values differ" if np.count_nonzero(over) > 1 else "value differs"
    return (
        f"the weight {pair.name} is another one: {np.count_nonzero(over)} of {over.size} {what} by more than "
        f"rounding, at {[int(item) for item in place]} {pair.target[place]:.4g} instead of "
        f"{pair.reference[place]:.4g}"
    )


def _factors(case: Case, pair: WeightPair) -> str:
    """Whether each output channel is the reference's times a factor, as another batch norm leaves it."""
    assert case.mine is not None
    a, b = channels(pair.reference, case.mine), channels(pair.target, case.mine)
    tolerance = channels(pair.tolerance, case.mine)
    size = np.square(a).sum(1)
    live = size > 0
    if live.sum() < 2:
        return ""
    factor = np.ones(len(a))
    factor[live] = (a * b).sum(1)[live] / size[live]
    left = np.abs(b - factor[:, None] * a)
    # A factor multiplies the error of its own rounding, too.
    if not (left <= 2 * np.maximum(1.0, np.abs(factor))[:, None] * tolerance).all():
        return ""
    low, high = float(factor[live].min()), float(factor[live].max())
    # How well a channel's factor is known: many weights tell more than one.
    sure = np.sqrt(np.square(tolerance).sum(1)[live] / size[live]) / np.sqrt(a.shape[1])
    moved = np.abs(factor[live] - 1) > np.maximum(3 * sure, _FACTOR)
    if not moved.any():
        return ""
    if np.ptp(factor[live]) <= max(float(6 * sure.max()), _FACTOR):
        return f"the weights are the reference's times {factor[live].mean():.6g}"
    if low > 0 and (high <= 1 + 6 * float(sure.max()) or low >= 1 - 6 * float(sure.max())):
        direction = "larger" if high - 1 < 1 - low else "smaller"
        return (
            f"each output channel is the reference's times a factor of its own, {low:.5g} to {high:.5g}: the batch "
            f"norm that was folded in has another epsilon, a {direction} one"
        )
    return (
        f"each output channel is the reference's times a factor of its own, {low:.5g} to {high:.5g}: another "
        "batch norm was folded in (scale, variance)"
    )


def _bias(case: Case, pair: WeightPair) -> str:
    """A bias that differs beside a weight too coarse to show the factor that moved with it."""
    kernel = next((item for item in case.weights if item.place == 1), None)
    over = np.abs(pair.target - pair.reference) > pair.tolerance
    if kernel is None or pair.target.ndim != 1 or np.mean(over) < 0.5:
        return ""
    size = np.square(kernel.reference).sum()
    factor = float((kernel.reference * kernel.target).sum() / size) if size > 0 else 1.0
    if not (np.abs(kernel.target - factor * kernel.reference) <= 2 * kernel.tolerance).all():
        return ""
    sure = (
        float(np.sqrt(np.square(kernel.tolerance * kernel.reference).sum() / 3) / size) if size > 0 else 1.0
    )
    moved = f"the bias differs, by up to {np.abs(pair.target - pair.reference).max():.3g}"
    if abs(factor - 1) > 3 * sure:
        direction = "larger" if factor < 1 else "smaller"
        return (
            f"{moved}, and the weights are {factor:.5g} of the reference's on average: the batch norm that was "
            f"folded in has another epsilon, a {direction} one"
        )
    return f"{moved}: another batch norm was folded in (epsilon, mean or shift)"


def _scaled(case: Case) -> str:
    """Whether each channel is the reference's times a factor plus a summand."""
    if case.value is None or case.expected.dtype == bool or case.value.ndim < 2:
        return ""
    a, b = (
        np.moveaxis(v.astype(np.float64), 1, 0).reshape(v.shape[1], -1) for v in (case.expected, case.value)
    )
    if a.shape[1] < 4:
        return ""
    middle = a.mean(1, keepdims=True), b.mean(1, keepdims=True)
    spread = np.square(a - middle[0]).sum(1)
    live = spread > 0
    if not live.any():
        return ""
    factor = ((a - middle[0]) * (b - middle[1])).sum(1)[live] / spread[live]
    left = b[live] - middle[1][live] - factor[:, None] * (a[live] - middle[0][live])
    difference = np.linalg.norm(b[live] - a[live])
    if not np.linalg.norm(left) <= _LEFT * difference:
        return ""
    offset = middle[1][live, 0] - factor * middle[0][live, 0]
    told = "every channel is the reference's"
    readers = case.target.graph.consumers.get(case.pair.target, ())
    if any(case.target.graph.nodes[index].op_type in _COMPARISONS for index in readers):
        told = f"the mask has another threshold: {told}"
    if np.ptp(factor) <= 1e-3 * np.abs(factor).max():
        factors = f" times {factor.mean():.5g}" if abs(factor.mean() - 1) > 1e-3 else ""
    else:
        factors = f" times {factor.min():.4g} to {factor.max():.4g}"
    moved = np.abs(offset).max() > 1e-3 * np.abs(a).max()
    return told + factors + (f" plus {offset.min():.4g} to {offset.max():.4g}" if moved else "")


def _operator(case: Case) -> str:
    mine = kind(case.target.graph, case.pair.target)
    theirs = kind(case.reference.graph, case.pair.reference)
    return f"the operator is {mine}, the reference's is {theirs}" if mine != theirs else ""
