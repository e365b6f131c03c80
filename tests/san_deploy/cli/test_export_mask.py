"""`san export --mask`: argmax where nobody asks, another mask in an ONNX file of ours without its checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import onnx
import torch
from san_export.onnx_writer import write_onnx
from san_export.verify import sample_crops
from san_train.checkpoint import CheckpointInfo, save_checkpoint
from san_train.data import normalise
from san_train.models import build_model

from san_deploy.artefact import Threshold, read_sidecar, sha256_file, write_sidecar
from san_deploy.backends.onnxruntime import OnnxRuntime
from san_deploy.preprocess import RESIZE

San = Callable[..., object]
SETTINGS = {
    "depth": 18,
    "width": 0.125,
    "size_hw": (64, 32),
    "hidden": 32,
    "embedding_dim": 16,
    "attention": (1,),
    "context": (),
}
THRESHOLD = Threshold(0.6, 0.01, 0.9, 100, 10, "drawn people", "argmax")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that recommends a ramp, and a threshold of argmax."""
    torch.manual_seed(0)
    network = build_model("san", SETTINGS).train()
    with torch.no_grad():
        for _ in range(20):
            network(normalise(sample_crops((64, 32), 16).images, torch.device("cpu")))
    path = tmp_path_factory.mktemp("run") / "model.safetensors"
    info = CheckpointInfo(
        "san", network.settings.as_dict(), RESIZE, 1, {"deploy_mask": "ramp:0.0625"}, threshold=THRESHOLD
    )
    save_checkpoint(path, network.eval(), info)
    return path


@pytest.fixture
def exported(san: San, checkpoint: Path, tmp_path: Path) -> Path:
    san("export", checkpoint, "-o", tmp_path / "m.onnx", "--no-engine", "--min-cosine", "-1")
    return tmp_path / "m.onnx"


def test_argmax_is_written_whatever_the_recipe_recommends(exported: Path) -> None:
    artefact = read_sidecar(exported)
    assert artefact.mask == "argmax" and artefact.threshold == THRESHOLD


def test_another_mask_for_a_file(san: San, checkpoint: Path, exported: Path, tmp_path: Path) -> None:
    result = san("export", exported, "--mask", "ramp:1.25e-1", "--no-engine")
    path = tmp_path / "m-ramp-0.125.onnx"
    artefact = read_sidecar(path)
    assert (artefact.mask, artefact.precision) == ("ramp:0.125", "fp32")
    # It was calibrated for argmax.
    assert artefact.threshold is None and "no threshold was calibrated for the mask ramp:0.125" in result.out
    assert artefact.checks["mask"]["replaced"] == "argmax" and artefact.checks["mask"]["masks_max_abs"] < 1e-6
    assert "mask put in place of argmax" in san("info", path).out
    # The export of the checkpoint has the same rows, to the bit.
    san(
        "export",
        checkpoint,
        "-o",
        tmp_path / "c.onnx",
        "--mask",
        "ramp:0.125",
        "--no-engine",
        "--min-cosine",
        -1,
    )
    images = sample_crops((64, 32), 8).images
    assert (OnnxRuntime(path, threads=1)(images) == OnnxRuntime(tmp_path / "c.onnx", threads=1)(images)).all()
    # So it is of the same space, which is another than that of argmax; and so is it in FP16.
    assert artefact.space == read_sidecar(tmp_path / "c.onnx").space != read_sidecar(exported).space
    san("export", path, "--fp16", "--no-engine", "--min-cosine", "-1")
    assert read_sidecar(tmp_path / "m-ramp-0.125-fp16.onnx").space == artefact.space
    assert artefact.samples is not None and "ramp:0.125" in artefact.samples.source


def test_another_mask_and_precision_at_once(san: San, exported: Path, tmp_path: Path) -> None:
    san("export", exported, "--fp16", "--mask", "expected", "--no-engine", "--min-cosine", "0.99")
    artefact = read_sidecar(tmp_path / "m-expected-fp16.onnx")
    assert (artefact.mask, artefact.precision) == ("expected", "fp16")
    assert set(artefact.checks) == {"mask", "fp16"}
    san("export", exported, "--fp16", "--mask", "ramp:0.5", "--no-engine", "--min-cosine", "0.9")
    assert read_sidecar(tmp_path / "m-ramp-0.5-fp16.onnx").mask == "ramp:0.5"


def test_what_does_not_fit(san: San, exported: Path, tmp_path: Path) -> None:
    assert "has the mask argmax already" in san("export", exported, "--mask", "argmax", code=2).err
    assert "ramp:EPS" in san("export", exported, "--mask", "ramp:2", code=2).err
    san("export", exported, "--fp16", "--no-engine", "--min-cosine", "-1")
    error = san("export", tmp_path / "m-fp16.onnx", "--mask", "expected", "--no-engine", code=2).err
    assert "is FP16 already" in error and "san export FP32.onnx --mask expected" in error
    assert sorted(path.suffix for path in tmp_path.glob("m*")) == [".json", ".json", ".onnx", ".onnx"]


def test_a_file_with_a_soft_gate(san: San, exported: Path) -> None:
    artefact = replace(read_sidecar(exported), mask="soft")
    write_onnx(onnx.load(exported), artefact, exported)
    write_sidecar(replace(artefact, sha256=sha256_file(exported)), exported)
    assert "has a soft gate" in san("export", exported, "--mask", "expected", "--no-engine", code=2).err
    assert json.loads(san("info", exported, "--json").out)["artefact"]["mask"] == "soft"
