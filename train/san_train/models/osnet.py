"""OSNet, the Omni-Scale Network (Zhou et al., ICCV 2019, arXiv 1905.00953), and its AIN form (arXiv 1910.06827).

Names of tensors are those of torchreid's `osnet_ain` (KaiyangZhou/deep-person-reid at f8cd150), so that weights of its
users load; `osnet_weights` renames what `osnet` calls otherwise.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..attention import MaskMode
from .outputs import Head, Outputs

#: Channels of the stem and of the three stages at width 1.
_CHANNELS = (64, 256, 384, 512)
#: Streams of a block; stream t has t light convolutions, and so a receptive field of 2t + 1.
_STREAMS = 4
#: Channels inside a block are a quarter of its output's, those inside a gate a sixteenth of its input's.
_BOTTLENECK, _GATE = 4, 16
#: Variant -> for each stage, where each of its two blocks has instance norm: `` nowhere, `out` behind the sum (IBN),
#: `in` within the residual (AIN: what its search found).
_NORMS: dict[str, tuple[tuple[str, str], ...]] = {
    "plain": (("", ""), ("", ""), ("", "")),
    "ibn": (("out", "out"), ("", ""), ("", "")),
    "ain": (("in", "in"), ("", "in"), ("in", "")),
}
VARIANTS = tuple(_NORMS)

#: What each recipe changes for this architecture, see `recipe.RECIPES`.
RECIPES: dict[str, dict[str, Any]] = {
    # Section 4.1, training from scratch: identity loss with label smoothing, batches of 64. Its AMSGrad, and SGD at
    # 0.065 for 350 epochs, are Adam at the rate of its fine-tuning here.
    "paper": {
        "num_ids": 16,
        "num_instances": 4,
        "epochs": 350,
        "optimizer": "adam",
        "lr": 1.5e-3,
        "triplet_weight": 0.0,
        "identity_weight": 1.0,
        "smoothing": 0.1,
    },
    "scratch": {"triplet_unit": True},
}


@dataclass(frozen=True)
class OsNetSettings:
    """Everything that fixes the network's weights and graph; saved in each checkpoint.

    Attributes:
        size_hw: input height and width, pixels.
        width: multiplies the channels; 1, 0.75, 0.5 and 0.25 are published.
        variant: `plain`, `ibn` or `ain`, which differ in where instance norm stands.
        head_dim: length of the embedding.
    """

    size_hw: tuple[int, int] = (256, 128)
    width: float = 1.0
    variant: str = "plain"
    head_dim: int = 512

    def __post_init__(self) -> None:
        object.__setattr__(self, "size_hw", tuple(self.size_hw))  # JSON gives lists
        if any(not isinstance(value, int) for value in (*self.size_hw, self.head_dim)):
            raise ValueError("size_hw and head_dim are whole numbers")
        if len(self.size_hw) != 2 or min(self.size_hw) < 32 or max(self.size_hw) > 4096:
            raise ValueError(f"size_hw is two of 32 to 4096; received {self.size_hw}")
        if not 0.125 <= self.width <= 4 or not 2 <= self.head_dim <= 32768:
            raise ValueError("width is in [0.125, 4], head_dim in 2..32768")
        if self.variant not in _NORMS:
            raise ValueError(f"variant is one of {', '.join(_NORMS)}; received {self.variant}")

    @property
    def channels(self) -> tuple[int, ...]:
        """Of the stem and of the three stages."""
        return tuple(round(base * self.width) for base in _CHANNELS)

    @property
    def embedding_dim(self) -> int:
        """Length of the deployed embedding."""
        return self.head_dim

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


class _Conv(nn.Sequential):
    """Convolution without bias, norm, ReLU where wanted; `(N, C, H, W)` to `(N, outputs, H', W')`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        norm: str = "batch",
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        if norm == "batch":
            self.bn: nn.Module = nn.BatchNorm2d(outputs)
        elif norm == "instance":
            self.bn = nn.InstanceNorm2d(outputs, affine=True)
        if relu:
            self.relu = nn.ReLU()


class _LightConv(nn.Sequential):
    """Section 3.1: a 1 x 1 convolution, then a depthwise 3 x 3 one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()


class _Stream(nn.Module):
    """Light convolutions one after the other."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(_LightConv(channels) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` to the same shape."""
        rows: Tensor = self.layers(x)
        return rows


class _ChannelGate(nn.Module):
    """Eq. 3, the aggregation gate: a weight for each channel of each sample, shared by the streams."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // _GATE, 1)
        self.fc2 = nn.Conv2d(channels // _GATE, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` to the same shape."""
        pooled = torch.mean(x, (2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(pooled))))


class OsBlock(nn.Module):
    """Figure 4: four streams of other receptive fields, gated and summed, in a residual bottleneck.

    Args:
        inputs, outputs: channels.
        norm: where instance norm stands, see `_NORMS`.
    """

    def __init__(self, inputs: int, outputs: int, norm: str) -> None:
        super().__init__()
        middle = outputs // _BOTTLENECK
        self.conv1 = _Conv(inputs, middle)
        self.conv2 = nn.ModuleList(_Stream(middle, depth) for depth in range(1, _STREAMS + 1))
        self.gate = _ChannelGate(middle)
        self.conv3 = _Conv(middle, outputs, norm="" if norm == "in" else "batch", relu=False)
        self.downsample = _Conv(inputs, outputs, relu=False) if inputs != outputs else None
        self.IN = nn.InstanceNorm2d(outputs, affine=True) if norm else None
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """`(N, inputs, H, W)` to `(N, outputs, H, W)`."""
        reduced = self.conv1(x)
        streams = [self.gate(stream(reduced)) for stream in self.conv2]
        residual = self.conv3(streams[0] + streams[1] + streams[2] + streams[3])
        if self.IN is not None and self.norm == "in":
            residual = self.IN(residual)
        total = residual + (x if self.downsample is None else self.downsample(x))
        if self.IN is not None and self.norm == "out":
            total = self.IN(total)
        return torch.relu(total)


class OmniScaleNetwork(nn.Module):
    """Normalised RGB crops to embeddings; see `protocol.Network`."""

    mask_kind = "none"

    def __init__(self, settings: OsNetSettings) -> None:
        super().__init__()
        self.settings = settings
        self.mode = MaskMode()
        stem, *stages = settings.channels
        norms = _NORMS[settings.variant]

        def blocks(inputs: int, stage: int) -> nn.Sequential:
            outputs = stages[stage]
            first, second = norms[stage]
            return nn.Sequential(OsBlock(inputs, outputs, first), OsBlock(outputs, outputs, second))

        self.conv1 = _Conv(3, stem, 7, stride=2, norm="batch" if settings.variant == "plain" else "instance")
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.conv2 = blocks(stem, 0)
        self.pool2 = nn.Sequential(_Conv(stages[0], stages[0]), nn.AvgPool2d(2))
        self.conv3 = blocks(stages[0], 1)
        self.pool3 = nn.Sequential(_Conv(stages[1], stages[1]), nn.AvgPool2d(2))
        self.conv4 = blocks(stages[1], 2)
        self.conv5 = _Conv(stages[2], stages[2])
        self.fc = nn.Sequential(
            nn.Linear(stages[2], settings.head_dim), nn.BatchNorm1d(settings.head_dim), nn.ReLU()
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def variant(self) -> str:
        """What follows the architecture's name in an artefact: `x1.0`, `ain-x0.5`."""
        width = f"x{self.settings.width:g}" if self.settings.width % 1 else f"x{self.settings.width:.1f}"
        return width if self.settings.variant == "plain" else f"{self.settings.variant}-{width}"

    @property
    def head_dims(self) -> tuple[int, ...]:
        """One head."""
        return (self.settings.head_dim,)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, H, W)` float, ImageNet-normalised RGB, to `(N, head_dim)`."""
        x = self.maxpool(self.conv1(x))
        x = self.pool2(self.conv2(x))
        x = self.pool3(self.conv3(x))
        x = self.conv5(self.conv4(x))
        rows: Tensor = self.fc(torch.mean(x, (2, 3)))
        return rows

    def train_outputs(self, x: Tensor) -> Outputs:
        """The same crops to what the losses need."""
        rows = self.forward(x)
        return Outputs((Head(rows, rows),), [], [])
