"""Rows of embeddings: every crop at the batch size that the target is best at, some of them at every other size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from san_deploy.errors import SanError
from san_deploy.io.prefetch import threads

from ...verify import EQUAL, row_cosine
from ..gates import Gates
from ..models import Rows, Side
from ..result import BatchRows, Check, EmbeddingFigures, Stage
from ..sample import Sample

#: An odd few: runtimes handle even ones, and one, as special cases.
_ODD = 3
#: Crops that are run at the other batch sizes; the worst ones are among them.
_SOME, _WORST_RUN = 88, 8
#: Worst crops that are named.
_WORST = 8
#: Crops that an FP16 file is run on as it lies on the disk.
_AS_IT_IS = 32


@dataclass(frozen=True, eq=False)
class Embedded:
    """What both sides give.

    Attributes:
        reference: `(N, D)` float32 unit rows.
        target: `(N, D)` float32 rows as they came at the optimum batch; NaN where the target gave none.
        cosine: `(N,)` float64 of each row with its reference.
        stage: the rung.
    """

    reference: np.ndarray
    target: np.ndarray
    cosine: np.ndarray
    stage: Stage

    @property
    def worst(self) -> np.ndarray:
        """`(N,)` rows, the worst cosine first."""
        return np.argsort(self.cosine, kind="stable")

    @property
    def finite(self) -> bool:
        """Whether every row of the target is."""
        return bool(np.isfinite(self.target).all())


def embed_both(
    reference: Side,
    target: Side,
    sample: Sample,
    gates: Gates,
    *,
    seed: int = 0,
    progress: Callable[[int], object] = lambda count: None,
) -> Embedded:
    """Embed a sample on both sides and compare row by row.

    The reference and the target run side by side, a thread each; rows are kept, crops are not.

    Args:
        reference: whose rows must be good.
        target: may give anything; what fails is a row that is not finite.
        sample: crops.
        gates: what to reach.
        seed: of the crops that the other batch sizes are run on.
        progress: told of crops that the target is done with, `crops_run` in all.

    Raises:
        SanError: the reference fails, or gives rows that are not finite or not of norm 1.
    """
    count = len(sample)
    rows = _Runner(target, sample, progress)
    known = _both(reference, rows, count)
    cosine = row_cosine(rows.optimum, known)
    worst = np.argsort(cosine, kind="stable")
    others, fair = _some(count, worst, seed)
    figures = [_compare(target.optimum, rows.optimum, known)]
    bad = np.asarray(~np.isfinite(rows.optimum).all(1))
    norms = [_norm_error(rows.optimum)]
    invariance, where = 1.0, ""
    # The worst of a crop at any batch size is what it is named with.
    lowest = cosine.copy()
    for batch in (*(size for size in sizes(target) if size != target.optimum), -target.optimum):
        order = np.resize(others, max(len(others), abs(batch)))
        if batch < 0:
            # The same batch size with other batch-mates.
            order = np.random.default_rng([seed, 1]).permutation(order)
        got = rows.run(order, abs(batch))
        bad[order] |= ~np.isfinite(got).all(1)
        norms.append(_norm_error(got))
        np.minimum.at(lowest, order, row_cosine(got, known[order]))
        steady = float(row_cosine(got, rows.optimum[order]).min())
        if steady < invariance:
            invariance, where = steady, f"batch {abs(batch)} and {target.optimum}"
        if batch > 0:
            figures.append(replace(_compare(batch, got, known[order], fair), crops=len(others)))
    named = sizes(target)
    ordered = sorted((replace(item, why=named[item.batch]) for item in figures), key=lambda item: item.batch)
    order = np.argsort(lowest, kind="stable")[:_WORST]
    result = EmbeddingFigures(
        batches=tuple(ordered),
        invariance=invariance,
        not_finite=int(bad.sum()),
        norm_error=float(np.max(norms)),
        equal_rows=float((cosine >= EQUAL).mean()),
        worst=tuple((sample.names[row], float(lowest[row])) for row in order),
        cosine=cosine,
        names=sample.names,
    )
    notes = [f"At a batch of {batch} the target does not run: {why}." for batch, why in rows.failed.items()]
    checks = _checks(result, gates, count, where)
    if target.as_it_is is not None:
        some = worst[:_AS_IT_IS]
        check, note = _as_it_is(target.as_it_is, sample.images(some), known[some], gates)
        checks += check
        notes.append(note)
    return Embedded(
        known, rows.optimum, cosine, Stage("embeddings", result, tuple(checks), notes=tuple(notes))
    )


def sizes(target: Side) -> dict[int, str]:
    """Batch sizes that a target is run at, and why each: `{1: "one", 3: "odd", ...}`."""
    result: dict[int, str] = {}
    for size, why in (
        (1, "one"),
        (_ODD, "odd"),
        (target.optimum, "optimum"),
        (target.maximum, "maximum"),
        (target.maximum + 1, "over the maximum"),
    ):
        result[size] = f"{result[size]}, {why}" if size in result else why
    return result


def crops_run(target: Side, count: int) -> int:
    """How many crops `embed_both` runs the target on."""
    some = min(count, _SOME + _WORST_RUN)
    others = [max(some, size) for size in sizes(target) if size != target.optimum]
    return count + sum(others) + max(some, target.optimum)


class _Runner:
    """The target, crops decoded as they are needed; a batch that fails gives rows of NaN."""

    def __init__(self, target: Side, sample: Sample, progress: Callable[[int], object]) -> None:
        self._rows = target.rows
        self._dim = target.artefact.embedding_dim
        self.sample = sample
        self._progress = progress
        self.batch = target.optimum
        self.optimum = np.full((len(sample), self._dim), np.nan, np.float32)
        #: Why it failed, by batch size.
        self.failed: dict[int, str] = {}

    def run(self, order: np.ndarray, batch: int) -> np.ndarray:
        parts = [order[start : start + batch] for start in range(0, len(order), batch)]
        return np.concatenate([self.call(self.sample.images(part), batch) for part in parts])

    def call(self, images: np.ndarray, batch: int) -> np.ndarray:
        result = np.full((len(images), self._dim), np.nan, np.float32)
        try:
            rows = self._rows(images)
            if rows.shape == result.shape:
                result[:] = rows
            else:
                self.failed.setdefault(batch, f"it gives {rows.shape} for {len(images)} crops")
        except SanError as error:
            self.failed.setdefault(batch, str(error).rstrip("."))
        self._progress(len(images))
        return result


def _both(reference: Side, rows: _Runner, count: int) -> np.ndarray:
    """The reference's rows; those of the target go into `rows.optimum`."""
    known = np.empty((count, reference.artefact.embedding_dim), np.float32)
    with threads(1, "san-reference") as pool:
        for start in range(0, count, rows.batch):
            part = slice(start, min(start + rows.batch, count))
            images = rows.sample.images(range(part.start, part.stop))
            waiting = pool.submit(reference.rows, images)
            rows.optimum[part] = rows.call(images, rows.batch)
            got = waiting.result()
            if got.shape != known[part].shape or not np.abs(_norms(got) - 1.0).max() <= 1e-3:
                raise SanError(
                    f"the reference {reference.path} gives rows that are not finite, not of norm 1 or not of its size",
                    do="mend it first: nothing can be compared with it",
                )
            known[part] = got
    return known


def _compare(batch: int, rows: np.ndarray, known: np.ndarray, fair: int | None = None) -> BatchRows:
    """All rows for the extremes; the first `fair` for what is a share of all crops, where others were added."""
    cosine = row_cosine(rows, known)
    with np.errstate(all="ignore"):
        unit = rows.astype(np.float64) / _norms(rows)[:, None]
        # NaN where any is: a maximum over the others would look better than it is.
        apart = float(np.abs(unit - known).max())
    return BatchRows(
        batch=batch,
        why="",
        crops=len(rows),
        min_cosine=float(cosine.min()),
        p1_cosine=float(np.percentile(cosine[:fair], 1)),
        mean_cosine=float(cosine[:fair].mean()),
        max_abs=apart,
    )


def _norms(rows: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.asarray(np.linalg.norm(rows.astype(np.float64), axis=1))


def _norm_error(rows: np.ndarray) -> float:
    """Of the rows that are finite; NaN where none is."""
    finite = rows[np.isfinite(rows).all(1)]
    return float(np.abs(_norms(finite) - 1.0).max()) if len(finite) else float("nan")


def _some(count: int, worst: np.ndarray, seed: int) -> tuple[np.ndarray, int]:
    """Rows for the other batch sizes: some by seed, how many those are, and behind them the worst of the others."""
    fair = np.random.default_rng(seed).permutation(count)[:_SOME]
    others = worst[~np.isin(worst, fair)][:_WORST_RUN]
    return np.concatenate([fair, others]), len(fair)


def _checks(figures: EmbeddingFigures, gates: Gates, count: int, where: str) -> list[Check]:
    worst = ", ".join(f"{name} {cosine:.6f}" for name, cosine in figures.worst[:3])
    checks: list[Check] = []
    checks += gates.check(
        "finite",
        figures.not_finite,
        f"{figures.not_finite} of {count} crops have a row that is not finite, or none",
    )
    checks += gates.check(
        "norm",
        figures.norm_error,
        f"rows are off length 1 by up to {figures.norm_error:.3g}, before anything",
    )
    for gate, name in (
        ("min_cosine", "least"),
        ("p1_cosine", "1st percentile of the"),
        ("mean_cosine", "mean"),
    ):
        low = min(figures.batches, key=lambda item: float(getattr(item, gate)))
        told = f"{name} row cosine at batch {low.batch}, the worst of all sizes; worst crops: {worst}"
        checks += gates.check(gate, getattr(low, gate), told)
    # NaN first: no order holds for it.
    high = max(figures.batches, key=lambda item: (np.isnan(item.max_abs), item.max_abs))
    checks += gates.check("max_abs", high.max_abs, f"largest difference of unit rows, at batch {high.batch}")
    checks += gates.check(
        "batch_invariance",
        figures.invariance,
        "least cosine of a crop's rows in two batches" + (f", of {where}" if where else ""),
    )
    return checks


def _as_it_is(
    rows: Rows, images: np.ndarray, known: np.ndarray, gates: Gates
) -> tuple[tuple[Check, ...], str]:
    """An FP16 file without the roundings that were put in: it must run as well, and embed alike."""
    try:
        mean = float(row_cosine(rows(images), known).mean())
    except SanError as error:
        told = f"the file as it is does not run here: {error}"
        return gates.check("finite", len(images), told), told[0].upper() + told[1:]
    told = f"mean row cosine of the file as it is, in ONNX Runtime here, on the {len(images)} worst crops"
    return gates.check("mean_cosine", mean, told), f"{told[0].upper()}{told[1:]}: {mean:.6f}."
