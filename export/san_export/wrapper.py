"""The network as it is deployed: crops in, unit embeddings out. The trained network knows nothing of this."""

from __future__ import annotations

import copy
from typing import Any

import torch
from san_train.data import normalisation
from san_train.models import Network, std_of
from torch import Tensor, nn

from san_deploy.errors import SanError
from san_deploy.io.cpu import give_back

#: What the graph takes: `uint8` (N, H, W, 3) BGR, or `float` (N, 3, H, W) RGB float32; both 0..255.
INPUTS = ("uint8", "float")
#: Least squared norm of an embedding. Below it a row comes out short instead of NaN, and the runtime,
#: which wants rows of norm 1, refuses it by name.
_LEAST_SQUARE = 1e-24


class OnnxWrapper(nn.Module):
    """Preprocessing, a trained network with a deterministic mask, and the L2 norm, in one module.

    The module owns a copy of the network: changing the one does not change the other.

    Args:
        network: of any architecture; the copy's `mode.evaluate` is set to `mask`.
        mask: `argmax`, `expected` or `ramp:EPS`; without meaning where the network has no sharp mask.
        input_form: one of `INPUTS`.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, network: Network, *, mask: str = "argmax", input_form: str = "uint8") -> None:
        super().__init__()
        if input_form not in INPUTS:
            raise ValueError(f"input form '{input_form}' is none of {', '.join(INPUTS)}")
        self.input_form = input_form
        owned: Any = copy.deepcopy(network).float().eval().requires_grad_(False)
        owned.mode.evaluate = mask  # one object for all blocks, in the copy as in the original
        self.network: nn.Module = owned
        mean, scale = normalisation(std_of(network))
        if input_form == "uint8":
            # BGR costs nothing: the constants and the first convolution's weights change their order, the
            # pixels do not. Mean and scale stay out of the weights: the convolution pads with zeros, which
            # must mean the mean colour, and weights divided by 58 would be subnormal in FP16.
            reverse_input_channels(self.network)
            mean, scale = mean.flip(0), scale.flip(0)
        self.register_buffer("mean", mean[:, None, None])  # (3, 1, 1)
        self.register_buffer("scale", scale[:, None, None])

    def release(self) -> None:
        """Give the memory of its weights back, after which it gives nothing: torch's exporter keeps hold of it."""
        held = 0
        for tensor in (*self.parameters(), *self.buffers()):
            held += tensor.nbytes
            tensor.data = tensor.new_empty(0)
        give_back(held)

    def forward(self, crops: Tensor) -> Tensor:
        """Crops to embeddings.

        Args:
            crops: `(N, H, W, 3)` uint8 BGR, or `(N, 3, H, W)` float32 RGB 0..255, as `input_form` says.

        Returns:
            `(N, D)` float32, rows of L2 norm 1; a row of zeros where the network gave zeros.
        """
        if self.input_form == "uint8":
            # TensorRT takes nothing but a cast of uint8, so the permutation waits for it. It comes before the
            # normalisation, which costs ONNX Runtime ten times as much where the channels lie innermost.
            crops = crops.to(torch.float32).permute(0, 3, 1, 2)  # (N, 3, H, W), BGR
        return unit_rows(self.network((crops - self.mean) * self.scale))


def unit_rows(x: Tensor) -> Tensor:
    """Rows of L2 norm 1, in FP32: `(N, D)` to `(N, D)` float32, a new tensor. A row of zeros stays one."""
    x = x.float()
    return x * torch.rsqrt((x * x).sum(1, keepdim=True).clamp_min(_LEAST_SQUARE))


def reverse_input_channels(network: nn.Module) -> None:
    """Make a network for RGB one for BGR, in place and exactly: reorder its first convolution's weights.

    Raises:
        SanError: not exactly one convolution takes 3 channels, so that the first one is not known.
    """
    first = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and module.in_channels == 3 and module.groups == 1
    ]
    if len(first) > 1:
        # A small network may narrow its own features to 3; the convolution that reads pixels looks around.
        first = [item for item in first if item[1].kernel_size != (1, 1)]
    if len(first) != 1:
        raise SanError(
            f"the network has {len(first)} convolutions on 3 channels, so its first one is not known",
            do="export with --input float",
        )
    weight = first[0][1].weight  # (outputs, 3, k, k)
    with torch.no_grad():
        weight.copy_(weight.flip(1))
