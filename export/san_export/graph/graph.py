"""A read-only view of an ONNX graph: who makes a value, who reads it, and of what type it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, numpy_helper

from san_deploy.errors import SanError, first_line

#: Operators whose second input is a weight, or a second matrix: where a network's time goes.
WEIGHTED_OPS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
#: Outputs of these do not grow with their inputs' values: all they do is choose and reorder.
LAYOUT = frozenset(
    {
        "Concat",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)


@dataclass(frozen=True)
class Graph:
    """What a pass over a model asks of it; built by `view`.

    Attributes:
        nodes: of the model, in order: a producer always stands before its consumers.
        producer: `{value: index of the node that makes it}`; inputs and initialisers have none.
        consumers: `{value: indices of the nodes that read it}`, each once, in order.
        constants: initialisers, and outputs of Constant nodes.
        types: `{value: TensorProto.FLOAT, ...}` of every value.
        shapes: `{value: (2, None, 3)}`, None where a dimension is not known; only values of known rank.
        inputs, outputs: of the graph.
        opset: version of the standard operators.
    """

    nodes: tuple[NodeProto, ...]
    producer: dict[str, int]
    consumers: dict[str, tuple[int, ...]]
    constants: dict[str, TensorProto]
    types: dict[str, int]
    shapes: dict[str, tuple[int | None, ...]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opset: int

    def constant_value(self, name: str) -> np.ndarray | None:
        """A constant's values, or None where `name` is not constant."""
        tensor = self.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def dynamic(self, node: NodeProto) -> list[str]:
        """The inputs of a node that are there and not constant."""
        return [name for name in node.input if name and name not in self.constants]


def view(model: onnx.ModelProto) -> Graph:
    """Look at a model; it is not changed.

    Raises:
        SanError: it does not infer, holds control flow or functions, or keeps weights in another file.
    """
    graph = model.graph
    if model.functions or graph.sparse_initializer or any(map(_has_graph, graph.node)):
        raise SanError(
            "the graph holds functions, sparse weights or control flow (If, Loop, Scan)",
            why="its precision does not follow node by node",
            do="export it without them",
        )
    if any(weight.data_location == TensorProto.EXTERNAL for weight in graph.initializer):
        raise SanError("the model keeps its weights in another file", do="save it as one file")
    inferred = _inferred(model).graph
    constants = {weight.name: weight for weight in graph.initializer}
    producer: dict[str, int] = {}
    consumers: dict[str, list[int]] = {}
    for index, node in enumerate(graph.node):
        for name in dict.fromkeys(node.input):
            if name:
                consumers.setdefault(name, []).append(index)
        for name in node.output:
            if name:
                producer[name] = index
        if node.op_type == "Constant":
            constants[node.output[0]] = _constant(node)
    types = {name: tensor.data_type for name, tensor in constants.items()}
    shapes: dict[str, tuple[int | None, ...]] = {
        name: tuple(tensor.dims) for name, tensor in constants.items()
    }
    for value in (*inferred.input, *inferred.output, *inferred.value_info):
        tensor_type = value.type.tensor_type
        types[value.name] = tensor_type.elem_type
        if tensor_type.HasField("shape"):
            shapes[value.name] = tuple(
                item.dim_value if item.HasField("dim_value") else None for item in tensor_type.shape.dim
            )
    return Graph(
        nodes=tuple(graph.node),
        producer=producer,
        consumers={name: tuple(indices) for name, indices in consumers.items()},
        constants=constants,
        types=types,
        shapes=shapes,
        inputs=tuple(item.name for item in graph.input if item.name not in constants),
        outputs=tuple(item.name for item in graph.output),
        opset=next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0),
    )


#: Operators that ONNX Runtime fuses: their types are those of the standard operator that they start with.
FUSED = {"FusedConv": ("Conv", 3), "FusedGemm": ("Gemm", 3), "FusedMatMul": ("MatMul", 2)}


#: Elements up to which a weight may say what shape a value has (Reshape, Resize, Slice).
_SMALL = 1024


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose large weights are inputs of their type and shape, to infer from and to check.

    onnx copies a model several times over for either, and weights are nearly all of it.
    """
    graph = model.graph
    result = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    result.functions.extend(model.functions)
    result.graph.name = graph.name
    result.graph.node.extend(graph.node)
    result.graph.input.extend(graph.input)
    result.graph.output.extend(graph.output)
    result.graph.value_info.extend(graph.value_info)
    result.graph.sparse_initializer.extend(graph.sparse_initializer)
    named = {item.name for item in graph.input}
    for weight in graph.initializer:
        if prod(weight.dims) <= _SMALL:
            result.graph.initializer.append(weight)
        elif weight.name not in named:
            result.graph.input.append(
                onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
            )
    return result


def check_model(model: onnx.ModelProto) -> None:
    """Raise what `onnx.checker` raises where nodes, types or shapes are wrong; large weights are not read."""
    onnx.checker.check_model(without_weights(model), full_check=True)


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """The types of all values that can be inferred, as a model without its large weights."""
    return _with_types(without_weights(model))


def _with_types(model: onnx.ModelProto) -> onnx.ModelProto:
    if any(node.op_type in FUSED for node in model.graph.node):
        model = _without_fusion(model)
    try:
        # data_prop follows shapes through Shape, Gather and Concat, as exporters write them.
        return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError) as error:
        if not model.graph.value_info:
            raise SanError("the types of the graph cannot be inferred", why=first_line(error)) from error
    # Some converters leave the types of before between the nodes.
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    return _with_types(bare)


def _without_fusion(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy to infer types of, in which fused operators are standard ones without what was fused into them."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for node in result.graph.node:
        if node.op_type in FUSED:
            node.op_type, inputs = FUSED[node.op_type]
            node.domain = ""
            del node.input[inputs:]
            known = onnx.defs.get_schema(node.op_type).attributes
            kept = [item for item in node.attribute if item.name in known]
            del node.attribute[:]
            node.attribute.extend(kept)
    return result


def copy_with(
    model: onnx.ModelProto, nodes: Iterable[NodeProto], weights: Iterable[TensorProto]
) -> onnx.ModelProto:
    """A copy of a model with other nodes and weights, and without the shapes of what is between them."""
    # Field by field: a message keeps the memory of what is taken out of it, here all weights.
    result = onnx.ModelProto()
    for name in ("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string"):
        if model.HasField(name):
            setattr(result, name, getattr(model, name))
    result.opset_import.extend(model.opset_import)
    result.metadata_props.extend(model.metadata_props)
    result.functions.extend(model.functions)
    graph = model.graph
    result.graph.name, result.graph.doc_string = graph.name, graph.doc_string
    result.graph.input.extend(graph.input)
    result.graph.output.extend(graph.output)
    result.graph.quantization_annotation.extend(graph.quantization_annotation)
    result.graph.metadata_props.extend(graph.metadata_props)
    result.graph.node.extend(nodes)
    result.graph.initializer.extend(weights)
    return result


def new_name(name: str, taken: set[str]) -> str:
    """`name`, or the next like it that is not taken; it is taken from now on."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def ancestors(graph: Graph, ends: Iterable[int], within: set[int]) -> set[int]:
    """The nodes of `within` that the nodes `ends` depend on through `within`, `ends` included."""
    found = set(ends)
    for index in sorted(within | found, reverse=True):
        if index in within and any(
            consumer in found
            for name in graph.nodes[index].output
            for consumer in graph.consumers.get(name, ())
        ):
            found.add(index)
    return found


def _has_graph(node: NodeProto) -> bool:
    kinds = (AttributeProto.GRAPH, AttributeProto.GRAPHS)
    return any(attribute.type in kinds for attribute in node.attribute)


def _constant(node: NodeProto) -> TensorProto:
    (attribute,) = node.attribute
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, TensorProto):
        return value
    kinds = {
        "value_float": np.float32,
        "value_floats": np.float32,
        "value_int": np.int64,
        "value_ints": np.int64,
    }
    if attribute.name not in kinds:
        raise SanError(f"the graph holds a Constant with {attribute.name}", do="export it without it")
    return numpy_helper.from_array(np.asarray(value, kinds[attribute.name]), node.output[0])
