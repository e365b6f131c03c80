"""What the convolutions of a file compute with, counted in the file: never what was asked for."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import onnx
from onnx import TensorProto

from san_deploy.artefact import Artefact, PrecisionStats
from san_deploy.errors import SanError

from .graph import FUSED, WEIGHTED_OPS, Graph, view

#: Where the two operands stand among the inputs of ONNX Runtime's integer operators.
_INTEGER_OPS = {
    "ConvInteger": (0, 1),
    "MatMulInteger": (0, 1),
    "QGemm": (0, 3),
    "QLinearConv": (0, 3),
    "QLinearMatMul": (0, 3),
}
_KINDS: dict[int, str] = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "int8",
}


def count_operands(model: onnx.ModelProto) -> PrecisionStats:
    """Count the inputs and weights of convolutions (transposed or not) and matrix products by precision.

    An operand is INT8 where it comes out of a DequantizeLinear of 8 bits, which runtimes fuse into the
    product, or where the operator itself takes integers (QLinearConv).

    Args:
        model: not changed.

    Returns:
        The shares, which sum to 1; a graph without products gives a count of 0 and shares of 0.

    Raises:
        SanError: an operand is of another precision, or its type cannot be inferred.
    """
    graph = view(model)
    found = Counter(
        _kind(graph, name) for node in graph.nodes for name in (node.input[place] for place in _places(node))
    )
    total = found.total()
    fp32, fp16, int8 = (found[kind] / total if total else 0.0 for kind in ("fp32", "fp16", "int8"))
    return PrecisionStats(count=total, fp32=fp32, fp16=fp16, int8=int8)


def recount(path: Path, artefact: Artefact) -> PrecisionStats:
    """Count the operands of an ONNX file by precision, without executing it, and hold it to its own word.

    Args:
        path: the file that `artefact` was read from.
        artefact: what it says of itself.

    Raises:
        SanError: the file says otherwise, has nothing of the precision that it says it was exported in, cannot
            be counted, or was replaced meanwhile.
    """
    advice = "do not use it; fetch it again, or export it again"
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != artefact.sha256:
        raise SanError(f"{path} was replaced while it was read", do="try again when nobody writes it")
    try:
        found = count_operands(onnx.load_model_from_string(data))
    except Exception as error:  # onnx's exceptions have no common base but this
        why = str(error).strip().split("\n")[0]
        raise SanError(f"the precision of {path} cannot be counted", why=why, do=advice) from error
    # Files from before they were counted say nothing of their operands.
    if artefact.operands is not None and not agree(artefact.operands, found):
        raise SanError(
            f"the file {path} says that it has {shares(artefact.operands)}, but has {shares(found)}",
            do=advice,
        )
    if found.count and not getattr(found, artefact.precision):
        raise SanError(
            f"the file {path} says that it is {artefact.precision.upper()}, but has {shares(found)}",
            do=advice,
        )
    return found


def shares(operands: PrecisionStats) -> str:
    """`60% INT8, 40% FP32 of 20 operands`."""
    named = ((operands.int8, "INT8"), (operands.fp16, "FP16"), (operands.fp32, "FP32"))
    kinds = ", ".join(f"{share:.0%} {name}" for share, name in named if share)
    return f"{kinds or 'none'} of {operands.count} operands"


def agree(stated: PrecisionStats, found: PrecisionStats) -> bool:
    """Whether both were counted in the same kind of thing and say the same."""
    return (stated.source, stated.count) == (found.source, found.count) and all(
        abs(getattr(stated, kind) - getattr(found, kind)) < 1e-6 for kind in ("fp32", "fp16", "int8")
    )


def _places(node: onnx.NodeProto) -> tuple[int, ...]:
    if node.op_type in WEIGHTED_OPS or node.op_type in FUSED:
        return (0, 1)
    return _INTEGER_OPS.get(node.op_type, ())


def _kind(graph: Graph, name: str) -> str:
    producer = graph.producer.get(name)
    if producer is not None and graph.nodes[producer].op_type == "DequantizeLinear":
        name = graph.nodes[producer].input[0]
    known = graph.types.get(name, TensorProto.UNDEFINED)
    if known not in _KINDS:
        raise SanError(
            f"operand {name} of the graph is of type {TensorProto.DataType.Name(known)}",
            why="FP32, FP16 and INT8 are counted",
        )
    return _KINDS[known]
