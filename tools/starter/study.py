"""Which last phase of training makes the argmax mask good and stable? The table in docs/research/sharpening.md.

    python tools/starter/study.py --ward ../shared/ward --out runs/starter

For each fold of WARD's `train` people (never `test`): train by study.json up to its last phase, then run that
phase in each of the ways below from the same state, and measure on the fold's held-out people: rank-1 and mAP
with the argmax and the expected mask, and the cosine of each embedding computed in FP16 against FP32. The
batches, the learning rates and the number of steps are the same for all; only the phase differs.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from drawn import draw_cameras
from folds import fold_of
from san_train import evaluate
from san_train.data import gather
from san_train.recipe import Recipe, resolve
from san_train.run_state import STATE
from san_train.trainer import Compute, Training

from san_deploy.datasets import read_dataset

HERE = Path(__file__).resolve().parent

#: Name -> what the last phase changes in the recipe.
PHASES: dict[str, dict[str, Any]] = {
    "straight-through": {"sharpen_mask": "straight-through"},
    "expected mask": {"sharpen_mask": "expected"},
    "straight-through, pi pushed from 1/2": {"sharpen_mask": "straight-through", "decisive_weight": 1.0},
    "sampling goes on (the paper)": {"sharpen_mask": "sample"},
    "sampling, tau 0.1": {"sharpen_mask": "sample", "sharpen_tau": 0.1},
    "hard samples, soft gradient": {"sharpen_mask": "sample-hard"},
    "straight-through, pushed with weight 100": {
        "sharpen_mask": "straight-through",
        "decisive_weight": 100.0,
    },
    "straight-through, weight 300": {"sharpen_mask": "straight-through", "decisive_weight": 300.0},
    "straight-through, weight 100, width 0.2": {
        "sharpen_mask": "straight-through",
        "decisive_weight": 100.0,
        "decisive_width": 0.2,
    },
    "straight-through, weight 10, width 0.2": {
        "sharpen_mask": "straight-through",
        "decisive_weight": 10.0,
        "decisive_width": 0.2,
    },
}
_CHANGED = ("sharpen_mask", "sharpen_tau", "decisive_weight", "decisive_width", "sharpen_lr")


def main() -> None:
    """Run what is missing in OUT/results.jsonl, then print the table."""
    parser = argparse.ArgumentParser(description="Compare last phases of training.")
    parser.add_argument("--ward", type=Path, default=Path("../shared/ward"))
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/starter"),
        help="where the runs go",
    )
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"], help="of training")
    parser.add_argument("--folds", type=int, nargs="*", help="only these")
    parser.add_argument("--seed", type=int, default=0, help="of training; the folds stay the same")
    parser.add_argument("--phases", type=int, nargs="*", help="only these, counted from 0")
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch; 0 takes all cores")
    parser.add_argument("--base-only", action="store_true", help="stop before the last phases")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    spec = json.loads((HERE / "study.json").read_text())
    drawn, start = options.out / "study-drawn", options.out / "study-pretrain" / "model.safetensors"
    results = options.out / "results.jsonl"
    done = {(row["fold"], row["seed"], row["phase"]) for row in read_rows(results)}
    machine = Compute(torch.device("cpu"), options.precision, workers=1)
    if not drawn.exists():
        draw_cameras(drawn, **spec["drawn"], split="train")
    if not start.is_file():
        people = {"validation_people": spec["drawn_held_out"], "decisive_weight": 0.0}
        first = resolve("scratch", spec["network"] + spec["pretrain"], people)
        data = gather([read_dataset(drawn)], validation_people=first.validation_people, seed=0)
        Training(first, data, start.parent, machine, say=say).run()
    for fold in range(spec["folds"]) if options.folds is None else options.folds:
        folder = fold_of(options.ward, options.out / f"fold{fold}-data", fold, spec["folds"])
        data = gather([read_dataset(folder), read_dataset(drawn)], validation_people=0, seed=0)
        recipe = resolve(
            "scratch",
            spec["network"] + spec["train"],
            # What `scratch` has of the winner, the phases set themselves.
            {"seed": options.seed, "validation_people": 0, "decisive_weight": 0.0, "deploy_mask": "argmax"},
        )
        name = f"fold{fold}" if not options.seed else f"fold{fold}-seed{options.seed}"
        base = options.out / f"{name}-base"
        if not (base / "finished").is_file():
            training = Training(recipe, data, base, machine, start=start, say=say)
            if (base / STATE).is_file():
                training.resume()
            training.run(until=recipe.epochs - recipe.hard_mask_epochs)
            (base / "finished").touch()
        for index, (phase, changes) in enumerate(PHASES.items()):
            wanted = not options.base_only and (options.phases is None or index in options.phases)
            if wanted and (fold, options.seed, phase) not in done:
                out = options.out / f"{name}-phase{index}"
                row = run_phase(replace(recipe, **changes), data, base, out, machine)
                with results.open("a") as file:
                    file.write(json.dumps({"fold": fold, "seed": options.seed, "phase": phase, **row}) + "\n")
                say(f"fold {fold}, {phase}: {row}")
    print(table(read_rows(results)))


def run_phase(recipe: Recipe, data: Any, base: Path, out: Path, machine: Compute) -> dict[str, float]:
    """Train the last phase from the base's state; figures on the held-out people, in percent, and cosines."""
    training = Training(recipe, data, out, machine, say=lambda line: None)
    training.resume(base, changed=_CHANGED)
    training.run()
    row: dict[str, float] = {}
    rows = {mask: training.embed_validation(mask) for mask in ("argmax", "ramp:0.0625", "expected")}
    for mask, embedding in rows.items():
        figures = evaluate.rank(embedding, data.validation).as_dict()
        row |= {f"{mask}_{key}": 100 * figures[key] for key in ("rank1", "mean_ap", "tracklet_rank1")}
    images = evaluate.load_crops(data.validation, training.model.settings.size_hw)
    for mask, embedding in rows.items():
        half = evaluate.embed(training.model, images, mask=mask, dtype=torch.float16)
        cosine = (half * embedding).sum(1)
        row |= {
            f"{mask}_fp16_min": float(cosine.min()),
            f"{mask}_fp16_p1": float(np.percentile(cosine, 1)),
            f"{mask}_fp16_mean": float(cosine.mean()),
        }
    return row


def read_rows(path: Path) -> list[dict[str, Any]]:
    """What was measured so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: mean over folds, and the spread (standard deviation) of rank-1."""
    heads = [
        "last phase",
        "runs",
        "argmax rank-1",
        "argmax mAP",
        "argmax tracklet rank-1",
        "expected rank-1",
    ]
    heads += ["expected mAP", "FP16 minimum cosine", "FP16 mean cosine"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for phase in PHASES:
        mine = [row for row in rows if row["phase"] == phase]
        if mine:
            mean = {
                key: float(np.mean([row[key] for row in mine]))
                for key in mine[0]
                if key not in ("fold", "seed", "phase")
            }
            spread = float(np.std([row["argmax_rank1"] for row in mine]))
            lowest = min(row["argmax_fp16_min"] for row in mine)
            lines.append(
                f"| {phase} | {len(mine)} | {mean['argmax_rank1']:.1f} ± {spread:.1f} "
                f"| {mean['argmax_mean_ap']:.1f} | {mean['argmax_tracklet_rank1']:.1f} "
                f"| {mean['expected_rank1']:.1f} | {mean['expected_mean_ap']:.1f} | "
                f"{lowest:.4f} | {mean['argmax_fp16_mean']:.5f} |"
            )
    return "\n".join(lines)


def say(line: str) -> None:
    """Progress, at once."""
    print(line, flush=True)


if __name__ == "__main__":
    main()
