"""What the convolutions of a file compute with, counted in the file: never what was asked for."""

from __future__ import annotations

from collections import Counter

import onnx
from onnx import TensorProto

from san_deploy.artefact import Operands
from san_deploy.errors import SanError

from .graph import PRODUCTS, Graph, view

#: Where the two operands stand among the inputs of ONNX Runtime's integer operators.
_INTEGER_PRODUCTS = {
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


def count_operands(model: onnx.ModelProto) -> Operands:
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
    return Operands(count=total, fp32=fp32, fp16=fp16, int8=int8)


def shares(operands: Operands) -> str:
    """`60% INT8, 40% FP32 of 20 operands`."""
    told = ((operands.int8, "INT8"), (operands.fp16, "FP16"), (operands.fp32, "FP32"))
    kinds = ", ".join(f"{share:.0%} {name}" for share, name in told if share)
    return f"{kinds or 'none'} of {operands.count} operands"


def agree(told: Operands, found: Operands) -> bool:
    """Whether both were counted in the same kind of thing and say the same."""
    return (told.source, told.count) == (found.source, found.count) and all(
        abs(getattr(told, kind) - getattr(found, kind)) < 1e-6 for kind in ("fp32", "fp16", "int8")
    )


def _places(node: onnx.NodeProto) -> tuple[int, ...]:
    return (0, 1) if node.op_type in PRODUCTS else _INTEGER_PRODUCTS.get(node.op_type, ())


def _kind(graph: Graph, name: str) -> str:
    maker = graph.maker.get(name)
    if maker is not None and graph.nodes[maker].op_type == "DequantizeLinear":
        name = graph.nodes[maker].input[0]
    known = graph.types.get(name, TensorProto.UNDEFINED)
    if known not in _KINDS:
        raise SanError(
            f"operand {name} of the graph is of type {TensorProto.DataType.Name(known)}",
            why="FP32, FP16 and INT8 are counted",
        )
    return _KINDS[known]
