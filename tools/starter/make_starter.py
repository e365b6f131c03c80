"""Train the starter model again: one command, from real and drawn crops to the ONNX file in the package.

    python tools/starter/make_starter.py --ward ../shared/ward

1. draws pedestrians (drawn/), seeded, and trains a first network on them alone;
2. from it, trains one network per fold of WARD's `train` people, to calibrate the threshold on people whom
   the network did not see; never on WARD's `test` people;
3. from it, trains the starter on all `train` people and the drawn ones, and gives it that threshold;
4. exports it into the package.

Every step goes through `san train` and `san export`. Needs the extras train and export.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from drawn import draw_cameras
from folds import fold_of
from san_train import evaluate
from san_train.checkpoint import load_checkpoint, save_checkpoint

from san_deploy.datasets import Crop, labels, read_dataset
from san_deploy.matching.threshold import choose_threshold, tracklet_similarities

HERE = Path(__file__).resolve().parent
PACKAGE_DATA = HERE.parent.parent / "san_deploy" / "data"


def main() -> None:
    """Run the recipe in recipe.json; finished steps of an earlier, interrupted run are kept."""
    parser = argparse.ArgumentParser(description="Train the starter model again.")
    parser.add_argument("--ward", type=Path, default=Path("../shared/ward"), help="WARD as a crop folder")
    parser.add_argument("--out", type=Path, default=Path("runs/starter"), help="where the runs go")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"], help="of training")
    parser.add_argument("--skip-folds", action="store_true", help="keep the threshold of starter.safetensors")
    options = parser.parse_args()
    recipe = json.loads((HERE / "recipe.json").read_text())

    drawn = options.out / "drawn"
    drawn_by, note = json.dumps(recipe["drawn"]), options.out / "drawn.json"
    if not (note.is_file() and note.read_text() == drawn_by):
        shutil.rmtree(drawn, ignore_errors=True)
        print(f"drawing {recipe['drawn']['people']} people", flush=True)
        draw_cameras(drawn, **recipe["drawn"], split="train")
        note.write_text(drawn_by)

    first = options.out / "pretrain"
    san_train(
        first, [drawn], recipe, recipe["pretrain"], options.precision, held_out=recipe["drawn_held_out"]
    )
    start = first / "model.safetensors"

    if options.skip_folds:
        threshold = load_checkpoint(HERE / "starter.safetensors")[1].threshold
    else:
        genuine, impostor = [], []
        for fold in range(recipe["folds"]):
            data = fold_of(options.ward, options.out / f"fold{fold}-data", fold, recipe["folds"])
            run = options.out / f"fold{fold}"
            san_train(run, [data, drawn], recipe, recipe["train"], options.precision, start=start)
            same, other = held_out_similarities(run / "model.safetensors", read_dataset(data).splits["val"])
            genuine.append(same)
            impostor.append(other)
        source = f"WARD's {recipe['people']} train people, cross-validated in {recipe['folds']} folds"
        threshold = choose_threshold(np.concatenate(genuine), np.concatenate(impostor), source=source, mask="argmax")
        print("threshold", threshold, flush=True)

    run = options.out / "final"
    san_train(run, [options.ward, drawn], recipe, recipe["train"], options.precision, start=start)
    model, info = load_checkpoint(run / "model.safetensors")
    save_checkpoint(HERE / "starter.safetensors", model, replace(info, threshold=threshold))
    san("export", HERE / "starter.safetensors", "-o", PACKAGE_DATA / "starter.onnx", "--no-engine", "--force")


def san_train(
    run: Path,
    data: list[Path],
    recipe: dict[str, Any],
    overrides: list[str],
    precision: str,
    *,
    start: Path | None = None,
    held_out: int = 0,
) -> None:
    """`san train`, unless that very run is finished; an interrupted one is resumed.

    `made-by.json` says what a run is of, so that an edited recipe starts it again.
    """
    settings = [part for override in recipe["network"] + overrides for part in ("--set", override)]
    first = ["--start", start] if start else []
    command = ["train", *data, "-o", run, "--recipe", "scratch", "--seed", recipe["seed"], "--validation-people",
               held_out, "--precision", precision, *first, *settings]  # fmt: skip
    made_by = json.dumps({"command": [str(word) for word in command], "drawn": recipe["drawn"]}, indent=1)
    note = run / "made-by.json"
    same = note.is_file() and note.read_text() == made_by
    if same and (run / "finished").is_file():
        return
    if same and (run / "state.safetensors").is_file():
        san("train", *data, "-o", run, "--resume", "--precision", precision)
    else:
        (run / "finished").unlink(missing_ok=True)
        run.mkdir(parents=True, exist_ok=True)
        note.write_text(made_by)
        san(*command, "--force")
    (run / "finished").touch()


def held_out_similarities(checkpoint: Path, crops: list[Crop]) -> tuple[np.ndarray, np.ndarray]:
    """Similarities of tracklets of one person and of strangers, among people the network did not see."""
    model, info = load_checkpoint(checkpoint)
    rows = evaluate.embed(model, evaluate.load_crops(crops, model.settings.size_hw))
    print(checkpoint.parent.name, info.metrics, flush=True)
    person, camera, track = labels(crops)
    return tracklet_similarities(rows, person=person, camera=camera, track=track)


def san(*arguments: object) -> None:
    """Run `san` and stop with it."""
    words = [sys.executable, "-m", "san_deploy", *map(str, arguments)]
    print("$ san", *words[3:], flush=True)
    code = subprocess.run(words, check=False).returncode
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
