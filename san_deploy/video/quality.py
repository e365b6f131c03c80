"""How good a crop a box gives: height, overlap with nearer people, contact with the border, sharpness."""

from __future__ import annotations

import numpy as np
from PIL import Image

#: Sharpness is measured at one size, so that it does not grow with the crop. Height and width, pixels.
SHARPNESS_HW = (128, 64)
#: A box nearer to the border of the frame than this part of its height is cut by it, as trackers clip.
_AT_BORDER = 0.01
#: What contact with the border takes from a crop's quality.
_CUT = 0.5


def overlaps(xyxy: np.ndarray) -> np.ndarray:
    """The part of each box that the most overlapping nearer box covers.

    Of two people the one whose feet stand lower in the picture is the nearer.

    Args:
        xyxy: `(N, 4)` float, the boxes of one frame.

    Returns:
        `(N,)` float64, 0..1.
    """
    left = np.maximum(xyxy[:, None, 0], xyxy[None, :, 0])
    top = np.maximum(xyxy[:, None, 1], xyxy[None, :, 1])
    right = np.minimum(xyxy[:, None, 2], xyxy[None, :, 2])
    bottom = np.minimum(xyxy[:, None, 3], xyxy[None, :, 3])
    shared = np.clip(right - left, 0, None) * np.clip(bottom - top, 0, None)
    area = (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])
    nearer = xyxy[None, :, 3] > xyxy[:, None, 3]
    covered: np.ndarray = np.where(nearer, shared, 0.0).max(axis=1, initial=0.0) / area
    return covered


def touches_border(xyxy: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    """Whether boxes end at the border of the frame, so that a part of the person is outside.

    Args:
        xyxy: `(N, 4)` float, pixels.
        size_wh: width and height of the frame, pixels.

    Returns:
        `(N,)` bool.
    """
    width, height = size_wh
    margin = np.maximum(_AT_BORDER * (xyxy[:, 3] - xyxy[:, 1]), 1.0)
    outside: np.ndarray = (
        (xyxy[:, 0] < margin)
        | (xyxy[:, 1] < margin)
        | (xyxy[:, 2] > width - margin)
        | (xyxy[:, 3] > height - margin)
    )
    return outside


def sharpness(crop: np.ndarray) -> float:
    """Variance of the Laplacian of the grey crop at `SHARPNESS_HW`, 0 for one colour.

    Args:
        crop: `(H, W, 3)` uint8 BGR.
    """
    height, width = SHARPNESS_HW
    grey = Image.fromarray(np.ascontiguousarray(crop[:, :, ::-1])).convert("L").resize((width, height))
    x = np.asarray(grey, np.float32)
    laplacian = x[:-2, 1:-1] + x[2:, 1:-1] + x[1:-1, :-2] + x[1:-1, 2:] - 4 * x[1:-1, 1:-1]
    return float(laplacian.var())


def quality(height_px: float, sharp: float, overlap: float, at_border: bool, confidence: float) -> float:
    """One number to choose the best of a track's crops by; only the order of a track's own crops means something.

    Args:
        height_px: of the box, pixels.
        sharp: `sharpness`.
        overlap: `overlaps`, 0..1.
        at_border: `touches_border`.
        confidence: the tracker's, 0..1.
    """
    return height_px * (1 + sharp) ** 0.5 * (1 - overlap) ** 2 * (_CUT if at_border else 1.0) * confidence
