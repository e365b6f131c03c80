"""Faults that an export may have, put into a sound graph: each gives a graph that still runs."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper


def copy(model: onnx.ModelProto) -> onnx.ModelProto:
    result = onnx.ModelProto()
    result.CopyFrom(model)
    return result


def weight(model: onnx.ModelProto, name: str) -> np.ndarray:
    (found,) = (item for item in model.graph.initializer if item.name == name)
    return numpy_helper.to_array(found).copy()


def with_weight(model: onnx.ModelProto, name: str, values: np.ndarray) -> onnx.ModelProto:
    """The same graph with another constant, of the type that it had."""
    result = copy(model)
    (found,) = (item for item in result.graph.initializer if item.name == name)
    dtype = numpy_helper.to_array(found).dtype
    found.CopyFrom(numpy_helper.from_array(np.asarray(values, dtype), name))
    return result


def node_of(model: onnx.ModelProto, value: str) -> NodeProto:
    (found,) = (node for node in model.graph.node if value in node.output)
    return found


def nodes(model: onnx.ModelProto, *kinds: str) -> list[NodeProto]:
    return [node for node in model.graph.node if node.op_type in kinds]


def normalised(model: onnx.ModelProto) -> tuple[str, str]:
    """The values of the normalisation of the pixels, whatever the exporter calls them: difference, product."""
    return nodes(model, "Sub")[0].output[0], nodes(model, "Mul")[0].output[0]


def with_names_exchanged(model: onnx.ModelProto, first: str, second: str) -> onnx.ModelProto:
    """The same graph, with the names of two values exchanged."""
    result = copy(model)
    other = {first: second, second: first}
    for node in result.graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = other.get(name, name)
    for item in result.graph.value_info:
        item.name = other.get(item.name, item.name)
    return result


def with_attribute(model: onnx.ModelProto, value: str, key: str, setting: object) -> onnx.ModelProto:
    """One attribute of the node that makes `value`, set."""
    result = copy(model)
    node = node_of(result, value)
    kept = [item for item in node.attribute if item.name != key]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(key, setting)])
    return result


def with_operator(model: onnx.ModelProto, value: str, kind: str) -> onnx.ModelProto:
    """Another operator in the place of the one that makes `value`, without its attributes."""
    result = copy(model)
    node = node_of(result, value)
    node.op_type = kind
    del node.attribute[:]
    return result


def exchanged(model: onnx.ModelProto, value: str) -> onnx.ModelProto:
    """The two inputs of the node that makes `value` exchanged."""
    result = copy(model)
    node = node_of(result, value)
    node.input[0], node.input[1] = node.input[1], node.input[0]
    return result


def normalisation(model: onnx.ModelProto) -> onnx.ModelProto:
    """Mean and standard deviation of 0.5 in place of ImageNet's."""
    model = with_weight(model, "mean", np.full_like(weight(model, "mean"), 127.5))
    return with_weight(model, "scale", np.full_like(weight(model, "scale"), 1 / 127.5))


def standard_deviation(model: onnx.ModelProto) -> onnx.ModelProto:
    """The right mean, one standard deviation for all colours."""
    return with_weight(model, "scale", np.full_like(weight(model, "scale"), 1 / (255 * 0.226)))


def colours_of_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The first convolution's weights for the other order of the channels."""
    name = nodes(model, "Conv")[0].input[1]
    return with_weight(model, name, weight(model, name)[:, ::-1])


def colours_of_pixels(model: onnx.ModelProto) -> onnx.ModelProto:
    """The channels reversed as they come in, normalised as if they were not."""
    result = copy(model)
    shape = result.graph.input[0].type.tensor_type.shape.dim
    axis = 3 if shape[3].dim_value == 3 else 1
    first = result.graph.node[0]
    result.graph.initializer.append(numpy_helper.from_array(np.array([2, 1, 0]), "reversed"))
    first.input[0] = "turned"
    result.graph.node.insert(0, helper.make_node("Gather", ["crops", "reversed"], ["turned"], axis=axis))
    return result


def without_norm(model: onnx.ModelProto) -> onnx.ModelProto:
    """The embedding as the head gives it."""
    result = copy(model)
    head = nodes(result, "Gemm")[-1]
    place = list(result.graph.node).index(head)
    head.output[0] = "embedding"
    del result.graph.node[place + 1 :]
    return result


def inverted(model: onnx.ModelProto, value: str) -> onnx.ModelProto:
    """1 less a mask of 0 and 1, in the mask's place."""
    result = copy(model)
    node = node_of(result, value)
    place = list(result.graph.node).index(node)
    node.output[0] = f"{value}.before"
    result.graph.initializer.append(numpy_helper.from_array(np.float32(1), "whole"))
    result.graph.node.insert(place + 1, helper.make_node("Sub", ["whole", f"{value}.before"], [value]))
    return result


def one_value(model: onnx.ModelProto, name: str, value: float) -> onnx.ModelProto:
    """The largest value of a weight replaced."""
    values = weight(model, name)
    values.flat[np.abs(values).argmax()] = value
    return with_weight(model, name, values)


def scale_folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """What onnxsim does to the normalisation: its factor goes into the first convolution's weights."""
    result = copy(model)
    factor = nodes(result, "Mul")[0]
    constant = next(name for name in factor.input if name in {item.name for item in result.graph.initializer})
    (other,) = (name for name in factor.input if name != constant)
    first = nodes(result, "Conv")[0]
    scale = weight(result, constant).reshape(1, 3, 1, 1)
    result = with_weight(result, first.input[1], weight(result, first.input[1]) * scale)
    result.graph.node.remove(node_of(result, factor.output[0]))
    for node in result.graph.node:
        for place, name in enumerate(node.input):
            if name == factor.output[0]:
                node.input[place] = other
    return result


def types(model: onnx.ModelProto) -> set[int]:
    """The types of a model's weights, to see that a graph is what a test means."""
    return {item.data_type for item in model.graph.initializer} & {TensorProto.FLOAT16, TensorProto.INT8}
