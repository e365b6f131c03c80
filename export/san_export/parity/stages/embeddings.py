"""Rows of embeddings: every crop at the batch size that the target is best at, some of them at every other size."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from san_deploy.errors import SanError
from san_deploy.io.prefetch import in_order, threads

from ...verify import EQUAL, row_cosine
from ..gates import Gates
from ..models import ModelPair, ParityModel, Rows
from ..result import BatchRows, Check, EmbeddingFigures, Stage
from ..sample import Sample

#: An odd few: runtimes handle even ones, and one, as special cases.
_ODD = 3
#: Crops that are run at the other batch sizes; the worst ones are among them.
_SOME, _WORST_RUN = 24, 8
#: Worst crops that are named.
_WORST = 8
#: Crops that an FP16 file is run on as it lies on the disk.
_AS_IT_IS = 32
Report = Callable[[int], object]


@dataclass(frozen=True, eq=False)
class EmbeddedPair:
    """What both models give.

    Attributes:
        reference: `(N, D)` float32 unit rows.
        target: `(N, D)` float32 rows as they came at the optimum batch; NaN where the target gave none.
        cosine: `(N,)` float64 of each row with its reference.
        stage: of the run.
    """

    reference: np.ndarray
    target: np.ndarray
    cosine: np.ndarray
    stage: Stage

    @property
    def worst(self) -> np.ndarray:
        """`(N,)` rows, the worst cosine first."""
        return np.argsort(self.cosine, kind="stable")


def embed_pair(
    pair: ModelPair,
    sample: Sample,
    gates: Gates,
    *,
    seed: int = 0,
    progress: Report = lambda count: None,
) -> EmbeddedPair:
    """Embed a sample with both models and compare row by row.

    Args:
        pair: the reference's rows must be good; the target may give anything: a row that is not finite fails.
        sample: crops; rows are kept, crops are not.
        gates: what to reach.
        seed: of the crops that the other batch sizes are run on.
        progress: called with the number of crops that are done, `crops_run` in all.

    Raises:
        SanError: the reference fails, or gives rows that are not finite or not of norm 1; rows that another program
            computed are not of these crops.
    """
    target = pair.target
    known = _reference_rows(pair.reference, sample, progress)
    if target.outputs is not None:
        return _given(target.outputs.of(sample.names), known, sample, gates)
    runner = _Runner(target, sample, progress)
    found = runner.run(np.arange(len(sample)), target.optimum)
    figures, where = _compare_batches(runner, found, known, seed)
    notes = [f"At a batch of {batch} the target does not run: {why}." for batch, why in runner.failed.items()]
    checks = _checks(figures, gates, len(sample), where)
    cosine = figures.cosine
    if target.as_it_is is not None:
        some = np.argsort(cosine, kind="stable")[:_AS_IT_IS]
        check, note = _as_it_is(target.as_it_is, sample.images(some, target.resize), known[some], gates)
        checks += check
        notes.append(note)
    return EmbeddedPair(known, found, cosine, Stage("embeddings", figures, tuple(checks), notes=tuple(notes)))


def batch_sizes(target: ParityModel) -> dict[int, str]:
    """Batch sizes that a target is run at, and why each: `{1: "one", 3: "odd", ...}`."""
    if target.fixed:
        return {target.optimum: "the only one that it takes"}
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


def crops_run(pair: ModelPair, count: int) -> int:
    """How many crops `embed_pair` runs both models on."""
    if pair.target.outputs is not None:
        return count
    target = pair.target
    some = min(count, _SOME + _WORST_RUN)
    others = [max(some, size) for size in batch_sizes(target) if size != target.optimum]
    return 2 * count + sum(others) + max(some, target.optimum)


class _Runner:
    """A model, crops decoded as they are needed; a batch that fails gives rows of NaN."""

    def __init__(self, model: ParityModel, sample: Sample, progress: Report) -> None:
        self.model, self.sample, self._progress = model, sample, progress
        #: Why it failed, by batch size.
        self.failed: dict[int, str] = {}

    def run(self, order: np.ndarray, batch: int) -> np.ndarray:
        """`(n, D)` rows of crops, `batch` a call, as many calls at a time as the model takes."""
        parts = [order[start : start + batch] for start in range(0, len(order), batch)]
        rows = []
        with threads(self.model.calls, "san-parity") as pool:
            calls = self.model.calls
            # What takes one call at a time may belong to this thread, as CUDA's context does.
            every = in_order(pool, self._call, parts, ahead=calls) if calls > 1 else map(self._call, parts)
            for part, got in zip(parts, every, strict=True):
                rows.append(self._checked(got, len(part), batch))
                self._progress(len(part))
        return np.concatenate(rows)

    def _call(self, part: np.ndarray) -> np.ndarray | SanError:
        try:
            return self.model.rows(self.sample.images(part, self.model.resize))
        except SanError as error:
            return error

    def _checked(self, got: np.ndarray | SanError, count: int, batch: int) -> np.ndarray:
        result = np.full((count, self.model.artefact.embedding_dim), np.nan, np.float32)
        if isinstance(got, SanError):
            self.failed.setdefault(batch, str(got).rstrip("."))
        elif got.shape != result.shape:
            self.failed.setdefault(batch, f"it gives {got.shape} for {count} crops")
        else:
            result[:] = got
        return result


def _reference_rows(reference: ParityModel, sample: Sample, progress: Report) -> np.ndarray:
    runner = _Runner(reference, sample, progress)
    known = runner.run(np.arange(len(sample)), reference.optimum)
    if why := next(iter(runner.failed.values()), ""):
        raise SanError(f"the reference {reference.path} does not run", why=why)
    if not np.abs(_norms(known) - 1.0).max() <= 1e-3:
        raise SanError(
            f"the reference {reference.path} gives rows that are not finite, not of norm 1 or not of its size",
            do="mend it first: nothing can be compared with it",
        )
    return known


def _given(rows: np.ndarray, known: np.ndarray, sample: Sample, gates: Gates) -> EmbeddedPair:
    """Rows that another program computed: how it batches its crops is not seen."""
    if rows.shape != known.shape:
        raise SanError(
            f"the other program's rows have {rows.shape[1]} numbers, the reference's {known.shape[1]}",
            do="compare with the network that it runs",
        )
    cosine = row_cosine(rows, known)
    order = np.argsort(cosine, kind="stable")[:_WORST]
    figures = EmbeddingFigures(
        batches=(replace(_compare(0, rows, known), why="as they were given"),),
        invariance=1.0,
        not_finite=int((~np.isfinite(rows).all(1)).sum()),
        norm_error=_norm_error(rows),
        equal_rows=float((cosine >= EQUAL).mean()),
        worst=tuple((sample.names[row], float(cosine[row])) for row in order),
        cosine=cosine,
        names=sample.names,
    )
    checks = [c for c in _checks(figures, gates, len(sample), "") if c.gate != "batch_invariance"]
    return EmbeddedPair(known, rows, cosine, Stage("embeddings", figures, tuple(checks)))


def _compare_batches(
    runner: _Runner, found: np.ndarray, known: np.ndarray, seed: int
) -> tuple[EmbeddingFigures, str]:
    """The figures of every batch size, and at which two sizes a crop's rows differ most."""
    target, sample = runner.model, runner.sample
    cosine = row_cosine(found, known)
    others, fair = _some(len(sample), np.argsort(cosine, kind="stable"), seed)
    figures = [_compare(target.optimum, found, known)]
    bad = np.asarray(~np.isfinite(found).all(1))
    norms = [_norm_error(found)]
    invariance, where = 1.0, ""
    # The worst of a crop at any batch size is what it is named with.
    lowest = cosine.copy()
    sizes = batch_sizes(target)
    for batch in (*(size for size in sizes if size != target.optimum), -target.optimum):
        order = np.resize(others, max(len(others), abs(batch)))
        if batch < 0:
            # The same batch size with other batch-mates.
            order = np.random.default_rng([seed, 1]).permutation(order)
        got = runner.run(order, abs(batch))
        bad[order] |= ~np.isfinite(got).all(1)
        norms.append(_norm_error(got))
        np.minimum.at(lowest, order, row_cosine(got, known[order]))
        steady = float(row_cosine(got, found[order]).min())
        if steady < invariance:
            invariance, where = steady, f"batch {abs(batch)} and {target.optimum}"
        if batch > 0:
            figures.append(replace(_compare(batch, got, known[order], fair), crops=len(others)))
    order = np.argsort(lowest, kind="stable")[:_WORST]
    result = EmbeddingFigures(
        batches=tuple(
            sorted((replace(item, why=sizes[item.batch]) for item in figures), key=lambda item: item.batch)
        ),
        invariance=invariance,
        not_finite=int(bad.sum()),
        norm_error=float(np.max(norms)),
        equal_rows=float((cosine >= EQUAL).mean()),
        worst=tuple((sample.names[row], float(lowest[row])) for row in order),
        cosine=cosine,
        names=sample.names,
    )
    return result, where


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

    def check(gate: str, value: float, message: str) -> None:
        checks.extend(gates.check(gate, value, message))

    check(
        "finite",
        figures.not_finite,
        f"{figures.not_finite} of {count} crops have a row that is not finite, or none",
    )
    check("norm", figures.norm_error, f"rows are off length 1 by up to {figures.norm_error:.3g}")
    for gate, name in (
        ("min_cosine", "least"),
        ("p1_cosine", "1st percentile of the"),
        ("mean_cosine", "mean"),
    ):
        # A percentile of the few crops that other batch sizes are run on is their minimum.
        most = max(item.crops for item in figures.batches)
        batches = [item for item in figures.batches if gate != "p1_cosine" or item.crops == most]
        low = min(batches, key=lambda item: float(getattr(item, gate)))
        at = f" at batch {low.batch}, the worst of all sizes" if len(batches) > 1 else ""
        check(gate, getattr(low, gate), f"{name} row cosine{at}; worst crops: {worst}")
    # NaN first: no order holds for it.
    high = max(figures.batches, key=lambda item: (np.isnan(item.max_abs), item.max_abs))
    check("max_abs", high.max_abs, f"largest difference of unit rows, at batch {high.batch}")
    check(
        "batch_invariance",
        figures.invariance,
        "least cosine of a crop's rows in two batches" + (f", of {where}" if where else ""),
    )
    return checks


def _as_it_is(rows: Rows, images: np.ndarray, known: np.ndarray, gates: Gates) -> tuple[Iterable[Check], str]:
    """An FP16 file without the roundings that were put in: it must run as well, and embed alike."""
    try:
        mean = float(row_cosine(rows(images), known).mean())
    except SanError as error:
        message = f"the file as it is does not run here: {error}"
        return gates.check("finite", len(images), message), message[0].upper() + message[1:]
    message = f"mean row cosine of the file as it is, in ONNX Runtime here, on the {len(images)} worst crops"
    return gates.check("mean_cosine", mean, message), f"{message[0].upper()}{message[1:]}: {mean:.6f}."
