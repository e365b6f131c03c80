"""Sharp networks whose masks do not hang on rounding.

A mask is a step function: where pi_1 (eq. 3) is near 1/2, another processor's order of sums flips a bit, and an
untrained network multiplies the flip. `settle` moves a tiny network's weights until every pi_1 of the crops at
hand keeps a margin from 1/2 that is thousands of FP32 roundings wide (for the paper's deconvolution also tens of
FP16 ones), and until no channel is a small difference of large values. What remains is a smooth function of the
crops, whose rows differ between processors, runtimes and precisions by rounding alone.
"""

from __future__ import annotations

import numpy as np
import torch
from san_train.attention import attend_probability
from san_train.data import normalise
from san_train.models import SanSettings, SharpAttentionNetwork
from torch import Tensor, nn

SIZE_HW = (64, 32)
#: A bilinear map passes through the middle between its places, so that less is to be had there.
MARGIN = {"deconv": 0.03, "bilinear": 0.002}
#: |x| over max - min, the factor between a value's rounding and its pi_1's.
_CONDITION = 4.0


def calibrated(images: np.ndarray, **settings: object) -> SharpAttentionNetwork:
    """A random network with the batch norm statistics of `images`, `(N, H, W, 3)` uint8 BGR."""
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


def settle(network: SharpAttentionNetwork, images: np.ndarray) -> SharpAttentionNetwork:
    """Move weights, in place, until each sharp block's pi_1 keeps `MARGIN` from 1/2 on these crops.

    Blocks are taken in order, each with what the argmax masks before it let through: the weights of its
    context-aware unit move, or those of its stage where it has none.

    Args:
        network: calibrated, in evaluation mode, with mask argmax.
        images: `(N, H, W, 3)` uint8 BGR of the network's size.

    Returns:
        The same network.
    """
    for stage in network.settings.attention:
        block = network.attention[f"stage{stage}"]
        drawn = network.backbone.stage(stage) if block.context is None else block.context  # type: ignore[union-attr]
        _settle_block(drawn, _input_of(drawn, network, images), MARGIN[network.settings.upsample])  # type: ignore[arg-type]
    return network


def least_margin(network: SharpAttentionNetwork, images: np.ndarray) -> float:
    """Least |pi_1 - 1/2| over blocks, crops, channels and positions; constant channels have no threshold."""
    least = 1.0
    for block in network.attention.values():
        trunk = _input_of(block, network, images)
        with torch.no_grad():
            x = trunk if block.context is None else block.context(trunk)  # type: ignore[operator]
            margin, _ = _margin(x)
        least = min(least, margin)
    return least


def _input_of(module: nn.Module, network: SharpAttentionNetwork, images: np.ndarray) -> Tensor:
    """What `module` is given when the network embeds the crops."""
    seen: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    try:
        with torch.no_grad():
            network(normalise(images, torch.device("cpu")))
    finally:
        hook.remove()
    return seen[0]


def _margin(x: Tensor) -> tuple[float, float]:
    """Least |pi_1 - 1/2|, and the worst channel's |x| over its span; both of channels that are not constant."""
    span = x.amax((2, 3)) - x.amin((2, 3))
    live = span > 0
    far = (attend_probability(x) - 0.5).abs().amin((2, 3))
    return float(far[live].min()), float((x.abs().amax((2, 3))[live] / span[live]).max())


def _settle_block(module: nn.Module, given: Tensor, margin: float, *, most: int = 600) -> None:
    """Gradient steps on hinges of the margin and of the condition, until both hold or `most` are done."""
    rate = 1e-2
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=rate)
    for step in range(most):
        x = module(given)
        least, worst = _margin(x.detach())
        if least > margin and worst < _CONDITION:
            break
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, 2.0 * (most - step) / most)
        pi = attend_probability(x)
        span = (x.amax((2, 3)) - x.amin((2, 3))).clamp_min(1e-6)
        near = torch.relu(1.0 - (2.0 * pi - 1.0).abs() / (5.0 * margin)).sum()
        flat = torch.relu(x.abs().amax((2, 3)) / span - 0.75 * _CONDITION).sum()
        optimizer.zero_grad()
        (near + flat).backward()
        optimizer.step()
    optimizer.zero_grad()
    # Tests rest on this; weights that did not get there would be luck again.
    assert least > margin, f"pi_1 comes within {least:.1g} of 1/2, {margin} was wanted"
