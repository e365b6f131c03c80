"""`san match`: people matched across the cameras of a site."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import SanError, UsageError
from . import options
from . import text as words

if TYPE_CHECKING:
    from ..artefact import Threshold
    from ..gallery import Gallery
    from ..matching.cameras import Camera
    from ..matching.site import Site
    from ..matching.sources import Source
    from ..reports.match_report import Findings


@click.command(short_help="Match people across cameras, write the report.", cls=options.GroupedCommand)
@click.argument("cameras", nargs=-1, required=True, metavar="CAM1 CAM2 [CAM3 ...]")
@click.option(
    "-o",
    "--output",
    "out",
    type=click.Path(path_type=Path),
    help="Folder to write; must be new.  [default: matches, matches-2, ...]",
)
@options.model
@options.running
@options.tracklet_pattern
@click.option(
    "--threshold",
    type=options.Number(-1, 1),
    help="Cosine similarity from which two tracklets can match. Default: what the model was calibrated to.",
)
@click.option("--center", is_flag=True, help="Take each camera's mean off its tracklets first.")
@click.option(
    "--top",
    type=click.IntRange(0, 100),
    default=5,
    show_default=True,
    help="Runners-up kept for each tracklet.",
)
@click.option(
    "--people",
    "method",
    type=click.Choice(("average", "greedy")),
    default="average",
    show_default=True,
    help="How people are made of three cameras and more: average linkage, or the matches, best first.",
)
@click.option(
    "--same-camera",
    type=click.Choice(("apart", "overlap")),
    help="Tracklets of one camera are never one person, or only where they do not overlap in time.  "
    "[default: overlap where every camera has a tracks.csv]",
)
@click.option(
    "--topology",
    type=click.Path(path_type=Path),
    help="site.csv (camera_a,camera_b,overlap,min_s,max_s): forbid what the way between cameras rules out.",
)
@click.option(
    "--clock", multiple=True, metavar="CAM=SECONDS", help="Add to a camera's times; may be repeated."
)
@click.option(
    "--gallery",
    "location",
    metavar="DIR|URL",
    help="Know people again: numbers of san gallery, which gets the new tracklets.  [default: none]",
)
@click.option(
    "--unknown",
    type=options.Number(-1, 1),
    help="With --gallery: less similar than this to everybody known is somebody new.  [default: the threshold]",
)
@options.keep_crops
@click.option("--corrections", type=click.Path(path_type=Path), help="marks.json saved from the report.")
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    help="identities.csv (camera,track,person): judge the matches and mark them right or wrong.",
)
@click.option(
    "--full-similarity", "full", is_flag=True, help="Keep the similarity of every pair in similarity.npz."
)
@options.per_track
@options.reading
@click.option("--force", is_flag=True, help="Replace an earlier output folder.")
@options.as_json
def command(cameras: tuple[str, ...], out: Path | None, force: bool, as_json: bool, **given: Any) -> None:
    """Match people across cameras.

    Each CAM is the folder of one camera, as PATH or NAME=PATH: one sub-folder of crops per tracklet, loose crops, or
    another of the usual layouts, which one line names. A CAM.npz of san embed is not embedded again. OUT gets
    matches.csv, identities.csv, matches.json, similarity.npz and report.html, which opens in a browser.

    Every pair of cameras is matched on its own, one to one; a tracklet without a partner above the threshold
    is left without a match. identities.csv gives each tracklet the person that it is, over all cameras. With --gallery
    one camera is enough, and whoever is known there keeps the number.
    """
    from ..gallery.recognise import record
    from ..io.atomic import atomic_folder
    from ..io.progress import bar
    from ..matching.output import OUTPUTS, write_matches
    from ..reports.match_report import write_report
    from .match_text import as_dict, as_text, people_text

    # Everything that can be refused is refused before the first crop is embedded.
    task = _task(cameras, given)
    out = out or free_folder(Path("matches"))
    with atomic_folder(out, force=force, ours=OUTPUTS) as folder:
        seen = _embed(task, given)
        with _gallery(task, given, seen.model) as gallery:
            findings, there = _find(task, given, seen, gallery)
            matching, people = findings.matching, findings.people
            accuracy, judged = findings.accuracy, findings.people_accuracy
            write_matches(folder, matching, people=people, accuracy=accuracy, people_accuracy=judged)
            write_report(folder / "report.html", findings, progress=bar)
            if gallery is not None:
                record(gallery, seen.cameras, people, there, given["keep_crops"])
    report = out / "report.html"
    if as_json:
        told = as_dict(matching, accuracy, people, judged) | {"report": str(report)}
        click.echo(json.dumps(told, indent=2))
    else:
        click.echo(as_text(matching, accuracy, seen.calibration))
        click.echo(people_text(matching, people, judged))
        if line := _suggested_threshold(findings, given["labels"], given["center"]):
            click.echo(line)
        click.echo(f"report: {report}")
    if matching.unreadable:
        click.echo(f"{matching.unreadable} crops could not be read; matches.json names them.", err=True)
    _warn(matching.cameras, task.site, given["center"])


@dataclass(frozen=True)
class Task:
    """What is to be matched, as it was understood; nothing has been decoded.

    Attributes:
        sources: the cameras.
        site: times, places and marks.
        clocks: seconds to add to a camera's times.
        pids: labels, `{(camera, track): person}`; None where none were given.
        gallery: where people are known from; None for nowhere.
    """

    sources: Sequence[Source]
    site: Site
    clocks: dict[str, float]
    pids: dict[tuple[str, str], int] | None
    gallery: str | None


@dataclass(frozen=True)
class Seen:
    """Embedded cameras, with their times.

    Attributes:
        cameras: not centred.
        model: description of what embedded them.
        runtime: what runs it, in words.
        calibration: the model's threshold, if it brings one.
    """

    cameras: Sequence[Camera]
    model: dict[str, Any]
    runtime: str
    calibration: Threshold | None


def _task(cameras: Sequence[str], given: dict[str, Any]) -> Task:
    from ..datasets.crop_folder import identity_notes, read_identities
    from ..matching.site import Marks, Site, check_passages, parse_clocks, read_marks, read_topology
    from ..matching.sources import read_sources

    location = given["location"]
    _check_options(given)
    sources = read_sources(cameras, given["pattern"], at_least=1 if location else 2)
    if location:
        from .gallery import refuse_pictures

        refuse_pictures(sources, given["keep_crops"])
    names = [source.name for source in sources]
    labels, topology, corrections = given["labels"], given["topology"], given["corrections"]
    pids = {key: person for key, (person, _) in read_identities(labels).items()} if labels else None
    for note in identity_notes(labels) if labels else ():
        click.echo(note, err=True)
    passages = read_topology(topology) if topology else {}
    if not location:  # its cameras may be meant
        check_passages(passages, names, topology or Path())
    marks = read_marks(corrections) if corrections else Marks()
    site = Site(passages, marks, given["same_camera"] or "")
    return Task(sources, site, parse_clocks(given["clock"], names), pids, location)


def _check_options(given: dict[str, Any]) -> None:
    if given["location"] is None:
        for name in ("unknown", "keep_crops"):
            if given[name]:
                raise UsageError(f"--{name.replace('_', '-')} belongs to --gallery", do="give both")
    elif given["center"]:
        raise UsageError(
            "--center takes a camera's mean off, and a gallery keeps tracklets as they are",
            do="leave one of them out",
        )


def _embed(task: Task, given: dict[str, Any]) -> Seen:
    """Embed the cameras, after everything that can be refused was."""
    from ..io.progress import bar
    from ..matching.match import resolve_threshold
    from ..matching.site import with_times
    from ..matching.sources import Reading, embed_sources
    from .cameras import describe, open_for

    runtime = open_for(task.sources, given)
    for source in task.sources:
        describe(source)
    if runtime:
        resolve_threshold(given["threshold"], runtime.artefact.threshold, center=given["center"])
        if task.gallery:
            _check_gallery(task, runtime.artefact.as_dict())
    reading = Reading(given["batch"], given["workers"], given["strict"], bar, given["per_track"])
    cameras, model = embed_sources(task.sources, runtime, reading)
    calibration = runtime.artefact.threshold if runtime else _calibration(model)
    cameras = [with_times(camera, task.clocks.get(camera.name)) for camera in cameras]
    return Seen(cameras, model, runtime.name if runtime else "embedded before", calibration)


def _check_gallery(task: Task, model: dict[str, Any]) -> None:
    """Refuse a gallery of another space, or that cannot be opened, and tracklets without times of day."""
    from ..gallery import is_url, open_gallery
    from ..gallery.cameras import refuse_video_seconds
    from ..gallery.tracks import refuse_other_space

    assert task.gallery is not None
    for source in task.sources:
        if source.name not in task.clocks:
            refuse_video_seconds(source.folder)
    path = Path(task.gallery)
    if is_url(task.gallery) or (path.exists() and not (path.is_dir() and not any(path.iterdir()))):
        gallery = open_gallery(task.gallery, create=model if is_url(task.gallery) else None)
        try:
            info = gallery.info()
            refuse_other_space(info.location, info.space, model)
        finally:
            gallery.close()


@contextmanager
def _gallery(task: Task, given: dict[str, Any], model: dict[str, Any]) -> Iterator[Gallery | None]:
    """The gallery in a transaction: killed or refused on the way, nothing of it has changed."""
    if task.gallery is None:
        yield None
        return
    from ..gallery import open_gallery

    gallery = open_gallery(task.gallery, write=True, create=model)
    try:
        with gallery.transaction():
            yield gallery
    finally:
        gallery.close()


def _find(
    task: Task, given: dict[str, Any], seen: Seen, gallery: Gallery | None
) -> tuple[Findings, Sequence[Any]]:
    """Match and make people; with them what the gallery had of each camera."""
    from ..gallery.recognise import Recognition, gallery_cameras, recognise
    from ..matching.accuracy import pids_from_labels, score
    from ..matching.cameras import centred
    from ..matching.identities import find_people
    from ..matching.identity_accuracy import score_people
    from ..matching.match import match_cameras, resolve_threshold
    from ..matching.site import check_marks
    from ..reports.match_report import Findings

    value, used = resolve_threshold(given["threshold"], seen.calibration, center=given["center"])
    others = gallery_cameras(gallery) if gallery and given["corrections"] else []
    check_marks(task.site.marks, [*seen.cameras, *others], given["corrections"] or Path())
    matching = match_cameras(
        [centred(camera) for camera in seen.cameras] if given["center"] else seen.cameras,
        threshold=value,
        calibration=used,
        top=given["top"],
        model=seen.model,
        parameters=_parameters(given, seen, task) | {"gallery": gallery.info().location if gallery else None},
        rules=task.site.rule,
        full=given["full"],
        at_least=1 if gallery else 2,
    )
    found: Recognition | None = None
    if gallery:
        unknown = value if given["unknown"] is None else given["unknown"]
        found = recognise(gallery, seen.cameras, task.site, threshold=value, unknown=unknown)
    people = find_people(matching, task.site, given["method"], found.known if found else None)
    there = found.there if found else ()
    if not task.pids:
        return Findings(matching, people), there
    labels = pids_from_labels(matching, task.pids, given["labels"])
    judged = score_people(matching, people, labels)
    return Findings(matching, people, labels, score(matching, labels), judged), there


def _parameters(given: dict[str, Any], seen: Seen, task: Task) -> dict[str, Any]:
    """How it was run, for matches.json."""
    names = ("batch", "top", "strict", "per_track", "center", "unknown")
    files = ("topology", "corrections")
    return (
        {name: given[name] for name in names}
        | {name: str(given[name]) if given[name] else None for name in files}
        | {"backend": seen.runtime, "clock": task.clocks}
    )


def _suggested_threshold(findings: Findings, labels: Path | None, center: bool) -> str:
    """The threshold that the labelled people give, and the command that writes it; empty where they say nothing."""
    if not findings.track_to_pid:
        return ""
    cameras = findings.matching.cameras
    from ..matching.threshold_study import Wish, study_labelled

    if sum(len(camera.tracks) for camera in cameras) > SUGGEST_UP_TO:
        return f"threshold: san threshold CAM... --labels {labels} says which these people would give"
    try:
        study = study_labelled(cameras, findings.track_to_pid, Wish(None, 0.3, "", "", center))
    except SanError:
        return ""  # too few people
    extra = " --center" if center else ""
    return (
        f"these people would give the threshold {study.threshold.similarity:.4f} (best F1 where 30 % are absent): "
        f"san threshold CAM... --labels {labels}{extra} -o MODEL.onnx"
    )


def free_folder(path: Path) -> Path:
    """`path`, or the first of `path-2`, `path-3`, ... that is not there."""
    candidates = (
        path if number == 1 else path.with_name(f"{path.name}-{number}") for number in itertools.count(1)
    )
    return next(candidate for candidate in candidates if not candidate.exists())


def _calibration(model: dict[str, Any]) -> Any:
    """The threshold in the model's description that embeddings keep."""
    from ..artefact import Threshold
    from ..io.typed_json import read_record

    try:
        return None if model.get("threshold") is None else read_record(Threshold, model["threshold"])
    except ValueError as error:
        raise SanError(
            "the embeddings' threshold cannot be read", why=str(error), do="embed again"
        ) from error


def _warn(cameras: Sequence[Camera], site: Site, center: bool) -> None:
    for camera in cameras:
        for track in camera.lost_tracks:
            click.echo(f"{camera.name}/{track} was left out: none of its crops could be read.", err=True)
        if blank := words.blank(camera.blank):
            click.echo(f"{camera.name}: {blank}", err=True)
        if center and len(camera.tracks) < FEW_TRACKLETS:
            click.echo(
                f"{camera.name} has {len(camera.tracks)} tracklets: --center takes the people's own mean off it.",
                err=True,
            )
    if site.mode(cameras) == "overlap" and any(camera.start is None for camera in cameras):
        click.echo("Cameras without a tracks.csv keep their tracklets apart.", err=True)


#: Tracklets for which a threshold is studied on the way.
SUGGEST_UP_TO = 600
#: Cameras with fewer tracklets lose by --center.
FEW_TRACKLETS = 10
