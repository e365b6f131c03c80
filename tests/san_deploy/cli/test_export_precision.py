"""`san export` from ONNX files and of lower precision, with TensorRT-RTX and without."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image
from san_export.onnx_writer import write_onnx
from san_export.precision import convert as convert_module
from san_export.precision.fp16 import to_fp16
from san_export.verify import CheckCrops
from san_train.checkpoint import CheckpointInfo, save_checkpoint
from san_train.models import SharpAttentionNetwork

from san_deploy.artefact import Int8Rule, read_sidecar, sha256_file
from san_deploy.backends import STARTER, open_backend, trt
from san_deploy.data.samples import read_samples
from san_deploy.io.cpu import saturates_int8
from san_deploy.preprocess import resize_crop
from tests.conftest import Result
from tests.san_deploy.data.sample_folder import write_samples

San = Callable[..., Result]


@pytest.fixture
def checkpoint(bilinear: SharpAttentionNetwork, tmp_path: Path) -> Path:
    path = tmp_path / "run.safetensors"
    save_checkpoint(
        path, bilinear, CheckpointInfo("san", bilinear.settings.as_dict(), "pillow-bicubic-antialias", 1)
    )
    return path


@pytest.fixture
def without_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt, "_is_installed", lambda module: False)


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Six people before two cameras: 96 of the sample crops, with labels."""
    return write_samples(tmp_path / "site", people=6, cameras=2)


def people(count: int) -> np.ndarray:
    """Drawn people as the starter takes them, `(count, H, W, 3)` uint8 BGR."""
    size_hw = open_backend().artefact.size_hw
    return np.stack([resize_crop(sample.read(), size_hw) for sample in read_samples(count)])


def test_the_known_command_without_tensorrt(
    san: San, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_tensorrt: None
) -> None:
    """`san export --fp16` and nothing else."""
    monkeypatch.chdir(tmp_path)
    result = san("export", "--fp16")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["starter-fp16.onnx", "starter-fp16.onnx.json"]
    # One line says what is missing, and how to get it.
    (line,) = [line for line in result.err.splitlines() if "no engine was built" in line]
    assert "pip install" in line and "--engine" in line
    artefact = read_sidecar(tmp_path / "starter-fp16.onnx")
    assert artefact.precision == "fp16" and artefact.operands is not None and artefact.operands.fp16 == 1.0
    assert artefact.threshold is not None and artefact.sha256 == sha256_file(tmp_path / "starter-fp16.onnx")
    assert artefact.checks["fp16"]["reference"] == "onnx fp32"
    assert (tmp_path / "starter-fp16.onnx").stat().st_size <= 0.51 * STARTER.stat().st_size
    # It runs, and gives what the FP32 file gives.
    images = people(3)
    rows, reference = open_backend(tmp_path / "starter-fp16.onnx")(images), open_backend()(images)
    assert (rows * reference).sum(1).min() > 0.98
    assert not np.array_equal(rows, reference)


def test_an_engine_that_is_wanted_and_cannot_be_had(
    san: San, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_tensorrt: None
) -> None:
    monkeypatch.chdir(tmp_path)
    result = san("export", "--fp16", "--engine", code=1)
    assert "tensorrt is not installed" in result.err and "pip install" in result.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt-rtx"])
def test_a_runtime_that_is_named_and_missing_is_an_error(
    san: San, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_tensorrt: None, runtime: str
) -> None:
    monkeypatch.chdir(tmp_path)
    error = san("export", "--fp16", "--runtime", runtime, code=1).err
    assert f"{runtime.replace('-', '_')} is not installed" in error or f"{runtime} is not installed" in error
    assert not list(tmp_path.iterdir())
    # The file alone, for a machine that has it.
    san("export", "--fp16", "--runtime", runtime, "--no-engine")
    assert (tmp_path / "starter-fp16.onnx").is_file()


def test_where_argmax_costs_too_much_a_steadier_mask_is_measured(
    san: San, tmp_path: Path, without_tensorrt: None
) -> None:
    options = ("--fp16", "--mask", "argmax", "-o", tmp_path / "a.onnx", "--min-cosine", 1)
    error = san("export", *options, code=3).err
    told = re.search(r"with --mask ramp:0\.0625 has a minimum row cosine of (0\.9{4}\d+)", error)
    assert told and "export with --mask ramp:0.0625" in error.lower()
    assert not (tmp_path / "a.onnx").exists()


def test_int8_in_too_small_a_part_says_what_was_reachable(
    san: San, tmp_path: Path, labelled: Path, without_tensorrt: None
) -> None:
    model = onnx.load(STARTER)
    artefact = replace(open_backend(STARTER).artefact, int8=Int8Rule(("layer2", "layer3", "layer4"), 0.5))
    write_onnx(model, artefact, tmp_path / "a.onnx")
    error = san("export", tmp_path / "a.onnx", "--int8", "--calib", labelled, "--calib-num", 32, code=3).err
    assert re.search(r"INT8 was asked for, but \d+% .* the least for san-resnet18 is 50%", error)
    assert re.search(r"\d+% can be: masks, gates", error) and "Export in FP16" in error
    assert not (tmp_path / "a-int8.onnx").exists()


def test_with_tensorrt_rtx_the_engine_comes_too(
    san: San, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.chdir(tmp_path)
    result = san(
        "export", "--fp16", "--runtime", "tensorrt-rtx", "--target", "sm86,sm89", "--batch", "1,4,8", "--json"
    )
    told = json.loads(result.out)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "starter-fp16.engine",
        "starter-fp16.engine.json",
        "starter-fp16.onnx",
        "starter-fp16.onnx.json",
    ]
    plan = read_sidecar(tmp_path / "starter-fp16.engine")
    assert plan.engine is not None and plan.operands is not None
    assert plan.engine.sm == ("sm86", "sm89") and plan.engine.batch == (1, 4, 8)
    assert plan.engine.onnx_sha256 == sha256_file(tmp_path / "starter-fp16.onnx")
    assert plan.sha256 == sha256_file(tmp_path / "starter-fp16.engine") == told["engine"]["sha256"]
    assert plan.operands.fp16 == 1.0 and plan.operands.source in ("network", "engine")
    # The engine alone, from the ONNX file, as it is built on the device.
    san("export", "starter-fp16.onnx", "-o", "again.plan", "--runtime", "tensorrt-rtx", "--target", "sm86")
    assert read_sidecar(tmp_path / "again.plan").engine.onnx_sha256 == plan.engine.onnx_sha256  # type: ignore[union-attr]
    assert not (tmp_path / "again.onnx").exists()


def test_the_engine_path_needs_neither_torch_nor_onnx(tmp_path: Path) -> None:
    """A Jetson has neither."""
    pytest.importorskip("tensorrt_rtx")
    shutil.copy(STARTER, tmp_path / "model.onnx")
    code = (
        "import sys\n"
        "sys.modules['torch'] = sys.modules['onnx'] = None\n"
        "sys.argv = ['san', 'export', 'model.onnx', '--runtime', 'tensorrt-rtx', '--target', 'sm86']\n"
        "from san_deploy.cli import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert read_sidecar(tmp_path / "model.engine").precision == "fp32"


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_change_of_precision_needs_no_pytorch(tmp_path: Path, labelled: Path, precision: str) -> None:
    """An edge install with the extra `convert`."""
    options = ["--int8", "--calib", str(labelled), "--calib-num", "32"] if precision == "int8" else ["--fp16"]
    words = ["san", "export", *options, "--no-engine", "-o", "out.onnx", "--min-cosine", "0.5"]
    code = (
        "import sys\n"
        "for name in ('torch', 'onnxscript', 'safetensors', 'scipy', 'h5py', 'sympy'): sys.modules[name] = None\n"
        f"sys.argv = {words!r}\n"
        "from san_deploy.cli import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert read_sidecar(tmp_path / "out.onnx").precision == precision


def test_fp16_from_a_checkpoint_says_both_checks(
    san: San, tmp_path: Path, checkpoint: Path, without_tensorrt: None
) -> None:
    result = san("export", checkpoint, "--fp16", "--mask", "expected", "--min-cosine", 0.9)
    assert "ONNX Runtime against PyTorch" in result.out and "FP16 against FP32" in result.out
    artefact = read_sidecar(tmp_path / "run-fp16.onnx")
    assert artefact.mask == "expected" and artefact.checks["reference"] == "torch fp32"
    # The FP32 file was a step on the way, and is gone.
    assert not (tmp_path / "run.onnx").exists()


def test_fp32_that_passes_for_fp16_fails(
    san: San, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_tensorrt: None
) -> None:
    """The defect that peers ship: a conversion that did nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(convert_module, "to_fp16", lambda model: model)
    result = san("export", "--fp16", code=3)
    assert "FP16 was asked for, but 0%" in result.err
    assert not list(tmp_path.iterdir())


def test_a_conversion_that_changes_embeddings_fails(
    san: San, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_tensorrt: None
) -> None:
    def wrong(model: onnx.ModelProto) -> onnx.ModelProto:
        result = to_fp16(model)
        name = next(node.input[1] for node in result.graph.node if node.op_type == "Gemm")
        weight = next(weight for weight in result.graph.initializer if weight.name == name)
        values = onnx.numpy_helper.to_array(weight).copy()
        values[:, : values.shape[1] // 2] = 0
        weight.CopyFrom(onnx.numpy_helper.from_array(values, name))
        return result

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(convert_module, "to_fp16", wrong)
    result = san("export", "--fp16", code=3)
    assert "row cosine" in result.err and "gate" in result.err
    assert not list(tmp_path.iterdir())


def test_a_gate_of_the_user_s_own(san: San, tmp_path: Path, without_tensorrt: None) -> None:
    result = san("export", "--fp16", "-o", tmp_path / "a.onnx", "--min-cosine", "1", code=3)
    assert "minimum row cosine" in result.err
    assert not list(tmp_path.iterdir())


def test_fp16_twice_is_refused(san: San, tmp_path: Path, without_tensorrt: None) -> None:
    half = tmp_path / "half.onnx"
    san("export", "--fp16", "-o", half)
    assert "FP16 already" in san("export", half, "--fp16", "-o", tmp_path / "b.onnx", code=2).err
    assert "nothing to do" in san("export", half, code=1).err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half.onnx", "half.onnx.json"]


def test_a_foreign_onnx_file_is_refused(san: San, tmp_path: Path, without_tensorrt: None) -> None:
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    ports = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", ports[:1], ports[1:]),
        ir_version=10,
        opset_imports=[onnx.helper.make_opsetid("", 18)],
    )
    onnx.save(model, tmp_path / "theirs.onnx")
    assert "was not written by san export" in san("export", tmp_path / "theirs.onnx", "--fp16", code=1).err
    (tmp_path / "cut.onnx").write_bytes(STARTER.read_bytes()[:5000])
    assert "cut.onnx" in san("export", tmp_path / "cut.onnx", "--fp16", code=1).err


@pytest.mark.parametrize("form", ["tensorrt", "cpu"])
def test_int8_of_the_starter(
    san: San, tmp_path: Path, labelled: Path, without_tensorrt: None, form: str
) -> None:
    out = tmp_path / "int8.onnx"
    options = ["--runtime", "cpu"] if form == "cpu" else []
    result = san(
        "export", "--int8", "--calib", labelled, "--calib-num", 64, "-o", out, *options, "--min-cosine", 0.5
    )
    artefact = read_sidecar(out)
    assert artefact.precision == "int8" and artefact.operands is not None and artefact.calibration is not None
    assert artefact.operands.int8 >= 0.5
    assert artefact.calibration.form == form and artefact.calibration.crops == 64
    # The masks' branches stay in floating point: three convolutions and a deconvolution in each of two stages.
    assert len(artefact.calibration.left) == 8
    assert "INT8 against FP32" in result.out and "rank-1" in result.out
    assert set(artefact.checks["accuracy"]["int8"]) == {"rank1", "mAP"}


def test_max_drop_needs_labels(san: San, tmp_path: Path, labelled: Path, without_tensorrt: None) -> None:
    (labelled / "identities.csv").unlink()
    result = san(
        "export", "--int8", "--calib", labelled, "--max-drop", "0.01", "-o", tmp_path / "a.onnx", code=1
    )
    assert "identities.csv" in result.err


def test_calibration_folders_that_are_no_good(
    san: San,
    tmp_path: Path,
    check_crops: CheckCrops,
    without_tensorrt: None,
) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for index, image in enumerate(check_crops.images[:5]):
        Image.fromarray(image[..., ::-1]).save(few / f"{index}.png")
    assert "holds 5 crops" in san("export", "--int8", "--calib", few, "-o", tmp_path / "a.onnx", code=1).err
    empty = tmp_path / "empty"
    empty.mkdir()
    assert (
        "holds no image" in san("export", "--int8", "--calib", empty, "-o", tmp_path / "a.onnx", code=1).err
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "few"]


def test_int8_with_the_rest_in_fp16(
    san: San, tmp_path: Path, labelled: Path, monkeypatch: pytest.MonkeyPatch, without_tensorrt: None
) -> None:
    monkeypatch.chdir(tmp_path)
    result = san("export", "--int8", "--fp16", "--calib", labelled, "--calib-num", 64, "--min-cosine", 0.5)
    artefact = read_sidecar(tmp_path / "starter-int8-fp16.onnx")
    assert artefact.precision == "int8" and artefact.calibration is not None and artefact.operands is not None
    assert artefact.calibration.rest == "fp16" and artefact.operands.fp32 == 0 < artefact.operands.fp16
    assert "every FP16 rounding" in result.out
    assert "session.disable_quant_qdq" in result.err
    # ONNX Runtime fuses such a file into something else unless it is told not to.
    images = people(3)
    rows, reference = open_backend(tmp_path / "starter-int8-fp16.onnx")(images), open_backend()(images)
    assert (rows * reference).sum(1).min() > 0.9


def test_where_8_bit_products_overflow_int8_is_run_exactly(
    san: San, tmp_path: Path, labelled: Path, monkeypatch: pytest.MonkeyPatch, without_tensorrt: None
) -> None:
    """A CPU without VNNI: the rows are the same as with it."""
    out = tmp_path / "a.onnx"
    options = ("--runtime", "cpu", "--calib-num", 64, "--min-cosine", 0.5)
    san("export", "--int8", "--calib", labelled, "-o", out, *options)
    images = people(3)
    asked = []
    original = onnxruntime.SessionOptions.add_session_config_entry

    def noted(self: onnxruntime.SessionOptions, key: str, value: str) -> None:
        asked.append(key)
        original(self, key, value)

    monkeypatch.setattr(onnxruntime.SessionOptions, "add_session_config_entry", noted)
    rows = {}
    for saturates in (False, True):
        monkeypatch.setattr("san_deploy.backends.onnxruntime.saturates_int8", lambda value=saturates: value)
        asked.clear()
        rows[saturates] = open_backend(out)(images)
        assert ("session.x64quantprecision" in asked) is saturates
    if not saturates_int8():
        assert np.array_equal(rows[False], rows[True])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--target", "sm99"], "sm99"),
        (["--target", "8.6"], "8.6"),
        (["--target", ",,"], "sm86,sm89"),
        (["--timing-cache", "x"], "timing cache"),
        (["--hardware-compatibility", "ampere+"], "compatibility"),
    ],
)
def test_engine_options_are_refused_before_the_export(
    san: San, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], told: str
) -> None:
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.chdir(tmp_path)
    result = san("export", "--fp16", "--runtime", "tensorrt-rtx", *options, code=2)
    assert told in result.err
    assert not list(tmp_path.iterdir())


def test_printed_commands_can_be_pasted(san: San, tmp_path: Path, without_tensorrt: None) -> None:
    out = tmp_path / "zwei W\u00f6rter" / "m d.onnx"
    result = san("export", "-o", out)
    assert f"-m '{out}'" in result.out


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_sigterm_is_cleaned_up_after(tmp_path: Path, labelled: Path) -> None:
    """`docker stop`, systemd and `timeout` send it."""
    words = [sys.executable, "-m", "san_deploy", "export", "--int8", "--calib", str(labelled), "-o", "a.onnx"]
    folder = tmp_path / "out"
    folder.mkdir()
    with subprocess.Popen(words, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "calibrating" in line:
                assert list(folder.iterdir())  # a temporary file is there by now
                process.terminate()
                break
        rest = process.stderr.read()
    assert process.returncode == 143 and "Stopped" in rest and "Traceback" not in rest
    assert not list(folder.iterdir())
