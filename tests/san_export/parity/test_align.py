"""Pairs of values, against what the passes are known to do to names."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from san_export.graph.graph import view
from san_export.parity.align import Pair, align, fed, kind, origin, pixels, settled
from san_export.parity.modules import modules
from san_export.precision.emulate_fp16 import emulate_fp16
from san_export.precision.fp16 import to_fp16
from san_export.precision.int8 import quantise
from san_export.verify import CheckCrops

from tests.san_export.parity import faults


def renamed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph from somebody who gives other names."""
    result = faults.copy(model)
    known = {"", "crops", "embedding"}
    names = sorted({name for node in result.graph.node for name in (*node.input, *node.output)} - known)
    order = np.random.default_rng(0).permutation(len(names))
    other = {name: f"v{number}" for name, number in zip(names, order, strict=True)}
    for node in result.graph.node:
        node.name = ""
        for names_of in (node.input, node.output):
            for place, name in enumerate(names_of):
                names_of[place] = other.get(name, name)
    for item in result.graph.initializer:
        item.name = other.get(item.name, item.name)
    return result


def made(model: onnx.ModelProto) -> list[str]:
    return [node.output[0] for node in model.graph.node]


def test_a_graph_is_paired_with_itself(argmax_model: onnx.ModelProto) -> None:
    graph = view(argmax_model)
    assert [(pair.reference, pair.target) for pair in align(graph, graph)] == [
        (n, n) for n in made(argmax_model)
    ]


def test_every_value_of_a_rounded_fp16_graph_is_paired_with_its_own(argmax_model: onnx.ModelProto) -> None:
    graph, half = view(argmax_model), view(emulate_fp16(to_fp16(argmax_model)))
    pairs = align(graph, half)
    assert [pair.reference for pair in pairs] == made(argmax_model)
    for pair in pairs:
        # Its own name, or a cast of it.
        assert origin(half, pair.target) == origin(half, pair.reference)


@pytest.mark.parametrize("form", ["cpu", "tensorrt"])
def test_every_value_of_an_int8_graph_is_paired_with_its_own(
    argmax_model: onnx.ModelProto, crops: CheckCrops, form: str
) -> None:
    narrow = quantise(argmax_model, crops.images, form=form)
    pairs = align(view(argmax_model), view(narrow))
    assert all(pair.reference == pair.target for pair in pairs)
    # The form for CPUs normalises with the channels innermost: those two values are not there.
    missing = {"permute", faults.normalised(argmax_model)[0]} if form == "cpu" else set()
    assert set(made(argmax_model)) - {pair.reference for pair in pairs} == missing


def test_names_do_not_matter_where_the_graphs_are_made_alike(argmax_model: onnx.ModelProto) -> None:
    other = renamed(argmax_model)
    pairs = align(view(argmax_model), view(other))
    assert [(pair.reference, pair.target) for pair in pairs] == list(
        zip(made(argmax_model), made(other), strict=True)
    )


def test_a_name_that_means_another_value_does_not_pair(
    argmax_model: onnx.ModelProto, ramp_model: onnx.ModelProto
) -> None:
    """An exporter may number sums through the graph, and then another mask gives a sum the name of another."""
    sums = [node.output[0] for node in argmax_model.graph.node if node.op_type == "Add"]
    shapes = view(argmax_model).shapes
    first, second = next(
        (a, b)
        for a in sums
        for b in sums
        if a != b and shapes[a][1:] == shapes[b][1:] and None not in shapes[a][1:]
    )
    crossed = view(faults.with_names_exchanged(argmax_model, first, second))
    pairs = align(view(argmax_model), crossed)
    assert Pair(first, second) in pairs and Pair(second, first) in pairs
    assert Pair(first, first) not in pairs and Pair(second, second) not in pairs
    mine, theirs = view(ramp_model), view(argmax_model)
    pairs = {pair.target: pair.reference for pair in align(theirs, mine)}
    # All products, and what a mask is put on, are found again.
    products = [node.output[0] for node in ramp_model.graph.node if node.op_type in ("Conv", "Gemm")]
    assert all(pairs[name] == name for name in products)
    for name in ("network.backbone.layer2.0.conv1.weight", "network.backbone.layer3.0.conv1.weight"):
        mine_read, theirs_read = (
            next(node.input[0] for node in model.graph.node if name in node.input)
            for model in (ramp_model, argmax_model)
        )
        assert pairs[mine_read] == theirs_read


def test_something_put_behind_a_value_keeps_the_name_for_the_end(argmax_model: onnx.ModelProto) -> None:
    mask = faults.nodes(argmax_model, "Greater")[1].output[0]
    (cast,) = (node.output[0] for node in argmax_model.graph.node if node.input[0] == mask)
    for target in (
        faults.inverted(argmax_model, cast),
        emulate_fp16(to_fp16(faults.inverted(argmax_model, cast))),
    ):
        graph = view(target)
        pairs = {pair.reference: pair.target for pair in align(view(argmax_model), graph)}
        assert kind(graph, pairs[cast]) == "Sub"


def test_batch_norms_that_were_folded_in_one_graph_alone() -> None:
    rng = np.random.default_rng(0)
    kernel, scale = rng.normal(size=(4, 3, 1, 1)), rng.uniform(1, 2, 4)
    folded = _graph({"w": kernel * scale[:, None, None, None]}, [("Conv", ["crops", "w"], "y")])
    apart = _graph(
        {"w": kernel, "s": scale, "zero": np.zeros(4), "one": np.ones(4) - 1e-5},
        [("Conv", ["crops", "w"], "x"), ("BatchNormalization", ["x", "s", "zero", "zero", "one"], "y")],
    )
    assert Pair("y", "y") in align(view(apart), view(folded))
    assert Pair("x", "y") not in align(view(apart), view(folded))
    assert {pair.target for pair in align(view(folded), view(apart))} == {"y.relu", "y"}


def test_what_depends_on_the_input_and_what_is_still_pixels(
    argmax_model: onnx.ModelProto, crops: CheckCrops
) -> None:
    narrow = view(quantise(argmax_model, crops.images, form="tensorrt"))
    weight = "network.backbone.conv1.weight"
    assert f"{weight}.rounded" in narrow.producer and f"{weight}.rounded" not in fed(narrow)
    assert "embedding" in fed(narrow)
    assert pixels(view(argmax_model)) == {
        "crops",
        "_to_copy",
        "permute",
        *faults.normalised(argmax_model),
    }


def test_casts_are_looked_through_both_ways(argmax_model: onnx.ModelProto) -> None:
    half = view(emulate_fp16(to_fp16(argmax_model)))
    assert origin(half, "relu") == "relu.exact"
    assert settled(half, "relu.exact") == "relu"
    assert kind(half, "relu") == "Relu"


def test_modules_are_known_by_their_weights_and_by_the_exporters_notes(argmax_model: onnx.ModelProto) -> None:
    known = modules(view(argmax_model))
    assert known["getitem"] == "backbone.conv1"
    assert known["relu"] == "after backbone.conv1"
    assert known["permute"] == ""
    assert known["embedding"].startswith("after head.")
    half = modules(view(emulate_fp16(to_fp16(argmax_model))))
    assert {name: half[name] for name in known if name in half} == {n: known[n] for n in known if n in half}
    noted = faults.copy(argmax_model)
    entry = faults.node_of(noted, "relu").metadata_props.add()
    entry.key, entry.value = "pkg.torch.onnx.name_scopes", "['', 'network', 'network.backbone', 'relu']"
    assert modules(view(noted))["relu"] == "backbone"
    entry.value = "not a list"
    assert modules(view(noted))["relu"] == "after backbone.conv1"
    assert not any(modules(view(renamed(argmax_model))).values())


def _graph(weights: dict[str, np.ndarray], steps: list[tuple[str, list[str], str]]) -> onnx.ModelProto:
    """A chain with a ReLU behind it."""
    nodes = [helper.make_node(operator, inputs, [output]) for operator, inputs, output in steps]
    nodes.append(helper.make_node("Relu", [steps[-1][2]], ["y.relu"]))
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("crops", TensorProto.FLOAT, ["N", 3, 4, 4])],
        [helper.make_tensor_value_info("y.relu", TensorProto.FLOAT, ["N", 4, 4, 4])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
