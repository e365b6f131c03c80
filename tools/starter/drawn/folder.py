"""A crop folder of drawn people: training data of the starter, and what `make_samples.py` packs."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from san_deploy.errors import SanError

from .camera import draw_camera
from .crop import draw_crop, draw_track
from .person import draw_person

_TRACK_STREAM = 4
_HOME_STREAM = 5
_ORDER_STREAM = 6


def draw_cameras(
    out: Path,
    *,
    people: int,
    cameras: int = 3,
    crops_per_track: int = 8,
    distractors: int = 0,
    seed: int = 0,
    size_h: int = 200,
    quality: int = 95,
    split: str | Mapping[int, str] = "test",
    progress: Callable[[int], None] | None = None,
) -> None:
    """Draw people passing several cameras, as a crop folder with its ground truth.

    Writes `out/cam1/t001/0001.jpg ...` and `out/identities.csv` with columns camera, track, person, split.
    Persons 1..people are seen by every camera, persons people + 1..people + distractors by one camera each.
    Track numbers run from t001 in each camera and are shuffled: equal numbers in two cameras are different
    people (where there are enough people for that). A person's looks, a camera and a tracklet depend on the
    seed and their own numbers only: adding cameras or people leaves the crops of the others as they are.

    Args:
        out: folder to write, must be absent or empty.
        people: number of people seen by all cameras, 1 or more.
        cameras: number of cameras, 1 or more.
        crops_per_track: crops per person and camera, 1 or more.
        distractors: number of people seen by a single camera, 0 or more.
        seed: of everything, 0 or more.
        size_h: height of a mean person, pixels, 40 or more; a camera's resolution scales it by 0.6..1.2.
        quality: of the JPEG files, 1..95.
        split: of all persons, or by person number.
        progress: called after each tracklet with the number of crops it has (as `tqdm.update` takes it).

    Raises:
        SanError: the folder is not empty, a number is out of its range, or the split lacks a person.
    """
    _check(
        out,
        people=people,
        cameras=cameras,
        crops_per_track=crops_per_track,
        distractors=distractors,
        size_h=size_h,
    )
    seen_by = _who_is_seen(people, distractors, cameras, seed)
    orders = _track_orders(seen_by, seed)
    parts = _parts(split, people + distractors)
    rows: list[tuple[str, str, int, str]] = []
    for camera_index, order in enumerate(orders):
        camera = draw_camera(seed, camera_index)
        for track_index, number in enumerate(order):
            person = draw_person(seed, number)
            rng = np.random.default_rng([_TRACK_STREAM, seed, camera_index, number])
            folder = out / f"cam{camera_index + 1}" / f"t{track_index + 1:03d}"
            folder.mkdir(parents=True)
            for k, pose in enumerate(draw_track(person, camera, crops_per_track, rng, size_h)):
                crop_bgr = draw_crop(person, camera, pose, rng)
                Image.fromarray(crop_bgr[:, :, ::-1]).save(
                    folder / f"{k + 1:04d}.jpg", quality=quality, optimize=True
                )
            rows.append((f"cam{camera_index + 1}", folder.name, number, parts[number]))
            if progress is not None:
                progress(crops_per_track)
    # Written last: a folder with this file is complete.
    with open(out / "identities.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("camera", "track", "person", "split"))
        writer.writerows(rows)


def _check(
    out: Path, *, people: int, cameras: int, crops_per_track: int, distractors: int, size_h: int
) -> None:
    for name, value, least in (
        ("people", people, 1),
        ("cameras", cameras, 1),
        ("crops_per_track", crops_per_track, 1),
        ("distractors", distractors, 0),
        ("size_h", size_h, 40),
    ):
        if value < least:
            raise SanError(f"{name} is {value}", why=f"it must be at least {least}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SanError(
            f"{out} exists and is not an empty folder",
            why="drawn crops would mix with what is there",
            do="give another folder, or remove this one first",
        )


def _parts(split: str | Mapping[int, str], count: int) -> dict[int, str]:
    """The split of every person, found before the drawing starts."""
    if isinstance(split, str):
        return dict.fromkeys(range(1, count + 1), split)
    lacking = [number for number in range(1, count + 1) if number not in split]
    if lacking:
        raise SanError(f"the split does not name person {lacking[0]}", why=f"persons are numbered 1..{count}")
    return {number: split[number] for number in range(1, count + 1)}


def _who_is_seen(people: int, distractors: int, cameras: int, seed: int) -> list[list[int]]:
    """Person numbers by camera. A distractor goes where its own draw is highest: cameras do not interfere."""
    seen_by = [list(range(1, people + 1)) for _ in range(cameras)]
    for number in range(people + 1, people + distractors + 1):
        draws = [
            np.random.default_rng([_HOME_STREAM, seed, number, camera]).random() for camera in range(cameras)
        ]
        seen_by[int(np.argmax(draws))].append(number)
    return seen_by


def _track_orders(seen_by: list[list[int]], seed: int) -> list[list[int]]:
    """Person numbers by camera in the order of their tracks; no person keeps a place, where possible."""
    orders: list[list[int]] = []
    for camera, numbers in enumerate(seen_by):
        rng = np.random.default_rng([_ORDER_STREAM, seed, camera])
        order = [numbers[k] for k in rng.permutation(len(numbers))]
        for _ in range(50):
            clashes = [k for k in range(len(order)) if _clashes(order[k], k, orders)]
            if not clashes:
                break
            for k in clashes:
                other = int(rng.integers(len(order)))
                order[k], order[other] = order[other], order[k]
        orders.append(order)
    return orders


def _clashes(number: int, place: int, orders: list[list[int]]) -> bool:
    return any(place < len(order) and order[place] == number for order in orders)
