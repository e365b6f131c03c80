"""Small labelled data sets of real pictures, and their figures computed the slow and obvious way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from san_deploy.datasets import EvaluationSet


def picture(path: Path, person: int, rng: np.random.Generator, size_hw: tuple[int, int] = (40, 18)) -> None:
    """Two tones that are a person's own under noise that is not; 0 and -1 are nobody's tones."""
    tones = np.random.default_rng(1000 + person).integers(40, 216, (2, 3))
    halves = np.repeat(tones, size_hw[0] // 2, axis=0)[:, None]
    crop = np.broadcast_to(halves, (*size_hw, 3)) + rng.normal(0, 60, (*size_hw, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(crop, 0, 255).astype(np.uint8)).save(path)


def market(root: Path, *, people: int = 6, cameras: int = 3) -> Path:
    """Market-1501's folders: distractors, junk, a person whom one camera saw, one who is not in the gallery."""
    rng = np.random.default_rng(3)
    for person in range(1, people + 1):
        for camera in range(1, cameras + 1):
            picture(root / "query" / f"{person:04d}_c{camera}s1_000001_00.png", person, rng)
            for frame in (2, 3):
                name = f"{person:04d}_c{camera}s1_{frame:06d}_01.png"
                picture(root / "bounding_box_test" / name, person, rng)
    picture(root / "bounding_box_train" / "0900_c1s1_000001_00.png", 900, rng)
    for frame in range(5):
        picture(root / "bounding_box_test" / f"0000_c{frame % 3 + 1}s1_{frame:06d}_00.png", 0, rng)
        picture(root / "bounding_box_test" / f"-1_c{frame % 3 + 1}s1_{frame:06d}_00.png", -1, rng)
    picture(root / "query" / "0700_c1s1_000001_00.png", 700, rng)
    picture(root / "query" / "0800_c1s1_000001_00.png", 800, rng)
    picture(root / "bounding_box_test" / "0800_c1s1_000002_00.png", 800, rng)
    return root


def crop_folder(
    root: Path, *, people: int = 5, cameras: int = 2, crops: int = 3, split: str = "test"
) -> Path:
    """A crop folder with tracklets, and two people to train on."""
    rng = np.random.default_rng(5)
    lines = ["camera,track,person,split"]
    for camera in range(1, cameras + 1):
        for person in range(1, people + 3):
            track = f"t{(person * 7 + camera) % 100:03d}"
            lines.append(f"cam{camera},{track},{person},{split if person <= people else 'train'}")
            for number in range(crops):
                picture(root / f"cam{camera}" / track / f"{number}.png", person, rng)
    (root / "identities.csv").write_text("\n".join(lines) + "\n")
    return root


def cuhk03(root: Path) -> Path:
    """CUHK03's labelled crops, extracted, with test sets of the old protocol: three people, two views each."""
    rng = np.random.default_rng(9)
    for person in range(1, 6):
        for view, number in ((1, 1), (1, 2), (2, 6), (2, 7)):
            if (person, number) != (2, 7):
                picture(root / "images_labeled" / f"1_{person:03d}_{view}_{number:02d}.png", person, rng)
    (root / "images_labeled" / "testsets.json").write_text(json.dumps([[1001, 1002, 1003], [1003, 1004]]))
    return root


class Figures(NamedTuple):
    """Of a slow evaluation; shares in 0..1."""

    cmc: list[float]
    mean_ap: float
    mean_inp: float
    queries: int


def slow_figures(chosen: EvaluationSet, query: np.ndarray, gallery: np.ndarray, ranks: int = 20) -> Figures:
    """Market-1501's rule with a sort for each query, wrong answers first among equals."""
    firsts: list[int] = []
    precision: list[float] = []
    inverse: list[float] = []
    for row, asked in zip(query.astype(np.float64), chosen.query, strict=True):
        entries = [
            (-float(np.float32(row @ other)), there.person == asked.person)
            for other, there in zip(gallery.astype(np.float64), chosen.gallery, strict=True)
            if not (there.person == asked.person and there.camera == asked.camera)
        ]
        right = [rank for rank, (_, same) in enumerate(sorted(entries), 1) if same]
        if right:
            firsts.append(right[0])
            precision.append(float(np.mean([k / rank for k, rank in enumerate(right, 1)])))
            inverse.append(len(right) / right[-1])
    cmc = [float(np.mean([first <= rank for first in firsts])) for rank in range(1, ranks + 1)]
    return Figures(cmc, float(np.mean(precision)), float(np.mean(inverse)), len(firsts))


def single_shot_expectation(
    person: Sequence[int], camera: Sequence[str], rows: np.ndarray, ranks: int
) -> np.ndarray:
    """Over all draws of the SAN paper: for each person a query, then a gallery crop by another camera."""
    people = sorted(set(person))
    pairs = {
        one: [
            (q, g)
            for q in range(len(rows))
            for g in range(len(rows))
            if person[q] == person[g] == one and camera[q] != camera[g]
        ]
        for one in people
    }
    chance = {
        one: {(q, g): 1 / len({a for a, _ in all_}) / sum(a == q for a, _ in all_) for q, g in all_}
        for one, all_ in pairs.items()
    }
    similarity = (rows.astype(np.float64) @ rows.T.astype(np.float64)).astype(np.float32)
    total = np.zeros(ranks)
    draws = [(1.0, {})]  # type: list[tuple[float, dict[int, tuple[int, int]]]]
    for one in people:
        draws = [(p * chance[one][pair], d | {one: pair}) for p, d in draws for pair in pairs[one]]
    for p, drawn in draws:
        for one, (q, g) in drawn.items():
            before = sum(similarity[q, drawn[o][1]] >= similarity[q, g] for o in people if o != one)
            total[before:] += p / len(people)
    return total
