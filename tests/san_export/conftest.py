"""Tiny networks whose masks do not hang on rounding, and one export of each form, shared by all tests here."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx
import pytest
import torch
from san_export.onnx_writer import to_onnx
from san_export.verify import CheckCrops, sample_crops
from san_export.wrapper import OnnxWrapper
from san_train.models import SharpAttentionNetwork

from tests.settled import SIZE_HW, calibrated, settle


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small lose time to a second thread, and all of it on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def crops() -> CheckCrops:
    return sample_crops(SIZE_HW, 20)


@pytest.fixture(scope="session")
def make_network(crops: CheckCrops) -> Callable[..., SharpAttentionNetwork]:
    """Random networks: their masks may flip in rounding, so that figures of theirs prove nothing."""
    return lambda **settings: calibrated(crops.images, **settings)


@pytest.fixture(scope="session")
def network(crops: CheckCrops, make_network: Callable[..., SharpAttentionNetwork]) -> SharpAttentionNetwork:
    return settle(make_network(), crops.images)


@pytest.fixture(scope="session")
def bilinear(crops: CheckCrops, make_network: Callable[..., SharpAttentionNetwork]) -> SharpAttentionNetwork:
    return settle(make_network(upsample="bilinear"), crops.images)


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
