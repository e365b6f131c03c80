"""Small embedding networks as other programs write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE_HW = (32, 16)
DIM = 6


def network(
    *,
    batch: int | str = "batch",
    opset: int = 17,
    layout: str = "nchw",
    end: str = "flatten",
    size_hw: tuple[int | str, int | str] = SIZE_HW,
    extra: list[onnx.NodeProto] | None = None,
    outputs: list[Any] | None = None,
    seed: int = 0,
    ir_version: int = 9,
) -> onnx.ModelProto:
    """Two convolutions, a mean over the map, a matrix: rows of `DIM` numbers that depend on colour and place.

    A `batch` that is a number is fixed; `end` is `flatten`, `reshape` with the batch written into its shape, or
    `softmax`; `extra` are nodes behind `features`, and `outputs` stand in its place.
    """
    rng = np.random.default_rng(seed)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        values = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]) if len(shape) > 2 else shape[0])
        return numpy_helper.from_array(values.astype(np.float32), name)

    weights = [weight("w1", 8, 3, 3, 3), weight("w2", 8, 8, 3, 3), weight("w3", 8, DIM)]
    nodes = []
    now = "image"
    if layout == "nhwc":
        nodes.append(helper.make_node("Transpose", [now], ["planes"], perm=[0, 3, 1, 2]))
        now = "planes"
    nodes += [
        helper.make_node("Conv", [now, "w1"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Tanh", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], strides=[2, 2]),
        helper.make_node("Tanh", ["c"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
    ]
    if end == "reshape":
        weights.append(numpy_helper.from_array(np.array([batch, 8], np.int64), "shape"))
        nodes.append(helper.make_node("Reshape", ["e", "shape"], ["f"]))
    else:
        nodes.append(helper.make_node("Flatten", ["e"], ["f"]))
    nodes.append(helper.make_node("MatMul", ["f", "w3"], ["features"]))
    if end == "softmax":
        nodes.append(helper.make_node("Softmax", ["features"], ["probabilities"], axis=1))
    nodes += extra or []
    height, width = size_hw
    shape = [batch, 3, height, width] if layout == "nchw" else [batch, height, width, 3]
    given = [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)]
    names = outputs or [
        ("probabilities" if end == "softmax" else "features", TensorProto.FLOAT, [batch, DIM])
    ]
    made = [helper.make_tensor_value_info(*item) for item in names]
    graph = helper.make_graph(nodes, "net", given, made, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    onnx.checker.check_model(model)
    return model


def save(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def crops(count: int = 20, size_hw: tuple[int, int] = SIZE_HW, seed: int = 1) -> np.ndarray:
    """`(count, H, W, 3)` uint8 BGR with coarse structure."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 4, 2, 3), np.uint8)
    return coarse.repeat(size_hw[0] // 4, 1).repeat(size_hw[1] // 2, 2)
