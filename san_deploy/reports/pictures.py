"""Small JPEGs that stand inside a page."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from ..images import UnreadableImage, open_rgb

#: Height of a picture, and its greatest width, pixels.
HEIGHT, MAX_WIDTH = 120, 120
_QUALITY = 80
#: What is not attended keeps this share of its light; what is attended gets some of this colour, RGB.
_DIM, _TINT, _TINT_SHARE = 0.22, np.array([255.0, 196.0, 60.0]), 0.18


def crop_uri(path: Path) -> str:
    """An image file as a data URI; empty where it cannot be read any more."""
    try:
        image = open_rgb(path)
    except UnreadableImage:
        return ""
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
