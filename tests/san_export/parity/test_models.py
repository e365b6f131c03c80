from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from san_export.parity.models import ModelPair, ParityModel, has_fp16, open_pair
from san_export.precision.emulate_fp16 import emulate_fp16
from san_export.verify import CheckCrops
from san_train.evaluate import embed
from san_train.models import SharpAttentionNetwork

from san_deploy.artefact import Calibration, Engine, sha256_file, write_sidecar
from san_deploy.backends.cuda import Device
from san_deploy.errors import SanError, UsageError
from tests.san_export.parity.conftest import Files, with_nan


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("san_deploy.backends.cuda.probe", lambda: ([], "no NVIDIA driver is installed"))


def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    from san_deploy.backends.ort import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rows: np.ndarray = session.run(["embedding"], {"crops": images})[0]
    return rows


def test_the_reference_is_pytorch_with_the_targets_mask(
    files: Files, network: SharpAttentionNetwork, crops: CheckCrops
) -> None:
    pair = open_pair(files.checkpoint, files.fp32)
    assert pair.reference.artefact.mask == "ramp:0.25" and pair.reference.checkpoint
    expected = embed(network, crops.images, mask="ramp:0.25")
    np.testing.assert_allclose(pair.reference.rows(crops.images), expected, atol=1e-6)
    assert open_pair(files.checkpoint, files.fp32, mask="argmax").reference.artefact.mask == "argmax"


@pytest.mark.slow
def test_an_exported_reference_graph_is_the_target_without_its_description(
    files: Files, crops: CheckCrops
) -> None:
    """Same mask, same input form, same opset: so layers have the same names."""
    pair = open_pair(files.checkpoint, files.fp32)
    assert pair.reference_graph.graph == files.model.graph
    assert pair.reference_graph.opset_import == files.model.opset_import


def test_fp16_rounds_as_a_gpu_does(files: Files, crops: CheckCrops) -> None:
    target = open_pair(files.fp32, files.fp16).target
    assert target.as_it_is is not None and target.model is not None and has_fp16(target.model)
    half, rounded = (
        run(model, crops.images) for model in (target.model, emulate_fp16(onnx.load(str(files.fp16))))
    )
    np.testing.assert_allclose(target.as_it_is(crops.images), half, atol=1e-6)
    np.testing.assert_allclose(target.rows(crops.images), rounded, atol=1e-6)
    assert np.abs(rounded - half).max() > 1e-5


def test_a_closed_model_opens_again(files: Files, crops: CheckCrops) -> None:
    target = open_pair(files.fp32, files.fp16).target
    assert target.as_it_is is not None
    before = target.rows(crops.images[:3]), target.as_it_is(crops.images[:3])
    target.close()
    np.testing.assert_array_equal(target.rows(crops.images[:3]), before[0])
    np.testing.assert_array_equal(target.as_it_is(crops.images[:3]), before[1])


def test_rows_are_not_looked_at(files: Files, crops: CheckCrops, tmp_path: Path) -> None:
    target = files.write(tmp_path / "nan.onnx", with_nan(files.model))
    assert np.isnan(open_pair(files.fp32, target).target.rows(crops.images[:3])).all()


def test_a_broken_sidecar_does_not_keep_a_target_from_being_looked_at(files: Files, tmp_path: Path) -> None:
    target = tmp_path / "target.onnx"
    shutil.copy(files.fp32, target)
    write_sidecar(dataclasses.replace(files.artefact, sha256="0" * 64), target)
    assert open_pair(files.fp32, target).target.artefact.sha256 == sha256_file(target)


def flip_a_weight(path: Path, folder: Path) -> Path:
    data = bytearray(path.read_bytes())
    data[len(data) * 2 // 3] ^= 1
    damaged = folder / path.name
    damaged.write_bytes(data)
    return damaged


def test_damaged_files_are_compared_and_said_to_be_damaged(files: Files, tmp_path: Path) -> None:
    pair = open_pair(flip_a_weight(files.checkpoint, tmp_path), flip_a_weight(files.fp32, tmp_path))
    for side in (pair.reference, pair.target):
        (note,) = side.notes
        assert note.startswith(f"{side.path.name}: the file is damaged: ")
    assert pair.network is not None
    whole = open_pair(files.checkpoint, files.fp32)
    assert whole.reference.notes == whole.target.notes == ()


def test_sessions_have_one_thread_and_what_int8_needs(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from san_deploy.backends.ort import onnxruntime

    opened: list[onnxruntime.SessionOptions] = []
    real = onnxruntime.InferenceSession

    def session(data: bytes, options: onnxruntime.SessionOptions, **named: object) -> object:
        opened.append(options)
        return real(data, options, **named)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    told = Calibration(8, "c" * 64, "ward", 0, "percentile", "tensorrt", rest="fp16")
    target = files.write(tmp_path / "int8.onnx", files.model, precision="int8", calibration=told)
    open_pair(files.fp32, target)
    assert {(item.intra_op_num_threads, item.inter_op_num_threads) for item in opened} == {(1, 1)}
    # The target is opened once, as it runs.
    assert opened[0].get_session_config_entry("session.disable_quant_qdq") == "1"


def test_a_device_that_was_named_is_never_replaced(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    for device in ("cuda", "cuda:1"):
        with pytest.raises(SanError, match=r"no NVIDIA driver|CUDAExecutionProvider"):
            open_pair(files.fp32, files.fp32, device=device)
    with pytest.raises(UsageError):
        open_pair(files.fp32, files.fp32, backend="torch")
    # Where there is a GPU that ONNX Runtime cannot use, `auto` takes the CPU.
    monkeypatch.setattr("san_deploy.backends.cuda.probe", lambda: ([Device("Fake GPU", "sm86", 0)], ""))
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    assert "CPU" in open_pair(files.fp32, files.fp32).target.runtime


def engine_sides(
    files: Files, folder: Path, *, name: str = "fp16.onnx", precision: str = "fp16"
) -> ModelPair:
    """An engine as far as its graph goes."""
    opened = open_pair(files.fp32, files.fp16)
    built = sha256_file(files.fp16)
    engine = Engine("tensorrt", "10", "", "", ("sm86",), (1, 8, 16), built, False, "none", False, "", name)
    artefact = dataclasses.replace(opened.target.artefact, engine=engine, precision=precision)
    return ModelPair(opened.reference, ParityModel(folder / "a.engine", artefact, "made", opened.target.rows))


def test_an_engine_is_looked_into_through_what_it_was_built_from(
    files: Files, tmp_path: Path, crops: CheckCrops
) -> None:
    rounded = open_pair(files.fp32, files.fp16).target_graph
    shutil.copy(files.fp16, tmp_path / "fp16.onnx")
    pair = engine_sides(files, tmp_path)
    assert pair.target_graph.graph == rounded.graph
    assert any("was built from" in note for note in pair.graph_notes)
    named = engine_sides(files, tmp_path / "elsewhere")
    named.onnx_file = files.fp16
    assert named.target_graph.graph == rounded.graph


def test_without_that_file_the_reference_stands_in_for_fp16_alone(files: Files, tmp_path: Path) -> None:
    rounded = open_pair(files.fp32, files.fp16).target_graph
    shutil.copy(files.fp32, tmp_path / "fp16.onnx")
    pair = engine_sides(files, tmp_path)
    assert pair.own_graph is None
    assert any("not the file that it was built from" in note for note in pair.graph_notes)
    assert pair.target_graph.graph.node == rounded.graph.node
    assert any("of the reference converted to FP16" in note for note in pair.graph_notes)
    assert pair.has_graphs and not engine_sides(files, tmp_path / "none", precision="fp32").has_graphs
    with pytest.raises(SanError, match="--onnx FILE"):
        engine_sides(files, tmp_path / "none", precision="fp32").target_graph  # noqa: B018


def test_onnx_files_need_no_pytorch(files: Files) -> None:
    """An edge machine has onnx at most."""
    code = (
        "import sys; from pathlib import Path\n"
        "from san_export.parity import run, models, gates, sample, html, junit, text\n"
        "from san_export.parity.stages import masks, layers\n"
        f"opened = models.open_pair(Path({str(files.fp32)!r}), Path({str(files.fp16)!r}))\n"
        "opened.reference_graph, opened.target_graph, opened.mask_probe()\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_checkpoint_of_another_resize(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("san_export.parity.models.RESIZES", {"another": None})
    with pytest.raises(SanError, match="was trained with the resize"):
        open_pair(files.checkpoint, files.fp32)
