"""The Sharp Attention Network (arXiv 1805.02336, section IV.B): ResNet, sharp blocks, a 128-d head."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..attention import ContextUnit, MaskMode, SharpAttention
from .resnet import DEPTHS, ResNet


@dataclass(frozen=True)
class SanSettings:
    """Everything that fixes the network's weights and graph; saved in each checkpoint.

    Attributes:
        depth: of the ResNet: 18, 34 or 50.
        width: multiplies its channels.
        size_hw: input height and width, pixels.
        attention: stages (of 1-4) that carry a sharp block; all four is the paper's best, none its baseline.
        context: stages (of 1-3) whose block has a context-aware unit.
        upsample: of the context-aware unit, `deconv` (the paper's) or `bilinear`.
        gate: `sharp`, or `soft` for a sigmoid.
        last_stride: stride of stage 4: 2 (the paper's), or 1.
        hidden: width of the head's hidden layer; 0 leaves it out.
        embedding_dim: length of the embedding.
        neck: a batch norm after the embedding, for the identity loss (Luo et al., arXiv 1903.07071). The
            deployed embedding is taken behind it.
    """

    depth: int = 50
    width: float = 1.0
    size_hw: tuple[int, int] = (256, 128)
    attention: tuple[int, ...] = (1, 2, 3, 4)
    context: tuple[int, ...] = (1, 2, 3)
    upsample: str = "deconv"
    gate: str = "sharp"
    last_stride: int = 2
    hidden: int = 1024
    embedding_dim: int = 128
    neck: bool = False

    def __post_init__(self) -> None:
        # JSON gives lists.
        for name in ("size_hw", "attention", "context"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not set(self.attention) <= {1, 2, 3, 4} or not set(self.context) <= {1, 2, 3}:
            raise ValueError("attention takes stages 1-4, context stages 1-3")
        if not set(self.context) <= set(self.attention):
            raise ValueError(
                f"context {self.context} needs attention on the same stages; attention is {self.attention}"
            )
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
        """Plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class SanOutput:
    """What training needs of one pass.

    Attributes:
        embedding: before the neck, `(N, D)`: for the triplet loss.
        neck: behind the neck, `(N, D)`; the embedding itself without one.
        attended: A of each sharp block, for the TV penalty.
        pi: pi_1 of each sharp block; empty in evaluation.
    """

    embedding: Tensor
    neck: Tensor
    attended: list[Tensor]
    pi: list[Tensor]


class SharpAttentionNetwork(nn.Module):
    """Normalised RGB crops to embeddings.

    `model(x)` gives the deployed embedding, not of unit length; `model.train_outputs(x)` gives what the
    losses need. `model.mode` says how masks are drawn.
    """

    def __init__(self, settings: SanSettings) -> None:
        super().__init__()
        self.settings = settings
        self.mode = MaskMode()
        self.backbone = ResNet(settings.depth, width=settings.width, last_stride=settings.last_stride)
        channels = self.backbone.channels
        self.attention = nn.ModuleDict()
        for stage in settings.attention:
            context = None
            if stage in settings.context:
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

    def train_outputs(self, x: Tensor) -> SanOutput:
        """`(N, 3, H, W)` float, ImageNet-normalised RGB, to all that the losses need."""
        x = self.backbone.stem(x)
        attended: list[Tensor] = []
        pis: list[Tensor] = []
        for stage in (1, 2, 3, 4):
            x = self.backbone.stage(stage)(x)
            if stage in self.settings.attention:
                x, a, pi = self.attention[f"stage{stage}"](x)
                attended.append(a)
                if pi is not None:
                    pis.append(pi)
        embedding = self.head(torch.mean(x, (2, 3)))
        return SanOutput(embedding, self.neck(embedding), attended, pis)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, H, W)` float, ImageNet-normalised RGB, to the deployed embedding, `(N, D)`."""
        return self.train_outputs(x).neck
