"""Toy teachers: an ONNX network of somebody else, made here, that answers with the colours of a crop's halves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")


def write_toy_teacher(
    path: Path,
    *,
    size_hw: tuple[int, int] = (32, 16),
    bias: float = 0.0,
    gain: float = 1.0,
    batch: int | str = "N",
    outputs: tuple[str, ...] = ("row",),
    half: bool = False,
    outside: bool = False,
    windows: int = 1,
) -> Path:
    """`N x 3 x H x W` to a row of 12: a 4 x 4 convolution of stride 4, then means of the upper and lower half.

    Args:
        path: to write.
        size_hw: of the input.
        bias: of the convolution.
        gain: of its weights.
        batch: of input and outputs; a name leaves it open.
        outputs: of `row` and `halves`, the same before it is laid flat.
        half: take float16.
        outside: keep the weights in a file beside it.
        windows: parts of each map, one above the other, that a last map is of: `(windows * N, 6, ...)`.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    height, width = size_hw
    rng = np.random.default_rng(0)
    kernel = gain * rng.standard_normal((6, 3, 4, 4)) / 255
    weights = [
        numpy_helper.from_array(kernel.astype(np.float32), "w"),
        numpy_helper.from_array(np.full(6, bias, np.float32), "b"),
        numpy_helper.from_array(np.array([0, -1], np.int64), "flat"),
    ]
    parts = np.array([-1, 6, height // 4 // windows, width // 4], np.int64)
    weights.append(numpy_helper.from_array(parts, "parts"))
    nodes = [
        helper.make_node("Cast", ["data"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["pixels", "w", "b"], ["map"], strides=[4, 4]),
        *([helper.make_node("Reshape", ["map", "parts"], ["windows"])] if windows > 1 else []),
        helper.make_node(
            "AveragePool",
            ["map"],
            ["halves"],
            kernel_shape=[height // 8, width // 4],
            strides=[height // 8, 1],
        ),
        helper.make_node("Reshape", ["halves", "flat"], ["row"]),
    ]
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    shapes = {"row": [batch, 12], "halves": [batch, 6, 2, 1]}
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("data", kind, [batch, 3, height, width])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in outputs],
        weights if windows > 1 else weights[:-1],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path, save_as_external_data=outside, location=f"{path.name}.data", size_threshold=0)
    return path


@pytest.fixture(scope="session")
def toy_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_teacher(tmp_path_factory.mktemp("teacher") / "toy.onnx")
