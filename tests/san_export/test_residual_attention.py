"""A network with the residual attention network's unit, as it is deployed; with a soft and with a sharp gate."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from san_export.graph.mask_branches import find_branches
from san_export.graph.operators import check_operators
from san_export.graph.precision_stats import count_operands
from san_export.onnx_writer import to_onnx
from san_export.precision.emulate_fp16 import emulate_fp16
from san_export.precision.int8 import quantise
from san_export.verify import row_cosine, sample_crops
from san_export.wrapper import OnnxWrapper
from san_train.models import SanSettings, SharpAttentionNetwork

from tests.san_export.road import Road, calibrated, run

SIZE_HW = (128, 64)


def made(images: np.ndarray, gate: str) -> SharpAttentionNetwork:
    torch.manual_seed(0)
    network = SharpAttentionNetwork(
        SanSettings(
            depth=18,
            width=0.125,
            size_hw=SIZE_HW,
            attention=(1, 2, 3),
            unit="residual-attention",
            gate=gate,
            hidden=0,
            embedding_dim=32,
            neck=True,
        )
    )
    calibrated(network, images)
    return network


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return sample_crops(SIZE_HW, 24).images


@pytest.fixture(scope="module")
def soft(images: np.ndarray) -> Road:
    network = made(images, "soft")
    return Road("residual-attention", network, to_onnx(OnnxWrapper(network), SIZE_HW), images)


@pytest.mark.numeric
def test_the_graph(soft: Road) -> None:
    model = soft.graph
    assert soft.furthest() < 1e-5
    assert not check_operators(model) and [item.version for item in model.opset_import] == [18]
    kinds = Counter(node.op_type for node in model.graph.node)
    # The stem's pooling; three levels, two and one, each with a pooling and an interpolation.
    assert (kinds["MaxPool"], kinds["Resize"], kinds["Sigmoid"]) == (1 + 6, 6, 3)
    assert not kinds["Shape"] and not kinds["ConvTranspose"]
    # What no convolution stands before: a norm for each unit.
    assert kinds["BatchNormalization"] == 12


@pytest.mark.numeric
def test_fp16_and_int8_rows(soft: Road, images: np.ndarray) -> None:
    rows, half = soft.rows, soft.half
    assert count_operands(half).fp16 == 1.0 and not check_operators(half)
    assert row_cosine(run(emulate_fp16(half), images), rows).min() > 0.999
    for form in ("tensorrt", "cpu"):
        quantised = soft.quantised if form == "tensorrt" else quantise(soft.graph, images, form=form)
        assert count_operands(quantised).int8 >= 0.9
        cosine = row_cosine(run(quantised, images), rows)
        assert cosine.min() > 0.8 and np.median(cosine) > 0.93


@pytest.mark.slow
def test_masks_may_be_sharp(images: np.ndarray) -> None:
    network = made(images, "sharp")
    model = to_onnx(OnnxWrapper(network), SIZE_HW)
    assert not check_operators(model) and len(find_branches(model)) == 3
    # Rounding flips bits of an untrained network's masks; most rows are whole.
    with torch.no_grad():
        rows = OnnxWrapper(network)(torch.from_numpy(images)).numpy()
    assert np.median(row_cosine(run(model, images), rows)) > 0.9999


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_tensorrt_builds_it(soft: Road, precision: str, tmp_path: Path) -> None:
    soft.builds(precision, tmp_path)
