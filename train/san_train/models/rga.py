"""The relation-aware network (Zhang et al., CVPR 2020, arXiv 1904.02998): RGA-SC, RGA-S and RGA-C."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..attention import MaskMode
from .outputs import Head, Outputs, SoftMask
from .resnet import ResNet, check_resnet
from .rga_block import RelationBlock

#: Attention over positions and then channels, over positions, over channels.
VARIANTS = ("sc", "s", "c")

#: What each recipe changes for this architecture, see `recipe.RECIPES`.
RECIPES: dict[str, dict[str, Any]] = {
    # The authors' code for CUHK03 (github.com/microsoft/Relation-Aware-Global-Attention-Networks). Not as there:
    # it halves lr at epoch 80 and every 40 to 360; it cuts out 0.79 of every second crop and leaves the others
    # whole; it erases with the mean colour.
    "paper": {
        "num_ids": 16,
        "num_instances": 4,
        "epochs": 600,
        # An epoch shows each of the 767 people once, not each crop.
        "steps": 47,
        "lr": 8e-4,
        "weight_decay": 5e-4,
        "schedule": "hermans",
        "warmup": 20.0,
        "decay_from": 80 / 600,
        "margin": 0.3,
        "triplet_weight": 1.0,
        "identity_weight": 1.0,
        "smoothing": 0.1,
        "augmentation.area": [0.79, 1.0],
        "augmentation.aspect": [2.0, 2.0],
        "augmentation.erase": 0.5,
        "augmentation.erase_area": [0.02, 0.4],
    },
    "scratch": {"settings.depth": 18, "settings.width": 0.5, "settings.size_hw": [128, 64]},
}


@dataclass(frozen=True)
class RgaSettings:
    """Everything that fixes the network's weights and graph; saved in each checkpoint.

    Attributes:
        variant: of `VARIANTS`; `sc` is the paper's best.
        depth: of the ResNet: 18, 34 or 50 (the paper's).
        width: multiplies its channels.
        size_hw: input height and width, pixels. Weights belong to places: they fit no other size.
        neck: a batch norm after the embedding, for the identity loss (Luo et al., arXiv 1903.07071). The
            deployed embedding is taken behind it.
    """

    variant: str = "sc"
    depth: int = 50
    width: float = 1.0
    size_hw: tuple[int, int] = (256, 128)
    neck: bool = True

    def __post_init__(self) -> None:
        # JSON gives lists.
        object.__setattr__(self, "size_hw", tuple(self.size_hw))
        if self.variant not in VARIANTS:
            raise ValueError(f"variant is one of {', '.join(VARIANTS)}; received {self.variant!r}")
        # A layer of the first block has (H W)^2 / 1024 weights.
        check_resnet(self.depth, self.width, self.size_hw, largest=1024)
        if not isinstance(self.neck, bool):
            raise ValueError(f"neck is true or false; received {self.neck!r}")

    @property
    def embedding_dim(self) -> int:
        """Channels of the last stage."""
        with torch.device("meta"):
            return ResNet(self.depth, width=self.width).channels[3]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


class RelationAwareNetwork(nn.Module):
    """Normalised RGB crops of one fixed size to embeddings; see `protocol.Network`.

    A ResNet whose last stage keeps its resolution, with a relation-aware block behind each stage.

    Args:
        settings: what to build.
        literal: compute relations as the authors' code does; see `rga_block.RelationAttention`. The weights, and
            so the checkpoints, are the same.
    """

    size_hw: Tensor

    def __init__(self, settings: RgaSettings, *, literal: bool = False) -> None:
        super().__init__()
        self.settings = settings
        self.mode = MaskMode()
        self.backbone = ResNet(settings.depth, width=settings.width, last_stride=1)
        # A weight file says what size it is of: 256 x 128 and 128 x 256 have weights of the same shapes.
        self.register_buffer("size_hw", torch.tensor(settings.size_hw))
        self.register_load_state_dict_pre_hook(_refuse_other_size)
        self.attention = nn.ModuleList(
            RelationBlock(channels, size_hw, variant=settings.variant, literal=literal)
            for channels, size_hw in zip(self.backbone.channels, stage_sizes(settings.size_hw), strict=True)
        )
        features = self.backbone.channels[3]
        self.neck: nn.Module = nn.Identity()
        if settings.neck:
            self.neck = nn.BatchNorm1d(features)
            # A neck with a bias would move the origin that cosine similarity is measured from.
            self.neck.bias.requires_grad_(False)

    @property
    def head_dims(self) -> tuple[int, ...]:
        """One head."""
        return (self.backbone.channels[3],)

    @property
    def mask_kind(self) -> str:
        """A smooth gate."""
        return "soft"

    @property
    def variant(self) -> str:
        """`resnet50`."""
        return f"resnet{self.settings.depth}"

    def train_outputs(self, x: Tensor) -> Outputs:
        """`(N, 3, H, W)` float, ImageNet-normalised RGB, to what the losses need.

        Raises:
            ValueError: H x W is another size than the network was built for.
        """
        x = self._stem(x)
        for stage, block in enumerate(self.attention, 1):
            x = block(self.backbone.stage(stage)(x))
        pooled = torch.mean(x, (2, 3))
        return Outputs((Head(pooled, self.neck(pooled)),), [], [])

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, H, W)` float, ImageNet-normalised RGB, to the deployed embedding, `(N, D)`."""
        return self.train_outputs(x).heads[0].identity

    def soft_masks(self, x: Tensor) -> list[SoftMask]:
        """What each block multiplies its features with, over positions and channels at once; 0..1."""
        x = self._stem(x)
        masks = []
        for stage, block in enumerate(self.attention, 1):
            assert isinstance(block, RelationBlock)
            features = self.backbone.stage(stage)(x)
            x, gates = block.attend(features)
            mask = math.prod(gates[1:], start=gates[0]).expand(-1, -1, *features.shape[2:])
            masks.append(SoftMask(stage, mask, features))
        return masks

    def _stem(self, x: Tensor) -> Tensor:
        if tuple(x.shape[2:]) != self.settings.size_hw:
            raise ValueError(_other_size(self.settings.size_hw, tuple(x.shape[2:]), "crops"))
        return self.backbone.stem(x)


def stage_sizes(size_hw: tuple[int, int]) -> list[tuple[int, int]]:
    """Height and width of the output of each stage."""

    def halved(size: tuple[int, int]) -> tuple[int, int]:
        # Each stride of 2 pads, and so rounds up.
        return (size[0] + 1) // 2, (size[1] + 1) // 2

    first = halved(halved(size_hw))
    second = halved(first)
    third = halved(second)
    return [first, second, third, third]


def _refuse_other_size(network: nn.Module, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
    """Raise ValueError where weights are of a network for another size."""
    assert isinstance(network, RelationAwareNetwork)
    given = state.get(f"{prefix}size_hw")
    if isinstance(given, Tensor) and tuple(given.tolist()) != network.settings.size_hw:
        raise ValueError(_other_size(network.settings.size_hw, tuple(given.tolist()), "weights"))


def _other_size(built: tuple[int, ...], given: tuple[int, ...], what: str) -> str:
    sizes = [" x ".join(str(side) for side in size) for size in (built, given)]
    return (
        f"this network is built for crops of {sizes[0]} (height x width), and these {what} are of {sizes[1]}: "
        "its attention has weights for each place"
    )
