"""A foreign graph between our input and our output: uint8 BGR crops in, unit embeddings out."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from san_deploy.artefact import INPUT_NAME, OUTPUT_NAME

from ..onnx_writer import IR_VERSION
from .convention import Convention
from .foreign import Foreign

#: Least squared norm of an embedding, as in `wrapper.OnnxWrapper`.
_LEAST_SQUARE = 1e-24
#: From here on ReduceSum takes its axes as an input.
_AXES_INPUT_OPSET = 13


def wrap(
    foreign: Foreign,
    convention: Convention,
    embedding_dim: int,
    *,
    input_form: str = "uint8",
    normalise: bool = True,
) -> onnx.ModelProto:
    """The network with preprocessing and L2 norm in its graph, for any number of crops.

    Args:
        foreign: the network; not changed.
        convention: what it expects.
        embedding_dim: D of its rows.
        input_form: `uint8` takes `(N, H, W, 3)` BGR, `float` takes `(N, 3, H, W)` RGB float32 0..255.
        normalise: whether the L2 norm is added; without it the network's rows must have length 1.

    Returns:
        A model with input `crops` and output `embedding`. A batch that was fixed is free; whether the graph in
        between bears that is for the caller to measure.
    """
    model = onnx.ModelProto()
    model.CopyFrom(foreign.model)
    graph = model.graph
    opset = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    _rename(graph)
    source, target = _PREFIX + foreign.input, _PREFIX + foreign.output
    before = _before(foreign, convention, source, input_form)
    after = _after(foreign, target, opset, normalise)
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    if foreign.batch is not None:
        _free_batch(graph, foreign.batch)
    height, width = foreign.size_hw
    shape: list[str | int | None] = (
        ["N", height, width, 3] if input_form == "uint8" else ["N", 3, height, width]
    )
    kind = TensorProto.UINT8 if input_form == "uint8" else TensorProto.FLOAT
    weights = {item.name for item in graph.initializer}
    kept = [item for item in graph.input if item.name in weights]
    del graph.input[:], graph.output[:], graph.value_info[:]
    graph.input.extend([helper.make_tensor_value_info(INPUT_NAME, kind, shape), *kept])
    graph.output.append(helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["N", embedding_dim]))
    graph.name = "imported"
    model.doc_string = graph.doc_string = ""
    model.ir_version = min(model.ir_version, IR_VERSION)
    return model


#: What the foreign graph's own names begin with afterwards, so that ours are free.
_PREFIX = "of/"


def _rename(graph: onnx.GraphProto) -> None:
    """Put `_PREFIX` before all names of the graph; names of the graphs inside follow those they refer to."""
    for item in (*graph.initializer, *graph.input, *graph.output):
        item.name = _PREFIX + item.name
    for sparse in graph.sparse_initializer:
        sparse.values.name = _PREFIX + sparse.values.name
    for node in graph.node:
        node.name = _PREFIX + node.name if node.name else ""
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = _PREFIX + name if name else ""
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else list(attribute.graphs):
                _rename(inner)


def _before(foreign: Foreign, convention: Convention, target: str, input_form: str) -> list[onnx.NodeProto]:
    """Crops to the network's input. Arithmetic is one subtraction and one product."""
    nodes: list[onnx.NodeProto] = []
    now = INPUT_NAME

    def add(operator: str, constant: np.ndarray | None = None, **attributes: Any) -> None:
        nonlocal now
        name = f"input/{operator.lower()}{len(nodes)}"
        inputs = [now]
        if constant is not None:
            nodes.append(_constant(f"{name}/constant", constant))
            inputs.append(f"{name}/constant")
        nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        now = name

    channels_last = input_form == "uint8"
    if channels_last:
        add("Cast", to=TensorProto.FLOAT)
        if foreign.layout == "nchw":
            add("Transpose", perm=[0, 3, 1, 2])
    elif foreign.layout == "nhwc":
        add("Transpose", perm=[0, 2, 3, 1])
    if (convention.color == "rgb") == channels_last:
        add("Gather", np.array([2, 1, 0], np.int64), axis=1 if foreign.layout == "nchw" else 3)
    shape = (3, 1, 1) if foreign.layout == "nchw" else (3,)
    mean = np.array(convention.mean, np.float64) * convention.scale
    factor = 1 / (np.array(convention.std, np.float64) * convention.scale)
    if mean.any():
        add("Sub", mean.astype(np.float32).reshape(shape))
    if (factor != 1).any():
        add("Mul", factor.astype(np.float32).reshape(shape))
    if foreign.input_type == TensorProto.FLOAT16:
        add("Cast", to=TensorProto.FLOAT16)
    nodes.append(helper.make_node("Identity", [now], [target], name="input/identity"))
    return nodes


def _after(foreign: Foreign, source: str, opset: int, normalise: bool) -> list[onnx.NodeProto]:
    """The network's output to unit rows."""
    nodes = []
    if foreign.output_type == TensorProto.FLOAT16:
        nodes.append(
            helper.make_node("Cast", [source], ["output/float"], name="output/float", to=TensorProto.FLOAT)
        )
        source = "output/float"
    if not normalise:
        return [*nodes, helper.make_node("Identity", [source], [OUTPUT_NAME], name="output/identity")]
    axes: list[str] = []
    attributes: dict[str, Any] = {"keepdims": 1}
    if opset >= _AXES_INPUT_OPSET:
        nodes.append(_constant("output/axes", np.array([1], np.int64)))
        axes = ["output/axes"]
    else:
        attributes["axes"] = [1]
    nodes += [
        helper.make_node("Mul", [source, source], ["output/square"], name="output/square"),
        helper.make_node(
            "ReduceSum", ["output/square", *axes], ["output/sum"], name="output/sum", **attributes
        ),
        _constant("output/least", np.array(_LEAST_SQUARE, np.float32)),
        helper.make_node("Max", ["output/sum", "output/least"], ["output/bounded"], name="output/bounded"),
        helper.make_node("Sqrt", ["output/bounded"], ["output/norm"], name="output/norm"),
        helper.make_node("Div", [source, "output/norm"], [OUTPUT_NAME], name="output/unit"),
    ]
    return nodes


def _constant(name: str, value: np.ndarray) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], name=name, value=numpy_helper.from_array(value, name))


def _free_batch(graph: onnx.GraphProto, batch: int) -> None:
    """Let shapes that name the fixed batch follow it: 0 in a Reshape's shape copies the size of its input.

    That holds where the first axis is the batch before and after, as in every flattening; anywhere else the
    measurement shows it, and the import is refused.
    """
    constants = {item.name: item for item in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    for node in graph.node:
        if node.op_type != "Reshape" or len(node.input) < 2 or node.input[1] not in constants:
            continue
        tensor = constants[node.input[1]]
        shape = numpy_helper.to_array(tensor).copy()
        if shape.ndim == 1 and len(shape) > 1 and shape[0] == batch:
            shape[0] = 0
            tensor.CopyFrom(numpy_helper.from_array(shape, tensor.name))
