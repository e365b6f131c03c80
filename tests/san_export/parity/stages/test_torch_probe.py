from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from san_export.parity.stages.probes import onnx_probe
from san_export.parity.stages.torch_probe import torch_probe
from san_export.verify import CheckCrops
from san_train.data import normalise
from san_train.models import SharpAttentionNetwork

from tests.tiny_models import tiny_artefact


def printable(network: SharpAttentionNetwork, images: np.ndarray) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """T and F of each block, which hooks see without a look at the mask."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    handles = [
        block.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output[0])))
        for block in network.attention.values()
    ]
    with torch.no_grad():
        network(normalise(images, torch.device("cpu")))
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("mask", ["argmax", "expected", "ramp:0.25"])
def test_the_mask_is_the_one_that_the_features_were_masked_with(
    network: SharpAttentionNetwork, crops: CheckCrops, mask: str
) -> None:
    probe = torch_probe(network, mask)
    assert probe.blocks == ("stage1", "stage2", "stage3", "stage4")
    found = probe(crops.images)
    network.mode.evaluate = mask
    try:
        truth = printable(network, crops.images)
    finally:
        network.mode.evaluate = "argmax"
    for values, (trunk, masked), block in zip(found, truth, network.attention.values(), strict=True):
        assert torch.equal(masked, trunk + torch.from_numpy(values.mask) * trunk)
        with torch.no_grad():
            x = trunk if block.context is None else block.context(trunk)
        assert np.array_equal(values.x, x.numpy())


def stop(module: torch.nn.Module, inputs: object) -> None:
    raise KeyboardInterrupt


def test_the_network_is_left_as_it_was(network: SharpAttentionNetwork, crops: CheckCrops) -> None:
    network.train()
    try:
        torch_probe(network, "expected")(crops.images[:2])
        assert network.training and network.mode.evaluate == "argmax"
        stopped = network.head.register_forward_pre_hook(stop)
        with pytest.raises(KeyboardInterrupt):
            torch_probe(network, "expected")(crops.images[:2])
        stopped.remove()
        assert network.training and network.mode.evaluate == "argmax"
    finally:
        network.eval()
    for module in network.modules():
        assert "mask" not in module.__dict__ and not module._forward_hooks


def test_redraw(network: SharpAttentionNetwork, crops: CheckCrops) -> None:
    probe = torch_probe(network, "argmax")
    for number, values in enumerate(probe(crops.images)):
        assert np.array_equal(probe.redraw(number, values.x), values.mask)
        # Constant channels have no mask either way.
        live = np.broadcast_to(np.ptp(values.x, (2, 3), keepdims=True) > 0, values.x.shape)
        assert np.mean(probe.redraw(number, -values.x)[live] != values.mask[live]) > 0.9
    assert network.attention["stage1"].context is not None


def test_agrees_with_the_graph(
    network: SharpAttentionNetwork, argmax_model: onnx.ModelProto, crops: CheckCrops
) -> None:
    told = tiny_artefact(size_hw=(64, 32), embedding_dim=16, settings={"attention": [1, 2, 3, 4]})
    graph = onnx_probe(argmax_model, told, threads=1)(crops.images)
    for values, other in zip(torch_probe(network, "argmax")(crops.images), graph, strict=True):
        # A flipped bit in a late block of an untrained network moves X there; the most of it agrees.
        assert np.mean(np.abs(values.x - other.x) < 1e-4) > 0.99
        assert np.mean(values.mask != other.mask) < 0.01


def test_no_sharp_blocks(make_network: Callable[..., SharpAttentionNetwork], crops: CheckCrops) -> None:
    probe = torch_probe(make_network(context=(), gate="soft", attention=(2,)), "argmax")
    assert probe.blocks == () and probe(crops.images) == []
