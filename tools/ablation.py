"""The paper's ablation on WARD: what do sharp blocks, context-aware units and the TV penalty add?

The tables are in docs/research/ablation.md.

    python tools/ablation.py ../shared/ward --out runs/ablation --precision bf16

Trains each row with each seed on WARD's `train` people, from scratch and with one budget, and measures on its
`test` people. Finished runs are lines of OUT/results.jsonl and are skipped; a run that was stopped goes on.
`--held-out 10` looks at no `test` person: it trains on the other `train` people and measures on those ten.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from san_train import evaluate
from san_train.data import gather
from san_train.recipe import Recipe, resolve
from san_train.run_state import STATE
from san_train.trainer import Compute, Training
from scipy import stats

from san_deploy import metrics
from san_deploy.datasets import Crop, labels, read_dataset
from san_deploy.errors import SanError

#: Row -> what it sets, in the recipe `paper` as in `scratch`. docs/research/ablation.md has the same for `san train`.
ROWS: dict[str, tuple[str, ...]] = {
    "baseline": ("settings.attention=[]", "settings.context=[]", "tv_weight=0"),
    "+ SAB": ("settings.context=[]", "tv_weight=0"),
    "+ SAB + CU": ("tv_weight=0",),
    "+ SAB + CU + TV": (),
    "soft + CU + TV": ("settings.gate=soft",),
}
#: What every row shares beside the recipe `scratch`: 480 batches of 8 people x 4 crops. The recipe's 60 epochs
#: are 30 of 16 batches here, so warm-up and temperature are stretched to end where they end there.
BUDGET: tuple[str, ...] = (
    "num_ids=8",
    "epochs=30",
    "steps=16",
    "warmup=1.5",
    "tau_rate=0.016",
    "validate_every=30",
)
#: The paper's loss, mask and head: not what `scratch` has instead (docs/research/sharpening.md, docs/training.md).
PAPER: tuple[str, ...] = ("mask_margin_weight=0", "deploy_mask=argmax", "settings.hidden=512")
#: (row, its mask, row it is compared with, that row's mask).
COMPARISONS: tuple[tuple[str, str, str, str], ...] = (
    ("+ SAB", "argmax", "baseline", "argmax"),
    ("+ SAB + CU", "argmax", "+ SAB", "argmax"),
    ("+ SAB + CU + TV", "argmax", "+ SAB + CU", "argmax"),
    ("+ SAB + CU + TV", "argmax", "baseline", "argmax"),
    ("+ SAB + CU + TV", "expected", "baseline", "argmax"),
    ("+ SAB + CU + TV", "expected", "+ SAB + CU + TV", "argmax"),
    ("+ SAB + CU + TV", "argmax", "soft + CU + TV", "argmax"),
    ("+ SAB + CU + TV", "expected", "soft + CU + TV", "argmax"),
)
#: Rows without masks to choose from: what stands in the table instead.
_OTHER_GATES = {"baseline": "none", "soft + CU + TV": "sigmoid"}
MEASURES = {
    "rank1": "rank-1",
    "mean_ap": "mAP",
    "mean_inp": "mINP",
    "tracklet_rank1": "tracklet rank-1",
    "tracklet_map": "tracklet mAP",
}


def main() -> None:
    """Run what is missing in OUT/results.jsonl, then print the tables."""
    parser = argparse.ArgumentParser(description="The paper's ablation on a small data set.")
    parser.add_argument("data", type=Path, help="a crop folder with the splits train and test")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", type=int, nargs="+", help="only these, counted from 0")
    parser.add_argument("--held-out", type=int, default=0, help="measure on so many `train` people instead")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="another budget")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"], help="of training")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch")
    parser.add_argument("--print", dest="only_print", action="store_true", help="run nothing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = options.out / "results.jsonl"
    rows = [list(ROWS)[index] for index in options.rows or range(len(ROWS))]
    if not options.only_print:
        for seed in options.seeds:
            # Seed by seed, so that a study which is stopped early has compared all rows as far as it got.
            for row in rows:
                run(options, row, seed, results)
    print(tables(read_lines(results)))


def recipe_of(row: str, seed: int, *, held_out: int = 0, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a row: `scratch` with the common budget; `overrides` change that for all rows alike."""
    values = {"seed": seed, "validation_people": held_out}
    return resolve("scratch", [*BUDGET, *PAPER, *overrides, *ROWS[row]], values)


def run(options: argparse.Namespace, row: str, seed: int, results: Path) -> None:
    """Train and measure one row with one seed, unless that was done.

    Raises:
        SanError: the results are of another recipe or precision: rows of two budgets do not compare.
    """
    recipe = recipe_of(row, seed, held_out=options.held_out, overrides=options.overrides)
    setup = {"recipe": json.loads(json.dumps(recipe.as_dict())), "precision": options.precision}
    if is_done(results, row, seed, setup):
        return
    out = options.out / f"{list(ROWS).index(row)}-seed{seed}"
    dataset = read_dataset(options.data)
    data = gather([dataset], validation_people=options.held_out, seed=0)
    machine = Compute(torch.device("cpu"), options.precision, 1)
    training = Training(recipe, data, out, machine, say=lambda line: None)
    if (out / STATE).is_file():
        training.resume()
    started = time.perf_counter()
    training.run()
    seconds = time.perf_counter() - started
    crops = data.validation if options.held_out else dataset.splits["test"]
    images = evaluate.load_crops(crops, training.model.settings.size_hw, workers=1)
    masks = ["argmax"]
    if recipe.settings.get("gate") != "soft" and training.model.settings.as_dict()["attention"]:
        masks.append("expected")
    measured = {mask: measure(evaluate.embed(training.model, images, mask=mask), crops) for mask in masks}
    results.parent.mkdir(parents=True, exist_ok=True)
    record = {"row": row, "seed": seed, "setup": setup, "seconds": round(seconds, 1), "masks": measured}
    with results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    # What resuming needs is of no use any more and the largest file of a run.
    (out / STATE).unlink()
    shutil.rmtree(out / "tensorboard")
    figures = ", ".join(
        f"{mask} {100 * result['rank1']:.1f} / {100 * result['mean_ap']:.1f}"
        for mask, result in measured.items()
    )
    print(f"{row}, seed {seed}: rank-1 / mAP {figures} ({seconds:.0f} s)", flush=True)


def measure(embedding: np.ndarray, crops: Sequence[Crop]) -> dict[str, Any]:
    """`MEASURES` in 0..1, and `num_ids`: the mean of each person's queries, rank-1 and average precision.

    Single crops are each a query against all others (Market-1501's rule); tracklets are pooled, each camera
    against each other camera.
    """
    person, camera, _ = labels(crops)
    answers = metrics.RankingLabels(
        query_person=person, gallery_person=person, query_camera=camera, gallery_camera=camera
    )
    ranks = metrics.rank_queries(metrics.Similarity(embedding, embedding), answers)
    counts = ranks.first > 0
    people = {
        str(one): [
            float(np.mean(ranks.first[counts & (person == one)] == 1)),
            float(np.mean(ranks.average_precision[counts & (person == one)])),
        ]
        for one in sorted(set(person[counts].tolist()))
    }
    return {**evaluate.rank(embedding, crops).as_dict(), "people": people}


def is_done(results: Path, row: str, seed: int, setup: dict[str, Any]) -> bool:
    """Whether a run stands in the results.

    Raises:
        SanError: it does, with another setup.
    """
    for line in read_lines(results):
        if (line["row"], line["seed"]) == (row, seed):
            if line["setup"] != setup:
                raise SanError(f"{results} holds this run with another setup", do="name another --out")
            return True
    return False


def read_lines(path: Path) -> list[dict[str, Any]]:
    """What was measured so far."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def tables(lines: Sequence[dict[str, Any]]) -> str:
    """Markdown: the rows, then the paired differences; percent. The intervals are Student's, at 95 %."""
    heads = ["row", "mask", "runs", *MEASURES.values()]
    first = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in ROWS:
        for mask in ("argmax", "expected"):
            got = _by_seed(lines, row, mask)
            if got:
                name = _OTHER_GATES.get(row, mask)
                cells = [spread([result[key] for result in got.values()]) for key in MEASURES]
                first.append(f"| {row} | {name} | {len(got)} | {' | '.join(cells)} |")
    heads = ["difference", "measure", "by seed", "mean", "over seeds, 95 %", "over people, 95 %"]
    second = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row, mask, other, other_mask in COMPARISONS:
        mine, theirs = _by_seed(lines, row, mask), _by_seed(lines, other, other_mask)
        seeds = sorted(set(mine) & set(theirs))
        if len(seeds) < 2:
            continue
        name = " against ".join(
            one if one in _OTHER_GATES else f"{one}, {its},"
            for one, its in ((row, mask), (other, other_mask))
        ).rstrip(",")
        for index, key in enumerate(("rank1", "mean_ap")):
            by_seed = [mine[seed][key] - theirs[seed][key] for seed in seeds]
            by_person = [
                np.mean(
                    [mine[seed]["people"][one][index] - theirs[seed]["people"][one][index] for seed in seeds]
                )
                for one in mine[seeds[0]]["people"]
            ]
            each = ", ".join(f"{100 * value:+.1f}" for value in by_seed)
            second.append(
                f"| {name} | {MEASURES[key]} | {each} | {100 * np.mean(by_seed):+.1f} "
                f"| {interval(by_seed)} | {interval(by_person)} |"
            )
    return "\n".join([*first, "", *second])


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation (min..max), of shares, in percent; of a single one only that."""
    percent = 100 * np.asarray(values)
    if len(percent) == 1:
        return f"{percent[0]:.1f}"
    return f"{percent.mean():.1f} ± {percent.std(ddof=1):.1f} ({percent.min():.1f}..{percent.max():.1f})"


def interval(differences: Sequence[float]) -> str:
    """Student's 95 % confidence interval of the mean, of shares, in percent."""
    percent = 100 * np.asarray(differences)
    half = stats.t.ppf(0.975, len(percent) - 1) * percent.std(ddof=1) / np.sqrt(len(percent))
    return f"{percent.mean() - half:+.1f} to {percent.mean() + half:+.1f}"


def _by_seed(lines: Sequence[dict[str, Any]], row: str, mask: str) -> dict[int, dict[str, Any]]:
    return {
        line["seed"]: line["masks"][mask] for line in lines if line["row"] == row and mask in line["masks"]
    }


if __name__ == "__main__":
    main()
