"""`san info`, from the command line."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from san_deploy.artefact import (
    Calibration,
    Engine,
    PrecisionStats,
    Threshold,
    read_sidecar,
    sidecar_path,
    write_sidecar,
)
from san_deploy.backends import BACKENDS, STARTER, plan
from san_deploy.backends.cuda import Device
from san_deploy.backends.onnxruntime import OnnxRuntime
from san_deploy.errors import SanError
from san_deploy.io.cpu import usable_cores
from tests.conftest import Result
from tests.tiny_models import restamp, tiny_artefact, tiny_model

San = Callable[..., Result]

THRESHOLD = Threshold(0.61, 0.05, 0.9, 1000, 100, "ten people")
ENGINE = Engine(
    runtime="tensorrt",
    version="10.16.1.11",
    cuda="13.0",
    gpu="NVIDIA T4",
    sm=("sm75",),
    batch=(1, 16, 64),
    onnx_sha256="1" * 64,
    tf32=False,
    hardware_compatibility="none",
    version_compatible=False,
    system=plan.system(),
)
PARITY = {
    "reference": "torch fp32",
    "crops": 48,
    "source": "drawn crops, seed 0",
    "min_cosine": {"1": 0.9999, "16": 0.9991, "3": 0.9995},
    "mean_cosine": {"1": 0.99999, "16": 0.99998, "3": 0.99999},
    "batch_invariance": 0.9999,
    "gate": 0.999,
}
T4 = Device("NVIDIA T4", "sm75", 0)


def write_plan(path: Path, *, engine: Engine = ENGINE, **changes: Any) -> Path:
    """Bytes that no TensorRT would take, with a sidecar that vouches for them: nothing may execute them."""
    path.write_bytes(b"no plan")
    sha256 = hashlib.sha256(b"no plan").hexdigest()
    write_sidecar(tiny_artefact(engine=engine, sha256=sha256, **changes), path)
    return path


def installed(monkeypatch: pytest.MonkeyPatch, version: str, gpus: list[Device], why: str = "") -> None:
    """Pretend that this TensorRT and these GPUs are here."""
    from san_deploy.backends import tensorrt
    from san_deploy.backends.spec import BackendSpec, Installed

    def look(spec: BackendSpec) -> Installed:
        if spec.name == "tensorrt" and version:
            return Installed(spec.name, version)
        return Installed(spec.name, "", SanError(f"{spec.name} is not installed", do="pip install it"))

    monkeypatch.setattr(tensorrt, "installed", look)
    monkeypatch.setattr("san_deploy.backends.cuda.probe", lambda: (gpus, why))


def verdict(told: dict[str, Any], backend: str, device: str = "") -> dict[str, Any]:
    (found,) = [item for item in told["runs"] if (item["backend"], item["device"]) == (backend, device)]
    return dict(found)


def test_an_onnx_file(san: San, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "", [], "no NVIDIA driver is installed")
    result = san("info", model)
    for part in (
        f"{model}: ONNX, ",
        "no description beside it",
        "tiny: seed 0",
        "FP32 asked for; 100% FP32 of the 2 operands of convolutions and products, counted again here",
        "'crops', N x 32 x 16 x 3 uint8, BGR, 0..255",
        "L2 norm: do neither again",
        "'embedding', N x 8 float32, rows of norm 1",
        "none was calibrated",
        "checkpoint SHA-256 " + "0" * 64,
        "onnxruntime on cpu: yes, opened here",
        "onnxruntime on cuda, onnxruntime-tensorrt: no, no NVIDIA driver",
        f"tensorrt is not installed; pip install it; then build one: san export {model} --engine\n",
        "torch: no, it takes .safetensors files",
    ):
        assert part in result.out, part
    assert hashlib.sha256(model.read_bytes()).hexdigest() in result.out and result.err == ""


def test_everything_that_it_says_of_itself(san: San, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {
        "precision": "int8",
        "mask": "argmax",
        "threshold": dataclasses.asdict(THRESHOLD),
        "operands": dataclasses.asdict(PrecisionStats(20, 0.1, 0.3, 0.6)),
        "calibration": dataclasses.asdict(
            Calibration(
                512,
                "c" * 64,
                "ward",
                3,
                "percentile",
                "tensorrt",
                left=("a", "b", "c", "d"),
                reverted=("e",),
            )
        ),
        "checks": {
            **PARITY,
            "int8": PARITY | {"reference": "onnx fp32", "gate": {"p1_cosine": 0.97, "mean_cosine": 0.99}},
            "accuracy": {
                "on": "30 people of ward",
                "fp32": {"rank1": 0.95, "mAP": 0.9},
                "int8": {"rank1": 0.9, "mAP": 0.875},
                "max_drop": 0.05,
            },
            "later": [1, 2],
        },
        "versions": {"torch": "2.13.0", "onnx": "1.23.2"},
    }
    monkeypatch.setitem(sys.modules, "onnx", None)
    path = tiny_model(tmp_path / "a.onnx", input="float", told=told)
    out = san("info", path).out
    for part in (
        "INT8 asked for; 60% INT8, 30% FP16, 10% FP32 of the 20 operands of convolutions and products, "
        "by its own word: onnx is not installed",
        "'crops', N x 3 x 32 x 16 float32, RGB, 0..255",
        "0.6100: reached by 5.00% of 1000 impostor pairs and 90.0% of 100 genuine pairs; ten people",
        "FP32: against torch fp32 on 48 drawn crops, seed 0, batches 1, 3, 16: row cosine at least 0.9991000",
        "gate 0.999\n",
        "INT8: against onnx fp32 on 48",
        "gate 1st percentile 0.97, mean 0.99",
        "FP32 -> INT8 on 30 people of ward: mAP 90.0% -> 87.5%, rank-1 95.0% -> 90.0%, 5.0% may be lost",
        "later: [1, 2]",
        "percentile over 512 crops of ward, seed 3",
        "never quantised (4): a, b, c, ...",
        "given back (1): e\n",
        "onnx 1.23.2, torch 2.13.0",
    ):
        assert part in out, part


def test_json(san: San, model: Path) -> None:
    told = json.loads(san("info", model, "--json").out)
    assert told["input"] == {
        "name": "crops",
        "shape": ["N", 32, 16, 3],
        "layout": "NHWC",
        "type": "uint8",
        "colour": "BGR",
        "range": [0, 255],
        "resize": "pillow-bicubic-antialias",
        "normalised_inside": {"mean_rgb": [0.0, 0.0, 0.0], "std_rgb": [1.0, 1.0, 1.0]},
    }
    assert told["output"] == {"name": "embedding", "shape": ["N", 8], "type": "float32", "row_norm": 1.0}
    assert (told["path"], told["kind"], told["sidecar"]) == (str(model), "ONNX", "")
    assert told["bytes"] == model.stat().st_size and told["artefact"]["arch"] == "tiny"
    assert {item["backend"] for item in told["runs"]} == set(BACKENDS)
    assert verdict(told, "onnxruntime", "cpu")["runs"]


def test_the_sidecar_agrees_or_the_file_is_refused(san: San, model: Path) -> None:
    sha256 = hashlib.sha256(model.read_bytes()).hexdigest()
    write_sidecar(tiny_artefact(sha256=sha256), model)
    assert "tiny.onnx.json beside it agrees" in san("info", model).out
    # Right bytes, another story.
    write_sidecar(tiny_artefact(sha256=sha256, mask="argmax", threshold=THRESHOLD), model)
    assert "contradict each other. They differ in mask, threshold" in san("info", model, code=1).err
    write_sidecar(tiny_artefact(sha256="1" * 64), model)
    out = san("info", model).out
    assert "the file is damaged: it is not the file that tiny.onnx.json describes" in out
    assert "no, the file is damaged" in out and "nobody knows whether these bytes were" in out
    sidecar_path(model).write_text("{")
    assert "not readable" in san("info", model, code=1).err


def test_int8_of_the_cpus_form_is_none_for_tensorrt(
    san: San, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    calibration = dataclasses.asdict(Calibration(8, "c" * 64, "crops", 0, "minmax", "cpu"))
    path = tiny_model(tmp_path / "a.onnx", told={"precision": "int8", "calibration": calibration})
    told = json.loads(san("info", path, "--json").out)
    for runtime in ("tensorrt", "tensorrt-rtx"):
        assert "which TensorRT refuses" in verdict(told, runtime)["why"]
        assert "san export FP32.onnx --int8 --calib DIR" in verdict(told, runtime)["do"]
    # Of the starter, nobody has a checkpoint.
    of_starter = {"checkpoint_sha256": read_sidecar(STARTER).checkpoint_sha256}
    tiny_model(path, told={"precision": "int8", "calibration": calibration} | of_starter)
    told = json.loads(san("info", path, "--json").out)
    assert verdict(told, "tensorrt")["do"].endswith(": san export --int8 --calib DIR")


FP16 = {"precision": "fp16", "operands": dataclasses.asdict(PrecisionStats(2, 0.0, 1.0, 0.0))}


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (FP16, "says that it has 100% FP16 of 2 operands, but has 100% FP32 of 2 operands"),
        ({"precision": "fp16"}, "says that it is FP16, but has 100% FP32 of 2 operands"),
        (
            {"operands": dataclasses.asdict(PrecisionStats(2, 1.0, 0.0, 0.0, "engine"))},
            "but has 100% FP32 of 2 operands",
        ),
    ],
)
def test_a_file_that_lies_of_its_precision(
    san: San, tmp_path: Path, crops: Path, told: dict[str, Any], says: str
) -> None:
    path = tiny_model(tmp_path / "lies.onnx", told=told)
    assert says in san("info", path, code=1).err
    assert says in san("bench", crops, "-m", path, "--rounds", 1, code=1).err


def test_the_precision_is_counted_again(san: San, tmp_path: Path) -> None:
    told = {"operands": dataclasses.asdict(PrecisionStats(2, 1.0, 0.0, 0.0))}
    path = tiny_model(tmp_path / "a.onnx", told=told)
    assert (
        "FP32 asked for; 100% FP32 of the 2 operands of convolutions and products, counted again here"
        in san("info", path).out
    )
    assert json.loads(san("info", path, "--json").out)["operands_counted"] == told["operands"]


def test_an_onnx_file_that_a_gpu_may_run_is_opened_there(
    san: San, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, "10.16.1.11", [T4])
    monkeypatch.setattr("san_deploy.backends.onnxruntime.missing_provider", lambda name: "")
    opened: list[int] = []
    real = OnnxRuntime

    class Opened:
        name = "onnxruntime (CUDA, cuda:0 NVIDIA T4, sm75)"

        def __init__(
            self,
            path: Path,
            *,
            device: int | None = None,
            threads: int | None = None,
            accept_damaged: bool = False,
        ) -> None:
            if device is None:
                opened_here = real(path, threads=threads)
                self.artefact, self.integrity = opened_here.artefact, opened_here.integrity
                return
            opened.append(device)
            if len(opened) > 1:
                raise SanError("it cannot be opened with CUDA", why="cuDNN is not there", do="install cuDNN")

    monkeypatch.setattr("san_deploy.backends.onnxruntime.OnnxRuntime", Opened)
    told = json.loads(san("info", model, "--json").out)
    assert verdict(told, "onnxruntime", "cuda")["runs"] and verdict(told, "onnxruntime-tensorrt")["runs"]
    # TensorRT would run an engine of it.
    assert verdict(told, "tensorrt")["do"] == f"build one: san export {model} --engine"
    told = verdict(json.loads(san("info", model, "--json").out), "onnxruntime", "cuda")
    assert not told["runs"] and told["do"] == "install cuDNN"
    assert told["why"] == "it cannot be opened with CUDA: cuDNN is not there"
    assert opened == [0, 0]


def test_a_foreign_onnx_file_is_named_with_its_inputs_and_outputs(san: San, tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["images"], ["features"])],
        "foreign",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 224, 224])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 3, 224, 224])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, str(tmp_path / "foreign.onnx"))
    err = san("info", tmp_path / "foreign.onnx", code=1).err
    assert "foreign.onnx was not written by san export" in err
    assert "images tensor(float) ('batch', 3, 224, 224)" in err and "features tensor(float)" in err


def test_an_engine_on_the_machine_that_it_was_built_for(
    san: San, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, "10.16.1.11", [T4])
    path = write_plan(tmp_path / "a.engine", precision="fp16", operands=PrecisionStats(20, 0, 1, 0, "engine"))
    result = san("info", path)
    for part in (
        "a.engine: TensorRT engine, ",
        "a.engine.json beside it agrees",
        "FP16 asked for; 100% FP16 of the 20 operands",
        "counted in the engine, by its inspector",
        "ONNX SHA-256 " + "1" * 64,
        f"tensorrt 10.16.1.11, CUDA 13.0, built on NVIDIA T4, for {plan.system()}",
        "for sm75; hardware compatibility none; this version alone",
        "1 to 64 crops per run, best at 16; TF32 off",
        "tensorrt: yes, 10.16.1.11 on cuda:0 NVIDIA T4 (sm75), by its description: opening it is the proof",
        "tensorrt-rtx: no, this engine is for tensorrt",
        "onnxruntime, onnxruntime-tensorrt, openvino: no, it takes .onnx files",
    ):
        assert part in result.out, part


@pytest.mark.parametrize(
    ("version", "gpus", "changes", "reasons"),
    [
        ("", [T4], {}, ["tensorrt is not installed"]),
        ("10.16.1.11", [], {}, ["no NVIDIA driver"]),
        ("10.3.0", [T4], {}, ["this machine has 10.3.0"]),
        ("10.16.1.11", [Device("NVIDIA H200", "sm90", 0)], {}, ["this GPU is cuda:0 NVIDIA H200 (sm90)"]),
        ("10.16.1.11", [T4], {"system": "windows-amd64"}, ["was built for windows-amd64"]),
        # Everything that is wrong is told at once.
        ("11.4.1", [Device("NVIDIA H200", "sm90", 0)], {"system": "b"}, ["for b", "11.4.1", "sm90"]),
    ],
)
def test_an_engine_elsewhere(
    san: San,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    gpus: list[Device],
    changes: dict[str, Any],
    reasons: list[str],
) -> None:
    installed(monkeypatch, version, gpus, "" if gpus else "no NVIDIA driver is installed")
    path = write_plan(tmp_path / "a.engine", engine=dataclasses.replace(ENGINE, **changes))
    told = verdict(json.loads(san("info", path, "--json").out), "tensorrt")
    assert not told["runs"] and told["do"]
    for reason in reasons:
        assert reason in told["why"]
    if version and gpus:
        assert "san export" in told["do"] and "a.onnx" in told["do"]


def test_one_gpu_that_fits_is_enough(san: San, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "10.16.1.11", [Device("NVIDIA H200", "sm90", 0), dataclasses.replace(T4, index=1)])
    told = json.loads(san("info", write_plan(tmp_path / "a.plan"), "--json").out)
    assert verdict(told, "tensorrt")["runs"] and "cuda:1 NVIDIA T4" in verdict(told, "tensorrt")["why"]


def test_an_engine_that_is_not_what_lies_beside_it_says(san: San, tmp_path: Path) -> None:
    path = write_plan(tmp_path / "a.engine")
    path.write_bytes(b"other plan")
    assert "is not the one that a.engine.json describes" in san("info", path, code=1).err
    sidecar_path(path).unlink()
    assert "has no description a.engine.json beside it" in san("info", path, code=1).err


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint's header with a small tensor, as `san train` lays it out; written without PyTorch."""
    library = pytest.importorskip("safetensors.numpy")
    description = {
        "arch": "san",
        "settings": {"depth": 18, "size_hw": [128, 64]},
        "resize": "pillow-bicubic-antialias",
        "epoch": 20,
        "metrics": {"rank1": 0.875},
        "threshold": dataclasses.asdict(THRESHOLD),
        "data": ["crop folder ward: 10 crops of 2 people"],
        "versions": {"torch": "2.13.0"},
        "schema_version": 1,
    }
    path = tmp_path / "model.safetensors"
    tensors = {"conv.weight": np.ones((100, 100), np.float32), "bn.running_mean": np.ones(100, np.float32)}
    library.save_file(tensors, path, {"san": json.dumps(description)})
    path.with_suffix(".json").write_text(json.dumps(description))
    return path


def test_a_checkpoint(san: San, checkpoint: Path) -> None:
    out = san("info", checkpoint).out
    for part in (
        "model.safetensors: checkpoint, ",
        hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        "model.json beside it agrees",
        "san: depth 18, size_hw 128 64",
        "0.01 M parameters",
        "20 epochs, resize pillow-bicubic-antialias",
        "on crop folder ward: 10 crops of 2 people",
        "rank1 0.875",
        "0.6100: reached by 5.00%",
        f"it takes .onnx files; export it: san export {checkpoint}",
    ):
        assert part in out, part
    told = json.loads(san("info", checkpoint, "--json").out)
    assert told["parameters"] == 10_000 and told["checkpoint"]["epoch"] == 20 and told["artefact"] is None
    # It is from before recipes named a mask.
    assert "--mask" not in out and told["recommended_mask"] is None


def test_the_mask_of_a_checkpoint(san: San, tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "a.safetensors"
    told = {"arch": "san", "resize": "r", "epoch": 1, "schema_version": 1, "settings": {}}
    for gate, mask in (("sharp", "ramp:0.0625"), ("soft", None)):
        description = told | {"settings": {"gate": gate}, "recipe": {"deploy_mask": "ramp:0.0625"}}
        library.save_file({"a": np.ones(1, np.float32)}, path, {"san": json.dumps(description)})
        assert ("its recipe recommends --mask ramp:0.0625" in san("info", path).out) == (mask is not None)
        assert json.loads(san("info", path, "--json").out)["recommended_mask"] == mask


def test_a_checkpoint_and_another_description(san: San, checkpoint: Path) -> None:
    beside = checkpoint.with_suffix(".json")
    beside.write_text(json.dumps(json.loads(beside.read_text()) | {"epoch": 21}))
    assert "contradict each other. They differ in epoch" in san("info", checkpoint, code=1).err
    # Of another program.
    beside.write_text("[]")
    assert "no description beside it" in san("info", checkpoint).out


def test_no_pytorch_is_needed(checkpoint: Path, model: Path) -> None:
    code = """if True:
        import sys
        sys.modules["torch"] = sys.modules["onnx"] = sys.modules["safetensors"] = None
        from san_deploy.cli import main
        main()
    """
    for path in (checkpoint, model):
        command = [sys.executable, "-c", code, "info", path]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        assert "SHA-256" in result.stdout


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.onnx", "does not exist"),
        ("folder.onnx", "is a folder"),
        ("empty.onnx", "is empty"),
        ("cut.onnx", "cut short"),
        ("text.txt", "is no model file by its name"),
        ("a.onnx.json", "describes a.onnx. Give that file"),
        ("bad.safetensors", "is not a whole safetensors file"),
        ("lies.onnx", "does not fit its own description"),
    ],
)
def test_what_is_refused(san: San, model: Path, tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "cut.onnx").write_bytes(model.read_bytes()[:1000])
    for written in ("text.txt", "a.onnx.json", "bad.safetensors"):
        (tmp_path / written).write_text("{}")
    tiny_model(tmp_path / "lies.onnx", told={"size_hw": (64, 32)})
    for json_too in ([], ["--json"]):
        assert message in san("info", tmp_path / name, *json_too, code=1).err


@pytest.mark.parametrize(
    "told",
    [
        {"checks": PARITY | {"min_cosine": {}}},
        {"checks": PARITY | {"gate": "low"}},
    ],
)
def test_checks_that_cannot_be_told(san: San, tmp_path: Path, told: dict[str, Any]) -> None:
    path = tiny_model(tmp_path / "odd.onnx", told=told)
    assert "says of itself cannot be read" in san("info", path, code=1).err


def test_nan_is_no_json(san: San, tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "nan.onnx", told={"checks": PARITY | {"batch_invariance": float("nan")}})
    assert "Field checks is nan, not a finite number" in san("info", path, "--json", code=1).err


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"sha256": None}, "Field sha256 is null, not text"),
        ({"sha256": 5}, "Field sha256 is 5, not text"),
        ({"versions": {"torch": 2}}, "Field versions is 2, not text"),
        ({"arch": "\udcff"}, "Field arch is '\\udcff', which is no Unicode text"),
        ({"engine": {"version": 7}}, "Field engine.version is 7, not text"),
        ({"engine": {"version": None}}, "Field engine.version is null, not text"),
        ({"engine": {"runtime": []}}, "Field engine.runtime is [], not text"),
        ({"engine": {"runtime": "foo"}}, "Field engine.runtime is 'foo', not tensorrt or tensorrt-rtx"),
        ({"engine": {"gpu": "\ud800"}}, "Field engine.gpu is '\\ud800', which is no Unicode text"),
        ({"engine": {"onnx": "../a.onnx"}}, "Field engine.onnx is '../a.onnx', not the name of an ONNX file"),
    ],
)
@pytest.mark.parametrize("command", ["info", "embed"])
def test_a_description_of_an_engine_with_a_wrong_field(
    san: San, tmp_path: Path, crops: Path, command: str, change: dict[str, Any], field: str
) -> None:
    path = write_plan(tmp_path / "a.engine")
    beside = sidecar_path(path)
    told = json.loads(beside.read_text())
    changed = {key: {**told[key], **value} if key == "engine" else value for key, value in change.items()}
    beside.write_text(json.dumps(told | changed))
    arguments = (
        ["info", path] if command == "info" else ["embed", crops, "-m", path, "-o", tmp_path / "a.npz"]
    )
    err = san(*arguments, code=1).err
    assert field in err and "a.engine.json" in err


def test_a_description_from_before_a_field_came(san: San, tmp_path: Path) -> None:
    path = write_plan(tmp_path / "a.engine")
    told = json.loads(sidecar_path(path).read_text())
    del told["engine"]["onnx"], told["operands"], told["calibration"]
    restamp(sidecar_path(path), told)
    assert "built on NVIDIA T4" in san("info", path).out


@pytest.mark.parametrize("locale", [{}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
@pytest.mark.parametrize("name", [b"m\xff.onnx", b"fo\xffld/m.onnx", "m\u00fc.onnx".encode()])
def test_a_path_that_is_no_text(tmp_path: Path, model: Path, name: bytes, locale: dict[str, str]) -> None:
    path = os.path.join(os.fsencode(tmp_path), name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.rename(model, path)
    for options in ([], ["--json"]):
        command = [sys.executable, "-m", "san_deploy", "info", path, *options]
        result = subprocess.run(command, capture_output=True, check=False, env=os.environ | locale)
        assert result.returncode == 0, result.stderr
        assert b"tiny" in result.stdout and b"Traceback" not in result.stderr


def test_this_machine(san: San, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("san_deploy.backends.cuda.probe", lambda: ([T4], ""))
    result = san("info")
    for part in (
        "san-deploy",
        sys.version.split()[0],
        "CPUExecutionProvider",
        "starter.onnx, ",
        "san-resnet18",
    ):
        assert part in result.out, part
    assert "cuda:0 NVIDIA T4 (sm75)" in result.out
    told = json.loads(san("info", "--json").out)
    assert told["gpus"] == [{"name": "NVIDIA T4", "sm": "sm75", "index": 0}]
    assert told["machine"]["cores"] == usable_cores() and told["packages"]["numpy"] == np.__version__
    assert told["starter"]["artefact"]["arch"] == "san-resnet18" and told["starter_problem"] == ""
    # Each of the two is here, or it is said why not.
    assert {*told["tensorrt"], *told["tensorrt_problems"]} == {"tensorrt", "tensorrt-rtx"}


def test_a_machine_where_much_is_missing(san: San, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "", [], "no NVIDIA driver is installed")
    monkeypatch.setattr("san_deploy.backends.environment.STARTER", tmp_path / "starter.onnx")
    monkeypatch.setattr("san_deploy.backends.trt.available", lambda: [])
    monkeypatch.setattr("san_deploy.backends.trt._is_installed", lambda module: False)
    out = san("info").out
    assert "none: no NVIDIA driver is installed" in out and "starter.onnx does not exist" in out
    assert "tensorrt is not installed" in out and "tensorrt-rtx is not installed" in out


def test_what_several_runtimes_lack_is_said_once() -> None:
    code = "import sys; sys.modules['onnxruntime'] = None; from san_deploy.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "info"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [said] = re.findall(r"^onnxruntime +(.+)$", done.stdout, re.MULTILINE)
    assert done.stdout.count(said) == 1, done.stdout
    for name in ("onnxruntime-tensorrt", "starter"):
        assert re.search(rf"^{name} +as onnxruntime$", done.stdout, re.MULTILINE), done.stdout


def test_usage(san: San) -> None:
    assert "--nonsense" in san("info", "--nonsense", code=2).err
