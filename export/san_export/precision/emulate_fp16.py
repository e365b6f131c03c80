"""An FP16 graph as an FP32 one that rounds where FP16 would: what a CPU can say of a GPU's FP16."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from ..graph.graph import check_model, copy_with, new_name, view

_FP32: int = TensorProto.FLOAT
_FP16: int = TensorProto.FLOAT16


def emulate_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same computation in FP32, with every FP16 value rounded to FP16 as soon as it is made.

    ONNX Runtime has few FP16 operators on the CPU: it computes an FP16 file in FP32 and leaves the rounding
    out between operators, so a file looks better there than it is. This form keeps the rounding. A GPU fuses
    operators and rounds less often than this; products accumulate in FP32 in both.

    Args:
        model: of `fp16.to_fp16`; not changed.

    Returns:
        A checked model with the same inputs and outputs, to be measured and thrown away.
    """
    graph = view(model)
    nodes: list[NodeProto] = []
    taken = {*graph.types, *graph.constants}
    for node in graph.nodes:
        written = NodeProto()
        written.CopyFrom(node)
        nodes.append(written)
        if node.op_type == "Constant":
            if graph.types[node.output[0]] == _FP16:
                nodes.pop()
            continue
        if node.op_type == "Cast" and graph.types.get(node.output[0]) == _FP16:
            # Rounded below, as all other FP16 values.
            del written.attribute[:]
            written.attribute.append(helper.make_attribute("to", _FP32))
        for place, name in enumerate(node.output):
            if graph.types.get(name) == _FP16:
                exact, half = new_name(f"{name}.exact", taken), new_name(f"{name}.half", taken)
                written.output[place] = exact
                nodes.append(helper.make_node("Cast", [exact], [half], to=_FP16))
                nodes.append(helper.make_node("Cast", [half], [name], to=_FP32))
    weights = []
    for name, tensor in graph.constants.items():
        if tensor.data_type == _FP16:
            weights.append(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), name))
        elif name not in graph.producer:
            weights.append(tensor)
    result = copy_with(model, nodes, weights)
    check_model(result)
    return result
