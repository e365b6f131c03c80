"""How a body stands and walks: joints in space from the phase of the gait, and their place on the screen.

Lengths are fractions of the body height. Body axes: left, forward, up, from the ground between the feet.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi, sin

from .person import Person

Point = tuple[float, float, float]  # left, forward, up


@dataclass(frozen=True)
class Skeleton:
    """Joints as (left, forward, up), fractions of the body height. Pairs are (left side, right side)."""

    head: Point
    neck: Point
    pelvis: Point
    shoulders: tuple[Point, Point]
    elbows: tuple[Point, Point]
    hands: tuple[Point, Point]
    hips: tuple[Point, Point]
    knees: tuple[Point, Point]
    ankles: tuple[Point, Point]
    toes: tuple[Point, Point]

    def points(self) -> list[Point]:
        """The joints that reach furthest out, for the bounding box."""
        return [self.head, *self.shoulders, *self.elbows, *self.hands, *self.knees, *self.ankles, *self.toes]


def walk(person: Person, phase: float, busy_arm: int = 0) -> Skeleton:
    """The skeleton of a walking person.

    Args:
        person: whose proportions and gait.
        phase: of the gait, radians; 2 pi is two steps.
        busy_arm: +1 or -1 for an arm (left, right) that is held up, to a telephone or a strap; 0 for none.

    Returns:
        the joints, the lower foot standing on the ground.
    """
    body = person.body
    hip_up = body.legs + 0.035
    legs = [_leg(person, side, phase + (0.0 if side > 0 else pi), hip_up) for side in (1, -1)]
    # The hips sink when the legs are apart: the lower sole must stay on the ground.
    sink = min(min(leg[2][2], leg[3][2]) for leg in legs) - 0.022
    legs = [
        (_lower(hip, sink), _lower(knee, sink), _lower(ankle, sink), _lower(toe, sink))
        for hip, knee, ankle, toe in legs
    ]
    pelvis = (0.0, 0.0, hip_up - sink)
    lean = body.stoop
    rise = 0.838 - hip_up
    neck = (0.0, rise * sin(lean), pelvis[2] + rise * cos(lean))
    head = (0.0, neck[1] + 0.012, neck[2] + 0.088)
    twist = 0.12 * body.arm_swing / 0.3 * sin(phase)
    arms = [
        _arm(
            person,
            side,
            phase + (pi if side > 0 else 0.0),
            neck,
            twist=-side * twist * body.shoulders,
            busy=busy_arm == side,
        )
        for side in (1, -1)
    ]
    return Skeleton(
        head=head,
        neck=neck,
        pelvis=pelvis,
        shoulders=(arms[0][0], arms[1][0]),
        elbows=(arms[0][1], arms[1][1]),
        hands=(arms[0][2], arms[1][2]),
        hips=(legs[0][0], legs[1][0]),
        knees=(legs[0][1], legs[1][1]),
        ankles=(legs[0][2], legs[1][2]),
        toes=(legs[0][3], legs[1][3]),
    )


def _lower(point: Point, by: float) -> Point:
    return point[0], point[1], point[2] - by


def _leg(person: Person, side: int, phase: float, hip_up: float) -> tuple[Point, Point, Point, Point]:
    body = person.body
    thigh = body.stride * sin(phase) + 0.05
    # The knee bends while the leg swings forward, and hardly while it carries the weight.
    swing = max(0.0, cos(phase - 0.25))
    knee_bend = 0.08 + 2.1 * body.stride * swing * swing
    shin = thigh - knee_bend
    upper_len = 0.52 * (hip_up - 0.04)
    lower_len = 0.48 * (hip_up - 0.04)
    hip = (side * body.hips * 0.52, 0.0, hip_up)
    knee = (side * body.hips * 0.5, hip[1] + upper_len * sin(thigh), hip[2] - upper_len * cos(thigh))
    ankle = (side * body.hips * 0.42, knee[1] + lower_len * sin(shin), knee[2] - lower_len * cos(shin))
    # The foot stays flat in front and rolls over its toes behind.
    pitch = -0.1 + min(0.0, shin * 1.1) + 0.25 * max(0.0, thigh)
    toe = (
        ankle[0] + side * 0.09 * sin(body.toe_out),
        ankle[1] + 0.085 * cos(pitch),
        ankle[2] - 0.022 + 0.085 * sin(pitch),
    )
    return hip, knee, ankle, toe


def _arm(
    person: Person, side: int, phase: float, neck: Point, *, twist: float, busy: bool
) -> tuple[Point, Point, Point]:
    body = person.body
    # Half the upper arm lies inside the trunk's outline: no ball stands out at the shoulder.
    shoulder = (side * (0.96 * body.shoulders - 0.006), neck[1] + twist, neck[2] - 0.067)
    if busy:
        elbow = (shoulder[0] + side * 0.02, shoulder[1] + 0.05, shoulder[2] - 0.15)
        return shoulder, elbow, (elbow[0] - side * 0.06, elbow[1] + 0.08, elbow[2] + 0.09)
    swing = body.arm_swing * sin(phase) + 0.02
    fore = swing + body.elbow + 0.25 * max(0.0, sin(phase))
    out = 0.12 + 0.15 * (body.girth - 1.0)
    elbow = (
        shoulder[0] + side * 0.16 * sin(out),
        shoulder[1] + 0.16 * sin(swing),
        shoulder[2] - 0.16 * cos(swing),
    )
    hand = (elbow[0] + side * 0.01, elbow[1] + 0.165 * sin(fore), elbow[2] - 0.165 * cos(fore))
    return shoulder, elbow, hand


@dataclass(frozen=True)
class View:
    """How body axes fall on the screen.

    Attributes:
        feet_xy: the ground point between the feet, pixels of the canvas.
        scale: pixels per body height.
        yaw: where the body faces, radians: 0 the camera, pi / 2 to the right of the image, pi away.
        pitch: how far the camera looks down, radians.
    """

    feet_xy: tuple[float, float]
    scale: float
    yaw: float
    pitch: float

    def screen(self, point: Point) -> tuple[float, float]:
        """(left, forward, up) -> (x, y) on the canvas, pixels."""
        right, away = self.ground(point)
        up = point[2] * cos(self.pitch) + away * sin(self.pitch)
        return self.feet_xy[0] + self.scale * right, self.feet_xy[1] - self.scale * up

    def ground(self, point: Point) -> tuple[float, float]:
        """(left, forward, up) -> (to the right of the image, away from the camera), body heights."""
        left, forward, _ = point
        right = left * cos(self.yaw) + forward * sin(self.yaw)
        away = left * sin(self.yaw) - forward * cos(self.yaw)
        return right, away

    def depth(self, point: Point) -> float:
        """Distance from the camera, body heights, for painting the far parts first."""
        return self.ground(point)[1] * cos(self.pitch) - point[2] * sin(self.pitch)
