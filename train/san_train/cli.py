"""What `san train` does with its options."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import torch
from torch import nn
from tqdm import tqdm

from san_deploy.datasets import Dataset, Options, is_dataset, read_dataset
from san_deploy.errors import SanError, UsageError
from san_deploy.io.atomic import refuse_existing
from san_deploy.io.cpu import keep_freed
from san_deploy.io.extras import install
from san_deploy.io.progress import bar

from . import ranks as ranking
from . import recipe as recipes
from .checkpoint import load_tensors, load_weights
from .data import TrainingData, gather, seen_twice
from .distill.teacher import Teacher, open_teacher
from .distill.unlabelled import unlabelled
from .distill.views import TaughtViews, make_views, open_views
from .loader.processes import default_workers
from .models import build_model
from .ranks import Ranks
from .run_state import CONFIG, MODEL, STATE, read_config, refuse_run, remove_run
from .trainer import Compute, Training

#: Where a run keeps the views that a teacher answered.
VIEWS = "views"


@dataclass(frozen=True)
class TrainOptions:
    """The options of `san train`; see its help."""

    data: tuple[Path, ...]
    out: Path
    layout: Options = field(default_factory=Options)
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
    workers: int | None = None
    seed: int | None = None
    strict: bool = False
    resume: bool = False
    force: bool = False


def train(options: TrainOptions) -> None:
    """Check everything, then train.

    Raises:
        SanError: bad data, an existing run, a non-finite loss; UsageError for options that do not fit.
    """
    if options.start and _pretrained(options):
        raise UsageError("--start and --pretrained both set the first weights", do="give one of them")
    if options.teacher_input and not options.teachers:
        raise UsageError(
            "--teacher-input says what a teacher takes", do="give --teacher FILE, or leave it out"
        )
    try:
        import tensorboard  # noqa: F401
    except ModuleNotFoundError as error:
        raise SanError("tensorboard is not installed", do=install("train")) from error
    keep_freed()
    ranks, device = ranking.join(options.device)
    try:
        _train(options, ranks, device)
    finally:
        ranking.leave()


def _train(options: TrainOptions, ranks: Ranks, device: str) -> None:
    say = click.echo if ranks.first else _silent
    config = read_config(options.out) if options.resume else {}
    precision = config.get("precision", "auto") if options.precision == "auto" else options.precision
    if ranks.first:
        _refuse_out(options)
    # Only now may rank 0 write: what the others would find is not a run of before.
    ranks.wait()
    taught = bool(options.teachers or options.views)
    origin = _origin(options, config)
    # First what is most often wrong; choosing the precision takes seconds.
    datasets = [
        unlabelled(path) if (taught or options.resume) and not is_dataset(path) and not options.layout.pattern
        else read_dataset(path, options.layout)
        for path in options.data
    ]  # fmt: skip
    for dataset in datasets:
        say(dataset.summary())
    workers = default_workers() if options.workers is None else options.workers
    compute = choose_compute(device, precision, workers, ranks, say=say)
    views_folder = Path(origin["views"] or options.out / VIEWS)
    # Before anything long: a teacher that cannot be run ends here.
    answered = options.resume and views_folder.exists()
    teachers = [
        open_teacher(path, form=origin["teacher_input"] or "bgr", precision=compute.precision)
        for path in (() if answered else options.teachers)
    ]
    recipe = _resumed(options, config) if options.resume else _recipe(options, datasets)
    data = gather(
        datasets,
        validation_people=recipe.validation_people,
        seed=recipe.seed,
        strict=options.strict,
        say=lambda line: say(line, err=True),
    )
    if not data.validation:
        say(
            "No validation people: the threshold stays uncalibrated (--validation-people N holds some out).",
            err=True,
        )
    fresh = not options.resume or not (options.out / STATE).exists()
    start = Path(origin["start"]) if fresh and origin["start"] else None
    views = None
    if recipe.distilled:
        _refuse_before_views(recipe, ranks, start, len(datasets))
        views = _views(options, views_folder, recipe, data, teachers, max(1, workers))
        if not options.resume:
            recipe = _as_drawn(options, recipe, views)
    training = Training(
        recipe,
        data,
        options.out,
        compute,
        views=views,
        pretrained=_weights(origin) if fresh and origin["pretrained"] else None,
        start=start,
        say=say,
        progress=_bar if ranks.first and sys.stderr.isatty() else None,
        origin=origin,
    )
    if options.resume and fresh:
        say("The run was stopped before its first state was written: it begins again, with its own recipe.")
    elif options.resume:
        _resume(training, recipes.from_dict(config["recipe"]), say)
    say(_what(training, views))
    if ranks.first and options.force and not options.resume:
        # Only now: everything that could refuse the new run has been asked.
        remove_run(options.out)
    try:
        training.run()
    except KeyboardInterrupt:
        say(
            f"Stopped in epoch {training.epoch + 1}. Go on with: san train ... -o {options.out} --resume",
            err=True,
        )
        raise
    say(f"Wrote {options.out / MODEL}\nNext: san export {options.out / MODEL} -o model.onnx")


def _what(training: Training, views: TaughtViews | None) -> str:
    """What will be trained on what, in a line."""
    recipe, data, compute = training.recipe, training.data, training.compute
    parameters = sum(p.numel() for p in training.model.parameters())
    batch = f"{recipe.num_ids} x {recipe.num_instances}"
    if views is not None:
        batch = f"{recipe.distill.batch} of {len(views)} views, answered by {views.told}"
    world, device = compute.ranks.world, compute.device
    where = f"{device}" if world == 1 else f"{world} processes ({device.type})"
    return (
        f"{recipe.arch}: {parameters / 1e6:.2f} M parameters, {len(data.crops)} crops of "
        f"{max(data.classes) + 1} people, {training.steps} batches of {batch} "
        f"an epoch, on {where} in {compute.precision}"
    )


def _silent(message: str, err: bool = False) -> None:
    """What other processes than the first say."""


def _resume(training: Training, before: recipes.Recipe, say: Callable[..., None]) -> None:
    """Take over the state; a run with more epochs than before says what that does to its schedule."""
    training.resume(changed=("epochs",))
    now = training.recipe
    if now.epochs < training.epoch:
        raise UsageError(
            f"the run has trained {training.epoch} epochs already", do=f"give --epochs above {training.epoch}"
        )
    say(f"Resumed after epoch {training.epoch}.")
    if now.epochs == before.epochs:
        return
    ended = recipes.learning_rate(before, min(training.epoch, before.epochs))
    say(
        f"{now.epochs} epochs instead of {before.epochs}: the schedule is stretched, so that lr goes on from "
        f"{recipes.learning_rate(now, training.epoch):.2g} (it had come to {ended:.2g})."
        + (f" The last {now.hard_mask_epochs} epochs have hard masks." if now.hard_mask_epochs else "")
    )


def _origin(options: TrainOptions, config: dict[str, Any]) -> dict[str, Any]:
    """Where the first weights are from, and by which name the recipe was asked for.

    Raises:
        UsageError: a resumed run says something else than the options.
    """
    asked = {
        "recipe_name": options.recipe,
        "pretrained": _pretrained(options),
        "pretrained_sha256": options.pretrained_sha256 or None,
        "start": None if options.start is None else str(options.start),
        "teachers": [str(path) for path in options.teachers] or None,
        "teacher_input": options.teacher_input,
        "views": None if options.views is None else str(options.views),
    }
    for key, value in asked.items():
        # Views may lie elsewhere by now: what is in them says whose they are.
        if key != "views" and value is not None and config.get(key, value) != value:
            raise UsageError(
                f"{key} was {config[key]!r} in this run; received {value!r}",
                do="resume without it, or start a new run",
            )
    return {key: config.get(key) if value is None else value for key, value in asked.items()}


def _pretrained(options: TrainOptions) -> str | None:
    """The weights of --pretrained; `none` says that there are to be none."""
    return None if options.pretrained in (None, "none") else options.pretrained


def _refuse_before_views(recipe: recipes.Recipe, ranks: Ranks, start: Path | None, datasets: int) -> None:
    """Raise SanError or UsageError where the training would end after hours of a teacher's answers."""
    if ranks.world > 1:
        raise UsageError(
            "a teacher's answers are learned by one process", do="run san train without torchrun"
        )
    share = recipe.distill.share
    if share and len(share) != datasets:
        raise UsageError(f"distill.share has {len(share)} parts for {datasets} data sets")
    if start is not None:
        load_weights(build_model(recipe.arch, recipe.settings), load_tensors(start)[0], start)


def _as_drawn(options: TrainOptions, recipe: recipes.Recipe, views: TaughtViews) -> recipes.Recipe:
    """The recipe with the settings by which its views were drawn.

    Raises:
        UsageError: another value of one was asked for.
    """
    for override in options.overrides:
        head, _, name = override.partition("=")[0].strip().partition(".")
        if head == "views" and getattr(recipe.views, name) != getattr(views.settings, name):
            raise UsageError(
                f"{views.folder} was drawn with views.{name}={getattr(views.settings, name)}, not with {override}",
                do="leave it out, or have views made by it: --teacher FILE",
            )
    return replace(recipe, views=views.settings)


def _views(
    options: TrainOptions,
    folder: Path,
    recipe: recipes.Recipe,
    data: TrainingData,
    teachers: list[Teacher],
    threads: int,
) -> TaughtViews:
    """The views to learn from: another run's, this run's from before, or new ones with the teachers' answers."""
    if not teachers:
        return open_views(folder, data.crops)
    if options.views is not None and options.views.exists() and not options.force:
        raise SanError(
            f"{options.views} exists",
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
            workers=threads,
            progress=progress,
        )
    return open_views(folder, data.crops)


#: Of fp32's time, beyond which bf16 is not worth its rounding.
_WORTH = 0.9


def bf16_share(rounds: int = 4) -> float:
    """The time of a residual block's training step in bf16 on this CPU, as a part of its time in fp32.

    The best of `rounds` in turn. Some processors multiply bf16 in hardware, others imitate it.
    """
    with torch.random.fork_rng(devices=()):
        layers = [nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
        block: Any = nn.Sequential(*layers, nn.Conv2d(64, 64, 3, padding=1))
        block = block.to(memory_format=torch.channels_last)
        x = torch.rand(16, 64, 32, 16).to(memory_format=torch.channels_last)

    def step(enabled: bool) -> float:
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            result = block(x) + x
        result.float().square().mean().backward()
        return time.perf_counter() - start

    pairs = [(step(True), step(False)) for _ in range(rounds)]
    low, full = (min(times) for times in zip(*pairs, strict=True))
    return low / full


def choose_compute(
    device: str,
    precision: str,
    workers: int,
    ranks: Ranks = Ranks(),  # noqa: B008  it is frozen
    *,
    say: Callable[..., None] = click.echo,
) -> Compute:
    """The device and precision asked for, or an error; `auto` is chosen here, and said.

    A GPU is taken where there is one, with bf16; on a CPU bf16 where it was measured to be faster, by the first rank
    for all.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        say(f"Device: {device} (auto)")
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
    if precision == "auto" and chosen.type == "cuda":
        precision = "bf16"
    elif precision == "auto":
        (share,) = ranks.add([bf16_share() if ranks.first else 0.0], chosen)
        precision = "bf16" if share <= _WORTH else "fp32"
        say(f"Precision: {precision} (auto): bf16 takes {share:.2f} of fp32's time here, measured on a block")
    return Compute(chosen, precision, workers, ranks)


def _resumed(options: TrainOptions, config: dict[str, Any]) -> recipes.Recipe:
    """The recipe of the run in the folder, longer where --epochs says so.

    Raises:
        UsageError: an option asks for something else than that run's own recipe.
        SanError: the run's recipe is of another version.
    """
    try:
        own = recipes.from_dict(config["recipe"])
    except ValueError as error:
        raise SanError(
            f"{options.out / CONFIG} holds no recipe of this version", why=str(error), do="start a new run"
        ) from error
    recipes.check(own)
    asked = recipes.override(own, options.overrides, _values(options))
    before, after = own.as_dict(), asked.as_dict()
    differ = [key for key in after if key != "epochs" and before[key] != after[key]]
    if differ:
        raise UsageError(
            f"--resume goes on with the run's own recipe, in which {', '.join(differ)} is another",
            do="leave it out, or start a new run",
        )
    recipes.check(asked)
    return asked


def _values(options: TrainOptions) -> dict[str, Any]:
    """What options of their own say of the recipe."""
    values: dict[str, Any] = {
        "arch": options.arch,
        "seed": options.seed,
        "epochs": options.epochs,
        "settings.size_hw": None if options.size is None else _size(options.size),
        "validation_people": options.validation_people,
    }
    return {key: value for key, value in values.items() if value is not None}


def _recipe(options: TrainOptions, datasets: list[Dataset]) -> recipes.Recipe:
    values = _values(options)
    arch = values.pop("arch", None)
    named = {override.partition("=")[0].strip() for override in options.overrides} | set(values)
    if "validation_people" not in named and "val" not in datasets[0].splits:
        people = len(seen_twice(datasets[0].splits.get("train", [])))
        # Eleven people before two cameras are what a threshold can be calibrated on; small sets give a third.
        values["validation_people"] = min(max(12, people // 10), people // 3)
    taught = bool(options.teachers or options.views)
    name = options.recipe or ("distill" if taught else "paper" if _pretrained(options) else "scratch")
    recipe = recipes.resolve(name, options.overrides, values, arch=arch)
    if recipe.distilled != taught:
        raise UsageError(
            "the recipe distill and a teacher belong together",
            do="give --teacher FILE, or --views FOLDER of an earlier run"
            if recipe.distilled
            else "leave --recipe out, or give --recipe distill",
        )
    if recipe.identity_weight == 0 and not recipe.distilled:
        _ask_for_weights(options)
    return recipe


def _ask_for_weights(options: TrainOptions) -> None:
    """Raise UsageError where a network would learn from random weights by the triplet loss alone, unasked."""
    if options.pretrained or options.start:
        return
    what = "the triplet loss alone collapses when it starts from random weights"
    if sys.stdin.isatty() and click.confirm(f"{what.capitalize()} (docs/training.md). Train all the same?"):
        return
    raise UsageError(
        what,
        why="every crop gets the same embedding, and the loss stays at the margin",
        do="give --pretrained imagenet (or a file), take --recipe scratch, or insist with --pretrained none",
    )


def _weights(origin: dict[str, Any]) -> Callable[[int], dict[str, torch.Tensor]]:
    """The weights of --pretrained, fetched once the network is known to take them."""
    from .pretrained import fetch, read_weights

    source, sha256 = str(origin["pretrained"]), origin["pretrained_sha256"] or ""
    return lambda depth: read_weights(fetch(source, depth=depth, sha256=sha256))


def _size(text: str) -> list[int]:
    found = re.fullmatch(r"(\d{2,4})[xX](\d{2,4})", text.strip())
    if not found:
        raise UsageError(f"--size takes HxW in pixels, for example 256x128; received '{text}'")
    return [int(found[1]), int(found[2])]


def _refuse_out(options: TrainOptions) -> None:
    """Raise SanError where the run's folder cannot be one, or holds another's files."""
    refuse_existing(options.out / CONFIG, force=True)
    if options.out.exists() and not options.out.is_dir():
        raise SanError(f"{options.out} is not a folder", do="name another output")
    if not options.resume:
        refuse_run(options.out, force=options.force)


def _bar(total: int, title: str) -> Any:
    return tqdm(total=total, desc=title, leave=False, unit="batch")
