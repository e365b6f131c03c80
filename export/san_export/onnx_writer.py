"""Writing a network as ONNX: one file, a fixed interface, the same bytes for the same weights.

`to_onnx` needs PyTorch; `write_onnx` does not, so that a device can change the precision of a file.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from san_deploy.artefact import INPUT_NAME, OUTPUT_NAME, Artefact
from san_deploy.errors import SanError
from san_deploy.integrity import stamp_onnx
from san_deploy.io.cpu import give_back

from .graph.graph import check_model
from .graph.operators import check_operators
from .graph.rewrite import rewrite

if TYPE_CHECKING:
    import torch

    from .wrapper import OnnxWrapper

#: What torch's exporter writes natively.
OPSET = 18
#: Opsets to choose from: torch writes none below, and those above need IR versions beyond `IR_VERSION`.
OPSETS = (18, 22)
#: The newest IR version in a file. ONNX Runtime reads 10 from 1.18 on, TensorRT from 10.0 on.
IR_VERSION = 10


def to_onnx(
    network: OnnxWrapper,
    size_hw: tuple[int, int],
    *,
    opset: int = OPSET,
    report: Callable[[str], None] = lambda line: None,
) -> onnx.ModelProto:
    """Write the graph, weights inside, batch norms folded, only N dynamic.

    Args:
        network: on the CPU.
        size_hw: height and width of its input, pixels.
        opset: one of `OPSETS`, ends included.
        report: takes one line where the oldest TensorRT that we know would not run the graph as it is. That is
            no error here: the file may be for another runtime.

    Returns:
        A checked model with input `crops` and output `embedding`, without metadata and without any trace of
        this machine (the exporter writes source lines and paths into every node).

    Raises:
        SanError: the exporter gave another opset than was asked for.
    """
    import torch

    height, width = size_hw
    # A batch of 1 would make the exporter take N for a constant.
    if network.input_form == "uint8":
        example = torch.zeros(2, height, width, 3, dtype=torch.uint8)
    else:
        example = torch.zeros(2, 3, height, width)
    with _quiet():
        program = torch.onnx.export(
            network.eval(),
            (example,),
            dynamo=True,
            opset_version=opset,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            external_data=False,
            verbose=False,
        )
    assert program is not None
    written = program.model_proto
    _forget(program)
    del program
    give_back(written.ByteSize())
    model = clean(rewrite(written, in_place=True))
    opsets = {item.domain: item.version for item in model.opset_import}
    if opsets != {"": opset}:
        raise SanError(
            f"torch's exporter wrote opset {opsets.get('')}, not {opset}", do=f"give --opset {OPSET}"
        )
    check_model(model)
    problems = check_operators(model)
    if problems:
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        report(f"not for TensorRT 10.3: {problems[0]}{more}")
    return model


def _forget(program: torch.onnx.ONNXProgram) -> None:
    """Drop the weights of a program that was read: torch's caches keep its values, and with them a second network."""
    graph = program.model.graph
    read = (value for node in graph for value in (*node.inputs, *node.outputs) if value is not None)
    for value in (*graph.inputs, *graph.initializers.values(), *read):
        value.const_value = None


def clean(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model that holds the interface, the nodes and the weights, and nothing of where it was made.

    Args:
        model: as torch's exporter gives it; changed in place.

    Returns:
        The same model. Nodes, weights and inputs lose their notes, intermediate shapes are left out
        (readers infer them), functions that no node calls too.
    """
    model.ir_version = min(model.ir_version, IR_VERSION)
    model.doc_string = ""
    del model.metadata_props[:]
    # The exporter lists helper domains that no node uses.
    used = {node.domain for node in model.graph.node}
    kept = [item for item in model.opset_import if item.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    graph = model.graph
    graph.name = "san"
    graph.doc_string = ""
    del graph.metadata_props[:]
    del graph.value_info[:]
    for item in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]
    return model


def write_onnx(model: onnx.ModelProto, artefact: Artefact, path: Path) -> None:
    """Write `model` with the contract and the hash of its content in its metadata_props.

    Equal arguments give equal bytes.

    Args:
        model: of `to_onnx`; its metadata is replaced.
        artefact: what to write into it.
        path: an existing folder; the caller cares for the file's final name.
    """
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, dict(sorted(artefact.metadata_props().items())))
    path.write_bytes(stamp_onnx(model.SerializeToString(deterministic=True)))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress, warnings and log lines (on packages we do not use) off the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
