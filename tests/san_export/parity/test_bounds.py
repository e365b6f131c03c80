"""The oracle is another computation: FP64, FP32 with sums in other orders, FP16 rounded after every operator."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper
from san_export.graph.mask_branches import find_branches
from san_export.parity.bounds import Bounded, bounding_graph
from san_export.precision.emulate_fp16 import emulate_fp16
from san_export.precision.fp16 import to_fp16
from san_export.verify import CheckCrops

Node = tuple[str, list[str], str, dict[str, object]]
THRESHOLD: list[Node] = [
    ("ReduceMin", ["x", "axes"], "low", {}),
    ("ReduceMax", ["x", "axes"], "high", {}),
    ("Add", ["low", "high"], "ends", {}),
    ("Mul", ["ends", "half"], "middle", {}),
    ("Greater", ["x", "middle"], "bit", {}),
    ("Cast", ["bit"], "m", {"to": 1}),
    ("Mul", ["m", "x"], "attended", {}),
    ("Add", ["x", "attended"], "f", {}),
    ("ReduceMean", ["f", "axes"], "embedding", {"keepdims": 0}),
]


def net(nodes: list[Node], constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    """`nodes` give `x` from `pixels`, `(N, 3, 8, 6)`; a mask is drawn from it."""
    first: list[Node] = [("Transpose", ["floats"], "pixels", {"perm": [0, 3, 1, 2]})]
    cast: list[Node] = [("Cast", ["crops"], "floats", {"to": 1})]
    numbers = {"axes": np.array([2, 3], np.int64), "half": np.float32(0.5)} | constants
    return helper.make_model(
        helper.make_graph(
            [
                helper.make_node(kind, ins, [out], **more)
                for kind, ins, out, more in cast + first + nodes + THRESHOLD
            ],
            "net",
            [helper.make_tensor_value_info("crops", 2, ["N", 8, 6, 3])],
            [helper.make_tensor_value_info("embedding", 1, ["N", "D"])],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in numbers.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )


def numbers(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    return {
        "mean": np.float32([120, 110, 100])[:, None, None],
        "scale": np.float32([1 / 58, 1 / 57, 1 / 56])[:, None, None],
        "w1": normal(5, 3, 3, 3),
        "b1": normal(5),
        "w2": normal(5, 5, 3, 3),
        "up": normal(5, 4, 1, 1),
        "w3": normal(4, 2, 1, 1),
        "grid": np.float32([[1, 0] * 4, [0, 0] * 4] * 4)[None, None, :, :],
        "twice": np.float32([1, 1, 2, 2]),
    }


NORMALISED: list[Node] = [
    ("Sub", ["pixels", "mean"], "centred", {}),
    ("Mul", ["centred", "scale"], "normal", {}),
]
SAME = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
#: A stem, a residual unit and what brings a context back to the size of the trunk, in several ways.
RESIDUAL: list[Node] = [
    *NORMALISED,
    ("Conv", ["normal", "w1", "b1"], "c1", SAME),
    ("Relu", ["c1"], "r1", {}),
    ("MaxPool", ["r1"], "p1", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ("Conv", ["p1", "w2", "b1"], "c2", SAME),
    ("Add", ["c2", "p1"], "a2", {}),
    ("Relu", ["a2"], "r2", {}),
]
NETS: dict[str, list[Node]] = {
    "trunk": [*RESIDUAL[:-1], ("Relu", ["a2"], "x", {})],
    "deconvolution": [
        *RESIDUAL,
        ("ConvTranspose", ["r2", "up"], "x", {"strides": [2, 2], "output_padding": [1, 1]}),
    ],
    "bilinear": [
        *RESIDUAL,
        ("ConvTranspose", ["r2", "up"], "low_x", {}),
        ("Resize", ["low_x", "", "twice"], "x", {"mode": "linear"}),
    ],
    "grouped": [
        *RESIDUAL,
        ("ConvTranspose", ["r2", "up"], "t", {}),
        ("Conv", ["t", "w3"], "x", {"group": 2, "kernel_shape": [1, 1]}),
    ],
    "sub": [*NORMALISED, ("Sub", ["pixels", "normal"], "s", {}), ("Mul", ["s", "scale"], "x", {})],
}


def pixels(count: int = 4) -> np.ndarray:
    return np.random.default_rng(9).integers(0, 256, (count, 8, 6, 3), np.uint8)


def exact(nodes: list[Node], constants: dict[str, np.ndarray], crops: np.ndarray) -> torch.Tensor:
    """The net once more, in FP64, by PyTorch."""
    values = {name: torch.from_numpy(np.asarray(value)).double() for name, value in constants.items()}
    values["pixels"] = torch.from_numpy(crops).permute(0, 3, 1, 2).double()
    for node in nodes:
        values[node[2]] = exact_step(node, values)
    return values["x"]


def ran(model: onnx.ModelProto, names: list[str], crops: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [value.astype(np.float64) for value in session.run(names, {"crops": crops})]


def bounded(
    model: onnx.ModelProto, crops: np.ndarray
) -> list[tuple[Bounded, np.ndarray, np.ndarray, np.ndarray]]:
    made, blocks, why = bounding_graph(model)
    onnx.checker.check_model(made, full_check=True)
    assert why == ""
    result = []
    for block in blocks:
        x, bound, variance = ran(made, [block.x, block.bound, block.variance], crops)
        assert x.shape == bound.shape == variance.shape
        assert (bound >= 0).all() and (variance >= 0).all()
        result.append((block, x, bound, variance))
    return result


def with_outputs(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return shown


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NETS)
def test_fp32_is_within_the_bound_of_fp64(name: str, seed: int) -> None:
    constants, crops = numbers(seed), pixels()
    ((block, x, bound, variance),) = bounded(net(NETS[name], constants), crops)
    assert block.x == "x"
    error = np.abs(exact(NETS[name], constants, crops).numpy() - x)
    assert error.shape == bound.shape and error.max() > 0
    assert (error <= bound).all()
    # Of two FP32 computations, one is here and the other is exact.
    assert np.sqrt(np.mean(np.square(error))) < np.sqrt(np.mean(variance)) < bound.mean()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NETS)
def test_rounded_fp16_is_within_the_bound(name: str, seed: int) -> None:
    crops = pixels()
    model = to_fp16(net(NETS[name], numbers(seed)))
    ((block, x, bound, variance),) = bounded(model, crops)
    (other,) = ran(with_outputs(emulate_fp16(model), [block.x]), [block.x], crops)
    error = np.abs(other - x)
    assert (error <= bound).all()
    if name != "sub":
        # The weights are FP16's on both sides, so that values differ by the roundings of values alone.
        ratio = np.sqrt(np.mean(np.square(error)) / np.mean(variance))
        assert 0.1 < ratio < 1.5, ratio


def adversary(name: str, constants: dict[str, np.ndarray], crops: np.ndarray, seed: int) -> torch.Tensor:
    """FP16 with every rounding as bad as it may be: each stored value is off by its unit, up or down."""
    rng = torch.Generator().manual_seed(seed)

    def stored(value: torch.Tensor) -> torch.Tensor:
        sign = torch.randint(0, 2, (1,), generator=rng).double() * 2 - 1
        return value * (1 + sign * 2.0**-11)

    nodes, result = NETS[name], torch.empty(0)
    values = {key: torch.from_numpy(np.asarray(value)).double() for key, value in constants.items()}
    for key in ("w1", "b1", "w2", "up", "w3"):
        values[key] = values[key].half().double()
    values["pixels"] = torch.from_numpy(crops).permute(0, 3, 1, 2).double()
    for node in nodes:
        made = exact_step(node, values)
        result = values[node[2]] = made if node[0] in ("Relu", "MaxPool", "Sub") else stored(made)
    return result


def exact_step(node: Node, values: dict[str, torch.Tensor]) -> torch.Tensor:
    kind, ins, _, more = node
    given = [values[name] for name in ins if name]
    if kind in ("Sub", "Mul", "Add"):
        left, right = given
        return {"Sub": left - right, "Mul": left * right, "Add": left + right}[kind]
    if kind == "Relu":
        return given[0].relu()
    if kind == "MaxPool":
        return F.max_pool2d(given[0], 3, 2, 1)
    if kind == "Conv":
        return F.conv2d(*given, padding=1 if "pads" in more else 0, groups=int(str(more.get("group", 1))))
    if kind == "Resize":
        return F.interpolate(given[0], scale_factor=2, mode="bilinear", align_corners=False)
    strided = "strides" in more
    return F.conv_transpose2d(*given, stride=2 if strided else 1, output_padding=1 if strided else 0)


@pytest.mark.parametrize("name", ["trunk", "deconvolution", "bilinear", "grouped"])
def test_the_worst_roundings_are_within_the_bound(name: str) -> None:
    constants, crops = numbers(5), pixels()
    ((_, x, bound, _),) = bounded(to_fp16(net(NETS[name], constants)), crops)
    reached = 0.0
    for seed in range(32):
        error = np.abs(adversary(name, constants, crops, seed).numpy() - x)
        assert (error <= bound).all()
        reached = max(reached, float((error / np.maximum(bound, 1e-30)).max()))
    # Of three layers, signs that all agree are among 32 draws: a bound of the right size is nearly reached.
    assert reached > 0.3


def slow(constants: dict[str, np.ndarray], crops: np.ndarray) -> np.ndarray:
    """The worst case of a net of two convolutions in FP32, written out place by place in FP64."""

    def gamma(terms: int) -> float:
        return terms * 2.0**-24 / (1 - terms * 2.0**-24)

    def convolved(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
        _, height, width = values.shape
        result = np.zeros((len(weight), height, width))
        for out, c, i, j, y, x in np.ndindex(*weight.shape, height, width):
            if 0 <= y + i - 1 < height and 0 <= x + j - 1 < width:
                result[out, y, x] += weight[out, c, i, j] * values[c, y + i - 1, x + j - 1]
        return result

    w1, b1, w2 = (constants[key].astype(np.float64) for key in ("w1", "b1", "w2"))
    results = []
    for crop in crops:
        v = crop.transpose(2, 0, 1).astype(np.float64)
        p = 2 * gamma(28) * (convolved(np.abs(v), np.abs(w1)) + np.abs(b1)[:, None, None])
        v = convolved(v, w1) + b1[:, None, None]
        p = np.minimum(p, np.maximum(v + p, 0))
        v = np.maximum(v, 0)
        p = convolved(p * (1 + gamma(46)) + 2 * gamma(46) * np.abs(v), np.abs(w2))
        p += 2 * gamma(46) * np.abs(b1)[:, None, None]
        results.append(p)
    return np.stack(results)


def test_the_bound_against_loops() -> None:
    constants, crops = numbers(1), pixels(1)
    nodes: list[Node] = [
        ("Conv", ["pixels", "w1", "b1"], "c1", SAME),
        ("Relu", ["c1"], "r1", {}),
        ("Conv", ["r1", "w2", "b1"], "x", SAME),
    ]
    ((_, _, bound, _),) = bounded(net(nodes, constants), crops)
    np.testing.assert_allclose(bound, slow(constants, crops), rtol=2e-4)
    assert (bound >= slow(constants, crops) * (1 - 1e-7)).all()


def test_what_is_exact_has_no_bound() -> None:
    nodes: list[Node] = [("Relu", ["pixels"], "x", {})]
    ((_, x, bound, variance),) = bounded(net(nodes, {}), pixels())
    assert np.array_equal(x, pixels().transpose(0, 3, 1, 2))
    assert not bound.any() and not variance.any()


def test_dead_places_are_exact() -> None:
    constants = numbers(2)
    constants["b1"] = np.float32([-1e4, 0, 0, 0, 0])
    nodes: list[Node] = [*NORMALISED, ("Conv", ["normal", "w1", "b1"], "c1", SAME), ("Relu", ["c1"], "x", {})]
    ((_, x, bound, variance),) = bounded(net(nodes, constants), pixels())
    assert not x[:, 0].any() and not bound[:, 0].any() and not variance[:, 0].any()
    assert bound[:, 1:][x[:, 1:] > 0].all()


def test_zeros_of_a_deconvolution_are_exact() -> None:
    ((_, x, bound, _),) = bounded(net(NETS["deconvolution"], numbers(0)), pixels())
    # Some tiny number is left for underflow, where a convolution has to be taken at its word.
    assert not x[:, :, 1::2].any() and bound[:, :, 1::2].max() < 1e-35 < bound.max()
    spread: list[Node] = [
        *RESIDUAL,
        ("ConvTranspose", ["r2", "up"], "t", {}),
        ("Resize", ["t", "", "twice"], "n", {"mode": "nearest"}),
        ("Mul", ["n", "grid"], "x", {}),
    ]
    constants = numbers(0)
    constants["grid"] = constants["grid"][:, :, :8, :6]
    ((_, x, bound, _),) = bounded(net(spread, constants), pixels())
    assert not x[:, :, 1::2].any() and not bound[:, :, 1::2].any() and bound[:, :, ::2, ::2].any()


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ([("Sigmoid", ["pixels"], "x", {})], r"does not know the operator Sigmoid \(x\)"),
        (
            [("Mul", ["pixels", "scale"], "a", {}), ("Mul", ["a", "a"], "x", {})],
            "x is a product of two values",
        ),
        (
            [("Mul", ["pixels", "scale"], "a", {}), ("Resize", ["a", "", "odd"], "x", {"mode": "linear"})],
            r"does not know this Resize \(x\)",
        ),
    ],
)
def test_what_is_not_known_is_not_claimed(nodes: list[Node], why: str) -> None:
    _, blocks, reason = bounding_graph(net(nodes, numbers(0) | {"odd": np.float32([1, 1, 1.5, 1.5])}))
    assert blocks == ()
    assert re.search(why, reason)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_network_of_ours(argmax_model: onnx.ModelProto, crops: CheckCrops, precision: str) -> None:
    model = argmax_model
    typed = to_fp16(model) if precision == "fp16" else model
    found = bounded(typed, crops.images)
    branches = find_branches(typed)
    assert [block.x for block, *_ in found] == [branch.x for branch in branches]
    other = emulate_fp16(typed) if precision == "fp16" else model
    names = [name for branch in branches for name in (branch.x, branch.masks[0])]
    shown = ran(with_outputs(other, names), names, crops.images)
    same = np.ones(len(crops.images), bool)
    for index, (_, x, bound, variance) in enumerate(found):
        assert np.isfinite(bound).all()
        error = np.abs(shown[2 * index] - x)[same]
        assert (error <= bound[same]).all()
        if precision == "fp16":
            assert 0.1 < np.sqrt(np.mean(np.square(error)) / np.mean(variance[same])) < 1.5
        middle = (x.min((2, 3), keepdims=True) + x.max((2, 3), keepdims=True)) / 2
        # Bounds behind a block are those of crops without a flip in it.
        same &= ((x > middle) == (shown[2 * index + 1] > 0)).all((1, 2, 3))
        if not same.any():
            break
