"""A mask replaced in the graph is the mask that an export of the checkpoint has, to the bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from san_export.graph.mask_branches import find_branches
from san_export.graph.replace_masks import masks_differ, replace_masks
from san_export.onnx_writer import to_onnx
from san_export.precision.fp16 import to_fp16
from san_export.verify import CheckCrops
from san_export.wrapper import OnnxWrapper
from san_train.models import SharpAttentionNetwork

from san_deploy.errors import SanError
from tests.san_export.road import run

SIZE_HW = (64, 32)
MASKS = ("argmax", "ramp:0.25", "expected")


@pytest.fixture(scope="module")
def exported(make_network: Callable[..., SharpAttentionNetwork]) -> dict[str, onnx.ModelProto]:
    network = make_network(upsample="bilinear", attention=(1, 2), context=(1,))
    return {mask: to_onnx(OnnxWrapper(network, mask=mask), SIZE_HW) for mask in MASKS}


@pytest.mark.parametrize("before", MASKS)
@pytest.mark.parametrize("after", MASKS)
def test_rows_are_those_of_an_export_with_that_mask(
    exported: dict[str, onnx.ModelProto], crops: CheckCrops, before: str, after: str
) -> None:
    replaced = replace_masks(exported[before], after)
    assert np.array_equal(run(replaced, crops.images), run(exported[after], crops.images))
    assert [branch.masks for branch in find_branches(replaced)] == [
        branch.masks for branch in find_branches(exported[before])
    ]
    assert masks_differ(replaced, after, crops.images) < 2.0**-22


def test_a_mask_that_is_not_the_one_it_says(exported: dict[str, onnx.ModelProto], crops: CheckCrops) -> None:
    assert masks_differ(exported["argmax"], "expected", crops.images) > 0.1
    wide = replace_masks(exported["argmax"], "ramp:0.25")
    assert masks_differ(wide, "ramp:0.26", crops.images) > 1e-3


def test_a_constant_channel_gives_0_in_every_mask() -> None:
    def make(operator: str, inputs: list[str], output: str, **options: object) -> onnx.NodeProto:
        return helper.make_node(operator, inputs, [output], **options)

    graph = helper.make_graph(
        [
            make("ReduceMin", ["crops", "axes"], "low", keepdims=1),
            make("ReduceMax", ["crops", "axes"], "high", keepdims=1),
            make("Add", ["low", "high"], "both"),
            make("Mul", ["both", "half"], "middle"),
            make("Greater", ["crops", "middle"], "above"),
            make("Cast", ["above"], "mask", to=1),
            make("Mul", ["mask", "crops"], "embedding"),
        ],
        "g",
        [helper.make_tensor_value_info("crops", 1, ["N", 2, 3, 3])],
        [helper.make_tensor_value_info("embedding", 1, ["N", 2, 3, 3])],
        [
            numpy_helper.from_array(np.array([2, 3]), "axes"),
            numpy_helper.from_array(np.array(0.5, np.float32), "half"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    x = np.full((1, 2, 3, 3), 2, np.float32)
    x[0, 1, 0, 0] = 6
    for mask in MASKS:
        replaced = replace_masks(model, mask)
        assert masks_differ(replaced, mask, x) == 0
        session_rows = _run(replaced, x)
        # 1 at the maximum, 0 elsewhere; nothing of the constant channel.
        assert session_rows[0, 1, 0, 0] == 6 and np.count_nonzero(session_rows) == 1


def _run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"crops": x})[0]


def test_what_is_not_replaced(
    exported: dict[str, onnx.ModelProto], make_network: Callable[..., SharpAttentionNetwork]
) -> None:
    with pytest.raises(ValueError, match="mask 'sharp' is none of"):
        replace_masks(exported["argmax"], "sharp")
    with pytest.raises(SanError, match="no sharp mask to replace"):
        replace_masks(to_onnx(OnnxWrapper(make_network(gate="soft")), SIZE_HW), "argmax")
    with pytest.raises(SanError, match="not as one FP32 value"):
        replace_masks(to_fp16(exported["argmax"]), "expected")
