from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from san_export.verify import CheckCrops, row_cosine
from san_export.wrapper import OnnxWrapper, reverse_input_channels, unit_rows
from san_train.checkpoint import CheckpointInfo
from san_train.describe import describe
from san_train.evaluate import embed
from san_train.models import SharpAttentionNetwork, build_model

from san_deploy.errors import SanError
from san_deploy.preprocess import RESIZE


def as_float(images: np.ndarray) -> torch.Tensor:
    """`(N, H, W, 3)` uint8 BGR to `(N, 3, H, W)` float32 RGB 0..255."""
    return torch.from_numpy(np.ascontiguousarray(images[..., ::-1].transpose(0, 3, 1, 2)).astype(np.float32))


@pytest.mark.numeric
@pytest.mark.parametrize("mask", ["argmax", "expected", "ramp:0.25"])
@pytest.mark.parametrize("upsample", ["deconv", "bilinear"])
def test_wrapper_equals_the_trained_network(
    network: SharpAttentionNetwork,
    bilinear: SharpAttentionNetwork,
    crops: CheckCrops,
    mask: str,
    upsample: str,
) -> None:
    trained = network if upsample == "deconv" else bilinear
    reference = embed(trained, crops.images, mask=mask)
    with torch.no_grad():
        from_uint8 = OnnxWrapper(trained, mask=mask)(torch.from_numpy(crops.images)).numpy()
        from_float = OnnxWrapper(trained, mask=mask, input_form="float")(as_float(crops.images)).numpy()
    # No mask hangs on rounding (tests.settled), in which alone the two wrappers differ from the reference.
    for rows in (from_uint8, from_float):
        cosine = row_cosine(rows, reference)
        assert cosine.min() > 0.999999
        assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() < 1e-6


def test_wrapper_leaves_the_trained_network_alone(network: SharpAttentionNetwork) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.mode.evaluate = "argmax"
    deployed = OnnxWrapper(network, mask="expected")
    assert network.mode.evaluate == "argmax"
    # All blocks of the copy share one switch, as those of the original do.
    assert {block.mode.evaluate for block in deployed.network.attention.values()} == {"expected"}  # type: ignore[operator, union-attr]
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert not torch.equal(deployed.network.backbone.conv1.weight, network.backbone.conv1.weight)  # type: ignore[union-attr, arg-type]


@pytest.mark.numeric
def test_mean_subtraction_alone_goes_the_whole_way(network: SharpAttentionNetwork, crops: CheckCrops) -> None:
    """The paper's preprocessing: what trains, validates, exports and describes is given the same pixels."""
    settings = dataclasses.replace(network.settings, std_rgb=(1.0, 1.0, 1.0))
    assert "std_rgb" not in network.settings.as_dict()
    plain = build_model("san", settings.as_dict()).eval()
    plain.load_state_dict(network.state_dict())
    rgb = as_float(crops.images) / 255
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    plain.mode.evaluate = "expected"
    with torch.no_grad():
        expected = unit_rows(plain(rgb - mean)).numpy()
        deployed = OnnxWrapper(plain, mask="expected")(torch.from_numpy(crops.images)).numpy()
    np.testing.assert_allclose(embed(plain, crops.images, mask="expected"), expected, atol=1e-5)
    np.testing.assert_allclose(deployed, expected, atol=1e-5)
    info = CheckpointInfo("san", settings.as_dict(), RESIZE, 1)
    told = describe(
        plain, info, mask="argmax", input_form="uint8", checkpoint_sha256="a" * 64, weights_sha256="b" * 64
    )
    assert told.std_rgb == (1.0, 1.0, 1.0)


def test_released_weights_leave_the_network_alone(network: SharpAttentionNetwork) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    deployed = OnnxWrapper(network)
    deployed.release()
    assert sum(tensor.numel() for tensor in deployed.state_dict().values()) == 0
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_input_is_not_changed_in_place(network: SharpAttentionNetwork, crops: CheckCrops) -> None:
    images = as_float(crops.images[:2])
    before = images.clone()
    with torch.no_grad():
        OnnxWrapper(network, input_form="float")(images)
    assert torch.equal(images, before)


def test_border_is_padded_with_the_mean_colour(network: SharpAttentionNetwork) -> None:
    # Zero padding means the mean colour: a crop of that colour has a first map that is constant to the edge.
    deployed = OnnxWrapper(network, input_form="float")
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None] * 255
    seen = []
    deployed.network.backbone.conv1.register_forward_hook(lambda module, inputs, output: seen.append(output))  # type: ignore[union-attr]
    with torch.no_grad():
        deployed(mean.expand(1, 3, 64, 32))
    assert seen[0].abs().max() < 1e-4


def test_unit_rows() -> None:
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0], [3e18, 4e18], [3e-9, 4e-9]])
    expected = torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.6, 0.8], [0.6, 0.8]])
    assert torch.allclose(unit_rows(rows), expected, atol=1e-6)
    assert unit_rows(rows.half()[:1]).dtype == torch.float32


def test_unit_rows_keep_nan() -> None:
    # The runtime refuses the row; it must not come out as a plausible one.
    assert not torch.isfinite(unit_rows(torch.tensor([[float("nan"), 1.0]]))).any()


def test_reverse_needs_one_first_convolution() -> None:
    with pytest.raises(SanError, match="--input float"):
        reverse_input_channels(torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), torch.nn.Conv2d(3, 3, 1)))


def test_unknown_input_form(network: SharpAttentionNetwork) -> None:
    with pytest.raises(ValueError, match="uint16"):
        OnnxWrapper(network, input_form="uint16")
