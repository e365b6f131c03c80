"""The masks that a checkpoint's network draws over crops, soft beside sharp (the SAN paper's fig. 6).

An exported file has its masks inside and gives embeddings alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from san_deploy.errors import SanError

from .attention import argmax_mask, attend_probability
from .checkpoint import load_checkpoint
from .data import normalise


@dataclass(frozen=True, eq=False)
class BlockMasks:
    """What one attention block drew over one crop.

    Attributes:
        stage: of the block, 1 to 4.
        channels: of it.
        soft_mean: `(h, w)` float32 in 0..1, mean over the channels of pi_1 (eq. 3), or of a soft gate.
        sharp_mean: the same of the sharp mask, 0 or 1 in each channel; None for a soft gate.
        channel: the one whose attended features vary most over the crop, from 0.
        soft: `(h, w)` float32, that channel's pi_1, or soft gate.
        sharp: `(h, w)` float32, that channel's sharp mask, 0 or 1; None for a soft gate.
    """

    stage: int
    channels: int
    soft_mean: np.ndarray
    sharp_mean: np.ndarray | None
    channel: int
    soft: np.ndarray
    sharp: np.ndarray | None


def draw_masks(checkpoint: Path, crops: np.ndarray, *, mask: str = "argmax") -> list[list[BlockMasks]]:
    """The masks of each block over each crop, on the CPU.

    Args:
        checkpoint: of san train.
        crops: `(N, H, W, 3)` uint8 BGR, of the network's input size.
        mask: by which features go on to later blocks, as in `Artefact.mask`.

    Returns:
        One list for each crop, of its blocks in order; empty lists for a network without attention.

    Raises:
        SanError: no checkpoint, or one of another size.
    """
    network, _ = load_checkpoint(checkpoint)
    if crops.shape[1:3] != tuple(network.settings.size_hw):
        raise SanError(f"{checkpoint} takes crops of {network.settings.size_hw}, not {crops.shape[1:3]}")
    if mask not in ("none", "soft"):
        network.mode.evaluate = mask
    drawn: list[list[BlockMasks]] = [[] for _ in crops]

    def watch(name: str) -> Any:
        def hook(block: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            for found, masks in zip(drawn, _of_block(block, inputs[0], int(name[-1])), strict=True):
                found.append(masks)

        return hook

    for name, block in network.attention.items():
        block.register_forward_pre_hook(watch(name))
    with torch.no_grad():
        network(normalise(crops, torch.device("cpu")))
    return drawn


def _of_block(block: Any, trunk: torch.Tensor, stage: int) -> list[BlockMasks]:
    x = (trunk if block.context is None else block.context(trunk)).float()
    gate_is_soft = block.gate == "soft"
    soft = torch.sigmoid(x) if gate_is_soft else attend_probability(x)  # (N, C, h, w)
    sharp = None if gate_is_soft else argmax_mask(x)
    chosen = ((soft if sharp is None else sharp) * trunk.float()).var(dim=(2, 3)).argmax(dim=1)  # (N,)
    return [
        BlockMasks(
            stage,
            x.shape[1],
            soft[n].mean(0).numpy(),
            None if sharp is None else sharp[n].mean(0).numpy(),
            channel,
            soft[n, channel].numpy(),
            None if sharp is None else sharp[n, channel].numpy(),
        )
        for n, channel in enumerate(chosen.tolist())
    ]
