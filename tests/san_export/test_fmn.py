"""The FMN-style network as it is deployed: the graph, FP16, INT8, and TensorRT-RTX's parser and builder."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from san_export.graph.operators import check_operators
from san_export.graph.precision_stats import count_operands
from san_export.onnx_writer import to_onnx
from san_export.precision.emulate_fp16 import emulate_fp16
from san_export.verify import row_cosine, sample_crops
from san_export.wrapper import OnnxWrapper
from san_train.data import normalise
from san_train.models.fmn import FeatureMaskNetwork, FmnSettings
from torch import nn

from tests.san_export.road import Road, calibrated, run

SIZE_HW = (128, 64)
#: The choices that change the graph: weights of its own or the same twice, masks, heads.
CHOICES: dict[str, dict[str, object]] = {
    "default": {},
    "shared": {"shared": True},
    "other": {"low": 2, "per_channel": True, "residual": True, "heads": 1, "last_stride": 1},
}


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return sample_crops(SIZE_HW, 24).images


@pytest.fixture(scope="module", params=list(CHOICES))
def exported(request: pytest.FixtureRequest, images: np.ndarray) -> tuple[str, Road]:
    torch.manual_seed(1)
    values = {"depth": 18, "width": 0.125, "size_hw": SIZE_HW, "hidden": 16, **CHOICES[request.param]}
    network = FeatureMaskNetwork(FmnSettings(**values))  # type: ignore[arg-type]
    # It starts at 0, and the mask with it the same everywhere.
    nn.init.normal_(network.mask_head.conv2.weight, std=0.5)
    calibrated(network, images)
    with torch.no_grad():
        (shown,) = network.soft_masks(normalise(images, torch.device("cpu")))
    assert shown.mask.std() > 0.05 and shown.mask.std((2, 3)).mean() > 0.02
    return request.param, Road("fmn", network, to_onnx(OnnxWrapper(network), SIZE_HW), images)


@pytest.mark.numeric
def test_the_graph(exported: tuple[str, Road]) -> None:
    name, road = exported
    network, model = road.network, road.graph
    assert isinstance(network, FeatureMaskNetwork) and road.furthest() < 1e-5
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


@pytest.mark.numeric
def test_fp16_and_int8_rows(exported: tuple[str, Road], images: np.ndarray) -> None:
    """A neck stretches the small differences that an untrained network sees, and what rounding does to them."""
    _, road = exported
    rows, half = road.rows, road.half
    assert count_operands(half).fp16 == 1.0 and not check_operators(half)
    assert row_cosine(run(half, images), rows).min() > 0.9995
    assert row_cosine(run(emulate_fp16(half), images), rows).min() > 0.999
    for form in ("tensorrt", "cpu"):
        quantised = road.quantised if form == "tensorrt" else road.quantise(form)
        assert 0.9 <= count_operands(quantised).int8 < 1
        # The mask is made in floating point, as the architecture's row says.
        made = [node for node in quantised.graph.node if any("mask_head" in name for name in node.input)]
        assert made and not any(node.op_type == "DequantizeLinear" for node in made)
        cosine = row_cosine(run(quantised, images), rows)
        assert cosine.min() > 0.8 and np.median(cosine) > 0.95
        assert form == "cpu" or not check_operators(quantised)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_tensorrt_builds_it(exported: tuple[str, Road], precision: str, tmp_path: Path) -> None:
    exported[1].builds(precision, tmp_path)
