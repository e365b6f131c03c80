"""Another deterministic mask in a graph that is made already: no checkpoint and no PyTorch needed."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from san_deploy.artefact import INPUT_NAME, parse_mask
from san_deploy.backends.ort import onnxruntime, quiet_options
from san_deploy.errors import SanError

from .graph import check_model, copy_with, new_name, view
from .mask_branches import MaskBranch, find_branches


def replace_masks(model: onnx.ModelProto, mask: str) -> onnx.ModelProto:
    """Replace the threshold part of every mask branch; X, what it is made of and who reads the mask stay.

    Written with the operators that an export of the checkpoint with that mask has, in the same order, so that the
    embeddings are the same to the bit.

    Args:
        model: FP32, of `san export`; not changed.
        mask: `argmax`, `expected` or `ramp:EPS`, see `artefact.parse_mask`.

    Returns:
        A checked model. The value of each mask keeps its name.

    Raises:
        SanError: no sharp mask in the graph, or one of a form that is not replaced.
        ValueError: `mask` is no mask.
    """
    kind, eps = parse_mask(mask)
    branches = find_branches(model)
    if not branches:
        raise SanError("the graph has no sharp mask to replace")
    graph = view(model)
    taken = {*graph.types, *graph.constants}
    dropped: set[str] = set()
    written: dict[int, list[NodeProto]] = {}
    weights: list[TensorProto] = []
    for branch in branches:
        low, high = _bounds(graph.nodes, branch)
        if len(branch.masks) != 1 or graph.types.get(branch.masks[0]) != TensorProto.FLOAT:
            raise SanError(
                f"the mask of {branch.x} leaves its branch as {', '.join(branch.masks)}, not as one FP32 value",
                do="export the checkpoint with --mask",
            )
        maker = _MaskWriter(branch.masks[0], taken)
        nodes = maker.write(branch.x, low.output[0], high.output[0], kind, eps)
        weights += maker.weights
        removed = set(branch.threshold) - {low.output[0], high.output[0]}
        dropped |= removed
        # Behind the bounds, which are kept where they stand, and before the first that reads the mask.
        place = max(graph.producer[name] for name in (branch.x, *branch.threshold) if name in graph.producer)
        written[place] = nodes
    result: list[NodeProto] = []
    for index, node in enumerate(graph.nodes):
        if node.output[0] not in dropped:
            result.append(node)
        result += written.get(index, [])
    read = {name for node in result for name in node.input}
    kept = [weight for weight in model.graph.initializer if weight.name in read]
    replaced = copy_with(model, result, [*kept, *weights])
    check_model(replaced)
    return replaced


def masks_differ(model: onnx.ModelProto, mask: str, crops: np.ndarray) -> float:
    """Run a graph and make its masks again in NumPy, from the same X: the largest difference.

    Args:
        model: FP32.
        mask: that it says that it has.
        crops: as the graph takes them.
    """
    kind, eps = parse_mask(mask)
    branches = find_branches(model)
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    names = [name for branch in branches for name in (branch.x, *branch.masks)]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names))
    session = onnxruntime.InferenceSession(
        shown.SerializeToString(), quiet_options(), providers=["CPUExecutionProvider"]
    )
    values = session.run(names, {INPUT_NAME: crops})
    return max(
        float(np.abs(_in_numpy(x, kind, eps) - found).max())
        for x, found in zip(values[::2], values[1::2], strict=True)
    )


def _in_numpy(x: np.ndarray, kind: str, eps: float) -> np.ndarray:
    """Eq. 3 and 4 of arXiv 1805.02336 and the ramp between them: `(N, C, H, W)` float32 to the same."""
    low, high = x.min((2, 3), keepdims=True), x.max((2, 3), keepdims=True)
    span, middle = high - low, (low + high) * np.float32(0.5)
    if kind == "argmax":
        return (x > middle).astype(np.float32)
    there = span > 0
    if kind == "expected":
        return (x - low) / np.where(there, span, np.float32(1))
    ramp = (x - middle) / np.where(there, span * np.float32(eps), np.float32(1)) + np.float32(0.5)
    return np.clip(ramp, 0, 1) * there


def _bounds(nodes: tuple[NodeProto, ...], branch: MaskBranch) -> tuple[NodeProto, NodeProto]:
    """The nodes that take minimum and maximum of X."""
    own = [node for node in nodes if node.output[0] in branch.threshold and node.input[0] == branch.x]
    low = [node for node in own if node.op_type == "ReduceMin"]
    high = [node for node in own if node.op_type == "ReduceMax"]
    if len(low) != 1 or len(high) != 1:
        raise SanError(
            f"the mask of {branch.x} has {len(low)} minima and {len(high)} maxima",
            do="export the checkpoint with --mask",
        )
    return low[0], high[0]


class _MaskWriter:
    """The nodes of one mask; `attention.argmax_mask`, `attend_probability` and `ramp_mask` as graphs."""

    def __init__(self, mask: str, taken: set[str]) -> None:
        self.mask = mask
        self.taken = taken
        self.weights: list[TensorProto] = []

    def write(self, x: str, low: str, high: str, kind: str, eps: float) -> list[NodeProto]:
        write = {"argmax": self._argmax, "expected": self._expected, "ramp": self._ramp}[kind]
        return list(write({"x": x, "low": low, "high": high}, eps))

    def _argmax(self, given: Mapping[str, str], eps: float) -> Iterator[NodeProto]:
        middle = yield from self._middle(given)
        above = self._new("above")
        yield helper.make_node("Greater", [given["x"], middle], [above], above)
        yield helper.make_node("Cast", [above], [self.mask], self.mask, to=TensorProto.FLOAT)

    def _expected(self, given: Mapping[str, str], eps: float) -> Iterator[NodeProto]:
        span, there, moved, divisor = (self._new(name) for name in ("span", "there", "moved", "divisor"))
        yield helper.make_node("Sub", [given["high"], given["low"]], [span], span)
        yield helper.make_node("Sub", [given["x"], given["low"]], [moved], moved)
        yield helper.make_node("Greater", [span, self._number("zero", 0.0)], [there], there)
        yield helper.make_node("Where", [there, span, self._number("one", 1.0)], [divisor], divisor)
        yield helper.make_node("Div", [moved, divisor], [self.mask], self.mask)

    def _ramp(self, given: Mapping[str, str], eps: float) -> Iterator[NodeProto]:
        names = ("span", "moved", "there", "width", "divisor", "slope", "ramp", "clipped", "any")
        span, moved, there, width, divisor, slope, ramp, clipped, some = map(self._new, names)
        zero, one = self._number("zero", 0.0), self._number("one", 1.0)
        yield helper.make_node("Sub", [given["high"], given["low"]], [span], span)
        middle = yield from self._middle(given)
        yield helper.make_node("Sub", [given["x"], middle], [moved], moved)
        yield helper.make_node("Greater", [span, zero], [there], there)
        yield helper.make_node("Mul", [span, self._number("eps", eps)], [width], width)
        yield helper.make_node("Where", [there, width, one], [divisor], divisor)
        yield helper.make_node("Div", [moved, divisor], [slope], slope)
        yield helper.make_node("Add", [slope, self._number("half", 0.5)], [ramp], ramp)
        yield helper.make_node("Clip", [ramp, zero, one], [clipped], clipped)
        yield helper.make_node("Cast", [there], [some], some, to=TensorProto.FLOAT)
        yield helper.make_node("Mul", [clipped, some], [self.mask], self.mask)

    def _middle(self, given: Mapping[str, str]) -> Generator[NodeProto, None, str]:
        both, middle = self._new("sum"), self._new("middle")
        yield helper.make_node("Add", [given["low"], given["high"]], [both], both)
        yield helper.make_node("Mul", [both, self._number("half", 0.5)], [middle], middle)
        return middle

    def _new(self, what: str) -> str:
        return new_name(f"{self.mask}.{what}", self.taken)

    def _number(self, what: str, value: float) -> str:
        for weight in self.weights:
            if weight.name.startswith(f"{self.mask}.{what}"):
                return weight.name
        name = self._new(what)
        self.weights.append(numpy_helper.from_array(np.array(value, np.float32), name))
        return name
