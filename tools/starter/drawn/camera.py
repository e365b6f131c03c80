"""What a camera does to everybody it sees: its place, its light, its optics and its sensor."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from .paint import Array
from .person import RGB

Backdrop = Literal["asphalt", "gravel", "paving", "grass", "lobby", "shop", "street"]

CAMERA_STREAM = 2


@dataclass(frozen=True)
class Camera:
    """A camera.

    Attributes:
        seed: of the drawn background.
        backdrop: kind of the background.
        resolution: height of a person relative to the size asked for, 0.6..1.2.
        pitch: how far it looks down, radians, 0..0.6.
        views: chances of seeing people from the front, from behind, walking right, walking left.
        view_spread: deviation of the direction around these four, radians.
        gain: white balance, factors of red, green, blue.
        brightness: exposure, a factor.
        gamma: exponent on values 0..1; below 1 lifts the dark ones.
        contrast: factor around middle grey.
        haze: share of the haze's colour laid over everything, 0..0.3.
        haze_colour: its colour.
        saturation: factor, 0 is grey.
        vignette: darkening in the corners of the scene, 0..0.5.
        light_side: where the light comes from, -1 left .. 1 right.
        ambient: share of light without direction, 0..1.
        shadow: darkness of the cast shadow, 0 (overcast, indoors)..0.6.
        shadow_reach: ground offset of the shadow per height, (right, away).
        blur: deviation of the optical blur relative to a person 200 px high, pixels.
        sharpen: strength of the camera's edge enhancement, 0..1.5.
        upscale: factor by which the picture was enlarged before the crop was cut, 1 is none.
        noise: deviation of the sensor noise, 0..0.05 of the full range.
        jpeg_quality: of the video compression, 30..95.
        margin: of the detector's box around a person, fraction of the height.
        jitter: deviation of the box's edges, fraction of the height.
        clutter: chance that something stands in the way of a tracklet.
    """

    seed: int
    backdrop: Backdrop
    resolution: float
    pitch: float
    views: tuple[float, float, float, float]
    view_spread: float
    gain: RGB
    brightness: float
    gamma: float
    contrast: float
    haze: float
    haze_colour: RGB
    saturation: float
    vignette: float
    light_side: float
    ambient: float
    shadow: float
    shadow_reach: tuple[float, float]
    blur: float
    sharpen: float
    upscale: float
    noise: float
    jpeg_quality: int
    margin: float
    jitter: float
    clutter: float


def draw_camera(seed: int, index: int = 0) -> Camera:
    """Draw a camera. The same `seed` and `index` always give the same camera.

    Args:
        seed: seed of the network of cameras, 0 or more.
        index: number of the camera, 0 or more.

    Returns:
        the camera, independent of every other index.
    """
    rng = np.random.default_rng([CAMERA_STREAM, seed, index])
    backdrops: tuple[Backdrop, ...] = ("asphalt", "gravel", "paving", "grass", "lobby", "shop", "street")
    chances = np.array([3.0, 2.0, 2.0, 1.5, 1.5, 1.0, 2.0])
    backdrop = backdrops[int(rng.choice(len(backdrops), p=chances / chances.sum()))]
    from_above = backdrop in ("asphalt", "gravel", "paving")
    indoors = backdrop == "lobby"
    sunny = not indoors and rng.random() < 0.45
    # A camera looks along a path (front and back) or across it (sides).
    along = rng.dirichlet([1.2, 1.2])
    across = rng.dirichlet([1.2, 1.2]) * rng.choice([0.12, 0.4, 2.5], p=[0.5, 0.25, 0.25])
    views = np.concatenate([along, across])
    views = views / views.sum()
    warmth, tint = rng.normal(0, 0.07), rng.normal(0, 0.022)
    gain = np.exp(np.array([warmth + 0.5 * tint, -tint, -warmth + 0.5 * tint]))
    hazy = rng.random() < 0.4
    light_angle = rng.uniform(0, 2 * np.pi)
    reach = rng.uniform(0.3, 1.1) if sunny else 0.0
    soft = rng.random() < 0.5
    return Camera(
        seed=int(rng.integers(1 << 30)),
        backdrop=backdrop,
        resolution=float(rng.uniform(0.62, 1.15)),
        pitch=float(rng.uniform(0.25, 0.55) if from_above else rng.uniform(0.05, 0.28)),
        views=(float(views[0]), float(views[1]), float(views[2]), float(views[3])),
        view_spread=float(rng.uniform(0.12, 0.42)),
        gain=(float(gain[0]), float(gain[1]), float(gain[2])),
        brightness=float(np.exp(rng.normal(0.06, 0.13))),
        gamma=float(np.exp(rng.normal(-0.05, 0.15))),
        contrast=float(np.clip(rng.normal(1.0, 0.14), 0.65, 1.35)),
        haze=float(rng.uniform(0.06, 0.26) if hazy else rng.uniform(0.0, 0.06)),
        haze_colour=_hazy_colour(rng),
        saturation=float(np.clip(rng.normal(0.75, 0.2), 0.3, 1.25)),
        vignette=float(rng.uniform(0.0, 0.35)),
        light_side=float(np.sin(light_angle) * (0.8 if sunny else 0.4)),
        ambient=float(rng.uniform(0.35, 0.6) if sunny else rng.uniform(0.55, 0.8)),
        shadow=float(rng.uniform(0.2, 0.5)) if sunny else 0.0,
        # The shadow falls away from the light.
        shadow_reach=(float(-np.sin(light_angle) * reach), float(np.cos(light_angle) * reach * 0.7)),
        blur=float(rng.uniform(0.5, 1.5) if soft else rng.uniform(0.2, 0.7)),
        sharpen=float(0.0 if soft else rng.uniform(0.0, 1.4)),
        upscale=float(rng.uniform(1.3, 2.2)) if rng.random() < 0.25 else 1.0,
        noise=float(rng.uniform(0.004, 0.028)),
        jpeg_quality=int(rng.integers(45, 93)),
        margin=float(rng.uniform(0.0, 0.05)),
        jitter=float(rng.uniform(0.006, 0.035)),
        clutter=float(rng.choice([0.03, 0.10, 0.22])),
    )


def _hazy_colour(rng: np.random.Generator) -> RGB:
    grey = rng.uniform(0.5, 0.8)
    red, green, blue = np.clip(grey * np.exp(rng.normal(0, 0.06, 3)), 0.2, 0.95)
    return float(red), float(green), float(blue)


def expose(scene: Array, camera: Camera, light: float) -> Array:
    """Exposure, haze, tone curve and colour of the camera.

    Args:
        scene: (H, W, 3) float32 RGB, 0..1.
        camera: whose colours.
        light: of the moment (a cloud, the automatic exposure), a factor around 1.

    Returns:
        (H, W, 3) float32 RGB, 0..1.
    """
    factor = np.asarray(camera.gain, dtype=np.float32) * np.float32(camera.brightness * light)
    seen = np.clip(scene * factor, 1e-4, 1.0)
    seen = seen ** np.float32(camera.gamma)
    seen = (seen - np.float32(0.45)) * np.float32(camera.contrast) + np.float32(0.45)
    grey = seen @ np.array([0.30, 0.59, 0.11], dtype=np.float32)
    seen = grey[..., None] + (seen - grey[..., None]) * np.float32(camera.saturation)
    haze = np.asarray(camera.haze_colour, dtype=np.float32)
    seen += (haze - seen) * np.float32(camera.haze)
    return np.clip(seen, 0.0, 1.0)


def record(seen: Array, camera: Camera, scale: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Blur, edge enhancement, enlargement, noise and compression.

    Args:
        seen: (H, W, 3) float32 RGB, 0..1.
        camera: whose optics and sensor.
        scale: height of the person, pixels.
        rng: of the noise.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    image = Image.fromarray((seen * np.float32(255) + np.float32(0.5)).astype(np.uint8))
    size_wh = image.size
    if camera.upscale > 1.0:
        small = (max(int(size_wh[0] / camera.upscale), 8), max(int(size_wh[1] / camera.upscale), 16))
        image = image.resize(small, Image.Resampling.BOX)
    radius = camera.blur * scale / 200.0 / camera.upscale
    if radius > 0.15:
        image = image.filter(ImageFilter.GaussianBlur(radius))
    if camera.sharpen > 0.1:
        image = image.filter(
            ImageFilter.UnsharpMask(radius=1.3, percent=int(80 * camera.sharpen), threshold=0)
        )
    pixels = np.asarray(image, dtype=np.float32)
    # Grain is mostly of brightness: one plane for all channels, and a coarse one in colour.
    grain = rng.standard_normal(pixels.shape[:2], dtype=np.float32)[..., None] * np.float32(
        200 * camera.noise
    )
    tint = rng.standard_normal((pixels.shape[0] // 2 + 1, pixels.shape[1] // 2 + 1, 3), dtype=np.float32)
    tint = np.repeat(np.repeat(tint, 2, axis=0), 2, axis=1)[: pixels.shape[0], : pixels.shape[1]]
    pixels = np.clip(pixels + grain + tint * np.float32(90 * camera.noise), 0, 255)
    image = Image.fromarray(pixels.astype(np.uint8))
    file = BytesIO()
    image.save(file, "JPEG", quality=camera.jpeg_quality)
    image = Image.open(file).convert("RGB")
    if image.size != size_wh:
        image = image.resize(size_wh, Image.Resampling.BILINEAR)
    return np.asarray(image)
