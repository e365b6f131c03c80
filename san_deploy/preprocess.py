"""The one preprocessing function, for training, export checks, embedding and benchmarks alike.

Files are resized here and nowhere else; normalisation stands in the graph, so it cannot be done twice.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

from .images import decode
from .io.paths import StrPath

#: Name of the resize, written into every artefact. Pillow's filters widen with the scale, which is what
#: antialiases a large crop; OpenCV's INTER_CUBIC does not (p99 of 22 grey levels on a 300 x 700 crop).
RESIZE = "pillow-bicubic-antialias"


def _pillow(resample: Image.Resampling) -> Callable[[Image.Image, tuple[int, int]], Image.Image]:
    return lambda image, size_wh: image.resize(size_wh, resample)


def _cv2_linear(image: Image.Image, size_wh: tuple[int, int]) -> Image.Image:
    """OpenCV's INTER_LINEAR to within a grey level: two by two pixels at each place, whatever the scale."""
    width, height = size_wh
    x = np.asarray(image, np.float32)
    top, down = _taps(x.shape[0], height)
    left, right = _taps(x.shape[1], width)
    rows = x[top[0]] * (1 - down)[:, None, None] + x[top[1]] * down[:, None, None]
    out = rows[:, left[0]] * (1 - right)[None, :, None] + rows[:, left[1]] * right[None, :, None]
    return Image.fromarray((out + 0.5).astype(np.uint8))


def _taps(size: int, wanted: int) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Places of the two neighbours of each wanted pixel's centre, and the weight of the second."""
    centre = np.clip((np.arange(wanted) + 0.5) * (size / wanted) - 0.5, 0, size - 1)
    first = np.minimum(centre.astype(np.int64), max(size - 2, 0))
    return (first, np.minimum(first + 1, size - 1)), (centre - first).astype(np.float32)


#: Name -> resize of a Pillow image in RGB to (width, height). Ours is `RESIZE`; imported networks have their own.
RESIZES: dict[str, Callable[[Image.Image, tuple[int, int]], Image.Image]] = {
    RESIZE: _pillow(Image.Resampling.BICUBIC),
    "pillow-bilinear-antialias": _pillow(Image.Resampling.BILINEAR),
    "pillow-lanczos-antialias": _pillow(Image.Resampling.LANCZOS),
    "pillow-box": _pillow(Image.Resampling.BOX),
    "cv2-linear": _cv2_linear,
}

#: ImageNet's statistics, in units of 0..1, RGB.
MEAN_RGB = (0.485, 0.456, 0.406)
STD_RGB = (0.229, 0.224, 0.225)


def resize_crop(
    image: npt.NDArray[np.uint8], size_hw: tuple[int, int], resize: str = RESIZE
) -> npt.NDArray[np.uint8]:
    """Bring a crop to the network's input size, without keeping its aspect (as re-ID networks are trained).

    Args:
        image: `(H, W, 3)` uint8, any channel order, H and W >= 1.
        size_hw: height and width of the result, pixels.
        resize: a name in `RESIZES`: `artefact.resize` of the network that is to see it.

    Returns:
        `(size_hw[0], size_hw[1], 3)` uint8 in the same channel order; a new array.
    """
    height, width = size_hw
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ValueError(f"a crop is (H, W, 3) uint8; received {image.shape} {image.dtype}")
    if image.shape[:2] == (height, width):
        return image.copy()
    return np.array(resize_rgb(Image.fromarray(np.ascontiguousarray(image)), size_hw, resize))


def read_crop(path: StrPath, size_hw: tuple[int, int], resize: str = RESIZE) -> npt.NDArray[np.uint8]:
    """`resize_crop(read_image(path), size_hw, resize)`, the same bits with fewer copies; a test holds them together.

    Args:
        path: an image file.
        size_hw: height and width of the result, pixels.
        resize: a name in `RESIZES`.

    Returns:
        `(size_hw[0], size_hw[1], 3)` uint8 BGR, C-contiguous; it may be read-only.

    Raises:
        UnreadableImage: see `images.read_image`.
    """
    image = decode(path)
    if isinstance(image, np.ndarray):
        # Channels do not mix, so that BGR may go through as if it were RGB.
        if image.shape[:2] == size_hw:
            return image
        return np.asarray(resize_rgb(Image.fromarray(image), size_hw, resize))
    return np.frombuffer(resize_rgb(image, size_hw, resize).tobytes("raw", "BGR"), np.uint8).reshape(
        *size_hw, 3
    )


def resize_rgb(image: Image.Image, size_hw: tuple[int, int], resize: str = RESIZE) -> Image.Image:
    """The resize itself, on a Pillow image of three channels; itself where it has the size.

    Raises:
        ValueError: no resize of `RESIZES` has this name.
    """
    height, width = size_hw
    if resize not in RESIZES:
        raise ValueError(f"resize '{resize}' is unknown; known are {', '.join(RESIZES)}")
    return image if image.size == (width, height) else RESIZES[resize](image, (width, height))
