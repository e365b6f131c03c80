"""What a user gives for a camera: a folder in any of the usual layouts, or embeddings of yesterday."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import SanError, UsageError
from ..images import list_crops, spread, track_of
from .cameras import Camera, camera_from_embeddings, check_names

if TYPE_CHECKING:
    from ..backends import Backend
    from ..embed import Embeddings

#: Market-1501's file names: `0002_c1s1_000451_03.jpg`, person, camera, sequence, frame, box.
_MARKET = re.compile(r"(?P<track>-?\d{1,7})_c(?P<camera>\d{1,3})(?P<sequence>s\d+)?(_\d+)*")
#: `t001_0001.jpg`: a tracklet and a frame.
_TRACK_FRAME = re.compile(r"(?P<track>[A-Za-z]*\d+)[_-](?:frame|f)?\d+")
#: Folders of Ultralytics' `crops/`, one for each class of a detector, that are taken for people.
_PEOPLE = ("person", "pedestrian", "people")
#: Others of its folders: seen beside them, they say what layout it is.
_CLASSES = frozenset(
    {"bicycle", "car", "motorcycle", "bus", "train", "truck", "dog", "cat", "backpack", "handbag"}
)
#: A lone tracklet of so many crops, or crops wider than this, are asked about.
MANY_CROPS, FRAME_WIDTH = 50, 800
_LOOKED_AT = 8
#: Cameras of a folder that a message names.
_NAMED = 5

Progress = Callable[[int, str, str], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class Source:
    """One camera as it was given.

    Attributes:
        name: of the camera.
        path: its folder, or an .npz file of `san embed`.
        tracks: path of each crop relative to `path` to its tracklet; empty for embeddings.
        layout: what was understood, in words; empty where there is nothing to say.
        question: what looks wrong, in words; empty for nothing.
    """

    name: str
    path: Path
    tracks: dict[str, str] = field(default_factory=dict)
    layout: str = ""
    question: str = ""

    @property
    def folder(self) -> Path:
        """Where its crops are; for embeddings the folder of that name beside them."""
        return self.path.with_suffix("") if self.path.suffix == ".npz" else self.path


@dataclass(frozen=True)
class Reading:
    """How crops are read and embedded.

    Attributes:
        batch: crops per call of the network.
        workers: threads that decode; None lets `embed_folder` choose.
        strict: stop at the first unreadable crop.
        per_track: crops of a tracklet at most, spread evenly over it; None takes all.
        progress: `san_deploy.io.progress.bar` or the like: called for every camera with its number of crops, its
            name and a unit.
    """

    batch: int = 32
    workers: int | None = None
    strict: bool = False
    progress: Progress | None = None
    per_track: int | None = None


def read_sources(arguments: Sequence[Path | str], pattern: str = "", *, at_least: int = 2) -> list[Source]:
    """Understand what was given for cameras; nothing is decoded.

    Args:
        arguments: folders or .npz files, each as a path or NAME=PATH. Without a name, a camera is called like its
            folder or file.
        pattern: a file name with the field {track}, and {camera} where one folder holds several cameras; empty
            recognises the layout.
        at_least: how many cameras there must be.

    Raises:
        UsageError: too few, one given twice, two of one name, a name with `|` in it, or a bad pattern.
        SanError: a folder is missing or holds no image.
    """
    named = [_split(argument) for argument in arguments]
    for path, count in Counter(path.resolve() for _, path in named).items():
        if count > 1:
            raise UsageError(f"{path} is given {count} times", do="give each camera's folder once")
    if len(named) >= at_least:  # before the folders are read: names alone may be refused
        check_names([name for name, _ in named], at_least)
    sources = []
    for name, path in named:
        if path.suffix == ".npz" and not path.is_dir():
            sources.append(Source(name, path))
        else:
            sources += _folder(name, path, pattern, alone=len(named) == 1)
    if len(sources) == 1 < at_least:
        _refuse_folder_of_cameras(sources[0])
    check_names([source.name for source in sources], at_least)
    return sources


def _refuse_folder_of_cameras(source: Source) -> None:
    """UsageError where the one folder given holds a folder for each camera, and in them the tracklets'."""
    paths = [Path(path) for path in source.tracks or ()]
    inside = sorted({path.parts[0] for path in paths})
    if len(inside) > 1 and all(len(path.parts) > 2 for path in paths):
        raise UsageError(
            "matching needs two cameras or more",
            why=f"{source.path} is one folder, and holds {', '.join(inside[:_NAMED])}",
            do=f"give each: {' '.join(str(source.path / name) for name in inside[:_NAMED])}",
        )


def _split(argument: Path | str) -> tuple[str, Path]:
    text = str(argument)
    name, separator, rest = text.partition("=")
    if separator and name and rest and "/" not in name and not Path(text).exists():
        return name, Path(rest)
    path = Path(argument)
    return (path.stem if path.suffix == ".npz" and not path.is_dir() else path.resolve().name), path


def _folder(name: str, folder: Path, pattern: str, *, alone: bool) -> list[Source]:
    files = [path.as_posix() for path in list_crops(folder)]
    keys, layout = _by_pattern(folder, files, pattern) if pattern else _recognise(files)
    cameras = sorted({camera for camera, _ in keys.values()})
    sources = []
    for camera in cameras:
        tracks = {path: track for path, (owner, track) in keys.items() if owner == camera}
        full = name if len(cameras) == 1 else camera if alone else f"{name}-{camera}"
        counts = Counter(tracks.values())
        note = f"{len(tracks)} crops, {len(counts)} tracklets; {layout}" if layout else ""
        sources.append(Source(full, folder, tracks, note, _question(folder, tracks, counts)))
    return sources


def _by_pattern(folder: Path, files: Sequence[str], text: str) -> tuple[dict[str, tuple[str, str]], str]:
    from ..datasets.pattern import compile_pattern

    pattern = compile_pattern(text, needs=("track", "person"))
    keys = {}
    for path in files:
        labels = pattern.labels(path)
        if labels is not None:
            parts = [labels[name] for name in ("person", "track") if name in labels]
            keys[path] = (f"c{labels['camera']}" if "camera" in labels else "", "_".join(parts))
    if not keys:
        raise SanError(
            f"none of the {len(files)} images in {folder} fits --pattern '{text}'",
            why=f"the first is {files[0]}",
        )
    left = (
        f", {len(files) - len(keys)} images do not fit it and are left out" if len(keys) < len(files) else ""
    )
    return keys, f"read by --pattern{left}"


def _recognise(files: Sequence[str]) -> tuple[dict[str, tuple[str, str]], str]:
    """Camera and tracklet of each file, and what layout that is; the camera is empty where there is one."""
    paths = [Path(file) for file in files]
    people = [path for path in paths if path.parent.name in _PEOPLE]
    folders = {path.parent.name for path in paths}
    if people and folders <= {*_PEOPLE, *_CLASSES}:
        others = f", {len(paths) - len(people)} of other classes left out" if len(people) < len(paths) else ""
        return (
            {path.as_posix(): ("", path.as_posix()) for path in people},
            f"Ultralytics' crops by class{others}; it does not say which are of one track, so each is its own "
            "tracklet: san crops writes tracks",
        )
    if all(path.parent == Path() for path in paths):
        market = [_MARKET.fullmatch(path.stem) for path in paths]
        if all(market):
            found = [match for match in market if match is not None]
            several = len({match["camera"] for match in found}) > 1
            return (
                {
                    path.as_posix(): (
                        f"c{match['camera']}" if several else "",
                        f"{match['track']}_c{match['camera']}{match['sequence'] or ''}",
                    )
                    for path, match in zip(paths, found, strict=True)
                },
                "file names as of Market-1501: a person's crops of one sequence are a tracklet"
                + (", each camera in them is a camera" if several else ""),
            )
        frames = [_TRACK_FRAME.fullmatch(path.stem) for path in paths]
        if all(frames):
            tracks = [match["track"] for match in frames if match is not None]
            if len(set(tracks)) < len(tracks):
                return (
                    {path.as_posix(): ("", track) for path, track in zip(paths, tracks, strict=True)},
                    "file names of tracklet and frame, t001_0001.jpg",
                )
        return {path.as_posix(): ("", track_of(path)) for path in paths}, "loose crops, each its own tracklet"
    return {path.as_posix(): ("", track_of(path)) for path in paths}, ""


def _question(folder: Path, tracks: dict[str, str], counts: Counter[str]) -> str:
    from PIL import Image

    if len(counts) == 1 and len(tracks) > MANY_CROPS:
        return (
            f"{folder} is one tracklet of {len(tracks)} crops, which are averaged into one person; if they are "
            "several people, give one folder per tracklet, or --pattern"
        )
    paths = sorted(tracks)
    for path in paths[:: max(1, len(paths) // _LOOKED_AT)][:_LOOKED_AT]:
        with contextlib.suppress(Exception), Image.open(folder / path) as image:
            width, height = image.size
            if width > height and width >= FRAME_WIDTH:
                return (
                    f"{folder / path} has {width} x {height} pixels: a whole frame, not a person; cut people out "
                    "of videos with san crops"
                )
    return ""


def embed_sources(
    sources: Iterable[Source], backend: Backend | None, reading: Reading
) -> tuple[list[Camera], dict[str, Any]]:
    """Embed cameras, or read them where they were embedded before.

    Args:
        sources: of `read_sources`.
        backend: the opened model; None where all of them were embedded before.
        reading: how to read crops.

    Returns:
        The cameras, and the identity of the model (`Artefact.as_dict()`).

    Raises:
        SanError: unreadable, of another network than the rest, or the model fails.
    """
    from ..embed import read_embeddings

    cameras: list[Camera] = []
    model = backend.artefact.as_dict() if backend else {}
    for source in sources:
        if source.path.suffix == ".npz" and not source.tracks:
            embedded = read_embeddings(source.path)
            model = model or embedded.model
            _check_space(source, embedded.model, model)
        else:
            if backend is None:
                raise SanError(f"{source.path} has to be embedded, and no model is open")
            embedded = embed_source(source, backend, reading)
        camera = camera_from_embeddings(source.name, source.folder, embedded)
        cameras.append(replace(camera, lost_tracks=lost_tracks(source, embedded)))
    return cameras, model


def embed_source(
    source: Source, backend: Backend, reading: Reading, *, allow_empty: bool = False
) -> Embeddings:
    """Embed the crops of one camera; tracklets are the source's.

    Raises:
        SanError: wholly unreadable unless `allow_empty`, or the model fails.
    """
    from ..embed import embed_folder

    crops = chosen_crops(source, reading.per_track)
    progress, total = reading.progress, len(crops)
    with progress(total, source.name, "crop") if progress else contextlib.nullcontext() as advance:
        embedded = embed_folder(
            source.path,
            backend,
            batch=reading.batch,
            workers=reading.workers,
            strict=reading.strict,
            progress=advance,
            crops=crops,
            allow_empty=allow_empty,
        )
    tracks = np.array([source.tracks[path] for path in embedded.path.tolist()], np.str_)
    return replace(embedded, track=tracks)


def lost_tracks(source: Source, embedded: Embeddings) -> list[str]:
    """Tracklets none of whose crops could be read, sorted."""
    lost = {source.tracks.get(item.path, item.path) for item in embedded.unreadable}
    return sorted(lost - set(embedded.track.tolist()))


def as_one(sources: Sequence[Source]) -> Source:
    """The cameras of one folder as one, whose tracklets begin with the name of their camera where there are several."""
    if len(sources) == 1:
        return sources[0]
    first = sources[0]
    tracks = {path: f"{item.name}/{track}" for item in sources for path, track in item.tracks.items()}
    layout = "; ".join(f"{item.name}: {item.layout}" for item in sources)
    question = next((item.question for item in sources if item.question), "")
    return Source(first.path.resolve().name, first.path, dict(sorted(tracks.items())), layout, question)


def chosen_crops(source: Source, per_track: int | None) -> list[Path]:
    """The crops of a camera that are embedded, at most so many of a tracklet, sorted."""
    if per_track is None:
        return [Path(path) for path in source.tracks]
    groups: dict[str, list[str]] = {}
    for path, track in source.tracks.items():
        groups.setdefault(track, []).append(path)
    return sorted(Path(path) for paths in groups.values() for path in spread(paths, per_track))


def _check_space(source: Source, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    if _embedding_space(found) != _embedding_space(wanted):
        raise SanError(
            f"{source.path} was embedded with another network than the rest",
            why=f"{_identity(found)} there, {_identity(wanted)} here",
            do=f"embed it again: san embed {source.folder} -o {source.path} -m MODEL",
        )


def _embedding_space(model: dict[str, Any]) -> tuple[Any, ...]:
    """What two embeddings must have in common to be compared: one network with one mask, in any precision."""
    if model.get("space"):
        return (model["space"],)
    return tuple(model.get(key) for key in ("checkpoint_sha256", "arch", "mask", "embedding_dim"))


def _identity(model: dict[str, Any]) -> str:
    return (
        f"{model.get('arch')}, mask {model.get('mask')}, weights {str(model.get('checkpoint_sha256'))[:12]}"
    )
