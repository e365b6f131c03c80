"""Layers on the reference's values, against sums done by hand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from san_export.graph.graph import view
from san_export.parity.stages.allowance import LAMBDA, Precision, allowed, noise
from san_export.parity.stages.layer_replay import norm, replay, segment
from san_export.parity.stages.subgraph import Subgraph, steps

from san_deploy.errors import SanError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 8)).astype(np.float32)
W = RNG.normal(size=(8, 6)).astype(np.float32)
V = RNG.normal(size=(6, 4)).astype(np.float32)


def model(nodes: list[onnx.NodeProto], **weights: np.ndarray) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def two_layers() -> onnx.ModelProto:
    return model(
        [
            helper.make_node("MatMul", ["x", "w"], ["a"]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("MatMul", ["b", "v"], ["c"]),
        ],
        w=W,
        v=V,
    )


def test_a_layer_is_made_of_what_it_is_given() -> None:
    graph = view(two_layers())
    given = np.full((5, 6), 2.0, np.float32)
    parts = [segment(graph, name, ["a", "b", "c"]) for name in ("a", "b", "c")]
    values = {"a": -given, "b": given, "c": given[:, :4]}
    found = replay(two_layers(), graph, parts, values, {"x": X})
    np.testing.assert_allclose(found["a"].value, X @ W, rtol=1e-5, atol=1e-6)
    assert (found["b"].value == 0).all()
    np.testing.assert_allclose(found["c"].value, given @ V, rtol=1e-5, atol=1e-6)


def test_a_segment_ends_at_the_nearest_pairs() -> None:
    graph = view(two_layers())
    whole = segment(graph, "c", ["c"])
    assert whole.nodes == (0, 1, 2) and whole.inputs == ("x",) and whole.given == () and whole.loose == ("b",)
    short = segment(graph, "c", ["a", "c"])
    assert short.nodes == (1, 2) and short.given == ("a",) and short.loose == ("b",)
    assert segment(graph, "b", ["a", "b"]).exact and not short.exact


def test_rounding_explains_what_rounding_does_in_fp16() -> None:
    """Half of a cancelling sum: the error of its inputs' rounding, counted by drawing many of them."""
    nodes = [
        helper.make_node("Add", ["x", "k"], ["exact"]),
        helper.make_node("Cast", ["exact"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["half"], ["y"], to=TensorProto.FLOAT),
    ]
    near = model([helper.make_node("Identity", ["x"], ["g"]), *nodes], k=-X[:1])
    near.graph.node[1].input[0] = "g"
    graph = view(near)
    part = segment(graph, "y", ["g", "y"])
    value = np.tile(X[:1], (4000, 1)) * np.float32(1.001)
    found = replay(near, graph, [part], {"g": value}, {"x": value})["y"]
    rng = np.random.default_rng(1)
    moved = value * (1 + 2.0**-11 * rng.uniform(-1, 1, value.shape))
    by_hand = (moved - X[:1]).astype(np.float16).astype(np.float64) - (value - X[:1]).astype(np.float16)
    assert found.explained == pytest.approx(np.linalg.norm(by_hand), rel=0.05)
    assert part.precision == Precision(2.0**-11, False)
    # The sum cancels, so that this is far more than a rounding of the result.
    assert allowed(found.explained, norm(found.value), part.precision.unit, part.roundings) > 0.5  # type: ignore[arg-type]


def test_noise_of_int8_is_half_a_step_and_what_lies_beyond_the_grid() -> None:
    nodes = [
        helper.make_node("Identity", ["x"], ["g"]),
        helper.make_node("QuantizeLinear", ["g", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("MatMul", ["d", "w"], ["y"]),
    ]
    step = np.float32(0.05)
    quantised = model(nodes, s=step, z=np.int8(0), w=W)
    graph = view(quantised)
    part = segment(graph, "y", ["g", "y"])
    assert part.precision == Precision(2.0**-24, True)
    value = RNG.uniform(-6, 6, (100, 8)).astype(np.float32)
    value[0, 0] = 127 * step + 1.5
    drawn = noise(value, "g", graph, part.nodes, part.precision, 0)
    inside = np.abs(value) <= 127 * step
    assert np.abs(drawn[inside]).max() <= step / 2 * 1.001 and np.abs(drawn[inside]).max() > step * 0.45
    assert drawn[0, 0] == pytest.approx(-3.0, rel=1e-3)
    # A scale that cuts off most of the values is no rounding.
    drawn = noise(value * 10, "g", graph, part.nodes, part.precision, 0)
    assert np.abs(drawn).max() <= step / 2 * 1.01


def test_pixels_that_nobody_gives_are_stirred_where_a_product_reads_them() -> None:
    nodes = [helper.make_node("Mul", ["x", "k"], ["p"]), helper.make_node("MatMul", ["p", "w"], ["y"])]
    scaled = model(nodes, k=np.float32(0.5), w=W)
    graph = view(scaled)
    part = segment(graph, "y", ["y"])
    assert part.loose == ("p",)
    found = replay(scaled, graph, [part], {}, {"x": X})["y"]
    np.testing.assert_allclose(found.value, X @ W / 2, rtol=1e-5, atol=1e-6)
    assert 0 < found.explained < 1e-5


def test_bits_of_a_comparison_are_exact() -> None:
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=1),
        helper.make_node("Greater", ["x", "m"], ["bits"]),
        helper.make_node("Cast", ["bits"], ["y"], to=TensorProto.FLOAT),
    ]
    graph = view(model(nodes))
    part = segment(graph, "bits", ["m", "bits"])
    assert part.exact and part.given == ("m",) and part.inputs == ("x",)
    found = replay(model(nodes), graph, [part], {"m": X}, {"x": X})["bits"]
    assert found.explained == 0 and found.value is not None and not found.value.any()


def test_one_layer_that_does_not_run_leaves_the_others_alone() -> None:
    graph = view(two_layers())
    parts = [segment(graph, name, ["a", "b", "c"]) for name in ("a", "b", "c")]
    values = {"a": np.ones((5, 6), np.float32), "b": np.ones((5, 9), np.float32)}
    found = replay(two_layers(), graph, parts, values, {"x": X})
    assert found["c"].value is None
    assert found["a"].value is not None and found["b"].value is not None


@pytest.mark.parametrize(
    "plan", [[["a", "b", "c"]], [["a"], ["b"], ["c"]], [["b"], ["a", "c"]], [["c"], ["a", "b"]]]
)
def test_steps_give_what_the_whole_gives(plan: list[list[str]]) -> None:
    found: dict[str, np.ndarray] = {}
    for values in steps(two_layers(), view(two_layers()), {"x": X}, plan):
        found |= values
    a = X @ W
    for name, expected in {"a": a, "b": a.clip(0), "c": a.clip(0) @ V}.items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-5)


def test_a_subgraph_that_does_not_open_is_one_line() -> None:
    graph = view(two_layers())
    with pytest.raises(SanError, match="does not open a subgraph"):
        Subgraph(two_layers(), graph, [helper.make_node("NoSuch", ["x"], ["y"])], {"x": 1}, ["y"])
    with pytest.raises(SanError, match="does not run a subgraph"):
        Subgraph(two_layers(), graph, graph.nodes[:1], {"x": 1}, ["a"])({"x": X[:, :3]})


def test_roundings_are_counted_by_hand() -> None:
    """Inputs and weights, the operators, and in FP32 the summands of their sums."""
    graph = view(two_layers())
    assert segment(graph, "a", ["a"]).roundings == 2 + 1 + 8
    assert segment(graph, "b", ["a", "b"]).roundings == 2
    assert segment(graph, "c", ["c"]).roundings == 2 + (1 + 8) + (1 + 6)
    assert allowed(3.0, 2.0, 0.5, 4) == pytest.approx(LAMBDA * 2 * np.hypot(1.5, 0.5))
    assert allowed(3.0, 0.0, 0.5, 4) == 0


@pytest.mark.parametrize("summands", [16, 256, 4096])
def test_what_is_allowed_of_a_sum_in_fp32_holds_one_after_the_other(summands: int) -> None:
    """The worst order: numbers are added one by one, each sum rounded; a kernel adds them in blocks."""
    rng = np.random.default_rng(summands)
    values = rng.normal(size=(200, summands)).astype(np.float32)
    weight = rng.normal(size=(summands, 1)).astype(np.float32)
    one_by_one = np.zeros((200, 1), np.float32)
    for place in range(summands):
        one_by_one += values[:, place : place + 1] * weight[place]
    exact = values.astype(np.float64) @ weight
    sums = model([helper.make_node("MatMul", ["x", "w"], ["y"])], w=weight)
    sums.graph.input[0].type.tensor_type.shape.dim[1].dim_value = summands
    graph = view(sums)
    part = segment(graph, "y", ["y"])
    found = replay(sums, graph, [part], {}, {"x": values})["y"]
    error = float(np.linalg.norm(one_by_one - exact) / np.linalg.norm(exact))
    limit = allowed(found.explained, float(np.linalg.norm(exact)), part.precision.unit, part.roundings)
    assert error <= limit <= 100 * error


def test_norm_of_bits_and_of_what_is_not_finite() -> None:
    bits = np.array([True, False, True])
    assert norm(bits) == pytest.approx(2**0.5)
    assert norm(bits, np.array([False, True, True])) == pytest.approx(2**0.5)
    assert np.isnan(norm(np.array([1.0, np.nan])))
    assert np.isnan(norm(np.array([np.inf]), np.array([np.inf])))
    assert norm(np.float32([3, 4])) == 5
