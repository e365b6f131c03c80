"""Listed crops to embeddings, each file once: decoded ahead of the network, in order, in bounded memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np

from ..artefact import Artefact
from ..backends import Backend
from ..embed import CALLS, Unreadable
from ..errors import SanError, UsageError
from ..images import UnreadableImage
from ..io.cpu import usable_cores
from ..io.prefetch import in_order, threads
from .test_time_augmentation import TTA

#: TTA that one thread decodes at a time: enough that handing them over costs nothing beside decoding.
_CHUNK = 16


@dataclass(frozen=True, eq=False)
class Embedded:
    """Embedded files.

    Attributes:
        embedding: `(N, D)` float32 unit rows, of the files that were readable, in their order.
        kept: `(N,)` int64, which of the files they are.
        unreadable: files that were left out.
        seconds: that it took, decoding included.
    """

    embedding: np.ndarray
    kept: np.ndarray
    unreadable: list[Unreadable]
    seconds: float


def embed_crops(
    paths: Sequence[Path],
    backend: Backend,
    views: TTA | None = None,
    *,
    batch: int = 32,
    workers: int | None = None,
    strict: bool = False,
    progress: Callable[[int], object] | None = None,
) -> Embedded:
    """Embed image files.

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
    if batch < 1 or (workers is not None and workers < 1):
        raise UsageError(f"batch and workers are at least 1; received {batch} and {workers}")
    views, workers = views or TTA(), workers or usable_cores()
    start = time.perf_counter()
    told = progress or (lambda count: None)
    unreadable: list[Unreadable] = []
    kept: list[int] = []
    rows: list[np.ndarray] = []

    def readable(items: Iterator[np.ndarray | UnreadableImage]) -> Iterator[np.ndarray]:
        for number, item in enumerate(items):
            if not isinstance(item, UnreadableImage):
                kept.append(number)
                yield item
                continue
            if strict:
                raise SanError(str(item), do="mend or remove it, or leave out --strict")
            unreadable.append(Unreadable.of(item, paths[number], str(paths[number])))
            told(1)

    def groups(crops: Iterator[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
        while group := list(islice(crops, max(1, batch // views.count))):
            yield len(group), np.concatenate(group)

    def call(group: tuple[int, np.ndarray]) -> tuple[int, np.ndarray]:
        count, crops = group
        return count, backend(crops)

    with threads(workers, "san-decode") as decoders, threads(CALLS, "san-embed") as callers:
        crops = readable(_decoded(paths, backend.artefact, views, decoders, batch, workers))
        for count, embedding in in_order(callers, call, groups(crops), ahead=CALLS):
            rows.append(views.pool(embedding))
            told(count)
    if not rows:
        raise SanError(
            f"none of the {len(unreadable)} crops is readable",
            why=f"the first, {unreadable[0].path}, {unreadable[0].reason}" if unreadable else "",
        )
    return Embedded(np.concatenate(rows), np.array(kept, np.int64), unreadable, time.perf_counter() - start)


def _decoded(
    paths: Sequence[Path],
    artefact: Artefact,
    views: TTA,
    pool: ThreadPoolExecutor,
    batch: int,
    workers: int,
) -> Iterator[np.ndarray | UnreadableImage]:
    """The views of each file, in order; two batches and a task for each thread are ahead at most."""

    def read(chunk: Sequence[Path]) -> list[np.ndarray | UnreadableImage]:
        found: list[np.ndarray | UnreadableImage] = []
        for path in chunk:
            try:
                found.append(views.read(path, artefact.size_hw, artefact.resize))
            except UnreadableImage as error:
                found.append(error)
        return found

    size = max(1, _CHUNK // views.count)
    ahead = -(-2 * max(1, batch // views.count) // size) + workers
    chunks = (paths[low : low + size] for low in range(0, len(paths), size))
    return chain.from_iterable(in_order(pool, read, chunks, ahead=ahead))
