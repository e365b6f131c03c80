"""Which share of strangers should reach the default threshold? The table in docs/benchmarks.md.

    python tools/starter/threshold.py --runs runs/starter

Matches the held-out people of each fold (networks of `make_starter.py`) at several thresholds: with
everybody before both cameras, and with three in ten taken out of each.
"""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path

import numpy as np
from san_train import evaluate
from san_train.checkpoint import load_checkpoint

from san_deploy import metrics
from san_deploy.datasets import labels, read_dataset
from san_deploy.matching.assignment import assign
from san_deploy.matching.similarity import edges_above
from san_deploy.matching.threshold import tracklet_similarities

THRESHOLDS = (0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.74, 0.78, 0.82)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description="F1 of matches by threshold, on held-out people.")
    parser.add_argument("--runs", type=Path, default=Path("runs/starter"))
    parser.add_argument("--folds", type=int, nargs="*", default=[0, 1, 2])
    options = parser.parse_args()
    pools, genuine, impostor = [], [], []
    for fold in options.folds:
        crops = read_dataset(options.runs / f"fold{fold}-data").splits["val"]
        model, _ = load_checkpoint(options.runs / f"fold{fold}" / "model.safetensors")
        rows = evaluate.embed(model, evaluate.load_crops(crops, model.settings.size_hw))
        person, camera, track = labels(crops)
        pools.append(metrics.pool_cameras(rows, person=person, camera=camera, track=track))
        same, other = tracklet_similarities(rows, person=person, camera=camera, track=track)
        genuine.append(same)
        impostor.append(other)
    strangers, friends = np.concatenate(impostor), np.concatenate(genuine)
    print("threshold  strangers  same people  F1 everybody  F1 three in ten alone")
    for threshold in THRESHOLDS:
        reach = (strangers >= threshold).mean(), (friends >= threshold).mean()
        scores = f1(pools, threshold, alone=0), f1(pools, threshold, alone=3)
        print(f"{threshold:9.2f}  {reach[0]:9.4f}  {reach[1]:11.3f}  {scores[0]:12.3f}  {scores[1]:21.3f}")


def f1(
    pools: list[dict[str, tuple[np.ndarray, np.ndarray]]], threshold: float, *, alone: int, draws: int = 20
) -> float:
    """F1 over all folds, camera pairs and draws; `alone` people are taken out of each camera, at random."""
    rng = np.random.default_rng(0)
    right = matched = possible = 0
    for pool in pools:
        for (rows_a, people_a), (rows_b, people_b) in combinations(pool.values(), 2):
            for _ in range(draws):
                a, b = (rng.permutation(len(people))[alone:] for people in (people_a, people_b))
                similarity = rows_a[a] @ rows_b[b].T
                column = assign(edges_above(similarity, threshold), similarity.shape, threshold)
                taken = column >= 0
                matched += int(taken.sum())
                right += int((people_a[a][taken] == people_b[b][column[taken]]).sum())
                possible += len(set(people_a[a].tolist()) & set(people_b[b].tolist()))
    return 2 * right / (matched + possible)


if __name__ == "__main__":
    main()
