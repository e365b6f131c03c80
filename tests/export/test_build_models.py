"""The real networks in every precision through TensorRT-RTX's parser and builder: no GPU is needed for that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from san_deploy.export.checkpoint import describe
from san_deploy.export.crops import draw_crops
from san_deploy.export.deployed import DeployedNetwork
from san_deploy.export.engine import build_engine
from san_deploy.export.fp16 import to_fp16
from san_deploy.export.int8 import quantise
from san_deploy.export.onnx import to_onnx
from san_deploy.export.operands import count_operands
from san_deploy.export.write import write_onnx
from san_deploy.train.checkpoint import CheckpointInfo
from san_deploy.train.models import SanSettings, SharpAttentionNetwork

from san_deploy.artefact import Artefact, read_sidecar
from san_deploy.backends import STARTER
from san_deploy.backends.onnxruntime import OnnxRuntime

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: nothing can be built")

#: Less than the 256 x 128 of the paper, for speed: the layers and the weights are the same.
SIZE_HW = (128, 64)
#: TensorRT-RTX has no FP32 matrix product for Turing.
TARGETS = {"fp32": ("sm86", "sm120"), "fp16": ("sm86", "sm120"), "int8": ("sm86", "sm120")}


def in_precision(model: onnx.ModelProto, precision: str, images: np.ndarray) -> onnx.ModelProto:
    if precision == "fp16":
        return to_fp16(model)
    return quantise(model, images, form="tensorrt") if precision == "int8" else model


def built(model: onnx.ModelProto, artefact: Artefact, precision: str, folder: Path) -> Artefact:
    artefact = replace(artefact, precision=precision, operands=count_operands(model), engine=None)
    write_onnx(model, artefact, folder / "model.onnx")
    build_engine(
        folder / "model.onnx",
        folder / "model.engine",
        runtime="tensorrt-rtx",
        batch=(1, 16, 64),
        targets=TARGETS[precision],
    )
    return read_sidecar(folder / "model.engine")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_starter(precision: str, tmp_path: Path) -> None:
    artefact = OnnxRuntime(STARTER).artefact
    images = draw_crops(artefact.size_hw, 32).images
    model = in_precision(onnx.load(STARTER), precision, images)
    plan = built(model, artefact, precision, tmp_path)
    assert plan.operands is not None and plan.engine is not None
    assert plan.engine.batch == (1, 16, 64) and plan.engine.sm == TARGETS[precision]
    share = getattr(plan.operands, precision)
    assert share == 1.0 if precision != "int8" else share >= 0.5
    # What the parser sees is what was counted in the file.
    assert share == pytest.approx(getattr(count_operands(model), precision), abs=0.02)


@pytest.fixture(scope="module")
def resnet50() -> tuple[SharpAttentionNetwork, onnx.ModelProto]:
    torch.manual_seed(0)
    network = SharpAttentionNetwork(SanSettings(depth=50, size_hw=SIZE_HW)).eval()
    return network, to_onnx(DeployedNetwork(network), SIZE_HW)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_resnet50_with_deconvolutions(
    resnet50: tuple[SharpAttentionNetwork, onnx.ModelProto], precision: str, tmp_path: Path
) -> None:
    network, graph = resnet50
    info = CheckpointInfo("san", network.settings.as_dict(), "pillow-bicubic-antialias", 0)
    artefact = describe(network, info, mask="argmax", input_form="uint8", checkpoint_sha256="0" * 64)
    model = in_precision(graph, precision, draw_crops(SIZE_HW, 32).images)
    plan = built(model, artefact, precision, tmp_path)
    assert plan.operands is not None
    share = getattr(plan.operands, precision)
    assert share == 1.0 if precision != "int8" else share >= 0.5
