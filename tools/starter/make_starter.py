"""Train the starter model again: one command, from real and drawn crops to the ONNX file in the package.

    python tools/starter/make_starter.py --ward ../shared/ward --video ../shared/video --teachers ../shared/models/omz

1. draws pedestrians (drawn/), seeded, and cuts crops from a video (`san crops`);
2. asks the teachers about views of all crops, once (`san_train.distill`); views that show anybody of a split's
   test people enter no training of that split, and no target of it: axes, means and covariances are of its own views;
3. trains a first network on the drawn people and the video;
4. from it, trains a network for each of the five splits of WARD, to say how good it is on people whom it did not
   see, and to calibrate the threshold on them;
5. from it, trains the starter on all fifty people, gives it that threshold, and exports it into the package.

Every training goes through `san train`. Needs the extras train and export, openvino, and the extra video.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from drawn import draw_cameras
from folds import SPLITS, split_of
from san_train import evaluate
from san_train.checkpoint import load_checkpoint, save_checkpoint
from san_train.distill.teacher import open_teacher
from san_train.distill.unlabelled import unlabelled
from san_train.distill.views import is_views, make_views
from san_train.recipe import resolve

from san_deploy.artefact import Threshold
from san_deploy.datasets import labels, read_dataset
from san_deploy.matching.threshold import choose_threshold, fraction_reaching, tracklet_similarities

HERE = Path(__file__).resolve().parent
PACKAGE_DATA = HERE.parent.parent / "san_deploy" / "data"
CURVE_POINTS = 40
#: What of the recipe the crops and the views are made by.
DATA = ("seed", "drawn", "video_crops_per_track", "views")
TEACHERS = ("person-reidentification-retail-0277.xml", "person-reidentification-retail-0288.xml")


def main() -> None:
    """Run the recipe in recipe.json; finished steps of an earlier, interrupted run of that recipe are kept."""
    parser = argparse.ArgumentParser(description="Train the starter model again.")
    parser.add_argument("--ward", type=Path, default=Path("../shared/ward"), help="WARD as a crop folder")
    parser.add_argument(
        "--video", type=Path, default=Path("../shared/video"), help="one-by-one.mp4 and its boxes"
    )
    parser.add_argument("--teachers", type=Path, default=Path("../shared/models/omz"), help="their folder")
    parser.add_argument("--out", type=Path, default=Path("runs/starter"), help="where the runs go")
    parser.add_argument("--precision", default="bf16", choices=["fp32", "bf16"], help="of training")
    options = parser.parse_args()
    recipe = json.loads((HERE / "recipe.json").read_text())
    refuse_other_data(options.out, {key: recipe[key] for key in DATA})

    drawn = draw(options.out / "drawn", recipe["drawn"])
    video = options.out / "video"
    if not (video / "cam1").exists():
        san("crops", options.video / "one-by-one.mp4", "--detections", options.video / "one-by-one.mot.txt",
            "-o", video / "cam1", "--per-track", recipe["video_crops_per_track"])  # fmt: skip
    views = options.out / "views"
    if not is_views(views):
        datasets = [read_dataset(options.ward), read_dataset(drawn), unlabelled(video)]
        crops = [[crop for part in data.splits.values() for crop in part] for data in datasets]
        domain = [number for number, part in enumerate(crops) for _ in part]
        teachers = [
            open_teacher(options.teachers / name, precision=options.precision, threads=1) for name in TEACHERS
        ]
        print("asking the teachers", flush=True)
        settings = resolve("distill", recipe["views"]).views
        make_views(
            [crop for part in crops for crop in part],
            domain,
            teachers,
            views,
            settings=settings,
            seed=recipe["seed"],
        )

    def train(run: Path, data: list[Path], part: str, start: Path | None = None) -> None:
        san_train(run, data, recipe, recipe[part], options.precision, views=views, start=start)

    first = options.out / "pretrain"
    train(first, [drawn, video], "pretrain")
    start = first / "model.safetensors"
    runs = []
    for split in range(len(SPLITS)):
        data = split_of(options.ward, options.out / f"fold{split}-data", split)
        run = options.out / f"fold{split}"
        train(run, [data, drawn, video], "train", start)
        runs.append((run / "model.safetensors", data))
    threshold = calibrated(runs)
    print("threshold", threshold, flush=True)
    everybody = all_of(options.ward, options.out / "all-data")
    train(options.out / "final", [everybody, drawn, video], "final", start)
    model, info = load_checkpoint(options.out / "final" / "model.safetensors")
    save_checkpoint(HERE / "starter.safetensors", model, replace(info, threshold=threshold))
    san("export", HERE / "starter.safetensors", "-o", PACKAGE_DATA / "starter.onnx", "--no-engine", "--force")


def refuse_other_data(out: Path, recipe: dict[str, Any]) -> None:
    """Stop where the crops and views in a folder were made by another recipe: trainings notice theirs by themselves."""
    note, text = out / "data.json", json.dumps(recipe, indent=1)
    if note.is_file() and note.read_text() != text:
        sys.exit(f"{out} holds crops and views of another recipe ({note}): remove it, or name another --out")
    out.mkdir(parents=True, exist_ok=True)
    note.write_text(text)


def draw(out: Path, settings: dict[str, Any]) -> Path:
    """Sets of drawn people, each before cameras of its own, as one crop folder; as it is where it is complete."""
    if (out / "identities.csv").is_file():
        return out
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    rows: list[list[str]] = []
    how = {key: value for key, value in settings.items() if key not in ("sets", "seed")}
    for number in range(settings["sets"]):
        print(f"drawing {settings['people']} people, set {number + 1} of {settings['sets']}", flush=True)
        with TemporaryDirectory(dir=out.parent) as folder:
            one = Path(folder) / "set"
            draw_cameras(one, **how, seed=settings["seed"] + number, split="train")
            with (one / "identities.csv").open(newline="") as file:
                for row in csv.DictReader(file):
                    person = int(row["person"]) + number * settings["people"]
                    rows.append([f"set{number}-{row['camera']}", row["track"], str(person), "train"])
            for camera in sorted(one.iterdir()):
                if camera.is_dir():
                    shutil.move(camera, out / f"set{number}-{camera.name}")
    with (out / "identities.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["camera", "track", "person", "split"])
        writer.writerows(rows)
    return out


def all_of(ward: Path, out: Path) -> Path:
    """A crop folder in which everybody is there to be trained on."""
    split_of(ward, out, 0)
    path = out / "identities.csv"
    path.write_text(path.read_text().replace(",val", ",train"))
    return out


def calibrated(runs: list[tuple[Path, Path]]) -> Threshold:
    """A threshold from the people whom each split's network did not see.

    Args:
        runs: checkpoints, each with the crop folder whose `val` people it did not see.
    """
    genuine, impostor = [], []
    for checkpoint, data in runs:
        same, other = held_out_similarities(checkpoint, data)
        genuine.append(same)
        impostor.append(other)
    source = f"people of WARD who were held out, {len(runs)} networks of the same recipe"
    same, other = np.concatenate(genuine), np.concatenate(impostor)
    threshold = choose_threshold(same, other, source=source, mask="argmax")
    # So that another threshold on the command line has its rates, too.
    grid = [round(value, 4) for value in np.linspace(np.median(other), same.max(), CURVE_POINTS).tolist()]
    curve = tuple((value, fraction_reaching(other, value), fraction_reaching(same, value)) for value in grid)
    return replace(threshold, curve=curve)


def held_out_similarities(checkpoint: Path, data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Similarities of tracklets of one person and of strangers, among people the network did not see."""
    crops = read_dataset(data).splits["val"]
    model, info = load_checkpoint(checkpoint)
    rows = evaluate.embed(model, evaluate.load_crops(crops, model.settings.size_hw))
    print(checkpoint.parent.name, info.metrics, flush=True)
    person, camera, track = labels(crops)
    return tracklet_similarities(rows, person=person, camera=camera, track=track)


def san_train(
    run: Path,
    data: list[Path],
    recipe: dict[str, Any],
    overrides: list[str],
    precision: str,
    *,
    views: Path,
    start: Path | None = None,
) -> None:
    """`san train`, unless that very run is finished; an interrupted one is resumed.

    `made-by.json` says what a run is of, so that an edited recipe starts it again.
    """
    settings = [part for override in recipe["network"] + overrides for part in ("--set", override)]
    first = ["--start", start] if start else []
    # Without a val split nobody is held out: the five splits say how good it is.
    held_out = [] if (data[0] / "identities.csv").read_text().count(",val") else ["--validation-people", 0]
    command = ["train", *data, "-o", run, "--views", views, "--seed", recipe["seed"], "--precision", precision,
               *first, *held_out, *settings]  # fmt: skip
    made_by = json.dumps({"command": [str(word) for word in command], "drawn": recipe["drawn"]}, indent=1)
    note = run / "made-by.json"
    same = note.is_file() and note.read_text() == made_by
    if same and (run / "finished").is_file():
        return
    if same and (run / "state.safetensors").is_file():
        san("train", *data, "-o", run, "--views", views, "--resume", "--precision", precision)
    else:
        (run / "finished").unlink(missing_ok=True)
        run.mkdir(parents=True, exist_ok=True)
        note.write_text(made_by)
        san(*command, "--force")
    (run / "finished").touch()


def san(*arguments: object) -> None:
    """Run `san` and stop with it."""
    words = [sys.executable, "-m", "san_deploy", *map(str, arguments)]
    print("$ san", *words[3:], flush=True)
    code = subprocess.run(words, check=False).returncode
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
