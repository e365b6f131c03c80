"""Crops of which no rounding can flip a mask bit, told by their margins and by bounds of the rounding error."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx

from san_deploy.artefact import INPUT_NAME, Artefact

from ..graph.mask_branches import find_branches
from ..precision.fp16 import to_fp16
from .bounds import bounding_graph
from .result import Certified
from .stages.probes import onnx_probe, open_diagnostic, run

_BATCH = 8
_UNIT = 2.0**-24
_SIGMAS = 6.0
#: The medians are taken over every so many bits of a crop, at most.
_SAMPLE = 4096


def certify(
    model: onnx.ModelProto, images: np.ndarray, artefact: Artefact, *, precision: str
) -> tuple[Certified, ...]:
    """Look for crops with a certificate: whatever the order of sums and the choice of fusions, no bit flips.

    A bit of the target is that of the reference for certain where it is so for every X within the bounds of
    `bounds.bounding_graph`, minimum, maximum and the rounding of their sum included: these are taken over the
    channel, as the network does. What the bounds take for granted stands there, too: no Winograd convolutions and
    no TF32. A block's certificate counts where all blocks before it have one, since the bounds behind a block are
    those without a flip in it.

    The worst case of a deep network is far from what happens, since it lets every rounding push the same bit the
    same way: `likely` asks instead for six standard deviations of independent roundings. (Starter model, first
    block, FP16: roundings were 0.6 of the standard deviation, the largest of a million 3.8 of it, and 5e-6 of the
    worst case.)

    INT8 has none: what lies outside of a calibrated range is cut off, and no bound that is made of the values'
    roundings holds that. Neither has a mask that is no step: nothing flips.

    It costs about five times what the network costs: a hundred crops tell the shares.

    Args:
        model: the reference, FP32 with an argmax mask; the target is the same, or `fp16.to_fp16` of it.
        images: `(N, H, W, 3)` uint8 BGR, N >= 1.
        artefact: of `model`.
        precision: of the target: `fp32` or `fp16`; others have no certificate.

    Returns:
        One entry for each block, in order, as far as the mathematics reaches: an operator that the analysis does
        not know ends it. Empty without sharp blocks.

    Raises:
        SanError: the graph does not run.
    """
    if precision not in ("fp32", "fp16") or artefact.mask != "argmax" or not find_branches(model):
        return ()
    typed = to_fp16(model) if precision == "fp16" else model
    bounding, blocks, _ = bounding_graph(typed)
    if not blocks:
        return ()
    reference = onnx_probe(model, artefact)
    session = open_diagnostic(bounding, artefact)
    names = [name for block in blocks for name in (block.x, block.bound, block.variance)]
    counts = [_Count() for _ in blocks]
    for start in range(0, len(images), _BATCH):
        part = images[start : start + _BATCH]
        values = run(session, {INPUT_NAME: artefact.to_input(part)}, names)
        truth = reference(part)
        proven = likely = np.ones(len(part), bool)
        for index, count in enumerate(counts):
            x, bound, variance = (each.astype(np.float64) for each in values[3 * index : 3 * index + 3])
            proven, likely = count.add(truth[index].mask > 0.5, x, bound, variance, proven, likely)
    return tuple(count.figures(reference.blocks[index], precision) for index, count in enumerate(counts))


@dataclass
class _Count:
    """What the crops of one block add up to."""

    crops: int = 0
    proven: int = 0
    likely: int = 0
    bounds: list[np.ndarray] = field(default_factory=list)
    sigmas: list[np.ndarray] = field(default_factory=list)

    def add(
        self,
        bits: np.ndarray,
        x: np.ndarray,
        bound: np.ndarray,
        variance: np.ndarray,
        proven: np.ndarray,
        likely: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Take in some crops, `(n, C, h, w)` float64 each.

        Args:
            bits: of the reference.
            x: computed here.
            bound: of x.
            variance: of x.
            proven: `(n,)` whether all blocks before are proven.
            likely: likewise.

        Returns:
            `proven` and `likely` with this block.
        """
        error, deviation = _margin_errors(x, bound, variance)
        certainly = certain(bits, x, bound)
        proven = proven & certainly.all((1, 2, 3))
        distance = x - _middle(x)
        sure = np.where(bits, distance, -distance) >= _SIGMAS * deviation
        # A tie that no rounding reaches (a dead channel) stays a tie, which is 0; else it is anybody's.
        sure &= (distance != 0) | ((deviation == 0) & ~bits)
        # After few roundings the worst case is less than six deviations.
        likely = likely & (sure | certainly).all((1, 2, 3))
        span = np.ptp(x, axis=(2, 3), keepdims=True)
        alive = np.broadcast_to(span > 0, x.shape)
        scale = np.broadcast_to(np.where(span > 0, span, 1), x.shape)
        step = max(1, int(alive.sum()) // (_SAMPLE * len(x))) | 1
        self.bounds.append((error / scale)[alive][::step])
        self.sigmas.append((deviation / scale)[alive][::step])
        self.crops += len(x)
        self.proven += int(proven.sum())
        self.likely += int(likely.sum())
        return proven, likely

    def figures(self, name: str, precision: str) -> Certified:
        bounds, sigmas = np.concatenate(self.bounds), np.concatenate(self.sigmas)
        return Certified(
            block=name,
            precision=precision,
            crops=self.crops,
            proven=self.proven / self.crops,
            likely=self.likely / self.crops,
            bound=float(np.median(bounds)) if len(bounds) else 0.0,
            sigma=float(np.median(sigmas)) if len(sigmas) else 0.0,
        )


def certain(bits: np.ndarray, x: np.ndarray, bound: np.ndarray) -> np.ndarray:
    """Which bits are the same for all X within the bounds: X > (min + max) / 2, in FP32.

    Args:
        bits: of the reference, `(n, C, h, w)` bool.
        x: float64, likewise, as is `bound`.
        bound: of x; NaN and infinity bound nothing.

    Returns:
        Bool, shaped as `bits`.
    """
    touched = bound.any((2, 3), keepdims=True)
    with np.errstate(invalid="ignore"):
        low, high = x - bound, x + bound
        # Of the sum of minimum and maximum; half of it is exact. What float64 loses here is far below the factor 2.
        rounded = 2 * _UNIT * np.maximum(np.abs(_middle(low)), np.abs(_middle(high))) + 1e-36
        same = np.where(bits, low > _middle(high) + rounded, high <= _middle(low) - rounded)
    # Where nothing is rounded on the way, every computation has the same sum, and so the bits that are here.
    exact = x.astype(np.float32)
    middle = (exact.min((2, 3), keepdims=True) + exact.max((2, 3), keepdims=True)) * np.float32(0.5)
    result: np.ndarray = same | (~touched & (bits == (exact > middle)))
    return result


def _middle(x: np.ndarray) -> np.ndarray:
    middle: np.ndarray = (x.min((2, 3), keepdims=True) + x.max((2, 3), keepdims=True)) / 2
    return middle


def _margin_errors(x: np.ndarray, bound: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Worst case and standard deviation of X less the middle of its channel, `(n, C, h, w)` each."""
    flat = x.reshape(*x.shape[:2], -1)
    ends = np.stack([flat.argmin(2), flat.argmax(2)], 2)
    of_ends = np.take_along_axis(variance.reshape(flat.shape), ends, 2).sum(2) / 4
    with np.errstate(invalid="ignore"):
        low, high = x - bound, x + bound
        reach = np.maximum(_middle(high) - _middle(x), _middle(x) - _middle(low))
        worst = np.nan_to_num(bound + reach, nan=np.inf, posinf=np.inf)
    # The sum of minimum and maximum is rounded, too.
    own = np.square(_middle(x) * _UNIT) / 3
    return worst, np.sqrt(variance + of_ends[..., None, None] + own)
