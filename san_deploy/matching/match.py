"""From embedded cameras to matched tracklets: similarity, and assignment with "no match" as an answer.

Every unordered pair of cameras is matched on its own. With three cameras a-b, b-c and a-c may therefore
disagree; nothing is made consistent behind the user's back.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import metrics
from ..errors import SanError, UsageError
from ..images import list_crops, track_of
from .assignment import assign, rank

if TYPE_CHECKING:
    from ..artefact import Threshold
    from ..backends import Backend
    from ..embed import Embeddings, Unreadable


@dataclass(frozen=True)
class Camera:
    """One embedded camera.

    Attributes:
        name: base name of its folder.
        folder: where its crops lie, to read them.
        tracks: `(T,)` unicode, names in sorted order.
        embedding: `(T, D)` float32 unit rows, one per tracklet.
        crops: for every tracklet, its crops' paths relative to `folder`, sorted.
        unreadable: crops that gave no embedding, and why.
        seconds: wall time of embedding it.
    """

    name: str
    folder: Path
    tracks: np.ndarray
    embedding: np.ndarray
    crops: tuple[tuple[str, ...], ...]
    unreadable: tuple[Unreadable, ...] = ()
    seconds: float = 0.0

    @property
    def crop_count(self) -> int:
        """Crops that were embedded."""
        return sum(map(len, self.crops))

    @property
    def lost_tracks(self) -> list[str]:
        """Tracklets that are not in `tracks` since none of their crops is readable, sorted."""
        return sorted({track_of(Path(item.path)) for item in self.unreadable} - set(self.tracks.tolist()))


@dataclass(frozen=True)
class Candidate:
    """A tracklet of the other camera and its cosine similarity."""

    track: str
    similarity: float


@dataclass(frozen=True)
class MatchRow:
    """One line of matches.csv: a matched pair, or a tracklet without a match beside its best candidate.

    `track_a` is always the tracklet that the row is about. So an unmatched tracklet of the second camera
    has the second camera as `camera_a`, and no `track_a` comes twice with the same two cameras in this order.

    Attributes:
        camera_a, track_a: the tracklet.
        camera_b, track_b: its match; or its most similar tracklet of the other camera, where it has none.
        similarity: cosine of the two, -1..1.
        matched: whether they are a match.
        runners_up_a: for `track_a`, the next tracklets of `camera_b`, best first, without `track_b`.
        runners_up_b: likewise for `track_b` in `camera_a`; empty where there is no match.
    """

    camera_a: str
    track_a: str
    camera_b: str
    track_b: str
    similarity: float
    matched: bool
    runners_up_a: tuple[Candidate, ...] = ()
    runners_up_b: tuple[Candidate, ...] = ()


@dataclass(frozen=True)
class PairMatching:
    """Two cameras, matched.

    Attributes:
        camera_a, camera_b: names, in the order the user gave them.
        tracks_a, tracks_b: `(A,)` and `(B,)` unicode, the tracklets of either, sorted.
        similarity: `(A, B)` float32, cosine.
        match_of_a: `(A,)` int64, the tracklet of camera_b matched to every one of camera_a, -1 for no match.
    """

    camera_a: str
    camera_b: str
    tracks_a: np.ndarray
    tracks_b: np.ndarray
    similarity: np.ndarray
    match_of_a: np.ndarray

    @property
    def key(self) -> str:
        """`cam1|cam2`, its name in similarity.npz."""
        return f"{self.camera_a}|{self.camera_b}"

    @property
    def matched(self) -> int:
        """Number of matched pairs."""
        return int((self.match_of_a >= 0).sum())

    @property
    def match_of_b(self) -> np.ndarray:
        """`(B,)` int64, the tracklet of camera_a matched to every one of camera_b, -1 for no match."""
        result = np.full(len(self.tracks_b), -1, np.int64)
        rows = np.flatnonzero(self.match_of_a >= 0)
        result[self.match_of_a[rows]] = rows
        return result


@dataclass(frozen=True)
class Matching:
    """Everything that one run of `san match` found.

    Attributes:
        cameras: in the order given.
        pairs: every unordered pair of them, in that order.
        threshold: the similarity that was used, -1..1.
        calibration: where the threshold comes from; None where the user gave it.
        top: runners-up kept for each tracklet.
        model: the model's identity (`Embeddings.model`).
        parameters: how it was run, for matches.json.
    """

    cameras: tuple[Camera, ...]
    pairs: tuple[PairMatching, ...]
    threshold: float
    calibration: Threshold | None
    top: int
    model: dict[str, Any]
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Wall time of embedding all cameras."""
        return sum(camera.seconds for camera in self.cameras)

    @property
    def crop_count(self) -> int:
        """Crops that were embedded, all cameras together."""
        return sum(camera.crop_count for camera in self.cameras)

    @property
    def crops_per_s(self) -> float:
        """Crops embedded per second, decoding included; 0 where no time was measured."""
        return self.crop_count / self.seconds if self.seconds > 0 else 0.0

    @property
    def unreadable(self) -> int:
        """Crops that could not be read, all cameras together."""
        return sum(len(camera.unreadable) for camera in self.cameras)


def match_pair(a: Camera, b: Camera, threshold: float) -> PairMatching:
    """Similarities and assignment of two cameras; the answer is the same whichever is given first."""
    # The product and the assignment are made in the order of the names: rounding and ties do not
    # depend on the order of the arguments.
    first, second = sorted((a, b), key=lambda camera: camera.name)
    similarity = first.embedding.astype(np.float32) @ second.embedding.astype(np.float32).T  # (first, second)
    columns = assign(similarity, threshold)
    pair = PairMatching(first.name, second.name, first.tracks, second.tracks, similarity, columns)
    if first is a:
        return pair
    return PairMatching(
        a.name, b.name, a.tracks, b.tracks, np.ascontiguousarray(similarity.T), pair.match_of_b
    )


def match_cameras(
    cameras: Sequence[Camera],
    *,
    threshold: float,
    calibration: Threshold | None = None,
    top: int = 5,
    model: dict[str, Any] | None = None,
    parameters: dict[str, Any] | None = None,
) -> Matching:
    """Match every unordered pair of cameras on its own.

    Args:
        cameras: at least two, with different names.
        threshold: similarity below which nothing matches.
        calibration: what the threshold stands for, where that is known.
        top: runners-up to keep for each tracklet.
        model: the model's identity, to be written down.
        parameters: how it was run, to be written down.

    Raises:
        UsageError: fewer than two cameras, or two of the same name.
    """
    check_names([camera.name for camera in cameras])
    pairs = tuple(match_pair(a, b, threshold) for a, b in itertools.combinations(cameras, 2))
    return Matching(tuple(cameras), pairs, float(threshold), calibration, top, model or {}, parameters or {})


def iter_rows(pair: PairMatching, top: int) -> Iterator[MatchRow]:
    """The rows of one camera pair: first every tracklet of camera_a, then the unmatched ones of camera_b.

    Args:
        pair: two matched cameras.
        top: runners-up of each tracklet, at most.
    """
    names_a, names_b = pair.tracks_a.tolist(), pair.tracks_b.tolist()
    match_of_b = pair.match_of_b
    # One more than `top`: the match itself is taken out of the list.
    best_of_a, best_of_b = rank(pair.similarity, top + 1), rank(pair.similarity.T, top + 1)

    def candidates(
        order: np.ndarray, values: np.ndarray, names: list[str], without: int
    ) -> tuple[Candidate, ...]:
        kept = [int(index) for index in order if index != without][:top]
        return tuple(Candidate(names[index], float(values[index])) for index in kept)

    for i, name in enumerate(names_a):
        matched = pair.match_of_a[i] >= 0
        j = int(pair.match_of_a[i]) if matched else int(best_of_a[i, 0])
        yield MatchRow(
            pair.camera_a,
            name,
            pair.camera_b,
            names_b[j],
            float(pair.similarity[i, j]),
            bool(matched),
            candidates(best_of_a[i], pair.similarity[i], names_b, j),
            candidates(best_of_b[j], pair.similarity[:, j], names_a, i) if matched else (),
        )
    for j in np.flatnonzero(match_of_b < 0).tolist():
        i = int(best_of_b[j, 0])
        others = candidates(best_of_b[j], pair.similarity[:, j], names_a, i)
        similarity = float(pair.similarity[i, j])
        yield MatchRow(pair.camera_b, names_b[j], pair.camera_a, names_a[i], similarity, False, others)


def check_folders(folders: Sequence[Path]) -> list[str]:
    """Names of the cameras, the base names of their folders.

    Raises:
        UsageError: fewer than two folders, one given twice, two of one name, or a name with `|` in it.
        SanError: a folder is missing or holds no image.
    """
    real = [Path(folder).resolve() for folder in folders]
    for path, count in Counter(real).items():
        if count > 1:
            raise UsageError(f"{path} is given {count} times", do="give each camera's folder once")
    check_names([path.name for path in real])
    for folder in folders:
        next(list_crops(Path(folder)))
    return [path.name for path in real]


def check_names(names: Sequence[str]) -> None:
    """Refuse camera names that could not be told apart in the output; UsageError."""
    if len(names) < 2:
        raise UsageError("matching needs two cameras or more", do="give one folder for each camera")
    for name, count in Counter(names).items():
        if count > 1:
            raise UsageError(
                f"{count} folders are called {name}",
                why="a camera is named by its folder",
                do="rename one, or link to it under another name",
            )
        if "|" in name:
            raise UsageError(
                f"the camera name {name!r} holds '|', which separates cameras in the output",
                do="rename the folder",
            )


def camera_from_embeddings(name: str, folder: Path, embeddings: Embeddings) -> Camera:
    """Pool one camera's crops into tracklets.

    Raises:
        SanError: no crop was readable, or a tracklet's embeddings cancel out.
    """
    if not len(embeddings.track):
        raise SanError(f"{folder} holds no readable crop", do="check the files, or leave the camera out")
    pooled, tracks = metrics.pool_tracklets(embeddings.embedding, embeddings.track)
    crops: dict[str, list[str]] = {track: [] for track in tracks.tolist()}
    for path, track in zip(embeddings.path.tolist(), embeddings.track.tolist(), strict=True):
        crops[track].append(path)
    return Camera(
        name,
        Path(folder),
        tracks,
        pooled,
        tuple(tuple(sorted(paths)) for paths in crops.values()),
        tuple(embeddings.unreadable),
        embeddings.seconds,
    )


def resolve_threshold(given: float | None, calibration: Threshold | None) -> tuple[float, Threshold | None]:
    """The threshold to use, and what it stands for where that is known.

    Raises:
        UsageError: none was given and the model brings none, or the given one is no cosine.
    """
    if given is not None:
        if not -1.0 <= given <= 1.0:  # also refuses NaN
            raise UsageError(f"--threshold {given} is no cosine similarity", do="give a number from -1 to 1")
        return float(given), None
    if calibration is None:
        raise UsageError("the model brings no calibrated threshold", do="give one: --threshold 0.5")
    return calibration.similarity, calibration


def match_folders(
    folders: Sequence[Path],
    backend: Backend,
    *,
    threshold: float | None = None,
    top: int = 5,
    batch: int = 32,
    workers: int | None = None,
    strict: bool = False,
    progress: Callable[[int, str, str], AbstractContextManager[Callable[[int], None]]] | None = None,
) -> Matching:
    """Embed the crops of every camera and match each pair: `san match` without its output.

    Args:
        folders: one per camera, each with one folder per tracklet or with loose crops.
        backend: the opened model.
        threshold: None takes the one that the model was calibrated to.
        top: runners-up to keep for each tracklet.
        batch: crops per call of the network.
        workers: threads that decode; None lets `embed_folder` choose.
        strict: stop at the first unreadable crop.
        progress: `san_deploy.io.progress.bar` or the like: called for every camera with its number of crops, its
            name and a unit.

    Raises:
        UsageError: see `check_folders`, `resolve_threshold`.
        SanError: a folder is missing, empty or wholly unreadable; the model fails.
    """
    from ..embed import embed_folder

    value, calibration = resolve_threshold(threshold, backend.artefact.threshold)
    cameras = []
    model: dict[str, Any] = {}
    for name, folder in zip(check_folders(folders), folders, strict=True):
        total = sum(1 for _ in list_crops(Path(folder))) if progress else 0
        with progress(total, name, "crop") if progress else contextlib.nullcontext() as advance:
            embedded = embed_folder(
                Path(folder), backend, batch=batch, workers=workers, strict=strict, progress=advance
            )
        cameras.append(camera_from_embeddings(name, Path(folder), embedded))
        model = embedded.model
    parameters = {"batch": batch, "top": top, "strict": strict, "backend": backend.name}
    return match_cameras(
        cameras, threshold=value, calibration=calibration, top=top, model=dict(model), parameters=parameters
    )
