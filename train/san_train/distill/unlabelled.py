"""Crops that nobody named, as a data set: a teacher has an answer to them all the same."""

from __future__ import annotations

from pathlib import Path

from san_deploy.datasets import Crop, Dataset
from san_deploy.errors import SanError
from san_deploy.images import list_crops


def unlabelled(root: Path) -> Dataset:
    """Read a folder of crops without identities.csv: CAMERA/TRACK/*.jpg, or TRACK/*.jpg of a single camera.

    Each tracklet counts as a person of its own, which only says who may be mixed with whom in a view.

    Raises:
        SanError: no such folder, or no image in it.
    """
    root = Path(root)
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise SanError(f"{root} {what}", do="give a folder of crops")
    number: dict[tuple[str, str], int] = {}
    crops = []
    for path in list_crops(root):
        parts = path.parts
        camera = parts[0] if len(parts) > 2 else root.name
        track = "/".join(parts[1:-1] if len(parts) > 2 else parts[:-1]) or path.name
        person = number.setdefault((camera, track), len(number) + 1)
        crops.append(Crop(root / path, person, camera, track))
    if not crops:
        raise SanError(f"{root} holds no crop", do="give a folder of crops: CAMERA/TRACK/*.jpg")
    return Dataset("unlabelled crops", root, {"train": crops}, unsplit=True)
