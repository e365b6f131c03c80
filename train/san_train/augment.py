"""Augmentation of one crop, in NumPy and Pillow: all draws come from the generator that is handed in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from san_deploy.preprocess import resize_crop

#: Kernels beside the product's own, Pillow's bicubic.
OTHER_KERNELS = ("bilinear", "lanczos", "linear", "cubic", "area")
_PILLOW = {"bilinear": Image.Resampling.BILINEAR, "lanczos": Image.Resampling.LANCZOS}


@dataclass(frozen=True)
class Augmentation:
    """What is done to a training crop. Values at 0 (or `area` at 1, 1) switch a step off.

    Attributes:
        area: range of the cut-out's share of the crop's area (paper: 0.64, 1).
        aspect: range of the cut-out's height / width (paper: 2, 3).
        flip: probability of a horizontal flip.
        tone: strength of brightness, contrast, gamma and white balance, 0..1; another for each crop, as
            each camera has its own light. Not in the paper.
        saturation: range of a factor on the saturation, 1 - s .. 1 + s. Not in the paper.
        erase: probability of a random rectangle (Zhong et al., arXiv 1708.04896), filled with noise.
        erase_area: range of that rectangle's share of the area.
        blur: probability of a loss of resolution: down by up to 3 and up again. Not in the paper.
        kernels: probability that the crop is resized by another kernel than the product's: Pillow's bilinear or
            Lanczos, or linear, cubic or area as OpenCV computes them. Not in the paper.
        crosstalk: deviation of the share of each colour in another. Not in the paper.
        haze: share of a grey laid over everything, 0..haze, in half of the crops. Not in the paper.
        grain: deviation of noise, up to so many grey levels, in a third of the crops. Not in the paper.
    """

    area: tuple[float, float] = (0.64, 1.0)
    aspect: tuple[float, float] = (2.0, 3.0)
    flip: float = 0.5
    tone: float = 0.0
    saturation: float = 0.0
    erase: float = 0.0
    erase_area: tuple[float, float] = (0.02, 0.3)
    blur: float = 0.0
    kernels: float = 0.0
    crosstalk: float = 0.0
    haze: float = 0.0
    grain: float = 0.0


def augment(
    image: np.ndarray, size_hw: tuple[int, int], settings: Augmentation, rng: np.random.Generator
) -> np.ndarray:
    """A training view of a crop.

    Args:
        image: `(H, W, 3)` uint8 BGR.
        size_hw: of the result.
        settings: what to draw from.
        rng: the only source of randomness.

    Returns:
        `(size_hw[0], size_hw[1], 3)` uint8 BGR, contiguous, a new array.
    """
    top, left, height, width = _cut(image.shape[0], image.shape[1], settings, rng)
    cut = image[top : top + height, left : left + width]
    if rng.random() < settings.blur:
        scale = rng.uniform(1.0, 3.0)
        cut = resize_crop(cut, (max(8, round(height / scale)), max(4, round(width / scale))))
    if rng.random() < settings.kernels:
        view = resize_otherwise(cut, size_hw, OTHER_KERNELS[int(rng.integers(len(OTHER_KERNELS)))])
    else:
        view = resize_crop(cut, size_hw)
    if rng.random() < settings.flip:
        view = view[:, ::-1]
    if settings.tone or settings.saturation or settings.crosstalk or settings.haze:
        view = _recolour(view, settings, rng)
    if settings.grain and rng.random() < 1 / 3:
        noise = rng.standard_normal(view.shape, np.float32) * np.float32(rng.uniform(0, settings.grain))
        view = np.clip(view + noise, 0, 255).astype(np.uint8)
    view = np.ascontiguousarray(view)
    if rng.random() < settings.erase:
        _erase(view, settings, rng)
    return view


def resize_otherwise(image: np.ndarray, size_hw: tuple[int, int], kernel: str) -> np.ndarray:
    """`resize_crop` by another kernel, as users' own code has it.

    Args:
        image: `(H, W, 3)` uint8.
        size_hw: of the result.
        kernel: of `OTHER_KERNELS`. `linear`, `cubic` and `area` are OpenCV's: the first two do not antialias.

    Returns:
        `(size_hw[0], size_hw[1], 3)` uint8, a new array.
    """
    if kernel in _PILLOW:
        wide = Image.fromarray(np.ascontiguousarray(image))
        return np.array(wide.resize(size_hw[::-1], _PILLOW[kernel]))
    values = image.astype(np.float32)
    for axis in (0, 1):
        values = _along(values, size_hw[axis], kernel, axis)
    return np.clip(values + np.float32(0.5), 0, 255).astype(np.uint8)


def _along(values: np.ndarray, size: int, kernel: str, axis: int) -> np.ndarray:
    """One axis brought to `size`, float32."""
    source = values.shape[axis]
    if kernel == "area" and source > size:
        # Means between fractional edges: differences of the running sum, which is straight within a pixel.
        edges = np.arange(size + 1) * (source / size)
        total = np.concatenate([np.zeros_like(values.take([0], axis)), values.cumsum(axis)], axis)
        first = np.minimum(edges.astype(int), source - 1)
        part = _column((edges - first).astype(np.float32), values.ndim, axis)
        at_edges = total.take(first, axis) * (1 - part) + total.take(first + 1, axis) * part
        return np.diff(at_edges, axis=axis) * np.float32(size / source)
    place = (np.arange(size) + 0.5) * (source / size) - 0.5
    first = np.floor(place).astype(int)
    part = place - first
    result = np.zeros_like(values.take(first * 0, axis))
    for tap in range(-1, 3) if kernel == "cubic" else (0, 1):
        weight = _column(_weight(np.abs(tap - part), kernel), values.ndim, axis)
        result += values.take(np.clip(first + tap, 0, source - 1), axis) * weight
    return result


def _weight(distance: np.ndarray, kernel: str) -> np.ndarray:
    """Of a pixel at some distance, float32: the triangle, or Keys' cubic with OpenCV's a = -0.75."""
    if kernel != "cubic":
        return np.clip(1 - distance, 0, None).astype(np.float32)
    near = (1.25 * distance - 2.25) * distance**2 + 1
    far = ((-0.75 * distance + 3.75) * distance - 6) * distance + 3
    return np.where(distance <= 1, near, far).astype(np.float32)


def _column(numbers: np.ndarray, ndim: int, axis: int) -> np.ndarray:
    return numbers.reshape([-1 if place == axis else 1 for place in range(ndim)])


def _cut(
    height: int, width: int, settings: Augmentation, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Top, left, height, width of a random cut-out; the whole crop where ten draws do not fit."""
    for _ in range(10):
        area = height * width * rng.uniform(*settings.area)
        aspect = rng.uniform(*settings.aspect)
        h, w = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < h <= height and 0 < w <= width:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    # A crop far narrower than the wanted aspect: keep its own, cut by area alone.
    scale = rng.uniform(*settings.area) ** 0.5
    h, w = max(1, round(height * scale)), max(1, round(width * scale))
    return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w


def _recolour(view: np.ndarray, settings: Augmentation, rng: np.random.Generator) -> np.ndarray:
    s = settings.tone
    factor = 1.0 + rng.uniform(-settings.saturation, settings.saturation) if settings.saturation else 1.0
    if settings.crosstalk:
        # Saturation and crosstalk are one matrix.
        mixer = np.eye(3) * factor + (1.0 - factor) * np.array([0.114, 0.587, 0.299])
        mixer = (np.eye(3) + rng.normal(0.0, settings.crosstalk, (3, 3))) @ mixer
        mixed = view.reshape(-1, 3).astype(np.float32) @ mixer.T.astype(np.float32)
        view = _to_bytes(mixed).reshape(view.shape)
    elif settings.saturation:
        pixels = view.astype(np.float32)
        grey = pixels @ np.array([0.114, 0.587, 0.299], np.float32)
        # By planes: NumPy goes along the last axis, and three values are a short way.
        planes = pixels.transpose(2, 0, 1).copy()
        planes -= grey
        planes *= np.float32(factor)
        planes += grey
        view = _to_bytes(planes).transpose(1, 2, 0)
    # One table per channel does gamma, contrast, brightness and white balance in one look-up.
    level = np.linspace(0.0, 1.0, 256)
    gamma = np.exp(rng.uniform(-0.6, 0.6) * s)
    contrast = np.exp(rng.uniform(-0.5, 0.5) * s)
    brightness = np.exp(rng.uniform(-0.5, 0.5) * s)
    cast = np.exp(rng.uniform(-0.25, 0.25, 3) * s)
    haze = rng.uniform(0, settings.haze) if settings.haze and rng.random() < 0.5 else 0.0
    curve = ((level**gamma - 0.5) * contrast + 0.5) * brightness
    curves = curve * cast[:, None] * (1.0 - haze) + 0.7 * haze
    tables = np.clip(curves * 255.0 + 0.5, 0, 255).astype(np.uint8)
    out = np.empty(view.shape, np.uint8)
    for channel, table in enumerate(tables):
        out[..., channel] = table.take(view[..., channel])
    return out


def _to_bytes(values: np.ndarray) -> np.ndarray:
    """Rounded to uint8 and cut to its range; the float32 values are lost."""
    values += np.float32(0.5)
    return np.clip(values, 0, 255, out=values).astype(np.uint8)


def _erase(view: np.ndarray, settings: Augmentation, rng: np.random.Generator) -> None:
    height, width = view.shape[:2]
    for _ in range(10):
        area = height * width * rng.uniform(*settings.erase_area)
        aspect = np.exp(rng.uniform(np.log(0.3), np.log(3.3)))
        h, w = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < h < height and 0 < w < width:
            top, left = int(rng.integers(height - h)), int(rng.integers(width - w))
            view[top : top + h, left : left + w] = rng.integers(0, 256, (h, w, 3), dtype=np.uint8)
            return
