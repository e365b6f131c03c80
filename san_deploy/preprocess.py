"""The one preprocessing function, for training, export checks, embedding and benchmarks alike.

Files are resized here and nowhere else; normalisation stands in the graph, so it cannot be done twice.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from .images import open_rgb
from .io.paths import StrPath

#: Name of the resize, written into every artefact. Pillow's filters widen with the scale, which is what
#: antialiases a large crop; OpenCV's INTER_CUBIC does not (p99 of 22 grey levels on a 300 x 700 crop).
RESIZE = "pillow-bicubic-antialias"

#: ImageNet's statistics, in units of 0..1, RGB.
MEAN_RGB = (0.485, 0.456, 0.406)
STD_RGB = (0.229, 0.224, 0.225)


def resize_crop(image: npt.NDArray[np.uint8], size_hw: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Bring a crop to the network's input size, without keeping its aspect (as re-ID networks are trained).

    Args:
        image: `(H, W, 3)` uint8, any channel order, H and W >= 1.
        size_hw: height and width of the result, pixels.

    Returns:
        `(size_hw[0], size_hw[1], 3)` uint8 in the same channel order; a new array.
    """
    height, width = size_hw
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ValueError(f"a crop is (H, W, 3) uint8; received {image.shape} {image.dtype}")
    if image.shape[:2] == (height, width):
        return image.copy()
    return np.array(resize_rgb(Image.fromarray(np.ascontiguousarray(image)), size_hw))


def read_crop(path: StrPath, size_hw: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """`resize_crop(read_image(path), size_hw)`, the same bits at four fifths of the cost.

    It leaves out three copies of the full picture, between Pillow's layout and NumPy's and between RGB and
    BGR. A test holds the two together.

    Args:
        path: an image file.
        size_hw: height and width of the result, pixels.

    Returns:
        `(size_hw[0], size_hw[1], 3)` uint8 BGR; a read-only view.

    Raises:
        UnreadableImage: see `images.read_image`.
    """
    return np.asarray(resize_rgb(open_rgb(path), size_hw))[:, :, ::-1]


def resize_rgb(image: Image.Image, size_hw: tuple[int, int]) -> Image.Image:
    """The resize itself, on a Pillow image of any mode; itself where it has the size."""
    height, width = size_hw
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)
