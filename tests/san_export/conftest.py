"""Tiny networks whose batch norms have seen crops, and one export of each form, shared by all tests here."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx
import pytest
import torch
from san_export.onnx_writer import to_onnx
from san_export.verify import CheckCrops, sample_crops
from san_export.wrapper import OnnxWrapper
from san_train.data import normalise
from san_train.models import SanSettings, SharpAttentionNetwork

SIZE_HW = (64, 32)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small lose time to a second thread, and all of it on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny_network(images: np.ndarray, **settings: object) -> SharpAttentionNetwork:
    """An untrained network with the batch norm statistics of `images`, `(N, 64, 32, 3)` uint8 BGR."""
    torch.manual_seed(3)
    values = {
        "depth": 18,
        "width": 0.125,
        "size_hw": SIZE_HW,
        "hidden": 32,
        "embedding_dim": 16,
        "neck": True,
    }
    network = SharpAttentionNetwork(SanSettings(**(values | settings)))  # type: ignore[arg-type]
    network.train()
    with torch.no_grad():
        for _ in range(30):
            network(normalise(images, torch.device("cpu")))
    return network.eval()


@pytest.fixture(scope="session")
def crops() -> CheckCrops:
    return sample_crops(SIZE_HW, 20)


@pytest.fixture(scope="session")
def make_network(crops: CheckCrops) -> Callable[..., SharpAttentionNetwork]:
    return lambda **settings: tiny_network(crops.images, **settings)


@pytest.fixture(scope="session")
def network(make_network: Callable[..., SharpAttentionNetwork]) -> SharpAttentionNetwork:
    return make_network()


@pytest.fixture(scope="session")
def bilinear(make_network: Callable[..., SharpAttentionNetwork]) -> SharpAttentionNetwork:
    return make_network(upsample="bilinear")


@pytest.fixture(scope="session")
def argmax_model(network: SharpAttentionNetwork) -> onnx.ModelProto:
    """Deconvolution, argmax, uint8."""
    return to_onnx(OnnxWrapper(network, mask="argmax"), SIZE_HW)


@pytest.fixture(scope="session")
def expected_model(bilinear: SharpAttentionNetwork) -> onnx.ModelProto:
    """Bilinear, expected mask, float."""
    return to_onnx(OnnxWrapper(bilinear, mask="expected", input_form="float"), SIZE_HW)


@pytest.fixture(scope="session")
def ramp_model(network: SharpAttentionNetwork) -> onnx.ModelProto:
    """Deconvolution, ramp, uint8, the newest opset."""
    return to_onnx(OnnxWrapper(network, mask="ramp:0.25"), SIZE_HW, opset=22)
