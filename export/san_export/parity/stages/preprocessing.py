"""The same crops through the training path and through the target's: pixels, then what the first convolution sees."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import NodeProto

from san_deploy.artefact import INPUT_NAME, Artefact
from san_deploy.errors import SanError
from san_deploy.images import read_image
from san_deploy.preprocess import resize_crop

from ...graph.graph import Graph, ancestors, copy_with, view
from ..gates import Gates
from ..models import Sides
from ..result import PreprocessingFigures, Stage
from ..sample import Sample
from .probes import open_diagnostic, run

#: Crops that are looked at, and at a time.
_CROPS, _BATCH = 256, 32
#: Change the place of a value, and nothing else.
_TURNING = frozenset({"Identity", "Transpose"})
#: What may stand between a normalised value and an 8-bit convolution. A Cast alone is FP16, which the convolution sees.
_QUANTISING = _TURNING | {"Cast", "DequantizeLinear", "QuantizeLinear"}
Input = Callable[[np.ndarray], np.ndarray]


def compare_preprocessing(
    sides: Sides,
    sample: Sample,
    gates: Gates,
    *,
    seed: int = 0,
    progress: Callable[[int], object] = lambda count: None,
) -> Stage:
    """Compare what both networks are given of the same files.

    Args:
        sides: a checkpoint's path is the one of training: `train.evaluate.load_crops`, `train.data.normalise`. An
            ONNX file's is its own graph.
        sample: crops; as the runtime reads them.
        gates: what to reach.
        seed: of the crops that are looked at.
        progress: told of crops that are done, `crops_seen` in all.

    Raises:
        SanError: the reference's graph cannot be looked into.
    """
    notes = []
    reference, target = _reference_input(sides), None
    if reference is None:
        notes.append("The reference's graph starts with no convolution: its normalised input is not seen.")
    elif sides.own_graph is None:
        notes.append("What the engine normalises is not seen: pixels and descriptions alone are compared.")
    else:
        target = graph_input(sides.own_graph, sides.target.artefact)
        if target is None:
            notes.append("The target's graph starts with no convolution: its normalised input is not seen.")
    differ, equal, values = 0, 0, 0
    apart, reordered = 0.0, 0.0
    worst = ""
    rows = np.sort(np.random.default_rng([seed, 2]).permutation(len(sample))[:_CROPS])
    for start in range(0, len(rows), _BATCH):
        part = rows[start : start + _BATCH]
        images = sample.images(part)
        trained = _trained_pixels(sides, sample, part)
        differ += int((images != trained).sum())
        if reference is not None and target is not None:
            first, second = reference(trained), target(images)
            difference = np.abs(first.astype(np.float64) - second)
            equal += int((difference == 0).sum())
            values += difference.size
            each = difference.reshape(len(part), -1).max(1)
            # NaN is the largest of all, and stays.
            if not (each.max() <= apart or np.isnan(apart)):
                apart, worst = float(each.max()), sample.names[part[int(np.argmax(each))]]
            reordered = max(reordered, float(np.abs(first - second[:, ::-1]).max()))
        progress(len(part))
    figures = PreprocessingFigures(
        crops=len(rows),
        pixels_differ=differ,
        input_max_abs=apart if values else (0.0 if differ == 0 else float("nan")),
        input_equal=equal / values if values else 1.0 - differ / (len(rows) * images[0].size),
        worst=worst,
    )
    if apart > 0.01 and reordered <= 0.001:
        notes.append("They agree with the channels in the other order: red and blue are swapped.")
    notes += _declared(sides)
    told = f"largest difference of the normalised input on {len(rows)} crops" + (
        f", in {worst}" if worst else ""
    )
    if differ:
        told += f"; {differ} decoded values differ"
    checks = gates.check("preprocess_equal", figures.input_max_abs, told)
    return Stage("preprocessing", figures, checks, notes=tuple(notes))


def crops_seen(count: int) -> int:
    """How many crops `compare_preprocessing` looks at."""
    return min(count, _CROPS)


def graph_input(model: onnx.ModelProto, artefact: Artefact) -> Input | None:
    """What a graph's first convolution sees, before anything quantises it.

    Args:
        model: FP32, or FP16 in its rounded form; not changed.
        artefact: of it; says in which order the channels come.

    Returns:
        A function from crops, `(n, H, W, 3)` uint8 BGR, to `(n, 3, H, W)` float32 in the order RGB. None where no
        convolution reads the pixels.

    Raises:
        SanError: the graph cannot be looked into.
    """
    graph = view(model)
    name = _first_seen(graph)
    if name is None:
        return None
    needed = ancestors(graph, [graph.producer[name]], set(range(graph.producer[name])))
    nodes = [graph.nodes[index] for index in sorted(needed)]
    read = {item for node in nodes for item in node.input}
    weights = [tensor for tensor in model.graph.initializer if tensor.name in read]
    part = copy_with(model, nodes, weights)
    del part.graph.output[:]
    part.graph.output.append(onnx.ValueInfoProto(name=name))
    session = open_diagnostic(part, artefact)

    def seen(images: np.ndarray) -> np.ndarray:
        (values,) = run(session, {INPUT_NAME: artefact.to_input(images)}, [name])
        if values.ndim != 4 or 3 not in (values.shape[1], values.shape[3]):
            raise SanError(f"the first convolution takes values of {values.shape}")
        if values.shape[1] != 3:
            values = values.transpose(0, 3, 1, 2)
        # uint8 comes as BGR, and no channel is moved: the convolution's weights are.
        return values[:, ::-1] if artefact.input == "uint8" else values

    return seen


def _first_seen(graph: Graph) -> str | None:
    """The value that the first convolution on the input reads; None where there is none."""
    after = set(graph.inputs)
    for node in graph.nodes:
        if not after & set(node.input):
            continue
        if node.op_type == "Conv":
            return _before(graph, node)
        after.update(node.output)
    return None


def _before(graph: Graph, node: NodeProto) -> str | None:
    """What a convolution reads, or what was quantised to be read by it; before it is turned."""
    name = start = node.input[0]
    while (maker := graph.producer.get(name)) is not None and graph.nodes[maker].op_type in _QUANTISING:
        name = graph.nodes[maker].input[0]
        if graph.nodes[maker].op_type == "QuantizeLinear":
            start = name
    while (maker := graph.producer.get(start)) is not None and graph.nodes[maker].op_type in _TURNING:
        start = graph.nodes[maker].input[0]
    # The input itself: nothing is normalised.
    return start if start in graph.producer else None


def _reference_input(sides: Sides) -> Input | None:
    if not sides.reference.checkpoint:
        return graph_input(sides.reference_graph, sides.reference.artefact)
    import torch
    from san_train.data import normalise

    return lambda images: normalise(images, torch.device("cpu")).contiguous().numpy()


def _trained_pixels(sides: Sides, sample: Sample, rows: np.ndarray) -> np.ndarray:
    """As training reads crops to validate on them; without PyTorch the same by `read_image` and `resize_crop`."""
    paths = [sample.paths[row] for row in rows]
    if not sides.reference.checkpoint:
        return np.stack([resize_crop(read_image(path), sample.size_hw) for path in paths])
    from san_train.evaluate import load_crops

    from san_deploy.datasets import Crop

    return load_crops([Crop(path, 1, "", "") for path in paths], sample.size_hw)


def _declared(sides: Sides) -> list[str]:
    """What the descriptions say of pixels, where that differs."""
    first, second = sides.reference.artefact, sides.target.artefact
    return [
        f"The target says {what} {getattr(second, what)}, the reference {getattr(first, what)}."
        for what in ("resize", "mean_rgb", "std_rgb")
        if getattr(first, what) != getattr(second, what)
    ]
