"""Painting a person: the parts of the body and the clothes, from the furthest to the nearest."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import cos, sin

import numpy as np

from .bag import bag_jobs
from .body import Point
from .garment import lower_colour, sleeve_colour, upper_colour
from .head import paint_hanging_hair, paint_head
from .paint import Array, ball, lay, limb, step, tube
from .stance import Stance, azimuth_of, between, shade

# Cross-sections of a mean trunk: height, half width relative to the shoulders and the hips, half depth.
_TRUNK_UP = np.array([0.860, 0.843, 0.828, 0.812, 0.785, 0.700, 0.610, 0.520, 0.470], dtype=np.float32)
_TRUNK_SHOULDER = np.array([0.34, 0.48, 0.74, 0.97, 1.08, 0.95, 0.60, 0.0, 0.0], dtype=np.float32)
_TRUNK_HIP = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.26, 1.03, 1.02], dtype=np.float32)
_TRUNK_DEEP = np.array([0.034, 0.044, 0.054, 0.062, 0.070, 0.080, 0.070, 0.079, 0.077], dtype=np.float32)


def paint_person(canvas: Array, stance: Stance) -> None:
    """Paint a person.

    Args:
        canvas: (H, W, 3) float32 RGB, 0..1, written in place.
        stance: who and how.
    """
    jobs: list[tuple[float, Callable[[], None]]] = []
    view, bones = stance.view, stance.bones
    trunk_depth = view.depth(between(bones.pelvis, bones.neck))
    for side in (0, 1):
        # Every leg before the trunk, whose hem hangs over it.
        leg_depth = view.depth(bones.knees[side]) + 10.0
        jobs.append((leg_depth, partial(_paint_leg, canvas, stance, side)))
        arm_depth = view.depth(between(bones.elbows[side], bones.hands[side]))
        away = view.ground(bones.shoulders[side])[1] * 0.5
        jobs.append((arm_depth + away - 0.03, partial(_paint_arm, canvas, stance, side)))
    jobs.append((trunk_depth, lambda: _paint_trunk(canvas, stance)))
    jobs.append((trunk_depth - 0.02, lambda: paint_head(canvas, stance)))
    head = stance.person.head
    if head.cut in ("long", "ponytail", "bob") and head.hat not in ("hood", "headscarf"):
        # Behind the trunk when the face is seen, over the back and the head otherwise.
        hair_depth = 0.1 if cos(view.yaw + stance.head_turn) > 0.2 else -0.03
        jobs.append((trunk_depth + hair_depth, lambda: paint_hanging_hair(canvas, stance)))
    jobs.extend(bag_jobs(canvas, stance, trunk_depth))
    for _, job in sorted(jobs, key=lambda entry: -entry[0]):
        job()


def person_box(stance: Stance) -> tuple[float, float, float, float]:
    """The box around a person as (left, top, right, bottom), pixels of the canvas."""
    scale = stance.view.scale
    girth = 0.035 * stance.person.body.girth
    points = [stance.view.screen(point) for point in stance.bones.points()]
    if stance.person.bag.kind == "handbag":
        hand = stance.bones.hands[0 if stance.person.bag.side > 0 else 1]
        reach = 0.10 * stance.person.bag.size - 0.03
        points += [stance.view.screen((hand[0], hand[1] + shift, hand[2])) for shift in (-reach, reach)]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    head_y = stance.view.screen(stance.bones.head)[1]
    return (
        min(xs) - girth * scale,
        min(*ys, head_y - 0.075 * scale),
        max(xs) + girth * scale,
        max(ys) + 0.02 * scale,
    )


def paint_shadow(canvas: Array, stance: Stance, reach: tuple[float, float], strength: float) -> None:
    """Darken the ground: softly under the feet, and by the cast shadow where the sun shines.

    Args:
        canvas: (H, W, 3) float32 RGB, written in place, before the person is painted.
        stance: who and how.
        reach: ground offset of the shadow per height, (right, away).
        strength: of the cast shadow, 0 none .. 1 black.
    """
    view, bones = stance.view, stance.bones
    feet = ball(
        canvas,
        view.screen((0.0, 0.02, 0.0)),
        (0.17 * view.scale, (0.035 + 0.12 * sin(view.pitch)) * view.scale),
    )
    if feet is not None:
        level = np.maximum(1.0 - feet.across**2 - feet.along**2, 0.0)
        canvas[feet.window] *= (1.0 - np.float32(0.4) * level)[..., None]
    if strength <= 0.0:
        return
    dark = np.zeros(canvas.shape[:2], dtype=np.float32)

    def cast(point: Point) -> tuple[float, float]:
        right, away = view.ground(point)
        right, away = right + point[2] * reach[0], away + point[2] * reach[1]
        return view.feet_xy[0] + view.scale * right, view.feet_xy[1] - view.scale * away * sin(view.pitch)

    girth = stance.person.body.girth * view.scale
    parts: list[tuple[Point, Point, float, float]] = [(bones.pelvis, bones.neck, 0.085, 0.10)]
    parts.append((bones.neck, bones.head, 0.04, 0.05))
    for side in (0, 1):
        parts.append((bones.hips[side], bones.knees[side], 0.06, 0.04))
        parts.append((bones.knees[side], bones.ankles[side], 0.04, 0.03))
        parts.append((bones.shoulders[side], bones.elbows[side], 0.035, 0.03))
    for start, end, first, last in parts:
        patch = limb(canvas, cast(start), cast(end), (first * girth, last * girth))
        if patch is not None:
            np.maximum(dark[patch.window], patch.cover, out=dark[patch.window])
    canvas *= (1.0 - np.float32(strength) * dark)[..., None]


def _paint_leg(canvas: Array, stance: Stance, side: int) -> None:
    person, bones, view = stance.person, stance.bones, stance.view
    lower, shoes = person.lower, person.shoes
    scale, girth = view.scale, person.body.girth
    hip, knee, ankle, toe = bones.hips[side], bones.knees[side], bones.ankles[side], bones.toes[side]
    skin = lower.stockings if lower.stockings is not None else person.head.skin
    covered = lower.kind in ("trousers", "shorts")
    _paint_foot(canvas, stance, ankle, toe)
    # Bare or stockinged leg first, cloth over it as far as it reaches.
    if lower.hem > 0.05:
        for start, end, radii in ((hip, knee, (0.055, 0.036)), (knee, ankle, (0.036, 0.021))):
            patch = limb(
                canvas, view.screen(start), view.screen(end), (radii[0] * scale * girth, radii[1] * scale)
            )
            if patch is not None:
                lay(canvas, patch, np.asarray(skin, dtype=np.float32) * shade(stance, patch)[..., None])
    if covered:
        fit = lower.fit
        thigh = (0.064 * girth * (0.8 + 0.2 * fit), 0.043 * (0.4 * girth + 0.6) * fit)
        shin = (thigh[1], 0.031 * fit)
        for start, end, radii, low, high in ((knee, ankle, shin, 0.28, 0.0), (hip, knee, thigh, 0.5, 0.28)):
            stop = lower.hem if end is ankle else max(lower.hem, high)
            if stop >= low:
                continue
            part = (low - stop) / (low - high)
            cut = between(start, end, part)
            ends = (radii[0] * scale, (radii[0] + (radii[1] - radii[0]) * part) * scale)
            folded = 1.0 + person.grain % 17 + 3 * side + 0.4 * float(start is knee) + 0.3 * sin(stance.phase)
            patch = limb(canvas, view.screen(start), view.screen(cut), ends, folded)
            if patch is None:
                continue
            up = np.float32(low) + patch.along * np.float32(stop - low)
            azimuth = azimuth_of(stance, patch.across)
            colour = lower_colour(person, azimuth, up, outer=1 - 2 * side)
            # The inside of the legs and the far leg are darker: the other leg keeps the light from them.
            far = 0.86 if view.depth(hip) > view.depth(bones.hips[1 - side]) + 0.02 else 1.0
            lay(canvas, patch, colour * (shade(stance, patch) * np.float32(far))[..., None])
    if shoes.shaft > 0.03 and (not covered or lower.fit < 1.0):
        top = between(ankle, knee, min(shoes.shaft / 0.25, 1.0))
        patch = limb(canvas, view.screen(top), view.screen(ankle), (0.036 * scale, 0.028 * scale))
        if patch is not None:
            lay(canvas, patch, np.asarray(shoes.colour, dtype=np.float32) * shade(stance, patch)[..., None])


def _paint_foot(canvas: Array, stance: Stance, ankle: Point, toe: Point) -> None:
    view, shoes = stance.view, stance.person.shoes
    heel = (ankle[0], ankle[1] - 0.022, ankle[2] - 0.016)
    toe_xy, heel_xy = view.screen(toe), view.screen(heel)
    below = 0.006 * view.scale
    for colour, drop in ((shoes.sole, below), (shoes.colour, 0.0)):
        patch = limb(
            canvas,
            (heel_xy[0], heel_xy[1] + drop),
            (toe_xy[0], toe_xy[1] + drop),
            (0.024 * view.scale, 0.020 * view.scale),
        )
        if patch is not None:
            lay(canvas, patch, np.asarray(colour, dtype=np.float32) * shade(stance, patch)[..., None])


def _paint_arm(canvas: Array, stance: Stance, side: int) -> None:
    person, bones, view = stance.person, stance.bones, stance.view
    scale = view.scale * (0.5 + 0.5 * person.body.girth)
    upper = person.upper
    shoulder, elbow, hand = bones.shoulders[side], bones.elbows[side], bones.hands[side]
    skin = np.asarray(person.head.skin, dtype=np.float32)
    patch = ball(canvas, view.screen(between(elbow, hand, 1.08)), (0.019 * scale, 0.026 * scale))
    if patch is not None:
        lay(canvas, patch, skin * shade(stance, patch)[..., None])
    far = 0.88 if view.depth(shoulder) > view.depth(bones.shoulders[1 - side]) + 0.05 else 1.0
    sleeve = upper.sleeve
    # The sleeve runs from 0 at the shoulder over 0.5 at the elbow to 1 at the wrist.
    for start, end, radii, first in (
        (elbow, hand, (0.027, 0.018), 0.5),
        (shoulder, elbow, (0.036, 0.028), 0.0),
    ):
        if sleeve < first + 0.5:
            patch = limb(
                canvas,
                view.screen(start),
                view.screen(end),
                (radii[0] * 0.95 * scale, radii[1] * 0.95 * scale),
            )
            if patch is not None:
                lay(canvas, patch, skin * (shade(stance, patch) * np.float32(far))[..., None])
        part = min((sleeve - first) / 0.5, 1.0)
        if part <= 0.05:
            continue
        thick = upper.loose * 0.8
        ends = ((radii[0] + thick) * scale, (radii[0] + (radii[1] - radii[0]) * part + thick) * scale)
        folded = 2.0 + person.grain % 13 + 3 * side + first + 0.3 * sin(stance.phase)
        patch = limb(canvas, view.screen(start), view.screen(between(start, end, part)), ends, folded)
        if patch is None:
            continue
        along = np.float32(first) + patch.along * np.float32(part * 0.5)
        colour = sleeve_colour(person, azimuth_of(stance, patch.across), along)
        lay(canvas, patch, colour * (shade(stance, patch) * np.float32(far))[..., None])


def _paint_trunk(canvas: Array, stance: Stance) -> None:
    person = stance.person
    if person.lower.kind in ("skirt", "dress"):
        _paint_skirt(canvas, stance)
    elif person.upper.hem > person.body.legs:
        _paint_trunk_part(
            canvas, stance, top=0.56, bottom=person.body.legs - 0.01, loose=0.0, flare=0.0, lower=True
        )
    upper = person.upper
    _paint_trunk_part(
        canvas, stance, top=0.862, bottom=upper.hem, loose=upper.loose, flare=upper.flare, lower=False
    )


def _paint_skirt(canvas: Array, stance: Stance) -> None:
    lower = stance.person.lower
    flare = 0.012 + 0.045 * (lower.fit - 0.75)
    _paint_trunk_part(canvas, stance, top=0.60, bottom=lower.hem, loose=0.004, flare=flare, lower=True)


def _paint_trunk_part(
    canvas: Array, stance: Stance, *, top: float, bottom: float, loose: float, flare: float, lower: bool
) -> None:
    """Paint the garment around the trunk between the heights `top` and `bottom`."""
    person, bones, view = stance.person, stance.bones, stance.view
    body = person.body
    # Below the trunk (coats, skirts) the last cross-section goes on, widening by the flare.
    ups = np.append(_TRUNK_UP, np.array([0.36, 0.24, 0.12]))
    wide = np.append(_TRUNK_SHOULDER * body.shoulders + _TRUNK_HIP * body.hips, np.full(3, body.hips))
    deep = np.append(_TRUNK_DEEP, np.full(3, 0.077))
    girth = np.interp(ups, [0.60, 0.80, 0.86], [body.girth, 0.5 + 0.5 * body.girth, 0.75 + 0.25 * body.girth])
    hang = np.clip((0.60 - ups) / 0.3, 0.0, 1.5)
    add = loose * np.clip((0.86 - ups) / 0.05, 0.0, 1.0) + flare * hang
    wide = wide * girth + add
    deep = deep * girth + add
    half = np.sqrt((wide * cos(view.yaw)) ** 2 + (deep * sin(view.yaw)) ** 2)
    # Seen from the side the far outline follows the depth; a cloth that hangs also follows the legs.
    stride = bones.knees[0][1] - bones.knees[1][1]
    half = half + 0.16 * abs(stride * sin(view.yaw)) * hang
    sag = deep * sin(view.pitch)
    low, high = view.screen(bones.pelvis), view.screen(bones.neck)
    share = (ups - bones.pelvis[2]) / (bones.neck[2] - bones.pelvis[2])
    lean_x = np.clip(share, 0.0, 1.2)
    rows = low[1] + share * (high[1] - low[1])
    centres = low[0] + lean_x * (high[0] - low[0])
    patch = tube(
        canvas,
        rows.astype(np.float32),
        centres.astype(np.float32),
        (half * view.scale).astype(np.float32),
        (sag * view.scale).astype(np.float32),
        ends=(float(np.interp(-top, -ups, rows)), float(np.interp(-bottom, -ups, rows))),
        wobble=1.0 + person.grain % 19 + 0.3 * sin(stance.phase),
    )
    if patch is None:
        return
    up = np.interp(patch.along, rows, ups).astype(np.float32)
    azimuth = azimuth_of(stance, patch.across)
    colour = lower_colour(person, azimuth, up, outer=0) if lower else upper_colour(person, azimuth, up)
    lit = shade(stance, patch)
    if not lower:
        # The shoulders face the sky, the hem of a garment hangs in its own shadow.
        lit = lit * (1.0 + 0.16 * step(up, 0.80, 0.08) - 0.10 * step(-up, -bottom - 0.02, 0.05))
    else:
        lit = lit * (0.82 + 0.18 * step(-up, -0.46, 0.12))
    lay(canvas, patch, colour * lit[..., None])
