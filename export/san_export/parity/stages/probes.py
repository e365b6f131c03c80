"""What the sharp masks of a graph are drawn from, and what they are: a diagnostic copy, run crop by crop."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Protocol

import numpy as np
import onnx
from onnx import TensorProto, helper

from san_deploy.artefact import INPUT_NAME, Artefact
from san_deploy.backends.onnxruntime import int8_entries
from san_deploy.backends.ort import onnxruntime, quiet_options
from san_deploy.errors import SanError, first_line
from san_deploy.io.cpu import give_back, usable_cores

from ...graph.graph import Graph, view
from ...graph.mask_branches import MaskBranch, find_branches


@dataclass(frozen=True, eq=False)
class BlockValues:
    """One sharp block over some crops.

    Attributes:
        x: what the mask is drawn from (the paper's X), `(n, C, h, w)` float32.
        mask: the block's own mask, in 0..1, likewise; not recomputed from `x`.
    """

    x: np.ndarray
    mask: np.ndarray


class MaskProbe(Protocol):
    """A network whose sharp blocks can be looked into.

    Attributes:
        blocks: their names, in the order of the network; empty without sharp attention.
    """

    blocks: tuple[str, ...]

    def __call__(self, images: np.ndarray) -> list[BlockValues]:
        """`(n, H, W, 3)` uint8 BGR, n >= 1, to one entry for each block."""
        ...

    def redraw(self, block: int, x: np.ndarray) -> np.ndarray:
        """The mask that block number `block`, from 0, draws from another network's `x`: both `(n, C, h, w)` float32."""
        ...


def onnx_probe(model: onnx.ModelProto, artefact: Artefact, *, threads: int | None = None) -> OnnxProbe:
    """Look into the masks of an ONNX graph, in ONNX Runtime on the CPU.

    The branches are found by what they compute, in FP32, FP16 and quantised graphs alike: none of our forms
    quantises a mask branch. An FP16 graph is to be given in its rounded form (`emulate_fp16.emulate_fp16`).

    Args:
        model: as `san export` writes it; not changed.
        artefact: of it.
        threads: for ONNX Runtime; None takes every core.

    Returns:
        A probe; one call runs its crops as one batch, so the caller bounds the memory.

    Raises:
        SanError: the graph cannot be looked at, or does not run.
    """
    return OnnxProbe(model, artefact, usable_cores() if threads is None else threads)


class OnnxProbe:
    """The `MaskProbe` of a graph.

    Attributes:
        bits: of all its masks for one crop; 0 where their sizes are not known.
    """

    def __init__(self, model: onnx.ModelProto, artefact: Artefact, threads: int) -> None:
        graph = view(model)
        branches = tuple(branch for branch in find_branches(model) if branch.masks)
        self.blocks = _names(branches, artefact)
        shapes = [graph.shapes.get(branch.x, (None, None)) for branch in branches]
        self.bits = sum(prod(size or 0 for size in shape[1:]) for shape in shapes)
        self._artefact = artefact
        self._outputs = [name for branch in branches for name in (branch.x, branch.masks[0])]
        self._session = None
        if branches:
            self._session = open_diagnostic(_shown(model, self._outputs), artefact, threads=threads)
        self._thresholds = [
            open_diagnostic(_threshold(model, graph, branch), artefact, threads=threads)
            for branch in branches
        ]

    def __call__(self, images: np.ndarray) -> list[BlockValues]:
        if self._session is None:
            return []
        values = run(self._session, {INPUT_NAME: self._artefact.to_input(images)}, self._outputs)
        return [
            BlockValues(_checked(x, name), _mask(mask, name))
            for name, x, mask in zip(self.blocks, values[::2], values[1::2], strict=True)
        ]

    def redraw(self, block: int, x: np.ndarray) -> np.ndarray:
        session = self._thresholds[block]
        (given,) = session.get_inputs()
        fed = x.astype(np.float16 if given.type == "tensor(float16)" else np.float32)
        (mask,) = run(session, {given.name: fed}, None)
        return _mask(mask, self.blocks[block])


def open_diagnostic(
    model: onnx.ModelProto | bytes, artefact: Artefact, *, threads: int = 1
) -> onnxruntime.InferenceSession:
    """A session on the CPU, with the options with which the runtime opens such a file (INT8 has its own).

    Raises:
        SanError: ONNX Runtime refuses the graph.
    """
    options = quiet_options()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for key, value in int8_entries(artefact).items():
        options.add_session_config_entry(key, value)
    data = model if isinstance(model, bytes) else model.SerializeToString()
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base but this
        raise SanError("a diagnostic copy of the graph cannot be opened", why=first_line(error)) from error
    held = len(data)
    del data
    give_back(held)
    return session


def run(
    session: onnxruntime.InferenceSession, fed: dict[str, np.ndarray], names: list[str] | None
) -> list[np.ndarray]:
    """Run a session of `open_diagnostic`.

    Raises:
        SanError: ONNX Runtime fails.
    """
    try:
        values: list[np.ndarray] = session.run(names, fed)
    except Exception as error:  # its exceptions have no common base but this
        raise SanError("a diagnostic copy of the graph fails", why=first_line(error)) from error
    return values


def _names(branches: tuple[MaskBranch, ...], artefact: Artefact) -> tuple[str, ...]:
    """`stage1`, ... where the settings say which stages have a block, else the names of the values."""
    stages = artefact.settings.get("attention")
    if isinstance(stages, list | tuple) and len(stages) == len(branches):
        return tuple(f"stage{stage}" for stage in stages)
    return tuple(branch.x for branch in branches)


def _shown(model: onnx.ModelProto, names: list[str]) -> bytes:
    """The model's bytes with more outputs."""
    known = {output.name for output in model.graph.output}
    more = onnx.ModelProto()
    more.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    # A message that follows another is merged into it: no copy of the weights is made to add a few names.
    return b"".join([model.SerializeToString(), more.SerializeToString()])


def _threshold(model: onnx.ModelProto, graph: Graph, branch: MaskBranch) -> onnx.ModelProto:
    """The part from X to the mask, as a graph of its own."""
    nodes = [graph.nodes[graph.producer[name]] for name in branch.threshold]
    read = dict.fromkeys(name for node in nodes for name in node.input)
    # Its length tells ONNX Runtime the rank, which the type alone would leave open.
    given = helper.make_tensor_value_info(
        branch.x, graph.types.get(branch.x, TensorProto.FLOAT), graph.shapes.get(branch.x)
    )
    weights = []
    for name in read:
        if name in graph.constants:
            weight = TensorProto()
            weight.CopyFrom(graph.constants[name])
            weight.name = name
            weights.append(weight)
    mask = branch.masks[0]
    made = helper.make_graph(
        nodes,
        "threshold",
        [given],
        [helper.make_tensor_value_info(mask, graph.types[mask], graph.shapes.get(mask))],
        weights,
    )
    return helper.make_model(made, opset_imports=list(model.opset_import), ir_version=model.ir_version)


def _checked(values: np.ndarray, name: str) -> np.ndarray:
    result = values.astype(np.float32, copy=False)
    if not np.isfinite(result).all():
        raise SanError(f"the network gives values that are not finite at {name}")
    return result


def _mask(values: np.ndarray, name: str) -> np.ndarray:
    result = _checked(values, name)
    if result.size and not (result.min() >= 0 and result.max() <= 1):
        raise SanError(
            f"the mask of {name} is not between 0 and 1",
            why=f"it has values from {result.min():g} to {result.max():g}",
        )
    return result
