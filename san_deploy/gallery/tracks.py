"""What a gallery holds and answers, whatever it is stored in."""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..errors import SanError

#: Times of tracklets whose time nobody knows.
UNKNOWN = float("nan")


@dataclass(frozen=True)
class Tracks:
    """Tracklets of one camera.

    Attributes:
        camera: its name.
        track: `(N,)` unicode, names, all different.
        embedding: `(N, D)` float32, rows of length 1.
        crops: `(N,)` int64, crops that each embedding was pooled from.
        start, end: `(N,)` float64, seconds since 1970 (UTC); NaN where it is not known.
        person: `(N,)` int64, whose they are; 0 where nobody said. Of tracklets to be added: None says it of none.
    """

    camera: str
    track: np.ndarray
    embedding: np.ndarray
    crops: np.ndarray
    start: np.ndarray
    end: np.ndarray
    person: np.ndarray | None = None

    @property
    def people(self) -> np.ndarray:
        """`person`, zeros for None."""
        return np.zeros(len(self.track), np.int64) if self.person is None else self.person

    def __post_init__(self) -> None:
        count = len(self.track)
        lengths = {len(item) for item in (self.embedding, self.crops, self.start, self.end, self.people)}
        if self.embedding.ndim != 2 or self.embedding.dtype != np.float32 or lengths != {count}:
            raise ValueError(f"{count} tracks, embeddings {self.embedding.shape} {self.embedding.dtype}")
        norm = np.linalg.norm(self.embedding.astype(np.float64), axis=1)
        # NaN fails the comparison as well.
        if not (np.abs(norm - 1) <= 1e-3).all():
            raise SanError(
                f"embeddings of camera {self.camera} are not finite, or not of length 1", do="embed it again"
            )
        if not self.camera or len(set(self.track.tolist())) != count:
            raise SanError(f"camera {self.camera!r} has no name, or a tracklet twice")


@dataclass(frozen=True)
class SearchFilter:
    """Which tracklets may be found.

    Attributes:
        cameras: names; empty for all.
        after, before: seconds since 1970 (UTC): seen at that time or later, or earlier. None for any time. Tracklets
            whose time is not known are found only without these.
    """

    cameras: tuple[str, ...] = ()
    after: float | None = None
    before: float | None = None


#: Every tracklet may be found.
ANY = SearchFilter()


@dataclass(frozen=True)
class Hit:
    """A tracklet that a search found.

    Attributes:
        camera, track: its names.
        person: number of the identity that it belongs to; None where nobody gave it one.
        similarity: cosine, -1..1.
        start, end: seconds since 1970 (UTC); NaN where it is not known.
        crops: that its embedding was pooled from.
    """

    camera: str
    track: str
    person: int | None
    similarity: float
    start: float
    end: float
    crops: int


@dataclass(frozen=True)
class AuditEvent:
    """What was done to a gallery: its audit.

    Attributes:
        when: seconds since 1970 (UTC).
        what: `create`, `add`, `assign`, `merge`, `split`, `delete`, `expire` or `compact`.
        detail: of what, plain data. Names of tracklets that were deleted are not kept in it.
    """

    when: float
    what: str
    detail: Mapping[str, Any]


@dataclass(frozen=True)
class GalleryInfo:
    """What a gallery holds.

    Attributes:
        location: folder or address, without a password.
        store: `folder` or `postgresql`.
        space: identity of the embeddings' space.
        dim: their length.
        model: the first model's description, `Artefact.as_dict()`.
        tracks: tracklets, without deleted ones.
        cameras: `{name: tracklets}`.
        people: identities.
        deleted: tracklets that are deleted and whose vectors are still in the files; 0 after `compact`.
        bytes: that it takes.
    """

    location: str
    store: str
    space: str
    dim: int
    model: Mapping[str, Any]
    tracks: int
    cameras: Mapping[str, int]
    people: int
    deleted: int
    bytes: int


class Gallery(Protocol):
    """A store of tracklets. Implementations answer alike; `tests/san_deploy/gallery/` runs one test on all."""

    def info(self) -> GalleryInfo:
        """What it holds."""

    def transaction(self) -> AbstractContextManager[None]:
        """Several changes: all are there afterwards, or, whatever happens, none. Writers wait for each other."""

    def add(self, tracks: Tracks, pictures: Sequence[Sequence[bytes]] | None = None) -> int:
        """Add tracklets; all of them are there afterwards, or, whatever happens, none.

        Args:
            tracks: of one camera. Numbers of people that are not there yet become identities.
            pictures: N times the JPEG files to keep of each tracklet; None keeps none.

        Returns:
            How many were added.

        Raises:
            SanError: a tracklet of this camera and name is there already, or D is another.
        """

    def search(self, queries: np.ndarray, k: int, where: SearchFilter = ANY) -> list[list[Hit]]:
        """The `k` most similar tracklets of each query, best first; ties by camera and track.

        Args:
            queries: `(Q, D)` float32, rows of length 1.
            k: at least 1.
            where: which tracklets may be found.
        """

    def pictures(self, camera: str, track: str) -> list[bytes]:
        """The JPEG files that were kept of a tracklet."""

    def new_people(self, count: int) -> list[int]:
        """Numbers for so many new identities. No number is ever given twice, whatever is deleted."""

    def assign(self, camera: str, people: Mapping[str, int]) -> None:
        """Say whose tracklets of a camera are, `{track: person}`.

        Raises:
            SanError: there is no such tracklet.
        """

    def merge(self, into: int, person: int) -> int:
        """Make two identities one, which keeps the number `into`; the other is never given again.

        Returns:
            The number of tracklets that changed.

        Raises:
            SanError: one of them has no tracklet, or they are the same.
        """

    def split(self, person: int, away: Sequence[tuple[str, str]]) -> int:
        """Take tracklets, `(camera, track)`, away from an identity; the number of the new identity that they become.

        Raises:
            SanError: one of them is not of this identity, or none would be left.
        """

    def delete(self, camera: str, track: str | None = None) -> int:
        """Delete a tracklet, or a camera with all of its; how many were deleted. The vectors go with `compact`."""

    def expire(self, before: float) -> int:
        """Delete what was seen, or else added, before a time (seconds since 1970); how many."""

    def compact(self) -> int:
        """Remove deleted vectors from the files for good; how many."""

    def export(self) -> tuple[Tracks, ...]:
        """Everything, `person` too, a camera each, in the order of their names."""

    def events(self) -> list[AuditEvent]:
        """The audit, oldest first."""

    def close(self) -> None:
        """Give back what it holds open."""


def space_of_model(model: Mapping[str, Any]) -> str:
    """The embedding space that a model's description names."""
    return str(model.get("space") or model.get("checkpoint_sha256") or model["sha256"])


def refuse_other_space(location: str, space: str, model: Mapping[str, Any]) -> None:
    """SanError where a gallery's embeddings and a model's lie in different spaces."""
    other = space_of_model(model)
    if other != space:
        raise SanError(
            f"{location} holds embeddings of another network (space {space[:12]}, this one is {other[:12]})",
            why="their numbers mean nothing to each other",
            do="give the network that it was filled with, or another gallery",
        )


def refuse_merge(location: str, into: int, person: int, known: Container[int]) -> None:
    """SanError where two identities cannot become one; `known` has those with tracklets."""
    if into == person:
        raise SanError(f"person {person} cannot be merged with itself")
    for number in (into, person):
        if number not in known:
            raise SanError(f"{location} has no tracklet of person {number}")


def refuse_split(
    location: str, person: int, away: Sequence[tuple[str, str]], own: Collection[tuple[str, str]]
) -> None:
    """SanError where tracklets cannot be taken from an identity that has the tracklets `own`."""
    for camera, track in away:
        if (camera, track) not in own:
            raise SanError(
                f"{location}: {camera}/{track} is not of person {person}",
                do="identities.csv of san match says whom it is taken for",
            )
    if len(set(away)) == len(own):
        raise SanError(
            f"person {person} would have no tracklet left", do="name the tracklets that somebody else is"
        )


def at_least_kth(values: np.ndarray, k: int) -> np.ndarray:
    """Places of the `k` largest values and of all that equal the least of them, in rising order.

    Cutting among equal ones is left to whoever knows their names.

    Args:
        values: `(N,)` float.
        k: at least 1.
    """
    if len(values) <= k:
        return np.arange(len(values))
    return np.flatnonzero(values >= np.partition(values, len(values) - k)[len(values) - k])


def none_if_nan(value: float) -> float | None:
    """A time as databases keep it, where nobody knows it."""
    return None if np.isnan(value) else float(value)
