"""Whether an exported file gives what the trained network gives: crops, figures, and apart from them the verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from san_deploy.backends.onnxruntime import OnnxRuntime
from san_deploy.errors import SanError
from san_deploy.images import UnreadableImage, list_crops, spread
from san_deploy.preprocess import RESIZE, read_crop, resize_crop

#: Crops per call: one, an odd few, and more than any runtime handles as a special case.
BATCHES = (1, 3, 16)
#: A row at least this near is equal up to rounding; one below it has a mask bit that fell the other way.
EQUAL = 0.99999
#: Crops to check on: a multiple of every batch of `BATCHES`, few enough for a ResNet-50 on two cores.
COUNT = 48
#: The mask that is advised where argmax's step costs too much: the narrowest ramp that held 0.9999 in FP16.
STEADIER_MASK = "ramp:0.0625"
#: How many of the worst crops a message names.
_WORST = 3


@dataclass(frozen=True)
class CheckCrops:
    """Crops to check on.

    Attributes:
        images: `(N, H, W, 3)` uint8 BGR, resized as for every other use.
        names: N names, for messages.
        source: whose they are, in words.
        unreadable: files that were passed over.
    """

    images: np.ndarray
    names: tuple[str, ...]
    source: str
    unreadable: int = 0


def read_crops(
    folder: Path, size_hw: tuple[int, int], count: int = COUNT, *, resize: str = RESIZE
) -> CheckCrops:
    """Up to `count` crops of a folder, spread evenly over its cameras and tracklets; always the same ones.

    Raises:
        SanError: no such folder, no image in it, or none that can be read.
    """
    paths = list(list_crops(folder))
    images, names, unreadable = [], [], 0
    for path in spread(paths, count):
        try:
            images.append(read_crop(folder / path, size_hw, resize))
            names.append(path.as_posix())
        except UnreadableImage:
            unreadable += 1
    if not images:
        raise SanError(f"none of the crops in {folder} can be read", why=f"{unreadable} were tried")
    return CheckCrops(np.stack(images), tuple(names), f"crops of {folder.resolve().name}", unreadable)


def check_crops(
    folder: Path | None, size_hw: tuple[int, int], report: Callable[[str], None], *, resize: str = RESIZE
) -> CheckCrops:
    """The crops of `folder`, or the sample crops where there is none; `report` takes a line on unreadable files."""
    chosen = (
        sample_crops(size_hw, resize=resize) if folder is None else read_crops(folder, size_hw, resize=resize)
    )
    report_unreadable(chosen.unreadable, report)
    return chosen


def report_unreadable(count: int, report: Callable[[str], None]) -> None:
    """Report how many files were passed over, where there are any."""
    if count:
        report(f"{count} of the crops cannot be read and {'is' if count == 1 else 'are'} passed over")


def sample_crops(size_hw: tuple[int, int], count: int = COUNT, *, resize: str = RESIZE) -> CheckCrops:
    """`count` of the sample crops that ship with the package, spread over their cameras; always the same."""
    from san_deploy.data.samples import read_samples

    samples = read_samples(count)
    images = [resize_crop(sample.read(), size_hw, resize) for sample in samples]
    return CheckCrops(np.stack(images), tuple(sample.name for sample in samples), "sample crops")


@dataclass(frozen=True)
class Gate:
    """What a comparison must reach, at every batch size. -1 asks for nothing.

    Attributes:
        min_cosine: of the worst row with its reference.
        p1_cosine: of the row that 1 % of the rows are below.
        mean_cosine: over the rows.
    """

    min_cosine: float
    p1_cosine: float = -1.0
    mean_cosine: float = -1.0

    @property
    def steady(self) -> float:
        """The least cosine of a crop's row with its row in another batch: no gate is finer than the rows' own."""
        return max(self.min_cosine, self.p1_cosine)

    def as_dict(self) -> dict[str, float]:
        """What is asked for, for JSON."""
        return {key: value for key, value in asdict(self).items() if value > -1.0}

    def __str__(self) -> str:
        names = {"min_cosine": "minimum", "p1_cosine": "1st percentile", "mean_cosine": "mean"}
        return ", ".join(f"{names[key]} {value:g}" for key, value in self.as_dict().items()) or "none"


@dataclass(frozen=True)
class BatchFigures:
    """One batch size against the reference.

    Attributes:
        batch: crops per call.
        min_cosine: of a row with its reference; the mean would hide a flipped mask bit.
        p1_cosine: 1st percentile over the rows.
        mean_cosine: likewise the mean.
        max_abs: largest difference of two numbers of unit rows.
        equal_rows: share of the rows that are equal up to rounding (`EQUAL`).
    """

    batch: int
    min_cosine: float
    p1_cosine: float
    mean_cosine: float
    max_abs: float
    equal_rows: float


@dataclass(frozen=True)
class Parity:
    """An exported network against another form of it.

    Attributes:
        reference: what it was compared with: `torch fp32`, or `onnx fp32`.
        crops: how many were compared.
        source: whose they are, in words.
        batches: one entry for each of `BATCHES`.
        invariance: least cosine of a crop's row with that same crop's row in another batch or among others.
        worst: (name, cosine) of the worst crops over all batch sizes, the worst first.
    """

    reference: str
    crops: int
    source: str
    batches: tuple[BatchFigures, ...]
    invariance: float
    worst: tuple[tuple[str, float], ...]

    @property
    def min_cosine(self) -> float:
        """The least over all batch sizes."""
        return min(figures.min_cosine for figures in self.batches)

    def as_dict(self) -> dict[str, Any]:
        """For `Artefact.checks`. Rounded to what FP32 can tell, so that equal exports have equal bytes."""
        return {
            "reference": self.reference,
            "crops": self.crops,
            "source": self.source,
            "min_cosine": {str(figures.batch): round(figures.min_cosine, 7) for figures in self.batches},
            "p1_cosine": {str(figures.batch): round(figures.p1_cosine, 7) for figures in self.batches},
            "mean_cosine": {str(figures.batch): round(figures.mean_cosine, 7) for figures in self.batches},
            "max_abs": {str(figures.batch): float(f"{figures.max_abs:.1e}") for figures in self.batches},
            "equal_rows": {str(figures.batch): round(figures.equal_rows, 4) for figures in self.batches},
            "batch_invariance": round(self.invariance, 7),
        }


#: What is asked of row cosines where nobody asks for anything else, by precision and kind of mask (`mask_kind`); `san
#: export` and `san parity` both read it here.
#:
#: FP32 against PyTorch: a smooth mask carries rounding on as rounding; argmax turns it, now and then, into a flipped
#: bit that the later blocks multiply. Measured with a half-width ResNet-18 after 20 steps and a quarter-width one
#: after 360, 96 drawn and 96 or 480 real crops: least rows of 0.969 and 0.9999998 with argmax (1-2 % and none of the
#: rows touched), 0.99995 with ramp:1/256, 0.9999997 with ramp:1/64, above that with smoother ones.
#:
#: FP16 and INT8 against the FP32 file: docs/parity.md has what the starter model reaches. INT8 flips bits of an
#: argmax whose cost a cosine overstates: the starter's file for CPUs has a 1st percentile of 0.969 and a mean of 0.984
#: on 1,425 crops and loses 0.07 points of rank-1 and no tracklet (san_deploy/data/starter.md).
GATES: dict[tuple[str, str], Gate] = {
    ("fp32", "argmax"): Gate(0.999),
    ("fp32", "ramp"): Gate(0.9999),
    ("fp32", "smooth"): Gate(0.99999),
    ("fp16", "argmax"): Gate(-1.0, p1_cosine=0.98, mean_cosine=0.998),
    ("fp16", "ramp"): Gate(0.999),
    ("fp16", "smooth"): Gate(0.999),
    ("int8", "argmax"): Gate(-1.0, p1_cosine=0.95, mean_cosine=0.97),
    ("int8", "ramp"): Gate(-1.0, p1_cosine=0.97, mean_cosine=0.99),
    ("int8", "smooth"): Gate(-1.0, p1_cosine=0.97, mean_cosine=0.99),
}


def mask_kind(mask: str) -> str:
    """`argmax`, `ramp` or `smooth` of a mask as in `Artefact.mask`; smooth: the expected mask, a soft one, or none."""
    kind = mask.partition(":")[0]
    return kind if kind in ("argmax", "ramp") else "smooth"


def default_gate(mask: str, precision: str = "fp32") -> Gate:
    """What an export must reach where nobody asks for anything else: a row of `GATES`."""
    return GATES[precision, mask_kind(mask)]


def measure(
    embed: Callable[[np.ndarray], np.ndarray],
    reference: np.ndarray,
    crops: CheckCrops,
    *,
    name: str = "torch fp32",
    batches: tuple[int, ...] = BATCHES,
) -> Parity:
    """Run an exported network at every batch size and compare row by row.

    Args:
        embed: `(n, H, W, 3)` uint8 BGR to `(n, D)` float32, as the edge calls it.
        reference: `(N, D)` float32 of the reference on the same crops.
        crops: N crops.
        name: of the reference, for the figures.
        batches: crops per call, rising.

    Returns:
        The figures; NaN anywhere gives cosines of -1, which no gate lets pass.
    """
    count = len(crops.images)
    # Fewer crops than the largest batch are repeated, so that every batch size is really run.
    order = np.resize(np.arange(count), max(count, *batches))
    shuffled = np.random.default_rng(0).permutation(order)
    figures = []
    lowest = np.full(count, np.inf)
    alone: np.ndarray | None = None
    invariance = 1.0
    for batch in batches:
        rows = embed_in_batches(embed, crops.images[order], batch)
        cosine = row_cosine(rows, reference[order])
        np.minimum.at(lowest, order, cosine)
        figures.append(
            BatchFigures(
                batch=batch,
                min_cosine=float(cosine.min()),
                p1_cosine=float(np.percentile(cosine, 1)),
                mean_cosine=float(cosine.mean()),
                max_abs=float(np.abs(rows.astype(np.float64) - reference[order]).max()),
                equal_rows=float((cosine >= EQUAL).mean()),
            )
        )
        if alone is None:
            alone = rows
        invariance = min(invariance, float(row_cosine(rows, alone).min()))
    assert alone is not None
    # The same batch size with other batch-mates.
    mixed = embed_in_batches(embed, crops.images[shuffled], batches[-1])
    invariance = min(invariance, float(row_cosine(mixed, alone[shuffled]).min()))
    worst = tuple((crops.names[i], float(lowest[i])) for i in np.argsort(lowest, kind="stable")[:_WORST])
    return Parity(name, count, crops.source, tuple(figures), invariance, worst)


def judge(parity: Parity, gate: Gate) -> list[str]:
    """What fails: nothing, or one phrase for each figure that misses its gate."""
    what = {"torch fp32": "ONNX Runtime against PyTorch"}.get(parity.reference, f"against {parity.reference}")
    failures = []
    for key, name in (
        ("min_cosine", "minimum"),
        ("p1_cosine", "1st percentile of the"),
        ("mean_cosine", "mean"),
    ):
        asked = getattr(gate, key)
        # Written so that NaN, too, is below.
        below = [figures for figures in parity.batches if not getattr(figures, key) >= asked]
        if not below:
            continue
        figures = min(below, key=lambda item: float(getattr(item, key)))
        message = (
            f"{what} has a {name} row cosine of {getattr(figures, key):.6f} "
            f"at batch {figures.batch} over {parity.crops} {parity.source}, the gate is {asked:g}"
        )
        worst = ", ".join(f"{crop} {cosine:.6f}" for crop, cosine in parity.worst if cosine < asked)
        failures.append(message + (f" (worst: {worst})" if worst else ""))
    steady = gate.steady
    if not parity.invariance >= steady:
        failures.append(
            f"a crop's embedding depends on its batch: row cosine {parity.invariance:.6f}, "
            f"the gate is {steady:g}"
        )
    return failures


def open_checked(path: Path) -> OnnxRuntime:
    """The file as the checks run it: a batch is one call, which more threads would cut into parts."""
    return OnnxRuntime(path, threads=1)


def row_cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of each row of `a` with the same row of `b`, both `(N, D)`, in float64: `(N,)`, at most 1.

    A row that is zero or not finite has cosine -1: it is no embedding.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        cosine = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return np.where(np.isfinite(cosine), np.minimum(cosine, 1.0), -1.0)


def embed_in_batches(embed: Callable[[np.ndarray], np.ndarray], images: np.ndarray, batch: int) -> np.ndarray:
    """`(N, D)` of `(N, H, W, 3)`, `batch` crops a call; the last call may have fewer."""
    return np.concatenate([embed(images[i : i + batch]) for i in range(0, len(images), batch)])
