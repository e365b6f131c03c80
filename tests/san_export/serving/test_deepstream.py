"""DeepStream's configuration: y = s (x - o) computed as it does, through the file, against our own embedding."""

from __future__ import annotations

import configparser
import dataclasses
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import yaml
from san_export.serving.deepstream import INFER, README, TRACKER, write_deepstream

from san_deploy import load_artefact
from san_deploy.artefact import Calibration, Engine
from san_deploy.backends.onnxruntime import OnnxRuntime
from san_deploy.errors import SanError
from tests.tiny_models import tiny_model

#: Keys of nvtracker's ReID block and of Gst-nvinfer's [property], as NVIDIA documents and samples have them.
TRACKER_KEYS = {
    "reidType", "batchSize", "workspaceSize", "reidFeatureSize", "reidHistorySize", "inferDims", "networkMode",
    "inputOrder", "colorFormat", "offsets", "netScaleFactor", "keepAspc", "addFeatureNormalization", "outputReidTensor",
    "minVisibility4GalleryUpdate", "useVPICropScaler", "onnxFile", "tltEncodedModel", "tltModelKey", "modelEngineFile",
    "calibrationTableFile",
}  # fmt: skip
INFER_KEYS = {
    "gpu-id", "onnx-file", "model-engine-file", "batch-size", "network-mode", "process-mode", "operate-on-gie-id",
    "operate-on-class-ids", "gie-unique-id", "network-type", "output-tensor-meta", "output-blob-names", "infer-dims",
    "network-input-order", "model-color-format", "net-scale-factor", "offsets", "maintain-aspect-ratio",
    "scaling-filter",
}  # fmt: skip


def read_tracker(folder: Path) -> dict[str, object]:
    text = (folder / TRACKER).read_text()
    assert text.startswith("%YAML:1.0\n")  # OpenCV's form, which nvtracker reads; YAML itself says %YAML 1.0
    block: dict[str, object] = yaml.safe_load(text.split("\n", 1)[1])["ReID"]
    return block


def read_infer(folder: Path) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((folder / INFER).read_text())
    return dict(parser["property"])


def test_its_arithmetic_gives_our_rows(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "tiny.onnx", input="float")
    write_deepstream(model, load_artefact(model), tmp_path / "ds")
    block, told = read_tracker(tmp_path / "ds"), read_infer(tmp_path / "ds")
    assert set(block) <= TRACKER_KEYS and set(told) <= INFER_KEYS
    crops = np.random.default_rng(0).integers(0, 256, (4, 32, 16, 3), np.uint8)  # BGR
    for scale, offsets, color, order, path in (
        (
            block["netScaleFactor"],
            block["offsets"],
            block["colorFormat"],
            block["inputOrder"],
            block["onnxFile"],
        ),
        (
            float(told["net-scale-factor"]),
            [float(value) for value in told["offsets"].split(";")],
            int(told["model-color-format"]),
            int(told["network-input-order"]),
            told["onnx-file"],
        ),
    ):
        assert (color, order) == (0, 0)
        assert isinstance(scale, float) and isinstance(offsets, list)
        x = crops[:, :, :, ::-1].astype(np.float32)
        y = (scale * (x - np.array(offsets, np.float32))).transpose(0, 3, 1, 2)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        rows = session.run(None, {"crops": np.ascontiguousarray(y, np.float32)})[0]
        assert np.abs(rows - OnnxRuntime(model)(crops)).max() < 1e-6
    assert block["inferDims"] == [3, 32, 16] and told["infer-dims"] == "3;32;16"
    assert block["reidFeatureSize"] == 8 and block["addFeatureNormalization"] == 0 and block["keepAspc"] == 0
    assert (told["network-type"], told["output-tensor-meta"]) == ("100", "1")
    assert "Neither file was run here on a GPU" in (tmp_path / "ds" / README).read_text()


@pytest.mark.parametrize(
    ("precision", "tracker", "infer"), [("fp32", 0, "0"), ("fp16", 1, "2"), ("int8", 2, "1")]
)
def test_the_two_count_precisions_differently(
    tmp_path: Path, precision: str, tracker: int, infer: str
) -> None:
    model = tiny_model(tmp_path / "tiny.onnx", input="float")
    write_deepstream(model, dataclasses.replace(load_artefact(model), precision=precision), tmp_path / "ds")
    assert read_tracker(tmp_path / "ds")["networkMode"] == tracker
    assert read_infer(tmp_path / "ds")["network-mode"] == infer


def test_what_deepstream_cannot_take(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "tiny.onnx")
    with pytest.raises(SanError, match=r"takes uint8.*--input float"):
        write_deepstream(model, load_artefact(model), tmp_path / "ds")
    floating = load_artefact(tiny_model(tmp_path / "float.onnx", input="float"))
    calibration = Calibration(1, "", "", 0, "minmax", "cpu")
    with pytest.raises(SanError, match="in the form for CPUs"):
        write_deepstream(model, dataclasses.replace(floating, calibration=calibration), tmp_path / "ds")
    engine = Engine("tensorrt", "10", "", "", (), (1, 1, 1), "", False, "none", False, "")
    with pytest.raises(SanError, match="is an engine"):
        write_deepstream(model, dataclasses.replace(floating, engine=engine), tmp_path / "ds")
    odd = tmp_path / "a#b.onnx"
    odd.write_bytes(model.read_bytes())
    with pytest.raises(SanError, match="configuration files cannot hold"):
        write_deepstream(odd, floating, tmp_path / "ds")
    assert not (tmp_path / "ds").exists()
