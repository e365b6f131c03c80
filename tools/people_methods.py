"""Average linkage or the matches, best first? People over WARD's cameras by method, absence and false match rate.

Five splits of 20 people (../shared/ward/README.md). With the five networks of the splits, each is judged on the people
whom it did not see; the threshold is of the other four networks on people whom they did not see, without those who are
judged, as the starter's own threshold is made:

    python tools/people_methods.py ../shared/ward --networks runs/starter/fold{0,1,2,3,4}/model.safetensors

With one network that saw nobody of WARD, or embeddings of it by `san embed`, the threshold is of the other 30 people:

    python tools/people_methods.py ../shared/ward --networks MODEL.onnx
    python tools/people_methods.py ../shared/ward --embeddings cam1.npz cam2.npz cam3.npz
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from san_deploy.backends import open_backend
from san_deploy.datasets.crop_folder import read_identities
from san_deploy.io.progress import bar
from san_deploy.matching.accuracy import score
from san_deploy.matching.cameras import Camera, centred
from san_deploy.matching.identities import METHODS, find_people
from san_deploy.matching.identity_accuracy import f1, score_people
from san_deploy.matching.match import match_cameras
from san_deploy.matching.sources import Reading, embed_sources, read_sources
from san_deploy.matching.threshold import threshold_at

sys.path.append(str(Path(__file__).parent / "starter"))
from folds import SPLITS

ABSENT, RATES, DRAWS = (0.0, 0.3, 0.5), (0.01, 0.05), 6
Labels = Mapping[tuple[str, str], int]


def main() -> None:
    """Print a line for each case, and the tables of docs/people.md at the end."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ward", type=Path, help="WARD as a crop folder, with identities.csv")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--networks", type=Path, nargs="+", help="one, or one for each of the five splits")
    source.add_argument("--embeddings", type=Path, nargs="+", help=".npz of san embed, one for each camera")
    parser.add_argument("--per-track", type=int, help="crops of a tracklet at most")
    given = parser.parse_args()
    labels = {key: person for key, (person, _) in read_identities(given.ward / "identities.csv").items()}
    reading = Reading(progress=bar, per_track=given.per_track)
    if given.embeddings:
        seen = [embed_sources(read_sources(given.embeddings), None, reading)[0]]
    elif len(given.networks) in (1, len(SPLITS)):
        names = sorted({camera for camera, _ in labels})
        sources = read_sources([given.ward / name for name in names])
        seen = [embed_sources(sources, open_backend(network), reading)[0] for network in given.networks]
    else:
        parser.error(f"give one network, or {len(SPLITS)}")
    for center in (False, True):
        print(
            f"\n{'centred' if center else 'as they are'}: F1 of pairs / B-cubed F1 / people whole, per cent"
        )
        table(splits_of(seen, labels, center=center), labels, center=center)


@dataclass(frozen=True)
class Split:
    """One split of people.

    Attributes:
        cameras: embedded by a network that did not see `people`.
        people: who is judged.
        impostors: similarities of pairs of different people, none of whom is judged.
    """

    cameras: Sequence[Camera]
    people: set[int]
    impostors: np.ndarray


def splits_of(seen: Sequence[Sequence[Camera]], labels: Labels, *, center: bool) -> list[Split]:
    """The five splits.

    Args:
        seen: cameras as one network sees them, or as the network of each split does.
        labels: `{(camera, track): person}`.
        center: take each camera's mean off.
    """
    found = []
    for number, split in enumerate(SPLITS):
        judged = set(split)
        if len(seen) == 1:
            cases = [(seen[0], set(labels.values()) - judged)]
        else:
            cases = [(seen[k], {*SPLITS[k]} - judged) for k in range(len(SPLITS)) if k != number]
        values = [
            impostors([prepared(part(camera, labels, people), center) for camera in cameras], labels)
            for cameras, people in cases
            if people
        ]
        found.append(Split(seen[number % len(seen)], judged, np.concatenate(values)))
    return found


def table(splits: Sequence[Split], labels: Labels, *, center: bool) -> None:
    """Print mean over the splits by absence, rate and method; in brackets the F1 of pairs of the worst split."""
    print(f"| absent | impostors above | {' | '.join(('pairs on their own', *METHODS))} |\n{'|---' * 5}|")
    for absent, rate in itertools.product(ABSENT, RATES):
        found: dict[str, list[np.ndarray]] = {}
        for split in splits:
            for name, values in judge(split, labels, (absent, rate), center=center).items():
                found.setdefault(name, []).append(100 * np.mean(values, axis=0))
        cells = []
        for means in found.values():
            mean, worst = np.mean(means, axis=0), np.min(means, axis=0)
            cells.append(" / ".join(f"{value:.1f}" for value in mean) + f" ({worst[0]:.1f})")
        print(f"| {absent:.0%} | {rate:.0%} | {' | '.join(cells)} |", flush=True)


def judge(
    split: Split, labels: Labels, case: tuple[float, float], *, center: bool
) -> dict[str, list[tuple[float, ...]]]:
    """By method, for each draw of absent people: pairs' F1, B-cubed F1 and the fraction of people whole.

    Of the camera pairs on their own there is the F1 of matches alone.

    Args:
        split: whom to judge.
        labels: `{(camera, track): person}`.
        case: fraction of people taken out of each camera, and false match rate of the threshold.
        center: take each camera's mean off, as `san match --center`.
    """
    absent, rate = case
    threshold = threshold_at(split.impostors, rate)
    found: dict[str, list[tuple[float, ...]]] = {}
    for draw in range(DRAWS):
        rng = np.random.default_rng(draw)
        kept = round(len(split.people) * (1 - absent))
        seen = [
            prepared(part(camera, labels, set(rng.permutation(sorted(split.people))[:kept].tolist())), center)
            for camera in split.cameras
        ]
        matching = match_cameras(seen, threshold=threshold)
        accuracy = score(matching, labels)
        found.setdefault("pairs", []).append((f1(accuracy.precision or 0.0, accuracy.recall or 0.0),))
        for method in METHODS:
            judged = score_people(matching, find_people(matching, method=method), labels)
            assert judged is not None
            whole = judged.whole / max(1, judged.people)
            found.setdefault(method, []).append((judged.pair_f1 or 0.0, judged.b_cubed_f1, whole))
    return found


def prepared(camera: Camera, center: bool) -> Camera:
    """The camera as it is matched."""
    return centred(camera) if center else camera


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
