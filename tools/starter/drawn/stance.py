"""A person in a moment: who stands how, seen from where, in which light, and how light falls on a part."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, sin, sqrt

import numpy as np

from .body import Point, Skeleton, View, walk
from .paint import Array, Patch
from .person import Person


@dataclass(frozen=True)
class Light:
    """Light on a body: `side` -1 from the left .. 1 from the right, `ambient` 0..1 the undirected share."""

    side: float
    ambient: float
    strength: float


@dataclass(frozen=True)
class Stance:
    """What the brushes below share: who stands how, seen from where, in which light."""

    person: Person
    bones: Skeleton
    phase: float
    view: View
    light: Light
    head_turn: float


def stand(
    person: Person, phase: float, view: View, light: Light, *, head_turn: float = 0.0, busy_arm: int = 0
) -> Stance:
    """Put a person into a phase of walking, see `body.walk`."""
    return Stance(person, walk(person, phase, busy_arm), phase, view, light, head_turn)


def shade(stance: Stance, patch: Patch) -> Array:
    """Light on a round part, (h, w): bright towards the light, dark towards the other outline."""
    across = patch.across
    facing = np.sqrt(np.maximum(1.0 - across * across, 0.0))
    light = stance.light
    lit = np.maximum(light.side * across + np.float32(sqrt(1.0 - light.side**2)) * facing, 0.0)
    return (np.float32(light.ambient) + np.float32(1.0 - light.ambient) * lit) * np.float32(light.strength)


def azimuth_of(stance: Stance, across: Array, turn: float = 0.0) -> Array:
    """Which side of the body a surface point is on, radians: 0 front, +left, -right, pi back. (h, w)."""
    yaw = stance.view.yaw + turn
    facing = np.sqrt(np.maximum(1.0 - across * across, 0.0))
    forward = across * np.float32(sin(yaw)) + facing * np.float32(cos(yaw))
    left = across * np.float32(cos(yaw)) - facing * np.float32(sin(yaw))
    return np.arctan2(left, forward)


def between(start: Point, end: Point, share: float = 0.5) -> Point:
    return (
        start[0] + (end[0] - start[0]) * share,
        start[1] + (end[1] - start[1]) * share,
        start[2] + (end[2] - start[2]) * share,
    )
