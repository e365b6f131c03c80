"""A tracklet: one person passing one camera, and the crops that a detector cuts from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import cos, pi, sin
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .body import View
from .camera import Camera, expose, record
from .figure import paint_person, paint_shadow, person_box
from .paint import Array
from .person import Person, draw_person
from .scene import draw_scene, feet_range
from .stance import Light, Stance, stand

ObstacleKind = Literal["pole", "railing", "planter", "passer-by"]


@dataclass(frozen=True)
class Obstacle:
    """Something near the path. It stays where it is in the scene while the person walks past.

    Attributes:
        kind: what it is.
        x: its middle, pixels of the scene.
        size: width of a pole or planter, fraction of the body height.
        grey: its brightness, 0..1.
        seed: of the passer-by.
        in_front: whether it hides the person or is behind.
    """

    kind: ObstacleKind
    x: float
    size: float
    grey: float
    seed: int
    in_front: bool


@dataclass(frozen=True)
class Pose:
    """One moment of a tracklet.

    Attributes:
        phase: of the gait, radians; 2 pi is two steps.
        yaw: where the person faces, radians: 0 the camera, pi / 2 right, pi away, 3 pi / 2 left.
        feet_xy: place of the feet, pixels of the scene.
        scale: height of a mean person, pixels.
        head_turn: of the head against the body, radians.
        busy_arm: +1 or -1 for an arm held up, 0 for none.
        light: brightness of the moment, around 1.
        box: shift of the box's left, top, right, bottom edge, fractions of the height, outwards positive.
        smear_px: length of the motion blur, pixels.
        obstacle: what is in the way, if anything.
        scene_hw: size of the scene, pixels.
    """

    phase: float
    yaw: float
    feet_xy: tuple[float, float]
    scale: float
    head_turn: float = 0.0
    busy_arm: int = 0
    light: float = 1.0
    box: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    smear_px: float = 0.0
    obstacle: Obstacle | None = None
    scene_hw: tuple[int, int] = (400, 600)


def draw_track(
    person: Person, camera: Camera, count: int, rng: np.random.Generator, size_h: int = 200
) -> list[Pose]:
    """Draw how a person passes a camera: a short walk with small changes from moment to moment.

    Args:
        person: who walks; only the height and the gait matter.
        camera: seen by whom.
        count: number of moments.
        rng: of this tracklet.
        size_h: height of a mean person where the camera's resolution is 1, pixels.

    Returns:
        `count` poses in the order of time.
    """
    mean_px = size_h * camera.resolution
    scene_hw = (int(2.1 * mean_px), int(3.0 * mean_px))
    low, high = feet_range(camera)
    toward = (0.0, pi, pi / 2, 1.5 * pi)[int(rng.choice(4, p=camera.views))]
    yaw = toward + rng.normal(0, camera.view_spread)
    drift = rng.normal(0, 0.012)
    pace = rng.uniform(0.45, 0.85)
    phase = rng.uniform(0, 2 * pi)
    # A step of the gait moves the feet by about 0.2 body heights per radian.
    forward = 0.13 * pace * mean_px
    length = forward * (count - 1)
    y_mean = rng.uniform(low, high) * scene_hw[0]
    x_mean = rng.uniform(0.3, 0.7) * scene_hw[1]
    obstacle = _draw_obstacle(camera, x_mean, mean_px, rng) if rng.random() < camera.clutter else None
    light = float(np.exp(rng.normal(0, 0.1)))
    base_box = rng.normal(0, camera.jitter * 0.7, 4)
    head_turn = rng.normal(0, 0.25)
    busy_arm = int(rng.choice([0, 1, -1], p=[0.9, 0.05, 0.05]))
    size = float(np.exp(rng.normal(0, 0.05)))
    poses = []
    for k in range(count):
        along = forward * k - length / 2
        y = y_mean + along * cos(yaw) * (0.35 + sin(camera.pitch))
        x = x_mean + along * sin(yaw)
        # Nearer is larger: a little perspective over the height of the scene.
        scale = mean_px * size * (1.0 + 0.35 * (y / scene_hw[0] - 0.78))
        light *= float(np.exp(rng.normal(0, 0.012)))
        head_turn = 0.9 * head_turn + rng.normal(0, 0.08)
        poses.append(
            Pose(
                phase=phase + pace * k,
                yaw=yaw + drift * k + rng.normal(0, 0.02),
                feet_xy=(float(np.clip(x, -0.1 * scene_hw[1], 1.1 * scene_hw[1])), float(y)),
                scale=float(scale),
                head_turn=float(head_turn),
                busy_arm=busy_arm,
                light=light,
                box=_draw_box(camera, base_box, rng),
                smear_px=float(abs(rng.normal(0, 0.5)) * mean_px / 100) if rng.random() < 0.3 else 0.0,
                obstacle=obstacle,
                scene_hw=scene_hw,
            )
        )
    return poses


def draw_crop(person: Person, camera: Camera, pose: Pose, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw one crop.

    Args:
        person: who is seen.
        camera: by whom.
        pose: in which moment, see `draw_track`.
        rng: of the sensor noise; the crop is the same for an equal state.

    Returns:
        (H, W, 3) uint8 BGR; H and W follow the person's box, H is about `pose.scale` pixels.
    """
    stance = _stance(person, camera, pose, pose.feet_xy)
    left, top, right, bottom = _window(stance, camera, pose)
    canvas = _background(camera, pose, (left, top, right, bottom))
    origin = (pose.feet_xy[0] - left, pose.feet_xy[1] - top)
    stance = _stance(person, camera, pose, origin)
    paint_shadow(canvas, stance, camera.shadow_reach, camera.shadow)
    obstacle = pose.obstacle
    if obstacle is not None and not obstacle.in_front:
        _paint_obstacle(canvas, camera, pose, obstacle, (left, top))
    paint_person(canvas, stance)
    if obstacle is not None and obstacle.in_front:
        _paint_obstacle(canvas, camera, pose, obstacle, (left, top))
    if pose.smear_px >= 1.0:
        canvas = _smear(canvas, pose.smear_px)
    seen = expose(canvas, camera, pose.light)
    return np.ascontiguousarray(record(seen, camera, pose.scale, rng)[:, :, ::-1])


def _stance(person: Person, camera: Camera, pose: Pose, feet_xy: tuple[float, float]) -> Stance:
    view = View(feet_xy, pose.scale * person.body.height, pose.yaw, camera.pitch)
    light = Light(camera.light_side, camera.ambient, 1.08)
    return stand(person, pose.phase, view, light, head_turn=pose.head_turn, busy_arm=pose.busy_arm)


def _window(stance: Stance, camera: Camera, pose: Pose) -> tuple[int, int, int, int]:
    """The detector's box (left, top, right, bottom), pixels of the scene."""
    left, top, right, bottom = person_box(stance)
    scale = pose.scale
    margin = camera.margin * scale
    shift = [edge * scale for edge in pose.box]
    left, top = left - margin - shift[0], top - margin * 0.7 - shift[1]
    right, bottom = right + margin + shift[2], bottom + margin * 0.7 + shift[3]
    # Detectors do not report needles: a standing person gets a box of about 1 : 3.5 at least.
    lack = 0.29 * (bottom - top) - (right - left)
    if lack > 0:
        left, right = left - lack / 2, right + lack / 2
    x0, y0 = int(left), int(top)
    return x0, y0, max(int(right), x0 + 12), max(int(bottom), y0 + 24)


def _draw_box(
    camera: Camera, base: NDArray[np.float64], rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """Edges of a box: the tracklet's own error, a jitter, and now and then feet, head or a side cut off."""
    edges = base + rng.normal(0, camera.jitter * 0.7, 4)
    fate = rng.random()
    if fate < 0.03:
        edges[3] -= rng.uniform(0.08, 0.3)
    elif fate < 0.045:
        edges[1] -= rng.uniform(0.04, 0.1)
    elif fate < 0.06:
        edges[int(rng.choice([0, 2]))] -= rng.uniform(0.03, 0.08)
    elif fate < 0.10:
        edges += np.abs(rng.normal(0, 0.06, 4))
    left, top, right, bottom = np.clip(edges, -0.35, 0.3)
    return float(left), float(top), float(right), float(bottom)


def _background(camera: Camera, pose: Pose, window: tuple[int, int, int, int]) -> Array:
    """The part of the scene in the window; beyond its border the scene is mirrored."""
    left, top, right, bottom = window
    scene = draw_scene(camera, pose.scene_hw)
    rows = _mirror(np.arange(top, bottom), scene.shape[0])
    cols = _mirror(np.arange(left, right), scene.shape[1])
    return scene[np.ix_(rows, cols)].astype(np.float32) * np.float32(1 / 255)


def _mirror(index: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    index = np.abs(index) % (2 * size)
    return np.where(index < size, index, 2 * size - 1 - index)


def _draw_obstacle(camera: Camera, x: float, mean_px: float, rng: np.random.Generator) -> Obstacle:
    kinds: tuple[ObstacleKind, ...] = ("pole", "railing", "planter", "passer-by")
    return Obstacle(
        kind=kinds[int(rng.choice(4, p=[0.25, 0.2, 0.15, 0.4]))],
        x=float(x + rng.uniform(-0.5, 0.5) * mean_px),
        size=float(rng.uniform(0.02, 0.07)),
        grey=float(rng.uniform(0.12, 0.7)),
        seed=int(rng.integers(1 << 30)),
        in_front=bool(rng.random() < 0.6),
    )


def _paint_obstacle(
    canvas: Array, camera: Camera, pose: Pose, obstacle: Obstacle, corner: tuple[int, int]
) -> None:
    height, width = canvas.shape[:2]
    x = obstacle.x - corner[0]
    feet_y = pose.feet_xy[1] - corner[1]
    scale = pose.scale
    if obstacle.kind == "passer-by":
        # Walks beside the person, so that the box keeps an edge of them.
        side = 1.0 if obstacle.seed % 2 else -1.0
        feet = (pose.feet_xy[0] - corner[0] + side * (0.2 + 3 * obstacle.size) * scale, feet_y)
        feet = (feet[0], feet_y + (0.05 if obstacle.in_front else -0.12) * scale)
        other = draw_person(obstacle.seed, 0)
        moment = replace(pose, phase=pose.phase + 1.7, head_turn=0.0, busy_arm=0)
        paint_person(canvas, _stance(other, camera, moment, feet))
        return
    half = obstacle.size * scale / 2
    grey = np.float32(obstacle.grey)
    if obstacle.kind == "pole":
        lo, hi = int(max(x - half, 0)), int(min(x + half + 1, width))
        if lo < hi:
            round_light = 1.0 - 0.5 * np.abs(np.linspace(-1, 1, hi - lo, dtype=np.float32))
            canvas[: max(int(feet_y), 1), lo:hi] = (grey * round_light)[None, :, None]
    elif obstacle.kind == "railing":
        for up in (0.08, 0.26, 0.44):
            y = int(feet_y - up * scale)
            if 0 <= y < height:
                canvas[y : y + max(int(0.012 * scale), 1)] = grey
        for bar in np.arange(x % (0.35 * scale), width, 0.35 * scale):
            canvas[max(int(feet_y - 0.45 * scale), 0) :, int(bar) : int(bar) + max(int(0.012 * scale), 1)] = (
                grey
            )
    else:
        top = max(int(feet_y - (0.12 + 2.0 * obstacle.size) * scale), 0)
        lo, hi = int(max(x - 0.25 * scale, 0)), int(min(x + 0.25 * scale, width))
        if lo < hi and top < height:
            canvas[top:, lo:hi] = np.array([0.9, 1.0, 0.85], dtype=np.float32) * grey


def _smear(canvas: Array, length_px: float) -> Array:
    """Blur along the x axis by moving the picture while the shutter is open."""
    count = min(int(length_px) + 1, 6)
    total = canvas.copy()
    for k in range(1, count):
        total[:, k:] += canvas[:, :-k]
        total[:, :k] += canvas[:, :1]
    return total / np.float32(count)
