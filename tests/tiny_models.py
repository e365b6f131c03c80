"""ONNX files of a few kilobytes that `OnnxRuntime` opens as it opens a real export."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from san_deploy.artefact import DESCRIPTION_SHA256, Artefact, description_sha256
from san_deploy.integrity import stamp_onnx


def tiny_artefact(**changes: Any) -> Artefact:
    """The contract of `tiny_model`'s default network."""
    artefact = Artefact(
        arch="tiny",
        settings={"seed": 0},
        embedding_dim=8,
        size_hw=(32, 16),
        input="uint8",
        resize="pillow-bicubic-antialias",
        mean_rgb=(0.0, 0.0, 0.0),
        std_rgb=(1.0, 1.0, 1.0),
        mask="none",
        precision="fp32",
        checkpoint_sha256="0" * 64,
        versions={},
        space="5" * 64,
    )
    return dataclasses.replace(artefact, **changes)


def save_model(model: onnx.ModelProto, path: Path) -> None:
    """Write a model that a test has changed as `san export` would: with the hash of what it is now."""
    path.write_bytes(stamp_onnx(model.SerializeToString()))


def restamp(sidecar: Path, values: dict[str, Any]) -> None:
    """Write a description that a test has changed, with the hash of what it is now."""
    sidecar.write_text(
        json.dumps(values | {DESCRIPTION_SHA256: description_sha256(values)}), encoding="utf-8"
    )


def tiny_model(
    path: Path,
    *,
    size_hw: tuple[int, int] = (32, 16),
    dim: int = 8,
    input: str = "uint8",
    seed: int = 0,
    scale: float = 1.0,
    told: dict[str, Any] | None = None,
    metadata: dict[str, str] | None = None,
    batch: int | str = "N",
) -> Path:
    """Write a linear network: pixels times random weights, plus a bias, to norm 1.

    Both kinds of input give the same embedding of the same crop.

    Args:
        path: the file to write.
        size_hw: of the input.
        dim: of the embedding.
        input: `uint8` or `float`, as in `Artefact`.
        seed: of the weights.
        scale: of the rows; anything but 1, NaN for example, is a network that must be refused.
        told: fields of the artefact in which the file lies about its graph.
        metadata: written instead of the artefact's metadata_props.
        batch: first dimension of the input, a name or a number.
    """
    height, width = size_hw
    rng = np.random.default_rng(seed)
    constants: dict[str, np.ndarray] = {
        "weight": rng.normal(0, 1 / 255, (height * width * 3, dim)).astype(np.float32),
        "bias": rng.normal(0, 1, dim).astype(np.float32),
        "flat": np.array([0, -1], np.int64),
        "bgr": np.array([2, 1, 0], np.int64),
        "last": np.array([1], np.int64),
        "scale": np.array(scale, np.float32),
    }
    if input == "uint8":
        shape: list[int | str] = [batch, height, width, 3]
        first = [helper.make_node("Cast", ["crops"], ["bgr_hwc"], to=TensorProto.FLOAT)]
    else:
        shape = [batch, 3, height, width]
        first = [
            helper.make_node("Gather", ["crops", "bgr"], ["bgr_chw"], axis=1),
            helper.make_node("Transpose", ["bgr_chw"], ["bgr_hwc"], perm=[0, 2, 3, 1]),
        ]
    nodes = [
        *first,
        helper.make_node("Reshape", ["bgr_hwc", "flat"], ["pixels"]),
        helper.make_node("MatMul", ["pixels", "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["features"]),
        helper.make_node("ReduceL2", ["features", "last"], ["norm"], keepdims=1),
        helper.make_node("Div", ["features", "norm"], ["unit"]),
        helper.make_node("Mul", ["unit", "scale"], ["embedding"]),
    ]
    kind = TensorProto.UINT8 if input == "uint8" else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("crops", kind, shape)],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", dim])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    fields = {"size_hw": size_hw, "embedding_dim": dim, "input": input} | (told or {})
    props = tiny_artefact(**fields).metadata_props() if metadata is None else metadata
    helper.set_model_props(model, props)
    save_model(model, path)
    return path
