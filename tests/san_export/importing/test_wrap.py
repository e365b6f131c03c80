"""The wrapped network against the arithmetic of its owners, written out literally, and the original file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from san_export.importing.convention import PRESETS, Convention, plausible
from san_export.importing.foreign import read_foreign
from san_export.importing.wrap import wrap

from san_deploy.preprocess import MEAN_RGB, STD_RGB

from .made import DIM, crops, network, save

OWN = Convention("rgb", 255, MEAN_RGB, STD_RGB)


def run(model: onnx.ModelProto, name: str, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rows: np.ndarray = session.run(None, {name: x})[0]
    return rows


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def of_torchreid(bgr: np.ndarray) -> np.ndarray:
    """ToTensor and Normalize, crop by crop."""
    made = []
    for crop in bgr:
        rgb = crop[:, :, ::-1].astype(np.float64) / 255
        for channel in range(3):
            rgb[:, :, channel] = (rgb[:, :, channel] - MEAN_RGB[channel]) / STD_RGB[channel]
        made.append(rgb.transpose(2, 0, 1))
    return np.array(made, np.float32)


@pytest.mark.parametrize("opset", [11, 13, 17, 21])
def test_torchreids_arithmetic(tmp_path: Path, opset: int) -> None:
    model = network(opset=opset, ir_version=7 if opset == 11 else 9)
    images = crops()
    wanted = unit(run(model, "image", of_torchreid(images)))
    wrapped = wrap(read_foreign(save(model, tmp_path / "a.onnx")), OWN, DIM)
    onnx.checker.check_model(wrapped, full_check=True)
    rows = run(wrapped, "crops", images)
    assert np.abs(rows - wanted).max() < 1e-5
    # The check can fail: another order of colours is another network.
    other = run(wrap(read_foreign(tmp_path / "a.onnx"), replace(OWN, color="bgr"), DIM), "crops", images)
    assert (other * wanted).sum(1).min() < 0.999


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("input_form", ["uint8", "float"])
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_layout_and_input(tmp_path: Path, layout: str, input_form: str, name: str) -> None:
    model = network(layout=layout)
    convention = PRESETS[name]
    images = crops()
    order = images[:, :, :, ::-1] if convention.color == "rgb" else images
    x = (order.astype(np.float64) / convention.scale - convention.mean) / convention.std
    x = x.transpose(0, 3, 1, 2) if layout == "nchw" else x
    # Pixels of 0..255 drive tanh into its ends: what is compared there is bits, with room for a last one.
    wanted = unit(run(model, "image", x.astype(np.float32)))
    wrapped = wrap(read_foreign(save(model, tmp_path / "a.onnx")), convention, DIM, input_form=input_form)
    given = (
        images if input_form == "uint8" else images[:, :, :, ::-1].transpose(0, 3, 1, 2).astype(np.float32)
    )
    assert np.abs(run(wrapped, "crops", given) - wanted).max() < 1e-4


@pytest.mark.parametrize("end", ["flatten", "reshape"])
def test_a_fixed_batch_is_freed(tmp_path: Path, end: str) -> None:
    model = network(batch=1, end=end)
    images = crops(5)
    wanted = unit(np.concatenate([run(model, "image", of_torchreid(images[i : i + 1])) for i in range(5)]))
    rows = run(wrap(read_foreign(save(model, tmp_path / "a.onnx")), OWN, DIM), "crops", images)
    assert np.abs(rows - wanted).max() < 1e-5


def test_without_the_norm_rows_stay(tmp_path: Path) -> None:
    model = network()
    images = crops()
    foreign = read_foreign(save(model, tmp_path / "a.onnx"))
    rows = run(wrap(foreign, OWN, DIM, normalise=False), "crops", images)
    assert np.abs(rows - run(model, "image", of_torchreid(images))).max() < 1e-5


def test_half_precision_inside(tmp_path: Path) -> None:
    """Weights and ports of FP16, as `keep_io_types=False` leaves them."""
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["image"], ["a"]),
            helper.make_node("Flatten", ["a"], ["features"]),
        ],
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT16, ["n", 3, 32, 16])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT16, ["n", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    images = crops()
    wrapped = wrap(read_foreign(save(model, tmp_path / "a.onnx")), Convention(), 3)
    rows = run(wrapped, "crops", images)
    assert rows.dtype == np.float32
    assert np.abs(rows - unit(images[:, :, :, ::-1].mean(axis=(1, 2)) / 255)).max() < 2e-3


def test_names_of_the_network_may_be_ours(tmp_path: Path) -> None:
    model = network()
    for node in model.graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = {"image": "crops", "a": "embedding", "features": "output/unit"}.get(name, name)
    model.graph.input[0].name, model.graph.output[0].name = "crops", "output/unit"
    images = crops()
    wanted = unit(run(model, "crops", of_torchreid(images)))
    rows = run(wrap(read_foreign(save(model, tmp_path / "a.onnx")), OWN, DIM), "crops", images)
    assert np.abs(rows - wanted).max() < 1e-5


def test_the_plausible_conventions_differ() -> None:
    found = plausible()
    images = crops(2)
    inputs = [item.apply(images, "nchw") for item in found]
    for index, one in enumerate(inputs):
        assert all(np.abs(one - other).max() > 1e-3 for other in inputs[index + 1 :])
    assert {item.color for item in found} == {"rgb", "bgr"} and {item.scale for item in found} == {1, 255}
