"""`san gallery`: tracklets that are kept to be found again."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options

if TYPE_CHECKING:
    from ..gallery import GalleryInfo

_GALLERY = click.option(
    "--gallery",
    "location",
    metavar="DIR|URL",
    required=True,
    help="A folder, or postgresql://USER@HOST/DATABASE.",
)


@click.group("gallery")
def command() -> None:
    """Keep tracklets, to search for people and to know them again another day."""


@command.command("add", cls=options.GroupedCommand)
@click.argument("cameras", nargs=-1, required=True, metavar="CAM|NAME=CAM...")
@_GALLERY
@click.option(
    "--identities",
    type=click.Path(path_type=Path),
    help="identities.csv of san match: whose tracklets they are. Its numbers become the gallery's.",
)
@click.option(
    "--keep-crops",
    type=click.IntRange(0, 100),
    default=0,
    show_default=True,
    help="Small pictures of a tracklet that are kept.",
)
@options.model
@options.running
@options.reading
@options.as_json
def add(*, cameras: tuple[str, ...], location: str, as_json: bool, **given: Any) -> None:
    """Add cameras: folders of crops, or .npz files of san embed. The gallery is made where there is none.

    When a tracklet was seen stands in tracks.csv beside the crops, as san crops --start writes it.
    """
    from ..errors import UsageError
    from ..gallery import open_gallery
    from ..gallery.cameras import kept_pictures, read_camera, read_people, split_name

    named = [split_name(item) for item in cameras]
    if len({name for name, _ in named}) < len(named):
        raise UsageError("two cameras have one name", do="give NAME=CAM")
    if given["keep_crops"] and any(path.suffix == ".npz" for _, path in named):
        raise UsageError("--keep-crops needs the crops", do="give their folders, not .npz files")
    embed = _Embedding(given, quiet=as_json)
    read = [read_camera(name, path, embed) for name, path in named]
    for item in read[1:]:
        embed.refuse_other(read[0].model, item.model, item.tracks.camera)
    people: list[Any] = [None] * len(read)
    if given["identities"] is not None:
        people = list(read_people(given["identities"], [item.tracks for item in read]))
    gallery = open_gallery(location, write=True, create=read[0].model)
    try:
        added = {}
        for item, persons in zip(read, people, strict=True):
            pictures = kept_pictures(item.files, given["keep_crops"]) if given["keep_crops"] else None
            added[item.tracks.camera] = gallery.add(item.tracks, persons, pictures)
        info = gallery.info()
    finally:
        gallery.close()
    if as_json:
        click.echo(json.dumps({"added": added, **_as_dict(info)}, indent=2, sort_keys=True))
    else:
        listed = ", ".join(f"{count} of {camera}" for camera, count in added.items())
        click.echo(
            f"Added {listed} to {info.location}: {info.tracks} tracklets of {len(info.cameras)} cameras"
        )


@command.command("delete", cls=options.GroupedCommand)
@_GALLERY
@click.option("--camera", required=True, help="Of which camera.")
@click.option("--track", help="Which tracklet.  [default: all of the camera]")
@options.as_json
def delete(*, location: str, camera: str, track: str | None, as_json: bool) -> None:
    """Delete a tracklet, or a whole camera. `san gallery compact` then takes the vectors out of the files."""
    _change(location, lambda gallery: gallery.delete(camera, track), "Deleted", as_json)


@command.command("expire", cls=options.GroupedCommand)
@_GALLERY
@click.option("--older-than", "age", metavar="30d|12h", required=True, help="Days, hours or minutes.")
@options.as_json
def expire(*, location: str, age: str, as_json: bool) -> None:
    """Delete what was last seen longer ago than that; where no time is known, what was added longer ago."""
    import time

    from ..errors import UsageError

    match = re.fullmatch(r"(\d+(?:\.\d+)?)([dhm])", age)
    if match is None:
        raise UsageError(f"--older-than {age} is no age", do="give a number and d, h or m: 30d")
    seconds = float(match[1]) * {"d": 86400, "h": 3600, "m": 60}[match[2]]
    _change(location, lambda gallery: gallery.expire(time.time() - seconds), "Expired", as_json)


@command.command("compact", cls=options.GroupedCommand)
@_GALLERY
@click.option(
    "--index", type=click.Choice(["hnsw", "none"]), help="PostgreSQL: search approximately, or exactly."
)
@options.as_json
def compact(*, location: str, index: str | None, as_json: bool) -> None:
    """Take deleted vectors out of the files for good."""
    from ..errors import UsageError
    from ..gallery import is_url

    if index is not None and not is_url(location):
        raise UsageError("--index is for PostgreSQL; a folder is searched exactly")

    def work(gallery: Any) -> int:
        removed: int = gallery.compact()
        if index is not None:
            gallery.index(index)
        return removed

    _change(location, work, "Removed", as_json)


@command.command("info", cls=options.GroupedCommand)
@_GALLERY
@click.option("--events", is_flag=True, help="Its audit too: what was done, and when.")
@options.as_json
def info(*, location: str, events: bool, as_json: bool) -> None:
    """Say what a gallery holds."""
    import datetime

    from ..gallery import open_gallery
    from .text import columns, megabytes

    gallery = open_gallery(location)
    try:
        found, audit = gallery.info(), gallery.events() if events else []
    finally:
        gallery.close()
    if as_json:
        told = [{"when": item.when, "what": item.what, "detail": dict(item.detail)} for item in audit]
        click.echo(
            json.dumps(_as_dict(found) | ({"events": told} if events else {}), indent=2, sort_keys=True)
        )
        return
    rows = [
        ("gallery", f"{found.location}, {found.store}, {megabytes(found.bytes)}"),
        ("network", f"{found.model.get('arch', '?')}, {found.dim} numbers, space {found.space[:12]}"),
        (
            "holds",
            f"{found.tracks} tracklets, {found.people} people; {found.deleted} deleted and not compacted",
        ),
        *(("camera", f"{camera}: {count}") for camera, count in found.cameras.items()),
    ]
    for item in audit:
        when = datetime.datetime.fromtimestamp(item.when, datetime.timezone.utc).isoformat(timespec="seconds")
        rows.append((item.what, f"{when} {json.dumps(dict(item.detail), sort_keys=True)}"))
    click.echo(columns(rows))


@command.command("export", cls=options.GroupedCommand)
@_GALLERY
@click.option(
    "-o", "--output", metavar="DIR", type=click.Path(path_type=Path), required=True, help="To write."
)
@click.option("--force", is_flag=True, help="Replace an earlier export.")
def export(*, location: str, output: Path, force: bool) -> None:
    """Write everything as CAMERA.npz, as san embed does, with tracks.csv."""
    from ..gallery import open_gallery
    from ..gallery.export import write_export

    gallery = open_gallery(location)
    try:
        count = write_export(gallery, output, force=force)
    finally:
        gallery.close()
    click.echo(f"Wrote {count} cameras to {output}")


class _Embedding:
    """Opens the model when the first folder comes; cameras of .npz files need none."""

    def __init__(self, given: dict[str, Any], *, quiet: bool) -> None:
        self._given = given
        self._quiet = quiet
        self._backend: Any = None

    def __call__(self, folder: Path) -> Any:
        from ..backends import open_backend
        from ..embed import embed_folder
        from ..images import list_crops
        from ..io.progress import bar

        given = self._given
        total = sum(1 for _ in list_crops(folder))
        if self._backend is None:
            self._backend = open_backend(given["model"], backend=given["backend"], device=given["device"])
            options.say(self._backend)
        with bar(total, folder.name, "crop", quiet=self._quiet) as advance:
            return embed_folder(
                folder,
                self._backend,
                batch=given["batch"],
                workers=given["workers"],
                strict=given["strict"],
                progress=advance,
            )

    @staticmethod
    def refuse_other(first: Any, other: Any, camera: str) -> None:
        """Cameras of one call come from one network."""
        from ..gallery.tracks import refuse_other_space, space_of_model

        refuse_other_space(f"the cameras before {camera}", space_of_model(first), other)


def _change(location: str, work: Any, said: str, as_json: bool) -> None:
    from ..gallery import open_gallery

    gallery = open_gallery(location, write=True)
    try:
        count = work(gallery)
        found = gallery.info()
    finally:
        gallery.close()
    if as_json:
        click.echo(json.dumps({said.lower(): count, **_as_dict(found)}, indent=2, sort_keys=True))
    else:
        left = f"; {found.deleted} to compact" if found.deleted else ""
        click.echo(f"{said} {count} tracklets; {found.tracks} are left{left}")


def _as_dict(info: GalleryInfo) -> dict[str, Any]:
    return vars(info) | {"model": dict(info.model), "cameras": dict(info.cameras)}
