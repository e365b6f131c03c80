"""HA-CNN, the Harmonious Attention CNN (Li et al., CVPR 2018, arXiv 1802.08122), in torchreid's published form."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..attention import MaskMode
from .ha_cnn_crop import RegionCrop
from .ha_cnn_units import REGIONS, ConvUnit, HarmoniousAttention, InceptionA, InceptionB
from .outputs import Head, Outputs, SoftMask

#: Channels of the stem, and of the three stages.
_STEM, _STAGES = 32, (128, 256, 384)
#: Height and width of a region's features where they enter each level of the local branch.
STREAM_HW = ((24, 28), (12, 14), (6, 7))
#: Least squared norm of a part of the embedding. It is what a ReLU left, and may be all zeros.
_LEAST_SQUARE = 1e-24

#: What each recipe changes for this architecture, see `recipe.RECIPES`.
RECIPES: dict[str, dict[str, Any]] = {
    # Section 4: identity losses on both heads, Adam at 5e-4, batches of 32, 150 epochs, neither augmentation nor
    # other data. A decay of the rate is not stated.
    "paper": {
        "num_ids": 8,
        "num_instances": 4,
        "epochs": 150,
        "optimizer": "adam",
        "lr": 5e-4,
        "decay_from": 1.0,
        "triplet_weight": 0.0,
        "identity_weight": 1.0,
        "smoothing": 0.0,
        "augmentation.area": [1.0, 1.0],
        "augmentation.flip": 0.0,
    },
    # What is deployed are unit rows of each head.
    "scratch": {"triplet_unit": True},
}


@dataclass(frozen=True)
class HaCnnSettings:
    """Everything that fixes the network's weights and graph; saved in each checkpoint.

    Attributes:
        size_hw: input height and width, pixels. The streams have the same sizes for any.
        width: multiplies the channels, which go in steps of 16; 1 is the published network.
        head_dim: D of each head, of which the global branch has one and the local branch one.
        local: the local branch; without it the network is the global branch alone.
        regions: where the regions are at first: `literature`, as torchreid has them, or `tiling` the image.
        align_corners: of the sampling of regions: false is today's torchreid, true suits the weights of 2018.
    """

    size_hw: tuple[int, int] = (160, 64)
    width: float = 1.0
    head_dim: int = 512
    local: bool = True
    regions: str = "literature"
    align_corners: bool = False

    def __post_init__(self) -> None:
        # JSON gives lists.
        object.__setattr__(self, "size_hw", tuple(self.size_hw))
        if any(not isinstance(value, int) for value in (*self.size_hw, self.head_dim)):
            raise ValueError("size_hw and head_dim are whole numbers")
        if len(self.size_hw) != 2 or min(self.size_hw) < 32 or max(self.size_hw) > 4096:
            raise ValueError(f"size_hw is two of 32 to 4096; received {self.size_hw}")
        if not 0 < self.width <= 4 or not 2 <= self.head_dim <= 32768:
            raise ValueError("width is in (0, 4], head_dim in 2..32768")
        if self.regions not in ("literature", "tiling"):
            raise ValueError(f"regions is literature or tiling; received {self.regions}")
        if not isinstance(self.local, bool) or not isinstance(self.align_corners, bool):
            raise ValueError("local and align_corners are true or false")

    @property
    def channels(self) -> tuple[int, ...]:
        """Of the stem and of the three stages."""
        return tuple(max(16, round(base * self.width / 16) * 16) for base in (_STEM, *_STAGES))

    @property
    def embedding_dim(self) -> int:
        """Of both heads together."""
        return self.head_dim * (2 if self.local else 1)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def _head(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU())


class HarmoniousAttentionNetwork(nn.Module):
    """Normalised RGB crops to embeddings; see `protocol.Network`.

    The global branch is three stages, each followed by a soft mask. Its attention also says where four regions
    are, which the local branch cuts out of what the stage was given and carries on in four streams of shared
    weights. In training each goes through batch norm by itself, one after another, as the authors' code has it; in
    evaluation, where that makes no difference, they are one batch.
    """

    mask_kind = "soft"

    def __init__(self, settings: HaCnnSettings) -> None:
        super().__init__()
        self.settings = settings
        self.mode = MaskMode()
        channels = settings.channels
        steps = list(pairwise(channels))
        self.stem = ConvUnit(3, channels[0], 3, 2)
        self.stages = nn.ModuleList(
            nn.Sequential(InceptionA(inputs, outputs), InceptionB(outputs, outputs))
            for inputs, outputs in steps
        )
        self.attention = nn.ModuleList(
            HarmoniousAttention(outputs, regions=settings.regions) for _, outputs in steps
        )
        self.head_global = _head(channels[-1], settings.head_dim)
        if settings.local:
            height, width = (-(-size // 2) for size in settings.size_hw)
            crops = []
            for target in STREAM_HW:
                crops.append(RegionCrop((height, width), target, align_corners=settings.align_corners))
                height, width = -(-height // 2), -(-width // 2)
            self.crops = nn.ModuleList(crops)
            self.streams = nn.ModuleList(InceptionB(inputs, outputs) for inputs, outputs in steps)
            self.head_local = _head(REGIONS * channels[-1], settings.head_dim)

    @property
    def head_dims(self) -> tuple[int, ...]:
        """The global head, and the local one where there is one."""
        return (self.settings.head_dim,) * (2 if self.settings.local else 1)

    def _levels(self, x: Tensor) -> tuple[list[Tensor], list[SoftMask]]:
        """The rows of each head, and the masks with what they multiply."""
        size_hw = tuple(x.shape[2:])
        if size_hw != self.settings.size_hw:
            raise ValueError(f"crops are {size_hw}, the network was built for {self.settings.size_hw}")
        x = self.stem(x)
        masks: list[SoftMask] = []
        stream: Tensor | None = None
        for level in range(len(_STAGES)):
            features = self.stages[level](x)
            mask, places = self.attention[level](features)
            masks.append(SoftMask(level + 1, mask, features))
            if self.settings.local:
                # Places out of this level's attention, features out of the level before.
                regions = self.crops[level](x, places)
                stream = self._carry(level, regions if stream is None else regions + stream)
            x = features * mask
        heads = [self.head_global(torch.mean(x, (2, 3)))]
        if stream is not None:
            pooled = torch.mean(stream, (2, 3))
            heads.append(self.head_local(pooled.reshape(-1, REGIONS * pooled.shape[1])))
        return heads, masks

    def _carry(self, level: int, regions: Tensor) -> Tensor:
        """Streams through a level, `(N x REGIONS, C, h, w)`, the regions of a crop one after another."""
        unit = self.streams[level]
        if not self.training:
            carried: Tensor = unit(regions)
            return carried
        apart = [unit(region) for region in regions.unflatten(0, (-1, REGIONS)).unbind(1)]
        return torch.stack(apart, 1).flatten(0, 1)

    def train_outputs(self, x: Tensor) -> Outputs:
        """`(N, 3, H, W)` float, ImageNet-normalised RGB, to a head of the global branch and one of the local."""
        heads, _ = self._levels(x)
        return Outputs(tuple(Head(rows, rows) for rows in heads), [], [])

    def soft_masks(self, x: Tensor) -> list[SoftMask]:
        """The same crops to the masks of the three levels."""
        return self._levels(x)[1]

    def forward(self, x: Tensor) -> Tensor:
        """The same crops to the deployed embedding: the heads' unit rows side by side, `(N, embedding_dim)`."""
        heads, _ = self._levels(x)
        return torch.cat([_unit(rows) for rows in heads], 1)


def _unit(x: Tensor) -> Tensor:
    """Rows of L2 norm 1, `(N, D)`; a row of zeros stays one."""
    return x * torch.rsqrt((x * x).sum(1, keepdim=True).clamp_min(_LEAST_SQUARE))
