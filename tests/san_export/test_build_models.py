"""The real networks in every precision through TensorRT-RTX's parser and builder: no GPU is needed for that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from san_export.onnx_writer import to_onnx
from san_export.precision.fp16 import to_fp16
from san_export.precision.int8 import quantise
from san_export.verify import sample_crops
from san_export.wrapper import OnnxWrapper
from san_train.models import SanSettings, SharpAttentionNetwork

from san_deploy.backends import STARTER
from san_deploy.backends.onnxruntime import OnnxRuntime
from tests.san_export.road import Road, builds

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: nothing can be built")

#: Less than the 256 x 128 of the paper, for speed: the layers and the weights are the same.
SIZE_HW = (128, 64)
TARGETS = ("sm86", "sm120")
BATCH = (1, 16, 64)


def in_precision(model: onnx.ModelProto, precision: str, images: np.ndarray) -> onnx.ModelProto:
    """INT8 has its rest in FP32."""
    if precision == "fp16":
        return to_fp16(model)
    return quantise(model, images, form="tensorrt") if precision == "int8" else model


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_starter(precision: str, tmp_path: Path) -> None:
    artefact = OnnxRuntime(STARTER).artefact
    images = sample_crops(artefact.size_hw, 32).images
    model = in_precision(onnx.load(STARTER), precision, images)
    builds(model, artefact, precision, tmp_path, int8=0.5, batch=BATCH, targets=TARGETS)


@pytest.fixture(scope="module")
def resnet50() -> Road:
    torch.manual_seed(0)
    network = SharpAttentionNetwork(SanSettings(depth=50, size_hw=SIZE_HW)).eval()
    graph = to_onnx(OnnxWrapper(network), SIZE_HW)
    return Road("san", network, graph, sample_crops(SIZE_HW, 8).images)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_resnet50_with_deconvolutions(resnet50: Road, precision: str, tmp_path: Path) -> None:
    model = in_precision(resnet50.graph, precision, resnet50.images)
    artefact = resnet50.artefact("argmax")
    builds(model, artefact, precision, tmp_path, int8=0.5, batch=BATCH, targets=TARGETS)
