"""The Sharp Attention Network (arXiv 1805.02336, section IV.B): ResNet, sharp blocks, a 128-d head."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from san_deploy.preprocess import STD_RGB

from ..attention import ContextUnit, MaskMode, SharpAttention
from .outputs import Head, Outputs
from .residual_attention import unit_behind
from .resnet import DEPTHS, INSTANCE, ResNet

#: What each recipe changes for this architecture, see `recipe.RECIPES`.
RECIPES: dict[str, dict[str, Any]] = {
    # arXiv 1805.02336, section IV.B.
    "paper": {"tv_weight": 0.1},
    "scratch": {
        "settings.depth": 18,
        "settings.width": 0.5,
        "settings.size_hw": [128, 64],
        "settings.neck": True,
        # The published head, a hidden layer of 1024, costs a network on few people twenty points: docs/training.md.
        "settings.hidden": 0,
        "settings.upsample": "bilinear",
        # The paper's 0.1, even as a mean, holds a small network without ImageNet weights at chance.
        "tv_weight": 0.003,
        # docs/research/sharpening.md: what makes the mask that is deployed as good as the samples' mean, and keeps
        # pi away from the threshold, where rounding flips bits.
        "hard_mask_epochs": 24,
        "mask_margin_weight": 100.0,
        "deploy_mask": "ramp:0.0625",
    },
    # docs/training.md, "From a teacher": argmax masks from the first step on, so that hard masks cost nothing.
    "distill": {
        "settings.depth": 18,
        "settings.width": 0.5,
        "settings.size_hw": [128, 64],
        "settings.context": [1, 2],
        "settings.neck": True,
        "settings.hidden": 0,
        "settings.upsample": "bilinear",
        "settings.instance": ["picture", "stem"],
        "mask": "straight-through",
        "hard_mask_epochs": 20,
        "mask_margin_weight": 30.0,
        "deploy_mask": "argmax",
    },
}


@dataclass(frozen=True)
class SanSettings:
    """Everything that fixes the network's weights and graph; saved in each checkpoint.

    Attributes:
        depth: of the ResNet: 18, 34 or 50.
        width: multiplies its channels.
        size_hw: input height and width, pixels.
        attention: stages (of 1-4) that carry a sharp block; all four is the paper's best, none its baseline.
        context: stages (of 1-3) whose block draws its mask from a unit, not from the features themselves.
        unit: those units: `context`, the paper's context-aware one, or its rival of table IV,
            `residual-attention` (models.residual_attention).
        upsample: of the context-aware unit, `deconv` (the paper's) or `bilinear`.
        gate: `sharp`, or `soft` for a sigmoid.
        last_stride: stride of stage 4: 2 (the paper's), or 1.
        hidden: width of the head's hidden layer; 0 leaves it out.
        embedding_dim: length of the embedding.
        neck: a batch norm after the embedding, for the identity loss (Luo et al., arXiv 1903.07071). The
            deployed embedding is taken behind it.
        instance: where the camera's colours are taken out of each sample by itself (`resnet.INSTANCE`): `picture`,
            `stem`. Not in the paper.
        std_rgb: what pixels less their mean are divided by, units of 0..1. torchvision's weights expect ImageNet's;
            the paper subtracts the mean alone: [1, 1, 1].
    """

    depth: int = 50
    width: float = 1.0
    size_hw: tuple[int, int] = (256, 128)
    attention: tuple[int, ...] = (1, 2, 3, 4)
    context: tuple[int, ...] = (1, 2, 3)
    unit: str = "context"
    upsample: str = "deconv"
    gate: str = "sharp"
    last_stride: int = 2
    hidden: int = 1024
    embedding_dim: int = 128
    neck: bool = False
    instance: tuple[str, ...] = ()
    std_rgb: tuple[float, float, float] = STD_RGB

    def __post_init__(self) -> None:
        # JSON gives lists.
        for name in ("size_hw", "attention", "context", "instance", "std_rgb"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not set(self.attention) <= {1, 2, 3, 4} or not set(self.context) <= {1, 2, 3}:
            raise ValueError("attention takes stages 1-4, context stages 1-3")
        if not set(self.context) <= set(self.attention):
            raise ValueError(
                f"context {self.context} needs attention on the same stages; attention is {self.attention}"
            )
        if not set(self.instance) <= set(INSTANCE):
            raise ValueError(f"instance takes {' and '.join(INSTANCE)}; received {list(self.instance)}")
        if len(self.std_rgb) != 3 or not all(0 < part < math.inf for part in self.std_rgb):
            raise ValueError(f"std_rgb is three numbers above 0; received {list(self.std_rgb)}")
        if self.unit not in ("context", "residual-attention"):
            raise ValueError(f"unit is context or residual-attention; received {self.unit}")
        if self.upsample not in ("deconv", "bilinear") or self.gate not in ("sharp", "soft"):
            raise ValueError(
                f"upsample is deconv or bilinear, gate is sharp or soft; received {self.upsample}, {self.gate}"
            )
        if any(not isinstance(value, int) for value in (*self.size_hw, self.hidden, self.embedding_dim)):
            raise ValueError("size_hw, hidden and embedding_dim are whole numbers")
        if (
            len(self.size_hw) != 2
            or min(self.size_hw) < 32
            or max(self.size_hw) > 4096
            or self.last_stride not in (1, 2)
        ):
            raise ValueError(
                f"size_hw is two of 32 to 4096, last_stride 1 or 2; received {self.size_hw}, {self.last_stride}"
            )
        if self.depth not in DEPTHS:
            raise ValueError(f"depth {self.depth} is none of {sorted(DEPTHS)}")
        if not 0 < self.width <= 4 or not 2 <= self.embedding_dim <= 65536 or not 0 <= self.hidden <= 65536:
            raise ValueError("width is in (0, 4], embedding_dim in 2..65536, hidden in 0..65536")

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON; without `std_rgb` where it is ImageNet's, as files from before it have none."""
        values = asdict(self)
        if self.std_rgb == STD_RGB:
            del values["std_rgb"]
        return values


class SharpAttentionNetwork(nn.Module):
    """Normalised RGB crops to embeddings.

    `model(x)` gives the deployed embedding, not of unit length; `model.train_outputs(x)` gives what the
    losses need. `model.mode` says how masks are drawn. See `protocol.Network`.
    """

    def __init__(self, settings: SanSettings) -> None:
        super().__init__()
        self.settings = settings
        self.mode = MaskMode()
        self.backbone = ResNet(
            settings.depth,
            width=settings.width,
            last_stride=settings.last_stride,
            instance=settings.instance,
        )
        channels = self.backbone.channels
        self.attention = nn.ModuleDict()
        for stage in settings.attention:
            context: nn.Module | None = None
            if stage in settings.context and settings.unit == "residual-attention":
                context = unit_behind(self.backbone, stage)
            elif stage in settings.context:
                context = ContextUnit(
                    self.backbone.first_unit(stage + 1),
                    inner=channels[stage],
                    channels=channels[stage - 1],
                    upsample=settings.upsample,
                )
            self.attention[f"stage{stage}"] = SharpAttention(self.mode, gate=settings.gate, context=context)
        features = channels[3]
        layers: list[nn.Module] = []
        if settings.hidden:
            layers = [
                nn.Linear(features, settings.hidden),
                nn.BatchNorm1d(settings.hidden),
                nn.ReLU(inplace=True),
            ]
            features = settings.hidden
        self.head = nn.Sequential(*layers, nn.Linear(features, settings.embedding_dim))
        self.neck: nn.Module = nn.Identity()
        if settings.neck:
            self.neck = nn.BatchNorm1d(settings.embedding_dim)
            # A neck with a bias would move the origin that cosine similarity is measured from.
            self.neck.bias.requires_grad_(False)

    @property
    def head_dims(self) -> tuple[int, ...]:
        """One head."""
        return (self.settings.embedding_dim,)

    @property
    def map_channels(self) -> tuple[int, ...]:
        """Channels of `Outputs.maps`."""
        return self.backbone.channels

    @property
    def mask_kind(self) -> str:
        """`sharp`; `soft` for a sigmoid gate; `none` without attention."""
        if not self.settings.attention:
            return "none"
        return "soft" if self.settings.gate == "soft" else "sharp"

    @property
    def variant(self) -> str:
        """`resnet50`."""
        return f"resnet{self.settings.depth}"

    def train_outputs(self, x: Tensor) -> Outputs:
        """`(N, 3, H, W)` float, ImageNet-normalised RGB, to all that the losses need."""
        x = self.backbone.stem(x)
        attended: list[Tensor] = []
        pis: list[Tensor] = []
        maps: list[Tensor] = []
        for stage in (1, 2, 3, 4):
            x = self.backbone.stage(stage)(x)
            if stage in self.settings.attention:
                x, a, pi = self.attention[f"stage{stage}"](x)
                attended.append(a)
                if pi is not None:
                    pis.append(pi)
            maps.append(x)
        embedding = self.head(torch.mean(x, (2, 3)))
        return Outputs((Head(embedding, self.neck(embedding)),), attended, pis, maps)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, H, W)` float, ImageNet-normalised RGB, to the deployed embedding, `(N, D)`."""
        return self.train_outputs(x).heads[0].identity
