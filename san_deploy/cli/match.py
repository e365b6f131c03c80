"""`san match`: people matched across the cameras of a site."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options

if TYPE_CHECKING:
    from ..matching.accuracy import Accuracy
    from ..matching.match import Matching


@click.command(short_help="Match people across cameras, write the report.")
@click.argument(
    "cameras", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="CAM1 CAM2 [CAM3 ...]"
)
@click.option(
    "-o",
    "--output",
    "out",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder to write; must be new.",
)
@options.model
@options.running
@click.option(
    "--threshold",
    type=float,
    help="Cosine similarity from which two tracklets can match. Default: what the model was calibrated to.",
)
@click.option(
    "--top",
    type=click.IntRange(0, 100),
    default=5,
    show_default=True,
    help="Runners-up kept for each tracklet.",
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    help="identities.csv (camera,track,person): judge the matches and mark them right or wrong.",
)
@click.option(
    "--full-similarity", "full", is_flag=True, help="Keep the similarity of every pair in similarity.npz."
)
@options.reading
@click.option("--force", is_flag=True, help="Replace an earlier output folder.")
@options.as_json
def command(
    *,
    cameras: tuple[Path, ...],
    out: Path,
    model: Path | None,
    backend: str,
    device: str,
    threshold: float | None,
    top: int,
    labels: Path | None,
    full: bool,
    batch: int,
    workers: int | None,
    strict: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Match people across cameras.

    Each CAM is the folder of one camera: one sub-folder of crops per tracklet, or loose crops, each its own
    tracklet. OUT gets matches.csv, matches.json, similarity.npz and report.html, which opens in a browser.

    Every pair of cameras is matched on its own, one to one; a tracklet without a partner above the threshold
    is left without a match.
    """
    from ..backends import open_backend
    from ..datasets.crop_folder import read_identities
    from ..io.atomic import atomic_folder
    from ..io.progress import bar
    from ..matching.accuracy import pids_from_labels, score
    from ..matching.match import check_folders, match_folders
    from ..matching.output import OUTPUTS, write_matches
    from ..reports.match_report import write_report

    # Everything that can be refused is refused before the first crop is embedded.
    check_folders(cameras)
    people = {key: person for key, (person, _) in read_identities(labels).items()} if labels else None
    with atomic_folder(out, force=force, ours=OUTPUTS) as folder:
        runtime = open_backend(model, backend=backend, device=device)
        options.say(runtime)
        matching = match_folders(
            cameras,
            runtime,
            threshold=threshold,
            top=top,
            batch=batch,
            workers=workers,
            strict=strict,
            full=full,
            progress=bar,
        )
        track_to_pid = pids_from_labels(matching, people, labels or "") if people else None
        accuracy = score(matching, track_to_pid) if track_to_pid else None
        write_matches(folder, matching, accuracy=accuracy)
        write_report(folder / "report.html", matching, track_to_pid=track_to_pid, accuracy=accuracy)
    report = out / "report.html"
    if as_json:
        click.echo(json.dumps(as_dict(matching, accuracy) | {"report": str(report)}, indent=2))
    else:
        click.echo(as_text(matching, accuracy))
        click.echo(f"report: {report}")
    if matching.unreadable:
        click.echo(f"{matching.unreadable} crops could not be read; matches.json names them.", err=True)
    for camera in matching.cameras:
        for track in camera.lost_tracks:
            click.echo(f"{camera.name}/{track} was left out: none of its crops could be read.", err=True)


def as_text(matching: Matching, accuracy: Accuracy | None) -> str:
    """The summary that is printed, without a newline at its end."""
    width = max(len(pair.camera_a) + len(pair.camera_b) for pair in matching.pairs) + 3
    lines = [f"{'cameras':{width}s} {'tracklets':>13s} {'matched':>8s} {'no match':>13s}"]
    for pair in matching.pairs:
        names = f"{pair.camera_a} - {pair.camera_b}"
        sizes = f"{len(pair.tracks_a)} + {len(pair.tracks_b)}"
        left = f"{len(pair.tracks_a) - pair.matched} + {len(pair.tracks_b) - pair.matched}"
        lines.append(f"{names:{width}s} {sizes:>13s} {pair.matched:8d} {left:>13s}")
    message = f"threshold {matching.threshold:.4f}"
    if matching.calibration:
        message += f", reached by {matching.calibration.false_match_rate:.2%} of impostor pairs"
        message += f" ({matching.calibration.source})"
    else:
        message += ", given by the user"
    lines.append(message)
    lines.append(
        f"{matching.crop_count} crops in {matching.seconds:.1f} s, {matching.crops_per_s:.1f} crops/s, "
        f"{matching.unreadable} unreadable"
    )
    if accuracy:
        lines += accuracy_lines(accuracy)
    return "\n".join(lines)


def accuracy_lines(accuracy: Accuracy) -> list[str]:
    """How well the matches agree with the labels, in words."""
    lines = []
    if accuracy.rank1 is not None:
        lines.append(f"rank-1     {accuracy.rank1:7.1%}  of tracklets, mean over ordered camera pairs")
    if accuracy.precision is not None:
        lines.append(
            f"precision  {accuracy.precision:7.1%}  {accuracy.right} of {accuracy.matched} matches are right"
        )
    if accuracy.recall is not None:
        lines.append(
            f"recall     {accuracy.recall:7.1%}  {accuracy.right} of {accuracy.possible} true pairs found"
        )
    if accuracy.unsure:
        lines.append(
            f"unsure     {accuracy.unsure:7d}  matches, {accuracy.unsure_right} of them right; without them "
            f"precision {accuracy.sure_precision or 0:.1%}, recall {accuracy.sure_recall or 0:.1%}"
        )
    if accuracy.alone:
        fraction = accuracy.alone_unmatched / accuracy.alone
        message = f"{accuracy.alone_unmatched} of {accuracy.alone} that the other camera never saw"
        lines.append(f"left alone {fraction:7.1%}  {message}")
    if accuracy.unlabelled:
        lines.append(f"{accuracy.unlabelled} tracklets have no label and were not judged")
    return lines


def as_dict(matching: Matching, accuracy: Accuracy | None) -> dict[str, Any]:
    """The same summary as plain data."""
    from ..matching.output import summary, threshold_dict

    return {
        "pairs": [summary(pair) for pair in matching.pairs],
        "threshold": threshold_dict(matching),
        "crops": matching.crop_count,
        "seconds": round(matching.seconds, 3),
        "crops_per_s": round(matching.crops_per_s, 1),
        "unreadable": matching.unreadable,
        "accuracy": accuracy.as_dict() if accuracy else None,
    }
