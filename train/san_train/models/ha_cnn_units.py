"""What HA-CNN is built of (Li et al., CVPR 2018, arXiv 1802.08122): inception units and the attention block.

The sizes are those of torchreid's published re-implementation, weights of which load by name
(`ha_cnn_weights`); the sections are the paper's.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: T of the paper: regions of an image, and streams of the local branch.
REGIONS = 4
#: Height and width of a region as parts of the image's. They are not learned.
REGION_SCALE = (0.25, 1.0)
#: By how much channel attention narrows.
_REDUCTION = 16


class ConvUnit(nn.Module):
    """Convolution with a bias, batch norm, ReLU. Padding keeps the size at stride 1."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, inputs, H, W)` to `(N, outputs, ceil(H / stride), ceil(W / stride))`."""
        return F.relu(self.bn(self.conv(x)))


class _Paths(nn.Module):
    """Paths side by side, their channels concatenated."""

    def __init__(self, *paths: nn.Sequential) -> None:
        super().__init__()
        self.paths = nn.ModuleList(paths)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([path(x) for path in self.paths], 1)


class InceptionA(_Paths):
    """Keeps the size: `(N, inputs, H, W)` to `(N, outputs, H, W)`; three of its four paths are alike."""

    def __init__(self, inputs: int, outputs: int) -> None:
        middle = outputs // 4
        convolved = [
            nn.Sequential(ConvUnit(inputs, middle, 1), ConvUnit(middle, middle, 3)) for _ in range(3)
        ]
        super().__init__(*convolved, nn.Sequential(nn.AvgPool2d(3, 1, 1), ConvUnit(inputs, middle, 1)))


class InceptionB(_Paths):
    """Halves the size: `(N, inputs, H, W)` to `(N, outputs, ceil(H / 2), ceil(W / 2))`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        middle = outputs // 4
        super().__init__(
            nn.Sequential(ConvUnit(inputs, middle, 1), ConvUnit(middle, middle, 3, 2)),
            nn.Sequential(
                ConvUnit(inputs, middle, 1), ConvUnit(middle, middle, 3), ConvUnit(middle, middle, 3, 2)
            ),
            nn.Sequential(nn.MaxPool2d(3, 2, 1), ConvUnit(inputs, 2 * middle, 1)),
        )


def region_biases(regions: str) -> Tensor:
    """Bias of the region layer, `(8,)` float32: (x, y) for each region from top to bottom, before the tanh.

    `literature` has +-0.75 and +-0.25 in front of the tanh, as torchreid does: the middles come to lie at
    +-0.635 and +-0.245, and the outer 4 of 80 rows are covered by none. `tiling` has them behind it, so that
    the regions tile the image.
    """
    middles = [-0.75, -0.25, 0.25, 0.75]
    if regions == "tiling":
        middles = [math.atanh(middle) for middle in middles]
    return torch.tensor([[0.0, middle] for middle in middles]).flatten()


class HarmoniousAttention(nn.Module):
    """A soft mask for every number of a feature map, and the places of the regions (section 3.1).

    Attributes:
        hard: linear layer to the places, zero but for its bias at the start.
    """

    def __init__(self, channels: int, *, regions: str) -> None:
        super().__init__()
        narrow = channels // _REDUCTION
        self.spatial = nn.ModuleList([ConvUnit(1, 1, 3, 2), ConvUnit(1, 1, 1)])
        self.channel = nn.Sequential(ConvUnit(channels, narrow, 1), ConvUnit(narrow, channels, 1))
        self.blend = ConvUnit(channels, channels, 1)
        self.hard = nn.Linear(channels, 2 * REGIONS)
        with torch.no_grad():
            self.hard.weight.zero_()
            self.hard.bias.copy_(region_biases(regions))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Attend to a stage's output.

        Args:
            x: `(N, C, H, W)`.

        Returns:
            The mask, `(N, C, H, W)` in [0.5, 1): what the sigmoid sees went through a ReLU, so the mask switches
            nothing off. And the places, `(N, REGIONS, 2)` in (-1, 1), never below FP32: x and y of each
            region's middle, where the image's own edges are at -1 and 1.
        """
        # FP32 in autocast, too: the places follow from it.
        pooled = torch.mean(x, (2, 3), dtype=self.hard.weight.dtype)  # (N, C)
        rough, scale = self.spatial
        spatial = rough(torch.mean(x, 1, keepdim=True))
        # To the size that was met, not by a factor: an odd size does not come back from a stride of 2.
        spatial = scale(F.interpolate(spatial, x.shape[2:], mode="bilinear", align_corners=True))
        mask = torch.sigmoid(self.blend(spatial * self.channel(pooled[:, :, None, None])))
        return mask, self._places(pooled)

    def _places(self, pooled: Tensor) -> Tensor:
        # A product and a sum instead of a matrix product, which autocast, FP16 and INT8 exports would round:
        # on a map of 80 rows, a part in a hundred is most of a row.
        moved = (pooled[:, None, :] * self.hard.weight).sum(2) + self.hard.bias
        return torch.tanh(moved).reshape(-1, REGIONS, 2)
