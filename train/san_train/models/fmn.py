"""A network in the style of the Feature Mask Network (Ding et al., arXiv 1711.07155): "FMN-style".

The paper is public (https://arxiv.org/abs/1711.07155), but its text was not at hand when this was written: only the
abstract was. The paper's, by its abstract: ResNet features of a high level predict a mask of a feature map, which is
put on features of a low level to weigh parts of the body anew, for a representation that is aware of local details;
global context counts as well; training has several tasks, as re-identification is both classification and retrieval.
All else here is our choice, which the paper's text may contradict: which stages, the mask's layers and channels, how a
masked and a global path make one embedding, losses and recipe. Each choice is a setting, and no result of this network
is the paper's.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import MaskMode
from .outputs import Head, Outputs, SoftMask
from .resnet import ResNet, check_resnet

#: What each recipe changes for this architecture, see `recipe.RECIPES`.
RECIPES: dict[str, dict[str, Any]] = {
    # The paper's, by its abstract: a ResNet, an identity and a retrieval task. Its rates, batches and losses were
    # not at hand; these are Luo et al.'s (arXiv 1903.07071), but for their lr, which falls in two steps from epoch
    # 40 on.
    "paper": {
        "num_ids": 16,
        "num_instances": 4,
        "epochs": 120,
        "lr": 3.5e-4,
        "weight_decay": 5e-4,
        "schedule": "hermans",
        "warmup": 10.0,
        "decay_from": 1 / 3,
        "margin": 0.3,
        "triplet_weight": 1.0,
        "identity_weight": 1.0,
        "smoothing": 0.1,
        "augmentation.area": [0.8, 1.0],
        "augmentation.aspect": [1.6, 2.5],
        "augmentation.erase": 0.5,
        "augmentation.erase_area": [0.02, 0.4],
    },
    "scratch": {"settings.depth": 18, "settings.width": 0.5, "settings.size_hw": [128, 64]},
}


@dataclass(frozen=True)
class FmnSettings:
    """Everything that fixes the network's weights and graph; saved in each checkpoint.

    That there is a ResNet, a low and a high level, a mask and several tasks is in the paper's abstract; every value is
    ours.

    Attributes:
        depth: of the ResNet: 18, 34 or 50.
        width: multiplies its channels.
        size_hw: input height and width, pixels.
        low: the stage (1-3) whose features are masked.
        high: the stage (2-4, above `low`) that predicts the mask.
        per_channel: a mask for each channel of the low stage, instead of one for all.
        hidden: channels between the two convolutions that predict the mask.
        residual: features times 1 + M, instead of times M.
        mask_bias: of the last of those convolutions, whose weights start at 0, so that M starts as the sigmoid of
            this everywhere: 0 for 0.5, 2 for 0.88.
        shared: the masked path goes through the backbone's own later stages once more, instead of a copy.
        last_stride: stride of stage 4: 2 or 1.
        heads: 2, with losses of their own for the global and the masked features; or 1, on both side by side.
        neck: a batch norm after each head's features, for the identity loss (Luo et al., arXiv 1903.07071). The
            deployed embedding is taken behind it.
    """

    depth: int = 50
    width: float = 1.0
    size_hw: tuple[int, int] = (256, 128)
    low: int = 1
    high: int = 4
    per_channel: bool = False
    hidden: int = 256
    residual: bool = False
    mask_bias: float = 0.0
    shared: bool = False
    last_stride: int = 2
    heads: int = 2
    neck: bool = True

    def __post_init__(self) -> None:
        # JSON gives lists.
        object.__setattr__(self, "size_hw", tuple(self.size_hw))
        check_resnet(self.depth, self.width, self.size_hw)
        if self.low not in (1, 2, 3) or self.high not in (2, 3, 4) or self.low >= self.high:
            raise ValueError(
                f"low is a stage of 1-3 and high a later one of 2-4; received {self.low} and {self.high}"
            )
        for name in ("per_channel", "residual", "shared", "neck"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is true or false; received {getattr(self, name)!r}")
        if not isinstance(self.hidden, int) or not 1 <= self.hidden <= 65536:
            raise ValueError(f"hidden is a whole number in 1..65536; received {self.hidden}")
        if not -10 <= self.mask_bias <= 10:
            raise ValueError(f"mask_bias is in -10..10; received {self.mask_bias}")
        if self.last_stride not in (1, 2) or self.heads not in (1, 2):
            raise ValueError(
                f"last_stride and heads are 1 or 2; received {self.last_stride} and {self.heads}"
            )

    @property
    def embedding_dim(self) -> int:
        """Global and masked features side by side: twice the channels of the last stage."""
        with torch.device("meta"):
            return 2 * ResNet(self.depth, width=self.width).channels[3]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


class MaskHead(nn.Module):
    """Two 1 x 1 convolutions, bilinear interpolation and a sigmoid: features of a high stage to a mask.

    Args:
        inputs: channels of the high stage.
        hidden: channels between the convolutions.
        outputs: channels of the mask.
        bias: of the last convolution, at first.
    """

    def __init__(self, inputs: int, *, hidden: int, outputs: int, bias: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, hidden, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(hidden, outputs, 1)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        # At first the same everywhere: pretrained stages behind the mask see scaled features, not noise.
        nn.init.zeros_(self.conv2.weight)
        nn.init.constant_(self.conv2.bias, bias)  # type: ignore[arg-type]

    def forward(self, high: Tensor, size: tuple[int, int]) -> Tensor:
        """`(N, inputs, h, w)` to M, `(N, outputs, *size)`, in 0..1."""
        logits = self.conv2(self.relu(self.bn1(self.conv1(high))))
        return torch.sigmoid(F.interpolate(logits, size=size, mode="bilinear", align_corners=False))


class FeatureMaskNetwork(nn.Module):
    """Normalised RGB crops to global features beside masked ones; see `protocol.Network`.

    The global path is a ResNet. Its stage `high` predicts the mask of stage `low`; the masked features go through
    later stages of their own, or through the same once more. Loading weights into `backbone`, as ImageNet's are,
    also loads them into those stages.
    """

    def __init__(self, settings: FmnSettings) -> None:
        super().__init__()
        self.settings = settings
        self.mode = MaskMode()
        self.backbone = ResNet(settings.depth, width=settings.width, last_stride=settings.last_stride)
        channels = self.backbone.channels
        # Behind the backbone: a whole state dict is loaded in this order, and the hook's copies are overwritten.
        self.masked = nn.ModuleDict()
        if not settings.shared:
            for stage in range(settings.low + 1, 5):
                self.masked[f"layer{stage}"] = copy.deepcopy(self.backbone.stage(stage))
            self.backbone.register_load_state_dict_post_hook(self._start_as_backbone)
        self.mask_head = MaskHead(
            channels[settings.high - 1],
            hidden=settings.hidden,
            outputs=channels[settings.low - 1] if settings.per_channel else 1,
            bias=settings.mask_bias,
        )
        self.necks = nn.ModuleList(nn.BatchNorm1d(dim) for dim in self.head_dims if settings.neck)
        for neck in self.necks:
            # A neck with a bias would move the origin that cosine similarity is measured from.
            assert isinstance(neck, nn.BatchNorm1d)
            neck.bias.requires_grad_(False)

    @property
    def head_dims(self) -> tuple[int, ...]:
        """Of the global and the masked features, or of both together."""
        features = self.backbone.channels[3]
        return (2 * features,) if self.settings.heads == 1 else (features, features)

    @property
    def mask_kind(self) -> str:
        """A smooth gate."""
        return "soft"

    @property
    def variant(self) -> str:
        """`resnet50`."""
        return f"resnet{self.settings.depth}"

    def train_outputs(self, x: Tensor) -> Outputs:
        """`(N, 3, H, W)` float, ImageNet-normalised RGB, to what the losses need."""
        low, last, mask = self._global_path(x)
        attended = low * mask
        masked = low + attended if self.settings.residual else attended
        for stage in range(self.settings.low + 1, 5):
            masked = (self.backbone.stage(stage) if self.settings.shared else self.masked[f"layer{stage}"])(
                masked
            )
        rows = [torch.mean(last, (2, 3)), torch.mean(masked, (2, 3))]
        if self.settings.heads == 1:
            rows = [torch.cat(rows, 1)]
        behind = [neck(row) for neck, row in zip(self.necks, rows, strict=True)] if self.necks else rows
        return Outputs(
            tuple(Head(row, identity) for row, identity in zip(rows, behind, strict=True)), [attended], []
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, H, W)` float, ImageNet-normalised RGB, to the deployed embedding, `(N, D)`: global, masked."""
        return torch.cat([head.identity for head in self.train_outputs(x).heads], 1)

    def soft_masks(self, x: Tensor) -> list[SoftMask]:
        """The mask of the low stage's features, 0..1."""
        low, _, mask = self._global_path(x)
        return [SoftMask(self.settings.low, mask, low)]

    def _global_path(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features of the low and of the last stage, and the mask of the former."""
        outputs = []
        x = self.backbone.stem(x)
        for stage in (1, 2, 3, 4):
            x = self.backbone.stage(stage)(x)
            outputs.append(x)
        low = outputs[self.settings.low - 1]
        # Numbers, not values of the graph: an exported Resize has a fixed size.
        height, width = low.shape[2:]
        return low, x, self.mask_head(outputs[self.settings.high - 1], (height, width))

    def _start_as_backbone(self, backbone: nn.Module, keys: Any) -> None:
        assert isinstance(backbone, ResNet)
        for stage in range(self.settings.low + 1, 5):
            self.masked[f"layer{stage}"].load_state_dict(backbone.stage(stage).state_dict())
