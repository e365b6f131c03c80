"""Subgraphs run in ONNX Runtime as they are written, without keeping more values than later ones read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from san_deploy.backends.ort import onnxruntime, quiet_options
from san_deploy.errors import SanError, first_line

from ...graph.graph import Graph


class Subgraph:
    """Some nodes of a graph as a model of its own, opened.

    No optimisation is on: a fused kernel rounds elsewhere than the graph says, and does not make every value.

    Args:
        model: that the graph is of: opset and IR version.
        graph: for constants.
        nodes: in order; they may read and make names that the graph does not have.
        inputs: `{name: TensorProto type}`.
        outputs: names.

    Raises:
        SanError: ONNX Runtime does not open it.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        graph: Graph,
        nodes: Iterable[NodeProto],
        inputs: Mapping[str, int],
        outputs: Iterable[str],
    ) -> None:
        kept = [node for node in nodes if node.op_type != "Constant"]
        read = {name for node in kept for name in node.input}
        part = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
        part.graph.name = "subgraph"
        part.graph.node.extend(kept)
        for name in sorted(read & graph.constants.keys()):
            weight = TensorProto()
            weight.CopyFrom(graph.constants[name])
            weight.name = name  # a Constant's tensor has none
            part.graph.initializer.append(weight)
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        part.graph.input.extend(helper.make_tensor_value_info(*item, None) for item in inputs.items())
        # Types of outputs are ONNX Runtime's to infer: it knows operators that the onnx package does not.
        part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self.outputs)
        options = quiet_options()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._session = onnxruntime.InferenceSession(
                part.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions have no common base but this
            raise SanError("ONNX Runtime does not open a subgraph", why=first_line(error)) from error

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run it; SanError where that fails."""
        try:
            values: list[Any] = self._session.run(
                list(self.outputs), {name: feeds[name] for name in self.inputs}
            )
        except Exception as error:  # as above
            raise SanError("ONNX Runtime does not run a subgraph", why=first_line(error)) from error
        return dict(zip(self.outputs, values, strict=True))


def tensor_type(value: np.ndarray) -> int:
    """The TensorProto type of an array."""
    return int(helper.np_dtype_to_tensor_dtype(value.dtype))


def steps(
    model: onnx.ModelProto, graph: Graph, feeds: Mapping[str, np.ndarray], plan: Sequence[Sequence[str]]
) -> Iterator[dict[str, np.ndarray]]:
    """Run a graph piece by piece.

    Args:
        model: not changed.
        graph: its `view`.
        feeds: of the graph's inputs.
        plan: for each step the values that are asked for.

    Yields:
        The values of each step. Between steps nothing is held but what a later step reads.
    """
    step_of = _assign(graph, plan)
    last_use: dict[str, int] = {}
    for index, step in step_of.items():
        for name in graph.dynamic(graph.nodes[index]):
            last_use[name] = max(last_use.get(name, 0), step)
    for step, names in enumerate(plan):
        for name in names:
            last_use[name] = max(last_use.get(name, 0), step)
    held = dict(feeds)
    for step, names in enumerate(plan):
        indices = sorted(index for index, at in step_of.items() if at == step)
        nodes = [graph.nodes[index] for index in indices]
        made = {name for node in nodes for name in node.output if name}
        read = {name for node in nodes for name in graph.dynamic(node)} - made
        wanted = [name for name in dict.fromkeys(names) if name in made]
        wanted += sorted(name for name in made - set(wanted) if last_use.get(name, 0) > step)
        if nodes and wanted:
            held |= Subgraph(model, graph, nodes, {n: tensor_type(held[n]) for n in sorted(read)}, wanted)(
                held
            )
        yield {name: held[name] for name in names}
        held = {name: value for name, value in held.items() if last_use.get(name, 0) > step}


def _assign(graph: Graph, plan: Sequence[Sequence[str]]) -> dict[int, int]:
    """The first step that needs each node, of those that any needs."""
    found: dict[int, int] = {}
    for step, names in enumerate(plan):
        stack = [graph.producer[name] for name in names if name in graph.producer]
        while stack:
            index = stack.pop()
            if index in found:
                continue
            found[index] = step
            stack += [
                graph.producer[name] for name in graph.dynamic(graph.nodes[index]) if name in graph.producer
            ]
    return found
