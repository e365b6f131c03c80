"""Gates that weigh features by relations, as in relation-aware attention: found by structure, not by name."""

from __future__ import annotations

from ..graph.graph import LAYOUT, Graph


def relation_gates(graph: Graph) -> frozenset[int]:
    """The nodes from a product of two computed values (an affinity) to the gate that is made of it.

    A gate is a Sigmoid whose result is multiplied onto a value that changes. To it belongs what nothing but the
    gate reads; of that, this gives the products of two values and all that follows them.

    Args:
        graph: of any precision.

    Returns:
        Indices of `graph.nodes`.
    """
    branch: set[int] = set()
    for index in reversed(range(len(graph.nodes))):
        node = graph.nodes[index]
        readers = {reader for name in node.output for reader in graph.readers.get(name, ())}
        inner = readers <= branch and readers and not set(node.output) & set(graph.outputs)
        if inner or (node.op_type == "Sigmoid" and _gates(graph, node.output[0])):
            branch.add(index)
    found: set[int] = set()
    for index in sorted(branch):
        node = graph.nodes[index]
        names = graph.changing(node)
        affinity = node.op_type == "MatMul" and len(names) == 2
        if affinity or any(graph.maker.get(name) in found for name in names):
            found.add(index)
    return frozenset(found)


def _gates(graph: Graph, name: str) -> bool:
    readers = [graph.nodes[reader] for reader in graph.readers.get(name, ())]
    return bool(readers) and all(
        (reader.op_type == "Mul" and len(graph.changing(reader)) == 2)
        or (reader.op_type in LAYOUT and _gates(graph, reader.output[0]))
        for reader in readers
    )
