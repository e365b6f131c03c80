"""Average linkage or the matches, best first? People over WARD's cameras by method, absence and false match rate.

Five splits of 20 people (../shared/ward/README.md); the threshold is of the other 30, so that nobody who is judged
takes part in it. The network is to have been trained on none of them, or give the splits that it was not trained on.

    san embed ../shared/ward/cam1 -m MODEL -o cam1.npz      # likewise cam2, cam3
    python tools/people_methods.py cam1.npz cam2.npz cam3.npz --labels ../shared/ward/identities.csv
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from san_deploy.datasets.crop_folder import read_identities
from san_deploy.matching.accuracy import score
from san_deploy.matching.cameras import Camera, centred
from san_deploy.matching.identities import METHODS, find_people
from san_deploy.matching.identity_accuracy import f1, score_people
from san_deploy.matching.match import match_cameras
from san_deploy.matching.sources import Reading, embed_sources, read_sources
from san_deploy.matching.threshold import threshold_at

#: Test people of each split: 1-20, 11-30, 21-40, 31-50, and 41-50 with 1-10.
SPLITS = (range(1, 21), range(11, 31), range(21, 41), range(31, 51), (*range(41, 51), *range(1, 11)))
ABSENT, RATES, DRAWS = (0.0, 0.3, 0.5), (0.01, 0.05), 6
Labels = Mapping[tuple[str, str], int]


def main() -> None:
    """Print a table: pairs' F1, B-cubed F1 and people whole, mean over splits, and the worst split."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("embeddings", type=Path, nargs="+", help=".npz of san embed, one for each camera")
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--splits", type=int, nargs="*", default=[1, 2, 3, 4, 5])
    parser.add_argument("--center", action="store_true")
    given = parser.parse_args()
    cameras, _ = embed_sources(read_sources(given.embeddings), None, Reading())
    labels = {key: person for key, (person, _) in read_identities(given.labels).items()}
    for absent, rate in itertools.product(ABSENT, RATES):
        found: dict[str, list[list[tuple[float, ...]]]] = {}
        for number in given.splits:
            people = set(SPLITS[number - 1])
            for name, values in judge(cameras, labels, people, (absent, rate), center=given.center).items():
                found.setdefault(name, []).append(values)
        for name, splits in found.items():
            table = np.array(splits).mean(axis=1)
            text = "  ".join(
                f"{mean:.3f} ({worst:.3f})" for mean, worst in zip(table.mean(0), table.min(0), strict=True)
            )
            print(f"{absent:4.0%} absent, {rate:4.0%} false matches, {name:8s}  {text}", flush=True)


def judge(
    cameras: Sequence[Camera], labels: Labels, people: set[int], case: tuple[float, float], *, center: bool
) -> dict[str, list[tuple[float, ...]]]:
    """By method, for each draw of absent people: pairs' F1, B-cubed F1 and the fraction of people whole.

    Args:
        cameras: everybody.
        labels: `{(camera, track): person}`.
        people: who is judged; the threshold is of the others.
        case: fraction of people taken out of each camera, and false match rate of the threshold.
        center: take each camera's mean off, as `san match --center`.
    """
    absent, rate = case
    prepare = centred if center else lambda camera: camera
    others = [prepare(part(camera, labels, set(labels.values()) - people)) for camera in cameras]
    threshold = threshold_at(impostors(others, labels), rate)
    found: dict[str, list[tuple[float, ...]]] = {}
    for draw in range(DRAWS):
        rng = np.random.default_rng(draw)
        kept = round(len(people) * (1 - absent))
        seen = [
            prepare(part(camera, labels, set(rng.permutation(sorted(people))[:kept].tolist())))
            for camera in cameras
        ]
        matching = match_cameras(seen, threshold=threshold)
        accuracy = score(matching, labels)
        value = f1(accuracy.precision or 0.0, accuracy.recall or 0.0)
        found.setdefault("pairs", []).append((value, 0.0, 0.0))
        for method in METHODS:
            judged = score_people(matching, find_people(matching, method=method), labels)
            assert judged is not None
            whole = judged.whole / max(1, judged.people)
            found.setdefault(method, []).append((judged.pair_f1 or 0.0, judged.b_cubed_f1, whole))
    return found


def part(camera: Camera, labels: Labels, people: set[int]) -> Camera:
    """The camera with these people alone."""
    keep = [k for k, track in enumerate(camera.tracks.tolist()) if labels[camera.name, track] in people]
    return replace(
        camera,
        tracks=camera.tracks[keep],
        embedding=camera.embedding[keep],
        crops=tuple(camera.crops[k] for k in keep),
        half_difference=None,
    )


def impostors(cameras: Sequence[Camera], labels: Labels) -> np.ndarray:
    """Similarities of pairs of different people of two cameras."""
    found = []
    for a, b in itertools.combinations(cameras, 2):
        people_a, people_b = (
            np.array([labels[camera.name, track] for track in camera.tracks.tolist()]) for camera in (a, b)
        )
        found.append((a.embedding @ b.embedding.T)[people_a[:, None] != people_b])
    return np.concatenate(found)


if __name__ == "__main__":
    main()
