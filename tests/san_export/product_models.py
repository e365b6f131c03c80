"""Small ONNX files with one of each product: Conv, ConvTranspose, Gemm and MatMul, in FP32, FP16 and INT8."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from san_export.graph.precision_stats import count_operands
from san_export.onnx_writer import write_onnx

from tests.tiny_models import tiny_artefact

_SIZE_HW = (16, 8)
_DIM = 8


def product_model(
    path: Path,
    *,
    precision: str = "fp32",
    told: str | None = None,
    input: str = "uint8",
    int32_bias: bool = False,
) -> Path:
    """Write a network of four products that `OnnxRuntime` opens.

    Args:
        path: the file to write.
        precision: `fp32`; `fp16`, with a Cast at either end; `int8`, the convolutions alone, symmetric Q/DQ.
        told: the precision that the file claims; None is the truth.
        input: `uint8` or `float`, as in `Artefact`.
        int32_bias: quantise the convolution's bias, as ONNX Runtime does by default and TensorRT refuses.
    """
    maker = _Maker(precision, int32_bias)
    height, width = _SIZE_HW
    shape: list[int | str] = ["N", 3, height, width] if input == "float" else ["N", height, width, 3]
    value = "crops"
    if input == "uint8":
        value = maker.add("Cast", [value], to=TensorProto.FLOAT)
        value = maker.add("Transpose", [value], perm=[0, 3, 1, 2])
    value = maker.add("Mul", [value, maker.weight("scale", np.array(1 / 255), TensorProto.FLOAT)])
    if precision == "fp16":
        value = maker.add("Cast", [value], to=TensorProto.FLOAT16)
    value = maker.product("Conv", value, (4, 3, 3, 3), bias=4, pads=[1, 1, 1, 1])
    value = maker.add("Relu", [value])
    value = maker.product("ConvTranspose", value, (4, 6, 2, 2), strides=[2, 2])
    value = maker.add("GlobalAveragePool", [value])
    value = maker.add("Flatten", [value])
    value = maker.product("Gemm", value, (6, 12), transB=0)
    value = maker.product("MatMul", value, (12, _DIM))
    if precision == "fp16":
        value = maker.add("Cast", [value], to=TensorProto.FLOAT)
    norm = maker.add("ReduceL2", [value, maker.axes()], keepdims=1)
    maker.nodes.append(helper.make_node("Div", [value, norm], ["embedding"]))
    kind = TensorProto.UINT8 if input == "uint8" else TensorProto.FLOAT
    graph = helper.make_graph(
        maker.nodes,
        "products",
        [helper.make_tensor_value_info("crops", kind, shape)],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", _DIM])],
        maker.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    operands = count_operands(model)
    artefact = tiny_artefact(size_hw=_SIZE_HW, embedding_dim=_DIM, input=input, precision=told or precision)
    if told is not None:
        operands = dataclasses.replace(operands, **{told: 1.0})
    write_onnx(model, dataclasses.replace(artefact, operands=operands), path)
    return path


class _Maker:
    def __init__(self, precision: str, int32_bias: bool) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._precision, self._int32_bias = precision, int32_bias
        self._rng = np.random.default_rng(0)

    def add(self, kind: str, inputs: list[str], **attributes: object) -> str:
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def weight(self, name: str, values: np.ndarray, kind: int) -> str:
        name = f"{name}_{len(self.weights)}"
        self.weights.append(
            numpy_helper.from_array(values.astype(helper.tensor_dtype_to_np_dtype(kind)), name)
        )
        return name

    def axes(self) -> str:
        return self.weight("axes", np.array([1]), TensorProto.INT64)

    def product(
        self, kind: str, value: str, shape: tuple[int, ...], *, bias: int = 0, **attributes: object
    ) -> str:
        weights = self._rng.normal(0, 0.5, shape)
        if self._precision == "int8" and kind.startswith("Conv"):
            zero = self.weight("zero", np.array(0), TensorProto.INT8)
            step = self.weight("step", np.array(0.05), TensorProto.FLOAT)
            value = self.add("QuantizeLinear", [value, step, zero])
            value = self.add("DequantizeLinear", [value, step, zero])
            axis = 0 if kind == "Conv" else 1
            channels = shape[axis]
            steps = self.weight("steps", np.full(channels, 0.02), TensorProto.FLOAT)
            zeros = self.weight("zeros", np.zeros(channels), TensorProto.INT8)
            quantised = self.weight(
                f"{kind}.weight", np.clip(np.rint(weights / 0.02), -127, 127), TensorProto.INT8
            )
            inputs = [value, self.add("DequantizeLinear", [quantised, steps, zeros], axis=axis)]
            if bias and self._int32_bias:
                counts = self.weight(f"{kind}.bias", np.arange(bias), TensorProto.INT32)
                scale = self.weight("bias_step", np.array(0.001), TensorProto.FLOAT)
                inputs.append(self.add("DequantizeLinear", [counts, scale]))
                bias = 0
        else:
            half = self._precision == "fp16"
            inputs = [
                value,
                self.weight(f"{kind}.weight", weights, TensorProto.FLOAT16 if half else TensorProto.FLOAT),
            ]
        if bias:
            half = self._precision == "fp16"
            inputs.append(
                self.weight(
                    f"{kind}.bias",
                    self._rng.normal(0, 1, bias),
                    TensorProto.FLOAT16 if half else TensorProto.FLOAT,
                )
            )
        return self.add(kind, inputs, **attributes)
