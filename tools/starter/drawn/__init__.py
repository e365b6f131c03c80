"""Procedurally drawn pedestrians seen by several cameras: as extra people for training the starter,
and for the sample crops that the package ships (`make_samples.py`).

`draw_cameras` writes a crop folder with ground truth. Below it are pure functions: `draw_person` and
`draw_camera` say who and which camera, `draw_track` how the one passes the other, `draw_crop` draws a moment.
"""

from .camera import Camera, draw_camera
from .crop import Obstacle, Pose, draw_crop, draw_track
from .folder import draw_cameras
from .person import Bag, Body, Head, Lower, Person, Shoes, Upper, draw_person

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
