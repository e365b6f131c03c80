"""Made difficulty, seeded: how a network does where people dress alike, cameras see other colours and
people are absent.

    python tools/difficulty.py ../shared/ward --models split1.onnx split2.onnx split3.onnx split4.onnx split5.onnx

Each model is judged on the twenty people of its split (../shared/ward/README.md), whom it did not see. Rows:

- plain: everybody, as they are;
- look-alikes: the ten of the twenty whose clothes are most alike, by a histogram of hue, saturation and value of the
  upper and the lower half;
- casts: each camera's colours multiplied and bent by another amount;
- 30 %, 50 % absent: as many people are taken out of each camera, others out of each; means over draws;
- late camera: people are found over two cameras with 30 % absent, then a third one's tracklets are given to them or
  opened as new.

The threshold is that which 5 % of strangers reach among people of the other splits, by their own models: nobody who
is judged takes part in it. Columns: tracklets' rank-1, pairs' F1 of people over all cameras, B-cubed F1, people whole;
for the late camera the tracklets that got the right person, or were rightly opened. Mean over the splits, worst.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from people_methods import SPLITS
from PIL import Image

from san_deploy import Embedder, metrics
from san_deploy.datasets import Crop, read_dataset
from san_deploy.images import read_image
from san_deploy.matching.cameras import Camera
from san_deploy.matching.identities import find_people
from san_deploy.matching.identity_accuracy import score_people
from san_deploy.matching.match import match_cameras
from san_deploy.matching.threshold import threshold_at

RATE, DRAWS, BINS = 0.05, 6, (12, 4, 4)
CAST_GAIN, CAST_GAMMA = 0.2, 0.15
Colours = Callable[[np.ndarray, str], np.ndarray]


@dataclass(frozen=True)
class Seen:
    """One model's tracklets of the people of its split: `(T, D)` rows, `(T,)` people and cameras."""

    rows: np.ndarray
    person: np.ndarray
    camera: np.ndarray

    def only(self, keep: np.ndarray) -> Seen:
        """Those that `(T,)` bool says."""
        return Seen(self.rows[keep], self.person[keep], self.camera[keep])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ward", type=Path)
    parser.add_argument("--models", type=Path, nargs="+", required=True, help="five, or one for all splits")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    models = given.models * 5 if len(given.models) == 1 else given.models
    if len(models) != len(SPLITS):
        parser.error(f"--models takes one model or {len(SPLITS)}, one for each split")
    crops = [crop for part in read_dataset(given.ward).splits.values() for crop in part]
    plain, cast, alike = [], [], []
    for model, people in zip(models, SPLITS, strict=True):
        mine = [crop for crop in crops if crop.person in set(people)]
        embedder = Embedder(model)
        plain.append(tracklets(embedder, mine, lambda image, camera: image))
        cast.append(tracklets(embedder, mine, casts(sorted({crop.camera for crop in mine}), given.seed)))
        alike.append(look_alikes(mine, 10))
        print(f"embedded {len(mine)} crops by {model}", flush=True)
    print(
        "| made difficult by | tracklets rank-1 | pair F1 | B-cubed F1 | people whole |\n|---|---|---|---|---|"
    )
    for name, table in rows(plain, cast, alike, given.seed).items():
        print(f"| {name} | " + " | ".join(cell(column) for column in np.array(table, float).T) + " |")


def rows(
    plain: Sequence[Seen], cast: Sequence[Seen], alike: Sequence[set[int]], seed: int
) -> dict[str, list[tuple[float, ...]]]:
    """The table: by difficulty, for each split, per cent; NaN where a figure is not taken."""
    threshold = [threshold_at(strangers(plain, split), RATE) for split in range(len(plain))]
    of_cast = [threshold_at(strangers(cast, split), RATE) for split in range(len(cast))]
    found: dict[str, list[tuple[float, ...]]] = {}
    for split, seen in enumerate(plain):
        found.setdefault("nothing", []).append(judged(seen, threshold[split]))
        few = seen.only(np.isin(seen.person, sorted(alike[split])))
        found.setdefault("look-alikes", []).append(judged(few, threshold[split]))
        found.setdefault("casts", []).append(judged(cast[split], of_cast[split]))
        for part in (0.3, 0.5):
            draws = [judged(absent(seen, part, [seed, n]), threshold[split]) for n in range(DRAWS)]
            found.setdefault(f"{part:.0%} absent", []).append(tuple(np.mean(draws, 0)))
        late = [late_camera(absent(seen, 0.3, [seed, n]), threshold[split]) for n in range(DRAWS)]
        found.setdefault("late camera", []).append((float(np.mean(late)), *[float("nan")] * 3))
    return found


def cell(values: np.ndarray) -> str:
    """`mean (worst)`, or a dash."""
    return "-" if np.isnan(values).any() else f"{values.mean():.1f} ({values.min():.1f})"


def tracklets(embedder: Embedder, crops: Sequence[Crop], colours: Colours) -> Seen:
    """Means of unit rows, of norm 1, in the order of person and camera."""
    rows = embedder([colours(read_image(crop.path), crop.camera) for crop in crops])
    keys = sorted({(crop.person, crop.camera) for crop in crops})
    of = [(crop.person, crop.camera) for crop in crops]
    means = np.stack([rows[[key == wanted for key in of]].mean(0) for wanted in keys])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    return Seen(means, np.array([person for person, _ in keys]), np.array([camera for _, camera in keys]))


def casts(cameras: Sequence[str], seed: int) -> Colours:
    """Another gain for each colour, and another gamma, of each camera."""
    tables = {}
    for number, camera in enumerate(cameras):
        rng = np.random.default_rng([seed, number, 41])
        gain, gamma = np.exp(rng.normal(0, CAST_GAIN, 3)), np.exp(rng.normal(0, CAST_GAMMA))
        level = np.linspace(0, 1, 256)[:, None] ** gamma * gain
        tables[camera] = np.clip(level * 255 + 0.5, 0, 255).astype(np.uint8)

    def apply(image: np.ndarray, camera: str) -> np.ndarray:
        return np.stack([tables[camera][:, c][image[..., c]] for c in range(3)], 2)

    return apply


def look_alikes(crops: Sequence[Crop], count: int) -> set[int]:
    """The people whose clothes are most alike: from the most alike two on, who is next nearest to those chosen."""
    people = sorted({crop.person for crop in crops})
    histogram = {person: np.zeros(2 * int(np.prod(BINS))) for person in people}
    for crop in crops:
        histogram[crop.person] += clothes(read_image(crop.path))
    unit = np.stack([np.sqrt(histogram[person] / histogram[person].sum()) for person in people])
    alike = unit @ unit.T
    np.fill_diagonal(alike, -1)
    chosen = [int(place) for place in np.unravel_index(int(alike.argmax()), alike.shape)]
    while len(chosen) < count:
        nearness = alike[:, chosen].mean(1)
        nearness[chosen] = -1
        chosen.append(int(nearness.argmax()))
    return {people[number] for number in chosen}


def clothes(image: np.ndarray) -> np.ndarray:
    """`(2 * bins,)` histogram of hue, saturation and value between chin and belt, and between belt and knee."""
    hsv = np.asarray(Image.fromarray(np.ascontiguousarray(image[..., ::-1])).convert("HSV"))
    height, width = hsv.shape[:2]
    middle = hsv[:, width // 4 : width - width // 4]
    halves = (middle[height // 6 : height // 2], middle[height // 2 : height * 5 // 6])
    return np.concatenate(
        [np.histogramdd(half.reshape(-1, 3), BINS, [(0, 256)] * 3)[0].ravel() for half in halves]
    )


def absent(seen: Seen, part: float, seed: Sequence[int]) -> Seen:
    """Some people taken out of each camera, others out of each."""
    keep = np.ones(len(seen.person), bool)
    for number, camera in enumerate(np.unique(seen.camera)):
        mine = np.flatnonzero(seen.camera == camera)
        order = np.random.default_rng([*seed, number]).permutation(mine)
        keep[order[: round(part * len(mine))]] = False
    return seen.only(keep)


def strangers(parts: Sequence[Seen], split: int) -> np.ndarray:
    """Similarities of different people before different cameras, by the other splits' models; nobody judged here."""
    judged_here = set(SPLITS[split])
    found = []
    for number, seen in enumerate(parts):
        if number != split:
            others = seen.only(~np.isin(seen.person, sorted(judged_here)))
            apart = (others.person[:, None] != others.person) & (others.camera[:, None] < others.camera)
            found.append((others.rows @ others.rows.T)[apart])
    return np.concatenate(found)


def cameras_of(seen: Seen) -> list[Camera]:
    """As `san match` takes them; a tracklet is called by its person."""
    return [
        Camera(
            str(name),
            Path(str(name)),
            np.array([f"{person:04d}" for person in seen.person[seen.camera == name]]),
            seen.rows[seen.camera == name],
            tuple(("0001.jpg",) for _ in range((seen.camera == name).sum())),
        )
        for name in np.unique(seen.camera)
    ]


def judged(seen: Seen, threshold: float) -> tuple[float, float, float, float]:
    """Per cent: tracklets' rank-1 among those whose person the other camera saw, pair F1, B-cubed F1, people whole."""
    matching = match_cameras(cameras_of(seen), threshold=threshold)
    labels = {(camera.name, str(track)): int(track) for camera in matching.cameras for track in camera.tracks}
    accuracy = score_people(matching, find_people(matching), labels)
    assert accuracy is not None
    return (
        100 * rank1(seen),
        100 * (accuracy.pair_f1 or 0.0),
        100 * accuracy.b_cubed_f1,
        100 * accuracy.whole / max(1, accuracy.people),
    )


def rank1(seen: Seen) -> float:
    """Over ordered pairs of cameras, the part of tracklets whose nearest is their own person, if that one is there."""
    rankings = metrics.evaluate_tracklets(
        seen.rows, person=seen.person, camera=seen.camera, track=seen.person.astype(str)
    ).values()
    return float(np.average([one.rank1 for one in rankings], weights=[one.queries for one in rankings]))


def late_camera(seen: Seen, threshold: float) -> float:
    """Per cent of the last camera's tracklets that get the person they are, or are opened where nobody knew them."""
    last = np.unique(seen.camera)[-1]
    known, late = seen.only(seen.camera != last), seen.only(seen.camera == last)
    matching = match_cameras(cameras_of(known), threshold=threshold)
    people = find_people(matching)
    true, given = [], []
    for camera, persons in zip(matching.cameras, people.person, strict=True):
        true += [int(track) for track in camera.tracks]
        given += persons.tolist()
    rows = np.concatenate([camera.embedding for camera in matching.cameras])
    names = np.unique(given)
    centre = np.stack([rows[np.array(given) == name].mean(0) for name in names])
    centre /= np.linalg.norm(centre, axis=1, keepdims=True)
    similar = late.rows @ centre.T
    right = []
    for row, person in zip(similar, late.person, strict=True):
        best = int(row.argmax())
        holds = {p for p, name in zip(true, given, strict=True) if name == names[best]}
        right.append(person in holds if row[best] >= threshold else person not in true)
    return 100 * float(np.mean(right))


if __name__ == "__main__":
    main()
