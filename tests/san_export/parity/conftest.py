"""A tiny network in every form that `san parity` takes, broken copies of it, and labelled crops to compare on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from PIL import Image
from san_export.graph.precision_stats import count_operands
from san_export.onnx_writer import write_onnx
from san_export.precision.fp16 import to_fp16
from san_export.verify import CheckCrops
from san_train.checkpoint import CheckpointInfo, save_checkpoint
from san_train.describe import describe
from san_train.models import SharpAttentionNetwork

from san_deploy.artefact import Artefact, sha256_file, write_sidecar
from san_deploy.preprocess import RESIZE


@dataclasses.dataclass(frozen=True)
class Files:
    """A checkpoint and what says the same in other forms.

    Attributes:
        checkpoint: of the tiny network.
        fp32, fp16: ONNX files of it.
        model: of `fp32`.
        artefact: of `fp32`, without a hash.
        crops: `CAMERA/TRACK/*.png` with identities.csv: 20 crops, 5 people, 2 cameras.
    """

    checkpoint: Path
    fp32: Path
    fp16: Path
    model: onnx.ModelProto
    artefact: Artefact
    crops: Path

    def write(self, path: Path, model: onnx.ModelProto, **told: object) -> Path:
        """An ONNX file that says of itself what `fp32` does, but for `told`."""
        return write_target(path, model, dataclasses.replace(self.artefact, **told))  # type: ignore[arg-type]


def write_target(path: Path, model: onnx.ModelProto, artefact: Artefact) -> Path:
    """An ONNX file and its sidecar."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    write_onnx(copy, dataclasses.replace(artefact, sha256=""), path)
    write_sidecar(dataclasses.replace(artefact, sha256=sha256_file(path)), path)
    return path


def make_files(
    folder: Path, network: SharpAttentionNetwork, model: onnx.ModelProto, mask: str, crops: CheckCrops
) -> Files:
    """Write everything into a folder."""
    checkpoint = folder / "best.safetensors"
    info = CheckpointInfo("san", network.settings.as_dict(), RESIZE, 1)
    save_checkpoint(checkpoint, network, info)
    plain = describe(
        network,
        info,
        mask=mask,
        input_form="uint8",
        checkpoint_sha256=sha256_file(checkpoint),
        weights_sha256="1" * 64,
    )
    artefact = dataclasses.replace(plain, operands=count_operands(model))
    half = to_fp16(model)
    told = dataclasses.replace(plain, precision="fp16", operands=count_operands(half))
    return Files(
        checkpoint,
        write_target(folder / "fp32.onnx", model, artefact),
        write_target(folder / "fp16.onnx", half, told),
        model,
        artefact,
        write_crops(folder / "ward", crops.images),
    )


def write_crops(root: Path, images: np.ndarray) -> Path:
    """Crops 4 k to 4 k + 3 are person k + 1: two before each of two cameras."""
    lines = ["camera,track,person"]
    for index, image in enumerate(images):
        person, camera = index // 4 + 1, f"cam{index // 2 % 2 + 1}"
        path = root / camera / f"t{person:03d}" / f"{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[:, :, ::-1]).save(path)
        if index % 2 == 0:
            lines.append(f"{camera},t{person:03d},{person}")
    (root / "identities.csv").write_text("\n".join(lines) + "\n")
    return root


def with_weight(
    model: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]
) -> onnx.ModelProto:
    """A copy with one weight changed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    (weight,) = [item for item in copy.graph.initializer if item.name == name]
    weight.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(weight)), name))
    return copy


def swapped_channels(model: onnx.ModelProto) -> onnx.ModelProto:
    """The first convolution takes RGB, and is given BGR."""
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    return with_weight(model, first.input[1], lambda weight: np.ascontiguousarray(weight[:, ::-1]))


def wrong_mean(model: onnx.ModelProto) -> onnx.ModelProto:
    """Pixels are normalised with half of the mean."""
    return with_weight(model, "mean", lambda mean: mean / 2)


def without_norm(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rows come out as long as the network made them."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    (last,) = [node for node in copy.graph.node if "embedding" in node.output]
    assert last.op_type == "Mul"
    features = next(
        name for name in last.input if not name.startswith("rsqrt") and "reciprocal" not in name.lower()
    )
    last.CopyFrom(helper.make_node("Identity", [features], ["embedding"]))
    return copy


def with_nan(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every row is NaN."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        for place, name in enumerate(node.output):
            if name == "embedding":
                node.output[place] = "whole"
    copy.graph.initializer.append(numpy_helper.from_array(np.array(np.nan, np.float32), "nan"))
    copy.graph.node.append(helper.make_node("Mul", ["whole", "nan"], ["embedding"]))
    return copy
