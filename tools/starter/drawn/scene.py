"""Backgrounds: the place that a camera looks at, drawn once per camera; crops of one camera share it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .camera import Camera
from .paint import folds

Colour = tuple[int, int, int]

# Where the floor begins, as a fraction of the scene's height. Cameras that look down see floor only.
_FLOOR = {
    "asphalt": 0.0,
    "gravel": 0.0,
    "paving": 0.0,
    "grass": 0.0,
    "lobby": 0.52,
    "shop": 0.55,
    "street": 0.45,
}


def feet_range(camera: Camera) -> tuple[float, float]:
    """Where feet may stand, as fractions (top, bottom) of the scene's height."""
    return max(_FLOOR[camera.backdrop] + 0.12, 0.58), 0.97


@lru_cache(maxsize=64)
def draw_scene(camera: Camera, size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Draw the background of a camera.

    Args:
        camera: whose background; only `seed`, `backdrop`, `vignette`, `light_side` and `pitch` matter.
        size_hw: height and width, pixels.

    Returns:
        (H, W, 3) uint8 RGB, before the camera's colours; shared, not to be written to.
    """
    rng = np.random.default_rng([3, camera.seed])
    height, width = size_hw
    image = Image.new("RGB", (width, height), _floor_colour(camera, rng))
    pen = ImageDraw.Draw(image)
    floor = int(_FLOOR[camera.backdrop] * height)
    if camera.backdrop == "paving":
        _slabs(pen, rng, size_hw, 0, camera.pitch)
    elif camera.backdrop == "asphalt":
        _road_marks(pen, rng, size_hw)
    elif camera.backdrop == "grass":
        _lawn(pen, rng, size_hw)
    elif camera.backdrop == "lobby":
        _slabs(pen, rng, size_hw, floor, camera.pitch)
        _wall(pen, rng, size_hw, floor)
    elif camera.backdrop == "shop":
        _slabs(pen, rng, size_hw, floor, camera.pitch)
        _shop(pen, rng, size_hw, floor)
    elif camera.backdrop == "street":
        _street(pen, rng, size_hw, floor)
    pixels = np.asarray(image, dtype=np.float32) / np.float32(255)
    pixels *= _texture(camera, rng, size_hw)[..., None]
    pixels *= _falloff(camera, rng, size_hw)[..., None]
    return (np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def _floor_colour(camera: Camera, rng: np.random.Generator) -> Colour:
    base = {
        "asphalt": (0.60, 0.60, 0.61),
        "gravel": (0.70, 0.64, 0.57),
        "paving": (0.63, 0.60, 0.57),
        "grass": (0.62, 0.60, 0.56),
        "lobby": (0.66, 0.63, 0.58),
        "shop": (0.58, 0.57, 0.56),
        "street": (0.58, 0.58, 0.57),
    }[camera.backdrop]
    return _rgb(np.array(base) * rng.uniform(0.7, 1.2), rng, 0.03)


def _rgb(colour: np.ndarray, rng: np.random.Generator, spread: float = 0.0) -> Colour:
    red, green, blue = (np.clip(colour + rng.normal(0, spread, 3), 0.03, 0.98) * 255).astype(int)
    return int(red), int(green), int(blue)


def _slabs(
    pen: ImageDraw.ImageDraw, rng: np.random.Generator, size_hw: tuple[int, int], top: int, pitch: float
) -> None:
    """Joints between slabs, running to a vanishing point and getting denser with distance."""
    height, width = size_hw
    joint = _rgb(np.full(3, rng.uniform(0.3, 0.5)), rng, 0.02)
    vanish = (width * rng.uniform(0.2, 0.8), top - height * (0.25 + 2.5 * pitch))
    for x in np.arange(-width, 2 * width, max(width * rng.uniform(0.07, 0.18), 12)):
        pen.line([(float(x), float(height)), vanish], fill=joint, width=1)
    row, gap = float(height), height * rng.uniform(0.07, 0.14)
    slope = rng.uniform(-0.12, 0.12) * width
    while row > top - abs(slope):
        pen.line([(0, row), (width, row + slope)], fill=joint, width=1)
        row -= gap
        gap = max(gap * 0.9, 4)


def _road_marks(pen: ImageDraw.ImageDraw, rng: np.random.Generator, size_hw: tuple[int, int]) -> None:
    height, width = size_hw
    for _ in range(int(rng.integers(0, 4))):  # painted lines, patches of tar, kerbs
        bright = rng.choice([0.9, 0.35, 0.75])
        x0, y0 = rng.uniform(-0.2, 1.2) * width, rng.uniform(0, 1) * height
        angle = rng.uniform(0, np.pi)
        dx, dy = np.cos(angle) * width, np.sin(angle) * width * 0.6
        thick = max(int(rng.uniform(0.008, 0.03) * height), 2)
        pen.line(
            [(x0 - dx, y0 - dy), (x0 + dx, y0 + dy)], fill=_rgb(np.full(3, bright), rng, 0.02), width=thick
        )


def _lawn(pen: ImageDraw.ImageDraw, rng: np.random.Generator, size_hw: tuple[int, int]) -> None:
    height, width = size_hw
    left, right = rng.uniform(0.25, 0.75, 2) * height
    green = _rgb(np.array([0.38, 0.47, 0.25]) * rng.uniform(0.8, 1.2), rng, 0.03)
    pen.polygon([(0, 0), (width, 0), (width, float(right)), (0, float(left))], fill=green)
    kerb = max(int(0.02 * height), 2)
    pen.line([(0, float(left)), (width, float(right))], fill=_rgb(np.full(3, 0.7), rng, 0.02), width=kerb)


def _wall(pen: ImageDraw.ImageDraw, rng: np.random.Generator, size_hw: tuple[int, int], floor: int) -> None:
    _, width = size_hw
    wall = np.array([0.72, 0.70, 0.66]) * rng.uniform(0.6, 1.25)
    pen.rectangle([0, 0, width, floor], fill=_rgb(wall, rng, 0.04))
    x = rng.uniform(-0.1, 0.1) * width
    while x < width:
        wide = rng.uniform(0.07, 0.2) * width
        if rng.random() < 0.6:  # a door, a notice board or a window
            bottom = floor if rng.random() < 0.6 else floor * rng.uniform(0.5, 0.8)
            top = floor * rng.uniform(0.0, 0.25)
            fill = _rgb(wall * rng.uniform(0.3, 1.3), rng, 0.08)
            pen.rectangle([x, top, x + wide, bottom], fill=fill, outline=_rgb(wall * 0.5, rng))
        x += wide * rng.uniform(1.1, 2.0)
    pen.rectangle([0, floor - max(floor // 40, 2), width, floor], fill=_rgb(wall * 0.5, rng))


def _shop(pen: ImageDraw.ImageDraw, rng: np.random.Generator, size_hw: tuple[int, int], floor: int) -> None:
    _, width = size_hw
    frame = _rgb(np.full(3, rng.uniform(0.1, 0.5)), rng, 0.05)
    pen.rectangle([0, 0, width, floor], fill=frame)
    x = rng.uniform(-0.1, 0.05) * width
    while x < width:
        wide = rng.uniform(0.15, 0.3) * width
        inside = np.full(3, rng.uniform(0.25, 0.85))
        top, bottom = floor * 0.12, floor * 0.9
        pen.rectangle([x, top, x + wide, bottom], fill=_rgb(inside, rng, 0.06))
        for _ in range(int(rng.integers(4, 14))):  # goods
            cx, cy = x + rng.uniform(0, 0.9) * wide, rng.uniform(top, bottom)
            w, h = rng.uniform(0.04, 0.15) * wide, rng.uniform(0.04, 0.25) * floor
            pen.rectangle([cx, cy, min(cx + w, x + wide), min(cy + h, bottom)], fill=_rgb(rng.random(3), rng))
        x += wide * 1.06


def _street(pen: ImageDraw.ImageDraw, rng: np.random.Generator, size_hw: tuple[int, int], floor: int) -> None:
    _, width = size_hw
    _wall(pen, rng, size_hw, int(floor * rng.uniform(0.5, 0.9)))
    x = rng.uniform(-0.3, 0.2) * width
    while x < width:  # parked cars
        if rng.random() < 0.65:
            wide, tall = rng.uniform(0.4, 0.6) * width, floor * 0.5
            bottom = floor * rng.uniform(0.97, 1.05)
            paint = _rgb(np.full(3, rng.choice([0.15, 0.35, 0.6, 0.8])), rng, 0.12)
            pen.rounded_rectangle(
                [x, bottom - tall * 0.62, x + wide, bottom - tall * 0.12], tall * 0.15, fill=paint
            )
            pen.rounded_rectangle(
                [x + wide * 0.2, bottom - tall, x + wide * 0.8, bottom - tall * 0.5], tall * 0.2, fill=paint
            )
            pen.rectangle(
                [x + wide * 0.26, bottom - tall * 0.92, x + wide * 0.74, bottom - tall * 0.62],
                fill=(60, 68, 76),
            )
            wheel = tall * 0.19
            for cx in (x + wide * 0.2, x + wide * 0.8):
                pen.ellipse([cx - wheel, bottom - 2 * wheel, cx + wheel, bottom], fill=(28, 28, 30))
                hub = wheel * 0.55
                pen.ellipse(
                    [cx - hub, bottom - wheel - hub, cx + hub, bottom - wheel + hub], fill=(150, 150, 152)
                )
        x += rng.uniform(0.5, 0.8) * width
    kerb = max(floor // 25, 2)
    pen.rectangle(
        [0, floor + kerb * 2, width, floor + kerb * 3], fill=_rgb(np.full(3, rng.uniform(0.5, 0.8)), rng)
    )


def _texture(camera: Camera, rng: np.random.Generator, size_hw: tuple[int, int]) -> NDArray[np.float32]:
    """Grain and blotches as a factor, (H, W)."""
    height, width = size_hw
    grain = {"asphalt": 0.07, "gravel": 0.09, "paving": 0.04, "grass": 0.08}.get(camera.backdrop, 0.03)
    grain *= rng.uniform(0.4, 1.4)
    noise = rng.standard_normal(size_hw, dtype=np.float32) * np.float32(grain)
    blotches = folds(2)
    start_y, start_x = rng.integers(0, 128, 2)
    rows = (np.arange(height) * 128 // max(height, 1) * 2 + start_y) % 128
    cols = (np.arange(width) * 128 // max(height, 1) * 2 + start_x) % 128
    noise += blotches[np.ix_(rows, cols)] * np.float32(rng.uniform(0.01, 0.06))
    return np.float32(1.0) + noise


def _falloff(camera: Camera, rng: np.random.Generator, size_hw: tuple[int, int]) -> NDArray[np.float32]:
    """Vignette and uneven light as a factor, (H, W)."""
    y = np.linspace(-1, 1, size_hw[0], dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, size_hw[1], dtype=np.float32)[None, :]
    tilt_x, tilt_y = rng.normal(0, 0.08, 2)
    dark = np.float32(camera.vignette) * (x * x + y * y) * np.float32(0.5)
    return (1.0 - dark) * (1.0 + np.float32(tilt_x + 0.08 * camera.light_side) * x + np.float32(tilt_y) * y)
