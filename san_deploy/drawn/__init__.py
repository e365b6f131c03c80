"""Procedurally drawn pedestrians seen by several cameras: for `san demo`, and as extra people for training.

`draw_cameras` writes a crop folder with ground truth. Below it are pure functions: `draw_person` and
`draw_camera` say who and which camera, `draw_track` how the one passes the other, `draw_crop` draws a moment.
"""

from san_deploy.drawn.camera import Camera, draw_camera
from san_deploy.drawn.crop import Obstacle, Pose, draw_crop, draw_track
from san_deploy.drawn.folder import draw_cameras
from san_deploy.drawn.person import Bag, Body, Head, Lower, Person, Shoes, Upper, draw_person

__all__ = [
    "Bag",
    "Body",
    "Camera",
    "Head",
    "Lower",
    "Obstacle",
    "Person",
    "Pose",
    "Shoes",
    "Upper",
    "draw_camera",
    "draw_cameras",
    "draw_crop",
    "draw_person",
    "draw_track",
]
