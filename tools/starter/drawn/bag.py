"""Painting a bag where its wearer carries it."""

from __future__ import annotations

from collections.abc import Callable
from math import cos, sin, sqrt

import numpy as np

from .body import Point
from .paint import Array, ball, blob, folds, lay, limb, mix, sample, step
from .stance import Stance, shade


def bag_jobs(canvas: Array, stance: Stance, trunk_depth: float) -> list[tuple[float, Callable[[], None]]]:
    bag, view, bones = stance.person.bag, stance.view, stance.bones
    if bag.kind == "none":
        return []
    body = stance.person.body
    size = bag.size
    hand_side = 0 if bag.side > 0 else 1
    if bag.kind == "backpack":
        at: Point = (0.0, bones.neck[1] * 0.7 - 0.085 * body.girth - 0.03, 0.705)
        half = (0.088 * size**0.5, 0.055 * size, 0.125 * size)
        offset = 0.08 if cos(view.yaw) > 0 else -0.08
    elif bag.kind == "shoulder":
        at = (bag.side * (body.hips * body.girth + 0.03), -0.01, 0.53)
        half = (0.03, 0.10 * size, 0.072 * size)
        offset = view.ground(at)[1] * 1.2 - 0.02
    else:
        hand = bones.hands[hand_side]
        at = (hand[0] + bag.side * 0.01, hand[1], hand[2] - 0.115 * size - 0.035)
        half = (0.03, 0.10 * size, 0.085 * size)
        offset = view.ground(at)[1] * 1.2 - 0.03
    return [(trunk_depth + offset, lambda: _paint_bag(canvas, stance, at, half))]


def _paint_bag(canvas: Array, stance: Stance, at: Point, half: tuple[float, float, float]) -> None:
    bag, view = stance.person.bag, stance.view
    wide = sqrt((half[0] * cos(view.yaw)) ** 2 + (half[1] * sin(view.yaw)) ** 2)
    tall = half[2] + half[1] * sin(view.pitch) * 0.3
    x, y = view.screen(at)
    if bag.kind == "handbag":
        hand = stance.bones.hands[0 if bag.side > 0 else 1]
        handle = limb(canvas, view.screen(hand), (x, y), (0.007 * view.scale, 0.007 * view.scale))
        if handle is not None:
            lay(canvas, handle, np.asarray(bag.colour, dtype=np.float32) * np.float32(0.8))
    patch = ball(canvas, (x, y), (wide * view.scale, tall * view.scale), 4.0)
    if patch is None:
        return
    base = np.asarray(bag.colour, dtype=np.float32)
    colour = mix(base, bag.second, step(patch.along, 0.15, 0.1) * step(-patch.along, -0.75, 0.1))
    # The flap's seam and a light wear of the cloth.
    seam = 1.0 - 0.35 * blob(patch.across * 0.0, patch.along + 0.25, 1.0, 0.06)
    wear = 1.0 + 0.07 * sample(folds(0), patch.along * 20 + stance.person.grain % 83, patch.across * 20)
    lit = shade(stance, patch) * (1.08 - 0.16 * patch.along)
    lay(canvas, patch, colour * (lit * seam * wear)[..., None])
