"""A folder of crops to embeddings: files are decoded ahead of the network, in order, in bounded memory."""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .artefact import Artefact
from .backends import Backend
from .errors import SanError, UsageError
from .images import UnreadableImage, list_crops, track_of
from .io.atomic import atomic_file
from .io.cpu import usable_cores
from .io.paths import StrPath
from .io.prefetch import in_order, threads
from .preprocess import read_crop

_AGAIN = "write it again: san embed"
#: Files that one thread decodes at a time: enough that handing them over costs nothing beside decoding.
_CHUNK = 16
#: Batches in the network at a time. With two it need not wait while the next batch is put together.
CALLS = 2


@dataclass(frozen=True)
class Unreadable:
    """A file that gave no crop.

    Attributes:
        path: relative to the folder.
        reason: in words, without the path.
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
        embedding: `(N, D)` float32, unit rows.
        path: `(N,)` str, relative to the folder, with `/`.
        track: `(N,)` str, the tracklet of each crop: its folder, or itself where it lies loose.
        model: the model's identity, `Artefact.as_dict()`.
        unreadable: files that were left out; empty when read from a file.
        seconds: that it took, decoding included; 0 when read from a file.
    """

    embedding: npt.NDArray[np.float32]
    path: npt.NDArray[np.str_]
    track: npt.NDArray[np.str_]
    model: dict[str, Any]
    unreadable: list[Unreadable] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def tracks(self) -> list[str]:
        """Names of the tracklets, sorted."""
        return sorted(set(self.track.tolist()))

    @property
    def lost_tracks(self) -> list[str]:
        """Names of the tracklets that are not here since no crop of theirs is readable, sorted."""
        return sorted({track_of(Path(item.path)) for item in self.unreadable} - set(self.track.tolist()))


def embed_folder(
    folder: StrPath,
    backend: Backend,
    *,
    batch: int = 32,
    workers: int | None = None,
    strict: bool = False,
    progress: Callable[[int], Any] | None = None,
) -> Embeddings:
    """Embed every crop below `folder`.

    The result does not depend on how fast which thread is: files are taken in sorted order, and only the
    last batch is smaller than `batch`.

    Args:
        folder: one folder per tracklet, or loose crops, each its own tracklet.
        backend: the opened model. It is called by two threads at a time.
        batch: crops per call.
        workers: threads that decode; None takes one for each core.
        strict: raise at the first unreadable crop instead of leaving it out.
        progress: called in this thread with the number of files that are done since its last call.

    Raises:
        SanError: `folder` is missing or holds no readable crop, the model fails, or `strict`.
    """
    if batch < 1 or (workers is not None and workers < 1):
        raise UsageError(f"batch and workers are at least 1; received {batch} and {workers}")
    folder = Path(folder)
    start = time.perf_counter()
    workers = workers or usable_cores()
    told = progress or (lambda count: None)
    unreadable: list[Unreadable] = []
    paths: list[str] = []
    rows: list[np.ndarray] = []

    def read(chunk: list[Path]) -> list[_Crop | Unreadable]:
        return _read_chunk(folder, chunk, backend.artefact)

    def call(group: tuple[list[str], np.ndarray]) -> tuple[list[str], np.ndarray]:
        names, crops = group
        return names, backend(crops)

    with threads(workers, "san-decode") as decoders, threads(CALLS, "san-embed") as callers:
        # Two batches and a task for each thread wait decoded at most, however long the network takes.
        ahead = -(-2 * batch // _CHUNK) + workers
        decoded = chain.from_iterable(in_order(decoders, read, _chunks(list_crops(folder)), ahead=ahead))
        groups = _batches(_readable(decoded, folder, unreadable, strict, told), batch)
        for names, embedding in in_order(callers, call, groups, ahead=CALLS):
            rows.append(embedding)
            paths.extend(names)
            told(len(names))
    if not paths:
        raise SanError(
            f"none of the {len(unreadable)} crops in {folder} is readable",
            why=f"the first, {unreadable[0].path}, {unreadable[0].reason}",
        )
    return Embeddings(
        np.concatenate(rows),
        np.array(paths, dtype=np.str_),
        np.array([track_of(Path(path)) for path in paths], dtype=np.str_),
        backend.artefact.as_dict(),
        unreadable,
        time.perf_counter() - start,
    )


_Crop = tuple[str, np.ndarray]


def _chunks(paths: Iterator[Path]) -> Iterator[list[Path]]:
    while chunk := list(islice(paths, _CHUNK)):
        yield chunk


def _read_chunk(folder: Path, chunk: list[Path], artefact: Artefact) -> list[_Crop | Unreadable]:
    found: list[_Crop | Unreadable] = []
    for path in chunk:
        try:
            found.append((path.as_posix(), read_crop(folder / path, artefact.size_hw, artefact.resize)))
        except UnreadableImage as error:
            found.append(Unreadable.of(error, folder / path, path.as_posix()))
    return found


def _readable(
    items: Iterable[_Crop | Unreadable],
    folder: Path,
    unreadable: list[Unreadable],
    strict: bool,
    told: Callable[[int], Any],
) -> Iterator[_Crop]:
    for item in items:
        if not isinstance(item, Unreadable):
            yield item
            continue
        if strict:
            raise SanError(
                f"{folder / item.path} {item.reason}", do="mend or remove it, or leave out --strict"
            )
        unreadable.append(item)
        told(1)


def _batches(crops: Iterator[_Crop], batch: int) -> Iterator[tuple[list[str], np.ndarray]]:
    while group := list(islice(crops, batch)):
        yield [name for name, _ in group], np.stack([crop for _, crop in group])


def write_embeddings(result: Embeddings, path: StrPath, *, force: bool = True) -> None:
    """Write an .npz that `numpy.load` reads without pickle, atomically.

    Its arrays: `embedding` (N, D) float32, `path` and `track` (N,) str, `model` a JSON string,
    `model_sha256` a string.

    Args:
        result: what to write.
        path: the file.
        force: replace an existing one.

    Raises:
        SanError: `path` cannot be written, or is taken and `force` is false.
    """
    arrays = {
        "embedding": result.embedding.astype(np.float32, copy=False),
        "path": result.path,
        "track": result.track,
        "model": np.array(json.dumps(result.model, sort_keys=True)),
        "model_sha256": np.array(str(result.model["sha256"])),
    }
    with atomic_file(path, force=force) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_embeddings(path: StrPath) -> Embeddings:
    """Read what `write_embeddings` wrote. Nothing in the file is executed.

    Raises:
        SanError: missing, not such a file, cut short, or its rows are not finite and of norm 1.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            embedding, paths, track = file["embedding"], file["path"], file["track"]
            model = json.loads(str(file["model"]))
            sha256 = str(file["model_sha256"])
        if (
            embedding.ndim != 2
            or embedding.dtype != np.float32
            or not len(embedding) == len(paths) == len(track) > 0
            or any(names.ndim != 1 or names.dtype.kind != "U" for names in (paths, track))
        ):
            raise ValueError(f"its arrays are of {embedding.shape}, {paths.shape} and {track.shape}")
        if model["sha256"] != sha256 or model["embedding_dim"] != embedding.shape[1]:
            raise ValueError("the model's description does not fit the rest")
    except FileNotFoundError as error:
        raise SanError(
            f"{path} does not exist", do=f"embed a folder: san embed DIR -o {path.name}"
        ) from error
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        EOFError,
        MemoryError,
        RecursionError,
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        NotImplementedError,
    ) as error:
        raise SanError(
            f"{path} is not a whole file of embeddings", why=str(error).split("\n")[0], do=_AGAIN
        ) from error
    norm = np.linalg.norm(embedding, axis=1)
    if not (np.abs(norm - 1.0) <= 1e-3).all():
        raise SanError(f"{path} holds rows that are not finite or not of norm 1", do=_AGAIN)
    return Embeddings(embedding, paths, track, model)
