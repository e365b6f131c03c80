"""Toy teachers: an ONNX network of somebody else, made here, that answers with the colours of a crop's halves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")


def write_toy_teacher(path: Path, *, size_hw: tuple[int, int] = (32, 16), bias: float = 0.0) -> Path:
    """`N x 3 x H x W` to a row of 12: a 4 x 4 convolution of stride 4, then means of the upper and lower half."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    height, width = size_hw
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal((6, 3, 4, 4)).astype(np.float32) / 255, "w"),
        numpy_helper.from_array(np.full(6, bias, np.float32), "b"),
        numpy_helper.from_array(np.array([0, -1], np.int64), "flat"),
    ]
    nodes = [
        helper.make_node("Conv", ["data", "w", "b"], ["map"], strides=[4, 4]),
        helper.make_node(
            "AveragePool",
            ["map"],
            ["halves"],
            kernel_shape=[height // 8, width // 4],
            strides=[height // 8, 1],
        ),
        helper.make_node("Reshape", ["halves", "flat"], ["row"]),
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["N", 3, height, width])],
        [helper.make_tensor_value_info("row", TensorProto.FLOAT, ["N", 12])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="session")
def toy_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_teacher(tmp_path_factory.mktemp("teacher") / "toy.onnx")
