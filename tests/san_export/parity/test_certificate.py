from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from san_export.parity.certificate import certain, certify
from san_export.parity.stages.probes import onnx_probe
from san_export.precision.emulate_fp16 import emulate_fp16
from san_export.precision.fp16 import to_fp16
from san_export.verify import CheckCrops

from san_deploy.artefact import Artefact
from tests.tiny_models import tiny_artefact

SIZE_HW = (8, 6)


def artefact(**changes: object) -> Artefact:
    told = {"size_hw": SIZE_HW, "embedding_dim": 4, "mask": "argmax", "settings": {"attention": [1, 2]}}
    return tiny_artefact(**(told | changes))


def two_blocks(last: str = "Relu") -> onnx.ModelProto:
    """A convolution, a mask, a convolution, a mask."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Cast", ["crops"], ["floats"], to=1),
        helper.make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["planes", "scale"], ["normal"]),
    ]
    value = "normal"
    for block in ("1", "2"):
        nodes += [
            helper.make_node("Conv", [value, f"w{block}"], [f"c{block}"], kernel_shape=[1, 1]),
            helper.make_node(last if block == "2" else "Relu", [f"c{block}"], [f"x{block}"]),
            helper.make_node("ReduceMin", [f"x{block}", "axes"], [f"low{block}"]),
            helper.make_node("ReduceMax", [f"x{block}", "axes"], [f"high{block}"]),
            helper.make_node("Add", [f"low{block}", f"high{block}"], [f"ends{block}"]),
            helper.make_node("Mul", [f"ends{block}", "half"], [f"middle{block}"]),
            helper.make_node("Greater", [f"x{block}", f"middle{block}"], [f"bit{block}"]),
            helper.make_node("Cast", [f"bit{block}"], [f"m{block}"], to=1),
            helper.make_node("Mul", [f"m{block}", f"x{block}"], [f"a{block}"]),
            helper.make_node("Add", [f"x{block}", f"a{block}"], [f"f{block}"]),
        ]
        value = f"f{block}"
    nodes.append(helper.make_node("ReduceMean", [value, "axes"], ["embedding"], keepdims=0))
    numbers = {
        "axes": np.array([2, 3], np.int64),
        "half": np.float32(0.5),
        "scale": np.float32([1 / 50, 1 / 51, 1 / 52])[:, None, None],
        "w1": rng.normal(size=(2, 3, 1, 1)).astype(np.float32),
        "w2": rng.normal(size=(4, 2, 1, 1)).astype(np.float32),
    }
    return helper.make_model(
        helper.make_graph(
            nodes,
            "two",
            [helper.make_tensor_value_info("crops", 2, ["N", *SIZE_HW, 3])],
            [helper.make_tensor_value_info("embedding", 1, ["N", 4])],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in numbers.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )


def pixels(count: int = 300) -> np.ndarray:
    """Every second crop has few colours, far from each other, and so few margins."""
    rng = np.random.default_rng(1)
    crops = rng.integers(0, 256, (count, *SIZE_HW, 3), np.uint8)
    crops[::2] = np.where(crops[::2, :, :, :1] > 128, np.uint8([250, 240, 200]), np.uint8([3, 20, 30]))
    return crops


def flips(model: onnx.ModelProto, crops: np.ndarray) -> list[np.ndarray]:
    """Which crops have a flip in FP16, block by block, without a word of bounds."""
    reference = onnx_probe(model, artefact(), threads=1)(crops)
    target = onnx_probe(emulate_fp16(to_fp16(model)), artefact(), threads=1)(crops)
    return [(one.mask != two.mask).any((1, 2, 3)) for one, two in zip(reference, target, strict=True)]


def test_a_crop_with_a_certificate_never_flips() -> None:
    model, crops = two_blocks(), pixels()
    whole = certify(model, crops, artefact(), precision="fp16")
    assert [figures.block for figures in whole] == ["stage1", "stage2"]
    flipped = np.zeros(len(crops), bool)
    for block, fell in enumerate(flips(model, crops)):
        flipped |= fell
        assert 0 < flipped.sum() < 100
        with_flip = certify(model, crops[flipped], artefact(), precision="fp16")[block]
        assert with_flip.proven == 0
        without = certify(model, crops[~flipped], artefact(), precision="fp16")[block]
        assert without.proven * without.crops == pytest.approx(whole[block].proven * len(crops))
        assert 0.1 < without.proven <= without.likely <= 1
    assert whole[1].proven <= whole[0].proven
    for figures in whole:
        assert (figures.crops, figures.precision) == (300, "fp16")
        assert 2**-14 < figures.sigma < figures.bound < 2**-6


def test_fp32_proves_more_than_fp16() -> None:
    model, crops = two_blocks(), pixels()
    fp16 = certify(model, crops, artefact(), precision="fp16")
    for one, two in zip(fp16, certify(model, crops, artefact(), precision="fp32"), strict=True):
        assert one.proven <= two.proven and two.proven > 0.45
        assert one.bound > 1000 * two.bound and one.sigma > 1000 * two.sigma


def test_a_tie_is_certain_where_nothing_is_rounded() -> None:
    x = np.array([0.0, 1, 2, 0, 0, 0])[None, None, None]
    bits = np.array([0, 0, 1, 0, 0, 0], bool)[None, None, None]
    assert certain(bits, x, np.zeros_like(x)).all()
    assert not certain(~bits, x, np.zeros_like(x)).any()
    assert not certain(bits, x, np.full_like(x, 1e-9))[..., 1].any()
    assert certain(bits, x, np.full_like(x, 1e-9))[..., [0, 2, 3, 4, 5]].all()
    # A dead channel is 0 in every computation; one that only looks dead is not.
    dead, none = np.zeros((1, 1, 2, 3)), np.zeros((1, 1, 2, 3), bool)
    assert certain(none, dead, dead).all()
    assert not certain(none, dead, dead + 1e-9).any()
    for nothing in (np.nan, np.inf):
        assert not certain(bits, x, np.full_like(x, nothing)).any()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.floats(0, 1), offset=st.sampled_from([0.0, 1e3, -1e6]))
def test_no_x_within_the_bound_moves_a_certain_bit(seed: int, size: float, offset: float) -> None:
    rng = np.random.default_rng(seed)
    # FP32 values, as the network has them.
    x = (rng.normal(size=(2, 3, 4, 3)) + offset).astype(np.float32).astype(np.float64)
    bound = size * rng.random((2, 3, 4, 3)) ** 4
    bits = drawn(x)
    sure = certain(bits, x, bound)
    movable = np.zeros(bits.shape, bool)
    for _ in range(20):
        side = rng.choice([-1.0, 0.0, 1.0], x.shape)
        moved = (x + side * bound).astype(np.float32).astype(np.float64)
        inside = np.abs(moved - x) <= bound
        moved = np.where(inside, moved, x)
        movable |= drawn(moved) != bits
    # Everything up but one place, and the reverse, is the worst that can be.
    for place in np.ndindex(4, 3):
        for sign in (-1.0, 1.0):
            side = np.full(x.shape, sign)
            side[(slice(None), slice(None), *place)] = -sign
            moved = (x + side * bound * 0.999).astype(np.float32).astype(np.float64)
            moved = np.where(np.abs(moved - x) <= bound, moved, x)
            movable |= drawn(moved) != bits
    assert not (movable & sure).any()


def drawn(x: np.ndarray) -> np.ndarray:
    exact = x.astype(np.float32)
    middle = (exact.min((2, 3), keepdims=True) + exact.max((2, 3), keepdims=True)) * np.float32(0.5)
    result: np.ndarray = exact > middle
    return result


def test_what_is_not_certain_can_be_moved() -> None:
    rng = np.random.default_rng(7)
    x = rng.normal(size=(20, 3, 6, 5)).astype(np.float32).astype(np.float64)
    bound = np.full(x.shape, 0.05)
    bits = drawn(x)
    unsure = ~certain(bits, x, bound)
    movable = np.zeros(bits.shape, bool)
    for place in np.ndindex(6, 5):
        for sign in (-1.0, 1.0):
            side = np.full(x.shape, sign)
            side[(slice(None), slice(None), *place)] = -sign
            movable |= drawn(x + side * 0.0499) != bits
    assert 50 < unsure.sum() < 0.2 * unsure.size
    assert (movable & unsure).sum() > 0.95 * unsure.sum()


def test_a_network_of_ours(argmax_model: onnx.ModelProto, crops: CheckCrops) -> None:
    told = tiny_artefact(
        size_hw=(64, 32), embedding_dim=16, mask="argmax", settings={"attention": [1, 2, 3, 4]}
    )
    fp32 = certify(argmax_model, crops.images, told, precision="fp32")
    fp16 = certify(argmax_model, crops.images, told, precision="fp16")
    for one, two in zip(fp32, fp16, strict=True):
        assert 0 <= one.proven <= one.likely <= 1 and two.likely <= one.likely
        assert one.bound < two.bound and 1e-8 < one.sigma < 1e-5 < two.sigma < 1e-2
    assert [one.likely for one in fp32] == sorted((one.likely for one in fp32), reverse=True)


def test_no_claim() -> None:
    model, crops = two_blocks(), pixels(2)
    assert certify(model, crops, artefact(), precision="int8") == ()
    for mask in ("expected", "ramp:0.25", "soft", "none"):
        assert certify(model, crops, artefact(mask=mask), precision="fp32") == ()
    # An operator that is not known ends it: what stands before it is still true.
    found = certify(two_blocks("Sigmoid"), crops, artefact(), precision="fp32")
    assert [figures.block for figures in found] == ["stage1"]
    unknown = two_blocks()
    unknown.graph.node[2].op_type = "Pow"
    assert certify(unknown, crops, artefact(), precision="fp32") == ()
