"""What `san train` does with its options."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import torch
from tqdm import tqdm

from san_deploy.datasets import Dataset, Options, is_dataset, read_dataset
from san_deploy.errors import SanError, UsageError
from san_deploy.io.atomic import refuse_existing
from san_deploy.io.extras import install
from san_deploy.io.progress import bar

from . import recipe as recipes
from .data import TrainingData, gather, seen_twice
from .distill.teacher import Teacher, open_teacher
from .distill.unlabelled import unlabelled
from .distill.views import TaughtViews, make_views, open_views
from .trainer import BEST, CONFIG, LOG, MODEL, STATE, Machine, Training, read_recipe

#: Where a run keeps the views that a teacher answered.
VIEWS = "views"


@dataclass(frozen=True)
class Request:
    """The options of `san train`; see its help."""

    data: tuple[Path, ...]
    out: Path
    options: Options = field(default_factory=Options)
    arch: str | None = None
    recipe: str | None = None
    overrides: tuple[str, ...] = ()
    epochs: int | None = None
    size: str | None = None
    pretrained: str | None = None
    pretrained_sha256: str = ""
    start: Path | None = None
    teachers: tuple[Path, ...] = ()
    teacher_input: str | None = None
    views: Path | None = None
    validation_people: int | None = None
    device: str = "auto"
    precision: str = "auto"
    workers: int = 2
    seed: int | None = None
    strict: bool = False
    resume: bool = False
    force: bool = False


def train(request: Request) -> None:
    """Check everything, then train.

    Raises:
        SanError: bad data, an existing run, a non-finite loss; UsageError for options that do not fit.
    """
    if request.start and request.pretrained:
        raise UsageError("--start and --pretrained both set the first weights", do="give one of them")
    try:
        import tensorboard  # noqa: F401
    except ModuleNotFoundError as error:
        raise SanError("tensorboard is not installed", do=install("train")) from error
    machine = choose_machine(request.device, request.precision, request.workers)
    _refuse_run(request)
    taught = bool(request.teachers or request.views)
    # Before anything long: a teacher that cannot be run ends here.
    teachers = [open_teacher(path, form=request.teacher_input or "bgr") for path in request.teachers]
    datasets = [
        unlabelled(path) if (taught or request.resume) and not is_dataset(path) and not request.options.pattern
        else read_dataset(path, request.options)
        for path in request.data
    ]  # fmt: skip
    for dataset in datasets:
        click.echo(dataset.summary())
    recipe = _recipe(request, datasets)
    data = gather(
        datasets,
        validation_people=recipe.validation_people,
        seed=recipe.seed,
        strict=request.strict,
        say=lambda line: click.echo(line, err=True),
    )
    if not data.validation:
        click.echo(
            "No validation people: the threshold stays uncalibrated (--validation-people N holds some out).",
            err=True,
        )
    views = _views(request, recipe, data, teachers) if recipe.distilled else None
    training = Training(
        recipe,
        data,
        request.out,
        machine,
        views=views,
        pretrained=_weights(request) if request.pretrained else None,
        start=request.start,
        say=click.echo,
        progress=_bar if sys.stderr.isatty() else None,
    )
    if request.resume:
        training.resume()
        click.echo(f"Resumed after epoch {training.epoch}.")
    parameters = sum(p.numel() for p in training.model.parameters())
    batch = f"{recipe.people} x {recipe.crops_each}"
    if views is not None:
        batch = f"{recipe.distill.batch} of {len(views)} views, answered by {views.told}"
    click.echo(
        f"{recipe.arch}: {parameters / 1e6:.2f} M parameters, {len(data.crops)} crops of "
        f"{max(data.classes) + 1} people, {training.steps} batches of {batch} "
        f"an epoch, on {machine.device} in {machine.precision}"
    )
    if request.force and not request.resume:
        # Only now: everything that could refuse the new run has been asked.
        _remove_run(request.out)
    try:
        training.run()
    except KeyboardInterrupt:
        click.echo(
            f"Stopped in epoch {training.epoch + 1}. Go on with: san train ... -o {request.out} --resume",
            err=True,
        )
        raise
    click.echo(f"Wrote {request.out / MODEL}\nNext: san export {request.out / MODEL} -o model.onnx")


def _views(
    request: Request, recipe: recipes.Recipe, data: TrainingData, teachers: list[Teacher]
) -> TaughtViews:
    """The views to learn from: another run's, this run's from before, or new ones with the teachers' answers."""
    folder = request.views or request.out / VIEWS
    if not teachers:
        return open_views(folder, data.crops)
    if request.views is not None and request.views.exists() and not request.force:
        raise SanError(
            f"{request.views} exists",
            do="leave --teacher out to learn from the answers in it, or replace it with --force",
        )
    count = recipe.views.each * len(data.crops)
    click.echo(f"Asking {', '.join(teacher.name for teacher in teachers)} about {count} views.")
    with bar(count, "views", "view") as progress:
        make_views(
            data.crops,
            data.domain,
            teachers,
            folder,
            settings=recipe.views,
            seed=recipe.seed,
            workers=request.workers,
            progress=progress,
        )
    return open_views(folder, data.crops)


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
        own = ("arch", "recipe", "size", "pretrained", "start", "validation_people", "seed", "epochs")
        if (
            request.overrides
            or request.teachers
            or request.pretrained_sha256
            or any(getattr(request, name) is not None for name in own)
        ):
            raise UsageError(
                "--resume goes on with the run's own recipe", do="leave the options of the recipe out"
            )
        try:
            recipe = recipes.from_dict(read_recipe(request.out))
        except ValueError as error:
            raise SanError(
                f"{request.out / CONFIG} holds no recipe of this version",
                why=str(error),
                do="start a new run",
            ) from error
        recipes.check(recipe)
        return recipe
    values: dict[str, Any] = {}
    if request.seed is not None:
        values["seed"] = request.seed
    if request.epochs is not None:
        values["epochs"] = request.epochs
    if request.size is not None:
        values["settings.size_hw"] = _size(request.size)
    named = {override.partition("=")[0].strip() for override in request.overrides}
    if request.validation_people is not None:
        values["validation_people"] = request.validation_people
    elif "validation_people" not in named and "val" not in datasets[0].splits:
        people = len(seen_twice(datasets[0].splits.get("train", [])))
        # Eleven people before two cameras are what a threshold can be calibrated on; small sets give a third.
        values["validation_people"] = min(max(12, people // 10), people // 3)
    taught = bool(request.teachers or request.views)
    name = request.recipe or ("distill" if taught else "paper" if request.pretrained else "scratch")
    recipe = recipes.resolve(name, request.overrides, values, arch=request.arch)
    if recipe.distilled != taught:
        raise UsageError(
            "the recipe distill and a teacher belong together",
            do="give --teacher FILE, or --views FOLDER of an earlier run"
            if recipe.distilled
            else "leave --recipe out, or give --recipe distill",
        )
    return recipe


def _weights(request: Request) -> Callable[[int], dict[str, torch.Tensor]]:
    """The weights of --pretrained, fetched once the network is known to take them."""
    from .pretrained import fetch, read_weights

    source = request.pretrained or ""
    return lambda depth: read_weights(fetch(source, depth=depth, sha256=request.pretrained_sha256))


def _size(text: str) -> list[int]:
    found = re.fullmatch(r"(\d{2,4})[xX](\d{2,4})", text.strip())
    if not found:
        raise UsageError(f"--size takes HxW in pixels, for example 256x128; received '{text}'")
    return [int(found[1]), int(found[2])]


def _refuse_run(request: Request) -> None:
    refuse_existing(request.out / CONFIG, force=True)
    if request.out.exists() and not request.out.is_dir():
        raise SanError(f"{request.out} is not a folder", do="name another output")
    if request.resume:
        return
    found = [name for name in (CONFIG, MODEL, BEST, STATE, LOG) if (request.out / name).exists()]
    if not found:
        return
    if not _is_run(request.out):
        raise SanError(
            f"{request.out} holds {found[0]}, which is no file of a run of ours", do="name another output"
        )
    if not request.force:
        raise SanError(
            f"{request.out} holds a run", do="continue it with --resume, or start again with --force"
        )


def _is_run(out: Path) -> bool:
    """Whether config.json is one of ours; other tools use that name too."""
    try:
        return "sharpen_mask" in read_recipe(out)
    except SanError:
        return False


def _remove_run(out: Path) -> None:
    """Remove what an earlier run wrote, and nothing else that may lie in the folder."""
    if not _is_run(out):
        return
    for name in (MODEL, BEST, STATE):
        (out / name).unlink(missing_ok=True)
        (out / name).with_suffix(".json").unlink(missing_ok=True)
    for name in (CONFIG, LOG):
        (out / name).unlink(missing_ok=True)
    for events in (out / "tensorboard").glob("events.out.tfevents.*"):
        events.unlink()


def _bar(total: int, title: str) -> Any:
    return tqdm(total=total, desc=title, leave=False, unit="batch")
