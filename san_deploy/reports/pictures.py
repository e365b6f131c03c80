"""Small JPEGs that stand inside a page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..images import UnreadableImage, read_image

#: Height of a picture, and its greatest width, pixels.
HEIGHT, MAX_WIDTH = 120, 120
_QUALITY = 80
#: What is not attended keeps this share of its light; what is attended gets some of this colour, RGB.
_DIM, _TINT, _TINT_SHARE = 0.22, np.array([255.0, 196.0, 60.0]), 0.18


@dataclass(frozen=True, eq=False)
class BlockMasks:
    """What one attention block drew over one crop.

    Attributes:
        stage: number of the block's stage, from 1.
        channels: number of channels of its features.
        soft_mean: `(h, w)` float32 in 0..1, mean over the channels of pi_1 (eq. 3), or of a soft gate.
        sharp_mean: the same of the sharp mask, 0 or 1 in each channel; None for a soft gate.
        channel: the one whose attended features vary most over the crop, from 0.
        soft: `(h, w)` float32, that channel's pi_1, or soft gate.
        sharp: `(h, w)` float32, that channel's sharp mask, 0 or 1; None for a soft gate.
    """

    stage: int
    channels: int
    soft_mean: np.ndarray
    sharp_mean: np.ndarray | None
    channel: int
    soft: np.ndarray
    sharp: np.ndarray | None


def crop_uri(crop: Path | np.ndarray) -> str:
    """A crop as a data URI, at most `HEIGHT` by `MAX_WIDTH` pixels; empty for a file that cannot be read any more.

    Args:
        crop: an image file, or `(H, W, 3)` uint8 BGR.
    """
    try:
        bgr = crop if isinstance(crop, np.ndarray) else read_image(crop)
    except UnreadableImage:
        return ""
    image = Image.fromarray(np.ascontiguousarray(bgr[:, :, ::-1]))
    scale = min(1.0, HEIGHT / image.height, MAX_WIDTH / image.width)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return jpeg_uri(image.resize(size, Image.Resampling.LANCZOS))


def mask_uri(crop: np.ndarray, mask: np.ndarray) -> str:
    """A mask over its crop as a data URI: attended places light, the others dark, edges as sharp as they are.

    Args:
        crop: `(H, W, 3)` uint8 RGB.
        mask: `(h, w)` float in 0..1.
    """
    size = max(1, round(crop.shape[1] * HEIGHT / crop.shape[0])), HEIGHT
    image = np.asarray(Image.fromarray(crop).resize(size, Image.Resampling.BICUBIC), np.float32)
    wide = Image.fromarray(np.asarray(mask, np.float32)).resize(size, Image.Resampling.NEAREST)
    share = np.asarray(wide)[:, :, None]
    grey = image.mean(axis=2, keepdims=True)
    lit = image * (1.0 - _TINT_SHARE) + _TINT * _TINT_SHARE
    mixed = share * lit + (1.0 - share) * _DIM * grey
    return jpeg_uri(Image.fromarray(np.clip(mixed + 0.5, 0, 255).astype(np.uint8)))


def jpeg_uri(image: Image.Image, *, colour_edges: bool = False) -> str:
    """A picture in RGB as a data URI; with `colour_edges` its colours are as sharp as its light."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, optimize=True, subsampling=0 if colour_edges else 2)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
