"""Sharp attention: masks sampled from feature maps ("Sharp Attention Network", arXiv 1805.02336, section III).

Equation numbers in this file are that paper's. Masks are computed in FP32 whatever the network runs in:
a mask is a step function, and a threshold rounded to 16 bits flips bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from san_deploy.artefact import parse_mask

#: Keeps logit(pi) finite: |logit| <= 13.8, beyond the reach of all but 1e-6 of Logistic(0, 1) draws.
_EPSILON = 1e-6


@dataclass
class MaskMode:
    """How masks are drawn. One instance is shared by all blocks of a network, so one assignment switches all.

    Attributes:
        train: in training mode: `sample` (eq. 5), `sample-hard` (eq. 4 forward, eq. 5 backward),
            `straight-through` (argmax forward, pi backward) or `expected` (M = pi_1).
        evaluate: in evaluation mode: `argmax`, `expected` or `ramp:EPS`.
        tau: temperature of eq. 5.
    """

    train: str = "sample"
    evaluate: str = "argmax"
    tau: float = 1.0


def channel_bounds(x: Tensor) -> tuple[Tensor, Tensor]:
    """Minimum and maximum of each sample's own channels, never of the batch.

    Args:
        x: `(N, C, H, W)`.

    Returns:
        Two `(N, C, 1, 1)` tensors of the type of `x`.
    """
    return x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)


def attend_probability(x: Tensor) -> Tensor:
    """Eq. 3: pi_1 = (x - min) / (max - min), `(N, C, H, W)` in [0, 1]; a constant channel gives 0."""
    low, high = channel_bounds(x)
    span = high - low
    # The quotient by 1 of a constant channel is exactly 0 and has a finite gradient.
    return (x - low) / torch.where(span > 0, span, torch.ones_like(span))


def argmax_mask(x: Tensor) -> Tensor:
    """Eq. 4 without noise, tau -> 0: 1 where x > (min + max) / 2, else 0; a tie and a constant channel give 0.

    No random operator, division or logarithm: this is the form that is exported.
    """
    low, high = channel_bounds(x)
    return (x > (low + high) * 0.5).to(x.dtype)


def ramp_mask(x: Tensor, eps: float) -> Tensor:
    """clip((x - (min + max) / 2) / (eps (max - min)) + 1/2, 0, 1); a constant channel gives 0.

    eps -> 0 is the argmax mask, eps = 1 is pi_1. Not in the paper.
    """
    low, high = channel_bounds(x)
    span = high - low
    ramp = (x - (low + high) * 0.5) / torch.where(span > 0, span * eps, torch.ones_like(span)) + 0.5
    return ramp.clamp(0.0, 1.0) * (span > 0)


def relaxed_sample(pi: Tensor, tau: float) -> Tensor:
    """Eq. 5 for two classes: sigmoid((logit(pi_1) + L) / tau), L = g_1 - g_0 one Logistic(0, 1) draw.

    Args:
        pi: pi_1, `(N, C, H, W)` float32 in [0, 1].
        tau: temperature, > 0.

    Returns:
        A differentiable sample in (0, 1), the shape of `pi`.
    """
    logistic = torch.logit(torch.rand_like(pi), eps=_EPSILON)
    logit = torch.logit(pi, eps=_EPSILON)
    # Eq. 3 says a place of pi = 0 is never attended; the clamp alone would leave one in a million.
    return torch.sigmoid((logit + logistic) / tau) * (pi > 0)


def _straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """`hard` in the forward pass, the gradient of `soft` in the backward pass."""
    return hard.detach() + soft - soft.detach()


class SharpAttention(nn.Module):
    """F = (1 + M) T (eq. 1 and 2), with M drawn from X: T itself, or what a context-aware unit made of it.

    Args:
        mode: shared by all blocks of a network.
        gate: `sharp`, or `soft` for a sigmoid of X (the paper's comparison).
        context: the context-aware unit, or None.
    """

    def __init__(self, mode: MaskMode, *, gate: str = "sharp", context: nn.Module | None = None) -> None:
        super().__init__()
        self.mode = mode
        self.gate = gate
        self.context = context

    def mask(self, trunk: Tensor) -> tuple[Tensor, Tensor | None]:
        """M and, for a sharp gate in training, pi_1; both float32, shaped as `trunk`, `(N, C, H, W)`."""
        x = trunk if self.context is None else self.context(trunk)
        x = x.float()
        if self.gate == "soft":
            return torch.sigmoid(x), None
        if not self.training:
            kind, eps = parse_mask(self.mode.evaluate)
            if kind == "argmax":
                return argmax_mask(x), None
            return (attend_probability(x) if kind == "expected" else ramp_mask(x, eps)), None
        pi = attend_probability(x)
        if self.mode.train == "expected":
            return pi, pi
        if self.mode.train == "straight-through":
            return _straight_through((pi > 0.5).to(pi.dtype), pi), pi
        sample = relaxed_sample(pi, self.mode.tau)
        if self.mode.train == "sample-hard":
            sample = _straight_through((sample > 0.5).to(pi.dtype), sample)
        elif self.mode.train != "sample":
            raise ValueError(f"unknown training mask '{self.mode.train}'")
        return sample, pi

    def forward(self, trunk: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns F, A = M T (for the TV penalty) and pi_1 (None outside the training of a sharp gate)."""
        mask, pi = self.mask(trunk)
        attended = mask.to(trunk.dtype) * trunk
        return trunk + attended, attended, pi


class ContextUnit(nn.Module):
    """The context-aware unit (fig. 4, p = q = 1): a residual unit of stride 2, then back to the size of T.

    Args:
        unit: the architecture of the next stage's first unit, stride 2, with weights of its own.
        inner: its output channels.
        channels: channels of T.
        upsample: `deconv`, the paper's deconvolution with a 1 x 1 kernel and stride 2, which fills one
            position in four and leaves exact zeros elsewhere; or `bilinear`, the same weights applied at
            the low resolution and interpolated (not in the paper).
    """

    def __init__(self, unit: nn.Module, *, inner: int, channels: int, upsample: str) -> None:
        super().__init__()
        self.unit = unit
        self.up = nn.ConvTranspose2d(inner, channels, kernel_size=1, stride=2, bias=False)
        self.upsample = upsample

    def forward(self, trunk: Tensor) -> Tensor:
        """`(N, C, H, W)` to `(N, C, H, W)`."""
        low = self.unit(trunk)  # (N, inner, ceil(H / 2), ceil(W / 2))
        height, width = trunk.shape[2:]
        if self.upsample == "bilinear":
            low = F.conv_transpose2d(low, self.up.weight)
            return F.interpolate(low, size=(height, width), mode="bilinear", align_corners=False)
        # Stride 2 gives 2n - 1 places; the rest of an even size is output padding: zeros, as the others.
        padding = (height - 2 * low.shape[2] + 1, width - 2 * low.shape[3] + 1)
        return F.conv_transpose2d(low, self.up.weight, stride=2, output_padding=padding)


def tv_penalty(attended: Tensor) -> Tensor:
    """Eq. 6: squared differences of vertical and of horizontal neighbours, summed over channels.

    Args:
        attended: A, `(N, C, H, W)`.

    Returns:
        `(N,)` float32. Its gradient is eq. 7.
    """
    a = attended.float()
    vertical = (a[:, :, 1:] - a[:, :, :-1]).square().sum((1, 2, 3))
    horizontal = (a[:, :, :, 1:] - a[:, :, :, :-1]).square().sum((1, 2, 3))
    return vertical + horizontal


def mask_margin_loss(pi: Tensor, width: float) -> Tensor:
    """How much of pi_1 lies near the threshold, where rounding flips a bit: mean of max(0, 1 - |2 pi - 1| / width).

    Not in the paper. `pi` is `(N, C, H, W)`, `width` in (0, 1]; returns a scalar in [0, 1].
    """
    return F.relu(1.0 - (2.0 * pi - 1.0).abs() / width).mean()


def temperature(epoch: float, *, rate: float = 0.008, floor: float = 0.5) -> float:
    """Eq. 9: tau = max(exp(-rate * epoch), floor); 1 at epoch 0."""
    return max(math.exp(-rate * epoch), floor)
