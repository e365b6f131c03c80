"""Cutting HA-CNN's regions out of a feature map, without a grid (section 3.1 of arXiv 1802.08122, hard attention).

The published code samples each region at the size of the whole source (affine grid, bilinear, zeros outside),
and resizes that bilinearly to the stream's size. A region is moved and scaled, never turned, so both steps work
on rows and columns apart, and each number of the result mixes four rows and four columns at most:

    region = A(t_y) X B(t_x),   A[i, j] = sum over two neighbours n of i:  w[n] max(0, 1 - |p(n) - j|)

where p(n) is the row of the source that row n of the grid falls on. What lies outside has no row j near it and
weighs nothing. No operator of this is special to any runtime, and p, a count of pixels, can stay in FP32.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from .ha_cnn_units import REGION_SCALE, REGIONS


class _Sampling(nn.Module):
    """Weights of one axis of the source for each place of one axis of the region.

    Args:
        source: size of the source.
        target: size of the region.
        scale: part of the source that a region spans.
        align_corners: whether -1 and 1 are the middles of the outer pixels, or the edges.
    """

    shares: Tensor
    offsets: Tensor

    def __init__(self, source: int, target: int, scale: float, *, align_corners: bool) -> None:
        super().__init__()
        grid = np.arange(source, dtype=np.float64)
        if align_corners:
            middles = 2 * grid / max(source - 1, 1) - 1 if source > 1 else np.zeros(1)
            self.unit = (source - 1) / 2
            pixels = (scale * middles + 1) * self.unit
        else:
            middles = (2 * grid + 1) / source - 1
            self.unit = source / 2
            pixels = (scale * middles + 1) * self.unit - 0.5
        # The resize, align_corners true whatever the sampling has.
        wanted = np.linspace(0, source - 1, target)
        near = np.minimum(np.floor(wanted), max(source - 2, 0)).astype(int)
        share = wanted - near
        neighbours = (near, np.minimum(near + 1, source - 1))
        offsets = [pixels[neighbour][:, None] - grid for neighbour in neighbours]  # (target, source) each
        self._constant("offsets", np.stack(offsets))
        self._constant("shares", np.stack([1 - share, share])[..., None])

    def _constant(self, name: str, values: np.ndarray) -> None:
        # They follow from the settings: no weights, and not in the checkpoint.
        self.register_buffer(name, torch.from_numpy(values).float(), persistent=False)

    def forward(self, place: Tensor) -> Tensor:
        """Where the regions' middles are, `(N, REGIONS, 1, 1)`, to weights, `(N, REGIONS, target, source)`."""
        moved = place * self.unit
        near, far = (torch.relu(1 - torch.abs(moved + offsets)) for offsets in self.offsets.unbind())
        return near * self.shares[0] + far * self.shares[1]


class RegionCrop(nn.Module):
    """Regions of a feature map, all four of each image at once.

    Args:
        source_hw: height and width of the source.
        target_hw: of a region.
        align_corners: of the sampling: false is today's torchreid, true was PyTorch's own before 1.3, when the
            2018 weights were trained.
    """

    def __init__(
        self, source_hw: tuple[int, int], target_hw: tuple[int, int], *, align_corners: bool
    ) -> None:
        super().__init__()
        self.source_hw, self.target_hw = source_hw, target_hw
        self.rows, self.columns = (
            _Sampling(source, target, scale, align_corners=align_corners)
            for source, target, scale in zip(source_hw, target_hw, REGION_SCALE, strict=True)
        )

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        """Cut the regions out.

        Args:
            x: `(N, C, *source_hw)`.
            places: `(N, REGIONS, 2)` float32, x and y of their middles, as `HarmoniousAttention` gives them.

        Returns:
            `(N * REGIONS, C, *target_hw)`, an image's regions behind one another.
        """
        (height, width), (rows, columns) = self.source_hw, self.target_hw
        channels = x.shape[1]
        places = places[..., None]  # (N, REGIONS, 2, 1)
        down = self.rows(places[:, :, 1:])  # (N, REGIONS, rows, height)
        across = self.columns(places[:, :, :1]).transpose(2, 3)  # (N, REGIONS, width, columns)
        # One matrix product for all regions and channels of an image: nothing is copied for a broadcast.
        lines = x.transpose(1, 2).reshape(-1, height, channels * width)
        cut = down.reshape(-1, REGIONS * rows, height) @ lines
        cut = cut.reshape(-1, REGIONS, rows * channels, width) @ across
        return cut.reshape(-1, rows, channels, columns).transpose(1, 2)
