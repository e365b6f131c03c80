"""The unit of the residual attention network (Wang et al., arXiv 1704.06904), the SAN paper's rival in table IV.

What that network's paper says: a soft mask branch goes down by max pooling and, mirrored, up by bilinear
interpolation, with a pre-activation residual unit between neighbours (its r = 1) and skip connections between the
two ways; a mask that is a sigmoid; features times 1 + M. What the SAN paper (arXiv 1805.02336, IV.E) says of its
reproduction: ResNet-50, and 15.84 + 15.08 + 12.06 = 42.98 million more parameters in blocks 1-3. It does not say
how. With one width for all of a block, as in the original, a unit of block 3 has 16 times the weights of one of block
1, and the numbers would rise; they fall. This is the reading that gives them.

A level belongs to a stage, i, not to a block; a block has the levels of its own stage and of those behind it, up to 3,
so blocks 1, 2 and 3 have three, two and one (as the original has, for its smaller and smaller maps). On a level
the way down goes from the C channels of stage i to the 2 C of stage i + 1, at half the size, and the way up goes
back. Both are bottlenecks of the planes of stage i + 1, C / 2, with a projection on the shortcut. In units of C^2:

    down  C -> 2 C   1/2 + 9/4 + 1   + 2 (projection) = 5.75     (the SAN unit's own residual unit)
    up    2 C -> C   1   + 9/4 + 1/2 + 2 (projection) = 5.75
    level            11.5 C^2 weights and 5 C shifts of its batch norms (C + C/2 + C/2, 2 C + C/2 + C/2)

    level 1, C =  256:     753,664 +  1,280 =    754,944
    level 2, C =  512:   3,014,656 +  2,560 =  3,017,216
    level 3, C = 1024:  12,058,624 +  5,120 = 12,063,744
    block 1 15,835,904   block 2 15,080,960   block 3 12,063,744   together 42,980,608

to the digit of table IV. Without the shifts blocks 1 and 2 were 15.83 and 15.07; with scales besides shifts, block 3
would be 12.07. A bias for each channel of the three convolutions, instead of the shifts, gives the same count, so the
choice of the shifts is ours. The numbers leave nothing for residual units on the skip connections and for the two
1 x 1 convolutions before the sigmoid, which the original has, so these are left out: skips are sums, and the mask
is a sigmoid of the last interpolation. The trunk branch is the stage itself, which table IV does not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .resnet import ResNet

#: What each recipe changes for this architecture, see `recipe.RECIPES`: as for SAN (models.san), as the paper compares
#: the two, but for what steers sharp masks. Attention is where the unit is: the original has three modules.
RECIPES: dict[str, dict[str, Any]] = {
    # The TV penalty is the sharp attention network's own.
    "paper": {"settings.attention": [1, 2, 3]},
    "scratch": {
        "settings.depth": 18,
        "settings.width": 0.5,
        "settings.size_hw": [128, 64],
        "settings.attention": [1, 2, 3],
        "settings.neck": True,
        "settings.hidden": 0,
    },
}


def shift_norm(channels: int) -> nn.BatchNorm2d:
    """A batch norm that learns a shift alone: a ReLU and a convolution follow, which take any positive scale."""
    norm = nn.BatchNorm2d(channels)
    norm.weight.requires_grad_(False)
    return norm


class PreActivationUnit(nn.Module):
    """A residual unit with batch norm and ReLU before each convolution (He et al., arXiv 1603.05027).

    Args:
        inputs: its input channels.
        outputs: its output channels, not the same number.
        planes: channels of the 3 x 3 convolution of a bottleneck; 0 makes a unit of two 3 x 3 convolutions.
    """

    def __init__(self, inputs: int, outputs: int, *, planes: int) -> None:
        super().__init__()
        widths: tuple[int, ...] = (inputs, planes, planes, outputs) if planes else (inputs, outputs, outputs)
        kernels = (1, 3, 1) if planes else (3, 3)
        self.norms = nn.ModuleList(shift_norm(width) for width in widths[:-1])
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, kernel, padding=kernel // 2, bias=False)
            for a, b, kernel in zip(widths[:-1], widths[1:], kernels, strict=True)
        )
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)
        for conv in (*self.convs, self.shortcut):
            assert isinstance(conv, nn.Conv2d)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """`(N, inputs, H, W)` to `(N, outputs, H, W)`."""
        first = F.relu(self.norms[0](x))
        out = self.convs[0](first)
        for norm, conv in zip(self.norms[1:], self.convs[1:], strict=True):
            out = conv(F.relu(norm(out)))
        return out + self.shortcut(first)


class ResidualAttentionUnit(nn.Module):
    """What an attention block draws its mask from, of the shape of the block's features; see the file's head.

    Args:
        channels: of the block's stage and of each stage behind it, up to 4: `(C, ...)`.
        planes: of the bottlenecks of each stage behind the block's; 0 each where units have no bottleneck.
    """

    def __init__(self, channels: Sequence[int], planes: Sequence[int]) -> None:
        super().__init__()
        levels = list(zip(channels[:-1], channels[1:], planes, strict=True))
        self.down = nn.ModuleList(PreActivationUnit(near, far, planes=p) for near, far, p in levels)
        self.up = nn.ModuleList(PreActivationUnit(far, near, planes=p) for near, far, p in levels)

    def forward(self, trunk: Tensor) -> Tensor:
        """`(N, C, H, W)` to `(N, C, H, W)`."""
        x = trunk
        passed: list[Tensor] = []
        for unit in self.down:
            passed.append(x)
            x = unit(F.max_pool2d(x, 3, 2, padding=1))  # (N, 2 C, ceil(H / 2), ceil(W / 2)), and so on
        for level in reversed(range(len(passed))):
            size = passed[level].shape[2:]
            x = F.interpolate(
                self.up[level](x), size=(size[0], size[1]), mode="bilinear", align_corners=False
            )
            # The outermost skip is the block's own, F = (1 + M) T.
            if level:
                x = x + passed[level]
        return x


def unit_behind(backbone: ResNet, stage: int) -> ResidualAttentionUnit:
    """A new unit for the block of stage 1-3, of the channels and the kind of units that the backbone has there."""
    planes = backbone.planes[stage:] if backbone.block.expansion > 1 else (0,) * (4 - stage)
    return ResidualAttentionUnit(backbone.channels[stage - 1 :], planes)
