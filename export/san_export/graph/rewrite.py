"""Exact rewrites of the exporter's graph: the same numbers, in operators that every runtime takes.

Sums keep their terms, so that all that can change is the order in which a runtime adds them up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .graph import without_weights

Shapes = Mapping[str, list[str | int]]


def rewrite(model: onnx.ModelProto, *, in_place: bool = False) -> onnx.ModelProto:
    """A graph that computes the same.

    - A Resize by a whole factor says so with constant scales; the exporter gives it a size made of N and
      constants (Shape, Concat). Other factors are left alone: as scales they would be rounded.
    - A constant that is expanded to the shape of a Where's condition stays as it is: Where broadcasts.
    - A deconvolution with a 1 x 1 kernel becomes a 1 x 1 convolution whose result is spread over zeros.
      TensorRT quantises and fuses convolutions; it had deconvolutions that it could not quantise, or quantised
      wrongly (NVIDIA/TensorRT issues 1694, 1961, 2133, 2280).
    - What TensorRT 10.3 refuses for no reason is said in another way: see `operators`.

    Args:
        model: as torch's exporter gives it.
        in_place: change it, and return it, instead of a copy of all its weights.
    """
    inferred = onnx.shape_inference.infer_shapes(without_weights(model)).graph
    result = model
    if not in_place:
        result = onnx.ModelProto()
        result.CopyFrom(model)
    graph = result.graph
    shapes = {
        value.name: [item.dim_param or item.dim_value for item in value.type.tensor_type.shape.dim]
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
        if value.type.tensor_type.HasField("shape")
    }
    _plan_sizes(graph, shapes)
    _broadcast_constants(graph, shapes)
    _convolve(graph, shapes)
    _complete_attributes(graph)
    _drop_unused(graph)
    return result


def _plan_sizes(graph: onnx.GraphProto, shapes: Shapes) -> None:
    for node in graph.node:
        if node.op_type == "Resize" and len(node.input) == 4:
            factors = _whole_factors(shapes.get(node.input[0], []), shapes.get(node.output[0], []))
            if factors is not None:
                name = _put(graph, f"{node.output[0]}.scales", np.array([1, 1, *factors], np.float32))
                del node.input[2:]
                node.input.append(name)


def _whole_factors(before: list[str | int], after: list[str | int]) -> list[int] | None:
    """Factors of height and width of an `(N, C, H, W)` value; None where they are not known or not whole."""
    if len(before) != 4 or len(after) != 4:
        return None
    pairs = list(zip(before[2:], after[2:], strict=True))
    factors = [b // a for a, b in pairs if isinstance(a, int) and isinstance(b, int) and a > 0 and b % a == 0]
    return factors if len(factors) == 2 else None


def _broadcast_constants(graph: onnx.GraphProto, shapes: Shapes) -> None:
    producers = {name: node for node in graph.node for name in node.output}
    weights = {weight.name for weight in graph.initializer}
    for node in graph.node:
        if node.op_type != "Where" or node.output[0] not in shapes:
            continue
        if shapes.get(node.input[0]) == shapes[node.output[0]]:
            for place in (1, 2):
                producer = producers.get(node.input[place])
                if producer is not None and producer.op_type == "Expand" and producer.input[0] in weights:
                    node.input[place] = producer.input[0]


def _convolve(graph: onnx.GraphProto, shapes: Shapes) -> None:
    weights = {weight.name: weight for weight in graph.initializer}
    consumers = Counter(name for node in graph.node for name in node.input)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        chain = _pointwise(node, weights, shapes) if node.op_type == "ConvTranspose" else None
        # Turned weights keep their name, which says whose they are.
        own = node.input[1] if chain and consumers[node.input[1]] == 1 else ""
        nodes.extend([node] if chain is None else _emit(graph, node, chain, own))
    del graph.node[:]
    graph.node.extend(nodes)


#: Operator, its inputs behind the first (None leaves one out), its attributes.
Step = tuple[str, dict[str, np.ndarray | None], dict[str, Any]]


@dataclass(frozen=True)
class _Places:
    """Where the inputs of a deconvolution with a 1 x 1 kernel go; height and width.

    With a kernel of one place, outputs do not overlap: input place i goes to output place
    `strides * i - starts`, and every other output place is 0 (plus the bias).

    Attributes:
        spread: size with `strides - 1` zeros behind each input place.
        starts, ends: what the output takes of that.
    """

    strides: tuple[int, ...]
    spread: tuple[int, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]

    def grid(self) -> np.ndarray:
        """`(1, 1, H, W)`, true where an input goes."""
        rows = [
            np.arange(start, end) % stride == 0
            for start, end, stride in zip(self.starts, self.ends, self.strides, strict=True)
        ]
        return np.outer(*rows)[None, None]


def _pointwise(
    node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto], shapes: Shapes
) -> list[Step] | None:
    """What a deconvolution with a 1 x 1 kernel does, step by step; None where it is not one, or not known."""
    options = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    kernel, *biases = (weights.get(name) for name in node.input[1:])
    places = _places(options, shapes.get(node.input[0], [])[2:])
    if kernel is None or list(kernel.dims[2:]) != [1, 1] or None in biases or places is None:
        return None
    group = options.get("group", 1)
    values = numpy_helper.to_array(kernel)  # (inputs, outputs / group, 1, 1)
    grouped = values.reshape(group, values.shape[0] // group, values.shape[1])
    turned = np.ascontiguousarray(grouped.transpose(0, 2, 1)).reshape(-1, grouped.shape[1], 1, 1)
    added = [numpy_helper.to_array(bias) for bias in biases if bias is not None]
    convolution: Step = ("Conv", {"weight": turned}, {"kernel_shape": [1, 1], "group": group})
    cut: list[Step] = []
    if (places.starts, places.ends) != ((0, 0), places.spread):
        bounds = (np.array(item) for item in (places.starts, places.ends, (2, 3)))
        cut.append(("Slice", dict(zip(("starts", "ends", "axes"), bounds, strict=True)), {}))
    if places.strides == (1, 1):
        for bias in added:
            convolution[1]["bias"] = bias
        return [convolution, *cut]
    scales = np.array([1, 1, *places.strides], np.float32)
    nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    chain: list[Step] = [
        convolution,
        ("Resize", {"roi": None, "scales": scales}, nearest),
        *cut,
        ("Mul", {"grid": places.grid().astype(values.dtype)}, {}),
    ]
    for bias in added:
        chain.append(("Add", {"bias": bias[:, None, None]}, {}))
    return chain


def _places(options: Mapping[str, Any], before: list[str | int]) -> _Places | None:
    """None where the deconvolution is none of two dimensions, or its sizes are not known."""
    if options.get("auto_pad", b"NOTSET") != b"NOTSET" or "output_shape" in options:
        return None
    sizes = [size for size in before if isinstance(size, int) and size > 0]
    strides = tuple(options.get("strides", (1, 1)))
    # Where the reciprocal of a stride is not exact, a runtime may round a nearest place to its neighbour.
    if len(before) != 2 or len(sizes) != 2 or any(stride not in (1, 2, 4, 8) for stride in strides):
        return None
    pads = options.get("pads", (0, 0, 0, 0))
    added = options.get("output_padding", (0, 0))
    spread = tuple(stride * size for stride, size in zip(strides, sizes, strict=True))
    ends = tuple(
        full - stride + 1 + more - end
        for full, stride, more, end in zip(spread, strides, added, pads[2:], strict=True)
    )
    starts = tuple(pads[:2])
    if any(not 0 <= a < b <= full for a, b, full in zip(starts, ends, spread, strict=True)):
        return None
    return _Places(strides, spread, starts, ends)


def _emit(
    graph: onnx.GraphProto, node: onnx.NodeProto, chain: list[Step], own: str
) -> Iterator[onnx.NodeProto]:
    """The nodes of a chain: the first keeps the name of the node that it replaces, the last its output.

    `own` is the name for the weight, where nothing else has it; empty for a new name.
    """
    value = node.input[0]
    for place, (operator, constants, options) in enumerate(chain):
        inputs = [value]
        for name, array in constants.items():
            full = own if own and name == "weight" else f"{node.output[0]}.{name}"
            inputs.append("" if array is None else _put(graph, full, array))
        value = node.output[0] if place == len(chain) - 1 else f"{node.output[0]}.{operator}"
        name = node.name if place == 0 else f"{node.name}.{operator}"
        yield helper.make_node(operator, inputs, [value], name=name, **options)


def _complete_attributes(graph: onnx.GraphProto) -> None:
    weights = {weight.name: weight for weight in graph.initializer}
    for node in graph.node:
        names = [item.name for item in node.attribute]
        if node.op_type == "Conv" and node.input[1] in weights and "kernel_shape" not in names:
            # TensorRT 10.3 looks for it nowhere else once the weights are quantised.
            kernel = list(weights[node.input[1]].dims[2:])
            node.attribute.append(helper.make_attribute("kernel_shape", kernel))
        elif node.op_type == "ScatterND" and "reduction" in names:
            place = names.index("reduction")
            if node.attribute[place].s == b"none":
                del node.attribute[place]


def _put(graph: onnx.GraphProto, name: str, array: np.ndarray) -> str:
    """Add a constant, or give another value to the one of that name."""
    old = next((weight for weight in graph.initializer if weight.name == name), None)
    (graph.initializer.add() if old is None else old).CopyFrom(numpy_helper.from_array(array, name))
    return name


def _drop_unused(graph: onnx.GraphProto) -> None:
    while True:
        read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
        kept = [node for node in graph.node if any(name in read for name in node.output)]
        if len(kept) == len(graph.node):
            break
        del graph.node[:]
        graph.node.extend(kept)
    # One by one: to put those that stay back would copy them, and a message keeps its old memory.
    for place in reversed(range(len(graph.initializer))):
        if graph.initializer[place].name not in read:
            del graph.initializer[place]
