"""ResNet-18, -34 and -50 (He et al., arXiv 1512.03385) with torchvision's parameter names and a width multiplier.

At width 1 the state dict equals torchvision's without `fc`, so ImageNet weights load by name; torchvision
itself is not needed. As there, ResNet-50 has its stride in the 3 x 3 convolution ("v1.5").
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

#: Depth -> units in each stage.
DEPTHS: dict[int, tuple[int, int, int, int]] = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


def check_resnet(depth: int, width: float, size_hw: tuple[int, int], *, largest: int = 4096) -> None:
    """What the settings of a network on a ResNet have in common.

    Raises:
        ValueError: an unknown depth, a width outside (0, 4], or a size that is not two of 32 to `largest`.
    """
    if depth not in DEPTHS:
        raise ValueError(f"depth {depth} is none of {sorted(DEPTHS)}")
    if not 0 < width <= 4:
        raise ValueError(f"width is in (0, 4]; received {width}")
    if len(size_hw) != 2 or any(not isinstance(side, int) or not 32 <= side <= largest for side in size_hw):
        raise ValueError(f"size_hw is two whole numbers of 32 to {largest}; received {size_hw}")


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, planes, 3, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = _conv(planes, planes, 3)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, planes * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, inputs, H, W)` to `(N, planes, H / stride, W / stride)`."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1 convolutions."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, planes, 1)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = _conv(planes, planes, 3, stride)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = _conv(planes, planes * self.expansion, 1)
        self.bn3 = nn.BatchNorm2d(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, planes * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, inputs, H, W)` to `(N, 4 * planes, H / stride, W / stride)`."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


#: Where a ResNet may take the colours of the camera out: of the picture itself, and behind the first convolution.
INSTANCE = ("picture", "stem")


class InstanceNorm(nn.Module):
    """Each channel of each sample less its own mean, by its own deviation over all places (arXiv 1607.08022).

    What a camera does to all pixels alike, gain, exposure and cast, is gone behind it. Nothing is of the batch, so an
    embedding does not depend on its batch-mates. OSNet-AIN and Intel's networks start like this.

    Args:
        channels: of the maps; `affine` gives each a factor and a bias that are learned.
    """

    def __init__(self, channels: int, *, affine: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` to the same."""
        weight, bias = (
            None if learned is None else learned.to(x.dtype) for learned in (self.weight, self.bias)
        )
        return nn.functional.instance_norm(x, weight=weight, bias=bias, eps=1e-5)


class ResNet(nn.Module):
    """The convolutional part of a ResNet.

    Args:
        depth: 18, 34 or 50.
        width: multiplies every number of channels; 1 is the published network.
        last_stride: stride of stage 4; 2 is the published network.
        instance: of `INSTANCE`: where an `InstanceNorm` stands, in the stem instead of its batch norm.

    Attributes:
        depth: as given.
        channels: output channels of stages 1-4.
    """

    def __init__(
        self, depth: int, *, width: float = 1.0, last_stride: int = 2, instance: Collection[str] = ()
    ) -> None:
        super().__init__()
        if depth not in DEPTHS:
            raise ValueError(f"ResNet depth {depth} is none of {sorted(DEPTHS)}")
        self.depth = depth
        self.block = Bottleneck if depth == 50 else BasicBlock
        self.planes = tuple(max(8, round(base * width / 8) * 8) for base in (64, 128, 256, 512))
        self.channels = tuple(planes * self.block.expansion for planes in self.planes)
        stem = self.planes[0]
        self.conv1 = nn.Conv2d(3, stem, 7, 2, padding=3, bias=False)
        self.picture = InstanceNorm(3, affine=False) if "picture" in instance else nn.Identity()
        self.bn1 = InstanceNorm(stem) if "stem" in instance else nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        strides = (1, 2, 2, last_stride)
        inputs = stem
        for stage, (units, planes, stride) in enumerate(
            zip(DEPTHS[depth], self.planes, strides, strict=True), 1
        ):
            blocks = [
                self.block(
                    inputs if i == 0 else planes * self.block.expansion, planes, stride if i == 0 else 1
                )
                for i in range(units)
            ]
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
            inputs = planes * self.block.expansion
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stem(self, x: Tensor) -> Tensor:
        """`(N, 3, H, W)` to `(N, stem, H / 4, W / 4)`."""
        return self.maxpool(self.relu(self.bn1(self.conv1(self.picture(x)))))

    def stage(self, number: int) -> nn.Module:
        """Stage 1-4."""
        return self.get_submodule(f"layer{number}")

    def first_unit(self, number: int) -> nn.Module:
        """A new unit of the architecture of stage `number`'s first, stride 2 (for the context-aware unit)."""
        unit = self.block(self.channels[number - 2], self.planes[number - 1], 2)
        for module in unit.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        return unit

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, H, W)` to `(N, channels[3], H / 32, W / 32)`."""
        x = self.stem(x)
        for number in (1, 2, 3, 4):
            x = self.stage(number)(x)
        return x
