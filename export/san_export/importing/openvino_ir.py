"""OpenVINO's IR (an .xml with its .bin) as an ONNX graph, for networks that are published in no other form.

OpenVINO itself reads the file; each of its operators that `_ROWS` names becomes the same of ONNX. They are described at
https://docs.openvino.ai/2024/documentation/openvino-ir-format/operation-sets/available-opsets.html
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from san_deploy.errors import SanError, first_line, last_line
from san_deploy.io.extras import install

from ..onnx_writer import IR_VERSION, OPSET

SUFFIX = ".xml"
_TYPES = {
    "f16": TensorProto.FLOAT16,
    "f32": TensorProto.FLOAT,
    "i32": TensorProto.INT32,
    "i64": TensorProto.INT64,
}
#: The squared norm of `NormalizeL2`, and the variance of `MVN`, where the bound is added inside of the root.
_INSIDE = {"add", "INSIDE_SQRT"}


def weights_path(path: Path) -> Path:
    """Where the weights of an IR lie."""
    return path.with_suffix(".bin")


def ir_to_onnx(path: Path) -> onnx.ModelProto:
    """The graph of an IR with its weights; weights that it keeps in FP16 and computes with in FP32 become FP32.

    Args:
        path: the .xml file.

    Raises:
        SanError: OpenVINO is missing or refuses the file, or an operator has no row here.
    """
    model = read_ir(path)
    graph = _Graph(path)
    inputs = [graph.port(item) for item in model.inputs]
    for node in model.get_ordered_ops():
        graph.add(node)
    results = [graph.named(item.get_node().input_value(0), item) for item in model.outputs]
    read = {name for node in graph.nodes for name in node.input}
    made = helper.make_graph(
        graph.nodes,
        "openvino",
        [_value(name, item) for name, item in zip(inputs, model.inputs, strict=True)],
        [_value(name, item) for name, item in zip(results, model.outputs, strict=True)],
        [item for item in graph.weights if item.name in read],
    )
    found = helper.make_model(
        made,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="OpenVINO IR",
    )
    try:
        onnx.checker.check_model(found, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise SanError(
            f"{path} does not become a valid ONNX graph", why=first_line(error), do=_ELSE
        ) from error
    return found


def read_ir(path: Path) -> Any:
    """An `openvino.Model`.

    Raises:
        SanError: OpenVINO is missing, the file is, or it is damaged.
    """
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise SanError(f"{path} is an IR, and OpenVINO is not installed", do=install("openvino")) from error
    for file in (path, weights_path(path)):
        if not file.is_file():
            raise SanError(f"{file} does not exist", do="an IR is two files of one name, .xml and .bin")
    try:
        return openvino.Core().read_model(path)
    except (RuntimeError, UnicodeDecodeError) as error:  # messages quote the file's bytes
        raise SanError(
            f"OpenVINO cannot read {path}", why=last_line(error), do="fetch both files again"
        ) from error


class IrSession:
    """An IR in OpenVINO on the CPU, called as a session of ONNX Runtime: the original, for the comparison."""

    def __init__(self, path: Path, output: str) -> None:
        import openvino

        model = read_ir(path)
        names = [_output_name(item, place) for place, item in enumerate(model.outputs)]
        self._place = names.index(output)
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        try:
            self._request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
        except RuntimeError as error:
            raise SanError(f"OpenVINO does not run {path}", why=last_line(error)) from error

    def run(self, outputs: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The output that it was opened for."""
        (value,) = inputs.values()
        self._request.infer([value])
        return [np.array(self._request.get_output_tensor(self._place).data)]


_ELSE = "export the network as ONNX from the framework that it was trained in"


class _Graph:
    """ONNX nodes while they are made, and the names of OpenVINO's values among them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._names: dict[tuple[str, int], str] = {}
        self._values: dict[tuple[str, int], np.ndarray] = {}

    def port(self, port: Any) -> str:
        """The name of a value of OpenVINO."""
        return self._names.setdefault(_key(port), f"{port.get_node().get_friendly_name()}:{port.get_index()}")

    def named(self, port: Any, result: Any) -> str:
        """A value under the name that a result has."""
        name = _output_name(result, 0)
        self.nodes.append(helper.make_node("Identity", [self.port(port)], [name]))
        return name

    def value(self, node: Any, place: int) -> np.ndarray:
        """A constant that a node reads.

        Raises:
            SanError: it is computed, so that no attribute can hold it.
        """
        found = self._values.get(_key(node.input_value(place)))
        if found is None:
            raise self.refusal(node, f"its input {place} is computed")
        return found

    def refusal(self, node: Any, why: str) -> SanError:
        """What an operator that cannot be written is answered with."""
        return SanError(
            f"{self.path} has {node.get_type_name()} ({node.get_friendly_name()}), which is not read",
            why=why,
            do=_ELSE,
        )

    def constant(self, values: np.ndarray, name: str) -> str:
        """A weight."""
        name = f"{name}/{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def add(self, node: Any) -> None:
        """Write a node of OpenVINO."""
        kind = node.get_type_name()
        if kind in ("Parameter", "Result"):
            return
        if kind == "Constant":
            self._constant(node, np.array(node.get_data()))
            return
        source = _key(node.input_value(0))
        if kind == "Convert" and source in self._values and self._values[source].dtype.kind in "fiu":
            # FP16 weights of a network that computes in FP32.
            wanted = helper.tensor_dtype_to_np_dtype(self._element(node))
            self._constant(node, self._values[source].astype(wanted))
            return
        if kind not in _ROWS:
            raise self.refusal(node, f"read are {', '.join(sorted(_ROWS))}")
        operator, inputs, attributes = _ROWS[kind](self, node)
        outputs = [self.port(item) for item in node.outputs()]
        if kind == "MaxPool":
            outputs = outputs[:1]  # the second holds places, which ONNX counts otherwise
        self.nodes.append(
            helper.make_node(operator, inputs, outputs, name=node.get_friendly_name(), **attributes)
        )

    def inputs(self, node: Any) -> list[str]:
        """The names of all that a node reads."""
        return [self.port(item) for item in node.input_values()]

    def _element(self, node: Any) -> int:
        kind = node.get_output_element_type(0).get_type_name()
        if kind not in _TYPES:
            raise self.refusal(node, f"its type is {kind}")
        return _TYPES[kind]

    def _constant(self, node: Any, values: np.ndarray) -> None:
        port = node.output(0)
        self._values[_key(port)] = values
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), self.port(port)))


def _key(port: Any) -> tuple[str, int]:
    return port.get_node().get_friendly_name(), port.get_index()


def _output_name(port: Any, place: int) -> str:
    names = sorted(port.get_names())
    return names[0] if names else f"output{place}"


def _value(name: str, port: Any) -> onnx.ValueInfoProto:
    shape = [dim.get_length() if dim.is_static else None for dim in port.get_partial_shape()]
    kind = _TYPES.get(port.get_element_type().get_type_name(), TensorProto.FLOAT)
    return helper.make_tensor_value_info(name, kind, shape)


_Row = tuple[str, list[str], dict[str, Any]]


def _plain(operator: str) -> Callable[[_Graph, Any], _Row]:
    """The same inputs, no attributes."""
    return lambda graph, node: (operator, graph.inputs(node), {})


def _window(node: Any) -> dict[str, Any]:
    """Strides and pads of a convolution or pooling."""
    told = node.get_attributes()
    found: dict[str, Any] = {"strides": list(told["strides"])}
    if told["auto_pad"] in ("same_upper", "same_lower"):
        found["auto_pad"] = told["auto_pad"].upper()
    elif told["auto_pad"] == "explicit":
        found["pads"] = [*told["pads_begin"], *told["pads_end"]]
    if "dilations" in told:
        found["dilations"] = list(told["dilations"])
    return found


def _group_convolution(graph: _Graph, node: Any) -> _Row:
    """OpenVINO's weights are `(G, O / G, I / G, ...)`."""
    weights = graph.value(node, 1)
    name = graph.constant(weights.reshape(-1, *weights.shape[2:]), node.get_friendly_name())
    return "Conv", [graph.inputs(node)[0], name], {**_window(node), "group": weights.shape[0]}


def _pool(graph: _Graph, node: Any) -> _Row:
    told = node.get_attributes()
    found = {**_window(node), "kernel_shape": list(told["kernel"])}
    if told["rounding_type"] not in ("floor", "ceil"):
        raise graph.refusal(node, f"its rounding is {told['rounding_type']}")
    found["ceil_mode"] = int(told["rounding_type"] == "ceil")
    if node.get_type_name() == "AvgPool":
        if found["ceil_mode"] and not told["exclude-pad"]:
            raise graph.refusal(node, "it rounds up and counts zeros, which ONNX Runtime divides otherwise")
        found["count_include_pad"] = int(not told["exclude-pad"])
        found.pop("dilations", None)
        return "AveragePool", graph.inputs(node)[:1], found
    return "MaxPool", graph.inputs(node)[:1], found


def _reduce(operator: str) -> Callable[[_Graph, Any], _Row]:
    def row(graph: _Graph, node: Any) -> _Row:
        axes = graph.value(node, 1).astype(np.int64).reshape(-1)
        keep = int(bool(node.get_attributes()["keep_dims"]))
        inputs = [graph.inputs(node)[0], graph.constant(axes, node.get_friendly_name())]
        return operator, inputs, {"keepdims": keep}

    return row


def _mvn(graph: _Graph, node: Any) -> _Row:
    """Over the places of each channel it is an instance norm."""
    shape = node.get_input_partial_shape(0)
    axes = sorted(int(axis) % len(shape) for axis in graph.value(node, 1).reshape(-1))
    told = node.get_attributes()
    if (
        axes != list(range(2, len(shape)))
        or not told["normalize_variance"]
        or told["eps_mode"] not in _INSIDE
    ):
        raise graph.refusal(node, f"it is no instance norm: axes {axes}, eps {told['eps_mode']}")
    channels = shape[1].get_length()
    name = node.get_friendly_name()
    ones = graph.constant(np.ones(channels, np.float32), name)
    zeros = graph.constant(np.zeros(channels, np.float32), name)
    return "InstanceNormalization", [graph.inputs(node)[0], ones, zeros], {"epsilon": float(told["eps"])}


def _matmul(graph: _Graph, node: Any) -> _Row:
    """Transposed weights are stored so; transposed values get a node."""
    told, inputs = node.get_attributes(), graph.inputs(node)
    for place, key in enumerate(("transpose_a", "transpose_b")):
        if not told[key]:
            continue
        rank = len(node.get_input_partial_shape(place))
        order = [*range(rank - 2), rank - 1, rank - 2]
        turned = f"{node.get_friendly_name()}/{key}"
        graph.nodes.append(helper.make_node("Transpose", [inputs[place]], [turned], name=turned, perm=order))
        inputs[place] = turned
    return "MatMul", inputs, {}


def _prelu(graph: _Graph, node: Any) -> _Row:
    """One slope, or one for each channel of `(N, C, ...)`."""
    slope = graph.value(node, 1)
    rank = len(node.get_input_partial_shape(0))
    if slope.size > 1 and slope.ndim == 1:
        slope = slope.reshape(-1, *[1] * (rank - 2))
    elif slope.size == 1:
        slope = slope.reshape(1)
    return "PRelu", [graph.inputs(node)[0], graph.constant(slope, node.get_friendly_name())], {}


def _gather(graph: _Graph, node: Any) -> _Row:
    if node.get_attributes().get("batch_dims", 0):
        raise graph.refusal(node, "it gathers for each of the batch")
    return "Gather", graph.inputs(node)[:2], {"axis": int(graph.value(node, 2).reshape(-1)[0])}


def _reshape(graph: _Graph, node: Any) -> _Row:
    # A zero that copies is the usual meaning in both.
    return "Reshape", graph.inputs(node), {"allowzero": int(not node.get_attributes()["special_zero"])}


def _shape_of(graph: _Graph, node: Any) -> _Row:
    if node.get_attributes()["output_type"] != "i64":
        raise graph.refusal(node, "its numbers are i32")
    return "Shape", graph.inputs(node), {}


def _transpose(graph: _Graph, node: Any) -> _Row:
    return "Transpose", graph.inputs(node)[:1], {"perm": [int(axis) for axis in graph.value(node, 1)]}


def _clamp(graph: _Graph, node: Any) -> _Row:
    told, name = node.get_attributes(), node.get_friendly_name()
    bounds = [graph.constant(np.array(told[key], np.float32), name) for key in ("min", "max")]
    return "Clip", [graph.inputs(node)[0], *bounds], {}


def _axis(operator: str) -> Callable[[_Graph, Any], _Row]:
    return lambda graph, node: (operator, graph.inputs(node), {"axis": int(node.get_attributes()["axis"])})


#: Operator of OpenVINO -> how it is written.
_ROWS: dict[str, Callable[[_Graph, Any], _Row]] = {
    **{
        kind: _plain(kind)
        for kind in ("Relu", "Sigmoid", "Tanh", "Exp", "Log", "Sqrt", "Abs", "Erf", "Squeeze", "Unsqueeze")
    },
    "Add": _plain("Add"),
    "Subtract": _plain("Sub"),
    "Multiply": _plain("Mul"),
    "Divide": _plain("Div"),
    "Power": _plain("Pow"),
    "Maximum": _plain("Max"),
    "Minimum": _plain("Min"),
    "Convolution": lambda graph, node: ("Conv", graph.inputs(node), _window(node)),
    "GroupConvolution": _group_convolution,
    "MaxPool": _pool,
    "AvgPool": _pool,
    "ReduceMean": _reduce("ReduceMean"),
    "ReduceMax": _reduce("ReduceMax"),
    "ReduceSum": _reduce("ReduceSum"),
    "MVN": _mvn,
    "MatMul": _matmul,
    "PRelu": _prelu,
    "Gather": _gather,
    "Reshape": _reshape,
    "ShapeOf": _shape_of,
    "Transpose": _transpose,
    "Clamp": _clamp,
    "Concat": _axis("Concat"),
    "Softmax": _axis("Softmax"),
}
