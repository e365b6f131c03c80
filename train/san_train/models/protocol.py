"""What `san train`, `san export`, `san eval` and the PyTorch backend ask of a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from san_deploy.preprocess import STD_RGB

from ..attention import MaskMode, SharpAttention
from .outputs import Outputs
from .resnet import ResNet

#: `sharp`: 0/1 masks, drawn as `mode` says; `soft`: a smooth gate; `none`: no mask.
MASK_KINDS = ("sharp", "soft", "none")


class Settings(Protocol):
    """Everything that fixes a network's weights and graph: a frozen dataclass of plain values, checked when made."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """Input height and width, pixels."""

    @property
    def embedding_dim(self) -> int:
        """Length of the deployed embedding."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, which the class takes back."""


class Network(Protocol):
    """A `torch.nn.Module` that turns crops into embeddings.

    Attributes:
        mode: how sharp masks are drawn; one object for all blocks. Networks without such masks have one too,
            which nothing reads.
        training: of `nn.Module`.

    Four more attributes are optional: `map_channels`, the channels of `Outputs.maps` for a network that gives
    them; `variant`, text that follows the architecture's name in an artefact
    (`resnet18`); `backbone`, a `models.resnet.ResNet` that takes ImageNet weights; and `soft_masks(x)`,
    crops as in `forward` to a list of `outputs.SoftMask`, for pictures.
    """

    mode: MaskMode
    training: bool

    @property
    def settings(self) -> Settings:
        """What it was built from."""

    @property
    def head_dims(self) -> tuple[int, ...]:
        """D of the rows that each head gives its identity classifier."""

    @property
    def mask_kind(self) -> str:
        """One of `MASK_KINDS`."""

    def train_outputs(self, x: Tensor) -> Outputs:
        """`(N, 3, H, W)` float, ImageNet-normalised RGB, to what the losses need."""

    def __call__(self, x: Tensor) -> Tensor:
        """The same crops to the deployed embedding, `(N, embedding_dim)`, not necessarily of unit length."""

    # Of nn.Module, which a protocol cannot inherit from.
    def train(self, mode: bool = True) -> Any:
        """Training mode on or off."""

    def eval(self) -> Any:
        """Evaluation mode."""

    def float(self) -> Any:
        """Parameters and buffers to FP32, in place."""

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """To a device or a type, in place."""

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Learned tensors."""

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Parts by name."""

    def state_dict(self) -> Mapping[str, Any]:
        """Tensors by name."""

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> Any:
        """Set them."""


def backbone_of(network: Network) -> ResNet | None:
    """The part that takes ImageNet weights, where there is one."""
    backbone = getattr(network, "backbone", None)
    return backbone if isinstance(backbone, ResNet) else None


def std_of(network: Network) -> tuple[float, float, float]:
    """What its pixels are divided by, RGB, units of 0..1: ImageNet's, unless its settings say another (`std_rgb`)."""
    own: tuple[float, float, float] = getattr(getattr(network, "settings", None), "std_rgb", STD_RGB)
    return own


def attention_blocks(network: Network) -> list[tuple[str, SharpAttention]]:
    """The blocks that draw masks as `mode` says, and their names, in order."""
    return [(name, m) for name, m in network.named_modules() if isinstance(m, SharpAttention)]


def variant_of(network: Network) -> str:
    """What follows the architecture's name in an artefact; empty where the name says all."""
    return str(getattr(network, "variant", ""))
