"""What `san train` does with its options."""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from tqdm import tqdm

from san_deploy.datasets import Dataset, read_dataset
from san_deploy.errors import SanError, UsageError

from . import recipe as recipes
from .data import gather
from .loop import BEST, CONFIG, LOG, MODEL, STATE, Machine, Training, read_recipe


@dataclass(frozen=True)
class Request:
    """The options of `san train`; see its help."""

    data: tuple[Path, ...]
    out: Path
    recipe: str | None = None
    overrides: tuple[str, ...] = ()
    epochs: int | None = None
    size: str | None = None
    pretrained: str | None = None
    pretrained_sha256: str = ""
    start: Path | None = None
    validation_people: int | None = None
    device: str = "auto"
    precision: str = "auto"
    workers: int = 2
    seed: int = 0
    resume: bool = False
    force: bool = False


def train(request: Request) -> None:
    """Check everything, then train.

    Raises:
        SanError: bad data, an existing run, a non-finite loss; UsageError for options that do not fit.
    """
    if request.start and request.pretrained:
        raise UsageError("--start and --pretrained both set the first weights", do="give one of them")
    machine = choose_machine(request.device, request.precision, request.workers)
    _refuse_run(request)
    datasets = [read_dataset(path) for path in request.data]
    for dataset in datasets:
        click.echo(dataset.summary())
    recipe = _recipe(request, datasets)
    data = gather(datasets, validation_people=recipe.validation_people, seed=recipe.seed)
    if not data.validation:
        click.echo(
            "No validation people: the model's threshold stays uncalibrated (--validation-people N holds some out).",
            err=True,
        )
    weights = None
    if request.pretrained and not request.resume:
        from .pretrained import fetch, read_weights

        depth = int(recipe.settings.get("depth", 50))
        weights = read_weights(fetch(request.pretrained, depth=depth, sha256=request.pretrained_sha256))
    if request.force and not request.resume:
        _remove_run(request.out)
    training = Training(
        recipe,
        data,
        request.out,
        machine,
        pretrained=weights,
        start=request.start,
        say=click.echo,
        progress=_bar if sys.stderr.isatty() else None,
    )
    if request.resume:
        training.resume()
        click.echo(f"Resumed after epoch {training.epoch}.")
    parameters = sum(p.numel() for p in training.model.parameters())
    click.echo(
        f"{recipe.arch}: {parameters / 1e6:.2f} M parameters, {len(data.crops)} crops of "
        f"{max(data.classes) + 1} people, {training.steps} batches of {recipe.people} x {recipe.crops_each} "
        f"an epoch, on {machine.device} in {machine.precision}"
    )
    training.run()
    click.echo(f"Wrote {request.out / MODEL}\nNext: san export {request.out / MODEL} -o model.onnx")


def choose_machine(device: str, precision: str, workers: int) -> Machine:
    """The device and precision asked for, or an error; `auto` takes a GPU where there is one, and says so."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        click.echo(f"Device: {device} (auto)")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"'{device}' is no device", do="give auto, cpu, cuda or cuda:N") from error
    if chosen.type not in ("cpu", "cuda"):
        raise UsageError(f"device '{device}' is not supported", do="give auto, cpu, cuda or cuda:N")
    if chosen.type == "cuda" and (
        not torch.cuda.is_available() or (chosen.index or 0) >= torch.cuda.device_count()
    ):
        raise SanError(
            f"device {device} is not there",
            why=f"PyTorch sees {torch.cuda.device_count()} GPUs",
            do="use --device cpu, or install PyTorch for CUDA",
        )
    if precision == "auto":
        precision = "bf16" if chosen.type == "cuda" else "fp32"
    return Machine(chosen, precision, workers)


def _recipe(request: Request, datasets: list[Dataset]) -> recipes.Recipe:
    if request.resume:
        clash = [
            name
            for name in ("recipe", "size", "pretrained", "start", "validation_people")
            if getattr(request, name) is not None
        ]
        if clash or request.overrides or request.epochs:
            raise UsageError(
                "--resume goes on with the run's own recipe", do="leave the options of the recipe out"
            )
        recipe = recipes.from_dict(read_recipe(request.out))
        recipes.check(recipe)
        return recipe
    values: dict[str, Any] = {"seed": request.seed}
    if request.epochs:
        values["epochs"] = request.epochs
    if request.size:
        values["settings.size_hw"] = _size(request.size)
    people = len({crop.person for crop in datasets[0].splits.get("train", [])})
    if request.validation_people is not None:
        values["validation_people"] = request.validation_people
    elif "val" not in datasets[0].splits:
        # Eight people seen by two cameras are what a threshold can be calibrated on; small sets give a third at most.
        values["validation_people"] = min(max(12, people // 10), people // 3)
    return recipes.resolve(
        request.recipe or ("paper" if request.pretrained else "scratch"), request.overrides, values
    )


def _size(text: str) -> list[int]:
    found = re.fullmatch(r"(\d{2,4})[xX](\d{2,4})", text.strip())
    if not found:
        raise UsageError(f"--size takes HxW in pixels, for example 256x128; received '{text}'")
    return [int(found[1]), int(found[2])]


def _refuse_run(request: Request) -> None:
    if request.out.exists() and not request.out.is_dir():
        raise SanError(f"{request.out} is not a folder", do="name another output")
    if not request.resume and not request.force and (request.out / CONFIG).exists():
        raise SanError(
            f"{request.out} holds a run", do="continue it with --resume, or start again with --force"
        )


def _remove_run(out: Path) -> None:
    """Remove what an earlier run wrote, and nothing else that may lie in the folder."""
    for name in (MODEL, BEST, STATE):
        (out / name).unlink(missing_ok=True)
        (out / name).with_suffix(".json").unlink(missing_ok=True)
    for name in (CONFIG, LOG):
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / "tensorboard", ignore_errors=True)


def _bar(total: int, title: str) -> Any:
    return tqdm(total=total, desc=title, leave=False, unit="batch")
