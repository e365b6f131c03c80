"""The cloth of a garment at a point of the body: its colour from the side of the body and the height.

Azimuths are radians around the body: 0 front, positive to the wearer's left, pi the back. Heights are
fractions of the body height.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .paint import Array, folds, mix, sample, step
from .person import RGB, Person

_CHEST_UP = 0.70  # where prints are centred
_SHOULDER_UP = 0.84


def upper_colour(person: Person, azimuth: Array, up: Array) -> Array:
    """Colour of the upper garment around the trunk, with what it leaves open.

    Args:
        person: the wearer.
        azimuth: (h, w) radians.
        up: (h, w) heights.

    Returns:
        (h, w, 3) float32 RGB, before light.
    """
    upper = person.upper
    colour = _cloth(person, azimuth, up)
    front = np.abs(azimuth)
    if upper.pattern == "print":
        colour = _printed(person, colour, azimuth, up)
    if upper.opening > 0:
        # An open front widens towards the hem.
        edge = np.float32(upper.opening) * (1.0 + 0.9 * (np.float32(_CHEST_UP) - up))
        inner = np.asarray(upper.inner, dtype=np.float32)
        inside = step(-front, -edge, 0.1) * step(up, 0.475, 0.02)
        colour = mix(colour, inner * 0.88, inside)
        colour = colour * (1.0 - 0.35 * np.exp(-(((front - edge) / 0.08) ** 2)))[..., None]
    elif upper.weave > 0.85 and upper.sleeve > 0.9:  # a row of buttons or a zip
        colour = colour * (1.0 - 0.22 * np.exp(-((azimuth / 0.06) ** 2)))[..., None]
    if upper.collar > 0:
        depth = np.float32(_SHOULDER_UP + 0.012 - upper.collar) + np.float32(0.05) * np.minimum(front, 2.0)
        shown = person.upper.inner if upper.sleeve > 0.9 else person.head.skin
        colour = mix(colour, shown, step(up, depth, 0.012) * step(-front, -1.5, 0.4))
    return _strapped(person, colour, azimuth, up)


def sleeve_colour(person: Person, azimuth: Array, along: Array) -> Array:
    """Colour of a sleeve; `along` (h, w) is 0 at the shoulder .. 1 at the wrist."""
    upper = person.upper
    up = np.float32(0.81) - along * np.float32(0.33)
    if upper.sleeve_second:
        return np.asarray(upper.second, dtype=np.float32) * _creases(person, azimuth, up)[..., None]
    return _cloth(person, azimuth, up)


def lower_colour(person: Person, azimuth: Array, up: Array, outer: int) -> Array:
    """Colour of trousers, shorts, a skirt or the lower half of a dress.

    Args:
        person: the wearer.
        azimuth: (h, w) radians.
        up: (h, w) heights.
        outer: the side of the leg, +1 left, -1 right, 0 for the trunk.

    Returns:
        (h, w, 3) float32 RGB, before light.
    """
    lower = person.lower
    if lower.kind == "dress":
        return _cloth(person, azimuth, up)
    base = np.asarray(lower.colour, dtype=np.float32)
    colour: Array = base * _creases(person, azimuth, up + 0.37)[..., None]
    if lower.fade > 0:
        worn = np.exp(-(((up - 0.38) / 0.07) ** 2)) * np.maximum(np.cos(azimuth), 0.25)
        colour = colour + np.float32(lower.fade) * (0.75 - colour) * worn[..., None]
    if lower.stripe and outer:
        colour = mix(
            colour, (0.88, 0.88, 0.87), step(np.cos(azimuth - outer * np.float32(np.pi / 2)), 0.93, 0.05)
        )
    return colour


def _cloth(person: Person, azimuth: Array, up: Array) -> Array:
    """Pattern and folds of the upper garment, the same on trunk and sleeves."""
    upper = person.upper
    colour = np.asarray(upper.colour, dtype=np.float32)
    creases = _creases(person, azimuth, up)
    weight: Array | None = None
    if upper.pattern == "stripes":
        weight = step(np.sin(up * np.float32(150.0 / upper.scale)), 0.1, 0.7)
    elif upper.pattern == "pinstripes":
        weight = 0.5 * step(np.sin(azimuth * np.float32(11.0 / upper.scale)), 0.55, 0.6)
    elif upper.pattern == "checks":
        rows = step(np.sin(up * np.float32(120.0 / upper.scale)), 0.1, 0.7)
        cols = step(np.sin(azimuth * np.float32(np.round(9.0 / upper.scale))), 0.1, 0.7)
        weight = 0.45 * (rows + cols)
    elif upper.pattern == "two-tone":
        weight = step(up, 0.66 + 0.1 * (upper.scale - 1.0), 0.012)
        if upper.scale > 1.15:  # a band instead of a yoke
            weight = weight * step(-up, -0.74, 0.012)
    elif upper.pattern == "speckled":
        spots = sample(
            folds(1), up * np.float32(260 / upper.scale) + person.grain % 61, azimuth * np.float32(16)
        )
        weight = step(spots, 0.7, 0.8)
    elif upper.pattern == "quilted":
        creases = creases * (1.0 + 0.2 * np.sin(up * np.float32(170.0 / upper.scale)))
    if weight is None:
        return colour * creases[..., None]
    return mix(colour, upper.second, weight) * creases[..., None]


def _creases(person: Person, azimuth: Array, up: Array) -> Array:
    """Light and dark of folds and fabric, (h, w) around 1."""
    row = up * np.float32(190.0) + np.float32(person.grain % 128)
    col = azimuth * np.float32(128.0 / (2 * np.pi)) * 2 + np.float32((person.grain >> 8) % 128)
    coarse = sample(folds(0), row, col)
    fine = sample(folds(1), row * 1.7, col * 2.3)
    strength = person.upper.weave
    return 1.0 + np.float32(0.085 * strength) * coarse + np.float32(0.035 * strength) * fine


def _printed(person: Person, colour: Array, azimuth: Array, up: Array) -> Array:
    """A picture or a lettering on the chest, sometimes also on the back."""
    tiles = _motif(person.grain, person.upper.second)
    turned = np.abs(azimuth) > np.float32(np.pi / 2)
    # Three in four have the print on the front only.
    on = ~turned if person.grain % 4 else np.ones_like(turned)
    side = np.where(turned, np.sin(azimuth), azimuth)
    wide = np.float32(0.42 + 0.18 * ((person.grain >> 3) % 8) / 8)
    tall = np.float32(0.03 + 0.065 * ((person.grain >> 6) % 8) / 8)
    x = side / wide
    y = (np.float32(_CHEST_UP + 0.02) - up) / tall
    inside = (np.maximum(np.abs(x), np.abs(y)) < 1.0) & on
    size = tiles.shape[0]
    col = np.clip((x + 1.0) * np.float32(size / 2), 0, size - 1).astype(np.int32)
    row = np.clip((y + 1.0) * np.float32(size / 2), 0, size - 1).astype(np.int32)
    motif = tiles[row, col]
    return mix(colour, motif[..., :3], motif[..., 3] * inside)


@lru_cache(maxsize=512)
def _motif(grain: int, second: RGB) -> Array:
    """(16, 16, 4) RGB and cover of a print: blotches in two colours, mirrored or in lines like lettering."""
    rng = np.random.default_rng([5, grain])
    coarse = rng.standard_normal((6, 6))
    field = np.kron(coarse, np.ones((3, 3)))[:16, :16]
    if rng.random() < 0.4:
        field = field + field[:, ::-1]
    if rng.random() < 0.4:
        field[3::5] = -2.0
        field[4::5] = -2.0
    first = np.asarray(second)
    other = np.clip(first[::-1] * rng.uniform(0.4, 1.2) + rng.normal(0, 0.2, 3), 0.05, 0.95)
    colours = np.where(field[..., None] > 0.8, other, first)
    return np.concatenate([colours, (field > -0.5)[..., None]], axis=-1).astype(np.float32)


def _strapped(person: Person, colour: Array, azimuth: Array, up: Array) -> Array:
    """The straps of a bag over the trunk."""
    bag = person.bag
    if bag.kind == "backpack":
        front = step(np.cos(azimuth), 0.0, 0.2)
        strap = np.exp(-(((np.abs(azimuth) - 0.75) / 0.13) ** 4)) * step(up, 0.66, 0.02) * front
    elif bag.kind == "shoulder" and person.grain % 3:
        # Across the body: from the far shoulder down to the hip that carries the bag.
        slant = np.float32(0.82) - (np.sin(azimuth) * np.float32(bag.side) + 0.75) * np.float32(0.17)
        strap = np.exp(-(((up - slant) / 0.013) ** 4))
    elif bag.kind == "shoulder":
        strap = np.exp(-(((azimuth - bag.side * 1.1) / 0.12) ** 4))
    else:
        return colour
    return mix(colour, bag.colour, strap * np.float32(0.95))
