"""Files to embeddings: the crops to measure with, and models that embed them in turn as `san embed` does."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from ..backends import Backend
from ..data.samples import extract_samples
from ..embed import CALLS, embed_folder
from ..errors import SanError
from ..images import UnreadableImage, list_crops, read_image, spread
from ..preprocess import resize_crop
from . import latency
from .engine import batches
from .interleaved import Schedule, interleave
from .latency import Ratio

#: A run over a folder takes this share of the time limit, by the network's own speed, within these files.
_RUN = 0.1
_MOST_FILES = 4096


@dataclass(frozen=True)
class FolderFigures:
    """A network embedding files, as `san embed` does.

    Attributes:
        batch: crops per call of the network.
        workers: threads that decode.
        files: per run.
        runs: number of timed runs.
        crops_per_second: files to embeddings, median of the runs.
        share: fraction of what the network reaches when it is called in the same way on crops in memory.
        decode_cpu_ms, resize_cpu_ms: per crop, in one thread.
        cpu_ms: per crop, of the whole process, decoding and network.
        settled, ended: outcome, as in `EngineFigures`.
        speed: speed as a multiple of the first model's, round by round; None for the first model.
    """

    batch: int
    workers: int
    files: int
    runs: int
    crops_per_second: float
    share: Ratio
    decode_cpu_ms: float
    resize_cpu_ms: float
    cpu_ms: float
    settled: bool
    ended: str
    speed: Ratio | None


@dataclass(frozen=True, eq=False)
class Crops:
    """What is measured with.

    Attributes:
        paths: the files.
        source: whose they are, in words.
        unreadable: files that were passed over.
    """

    paths: list[Path]
    source: str
    unreadable: int = 0


@contextmanager
def open_crops(folder: Path | None, count: int) -> Iterator[Crops]:
    """Up to `count` readable crops, spread evenly over a folder; the sample crops where there is no folder.

    Args:
        folder: of crops; None unpacks the sample crops into a temporary folder, which goes away in the end.
        count: of crops.

    Raises:
        SanError: no such folder, no image in it, or none that can be read.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="san-bench-") as name:
            extract_samples(Path(name))
            yield _chosen(Path(name), count, "sample crops")
    else:
        yield _chosen(folder, count, f"crops of {folder.resolve().name}")


def _chosen(folder: Path, count: int, source: str) -> Crops:
    found = list(list_crops(folder))
    tried = spread(found, count)
    readable = []
    for path in (folder / crop for crop in tried):
        try:
            read_image(path)
            readable.append(path.resolve())
        except UnreadableImage:
            continue
    if not readable:
        raise SanError(f"none of the crops in {folder} can be read", why=f"{len(tried)} were tried")
    return Crops(readable, source, len(tried) - len(readable))


def measure_folders(
    backends: Sequence[Backend],
    crops: Sequence[np.ndarray],
    paths: Sequence[Path],
    *,
    batch: int,
    workers: int,
    files: int,
    schedule: Schedule,
) -> list[FolderFigures]:
    """`embed_folder` with each model, in turn with the same number of crops that lie in memory.

    Args:
        backends: the models; the first is what the others are compared with.
        crops: for each model, `(N, H, W, 3)` uint8 BGR of its own size.
        paths: of crops; one run reads them again and again until it has read `files`.
        batch: crops per call.
        workers: threads that decode.
        files: per run, a multiple of `batch`.
        schedule: how long.
    """
    works: list[Callable[[], object]] = []
    cpu_s: list[list[float]] = [[] for _ in backends]
    with (
        tempfile.TemporaryDirectory(prefix="san-bench-") as name,
        ThreadPoolExecutor(CALLS, "san-bench") as callers,
    ):
        folder = Path(name)
        for index, path in enumerate(islice(cycle(paths), files)):
            (folder / f"{index:06d}{path.suffix}").symlink_to(path)
        for backend, pool, spent in zip(backends, crops, cpu_s, strict=True):
            inputs = list(islice(cycle(batches(pool, batch)), files // batch))
            works.append(_from_files(backend, folder, batch, workers, spent))
            works.append(_from_memory(backend, callers, inputs))
        windows = interleave(works, replace(schedule, warmup_s=0.0, seconds=schedule.seconds / 2))
    figures = []
    for index, backend in enumerate(backends):
        runs_s, memory_s = windows.medians_s(2 * index), windows.medians_s(2 * index + 1)
        decode_ms, resize_ms = decoding_cpu_ms(paths, backend.artefact.size_hw)
        figures.append(
            FolderFigures(
                batch=batch,
                workers=workers,
                files=files,
                runs=len(runs_s),
                crops_per_second=files / statistics.median(runs_s),
                share=latency.ratio(memory_s, runs_s),
                decode_cpu_ms=decode_ms,
                resize_cpu_ms=resize_ms,
                # The first run warmed up.
                cpu_ms=1e3 * statistics.median(cpu_s[index][1:]) / files,
                settled=windows.settled(2 * index) and windows.settled(2 * index + 1),
                ended=windows.ended,
                speed=latency.ratio(windows.medians_s(0), runs_s) if index else None,
            )
        )
    return figures


def _from_files(
    backend: Backend, folder: Path, batch: int, workers: int, cpu_s: list[float]
) -> Callable[[], object]:
    def run() -> None:
        start = time.process_time()
        embed_folder(folder, backend, batch=batch, workers=workers)
        cpu_s.append(time.process_time() - start)

    return run


def _from_memory(
    backend: Backend, callers: ThreadPoolExecutor, inputs: Sequence[np.ndarray]
) -> Callable[[], object]:
    return lambda: list(callers.map(backend, inputs))


def decoding_cpu_ms(paths: Sequence[Path], size_hw: tuple[int, int]) -> tuple[float, float]:
    """CPU milliseconds per crop of decoding and of resizing, in this thread."""
    decode_s = resize_s = 0.0
    for path in paths:
        start = time.thread_time()
        image = read_image(path)
        decoded = time.thread_time()
        resize_crop(image, size_hw)
        decode_s += decoded - start
        resize_s += time.thread_time() - decoded
    return 1e3 * decode_s / len(paths), 1e3 * resize_s / len(paths)


def files_per_run(crops_per_second: float, batch: int, seconds: float) -> int:
    """Files of one run over a folder: a share of the time limit, in whole batches, two at least.

    Args:
        crops_per_second: that the network reaches.
        batch: crops per call.
        seconds: the time limit.

    Example:
        >>> files_per_run(1000.0, 32, 10.0)
        1024
    """
    wanted = min(crops_per_second * seconds * _RUN, _MOST_FILES)
    return max(2, -(-int(wanted) // batch)) * batch
