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
        consumers = {consumer for name in node.output for consumer in graph.consumers.get(name, ())}
        inner = consumers <= branch and consumers and not set(node.output) & set(graph.outputs)
        if inner or (node.op_type == "Sigmoid" and _gates(graph, node.output[0])):
            branch.add(index)
    found: set[int] = set()
    for index in sorted(branch):
        node = graph.nodes[index]
        names = graph.dynamic(node)
        affinity = node.op_type == "MatMul" and len(names) == 2
        if affinity or any(graph.producer.get(name) in found for name in names):
            found.add(index)
    return frozenset(found)


def _gates(graph: Graph, name: str) -> bool:
    consumers = [graph.nodes[consumer] for consumer in graph.consumers.get(name, ())]
    return bool(consumers) and all(
        (consumer.op_type == "Mul" and len(graph.dynamic(consumer)) == 2)
        or (consumer.op_type in LAYOUT and _gates(graph, consumer.output[0]))
        for consumer in consumers
    )
