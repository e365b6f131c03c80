"""Tiny networks whose masks do not hang on rounding, and one export of each form, shared by all tests.

PyTorch and the packages behind it are imported by the fixtures, so that tests of the edge run without them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import onnx
    from san_export.verify import CheckCrops
    from san_train.models import SharpAttentionNetwork

    from tests.san_export.parity.conftest import Files


@pytest.fixture(scope="session")
def check_crops() -> CheckCrops:
    """20 of the sample crops, 64 x 32."""
    from san_export.verify import sample_crops

    from tests.settled import SIZE_HW

    return sample_crops(SIZE_HW, 20)


@pytest.fixture(scope="session")
def make_network(check_crops: CheckCrops) -> Callable[..., SharpAttentionNetwork]:
    """Random networks: their masks may flip in rounding, so that figures of theirs prove nothing."""
    from tests.settled import calibrated

    return lambda **settings: calibrated(check_crops.images, **settings)


@pytest.fixture(scope="session")
def network(
    check_crops: CheckCrops, make_network: Callable[..., SharpAttentionNetwork]
) -> SharpAttentionNetwork:
    from tests.settled import settle

    return settle(make_network(), check_crops.images)


@pytest.fixture(scope="session")
def bilinear(
    check_crops: CheckCrops, make_network: Callable[..., SharpAttentionNetwork]
) -> SharpAttentionNetwork:
    from tests.settled import settle

    return settle(make_network(upsample="bilinear"), check_crops.images)


@pytest.fixture(scope="session")
def argmax_model(network: SharpAttentionNetwork) -> onnx.ModelProto:
    """Deconvolution, argmax, uint8."""
    from san_export.onnx_writer import to_onnx
    from san_export.wrapper import OnnxWrapper

    from tests.settled import SIZE_HW

    return to_onnx(OnnxWrapper(network, mask="argmax"), SIZE_HW)


@pytest.fixture(scope="session")
def expected_model(bilinear: SharpAttentionNetwork) -> onnx.ModelProto:
    """Bilinear, expected mask, float."""
    from san_export.onnx_writer import to_onnx
    from san_export.wrapper import OnnxWrapper

    from tests.settled import SIZE_HW

    return to_onnx(OnnxWrapper(bilinear, mask="expected", input_form="float"), SIZE_HW)


@pytest.fixture(scope="session")
def ramp_model(network: SharpAttentionNetwork) -> onnx.ModelProto:
    """Deconvolution, ramp, uint8, the newest opset."""
    from san_export.onnx_writer import to_onnx
    from san_export.wrapper import OnnxWrapper

    from tests.settled import SIZE_HW

    return to_onnx(OnnxWrapper(network, mask="ramp:0.25"), SIZE_HW, opset=22)


@pytest.fixture(scope="session")
def files(
    tmp_path_factory: pytest.TempPathFactory,
    network: SharpAttentionNetwork,
    ramp_model: onnx.ModelProto,
    check_crops: CheckCrops,
) -> Files:
    """What `san parity` takes, with mask ramp:0.25."""
    from tests.san_export.parity.conftest import make_files

    return make_files(tmp_path_factory.mktemp("parity"), network, ramp_model, "ramp:0.25", check_crops)
