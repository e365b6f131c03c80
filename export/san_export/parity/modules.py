"""The module of the network that a value belongs to, as far as the graph still says it."""

from __future__ import annotations

import ast

from onnx import NodeProto

from ..graph.graph import WEIGHTED_OPS, Graph
from .align import ROUNDING, origin, weight_name

#: Where torch's exporter notes the modules that a node was traced in.
_SCOPES = "pkg.torch.onnx.name_scopes"
_ENDINGS = (".weight", ".bias", ".kernel")


def modules(graph: Graph) -> dict[str, str]:
    """A module for every value.

    Returns:
        `{value: "backbone.layer1.0.conv1"}` where a node's own weight or the exporter's notes name it, `{value:
        "after backbone.layer1.0.conv1"}` with the last product before it where not; empty where nothing is known.
    """
    found: dict[str, str] = {}
    #: The last product that each value is made of, by its place in the graph.
    last: dict[str, tuple[int, str]] = {}
    for index, node in enumerate(graph.nodes):
        before = max((last[name] for name in node.input if name in last), default=(-1, ""))
        own = _noted(node) or _weighted(graph, node)
        named = own or (f"after {before[1]}" if before[1] else "")
        if node.op_type in ROUNDING and node.input[0] in found:
            named = found[node.input[0]]
        for name in filter(None, node.output):
            found[name] = named
            last[name] = (index, own) if own and node.op_type in WEIGHTED_OPS else before
    return found


def _weighted(graph: Graph, node: NodeProto) -> str:
    if node.op_type not in WEIGHTED_OPS or origin(graph, node.input[1]) not in graph.constants:
        return ""
    name = weight_name(graph, node)
    for ending in _ENDINGS:
        if name.endswith(ending):
            return name.removesuffix(ending).removeprefix("network.")
    return ""


def _noted(node: NodeProto) -> str:
    for item in node.metadata_props:
        if item.key == _SCOPES:
            try:
                scopes = ast.literal_eval(item.value)
            except (ValueError, SyntaxError):
                return ""
            # The last is the node's own name.
            inside = [scope for scope in scopes[:-1] if isinstance(scope, str) and scope]
            return inside[-1].removeprefix("network.") if inside else ""
    return ""
