"""`san demo`: the whole way on the sample crops, whose identities are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import options

if TYPE_CHECKING:
    from ..backends import Backend
    from ..matching.accuracy import Accuracy
    from ..matching.identities import Identities
    from ..matching.identity_accuracy import IdentityAccuracy
    from ..matching.match import Matching

#: Written last; a folder without it was not made by `san demo` and is never replaced.
MARK = "demo.json"


@click.command(
    short_help="Match three cameras of sample crops, write the report.", cls=options.GroupedCommand
)
@click.option(
    "-o",
    "--output",
    "out",
    type=click.Path(path_type=Path),
    default=Path("demo"),
    show_default=True,
    help="Folder to write; must be new.",
)
@options.removed(
    "--people",
    "--cameras",
    "--distractors",
    "--seed",
    do="leave it out: the demo matches the sample crops of the package. For crops of your own: san match cam1 cam2",
)
@options.model
@options.running
@click.option("--threshold", type=options.Number(-1, 1), help="Default: what the model was calibrated to.")
@click.option("--force", is_flag=True, help="Replace the folder of an earlier demo.")
def command(
    *,
    out: Path,
    model: Path | None,
    backend: str,
    device: str,
    threshold: float | None,
    force: bool,
) -> None:
    """Match three cameras of drawn pedestrians and compare with their known identities.

    OUT gets the sample crops (cameras/) and what `san match` writes; report.html opens in a browser.
    """
    from ..backends import open_backend
    from ..errors import SanError
    from ..io.atomic import atomic_folder
    from ..matching.match import resolve_threshold
    from ..matching.output import OUTPUTS
    from .match_text import as_text, people_text

    if out.is_dir() and any(out.iterdir()) and not (out / MARK).is_file():
        raise SanError(f"{out} was not made by san demo", do="name another folder: san demo -o OUT")
    with atomic_folder(out, force=force, ours=("cameras", MARK, *OUTPUTS)) as folder:
        runtime = open_backend(model, backend=backend, device=device)
        resolve_threshold(threshold, runtime.artefact.threshold)  # refused before anything is written
        options.say(runtime)
        matching, accuracy, people, judged = run(
            folder,
            runtime,
            threshold=threshold,
        )
        text = json.dumps({"made_by": "san demo", "accuracy": accuracy.as_dict()}, indent=2)
        (folder / MARK).write_text(text + "\n", encoding="utf-8")
    click.echo(as_text(matching, accuracy))
    click.echo(people_text(matching, people, judged))
    click.echo(f"report: {out / 'report.html'}")
    click.echo("next: san match CAM1 CAM2 -o matches, with a folder for each camera of yours")


def run(
    folder: Path, backend: Backend, *, threshold: float | None = None
) -> tuple[Matching, Accuracy, Identities, IdentityAccuracy | None]:
    """Unpack the sample crops into `folder`/cameras, match, write the outputs of `san match` into `folder`."""
    from ..data.samples import extract_samples
    from ..datasets.crop_folder import IDENTITIES, read_identities
    from ..io.progress import bar
    from ..matching.accuracy import pids_from_labels, score
    from ..matching.identities import find_people
    from ..matching.identity_accuracy import score_people
    from ..matching.match import match_folders
    from ..matching.output import write_matches
    from ..matching.sources import Reading
    from ..reports.match_report import Findings, write_report

    root = folder / "cameras"
    root.mkdir()
    extract_samples(root)
    labels = {key: person for key, (person, _) in read_identities(root / IDENTITIES).items()}
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    matching = match_folders(folders, backend, threshold=threshold, reading=Reading(progress=bar))
    track_to_pid = pids_from_labels(matching, labels, root / IDENTITIES)
    accuracy = score(matching, track_to_pid)
    people = find_people(matching)
    # The folder has a temporary name while it is written; what is written down is where it will be.
    shown = {camera.name: f"cameras/{camera.name}" for camera in matching.cameras}
    judged = score_people(matching, people, track_to_pid)
    write_matches(folder, matching, people=people, accuracy=accuracy, people_accuracy=judged, shown=shown)
    title = f"{len(set(labels.values()))} drawn people, {len(folders)} cameras"
    findings = Findings(matching, people, track_to_pid, accuracy, judged)
    write_report(folder / "report.html", findings, title=title, progress=bar)
    return matching, accuracy, people, judged
