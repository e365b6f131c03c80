"""Speed of exported networks, with what it takes to repeat and to judge the figures: the work of `san bench`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..artefact import Artefact
from ..backends import Backend, packages
from ..embed import CALLS
from ..io import machine
from ..io.cpu import usable_cores
from ..io.versions import versions
from ..preprocess import read_crop
from . import latency
from .engine import WINDOW_CALLS, EngineFigures, measure_engines, window_s
from .folder import Crops, FolderFigures, files_per_run, measure_folders
from .interleaved import Schedule

#: Batch that a folder is embedded with, as `san embed` does, where it is among those that are measured.
FOLDER_BATCH = 32
#: Crops are held in memory up to so many bytes for each model; more only come again sooner.
_POOL_BYTES = 1 << 28


@dataclass(frozen=True, eq=False)
class Opened:
    """A model that is measured.

    Attributes:
        path: the file.
        backend: runtime that runs it.
        open_s: duration of opening it, seconds.
    """

    path: Path
    backend: Backend
    open_s: float


def open_model(path: Path, opener: Callable[[Path], Backend]) -> Opened:
    """Open a model and take the time."""
    start = time.perf_counter()
    backend = opener(path)
    return Opened(path, backend, time.perf_counter() - start)


@dataclass(frozen=True, eq=False)
class ModelFigures:
    """All that was measured of one model.

    Attributes:
        path: the file.
        bytes: its size.
        open_s: duration of opening it, seconds.
        runtime: the backend's name.
        artefact: what the file says of itself: checks, threshold, operands.
        engine: figures of the engine alone, by batch size.
        folder: end to end.
    """

    path: str
    bytes: int
    open_s: float
    runtime: str
    artefact: Artefact
    engine: list[EngineFigures]
    folder: FolderFigures


@dataclass(frozen=True, eq=False)
class Bench:
    """A whole measurement, with what it takes to repeat it.

    Attributes:
        machine: where.
        versions: versions of the tools.
        setting: batch sizes, warm-up, windows, limits.
        crops: what was measured with.
        models: the first is what the others are compared with.
        peak_rss_mb: peak memory of this process with all models, 10^6 bytes; None where the system does not say.
        seconds: duration of the measurement.
        notes: what makes the figures less reliable than they look, or different from what was asked for.
    """

    machine: machine.Machine
    versions: dict[str, str]
    setting: dict[str, Any]
    crops: dict[str, Any]
    models: list[ModelFigures]
    peak_rss_mb: float | None
    seconds: float
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def bench(
    models: Sequence[Opened],
    crops: Crops,
    *,
    batch_sizes: Sequence[int],
    schedule: Schedule,
    workers: int | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Bench:
    """Measure models, all in turn, on the same crops.

    Args:
        models: the first is what the others are compared with.
        crops: from `open_crops`.
        batch_sizes: crops per call of the engines; a folder is embedded with `FOLDER_BATCH` where it is among
            them, else with the largest.
        schedule: warm-up and limits.
        workers: threads that decode; None takes one for each core.
        report: takes one line for each step.
    """
    workers = workers or usable_cores()
    here, cpu_before = machine.machine(), machine.cpu_time()
    start, own_start = time.perf_counter(), time.process_time()
    backends = [model.backend for model in models]
    pools = [_in_memory(crops.paths, backend.artefact) for backend in backends]
    engines = []
    for batch in batch_sizes:
        report(f"batch {batch}: the engine{'s in turn' if len(models) > 1 else ''}, crops in memory")
        engines.append(measure_engines(backends, pools, batch, schedule))
    batch = FOLDER_BATCH if FOLDER_BATCH in batch_sizes else max(batch_sizes)
    slowest = min(item.crops_per_second for item in engines[list(batch_sizes).index(batch)])
    files = files_per_run(slowest, batch, schedule.seconds)
    report(f"batch {batch}: {files} files to embeddings, again and again")
    folders = measure_folders(
        backends, pools, crops.paths, batch=batch, workers=workers, files=files, schedule=schedule
    )
    seconds, own_s = time.perf_counter() - start, time.process_time() - own_start
    measured = [
        ModelFigures(
            path=str(model.path),
            bytes=model.path.stat().st_size,
            open_s=model.open_s,
            runtime=model.backend.name,
            artefact=model.backend.artefact,
            engine=[by_model[index] for by_model in engines],
            folder=folders[index],
        )
        for index, model in enumerate(models)
    ]
    return Bench(
        machine=here,
        versions=versions(*packages()),
        setting=_setting(batch_sizes, schedule),
        crops={
            "source": crops.source,
            "count": len(crops.paths),
            "unreadable": crops.unreadable,
        },
        models=measured,
        peak_rss_mb=machine.peak_rss_mb(),
        seconds=seconds,
        notes=[
            *machine.timing_notes(
                here, seconds=seconds, own_s=own_s, before=cpu_before, after=machine.cpu_time()
            ),
            *(
                f"{model.path.name}: {note}" if len(models) > 1 else note
                for model in models
                if (note := model.backend.note)
            ),
            *_notes(measured),
        ],
    )


def _setting(batch_sizes: Sequence[int], schedule: Schedule) -> dict[str, Any]:
    return {
        "batch_sizes": list(batch_sizes),
        **asdict(schedule),
        "window_s": window_s(schedule),
        "window_calls": WINDOW_CALLS,
        "windows_that_agree": latency.WINDOWS,
        "tolerance": latency.TOLERANCE,
        "callers": {"engine": 1, "folder": CALLS},
    }


def _in_memory(paths: Sequence[Path], artefact: Artefact) -> np.ndarray:
    size_hw = artefact.size_hw
    fitting = max(1, _POOL_BYTES // (size_hw[0] * size_hw[1] * 3))
    return np.stack([read_crop(path, size_hw, artefact.resize) for path in paths[:fitting]])


def _notes(models: Sequence[ModelFigures]) -> Iterator[str]:
    """What is otherwise than it was asked for, each said once for all models."""
    unsettled, few = [], []
    for model in models:
        whose = f"{Path(model.path).name} " if len(models) > 1 else ""
        engine = model.artefact.engine
        for item in model.engine:
            name = f"{whose}batch {item.batch}"
            if engine is not None and item.batch > engine.batch[2]:
                yield f"{name} is run in parts: the engine takes {engine.batch[2]} at most"
            if engine is not None and item.batch < engine.batch[0]:
                yield f"{name} is filled up: the engine takes {engine.batch[0]} at least"
            if not item.settled:
                unsettled.append(f"{name} ({_how_far(item)})")
            if len(item.latency.percentiles_ms) < len(latency.PERCENTILES):
                few.append(f"{name} ({item.latency.calls})")
        if not model.folder.settled:
            unsettled.append(f"{whose}files to embeddings")
    if unsettled:
        agree = f"the medians of {latency.WINDOWS} windows within {latency.TOLERANCE:.0%}"
        yield f"not settled ({agree}), give more --seconds or a quieter machine: {', '.join(unsettled)}"
    if few:
        takes = ", ".join(f"p{q} takes {latency.least_samples(q)}" for q in latency.PERCENTILES)
        yield f"too few calls for every percentile ({takes}), give more --seconds: {', '.join(few)}"


def _how_far(item: EngineFigures) -> str:
    return f"{len(item.windows_ms)} windows" if item.spread is None else f"{item.spread:.0%}"
