"""The same crops through the training path and through the target's: pixels, then what the first convolution sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto

from san_deploy.artefact import INPUT_NAME, Artefact
from san_deploy.errors import SanError
from san_deploy.images import read_image
from san_deploy.preprocess import resize_crop

from ...graph.graph import Graph, ancestors, copy_with, view
from ..gates import Gates
from ..models import ModelPair
from ..result import PreprocessingFigures, Stage
from ..sample import Sample
from .probes import open_diagnostic, run
from .subgraph import steps

#: Crops that are looked at, and at a time.
_CROPS, _BATCH = 256, 32
#: Relative error up to which two first convolutions give the same: weights that took in a scale are rounded once more,
#: in FP16 to 2^-11.
_SAME = 2.0**-10
#: Change the place of a value, and nothing else.
_TURNING = frozenset({"Identity", "Transpose"})
#: What may stand between a normalised value and an 8-bit convolution. A Cast alone is FP16, which the convolution sees.
_QUANTISING = _TURNING | {"Cast", "DequantizeLinear", "QuantizeLinear"}
Input = Callable[[np.ndarray], np.ndarray]


def compare_preprocessing(
    pair: ModelPair,
    sample: Sample,
    gates: Gates,
    *,
    seed: int = 0,
    progress: Callable[[int], object] = lambda count: None,
) -> Stage:
    """Compare what both networks are given of the same files.

    Args:
        pair: a checkpoint's path is the one of training: `train.evaluate.load_crops`, `train.data.normalise`. An
            ONNX file's is its own graph.
        sample: crops; as the runtime reads them.
        gates: what to reach.
        seed: of the crops that are looked at.
        progress: called with the number of crops that are done, `crops_seen` in all.

    Raises:
        SanError: the reference's graph cannot be looked into.
    """
    notes: list[str] = []
    reference, target = _inputs(pair, notes)
    seen = _Difference()
    rows = np.sort(np.random.default_rng([seed, 2]).permutation(len(sample))[:_CROPS])
    for start in range(0, len(rows), _BATCH):
        part = rows[start : start + _BATCH]
        images, trained = sample.images(part, pair.target.resize), _trained_pixels(pair, sample, part)
        seen.pixels += int((images != trained).sum())
        seen.size += images.size
        if reference is not None and target is not None:
            seen.add(reference(trained), target(images), [sample.names[row] for row in part])
        progress(len(part))
    figures = PreprocessingFigures(
        crops=len(rows),
        pixels_differ=seen.pixels,
        input_max_abs=seen.apart if seen.values else (0.0 if seen.pixels == 0 else float("nan")),
        input_equal=seen.equal / seen.values if seen.values else 1.0 - seen.pixels / seen.size,
        worst=seen.worst,
    )
    message = f"largest difference of the normalised input on {len(rows)} crops"
    message += (f", in {seen.worst}" if seen.worst else "") + (
        f"; {seen.pixels} decoded values differ" if seen.pixels else ""
    )
    checks = gates.check("preprocess_equal", figures.input_max_abs, message)
    if seen.apart > 0.01 and seen.reordered <= 0.001:
        notes.append("They agree with the channels in the other order: red and blue are swapped.")
    elif not seen.pixels and any(not check.passed for check in checks):
        apart = _behind_first_convolution(pair, sample.images(rows[:_BATCH]))
        if apart <= _SAME:
            notes.append(
                "The normalised input is not comparable here: the target normalises in another place. Behind the "
                f"first convolution both are the same, to a relative error of {apart:.1e}."
            )
            checks = ()
    notes += _declared(pair)
    return Stage("preprocessing", figures, checks, notes=tuple(notes))


@dataclass
class _Difference:
    """What adds up over the crops."""

    pixels: int = 0
    size: int = 0
    equal: int = 0
    values: int = 0
    apart: float = 0.0
    reordered: float = 0.0
    worst: str = ""

    def add(self, reference: np.ndarray, target: np.ndarray, names: Sequence[str]) -> None:
        difference = np.abs(reference.astype(np.float64) - target)
        self.equal += int((difference == 0).sum())
        self.values += difference.size
        each = difference.reshape(len(names), -1).max(1)
        # NaN is the largest of all, and stays.
        if not (each.max() <= self.apart or np.isnan(self.apart)):
            self.apart, self.worst = float(each.max()), names[int(np.argmax(each))]
        self.reordered = max(self.reordered, float(np.abs(reference - target[:, ::-1]).max()))


def _inputs(pair: ModelPair, notes: list[str]) -> tuple[Input | None, Input | None]:
    """What shows both networks' normalised input; what is not seen goes into the notes."""
    reference = _reference_input(pair)
    if reference is None:
        notes.append("The reference's graph starts with no convolution: its normalised input is not seen.")
        return None, None
    if pair.own_graph is None:
        notes.append("What the target normalises is not seen: pixels and descriptions only are compared.")
        return reference, None
    target = graph_input(pair.own_graph, pair.target.artefact)
    if target is None:
        notes.append("The target's graph starts with no convolution: its normalised input is not seen.")
    return reference, target


def _behind_first_convolution(pair: ModelPair, images: np.ndarray) -> float:
    """Relative error of what the first convolution gives; infinite where there is none to compare."""
    if pair.own_graph is None:
        return float("inf")
    values = []
    for model, artefact in (
        (pair.reference_graph, pair.reference_graph_artefact),
        (pair.own_graph, pair.target.artefact),
    ):
        graph = view(model)
        node = _first_convolution(graph)
        if node is None:
            return float("inf")
        feeds = {graph.inputs[0]: artefact.to_input(images)}
        values.append(next(steps(model, graph, feeds, [[node.output[0]]]))[node.output[0]].astype(np.float64))
    first, second = values
    if first.shape != second.shape or not np.linalg.norm(first) > 0:
        return float("inf")
    return float(np.linalg.norm(first - second) / np.linalg.norm(first))


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
    first = _first_convolution(graph)
    name = None if first is None else _before(graph, first)
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


def _first_convolution(graph: Graph) -> NodeProto | None:
    """The first convolution on the input, fused with what follows it or not."""
    after = set(graph.inputs)
    for node in graph.nodes:
        if not after & set(node.input):
            continue
        if node.op_type in ("Conv", "FusedConv"):
            return node
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


def _reference_input(pair: ModelPair) -> Input | None:
    if not pair.reference.checkpoint:
        return graph_input(pair.reference_graph, pair.reference.artefact)
    import torch
    from san_train.data import normalise

    std = pair.reference.artefact.std_rgb
    return lambda images: normalise(images, torch.device("cpu"), std).contiguous().numpy()


def _trained_pixels(pair: ModelPair, sample: Sample, rows: np.ndarray) -> np.ndarray:
    """As training reads crops to validate on them; without PyTorch the same by `read_image` and `resize_crop`."""
    paths = [sample.paths[row] for row in rows]
    if not pair.reference.checkpoint:
        return np.stack([resize_crop(read_image(path), sample.size_hw, sample.resize) for path in paths])
    from san_train.evaluate import load_crops

    from san_deploy.datasets import Crop

    return load_crops([Crop(path, 1, "", "") for path in paths], sample.size_hw)


def _declared(pair: ModelPair) -> list[str]:
    """What the descriptions say of pixels, where that differs."""
    first, second = pair.reference.artefact, pair.target.artefact
    return [
        f"The target says {what} {getattr(second, what)}, the reference {getattr(first, what)}."
        for what in ("resize", "mean_rgb", "std_rgb")
        if getattr(first, what) != getattr(second, what)
    ]
