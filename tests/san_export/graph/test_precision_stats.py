from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from san_export.graph.precision_stats import count_operands
from san_export.precision.fp16 import to_fp16

from san_deploy.errors import SanError


def model(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], kind: int) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, ["N", 2, 4, 4])],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)


def weight(dtype: type = np.float32) -> np.ndarray:
    return np.ones((3, 2, 1, 1), dtype)


def test_every_product_has_two_operands(argmax_model: onnx.ModelProto) -> None:
    kinds = [node.op_type for node in argmax_model.graph.node]
    products = sum(kinds.count(kind) for kind in ("Conv", "ConvTranspose", "Gemm", "MatMul"))
    counted = count_operands(argmax_model)
    assert (counted.count, counted.fp32, counted.fp16, counted.int8) == (2 * products, 1.0, 0.0, 0.0)
    assert counted.source == "onnx"


def test_fp16_is_counted_by_type_not_by_name(argmax_model: onnx.ModelProto) -> None:
    half = count_operands(to_fp16(argmax_model))
    assert (half.fp32, half.fp16, half.int8) == (0.0, 1.0, 0.0)


def test_a_product_left_in_fp32_shows() -> None:
    # FP16 weights that are cast up before the convolution: an engine that computes in FP32 after all.
    nodes = [
        helper.make_node("Cast", ["weight_fp16"], ["w"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "w"], ["y"]),
    ]
    counted = count_operands(model(nodes, {"weight_fp16": weight(np.float16)}, TensorProto.FLOAT))
    assert (counted.count, counted.fp32) == (2, 1.0)


def test_dequantised_operands_are_int8() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["dx"]),
        helper.make_node("DequantizeLinear", ["w8", "s"], ["dw"]),
        helper.make_node("Conv", ["dx", "dw"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "w"], ["y"]),
    ]
    constants = {
        "s": np.array(0.1, np.float32),
        "z": np.array(3, np.uint8),
        "w8": weight(np.int8),
        "w": np.ones((2, 3, 1, 1), np.float32),
    }
    counted = count_operands(model(nodes, constants, TensorProto.FLOAT))
    assert (counted.count, counted.fp32, counted.int8) == (4, 0.5, 0.5)


def test_integer_convolutions_are_int8() -> None:
    constants = {"s": np.array(0.1, np.float32), "z": np.array(0, np.uint8), "z8": np.array(0, np.int8)}
    nodes = [helper.make_node("QLinearConv", ["x", "s", "z", "w", "s", "z8", "s", "z"], ["y"])]
    counted = count_operands(model(nodes, constants | {"w": weight(np.int8)}, TensorProto.UINT8))
    assert (counted.count, counted.int8) == (2, 1.0)


def test_nothing_to_count() -> None:
    counted = count_operands(model([helper.make_node("Relu", ["x"], ["y"])], {}, TensorProto.FLOAT))
    assert (counted.count, counted.fp32, counted.fp16, counted.int8) == (0, 0.0, 0.0, 0.0)


def test_other_types_are_refused_by_name() -> None:
    wide = model([helper.make_node("Conv", ["x", "w"], ["y"])], {"w": weight(np.float64)}, TensorProto.DOUBLE)
    with pytest.raises(SanError, match="operand x of the graph is of type DOUBLE"):
        count_operands(wide)


def test_control_flow_is_refused() -> None:
    body = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["b"])], "b", [], [helper.make_tensor_value_info("b", 1, None)]
    )
    nodes = [helper.make_node("If", ["go"], ["y"], then_branch=body, else_branch=body)]
    with pytest.raises(SanError, match="control flow"):
        count_operands(model(nodes, {"go": np.array(True)}, TensorProto.FLOAT))
