"""INT8: calibrated on crops, in the form of the runtime that will run it, and as much of it as accuracy allows.

The two forms (shared scales, unlike kernels):

- `tensorrt`: symmetric INT8 for inputs and weights of weighted ops, weights with a scale for each output
  channel, float bias. A residual sum takes its shortcut rounded and the convolution's result as it is: so
  TensorRT fuses convolution, sum and ReLU. Scales are numbers that FP16 holds, at opset 19 or later, so that
  `fp16.to_fp16` may type the rest FP16.
- `cpu`: uint8 values with a zero point, INT32 bias, sums and poolings in 8 bits, pixels normalised with the
  channels innermost. ONNX Runtime fuses all of it into its integer kernels; TensorRT refuses it.

Mask branches stay in floating point in both, and read the trunk before it is rounded: a rounded trunk flips
mask bits. So do pixels before the first rounding, the modules that the architecture's row names
(`Architecture.floating`) and the norm of the embedding.

What is lost all the same is lost in bits that noise on the trunk flips: with FP32's masks a row's 1 - cosine is
a thirteenth of what it is. The noise has no mean and as many bits go up as down, so bias correction (Nagel et al.
2019) gains nothing, and rounding weights with error feedback (GPTQ) gains 4 %: neither is here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import onnx

from san_deploy.artefact import INPUT_NAME
from san_deploy.backends.ort import onnxruntime, quiet_options
from san_deploy.errors import GateError, SanError

from ..graph.graph import view
from .qdq import prepared, write_int8
from .quantization_plan import FORMS, candidates, place, product_name
from .ranges import METHODS, Range, collect_ranges, feed, is_planar

#: The method of `ranges.METHODS` that lost least accuracy, docs/benchmarks.md.
METHOD = "entropy"
#: Crops that a layer's share in the loss is measured on.
_PROBES = 32
_BATCH = 8


def quantise(
    model: onnx.ModelProto,
    crops: np.ndarray,
    *,
    form: str,
    method: str = METHOD,
    reverted: Collection[str] = (),
    floating: Collection[str] = (),
) -> onnx.ModelProto:
    """Quantise a graph, ranges from crops.

    Args:
        model: FP32, with input `crops` in either form; not changed.
        crops: `(N, H, W, 3)` uint8 BGR, resized as for every other use; some hundred.
        form: `tensorrt` or `cpu`.
        method: how ranges are cut, one of `ranges.METHODS`.
        reverted: weighted ops that stay in floating point, named as `within` names them.
        floating: modules that stay in floating point, see `quantization_plan.candidates`.

    Returns:
        A checked model with the same inputs and outputs; the same bytes for the same arguments.

    Raises:
        SanError: nothing to quantise, too few crops or crops of another size, values that are not finite or
            the same everywhere, an unknown form, method or name.
    """
    ranges = _calibrate(model, crops, form=form, method=method, floating=floating)
    unknown = set(reverted) - set(candidates(model, view(model), form, floating))
    if unknown:
        raise SanError(f"the network has no layer {', '.join(sorted(unknown))} that INT8 could leave out")
    return write_int8(model, ranges, form=form, reverted=reverted, floating=floating)


def never_quantised(
    model: onnx.ModelProto, *, form: str = "tensorrt", floating: Collection[str] = ()
) -> tuple[str, ...]:
    """The convolutions that are never quantised, by name, in the order of the graph: those of masks and gates.

    In the form `cpu` transposed ones are among them.
    """
    graph = view(model)
    quantised = candidates(model, graph, form, floating)
    kinds = ("Conv", "ConvTranspose")
    names = [product_name(graph, node) for node in graph.nodes if node.op_type in kinds]
    return tuple(name for name in dict.fromkeys(names) if name not in quantised)


def within(
    model: onnx.ModelProto,
    crops: np.ndarray,
    loss: Callable[[onnx.ModelProto], float],
    max_drop: float,
    *,
    form: str,
    method: str = METHOD,
    floating: Collection[str] = (),
    report: Callable[[str], None] = lambda line: None,
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Quantise as much as `loss` allows.

    Where the whole loses too much, each layer is quantised alone to see what it costs, and the worst are
    given back to floating point: as few as bisection finds.

    Args:
        model: as for `quantise`.
        crops: likewise.
        form: likewise.
        method: likewise.
        floating: likewise.
        loss: what a quantised model loses, in the unit of `max_drop`; called a few times.
        max_drop: the most it may lose.
        report: takes one line for each step.

    Returns:
        The model, and the layers that were given back, the worst first.

    Raises:
        SanError: as for `quantise`.
        GateError: it loses too much with a single layer in INT8.
    """
    ranges = _calibrate(model, crops, form=form, method=method, floating=floating)
    result = write_int8(model, ranges, form=form, floating=floating)
    lost = loss(result)
    report(f"all layers in INT8: {_lost(lost)}")
    if lost <= max_drop:
        return result, ()
    names = list(candidates(model, view(model), form, floating))
    report(f"more than {max_drop:g}; measuring what each of {len(names)} layers costs")
    ranked = _ranked(model, crops[:_PROBES], ranges, names, form)
    # Given back `bad` layers it loses too much, given back `good` ones it does not: all of them is FP32.
    bad, good = 0, len(ranked)
    while good - bad > 1:
        count = (bad + good) // 2
        candidate = write_int8(model, ranges, form=form, reverted=ranked[:count], floating=floating)
        lost = loss(candidate)
        report(f"{count} of {len(ranked)} layers given back: {_lost(lost)}")
        if lost <= max_drop:
            good, result = count, candidate
        else:
            bad = count
    if good == len(ranked):
        raise GateError(
            f"INT8 loses more than {max_drop:g} of accuracy, even with one layer alone in it ({_lost(lost)})",
            do="allow more with --max-drop, calibrate on more crops of your own cameras, or use --fp16",
        )
    return result, tuple(ranked[:good])


def _lost(value: float) -> str:
    return f"{value:.4f} lost" if value > 0 else f"nothing lost ({-value:.4f} gained)"


def _calibrate(
    model: onnx.ModelProto, crops: np.ndarray, *, form: str, method: str, floating: Collection[str]
) -> dict[str, Range]:
    """Ranges of all that any choice of layers might round."""
    for what, value, known in (("form", form, FORMS), ("method", method, METHODS)):
        if value not in known:
            raise SanError(f"the {what} of INT8 is one of {', '.join(known)}; received {value}")
    _check_crops(model, crops)
    model = prepared(model, form)
    graph = view(model)
    weighted = {index for indices in candidates(model, graph, form, floating).values() for index in indices}
    if not weighted:
        raise SanError("the network has no product with a constant weight that INT8 could speed up")
    # With layers given back fewer values are rounded, never others.
    names = sorted(place(graph, frozenset(weighted), form).values)
    shapes = [graph.shapes.get(name, ()) for name in names]
    size = sum(4 * int(np.prod([dimension or 1 for dimension in shape])) for shape in shapes)
    return collect_ranges(model, crops, names, method=method, bytes_per_crop=size)


def _check_crops(model: onnx.ModelProto, crops: np.ndarray) -> None:
    dims = [item.dim_value for item in model.graph.input[0].type.tensor_type.shape.dim]
    height, width = dims[2:] if is_planar(model) else dims[1:3]
    if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[1:] != (height, width, 3):
        raise SanError(
            f"calibration takes crops of (N, {height}, {width}, 3) uint8 BGR",
            why=f"received {crops.shape} {crops.dtype}",
        )


def _ranked(
    model: onnx.ModelProto, crops: np.ndarray, ranges: dict[str, Range], names: list[str], form: str
) -> list[str]:
    """Layers by what each costs when it alone is quantised, the costliest first.

    Cost: mean of 1 - cosine over the rows of `crops`; no labels, and steadier than a rank.
    """
    reference = _embed(model, crops)
    cost = {}
    # All layers that INT8 may take are in `names`; what no layer reads then is no value of the plan.
    every = candidates(model, view(model), form)
    for name in names:
        alone = write_int8(model, ranges, form=form, reverted=[other for other in every if other != name])
        cost[name] = float(1 - (_embed(alone, crops) * reference).sum(1).mean())
    return sorted(names, key=lambda name: -cost[name])


def _embed(model: onnx.ModelProto, crops: np.ndarray) -> np.ndarray:
    """Unit rows, `(N, D)`."""
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), quiet_options(), providers=["CPUExecutionProvider"]
    )
    planar = is_planar(model)
    rows = [
        session.run(None, {INPUT_NAME: feed(crops[start : start + _BATCH], planar=planar)})[0]
        for start in range(0, len(crops), _BATCH)
    ]
    return np.concatenate(rows)
