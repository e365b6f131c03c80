"""Brushes: tubes and ellipsoids painted with anti-aliased edges onto a float canvas, with the coordinates on
their surface, so that cloth, prints and faces turn with the body.

Edges are anti-aliased analytically (coverage from the distance to the outline), which looks like
supersampling and costs a quarter of supersampling by 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Float32 throughout; numpy's own stubs widen so readily that the type says `floating`.
Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Patch:
    """The part of a canvas that a brush covers.

    Attributes:
        window: the rows and columns of the canvas.
        across: (h, w), -1 at the left outline .. 1 at the right one.
        along: (h, w), position along the shape, in the unit of the brush.
        cover: (h, w), 0..1, how much of the pixel is covered.
    """

    window: tuple[slice, slice]
    across: Array
    along: Array
    cover: Array


def limb(
    canvas: Array,
    start: tuple[float, float],
    end: tuple[float, float],
    radii: tuple[float, float],
    wobble: float = 0.0,
) -> Patch | None:
    """A tapered tube with round ends.

    Args:
        canvas: (H, W, 3) or (H, W), only its size is read.
        start: x, y of the axis's start, pixels.
        end: x, y of its end, pixels.
        radii: at start and end, pixels.
        wobble: phase of the folds that make the outline uneven; 0 leaves it smooth.

    Returns:
        the patch, `along` 0 at the start .. 1 at the end, or None when it is outside the canvas.
    """
    (x0, y0), (x1, y1) = start, end
    reach = max(radii) + 1.0
    window = _window(
        canvas, min(x0, x1) - reach, min(y0, y1) - reach, max(x0, x1) + reach, max(y0, y1) + reach
    )
    if window is None:
        return None
    dx, dy = x1 - x0, y1 - y0
    length2 = max(dx * dx + dy * dy, 1e-6)
    x, y = _axes(window)
    x -= np.float32(x0)
    y -= np.float32(y0)
    # Separable in x and y: outer sums of two vectors instead of full-size products.
    along = np.clip(x * np.float32(dx / length2) + y * np.float32(dy / length2), 0.0, 1.0)
    off_x = x - along * np.float32(dx)
    off_y = y - along * np.float32(dy)
    radius = along * np.float32(radii[1] - radii[0]) + np.float32(radii[0])
    if wobble:
        radius = radius * (1.0 + _uneven(along, 1.0, wobble))
    distance = np.sqrt(off_x * off_x + off_y * off_y)
    cover = np.clip(radius - distance + np.float32(0.5), 0.0, 1.0)
    # Right of the axis on the screen counts as positive, whichever way the limb points.
    turn = np.float32(1.0 if dy >= 0 else -1.0)
    length = np.float32(np.sqrt(length2))
    across = (off_x * np.float32(dy) - off_y * np.float32(dx)) * (turn / length) / np.maximum(radius, 0.5)
    return Patch(window, np.clip(across, -1.0, 1.0), along, cover)


def tube(
    canvas: Array,
    rows: Array,
    centres: Array,
    half_widths: Array,
    sag: Array,
    *,
    ends: tuple[float, float],
    wobble: float = 0.0,
) -> Patch | None:
    """An upright tube given row by row, whose cross-sections sag towards the viewer (seen from above).

    Args:
        canvas: (H, W, 3), only its size is read.
        rows: (n,) y of the knots, pixels, increasing.
        centres: (n,) x of the axis at the knots.
        half_widths: (n,) half width at the knots.
        sag: (n,) pixels that the nearest point of the cross-section lies lower than its rim.
        ends: y of the upper and the lower rim of the axis.
        wobble: as in `limb`.

    Returns:
        the patch, `along` being the y of the axis (pixels) that the surface point belongs to, or None.
    """
    top, bottom = ends
    reach = float(half_widths.max()) + 1.0
    window = _window(
        canvas,
        float(centres.min()) - reach,
        top - 1.0,
        float(centres.max()) + reach,
        bottom + float(sag.max()) + 1.0,
    )
    if window is None:
        return None
    x, y = _axes(window)
    flat = y[:, 0]
    middle: Array = np.interp(flat, rows, centres).astype(np.float32)[:, None]
    half: Array = np.interp(flat, rows, half_widths).astype(np.float32)[:, None]
    drop = np.interp(flat, rows, sag).astype(np.float32)[:, None]
    if wobble:
        height = np.float32(max(bottom - top, 1.0))
        down = (y - np.float32(top)) / height
        middle = middle + half * _uneven(down, 1.7, wobble + 2.0) * np.float32(0.6)
        half = half * (1.0 + _uneven(down, 1.7, wobble) * np.float32(0.6))
    off = x - middle
    across = np.clip(off / np.maximum(half, 0.5), -1.0, 1.0)
    along = y - drop * np.sqrt(1.0 - across * across)
    cover = np.clip(half - np.abs(off) + np.float32(0.5), 0.0, 1.0)
    cover *= np.clip(np.float32(bottom + 0.5) - along, 0.0, 1.0)
    cover *= np.clip(y - np.float32(top - 0.5), 0.0, 1.0)
    return Patch(window, across, along, cover)


def ball(
    canvas: Array, centre: tuple[float, float], radii: tuple[float, float], power: float = 2.0
) -> Patch | None:
    """An ellipse or, with a power above 2, a rounded box. `along` is -1 at its top .. 1 at its bottom."""
    (x0, y0), (rx, ry) = centre, radii
    window = _window(canvas, x0 - rx - 1, y0 - ry - 1, x0 + rx + 1, y0 + ry + 1)
    if window is None:
        return None
    x, y = _axes(window)
    across = (x - np.float32(x0)) / np.float32(max(rx, 0.5))
    along = (y - np.float32(y0)) / np.float32(max(ry, 0.5))
    if power == 2.0:
        level = np.sqrt(across * across + along * along)
    else:
        square = np.float32(power / 2.0)
        level = ((across * across) ** square + (along * along) ** square) ** np.float32(1.0 / power)
    cover = np.clip((1.0 - level) * np.float32(min(rx, ry)) + np.float32(0.5), 0.0, 1.0)
    return Patch(window, np.clip(across, -1.0, 1.0), np.clip(along, -1.0, 1.0), cover)


def lay(canvas: Array, patch: Patch, colour: Array) -> None:
    """Paint `colour`, (h, w, 3) or (3,), over the canvas where the patch covers it."""
    part = canvas[patch.window]
    part += (colour - part) * patch.cover[..., None]


def mix(under: Array, over: Array | tuple[float, float, float], weight: Array) -> Array:
    """`under` (h, w, 3) or (3,) with `over` laid on it by `weight` (h, w), 0..1."""
    top = np.asarray(over, dtype=np.float32)
    return under + (top - under) * weight[..., None]


def step(value: Array, edge: float | Array, width: float) -> Array:
    """0 below the edge, 1 above, linear over `width`."""
    return np.clip((value - edge) / np.float32(width) + np.float32(0.5), 0.0, 1.0)


def blob(x: Array, y: Array, wide: float, tall: float) -> Array:
    """A soft spot around (0, 0), 1 in its middle."""
    return np.exp(-((x / np.float32(wide)) ** 2) - (y / np.float32(tall)) ** 2)


@lru_cache(maxsize=4)
def folds(kind: int = 0) -> Array:
    """(128, 128) noise that tiles, zero mean, unit deviation: 0 folds of cloth, 1 fine fabric, 2 blotches."""
    size = 128
    rng = np.random.default_rng([77, kind])
    row = np.fft.fftfreq(size)[:, None] * size
    col = np.fft.fftfreq(size)[None, :] * size
    if kind == 0:  # creases run rather across the body than along it
        weight = np.exp(-(((row / 9) ** 2) + (((col + 0.4 * row) / 4) ** 2)))
    elif kind == 1:
        weight = np.exp(-(((row / 40) ** 2) + ((col / 40) ** 2)))
    else:
        weight = 1.0 / (1.0 + (row**2 + col**2) / 9.0)
    weight[0, 0] = 0.0
    noise = np.fft.ifft2(np.fft.fft2(rng.standard_normal((size, size))) * weight).real
    return (noise / noise.std()).astype(np.float32)


def sample(noise: Array, row: Array, col: Array) -> Array:
    """Noise at (row, col) in its pixels, wrapping around."""
    mask = noise.shape[0] - 1
    return noise[row.astype(np.int32) & mask, col.astype(np.int32) & mask]


def _uneven(along: Array, pace: float, phase: float) -> Array:
    """Folds along an outline: a few per cent of its width, in two frequencies that do not repeat."""
    slow = np.sin(along * np.float32(7.3 * pace) + np.float32(phase))
    fast = np.sin(along * np.float32(16.1 * pace) + np.float32(2.7 * phase))
    return np.float32(0.045) * slow + np.float32(0.035) * fast


def _window(canvas: Array, x0: float, y0: float, x1: float, y1: float) -> tuple[slice, slice] | None:
    left, top = max(int(np.floor(x0)), 0), max(int(np.floor(y0)), 0)
    right, bottom = min(int(np.ceil(x1)) + 1, canvas.shape[1]), min(int(np.ceil(y1)) + 1, canvas.shape[0])
    return (slice(top, bottom), slice(left, right)) if left < right and top < bottom else None


def _axes(window: tuple[slice, slice]) -> tuple[Array, Array]:
    rows, cols = window
    x = np.arange(cols.start, cols.stop, dtype=np.float32)[None, :]
    y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None]
    return x, y
