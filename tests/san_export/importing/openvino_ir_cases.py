"""OpenVINO's operators beside what they become in ONNX: the same values from OpenVINO and from ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino
import openvino.opset13 as ops
import pytest
from san_export.importing.convention import PRESETS
from san_export.importing.foreign import read_foreign
from san_export.importing.openvino_ir import IrSession, ir_to_onnx
from san_export.importing.run import ImportOptions, import_model

from san_deploy.backends.onnxruntime import OnnxRuntime
from san_deploy.errors import SanError
from tests.san_export.importing.made import crops

RNG = np.random.default_rng(0)


def draw(*shape: int) -> np.ndarray:
    values: np.ndarray = RNG.normal(size=shape).astype(np.float32)
    return values


def ir(path: Path, body: Callable[[Any], Any], shape: tuple[int, ...] = (1, 4, 12, 8)) -> Path:
    """An IR with one input `data` and one output `rows`."""
    data = ops.parameter(list(shape), np.float32, name="data")
    data.output(0).set_names({"data"})
    last = body(data)
    last.output(0).set_names({"rows"})
    openvino.save_model(openvino.Model([ops.result(last)], [data]), path, compress_to_fp16=False)
    return path


def pads(side: int) -> dict[str, list[int]]:
    return {"pads_begin": [side, side], "pads_end": [side, side]}


OPERATORS: dict[str, Callable[[Any], Any]] = {
    "convolution": lambda x: ops.convolution(x, draw(6, 4, 3, 3), [2, 1], **pads(1), dilations=[1, 1]),
    "same": lambda x: ops.convolution(
        x, draw(6, 4, 3, 3), [2, 2], **pads(0), dilations=[1, 1], auto_pad="same_upper"
    ),
    "group": lambda x: ops.group_convolution(x, draw(2, 3, 2, 3, 3), [1, 1], **pads(1), dilations=[1, 1]),
    "depthwise": lambda x: ops.group_convolution(x, draw(4, 1, 1, 3, 3), [1, 1], **pads(1), dilations=[1, 1]),
    "max": lambda x: ops.max_pool(x, [2, 2], [1, 1], [1, 1], [1, 1], [3, 3], "floor", "explicit"),
    "average": lambda x: ops.avg_pool(x, [2, 2], [1, 1], [1, 1], [3, 3], True, "floor", "explicit"),
    "average with pads": lambda x: ops.avg_pool(
        x, [2, 2], [1, 1], [1, 1], [3, 3], False, "floor", "explicit"
    ),
    "average, rounded up": lambda x: ops.avg_pool(
        x, [2, 2], [1, 1], [1, 1], [3, 3], True, "ceil", "explicit"
    ),
    "mean": lambda x: ops.reduce_mean(x, np.array([2, 3]), True),
    "sum": lambda x: ops.reduce_sum(x, np.array([-1]), False),
    "largest": lambda x: ops.reduce_max(x, np.array([1]), False),
    "instance norm": lambda x: ops.mvn(x, np.array([2, 3]), True, 1e-3, "inside_sqrt"),
    "product": lambda x: ops.matmul(x, draw(5, 8), False, True),
    "product from the left": lambda x: ops.matmul(x, draw(12, 5), True, False),
    "slope": lambda x: ops.prelu(x, np.array([0.1], np.float32)),
    "slopes": lambda x: ops.prelu(x, draw(4)),
    "other colours": lambda x: ops.gather(x, np.array([3, 1, 0, 2]), np.array(1)),
    "arithmetic": lambda x: ops.divide(
        ops.subtract(ops.multiply(x, draw(1, 4, 1, 1)), draw(1, 4, 1, 1)), np.abs(draw(1)) + 1
    ),
    "shape": lambda x: ops.reshape(x, np.array([0, 2, -1]), True),
    "turned": lambda x: ops.transpose(x, np.array([0, 2, 3, 1])),
    "bounds": lambda x: ops.clamp(x, -0.5, 0.7),
    "softmax": lambda x: ops.softmax(x, 1),
    "gate": lambda x: ops.multiply(x, ops.sigmoid(ops.reduce_mean(x, np.array([2, 3]), True))),
    "both": lambda x: ops.concat([ops.relu(x), ops.tanh(x)], 1),
    "flat": lambda x: ops.reshape(
        x, ops.concat([ops.gather(ops.shape_of(x), np.array([0]), np.array(0)), np.array([-1])], 0), True
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators(tmp_path: Path, name: str) -> None:
    path = ir(tmp_path / "net.xml", OPERATORS[name])
    x = draw(1, 4, 12, 8)
    model = ir_to_onnx(path)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"data:0": x})
    (wanted,) = IrSession(path, "rows").run(["rows"], {"data": x})
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def embedding(x: Any) -> Any:
    """A convolution, an instance norm, a mean and a matrix to six numbers."""
    features = ops.relu(ops.convolution(x, draw(8, 3, 3, 3) / 100, [2, 2], **pads(1), dilations=[1, 1]))
    normed = ops.mvn(features, np.array([2, 3]), True, 1e-5, "inside_sqrt")
    pooled = ops.reduce_mean(ops.sigmoid(normed), np.array([2, 3]), False)
    return ops.matmul(pooled, draw(6, 8), False, True)


@pytest.mark.parametrize("half", [False, True])
def test_an_artefact_that_embeds_as_openvino_does(tmp_path: Path, half: bool) -> None:
    path = ir(tmp_path / "net.xml", embedding, (1, 3, 32, 16))
    if half:
        model = openvino.Core().read_model(path)
        path = tmp_path / "half.xml"
        openvino.save_model(model, path, compress_to_fp16=True)
    result = import_model(ImportOptions(path, PRESETS["openvino-bgr"]), tmp_path / "mine.onnx")
    assert any("fixed at 1 and is free now" in note for note in result.notes)
    assert (
        result.artefact.samples is not None and result.artefact.samples.source == "the original in OpenVINO"
    )
    images = crops(5)
    planes = images.transpose(0, 3, 1, 2).astype(np.float32)
    session = IrSession(path, "rows")
    wanted = np.concatenate([session.run([], {"data": planes[place : place + 1]})[0] for place in range(5)])
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    assert np.abs(OnnxRuntime(tmp_path / "mine.onnx")(images) - wanted).max() < 1e-5


def test_what_is_not_read(tmp_path: Path) -> None:
    odd = ir(tmp_path / "odd.xml", lambda x: ops.elu(x, 1.0))
    with pytest.raises(SanError, match=r"has Elu .*which is not read.*Export the network as ONNX"):
        read_foreign(odd)
    pool = ir(
        tmp_path / "pool.xml",
        lambda x: ops.avg_pool(x, [2, 2], [1, 1], [1, 1], [3, 3], False, "ceil", "explicit"),
    )
    with pytest.raises(SanError, match=r"AvgPool .*which is not read\. It rounds up and counts zeros"):
        read_foreign(pool)
    layer = ir(tmp_path / "layer.xml", lambda x: ops.mvn(x, np.array([1, 2, 3]), True, 1e-3, "inside_sqrt"))
    with pytest.raises(SanError, match=r"MVN.*It is no instance norm"):
        read_foreign(layer)
    with pytest.raises(SanError, match=r"none\.xml does not exist.*two files of one name"):
        read_foreign(tmp_path / "none.xml")
    (tmp_path / "odd.bin").write_bytes(b"")
    (tmp_path / "cut.xml").write_text(odd.read_text()[:200])
    (tmp_path / "cut.bin").write_bytes(b"")
    with pytest.raises(SanError, match=r"OpenVINO cannot read .*cut\.xml"):
        read_foreign(tmp_path / "cut.xml")
    bad = (tmp_path / "pool.xml").read_bytes().replace(b'type="AvgPool"', b'type="Avg\xbbPool"')
    (tmp_path / "pool.xml").write_bytes(bad)
    with pytest.raises(SanError, match=r"OpenVINO cannot read .*pool\.xml"):
        read_foreign(pool)
    (tmp_path / "layer.bin").unlink()
    with pytest.raises(SanError, match=r"layer\.bin does not exist"):
        read_foreign(layer)
