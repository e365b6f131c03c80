"""The FMN-style network as it is deployed: the graph, FP16, INT8, and TensorRT-RTX's parser and builder."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from san_deploy.export.check import row_cosine
from san_deploy.export.checkpoint import describe
from san_deploy.export.crops import draw_crops
from san_deploy.export.deployed import DeployedNetwork
from san_deploy.export.engine import build_engine
from san_deploy.export.fp16 import to_fp16
from san_deploy.export.int8 import quantise
from san_deploy.export.onnx import to_onnx
from san_deploy.export.operands import count_operands
from san_deploy.export.operators import check_operators
from san_deploy.export.rounding import rounding_fp16
from san_deploy.export.write import write_onnx
from san_deploy.train.checkpoint import CheckpointInfo
from san_deploy.train.data import normalise
from san_deploy.train.models import Network
from san_deploy.train.models.fmn import FeatureMaskNetwork, FmnSettings
from torch import nn

from san_deploy.artefact import read_sidecar

SIZE_HW = (128, 64)
#: The choices that change the graph: weights of its own or the same twice, masks, heads.
CHOICES: dict[str, dict[str, object]] = {
    "default": {},
    "shared": {"shared": True},
    "other": {"low": 2, "per_channel": True, "residual": True, "heads": 1, "last_stride": 1},
}
#: TensorRT-RTX has no FP32 matrix product for Turing.
TARGETS = {"fp32": ("sm86", "sm120"), "fp16": ("sm75", "sm86", "sm120"), "int8": ("sm86", "sm120")}


def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"crops": images})[0]


def calibrated(network: nn.Module, images: np.ndarray) -> None:
    """Batch norms that have seen `images`."""
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(normalise(images, torch.device("cpu")))
    network.eval()


def furthest(network: Network, model: onnx.ModelProto, images: np.ndarray) -> float:
    """Largest difference of ONNX Runtime's rows from PyTorch's, at batches of 1, 3 and all."""
    with torch.no_grad():
        rows = network(normalise(images, torch.device("cpu")))
    reference = nn.functional.normalize(rows, dim=1).numpy()
    return max(
        float(np.abs(run(model, images[start:end]) - reference[start:end]).max())
        for start, end in ((0, 1), (1, 4), (0, len(images)))
    )


def in_precision(graph: onnx.ModelProto, precision: str, images: np.ndarray) -> onnx.ModelProto:
    if precision == "fp32":
        return graph
    return to_fp16(quantise(graph, images, form="tensorrt") if precision == "int8" else graph)


def builds(
    network: Network, arch: str, graph: onnx.ModelProto, images: np.ndarray, precision: str, folder: Path
) -> None:
    """TensorRT-RTX takes the graph in that precision, and sees what was counted in the file."""
    model = in_precision(graph, precision, images)
    info = CheckpointInfo(arch, network.settings.as_dict(), "pillow-bicubic-antialias", 0)
    artefact = describe(network, info, mask="soft", input_form="uint8", checkpoint_sha256="0" * 64)
    artefact = replace(artefact, precision=precision, operands=count_operands(model), engine=None)
    write_onnx(model, artefact, folder / "model.onnx")
    build_engine(
        folder / "model.onnx",
        folder / "model.engine",
        runtime="tensorrt-rtx",
        batch=(1, 4, 16),
        targets=TARGETS[precision],
    )
    plan = read_sidecar(folder / "model.engine")
    assert plan.operands is not None and plan.engine is not None
    assert plan.engine.sm == TARGETS[precision]
    share = getattr(plan.operands, precision)
    assert share == 1.0 if precision != "int8" else share >= 0.9
    assert share == pytest.approx(getattr(count_operands(model), precision), abs=0.02)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return draw_crops(SIZE_HW, 24).images


@pytest.fixture(scope="module", params=list(CHOICES))
def exported(
    request: pytest.FixtureRequest, images: np.ndarray
) -> tuple[str, FeatureMaskNetwork, onnx.ModelProto]:
    torch.manual_seed(1)
    values = {"depth": 18, "width": 0.125, "size_hw": SIZE_HW, "hidden": 16, **CHOICES[request.param]}
    network = FeatureMaskNetwork(FmnSettings(**values))  # type: ignore[arg-type]
    # It starts at 0, and the mask with it the same everywhere.
    nn.init.normal_(network.mask_head.conv2.weight, std=0.5)
    calibrated(network, images)
    with torch.no_grad():
        (shown,) = network.soft_masks(normalise(images, torch.device("cpu")))
    assert shown.mask.std() > 0.05 and shown.mask.std((2, 3)).mean() > 0.02
    return request.param, network, to_onnx(DeployedNetwork(network), SIZE_HW)


def test_the_graph(exported: tuple[str, FeatureMaskNetwork, onnx.ModelProto], images: np.ndarray) -> None:
    name, network, model = exported
    assert furthest(network, model, images) < 1e-5
    assert not check_operators(model)
    assert [item.version for item in model.opset_import] == [18]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    kinds = Counter(node.op_type for node in model.graph.node)
    assert (kinds["Resize"], kinds["Sigmoid"], kinds["MaxPool"]) == (1, 1, 1)
    # The mask's size is a number in the graph, not read from a tensor.
    assert not kinds["Shape"] and not kinds["Slice"]
    weights = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    later = sum(
        isinstance(part, nn.Conv2d)
        for stage in range(network.settings.low + 1, 5)
        for part in network.backbone.stage(stage).modules()
    )
    # The later stages twice, and where they are shared, their weights once.
    assert kinds["Conv"] == len(weights) + (later if name == "shared" else 0)
    necks = network.settings.heads
    assert kinds["BatchNormalization"] == necks + (2 * later if name == "shared" else 0)


def test_fp16_and_int8_rows(
    exported: tuple[str, FeatureMaskNetwork, onnx.ModelProto], images: np.ndarray
) -> None:
    """A neck stretches the small differences that an untrained network sees, and what rounding does to them."""
    _, _, model = exported
    rows = run(model, images)
    half = to_fp16(model)
    assert count_operands(half).fp16 == 1.0 and not check_operators(half)
    assert row_cosine(run(half, images), rows).min() > 0.9995
    assert row_cosine(run(rounding_fp16(half), images), rows).min() > 0.999
    for form in ("tensorrt", "cpu"):
        quantised = quantise(model, images, form=form)
        assert count_operands(quantised).int8 >= 0.9
        cosine = row_cosine(run(quantised, images), rows)
        assert cosine.min() > 0.8 and np.median(cosine) > 0.95
        assert form == "cpu" or not check_operators(quantised)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_tensorrt_builds_it(
    exported: tuple[str, FeatureMaskNetwork, onnx.ModelProto],
    images: np.ndarray,
    precision: str,
    tmp_path: Path,
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: nothing can be built")
    _, network, graph = exported
    builds(network, "fmn", graph, images, precision, tmp_path)
