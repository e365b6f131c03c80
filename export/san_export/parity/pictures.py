"""Crops, masks and flips as small pictures that stand inside the page."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from san_deploy.reports.pictures import HEIGHT, jpeg_uri, mask_uri

#: What has not flipped keeps this share of its light; a single flip has at least this share of the colour, RGB.
_DIM, _FLIP, _LEAST = 0.45, np.array([235.0, 52.0, 40.0]), 0.55
#: The colour of a heat map, which lies on a light or a dark page.
_HEAT = (205, 60, 45)


def mask_uris(image: np.ndarray, reference: np.ndarray, target: np.ndarray) -> tuple[str, str]:
    """Both masks over their crop, stretched alike: equal places look equal.

    Args:
        image: `(H, W, 3)` uint8 BGR.
        reference: `(h, w)` float in 0..1.
        target: likewise.
    """
    known = reference[np.isfinite(reference)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)

    def stretched(mask: np.ndarray) -> np.ndarray:
        # A mean over many channels hardly varies; one value all over is drawn as not attended.
        away = np.nan_to_num(mask.astype(np.float64) - low, posinf=0.0, neginf=0.0)
        return np.clip(away / (high - low), 0.0, 1.0) if high > low else np.clip(away, 0.0, 1.0)

    rgb = image[:, :, ::-1]
    return mask_uri(rgb, stretched(reference)), mask_uri(rgb, stretched(target))


def flips_uri(image: np.ndarray, flips: np.ndarray) -> str:
    """Flipped bits over the grey crop, in squares as large as a place of the mask.

    Args:
        image: `(H, W, 3)` uint8 BGR.
        flips: `(h, w)` counts over the channels.
    """
    size = max(1, round(image.shape[1] * HEIGHT / image.shape[0])), HEIGHT
    rgb = Image.fromarray(np.ascontiguousarray(image[:, :, ::-1]))
    grey = np.asarray(rgb.convert("L").resize(size, Image.Resampling.BICUBIC), np.float32)[:, :, None]
    wide = np.asarray(
        Image.fromarray(_shares(flips).astype(np.float32)).resize(size, Image.Resampling.NEAREST)
    )[:, :, None]
    mixed = (1.0 - wide) * _DIM * grey + wide * _FLIP
    return jpeg_uri(Image.fromarray(np.clip(mixed + 0.5, 0, 255).astype(np.uint8)), colour_edges=True)


def heat_uri(flips: np.ndarray) -> str:
    """Flips by place, `(h, w)` counts, as a PNG of one pixel each; places without a flip are clear."""
    rgba = np.empty((*flips.shape, 4), np.uint8)
    rgba[:, :, :3] = _HEAT
    rgba[:, :, 3] = np.round(255 * _shares(flips))
    buffer = io.BytesIO()
    Image.fromarray(rgba).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _shares(flips: np.ndarray) -> np.ndarray:
    """From 0 to 1, no flip 0, the most flips 1; a single one is seen."""
    most = flips.max(initial=0)
    if most <= 0:
        return np.zeros(flips.shape)
    return np.where(flips > 0, _LEAST + (1.0 - _LEAST) * (flips - 1) / max(1, most - 1), 0.0)
