"""`san threshold`: a threshold for a user's own cameras, and what it rests on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from . import options

if TYPE_CHECKING:
    from ..artefact import Artefact
    from ..backends import Backend
    from ..matching.cameras import Camera
    from ..matching.threshold_study import ThresholdStudy

#: Without labels a rate is all that can be asked for.
UNLABELLED_FMR = 0.01


@click.command(
    short_help="Choose the similarity from which two tracklets are one person.", cls=options.GroupedCommand
)
@click.argument("crops", nargs=-1, required=True, metavar="CROPS...")
@options.model
@options.running
@click.option(
    "--labels", type=click.Path(path_type=Path), help="identities.csv (camera,track,person) of some people."
)
@click.option(
    "--fmr",
    type=options.Number(0, 1, min_open=True, max_open=True),
    help="False match rate to aim at.  [default: with --labels the best F1 of the matches, else 0.01]",
)
@click.option(
    "--absent",
    type=click.Choice(("0", "0.3", "0.5")),
    default="0.3",
    show_default=True,
    help="Best F1 where this fraction of the people is before one camera only.",
)
@click.option(
    "--center", is_flag=True, help="Take each camera's mean off its tracklets first, as san match --center."
)
@click.option("--pattern", default="", metavar="NAME", help="Read tracklets off file names, as in san match.")
@click.option(
    "-o",
    "--output",
    "out",
    type=click.Path(path_type=Path),
    help="A copy of the model with the threshold in it. Without it the threshold is only printed.",
)
@click.option(
    "--page",
    type=click.Path(path_type=Path),
    help="A page with the curves and a slider.  [default: OUT.html]",
)
@options.per_track
@options.reading
@click.option("--force", is_flag=True, help="Replace existing files.")
@options.as_json
def command(**given: Any) -> None:
    """Choose the similarity from which two tracklets are taken for one person.

    CROPS are camera folders as of san match, or one folder that holds them. With labels the threshold is the one of
    the best F1, or of a false match rate, with an interval over people. Without, the rate is estimated from
    tracklets that cannot be one person: two at a time before one camera.
    """
    from ..io.atomic import atomic_file, refuse_existing
    from ..reports.threshold_page import write_page

    model, out, page = given["model"], given["out"], given["page"]
    if out is not None and page is None:
        page = out.with_name(out.name + ".html")
    for path in (out, page):
        if path is not None:
            refuse_existing(path, force=given["force"])
    if out is not None:
        _check_output(model, out)
    runtime, cameras = _embed(given)
    study = _study(cameras, runtime.artefact, given)
    if out is not None:
        write_copy(
            _model_path(model), out, replace(runtime.artefact, threshold=study.threshold), given["force"]
        )
    if page is not None:
        with atomic_file(page, force=given["force"]) as temporary:
            write_page(temporary, study, runtime.artefact.as_dict())
    if given["as_json"]:
        told = {"output": str(out) if out else None, "page": str(page) if page else None}
        click.echo(json.dumps(study.as_dict() | told, indent=2))
        return
    click.echo(as_text(study))
    if out is not None:
        click.echo(f"model      {out}")
    else:
        value = study.threshold.similarity
        click.echo(
            f"use it     san match --threshold {value:.4f}, or give -o to write it into a copy of the model"
        )
    if page is not None:
        click.echo(f"page       {page}")


def _embed(given: dict[str, Any]) -> tuple[Backend, list[Camera]]:
    from ..backends import open_backend
    from ..io.progress import bar
    from ..matching.cameras import centred
    from ..matching.site import with_times
    from ..matching.sources import Reading, embed_sources, read_sources
    from .cameras import describe

    at_least = 2 if given["labels"] else 1
    sources = read_sources(camera_folders(given["crops"]), given["pattern"], at_least=at_least)
    runtime = open_backend(given["model"], backend=given["backend"], device=given["device"])
    options.say(runtime)
    for source in sources:
        describe(source)
    reading = Reading(given["batch"], given["workers"], given["strict"], bar, given["per_track"])
    cameras, _ = embed_sources(sources, runtime, reading)
    cameras = [with_times(camera) for camera in cameras]
    return runtime, [centred(camera) for camera in cameras] if given["center"] else cameras


def camera_folders(given: Sequence[str]) -> list[str]:
    """The cameras; of one folder that holds cameras, each with folders of tracklets, these."""
    if len(given) != 1 or not Path(given[0]).is_dir():
        return list(given)
    root = Path(given[0])
    inner = sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
    if inner and all(any(track.is_dir() for track in camera.iterdir()) for camera in inner):
        return [str(path) for path in inner]
    return list(given)


def _study(cameras: Sequence[Camera], artefact: Artefact, given: dict[str, Any]) -> ThresholdStudy:
    from ..datasets.crop_folder import identity_notes, read_identities
    from ..matching.accuracy import labels_of_cameras
    from ..matching.threshold_study import Wish, study_labelled, study_unlabelled

    names = ", ".join(camera.name for camera in cameras)
    wish = Wish(given["fmr"], float(given["absent"]), f"cameras {names}", artefact.mask, given["center"])
    if given["labels"] is None:
        return study_unlabelled(cameras, wish, given["fmr"] or UNLABELLED_FMR)
    people = {key: person for key, (person, _) in read_identities(given["labels"]).items()}
    for note in identity_notes(given["labels"]):
        click.echo(note, err=True)
    return study_labelled(cameras, labels_of_cameras(cameras, people, given["labels"]), wish)


def _model_path(model: Path | None) -> Path:
    from ..backends import STARTER

    return model or STARTER


def _check_output(model: Path | None, out: Path) -> None:
    source = _model_path(model)
    if source.suffix not in (".onnx", ".engine", ".plan"):
        raise UsageError(
            f"{source} is no exported model, so that a threshold cannot be written into it",
            do="export it first: san export, or leave out -o",
        )
    if out.suffix != source.suffix:
        raise UsageError(f"{out} would be a copy of {source.name}", do=f"name it {out.stem}{source.suffix}")
    if out.exists() and out.samefile(source):
        raise UsageError(f"{out} is the model itself", do="name another file")


def write_copy(source: Path, out: Path, artefact: Artefact, force: bool) -> None:
    """A copy of a model file whose description, in it and beside it, is `artefact`'s; the graph keeps its bytes.

    Raises:
        SanError: the file is damaged, or `out` cannot be written.
    """
    import shutil

    from ..artefact import PREFIX, sha256_file, sidecar_path, write_sidecar
    from ..integrity import stamp_onnx, with_metadata
    from ..io.atomic import atomic_pair

    with atomic_pair(out, sidecar_path, force=force) as temporary:
        if source.suffix == ".onnx":
            name = PREFIX + "threshold"
            changed = with_metadata(source.read_bytes(), {name: artefact.metadata_props()[name]})
            temporary.write_bytes(stamp_onnx(changed))
        else:
            shutil.copyfile(source, temporary)
        write_sidecar(replace(artefact, sha256=sha256_file(temporary)), temporary)


def as_text(study: ThresholdStudy) -> str:
    """The study in words."""
    threshold = study.threshold
    sizes = ", ".join(f"{name} {count}" for name, count in study.tracklets.items())
    lines = [
        f"threshold  {threshold.similarity:.4f}  {study.how}",
        f"tracklets  {sizes}" + (f"; {study.people} people" if study.people else ""),
        f"impostors  {threshold.false_match_rate:.2%} of {threshold.impostor_pairs} pairs reach it"
        + _between(study.false_match_interval),
    ]
    if threshold.true_match_rate is not None:
        lines.append(
            f"genuine    {threshold.true_match_rate:.1%} of {threshold.genuine_pairs} pairs reach it"
            + _between(study.true_match_interval)
        )
    else:
        lines.append("genuine    not known without labels")
    for item in study.open_sets:
        best = study.similarity.index(item.best)
        near = min(
            range(len(study.similarity)), key=lambda k: abs(study.similarity[k] - threshold.similarity)
        )
        lines.append(
            f"{item.absent:4.0%} absent  best F1 {item.f1[best]:.1%} at {item.best:.4f}; at this threshold "
            f"F1 {item.f1[near]:.1%}, precision {item.precision[near]:.1%}, recall {item.recall[near]:.1%}"
        )
    return "\n".join(lines)


def _between(interval: Any) -> str:
    return f" (95 % over people: {interval.low:.2%} to {interval.high:.2%})" if interval else ""
