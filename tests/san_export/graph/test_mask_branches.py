from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from san_export.graph.mask_branches import MaskBranch, find_branches
from san_export.onnx_writer import to_onnx
from san_export.precision.fp16 import to_fp16
from san_export.verify import CheckCrops
from san_export.wrapper import OnnxWrapper
from san_train.models import SharpAttentionNetwork

SIZE_HW = (64, 32)
ARGMAX = {"ReduceMin": 1, "ReduceMax": 1, "Add": 1, "Mul": 1, "Greater": 1, "Cast": 1}


def makers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {node.output[0]: node for node in model.graph.node}


def kinds(model: onnx.ModelProto, names: tuple[str, ...]) -> Counter[str]:
    return Counter(makers(model)[name].op_type for name in names)


def weights_of(model: onnx.ModelProto, names: tuple[str, ...]) -> set[str]:
    by_name = makers(model)
    return {read for name in names for read in by_name[name].input if read.endswith(".weight")}


def context_weights(model: onnx.ModelProto) -> set[str]:
    return {
        item.name for item in model.graph.initializer if ".context." in item.name and "bias" not in item.name
    }


@pytest.mark.parametrize("fixture", ["argmax_model", "expected_model", "ramp_model"])
def test_branches_hold_the_context_units_and_nothing_else(
    request: pytest.FixtureRequest, fixture: str
) -> None:
    model = request.getfixturevalue(fixture)
    branches = find_branches(model)
    assert len(branches) == 4
    # The names of the weights are the oracle: the search does not look at them.
    for stage, branch in enumerate(branches[:3], 1):
        found = weights_of(model, branch.nodes)
        assert found and all(f".stage{stage}.context." in name for name in found)
    assert set().union(*(weights_of(model, branch.nodes) for branch in branches)) == context_weights(model)
    assert branches[3].context == ()
    assert not {"Conv", "ConvTranspose", "Resize"} & set(kinds(model, branches[0].threshold))


def test_threshold_of_argmax(argmax_model: onnx.ModelProto) -> None:
    for branch in find_branches(argmax_model):
        assert kinds(argmax_model, branch.threshold) == ARGMAX
        assert makers(argmax_model)[branch.masks[0]].op_type == "Cast"


def test_masks_are_masks(
    argmax_model: onnx.ModelProto, ramp_model: onnx.ModelProto, crops: CheckCrops
) -> None:
    for model in (argmax_model, ramp_model):
        branches = find_branches(model)
        assert all(len(branch.masks) == 1 for branch in branches)
        for branch, values in zip(branches, values_of(model, branches, crops), strict=True):
            assert values.min() >= 0 and values.max() == 1, branch
            if model is argmax_model:
                assert set(np.unique(values)) == {0.0, 1.0}
            # The mask goes into the product with the trunk, which lies outside.
            (reader,) = [node for node in model.graph.node if branch.masks[0] in node.input]
            assert reader.op_type == "Mul" and reader.output[0] not in branch.nodes


def values_of(
    model: onnx.ModelProto, branches: tuple[MaskBranch, ...], crops: CheckCrops
) -> list[np.ndarray]:
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    names = [branch.masks[0] for branch in branches]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(shown.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(names, {"crops": crops.images}))


@pytest.fixture(scope="module")
def plain(make_network: Callable[..., SharpAttentionNetwork]) -> dict[str, onnx.ModelProto]:
    def export(mask: str, **settings: object) -> onnx.ModelProto:
        return to_onnx(OnnxWrapper(make_network(context=(), **settings), mask=mask), SIZE_HW)

    return {
        "argmax": export("argmax"),
        "soft": export("argmax", gate="soft", attention=(2,)),
    }


def test_without_context_the_branch_is_the_threshold(plain: dict[str, onnx.ModelProto]) -> None:
    branches = find_branches(plain["argmax"])
    assert len(branches) == 4
    assert all(branch.context == () for branch in branches)
    assert all(kinds(plain["argmax"], branch.threshold) == ARGMAX for branch in branches)


def test_soft_gates_have_none(plain: dict[str, onnx.ModelProto]) -> None:
    assert find_branches(plain["soft"]) == ()


def test_an_fp16_graph_has_the_same_branches(argmax_model: onnx.ModelProto) -> None:
    half = to_fp16(argmax_model)
    for before, after in zip(find_branches(argmax_model), find_branches(half), strict=True):
        assert before.threshold == after.threshold
        assert set(before.context) <= set(after.context)


def graph(nodes: list[tuple[str, list[str], str]], **constants: np.ndarray) -> onnx.ModelProto:
    """Nodes (operator, inputs, output) on `x` and `t`, `(N, 2, 4, 4)`; the last one gives the output."""
    values = {"axes": np.array([2, 3], np.int64), "half": np.float32(0.5), "one": np.float32(1)} | constants
    return helper.make_model(
        helper.make_graph(
            [
                helper.make_node(kind, inputs, [output], **({"to": 1} if kind == "Cast" else {}))
                for kind, inputs, output in nodes
            ],
            "g",
            [helper.make_tensor_value_info(name, 1, ["N", 2, 4, 4]) for name in ("x", "t")],
            [helper.make_tensor_value_info(nodes[-1][2], 1, None)],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )


BOUNDS = [("ReduceMin", ["x", "axes"], "low"), ("ReduceMax", ["x", "axes"], "high")]
MIDDLE = [*BOUNDS, ("Add", ["low", "high"], "sum"), ("Mul", ["sum", "half"], "middle")]


@pytest.mark.parametrize("trunk", ["x", "t"])
def test_other_ways_to_write_the_mask(trunk: str) -> None:
    bit = [*MIDDLE, ("Greater", ["x", "middle"], "bit")]
    # A choice instead of a product; (1 + M) T instead of T + M T; the quotient with an epsilon.
    chosen = [*bit, ("Add", [trunk, trunk], "double"), ("Where", ["bit", "double", trunk], "f")]
    (branch,) = find_branches(graph(chosen))
    assert (branch.masks, branch.threshold) == (("bit",), ("low", "high", "sum", "middle", "bit"))
    factor = [*bit, ("Cast", ["bit"], "m"), ("Add", ["m", "one"], "n"), ("Mul", ["n", trunk], "f")]
    (branch,) = find_branches(graph(factor))
    assert branch.masks == ("n",) and "f" not in branch.nodes
    quotient = [
        *BOUNDS,
        ("Sub", ["x", "low"], "above"),
        ("Sub", ["high", "low"], "span"),
        ("Add", ["span", "half"], "guarded"),
        ("Div", ["above", "guarded"], "pi"),
        ("Mul", ["pi", trunk], "f"),
    ]
    (branch,) = find_branches(graph(quotient))
    assert branch.masks == ("pi",) and branch.threshold[-1] == "pi"


@pytest.mark.parametrize(
    "nodes",
    [
        # The span alone scales with x: no mask.
        [*BOUNDS, ("Sub", ["high", "low"], "span"), ("Mul", ["span", "t"], "f")],
        # A maximum of one value, a minimum of another: a softmax, not a threshold.
        [
            ("ReduceMax", ["x", "axes"], "high"),
            ("Sub", ["x", "high"], "s"),
            ("Exp", ["s"], "e"),
            ("Mul", ["e", "t"], "f"),
        ],
        [("ReduceMax", ["x", "axes"], "a"), ("ReduceMin", ["t", "axes"], "b"), ("Div", ["a", "b"], "f")],
        [("Greater", ["x", "half"], "bit"), ("Cast", ["bit"], "m"), ("Mul", ["m", "t"], "f")],
        [("Sigmoid", ["x"], "m"), ("Mul", ["m", "t"], "f")],
        [("Add", ["x", "t"], "f")],
    ],
)
def test_what_is_no_threshold(nodes: list[tuple[str, list[str], str]]) -> None:
    assert find_branches(graph(nodes)) == ()


def test_bounds_over_different_axes_are_no_pair() -> None:
    nodes = [
        ("ReduceMin", ["x", "axes"], "low"),
        ("ReduceMax", ["x", "channels"], "high"),
        ("Div", ["low", "high"], "m"),
        ("Mul", ["m", "t"], "f"),
    ]
    assert find_branches(graph(nodes, channels=np.array([1], np.int64))) == ()


def test_what_others_need_is_not_the_masks_own() -> None:
    nodes = [
        ("Relu", ["t"], "shared"),
        ("Neg", ["shared"], "own"),
        ("Abs", ["own"], "y"),
        ("ReduceMin", ["y", "axes"], "low"),
        ("ReduceMax", ["y", "axes"], "high"),
        ("Greater", ["high", "low"], "bit"),
        ("Cast", ["bit"], "m"),
        ("Mul", ["m", "shared"], "f"),
    ]
    (branch,) = find_branches(graph(nodes))
    assert branch.x == "y" and branch.context == ("own", "y")
