"""The masks that a checkpoint's network draws over crops, soft beside sharp where it has both (the SAN paper's fig. 6).

An exported file has its masks inside and gives embeddings alone.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from san_deploy.errors import SanError
from san_deploy.reports.pictures import BlockMasks

from .attention import SharpAttention, argmax_mask, attend_probability
from .checkpoint import load_checkpoint
from .data import normalise
from .models import Network, SoftMask, attention_blocks, std_of


def draw_masks(checkpoint: Path, crops: np.ndarray, *, mask: str = "argmax") -> list[list[BlockMasks]]:
    """The masks of each block over each crop, on the CPU.

    Args:
        checkpoint: of san train.
        crops: `(N, H, W, 3)` uint8 BGR, of the network's input size.
        mask: by which features go on to later blocks, as in `Artefact.mask`.

    Returns:
        One list for each crop, of its blocks in order; empty lists for a network without attention, and for
        one that has no `soft_masks` to show (`models.Network`).

    Raises:
        SanError: no checkpoint, or one of another size.
    """
    network, _ = load_checkpoint(checkpoint)
    if crops.shape[1:3] != tuple(network.settings.size_hw):
        raise SanError(f"{checkpoint} takes crops of {network.settings.size_hw}, not {crops.shape[1:3]}")
    if mask not in ("none", "soft"):
        network.mode.evaluate = mask
    x = normalise(crops, torch.device("cpu"), std_of(network))
    shown = getattr(network, "soft_masks", None)
    with torch.no_grad():
        blocks = _of_san(network, x) if network.mask_kind == "sharp" or not shown else _of_gates(shown(x))
    return [[block[n] for block in blocks] for n in range(len(crops))]


def _blocks(network: Network) -> list[tuple[int, SharpAttention]]:
    """A SAN's blocks and their stages; in other networks, their places in order."""
    return [
        (int(number[0]) if (number := re.findall(r"\d+$", name)) else place, block)
        for place, (name, block) in enumerate(attention_blocks(network), 1)
    ]


def _of_san(network: Network, x: torch.Tensor) -> list[list[BlockMasks]]:
    """For each block, its masks over each crop."""
    drawn: list[list[BlockMasks]] = []

    def watch(stage: int) -> Any:
        return lambda block, inputs: drawn.append(_of_block(block, inputs[0], stage))

    hooks = [block.register_forward_pre_hook(watch(stage)) for stage, block in _blocks(network)]
    try:
        network(x)
    finally:
        for hook in hooks:
            hook.remove()
    return drawn


def _of_gates(gates: list[SoftMask]) -> list[list[BlockMasks]]:
    """The same of a network that shows its gates."""
    return [
        _views(gate.stage, gate.mask.float().expand_as(gate.features), None, gate.features.float())
        for gate in gates
    ]


def _of_block(block: SharpAttention, trunk: torch.Tensor, stage: int) -> list[BlockMasks]:
    x = (trunk if block.context is None else block.context(trunk)).float()
    if block.gate == "soft":
        return _views(stage, torch.sigmoid(x), None, trunk.float())
    return _views(stage, attend_probability(x), argmax_mask(x), trunk.float())


def _views(
    stage: int, soft: torch.Tensor, sharp: torch.Tensor | None, features: torch.Tensor
) -> list[BlockMasks]:
    chosen = ((soft if sharp is None else sharp) * features).var(dim=(2, 3)).argmax(dim=1)  # (N,)
    return [
        BlockMasks(
            stage,
            features.shape[1],
            soft[n].mean(0).numpy(),
            None if sharp is None else sharp[n].mean(0).numpy(),
            channel,
            soft[n, channel].numpy(),
            None if sharp is None else sharp[n, channel].numpy(),
        )
        for n, channel in enumerate(chosen.tolist())
    ]
