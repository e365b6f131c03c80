"""How good the starter's recipe is on people whom a network did not see: the tables in starter.md.

    python tools/starter/splits_table.py --runs runs/starter

The networks are the five splits of `make_starter.py`, each judged on its twenty held-out people: tracklets (means of
unit rows, each camera's against each other camera's), single crops by Market-1501's rule, every mask, resize kernels.
Intervals are of people drawn again with replacement, each with all their queries.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from san_train import evaluate
from san_train.augment import OTHER_KERNELS, resize_otherwise
from san_train.checkpoint import load_checkpoint

from san_deploy.datasets import Crop, labels, read_dataset
from san_deploy.images import read_image
from san_deploy.preprocess import read_crop

MASKS = ("argmax", "ramp:0.0625", "expected")
DRAWS = 2000


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Accuracy of the splits' networks.")
    parser.add_argument("--runs", type=Path, default=Path("runs/starter"))
    parser.add_argument("--splits", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--kernels", action="store_true", help="other resize kernels, argmax")
    options = parser.parse_args()
    found: dict[str, list[np.ndarray]] = {}
    kernels: dict[str, list[tuple[float, ...]]] = {}
    for split in options.splits:
        crops = read_dataset(options.runs / f"fold{split}-data").splits["val"]
        model, _ = load_checkpoint(options.runs / f"fold{split}" / "model.safetensors")
        size_hw = model.settings.size_hw
        images = np.stack([read_crop(crop.path, size_hw) for crop in crops])
        rows = evaluate.embed(model, images, mask="argmax")
        for mask in MASKS:
            values = by_person(rows if mask == "argmax" else evaluate.embed(model, images, mask=mask), crops)
            found.setdefault(mask, []).append(values)
            print(f"split {split + 1}, {mask}: {_told(mean_of(values))}", flush=True)
        for kernel in OTHER_KERNELS if options.kernels else ():
            other = np.stack([resize_otherwise(read_image(crop.path), size_hw, kernel) for crop in crops])
            moved = evaluate.embed(model, other, mask="argmax")
            change = mean_of(by_person(moved, crops)) - mean_of(found["argmax"][-1])
            cosine = (moved * rows).sum(1)
            kernels.setdefault(kernel, []).append((change[1], change[2], float(np.percentile(cosine, 1))))
            print(
                f"split {split + 1}, {kernel}: {_told(change)}, row cosine: least {cosine.min():.4f}, "
                f"1st percentile {np.percentile(cosine, 1):.4f}",
                flush=True,
            )
    if kernels:
        print(
            "\n| kernel | crops rank-1 / mAP, mean over splits | 1st percentile, worst split |\n|---|---|---|"
        )
    for kernel, changes in kernels.items():
        rank1, mean_ap, _ = np.mean(changes, 0)
        print(f"| {kernel} | {rank1:+.2f} / {mean_ap:+.2f} | {min(change[2] for change in changes):.4f} |")
    print(
        "\n| mask | tracklets rank-1: mean, worst | crops rank-1: mean, worst | mAP: mean, worst |\n|---|---|---|---|"
    )
    for mask, parts in found.items():
        each = np.stack([mean_of(part) for part in parts])
        mean, worst, (low, high) = each.mean(0), each.min(0), interval(parts)
        cells = [
            f"{m:.1f} ({a:.1f} to {b:.1f}), {w:.1f}"
            for m, a, b, w in zip(mean, low, high, worst, strict=True)
        ]
        print(f"| `{mask}` | {' | '.join(cells)} |")


def by_person(rows: np.ndarray, crops: list[Crop]) -> np.ndarray:
    """By person, `(P, 5)`: the person, how many crops, per cent of tracklets' rank-1, crops' rank-1 and mAP.

    Args:
        rows: `(N, D)` unit rows.
        crops: `(N,)` whose they are.
    """
    person, camera, _ = labels(crops)
    people, cameras = np.unique(person), np.unique(camera)
    pooled = {(p, c): rows[(person == p) & (camera == c)].mean(0) for p in people for c in cameras}
    right = {p: [] for p in people.tolist()}  # type: dict[int, list[bool]]
    for a in cameras:
        for b in cameras:
            if a != b:
                gallery = np.stack([pooled[p, b] for p in people])
                gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
                for p in people.tolist():
                    right[p].append(bool(people[int((gallery @ pooled[p, a]).argmax())] == p))
    similar = rows @ rows.T
    first, precision = np.zeros(len(rows)), np.zeros(len(rows))
    for query in range(len(rows)):
        kept = (person != person[query]) | (camera != camera[query])
        hit = (person[kept] == person[query])[np.argsort(-similar[query][kept], kind="stable")]
        places = np.flatnonzero(hit)
        first[query] = hit[0]
        precision[query] = (np.arange(1, len(places) + 1) / (places + 1)).mean()

    def parts(p: int) -> tuple[Any, ...]:
        return right[p], first[person == p], precision[person == p]

    return np.array(
        [[p, (person == p).sum(), *(100 * np.mean(part) for part in parts(p))] for p in people.tolist()]
    )


def mean_of(values: np.ndarray, weight: np.ndarray | float = 1.0) -> np.ndarray:
    """`(3,)` over people as often as `weight` says: tracklets by person, crops by crop."""
    drawn = weight * np.ones(len(values))
    by_crop = drawn * values[:, 1]
    return np.array(
        [
            np.average(values[:, 2], weights=drawn),
            np.average(values[:, 3], weights=by_crop),
            np.average(values[:, 4], weights=by_crop),
        ]
    )


def interval(parts: list[np.ndarray], draws: int = DRAWS) -> tuple[np.ndarray, np.ndarray]:
    """2.5th and 97.5th percentile of the mean over splits where people are drawn again, each with all its queries."""
    people = np.unique(np.concatenate([part[:, 0] for part in parts]))
    rng = np.random.default_rng(0)
    means = []
    for _ in range(draws):
        count = dict(zip(*np.unique(rng.choice(people, len(people)), return_counts=True), strict=True))
        weights = [np.array([count.get(p, 0) for p in part[:, 0]]) for part in parts]
        used = [mean_of(part, w) for part, w in zip(parts, weights, strict=True) if w.sum()]
        means.append(np.mean(used, 0))
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return low, high


def _told(values: np.ndarray) -> str:
    return "tracklets {:.2f}, crops {:.2f} / {:.2f}".format(*values)


if __name__ == "__main__":
    main()
