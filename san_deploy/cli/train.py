"""`san train`: train a Sharp Attention Network, or another attention network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..io.interrupts import held_interrupts
from . import options


@click.command(context_settings={"show_default": True}, cls=options.GroupedCommand)
@click.argument("data", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", "out", required=True, type=click.Path(path_type=Path), help="Folder of the run."
)
@click.option(
    "--arch",
    metavar="NAME",
    help="Architecture: san, or another of docs/training.md; a wrong name lists them.  [default: san]",
)
@click.option(
    "--recipe",
    default=None,
    help="paper, scratch or distill.  [default: paper with --pretrained, distill with --teacher, else scratch]",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override any value of the recipe, for example --set settings.depth=50 --set lr=1e-3. Repeatable.",
)
@click.option("--epochs", type=click.IntRange(1), help="Override the recipe's epochs.")
@click.option("--size", metavar="HxW", help="Override the input size, for example 256x128.")
@click.option(
    "--pretrained",
    metavar="FILE|URL|imagenet|none",
    help="Weights of the backbone, torchvision's names; none starts from random ones, whatever the recipe.",
)
@click.option(
    "--pretrained-sha256", default="", show_default=False, help="SHA-256 of --pretrained, 64 digits."
)
@click.option(
    "--start",
    type=click.Path(path_type=Path),
    metavar="CHECKPOINT",
    help="Start from the weights of this checkpoint, of the same architecture and settings.",
)
@click.option(
    "--teacher",
    "teachers",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Learn this network's answers instead of labels: OpenVINO IR (.xml), ONNX, or a file of ours. Repeatable.",
)
@click.option(
    "--teacher-input",
    metavar="FORM",
    help="What a teacher that is not ours takes: bgr or rgb (0..255 as they are), imagenet.  [default: bgr]",
)
@click.option(
    "--views",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="The teacher's answers of an earlier run (RUN/views), or where to put them.  [default: OUTPUT/views]",
)
@click.option(
    "--validation-people",
    type=click.IntRange(0),
    help="People held out where the data has no val split.  [default: 12 or a tenth, at most a third; 0 trains on all]",
)
@options.data_set
@click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    default="auto",
    help="auto is bf16 on a GPU, and on a CPU where it was measured to be faster.",
)
@click.option(
    "--workers",
    type=click.IntRange(0, 256),
    help="Processes that read and augment crops; 0 does it between steps.  [default: one per core, at most 16]",
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Of everything.  [default: 0]")
@click.option("--strict", is_flag=True, help="Stop at the first crop that cannot be read.")
@click.option(
    "--resume",
    is_flag=True,
    help="Continue the run in --output with its own recipe; more --epochs go beyond its end.",
)
@click.option("--force", is_flag=True, help="Start again in a folder that holds a run.")
def command(
    data: tuple[Path, ...],
    out: Path,
    arch: str | None,
    recipe: str | None,
    overrides: tuple[str, ...],
    epochs: int | None,
    size: str | None,
    pretrained: str | None,
    pretrained_sha256: str,
    start: Path | None,
    teachers: tuple[Path, ...],
    teacher_input: str | None,
    views: Path | None,
    validation_people: int | None,
    device: str,
    precision: str,
    workers: int | None,
    seed: int | None,
    strict: bool,
    resume: bool,
    force: bool,
    **given: Any,
) -> None:
    """Train on DATA: a crop folder (identities.csv), Market-1501, DukeMTMC-reID, MSMT17, CUHK03, WARD, or any
    folder by --pattern; several at once if given. With --teacher, DATA may also be crops that nobody named:
    CAMERA/TRACK/*.jpg.

    Writes OUT/model.safetensors (the last), best.safetensors (the best validation), their descriptions
    as JSON, config.json, metrics.jsonl and TensorBoard's files. Ctrl-C loses at most the epochs since
    the last validation; --resume goes on from there.
    """
    with held_interrupts():
        from san_train.cli import TrainOptions, train

    train(
        TrainOptions(
            data=data,
            layout=options.data_options(given),
            out=out,
            arch=arch,
            recipe=recipe,
            overrides=overrides,
            epochs=epochs,
            size=size,
            pretrained=pretrained,
            pretrained_sha256=pretrained_sha256,
            start=start,
            teachers=teachers,
            teacher_input=teacher_input,
            views=views,
            validation_people=validation_people,
            device=device,
            precision=precision,
            workers=workers,
            seed=seed,
            strict=strict,
            resume=resume,
            force=force,
        )
    )
