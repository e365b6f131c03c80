"""Painting a head: face, hair and what is worn on it."""

from __future__ import annotations

from math import cos, sin, sqrt

import numpy as np

from .paint import Array, ball, blob, folds, lay, limb, mix, sample, step
from .stance import Stance, shade


def paint_head(canvas: Array, stance: Stance) -> None:
    person, bones, view = stance.person, stance.bones, stance.view
    head, scale = person.head, view.scale
    skin = np.asarray(head.skin, dtype=np.float32)
    hair = np.asarray(head.hair, dtype=np.float32)
    turn = view.yaw + stance.head_turn
    x, y = view.screen(bones.head)
    neck = limb(
        canvas,
        view.screen((0.0, bones.neck[1], bones.neck[2] + 0.0)),
        (x, y + 0.03 * scale),
        (0.034 * scale, 0.031 * scale),
    )
    if neck is not None:
        around = head.scarf_colour if head.scarf else head.skin
        lay(
            canvas,
            neck,
            np.asarray(around, dtype=np.float32) * (shade(stance, neck) * np.float32(0.86))[..., None],
        )
    if head.scarf:
        ring = ball(canvas, (x, y + 0.085 * scale), (0.052 * scale, 0.026 * scale))
        if ring is not None:
            lay(
                canvas,
                ring,
                np.asarray(head.scarf_colour, dtype=np.float32) * shade(stance, ring)[..., None],
            )
    front = cos(turn)
    wide = sqrt((0.050 * front) ** 2 + (0.060 * sin(turn)) ** 2)
    grow = {"bald": 1.0, "short": 1.03, "bob": 1.1, "long": 1.08, "ponytail": 1.03, "curly": 1.25}[head.cut]
    grow = max(grow, 1.12) if head.hat in ("hood", "headscarf", "beanie") else grow
    patch = ball(canvas, (x, y), (wide * grow * scale, 0.071 * (0.5 + 0.5 * grow) * scale), 2.0)
    if patch is None:
        return
    right, up = patch.across, -patch.along
    toward = np.sqrt(np.maximum(1.0 - right * right - up * up, 0.0))
    world_up = up * np.float32(cos(view.pitch)) + toward * np.float32(sin(view.pitch))
    away = up * np.float32(sin(view.pitch)) - toward * np.float32(cos(view.pitch))
    forward = right * np.float32(sin(turn)) - away * np.float32(cos(turn))
    left = right * np.float32(cos(turn)) + away * np.float32(sin(turn))
    colour = np.broadcast_to(skin, (*right.shape, 3))
    # Face: cheeks down to the chin, eyes, mouth; at this size they are no more than darker patches.
    colour = mix(
        colour,
        skin * 0.55,
        0.75 * step(forward, 0.5, 0.3) * blob(np.abs(left) - 0.34, world_up - 0.05, 0.17, 0.10),
    )
    colour = mix(colour, skin * 0.72, 0.6 * step(forward, 0.5, 0.3) * blob(left, world_up + 0.5, 0.22, 0.09))
    if head.beard > 0:
        colour = mix(
            colour, hair * 1.1, 0.7 * head.beard * step(-world_up, 0.4, 0.25) * step(forward, 0.1, 0.4)
        )
    if head.cut != "bald":
        back = {"short": -0.05, "ponytail": -0.05, "bob": 0.42, "long": 0.38, "curly": 0.25}[head.cut]
        nape = -2.0 if head.cut in ("bob", "long", "curly") else -0.62
        cap = np.maximum(step(world_up, 0.62 - 0.25 * (1.0 - forward) * 0.5, 0.2), step(-forward, -back, 0.2))
        strands = 1.0 + 0.14 * sample(folds(1), patch.along * 14 + person.grain % 97, patch.across * 30)
        colour = mix(colour, hair * strands[..., None], cap * step(world_up, nape, 0.2))
    if head.glasses:
        colour = mix(
            colour,
            (0.06, 0.06, 0.07),
            0.8 * step(forward, 0.4, 0.2) * blob(np.abs(left) - 0.33, world_up - 0.05, 0.25, 0.13),
        )
    colour = _hat(colour, stance, forward, world_up)
    lit = shade(stance, patch) * (1.0 + 0.22 * np.clip(world_up, -1, 1))
    lay(canvas, patch, colour * lit[..., None])
    if head.hat == "cap":
        brim = 0.085
        start = (x + 0.02 * sin(turn) * scale, y - 0.028 * scale)
        end = (x + brim * sin(turn) * scale, y - (0.022 - 0.3 * brim * cos(turn)) * scale)
        peak = limb(
            canvas, start, end, (0.03 * abs(cos(turn)) * scale + 2, 0.022 * abs(cos(turn)) * scale + 1)
        )
        if peak is not None and cos(turn) > -0.5:
            lay(
                canvas,
                peak,
                np.asarray(head.hat_colour, dtype=np.float32) * np.float32(0.75 * stance.light.strength),
            )
    _paint_side_hair(canvas, stance)


def _hat(colour: Array, stance: Stance, forward: Array, world_up: Array) -> Array:
    head = stance.person.head
    if head.hat == "none":
        return colour
    if head.hat in ("cap", "beanie"):
        return mix(colour, head.hat_colour, step(world_up, 0.28 if head.hat == "cap" else 0.2, 0.12))
    cloth = stance.person.upper.colour if head.hat == "hood" else head.hat_colour
    return mix(colour, cloth, np.maximum(step(-forward, -0.62, 0.15), step(world_up, 0.62, 0.15)))


def paint_hanging_hair(canvas: Array, stance: Stance) -> None:
    """Hair that hangs down the back of the head."""
    head, scale = stance.person.head, stance.view.scale
    turn = stance.view.yaw + stance.head_turn
    x, y = stance.view.screen(stance.bones.head)
    behind = -0.028 * sin(turn)
    length = {"long": 0.15, "ponytail": 0.11, "bob": 0.062}[head.cut] * (
        0.75 + (stance.person.grain % 64) / 128
    )
    wide = {"long": 0.047, "ponytail": 0.016, "bob": 0.05}[head.cut]
    end = (x + 1.6 * behind * scale, y + length * scale)
    taper = 0.75 if head.cut != "bob" else 1.0
    _paint_strand(
        canvas, stance, (x + behind * scale, y - 0.01 * scale), end, (wide * scale, wide * taper * scale)
    )


def _paint_side_hair(canvas: Array, stance: Stance) -> None:
    """Long hair that falls before the shoulders, left and right of a face seen from the front."""
    head, scale = stance.person.head, stance.view.scale
    turn = stance.view.yaw + stance.head_turn
    if head.cut != "long" or cos(turn) < 0.3 or stance.person.grain % 3 == 0:
        return
    x, y = stance.view.screen(stance.bones.head)
    length = 0.10 + 0.05 * (stance.person.grain % 16) / 16
    for side in (-1, 1):
        start_x = x + side * 0.044 * cos(turn) * scale
        end = (start_x + side * 0.012 * scale, y + length * scale)
        _paint_strand(canvas, stance, (start_x, y), end, (0.013 * scale, 0.017 * scale))


def _paint_strand(
    canvas: Array,
    stance: Stance,
    start: tuple[float, float],
    end: tuple[float, float],
    radii: tuple[float, float],
) -> None:
    patch = limb(canvas, start, end, radii)
    if patch is not None:
        strands = 1.0 + 0.13 * sample(folds(1), patch.along * 6 + stance.person.grain % 89, patch.across * 34)
        hair = np.asarray(stance.person.head.hair, dtype=np.float32)
        lay(canvas, patch, hair * (strands * shade(stance, patch))[..., None])
