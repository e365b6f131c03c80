"""`san export --engine` on simulated GPUs: the plan runs before it gets its name, and `san info` says so."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("onnx")

from san_deploy.artefact import read_sidecar
from san_deploy.backends import cuda, trt
from tests.conftest import Result
from tests.fakes.cuda import FakeCudart
from tests.fakes.tensorrt import FakeTensorRT
from tests.san_export.product_models import product_model

San = Callable[..., Result]
LAYER = {
    "Name": "conv",
    "LayerType": "CaskConvolution",
    "Inputs": [{"Format/Datatype": "Float"}],
    "Weights": {"Type": "Float", "Count": 9},
}


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    """TensorRT 10.16 with two GPUs."""
    cudart = FakeCudart(devices=("sm75", "sm86"))
    module, runtime = FakeTensorRT(cudart), cuda.Cuda(cudart, "fake")
    module.inspection = json.dumps({"Layers": [LAYER], "Bindings": []})
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(trt, "_loggers", {})
    monkeypatch.setattr(cuda, "load", lambda: runtime)
    return module


@pytest.fixture
def onnx(tmp_path: Path) -> Path:
    return product_model(tmp_path / "model.onnx")


def test_the_engine_is_run_on_the_gpu_that_was_asked_for(
    san: San, tensorrt: FakeTensorRT, onnx: Path
) -> None:
    result = san("export", onnx, "--device", "cuda:1", "--batch", "1,4,8")
    assert tensorrt.built_on == 1 and "at batches of 1, 4, 8" in result.err
    assert "built on Fake GPU 1" in result.out
    assert "engine: against the ONNX file in ONNX Runtime" in result.out, result.out
    path = onnx.with_suffix(".engine")
    assert set(read_sidecar(path).checks["engine"]["min_cosine"]) == {"1", "4", "8"}
    assert "engine: against the ONNX file in ONNX Runtime" in san("info", path).out


def test_an_engine_that_embeds_something_else_is_exit_3_and_no_file(
    san: San, tensorrt: FakeTensorRT, onnx: Path
) -> None:
    tensorrt.misbehave = {"noise": 0.5}
    error = san("export", onnx, code=3).err
    assert "no engine was written: the plan that was built" in error and "ONNX file in ONNX Runtime" in error
    assert not onnx.with_suffix(".engine").exists() and not onnx.with_suffix(".engine.json").exists()


def test_an_engine_without_a_gpu_says_that_it_was_not_run(san: San, tmp_path: Path, onnx: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    if cuda.devices():
        pytest.skip("a GPU is here")
    result = san("export", onnx, "--runtime", "tensorrt-rtx", "--target", "sm86")
    assert "engine: not run" in result.out
    told = san("info", onnx.with_suffix(".engine")).out
    assert "engine: not run: no GPU that it is for was there" in told and "row cosine" not in told


@pytest.mark.parametrize("device", ["cpu", "cuda:", "cuda:-1", "1"])
def test_a_device_that_is_none(san: San, onnx: Path, device: str) -> None:
    assert "is not of the form cuda:1" in san("export", onnx, "--device", device, code=2).err


def test_a_gpu_that_is_not_there(san: San, tensorrt: FakeTensorRT, onnx: Path) -> None:
    assert "there is no GPU cuda:2" in san("export", onnx, "--device", "cuda:2", code=1).err
