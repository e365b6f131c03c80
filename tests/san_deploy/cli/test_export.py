from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from san_export.verify import CheckCrops
from san_export.wrapper import OnnxWrapper
from san_train.checkpoint import CheckpointInfo, save_checkpoint
from san_train.evaluate import embed
from san_train.models import SharpAttentionNetwork
from torch import Tensor

from san_deploy.artefact import Threshold, sha256_file
from san_deploy.backends.onnxruntime import OnnxRuntime
from san_deploy.cli import main
from tests.settled import calibrated


@dataclass(frozen=True)
class Result:
    """What a call of `san` gave."""

    code: int
    out: str
    err: str


San = Callable[..., Result]


@pytest.fixture
def san(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> San:
    """Call `san` in this process, which has torch already."""

    def call(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["san", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capfd.readouterr()
        return Result(int(caught.value.code or 0), out, err)

    return call


@pytest.fixture(scope="module")
def crops(check_crops: CheckCrops) -> CheckCrops:
    return check_crops


@pytest.fixture(scope="module")
def crop_folder(crops: CheckCrops, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crops") / "mine"
    folder.mkdir()
    for index, image in enumerate(crops.images):
        Image.fromarray(image[..., ::-1]).save(folder / f"{index:02d}.png")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def checkpoint(network: SharpAttentionNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "best.safetensors"
    info = CheckpointInfo(
        "san",
        network.settings.as_dict(),
        "pillow-bicubic-antialias",
        1,
        threshold=Threshold(0.625, 0.01, 0.9, 100, 10, "drawn people"),
    )
    save_checkpoint(path, network, info)
    return path


@pytest.fixture(scope="module")
def exported(
    checkpoint: Path, crop_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Result]:
    """One export by a process of its own, as a user starts it."""
    path = tmp_path_factory.mktemp("out") / "deep" / "model.onnx"
    command = [
        sys.executable,
        "-m",
        "san_deploy",
        "export",
        str(checkpoint),
        "-o",
        str(path),
        "--crops",
        str(crop_folder),
        "--no-engine",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return path, Result(done.returncode, done.stdout, done.stderr)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_writes_a_file_and_its_description(exported: tuple[Path, Result], checkpoint: Path) -> None:
    path, result = exported
    assert result.code == 0, result.err
    assert left(path.parent) == ["model.onnx", "model.onnx.json"]
    told = json.loads((path.parent / "model.onnx.json").read_text())
    assert told["sha256"] == sha256_file(path)
    assert told["checkpoint_sha256"] == sha256_file(checkpoint)
    inside = {item.key: json.loads(item.value) for item in onnx.load(path).metadata_props}
    # Each holds a hash of itself besides, which the other cannot have.
    own = {"sha256", "description_sha256"}
    assert len(inside.pop("san.content_sha256")) == 64
    assert inside == {f"san.{key}": value for key, value in told.items() if key not in own}
    assert told["arch"] == "san-resnet18"
    assert told["mask"] == "argmax"
    assert told["input"] == "uint8"
    assert told["size_hw"] == [64, 32]
    assert told["threshold"]["similarity"] == 0.625
    assert set(told["versions"]) == {"san-deploy", "torch", "onnx", "onnxscript", "onnxruntime"}
    assert set(told["checks"]["min_cosine"]) == {"1", "3", "16"}
    assert told["checks"]["gate"] == {"min_cosine": 0.999}
    assert told["precision"] == "fp32" and told["operands"]["fp32"] == 1.0
    assert min(told["checks"]["min_cosine"].values()) > 0.999
    assert told["checks"]["source"] == "crops of mine"


def test_says_what_was_done_and_nothing_else(exported: tuple[Path, Result], checkpoint: Path) -> None:
    path, result = exported
    assert f"san embed CROPS -o crops.npz -m {path}" in result.out
    assert f"san match CAM1 CAM2 -o report -m {path}" in result.out
    assert "--threshold" not in result.out  # the checkpoint brings one
    for word in (
        "batch  1",
        "batch 16",
        "FP32",
        "mask argmax",
        "N x 64 x 32 x 3 uint8 BGR",
        str(checkpoint),
    ):
        assert word in result.out
    # Our three lines, none of the exporter's.
    assert result.err.splitlines() == [
        "1 of the crops cannot be read and is passed over",
        "exporting san-resnet18, mask argmax, input uint8",
        "checking 20 crops of mine, ONNX Runtime against PyTorch",
    ]


def test_the_edge_gets_what_the_trained_network_gives(
    exported: tuple[Path, Result], network: SharpAttentionNetwork, crops: CheckCrops
) -> None:
    rows = OnnxRuntime(exported[0])(crops.images)
    cosine = (rows * embed(network, crops.images)).sum(1)
    assert cosine.min() > 0.999


def test_refuses_to_overwrite_and_replaces_with_force(
    exported: tuple[Path, Result],
    checkpoint: Path,
    crop_folder: Path,
    san: San,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, _ = exported
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        # Nothing long starts before the refusal.
        patch.setattr("san_export.checkpoint.load_checkpoint", None)
        result = san("export", checkpoint, "-o", path)
        assert result.code == 1 and "--force" in result.err and result.out == ""
        other = path.with_name("other.onnx")
        other.with_name("other.onnx.json").write_text("{}")
        assert san("export", checkpoint, "-o", other).code == 1
        other.with_name("other.onnx.json").unlink()
    result = san("export", checkpoint, "-o", path, "--crops", crop_folder, "--force", "--json", "--no-engine")
    assert result.code == 0, result.err
    told = json.loads(result.out)
    assert told["artefact"]["sha256"] == sha256_file(path)
    assert told["engine"] is None and told["missing"] == "" and told["written"]
    assert told["bytes"] == path.stat().st_size and told["parameters"] > 100_000
    # Another process, another day: the same checkpoint gives the same bytes.
    assert path.read_bytes() == before


class Unnormalised(OnnxWrapper):
    """A graph that is wrong: it forgets the mean."""

    def forward(self, crops: Tensor) -> Tensor:
        self.mean = torch.zeros_like(self.mean)
        return super().forward(crops)


def test_a_wrong_graph_fails_the_gate_and_leaves_nothing(
    checkpoint: Path, crop_folder: Path, tmp_path: Path, san: San, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("san_export.checkpoint.OnnxWrapper", Unnormalised)
    result = san("export", checkpoint, "-o", tmp_path / "model.onnx", "--crops", crop_folder)
    assert result.code == 3
    assert result.out == ""
    error = result.err.splitlines()[-1]
    assert "minimum row cosine" in error and ".png" in error
    # The smooth mask disagrees as well, so nobody is told that this is rounding.
    assert "something else" in error and "--mask" not in error
    assert left(tmp_path) == []


def test_flipped_bits_are_told_from_a_wrong_graph(
    *,
    network: SharpAttentionNetwork,
    checkpoint: Path,
    crop_folder: Path,
    tmp_path: Path,
    san: San,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def flipped(model: SharpAttentionNetwork, images: np.ndarray, *, mask: str, batch: int) -> np.ndarray:
        rows = embed(model, images, mask=mask, batch=batch)
        if mask == "argmax":
            rows[4] = np.roll(rows[4], 1)
        return rows

    monkeypatch.setattr("san_export.checkpoint.embed", flipped)
    result = san("export", checkpoint, "-o", tmp_path / "model.onnx", "--crops", crop_folder)
    assert result.code == 3
    error = result.err.splitlines()[-1]
    assert (
        "04.png" in error
        and "--mask ramp:0.0625" in error
        and "--min-cosine" in error
        and "graph is right" in error
    )
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-o", "model.bin"], ".onnx"),
        (["-o", "m.onnx", "--mask", "sharp"], "ramp:EPS"),
        (["-o", "m.onnx", "--mask", "ramp:0"], "ramp:EPS"),
        (["-o", "m.onnx", "--mask", "ramp:nan"], "ramp:EPS"),
        (["-o", "m.onnx", "--min-cosine", "2"], "min-cosine"),
        (["-o", "m.onnx", "--min-cosine", "nan"], "min-cosine"),
        (["-o", "m.onnx", "--opset", "11"], "opset"),
        (["-o", "m.onnx", "--input", "rgb"], "uint8"),
        (["-o", "m.onnx", "--fp16", "--int8", "--calib", ".", "--runtime", "cpu"], "--int8 --fp16"),
        (["-o", "m.onnx", "--int8"], "--calib"),
        (["-o", "m.onnx", "--batch", "8"], "MIN,OPT,MAX"),
        (["-o", "m.onnx", "--batch", "8,4,16"], "rise"),
        (["-o", "m.onnx", "--max-drop", "0.01"], "--int8"),
        (["-o", "m.onnx", "--runtime", "cpu", "--engine"], "contradict"),
    ],
)
def test_usage_errors(
    *,
    checkpoint: Path,
    tmp_path: Path,
    san: San,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = san("export", checkpoint, *arguments)
    assert result.code == 2
    assert told in result.err and result.out == ""
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"attention": (), "context": ()}, "no attention"), ({"gate": "soft"}, "soft gate")],
)
def test_a_mask_needs_a_sharp_gate(
    tmp_path: Path, san: San, crops: CheckCrops, settings: dict[str, object], told: str
) -> None:
    network = calibrated(crops.images[:4], **settings)
    save_checkpoint(
        tmp_path / "a.safetensors",
        network,
        CheckpointInfo("san", network.settings.as_dict(), "pillow-bicubic-antialias", 1),
    )
    result = san("export", tmp_path / "a.safetensors", "-o", tmp_path / "m.onnx", "--mask", "argmax")
    assert result.code == 2 and told in result.err


def test_bad_input_is_one_line_and_leaves_nothing(checkpoint: Path, tmp_path: Path, san: San) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(checkpoint.read_bytes()[:-100])
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "file").write_text("")
    for arguments, told in (
        ([tmp_path / "none.safetensors", "-o", folder / "m.onnx"], "none.safetensors"),
        ([cut, "-o", folder / "m.onnx"], "cut.safetensors"),
        ([checkpoint, "-o", folder / "m.onnx", "--crops", tmp_path / "nowhere"], "nowhere"),
        ([checkpoint, "-o", folder / "m.onnx", "--crops", empty], "empty"),
        ([checkpoint, "-o", tmp_path / "folder.onnx", "--force"], "is a folder"),
        ([checkpoint, "-o", tmp_path / "file" / "m.onnx"], "m.onnx"),
    ):
        result = san("export", *arguments)
        assert result.code == 1, arguments
        assert told in result.err.splitlines()[-1]
        assert sum(line.startswith("Error:") for line in result.err.splitlines()) == 1
        assert result.out == ""
    assert left(folder) == []


def test_another_resize_is_refused(network: SharpAttentionNetwork, tmp_path: Path, san: San) -> None:
    info = replace(CheckpointInfo("san", network.settings.as_dict(), "opencv-linear", 1))
    save_checkpoint(tmp_path / "a.safetensors", network, info)
    result = san("export", tmp_path / "a.safetensors", "-o", tmp_path / "m.onnx")
    assert result.code == 1 and "opencv-linear" in result.err
