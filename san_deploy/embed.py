"""A folder of crops to embeddings: files are decoded ahead of the network, in order, in bounded memory."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .backends import Backend
from .errors import SanError, UsageError
from .images import UnreadableImage, list_crops, track_of
from .io.atomic import atomic_file
from .io.cpu import usable_cores
from .io.paths import StrPath
from .io.prefetch import in_order, threads
from .preprocess import read_crop

_AGAIN = "write it again: san embed"
#: Name of the array that holds the hash of the others.
_CONTENT = "content_sha256"
#: Names of the arrays of a whole folder.
_NAMES = frozenset({"embedding", "path", "track", "model", "model_sha256", "space", "precision", _CONTENT})
#: Files that one thread decodes at a time: enough that handing them over costs nothing beside decoding.
_CHUNK = 16
#: Batches in the network at a time. With two it need not wait while the next batch is put together.
CALLS = 2


@dataclass(frozen=True)
class Unreadable:
    """A file that gave no crop.

    Attributes:
        path: relative to the folder.
        reason: message without the path.
    """

    path: str
    reason: str

    @classmethod
    def of(cls, error: UnreadableImage, file: Path, path: str) -> Unreadable:
        """What reading `file` gave, which is called `path`."""
        return cls(path, str(error).removeprefix(f"{file} ").rstrip("."))


@dataclass(frozen=True, eq=False)
class Embeddings:
    """The crops of one folder, in the order of their paths.

    Attributes:
        embedding: `(N, D)` float32, norm 1.
        path: `(N,)` str, relative to the folder, with `/`.
        track: `(N,)` str, the tracklet of each crop: its folder, or itself where it lies loose.
        model: the model's identity, `Artefact.as_dict()`.
        unreadable: files that were left out; empty when read from a file.
        seconds: duration, decoding included; 0 when read from a file.
        blank: crops of one colour all over, which say nothing of anybody and are alike; empty when read from a file.
    """

    embedding: npt.NDArray[np.float32]
    path: npt.NDArray[np.str_]
    track: npt.NDArray[np.str_]
    model: dict[str, Any]
    unreadable: list[Unreadable] = field(default_factory=list)
    seconds: float = 0.0
    blank: list[str] = field(default_factory=list)

    @property
    def tracks(self) -> list[str]:
        """Names of the tracklets, sorted."""
        return sorted(set(self.track.tolist()))

    @property
    def lost_tracks(self) -> list[str]:
        """Names of the tracklets that are not here since no crop of theirs is readable, sorted."""
        return sorted({track_of(Path(item.path)) for item in self.unreadable} - set(self.track.tolist()))


@dataclass(frozen=True, eq=False)
class EmbeddedFiles:
    """Listed files as embeddings.

    Attributes:
        embedding: `(N, D)` float32, norm 1, of the files that were readable, in their order.
        kept: `(N,)` int64, which of the files they are.
        unreadable: files that were left out.
        seconds: duration, decoding included.
    """

    embedding: npt.NDArray[np.float32]
    kept: npt.NDArray[np.int64]
    unreadable: list[Unreadable]
    seconds: float


class Views(Protocol):
    """Test-time augmentation, as `evaluation.TTA`: several views of a crop, whose embeddings are pooled."""

    @property
    def count(self) -> int:
        """Views of one crop."""

    def read(self, path: Path, size_hw: tuple[int, int], resize: str) -> np.ndarray:
        """`(count, H, W, 3)` uint8 BGR, or UnreadableImage."""

    def pool(self, rows: np.ndarray) -> np.ndarray:
        """`(N x count, D)` to `(N, D)`."""


def embed_folder(
    folder: StrPath,
    backend: Backend,
    *,
    batch: int = 32,
    workers: int | None = None,
    per_track: int | None = None,
    strict: bool = False,
    progress: Callable[[int], Any] | None = None,
    crops: Iterable[Path] | None = None,
    allow_empty: bool = False,
) -> Embeddings:
    """Embed every crop below `folder`, or those named.

    The result does not depend on how fast which thread is: files are taken in sorted order, and only the
    last batch is smaller than `batch`.

    Args:
        folder: one folder per tracklet, or loose crops, each its own tracklet.
        backend: the opened model. It is called by two threads at a time.
        batch: crops per call.
        workers: threads that decode; None takes one for each core.
        per_track: crops of a tracklet at most, spread evenly over it; None takes all.
        strict: raise at the first unreadable crop instead of leaving it out.
        progress: called in this thread with the number of files that are done since its last call.
        crops: those to embed, relative to `folder`; None takes all.
        allow_empty: give no rows where no crop is readable, instead of an error.

    Raises:
        SanError: `folder` is missing or holds no readable crop, the model fails, or `strict`.
    """
    folder = Path(folder)
    start = time.perf_counter()
    names: list[str] = []

    def listed() -> Iterator[Path]:
        for crop in list_crops(folder, per_track=per_track) if crops is None else crops:
            names.append(crop.as_posix())
            yield folder / crop

    stream = _Stream(backend, batch=batch, workers=workers, strict=strict, progress=progress)
    kept, embedding = stream.embed(listed())
    unreadable = [Unreadable.of(error, folder / names[k], names[k]) for k, error in stream.unreadable]
    if not len(kept) and not allow_empty:
        raise SanError(
            f"none of the {len(unreadable)} crops in {folder} is readable",
            why=f"the first, {unreadable[0].path}, {unreadable[0].reason}",
        )
    paths = [names[k] for k in kept.tolist()]
    return Embeddings(
        embedding,
        np.array(paths, dtype=np.str_),
        np.array([track_of(Path(path)) for path in paths], dtype=np.str_),
        backend.artefact.as_dict(),
        unreadable,
        time.perf_counter() - start,
        [names[k] for k in sorted(stream.blank)],
    )


def embed_files(
    paths: Sequence[Path],
    backend: Backend,
    views: Views | None = None,
    *,
    batch: int = 32,
    workers: int | None = None,
    strict: bool = False,
    progress: Callable[[int], object] | None = None,
) -> EmbeddedFiles:
    """Embed image files, in bounded memory and in order as `embed_folder`.

    Args:
        paths: of the files.
        backend: the opened model. It is called by two threads at a time.
        views: test-time augmentation; None is none.
        batch: crops per call; with several views so many that they fit, at least those of one crop.
        workers: threads that decode; None takes one for each core.
        strict: raise at the first unreadable crop instead of leaving it out.
        progress: called in this thread with the number of files that are done since its last call.

    Raises:
        SanError: no crop is readable, the model fails, or `strict`.
    """
    start = time.perf_counter()
    stream = _Stream(backend, views, batch=batch, workers=workers, strict=strict, progress=progress)
    kept, embedding = stream.embed(iter(paths))
    unreadable = [Unreadable.of(error, paths[k], str(paths[k])) for k, error in stream.unreadable]
    if not len(kept):
        raise SanError(
            f"none of the {len(unreadable)} crops is readable",
            why=f"the first, {unreadable[0].path}, {unreadable[0].reason}" if unreadable else "",
        )
    return EmbeddedFiles(embedding, kept, unreadable, time.perf_counter() - start)


def _is_blank(crop: np.ndarray) -> bool:
    """Whether a crop is of one colour all over."""
    pixels = crop.reshape(-1, 3)
    first = pixels[0]
    # Nearly every crop is told by a pixel or two.
    return bool((pixels[:: len(pixels) // 4 + 1] == first).all() and (pixels == first).all())


#: The first file's number, its place in the slab (the memory of whole batches), the files, the slab.
_Part = tuple[int, int, list[Path], np.ndarray]
_Failure = tuple[int, UnreadableImage]


class _Stream:
    """Files to embeddings. Threads decode into the memory of batches, other threads call the network.

    Attributes:
        unreadable: number of a file, and what was wrong with it, in order.
        blank: numbers of files of one colour all over.
    """

    def __init__(
        self,
        backend: Backend,
        views: Views | None = None,
        *,
        batch: int,
        workers: int | None,
        strict: bool,
        progress: Callable[[int], object] | None,
    ) -> None:
        if batch < 1 or (workers is not None and workers < 1):
            raise UsageError(f"batch and workers are at least 1; received {batch} and {workers}")
        self._backend = backend
        self._views = views if views is not None and views.count > 1 else None
        self._count = views.count if self._views and views else 1
        # In files from here on.
        self._batch = max(1, batch // self._count)
        self._part = max(1, _CHUNK // self._count)
        self._workers = workers or usable_cores()
        self._strict = strict
        self._progress = progress or (lambda count: None)
        self.unreadable: list[_Failure] = []
        self.blank: list[int] = []

    def embed(self, paths: Iterator[Path]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Numbers of the readable files, and their embeddings."""
        kept: list[np.ndarray] = []
        embeddings: list[np.ndarray] = []
        with threads(self._workers, "san-decode") as decoders, threads(CALLS, "san-embed") as callers:
            # Two batches and a task for each thread wait decoded at most, however long the network takes.
            ahead = -(-2 * self._batch // self._part) + self._workers
            decoded = in_order(decoders, self._read, self._parts(paths), ahead=ahead)
            for numbers, embedding in in_order(callers, self._call, self._batches(decoded), ahead=CALLS):
                kept.append(numbers)
                embeddings.append(embedding)
                self._progress(len(numbers))
        if not kept:
            return np.empty(0, np.int64), np.empty((0, self._backend.artefact.embedding_dim), np.float32)
        return np.concatenate(kept), np.concatenate(embeddings)

    def _parts(self, paths: Iterator[Path]) -> Iterator[_Part]:
        """Memory for whole batches, in parts that one thread fills at a time."""
        height, width = self._backend.artefact.size_hw
        # Of small batches several, so that a part is worth handing over.
        size = self._batch * -(-self._part // self._batch)
        number = 0
        while files := list(islice(paths, size)):
            slab = np.empty((len(files) * self._count, height, width, 3), np.uint8)
            for place in range(0, len(files), self._part):
                yield number + place, place, files[place : place + self._part], slab
            number += len(files)

    def _read(self, part: _Part) -> tuple[_Part, list[_Failure]]:
        number, place, files, slab = part
        artefact, count = self._backend.artefact, self._count
        size_hw, resize = artefact.size_hw, artefact.resize
        failed: list[_Failure] = []
        for k, path in enumerate(files):
            try:
                if self._views is None:
                    slab[place + k] = crop = read_crop(path, size_hw, resize)
                    if _is_blank(crop):
                        self.blank.append(number + k)
                else:
                    slab[(place + k) * count : (place + k + 1) * count] = self._views.read(
                        path, size_hw, resize
                    )
            except UnreadableImage as error:
                failed.append((number + k, error))
        return part, failed

    def _batches(
        self, parts: Iterable[tuple[_Part, list[_Failure]]]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Numbers of files and their crops: `batch` of them, but for the last."""
        count, size = self._count, self._batch
        numbers, crops = np.empty(0, np.int64), np.empty(0, np.uint8)  # what did not fill a batch
        lost: list[int] = []
        for (number, place, files, slab), failed in parts:
            for index, error in failed:
                if self._strict:
                    raise SanError(str(error), do="mend or remove it, or leave out --strict")
                self.unreadable.append((index, error))
                self._progress(1)
            lost += [place + index - number for index, _ in failed]
            if (place + len(files)) * count < len(slab):
                continue
            found, filled = np.arange(number - place, number + len(files)), slab
            if lost:
                found = np.delete(found, lost)
                filled = np.delete(slab.reshape(-1, count, *slab.shape[1:]), lost, axis=0)
                filled = filled.reshape(-1, *slab.shape[1:])
                lost = []
            if len(numbers):
                found, filled = np.concatenate([numbers, found]), np.concatenate([crops, filled])
            whole = len(found) // size * size
            for low in range(0, whole, size):
                yield found[low : low + size], filled[low * count : (low + size) * count]
            numbers, crops = found[whole:], filled[whole * count :]
        if len(numbers):
            yield numbers, crops

    def _call(self, group: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        numbers, crops = group
        rows = self._backend(crops)
        return numbers, rows if self._views is None else self._views.pool(rows)


def write_embeddings(result: Embeddings, path: StrPath, *, force: bool = True) -> None:
    """Write an .npz that `numpy.load` reads without pickle, atomically.

    Its arrays: `embedding` (N, D) float32, `path` and `track` (N,) str, `model` a JSON string, and the strings
    `model_sha256`, `space` and `precision` of the model and `content_sha256` of all the others.

    Args:
        result: what to write.
        path: the file.
        force: replace an existing one.

    Raises:
        SanError: `path` cannot be written, or is taken and `force` is false.
    """
    write_arrays(arrays_of(result), path, force=force)


def arrays_of(result: Embeddings) -> dict[str, np.ndarray]:
    """What `write_embeddings` writes, the hash of all of it apart."""
    return {
        "embedding": result.embedding.astype(np.float32, copy=False),
        "path": result.path,
        "track": result.track,
        "model": np.array(json.dumps(result.model, sort_keys=True)),
        "model_sha256": np.array(str(result.model["sha256"])),
        "space": np.array(str(result.model.get("space", ""))),
        "precision": np.array(str(result.model.get("precision", ""))),
    }


def write_arrays(arrays: Mapping[str, np.ndarray], path: StrPath, *, force: bool) -> None:
    """Write arrays and the hash of them all, as `write_embeddings` does."""
    arrays = {**arrays, _CONTENT: np.array(_content_sha256(arrays))}
    # No allow_pickle: NumPy before 2.2 would store it as an array. None of these is of objects.
    with atomic_file(path, force=force) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _content_sha256(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(json.dumps([name, array.dtype.str, array.shape]).encode("utf-8"))
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def read_embeddings(path: StrPath) -> Embeddings:
    """Read what `write_embeddings` wrote. Nothing in the file is executed.

    Raises:
        SanError: missing, not such a file, cut short, or its rows are not finite and of norm 1.
    """
    result, more = read_arrays(path)
    if "shard" in more:
        raise SanError(
            f"{path} is a part of a folder's embeddings, shard {more['shard']}",
            do="put the shards together first: san embed --merge SHARD.npz... -o crops.npz",
        )
    return result


def read_arrays(path: StrPath) -> tuple[Embeddings, dict[str, np.ndarray]]:
    """`read_embeddings`, and what else the file holds; a shard may hold no rows."""
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        # Files from before have none.
        if _CONTENT in arrays and str(arrays.pop(_CONTENT)) != _content_sha256(arrays):
            raise ValueError("it is damaged, or was changed after it was written")
        embedding, paths, track = arrays["embedding"], arrays["path"], arrays["track"]
        model, sha256 = json.loads(str(arrays["model"])), str(arrays["model_sha256"])
        more = {name: arrays[name] for name in arrays.keys() - _NAMES}
        if (
            embedding.ndim != 2
            or embedding.dtype != np.float32
            or not len(embedding) == len(paths) == len(track) >= ("shard" not in arrays)
            or any(names.ndim != 1 or names.dtype.kind != "U" for names in (paths, track))
        ):
            raise ValueError(f"its arrays are of {embedding.shape}, {paths.shape} and {track.shape}")
        if model["sha256"] != sha256 or model["embedding_dim"] != embedding.shape[1]:
            raise ValueError("the model's description does not fit the rest")
    except FileNotFoundError as error:
        raise SanError(
            f"{path} does not exist", do=f"embed a folder: san embed DIR -o {path.name}"
        ) from error
    except Exception as error:  # zipfile's, zlib's and NumPy's readers raise whatever a damaged file leads to
        raise SanError(
            f"{path} is not a whole file of embeddings", why=str(error).split("\n")[0], do=_AGAIN
        ) from error
    norm = np.linalg.norm(embedding, axis=1)
    if not (np.abs(norm - 1.0) <= 1e-3).all():
        raise SanError(f"{path} holds rows that are not finite or not of norm 1", do=_AGAIN)
    return Embeddings(embedding, paths, track, model), more
