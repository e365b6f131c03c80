from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from san_export.precision.channels_last import normalise_channels_last
from san_export.verify import CheckCrops


def run(model: onnx.ModelProto, crops: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"crops": crops})[0]


@pytest.mark.parametrize("fixture", ["argmax_model", "expected_model"])
def test_same_bits(request: pytest.FixtureRequest, crops: CheckCrops, fixture: str) -> None:
    model = request.getfixturevalue(fixture)
    before = model.SerializeToString()
    moved = normalise_channels_last(model)
    assert model.SerializeToString() == before
    onnx.checker.check_model(moved, full_check=True)
    images = crops.images
    if fixture == "expected_model":
        images = np.ascontiguousarray(images[..., ::-1].transpose(0, 3, 1, 2)).astype(np.float32)
    assert np.array_equal(run(moved, images), run(model, images))
    kinds = [node.op_type for node in moved.graph.node]
    turned = kinds.index("Conv") - 1
    assert kinds[turned] == "Transpose" and kinds[turned - 2 : turned] == ["Sub", "Mul"]
    weights = {item.name: numpy_helper.to_array(item) for item in moved.graph.initializer}
    for node in moved.graph.node[turned - 2 : turned]:
        assert weights[node.input[1]].shape == (32, 3)
        assert (weights[node.input[1]] == weights[node.input[1]][0]).all()


def test_other_starts_are_left_alone() -> None:
    def start(constant: np.ndarray) -> onnx.ModelProto:
        return helper.make_model(
            helper.make_graph(
                [helper.make_node("Sub", ["crops", "c"], ["embedding"])],
                "g",
                [helper.make_tensor_value_info("crops", 1, ["N", 3, 4, 2])],
                [helper.make_tensor_value_info("embedding", 1, ["N", 3, 4, 2])],
                [numpy_helper.from_array(constant.astype(np.float32), "c")],
            ),
            opset_imports=[helper.make_opsetid("", 18)],
            ir_version=10,
        )

    varying = start(np.arange(24).reshape(3, 4, 2))
    assert normalise_channels_last(varying) is varying
    assert normalise_channels_last(start(np.zeros((3, 1, 1)))) is not varying
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 2)).astype(np.float32)
    for constant in (np.arange(3).reshape(1, 3, 1, 1), np.array(2.0), np.array([[[5.0]]])):
        moved = normalise_channels_last(start(constant))
        assert [node.op_type for node in moved.graph.node] == ["Transpose", "Sub", "Transpose"]
        assert np.array_equal(run(moved, x), x - constant.astype(np.float32))
