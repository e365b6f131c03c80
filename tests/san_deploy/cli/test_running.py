"""`--backend` and `--device`, as every command has them that runs a model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from san_deploy.backends.cuda import Device
from tests.conftest import Result
from tests.fakes.tensorrt import fake_plan

San = Callable[..., Result]


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever machine this is."""
    monkeypatch.setattr("san_deploy.backends.cuda.probe", lambda: ([], "no NVIDIA driver is installed"))


@pytest.fixture
def gpu(no_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("san_deploy.backends.cuda.probe", lambda: ([Device("Fake GPU", "sm86", 0)], ""))


def test_the_choice_is_told_where_a_gpu_could_be_expected(
    san: San, crops: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a driver nobody expects one: one line says what runs, and no more."""
    result = san("embed", crops, "-o", tmp_path / "a.npz", "-m", model, "--json")
    assert result.err.count("\n") == 1 and "auto" not in result.err
    assert json.loads(result.out)["note"] == ""
    result = san("demo", "-o", tmp_path / "demo")
    assert re.match(r"Running on onnxruntime \(CPU, \d+ threads?\)\n", result.err), result.err
    monkeypatch.setattr("san_deploy.backends.cuda.probe", lambda: ([], "CUDA finds no GPU"))
    note = "--device auto took the CPU: CUDA finds no GPU"
    result = san("embed", crops, "-o", tmp_path / "b.npz", "-m", model, "--json")
    assert result.err.endswith(f"; {note}\n") and json.loads(result.out)["note"] == note
    result = san("embed", crops, "-o", tmp_path / "c.npz", "-m", model, "--device", "cpu", "--json")
    assert "auto" not in result.err and json.loads(result.out)["note"] == ""
    cameras = tmp_path / "demo" / "cameras"
    result = san(
        "match", cameras / "cam1", cameras / "cam2", "-o", tmp_path / "out", "--backend", "onnxruntime"
    )
    assert result.err.startswith("Running on onnxruntime (CPU, ") and note in result.err


@pytest.mark.usefixtures("gpu")
def test_a_gpu_that_onnx_runtime_cannot_use_is_told(
    san: San, crops: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    result = san("embed", crops, "-o", tmp_path / "a.npz", "-m", model)
    assert "--device auto took the CPU: this ONNX Runtime" in result.err
    assert "has no CUDAExecutionProvider, but CPUExecutionProvider" in result.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--backend", "tensort"],
            "--backend tensort is unknown. Did you mean tensorrt? Give one of auto, onnx",
        ),
        (
            ["--backend", "x"],
            "--backend x is unknown. Give one of auto, onnxruntime, onnxruntime-tensorrt, tens",
        ),
        (
            ["--device", "gpu"],
            "--device gpu is unknown. Did you mean cuda? Give one of auto, cpu, cuda, cuda:1",
        ),
        (["--device", "GPU:0"], "Did you mean cuda?"),
        (["--device", "cuda:"], "--device cuda: is unknown. Did you mean cuda"),
        (["--device", "cuda:-1"], "--device cuda:-1 is unknown"),
        (["--device", "cpu:0"], "--device cpu:0 is unknown. Did you mean cpu?"),
        (["--backend", "torch"], "--backend torch takes .safetensors, not"),
        (["--backend", "tensorrt"], "tiny.onnx --engine; or give --backend auto"),
        (
            ["--backend", "onnxruntime-tensorrt", "--device", "cpu"],
            "--device cpu does not fit: onnxruntime-tensorrt",
        ),
    ],
)
def test_wrong_usage(
    san: San, crops: Path, model: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    for command in (
        ("embed", crops, "-o", tmp_path / "a.npz"),
        ("match", crops, crops.parent, "-o", tmp_path / "out"),
        ("demo", "-o", tmp_path / "demo"),
    ):
        result = san(*command, "-m", model, *options, code=2)
        assert message in result.err and result.out == ""
    assert {path.name for path in tmp_path.iterdir()} <= {"crops", "tiny.onnx"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "cuda"], "ONNX Runtime cannot run on cuda:0. This ONNX Runtime"),
        (["--device", "cuda:2"], "ONNX Runtime cannot run on cuda:2. This ONNX Runtime"),
        (["--backend", "onnxruntime-tensorrt"], "has no TensorrtExecutionProvider, but"),
    ],
)
def test_what_was_named_is_never_replaced(
    san: San,
    crops: Path,
    model: Path,
    tmp_path: Path,
    options: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    result = san("embed", crops, "-o", tmp_path / "a.npz", "-m", model, *options, code=1)
    assert message in result.err and "pip uninstall -y onnxruntime && pip install '.[cuda]'" in result.err
    monkeypatch.setattr(
        "onnxruntime.get_available_providers",
        lambda: ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
    )
    result = san("embed", crops, "-o", tmp_path / "a.npz", "-m", model, *options, code=1)
    assert "there is no GPU cuda:" in result.err and "No NVIDIA driver" in result.err
    assert not (tmp_path / "a.npz").exists()


def test_an_engine(san: San, crops: Path, tmp_path: Path) -> None:
    plan = fake_plan(tmp_path / "m.engine", told={"runtime": "tensorrt-rtx", "system": "linux-vax"})
    arguments = ("embed", crops, "-o", tmp_path / "a.npz", "-m", plan)
    assert "was built for linux-vax, but this machine is" in san(*arguments, code=1).err
    assert "was built for linux-vax" in san(*arguments, "--backend", "tensorrt-rtx", code=1).err
    result = san(*arguments, "--backend", "tensorrt", code=2)
    assert "--backend tensorrt does not run" in result.err and "built with tensorrt-rtx" in result.err
    assert "takes .onnx, not" in san(*arguments, "--backend", "onnxruntime", code=2).err
    result = san(*arguments, "--device", "cpu", code=2)
    assert "--device cpu does not fit: tensorrt-rtx runs" in result.err and "on cuda alone" in result.err
    (tmp_path / "m.engine.json").unlink()
    assert "has no description" in san(*arguments, code=1).err


def test_help(san: San) -> None:
    for command in ("embed", "match", "demo"):
        out = " ".join(san(command, "--help").out.split())
        assert "--backend NAME" in out and "--device cpu|cuda[:N]" in out
