"""Which range each value of a network takes on real crops: what INT8 scales are made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import onnx
from onnx import TensorProto

from san_deploy.artefact import INPUT_NAME
from san_deploy.backends.ort import onnxruntime, quiet_options
from san_deploy.errors import SanError

#: How ranges are cut: `minmax` not at all; `percentile` leaves out the `TAIL` that lies farthest from zero;
#: `entropy` keeps the range whose INT8 histogram tells most about the full one.
METHODS = ("minmax", "percentile", "entropy")
#: Share of the values that `percentile` leaves out.
TAIL = 1e-4
#: Share of the values other than zero that `entropy` cuts off, at most.
MOST_CUT = 1e-3
#: Fewer crops give ranges that the next crop leaves.
LEAST_CROPS = 8
_BINS = 2048
#: Bytes of values held at a time.
_HELD = 1 << 26
_LEVELS = 128
#: Where so many values are always zero, it is the crops that are no good, not a few dead units.
_DEAD_SHARE = 0.5
#: Values of a batch that a histogram takes, at most.
_SAMPLE = 1 << 17

Range = tuple[float, float]


def collect_ranges(
    model: onnx.ModelProto,
    crops: np.ndarray,
    names: Sequence[str],
    *,
    method: str,
    bytes_per_crop: int,
) -> dict[str, Range]:
    """Run a network on crops and see between which bounds its values lie.

    Args:
        model: FP32, input `crops` in either form; not changed.
        crops: `(N, H, W, 3)` uint8 BGR, prepared.
        names: values of the graph.
        method: one of `METHODS`.
        bytes_per_crop: of all `names` together, from which the batch follows: memory stays bounded.

    Returns:
        `{name: (low, high)}`, low <= 0 <= high, so that zero is exact.

    Raises:
        SanError: too few crops, a value that is not finite, or one that is the same everywhere and not a dead
            unit's zero.
    """
    if len(crops) < LEAST_CROPS:
        raise SanError(
            f"INT8 needs {LEAST_CROPS} crops or more to find its ranges on; received {len(crops)}",
            do="give some hundred crops of your own cameras",
        )
    batch = max(1, min(16, _HELD // max(bytes_per_crop, 1)))
    session = _session(model, names)
    bounds: dict[str, Range] = {}
    for name, values in _values(session, crops, names, batch):
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise SanError(
                f"the network gives values that are not finite at {name}",
                why="no INT8 range holds them",
                do="check the checkpoint and the crops",
            )
        before = bounds.get(name, (low, high))
        bounds[name] = min(before[0], low), max(before[1], high)
    dead = [name for name, bound in bounds.items() if bound == (0.0, 0.0)]
    for name, (low, high) in bounds.items():
        if low == high == 0 and len(dead) < _DEAD_SHARE * len(bounds):
            # A rectified path that training switched off: any scale holds a zero.
            bounds[name] = 0.0, 1.0
        elif low == high:
            raise SanError(
                f"value {name} of the network is {low:g} for all {len(crops)} crops",
                why="no INT8 scale follows from it",
                do="calibrate on different crops, of real people",
            )
    if method == "minmax":
        return {name: _with_zero(bounds[name]) for name in names}
    return _cut(session, crops, names, batch, bounds, method)


def _session(model: onnx.ModelProto, names: Iterable[str]) -> onnxruntime.InferenceSession:
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    outputs = {output.name for output in model.graph.output}
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in outputs)
    options = quiet_options()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(
        shown.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _values(
    session: onnxruntime.InferenceSession, crops: np.ndarray, names: Sequence[str], batch: int
) -> Iterator[tuple[str, np.ndarray]]:
    for start in range(0, len(crops), batch):
        fed = feed(crops[start : start + batch], planar=session.get_inputs()[0].type != "tensor(uint8)")
        yield from zip(names, session.run(list(names), {INPUT_NAME: fed}), strict=True)


def feed(crops: np.ndarray, *, planar: bool) -> np.ndarray:
    """`(N, H, W, 3)` uint8 BGR as a graph takes it: as it is, or float32 `(N, 3, H, W)` RGB."""
    if not planar:
        return crops
    return np.ascontiguousarray(crops[..., ::-1].transpose(0, 3, 1, 2), dtype=np.float32)


def is_planar(model: onnx.ModelProto) -> bool:
    """Whether a model takes float32 `(N, 3, H, W)`."""
    return model.graph.input[0].type.tensor_type.elem_type != TensorProto.UINT8


def _cut(
    session: onnxruntime.InferenceSession,
    crops: np.ndarray,
    names: Sequence[str],
    batch: int,
    bounds: dict[str, Range],
    method: str,
) -> dict[str, Range]:
    """A second pass: histograms of the values' sizes, and of each the largest size that is kept."""
    counts = {name: np.zeros(_BINS, np.int64) for name in names}
    for name, values in _values(session, crops, names, batch):
        size = max(abs(bound) for bound in bounds[name])
        # An odd step meets every row, column and channel.
        sample = values.ravel()[:: (values.size // _SAMPLE) | 1]
        places = np.minimum((np.abs(sample) * np.float32(_BINS / size)).astype(np.int32), _BINS - 1)
        counts[name] += np.bincount(places, minlength=_BINS)
    kept = _percentile if method == "percentile" else _entropy
    result = {}
    for name in names:
        low, high = _with_zero(bounds[name])
        if not counts[name][1:].any():
            result[name] = low, high
            continue
        most = kept(counts[name]) / _BINS * max(-low, high)
        result[name] = max(low, -most), min(high, most)
    return result


def _percentile(counts: np.ndarray) -> int:
    """How many bins, counted from zero, hold all but the tail."""
    return int(np.searchsorted(counts.cumsum(), (1 - TAIL) * counts.sum())) + 1


def _entropy(counts: np.ndarray) -> int:
    """How many bins, counted from zero, to keep: least Kullback-Leibler divergence of the INT8 histogram.

    Of those that cut off no more than `MOST_CUT`: divergence asks how often a value occurs, not how large it is: where
    most are close to zero, as masked features are, it would cut off all that carry the sum.
    """
    # Zeros are exact in every scale and would drown the rest.
    counts = counts.astype(np.float64)
    counts[0] = counts[1]
    best, least = _BINS, np.inf
    for kept in range(_LEVELS, _BINS + 1, 16):
        if counts[kept:].sum() > MOST_CUT * counts.sum():
            continue
        clipped = counts[:kept].copy()
        clipped[-1] += counts[kept:].sum()
        level = np.minimum(np.arange(kept) * _LEVELS // kept, _LEVELS - 1)
        filled = counts[:kept] > 0
        total = np.bincount(level, counts[:kept], _LEVELS)
        width = np.bincount(level, filled, _LEVELS)
        spread = np.where(filled, (total / np.maximum(width, 1))[level], 0)
        p, q = clipped / clipped.sum(), spread / max(spread.sum(), 1)
        seen = (p > 0) & (q > 0)
        divergence = float((p[seen] * np.log(p[seen] / q[seen])).sum())
        # What the cut moved into a bin that had nothing is lost.
        if np.any((p > 0) & (q == 0)):
            divergence = np.inf
        if divergence < least:
            best, least = kept, divergence
    return best


def _with_zero(bounds: Range) -> Range:
    return min(bounds[0], 0.0), max(bounds[1], 0.0)
