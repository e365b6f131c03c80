"""`san parity` from end to end, on a tiny network and on broken copies of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from PIL import Image

from tests.conftest import Result
from tests.san_export.parity.conftest import (
    Files,
    swapped_channels,
    with_nan,
    without_norm,
    wrong_mean,
)
from tests.tiny_models import tiny_model

San = Callable[..., Result]
STAGES = ("artefact", "embeddings", "ranking", "preprocessing", "masks", "layers")


@pytest.mark.slow
def test_a_checkpoint_and_its_export(san: San, files: Files, tmp_path: Path) -> None:
    paths = {name: tmp_path / f"parity.{name}" for name in ("json", "html", "junit")}
    outputs = [word for name, path in paths.items() for word in (f"--{name}", path)]
    result = san("parity", files.checkpoint, files.fp32, "--crops", files.crops, *outputs)
    assert result.out.startswith("PASS")
    for stage in STAGES:
        assert f"\n{stage}: passed" in result.err
    told = json.loads(paths["json"].read_text())
    assert told["passed"] and told["crops"] == 20 and list(told["stages"]) == list(STAGES)
    preprocessing = told["stages"]["preprocessing"]["figures"]
    assert preprocessing["input_max_abs"] == 0 and preprocessing["input_equal"] == 1
    assert all(agrees for *_, agrees in told["stages"]["artefact"]["figures"]["facts"])
    ranking = told["stages"]["ranking"]["figures"]
    assert ranking["labelled"] and ranking["queries"] == 20 and ranking["reference"] == ranking["target"]
    sizes = {row["batch"]: row["crops"] for row in told["stages"]["embeddings"]["figures"]["batches"]}
    assert sizes == {1: 20, 3: 20, 16: 20, 32: 20, 33: 20}
    assert "<html" in paths["html"].read_text()
    assert ElementTree.parse(paths["junit"]).getroot().get("failures") == "0"


@pytest.mark.numeric
def test_fp16_passes_its_gates(san: San, files: Files) -> None:
    result = san("parity", files.fp32, files.fp16, "--crops", files.crops, "--json", "-")
    told = json.loads(result.out)
    assert told["passed"] and told["target"]["precision"] == "FP16"
    figures = told["stages"]["preprocessing"]["figures"]
    assert 0 < figures["input_max_abs"] <= 2**-10
    assert any("every FP16 rounding" in note for note in told["stages"]["artefact"]["notes"])
    # Exactly as good as FP32 would mean that the roundings were left out.
    assert told["stages"]["embeddings"]["figures"]["batches"][0]["min_cosine"] < 1 - 1e-9


@pytest.mark.parametrize(
    ("broken", "gates"),
    [
        (swapped_channels, {"min_cosine", "layers"}),
        (wrong_mean, {"preprocess_equal", "min_cosine", "layers"}),
        (without_norm, {"norm"}),
        (with_nan, {"finite", "norm", "min_cosine", "batch_invariance"}),
    ],
)
def test_a_broken_target_fails_and_is_diagnosed(
    san: San,
    files: Files,
    tmp_path: Path,
    broken: Callable[[onnx.ModelProto], onnx.ModelProto],
    gates: set[str],
) -> None:
    target = files.write(tmp_path / "broken.onnx", broken(files.model))
    result = san(
        "parity", files.fp32, target, "--crops", files.crops, "--json", tmp_path / "told.json", code=3
    )
    told = json.loads((tmp_path / "told.json").read_text())
    assert gates <= set(told["failed"]), told["failed"]
    assert "artefact" not in told["failed"]
    (error,) = [line for line in result.err.splitlines() if line.startswith("Error: ")]
    assert all(gate in error for gate in gates) and str(target) in error
    assert result.out.startswith("FAIL")
    # No stage is left out without a word.
    for stage in told["stages"].values():
        assert stage["figures"] is not None or stage["skipped"] or not stage["passed"]


def test_gates_can_be_set(san: San, files: Files, tmp_path: Path) -> None:
    target = files.write(tmp_path / "broken.onnx", without_norm(files.model))
    arguments = ("parity", files.fp32, target, "--crops", files.crops)
    assert "norm " in san(*arguments, code=3).err
    san(*arguments, "--gate", "norm=off", "--gate", "divergence=off")
    result = san("parity", files.fp32, files.fp16, "--crops", files.crops, "--gate", "min_cosine=1", code=3)
    assert "min_cosine" in result.err and "p1_cosine" not in result.err


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        ("min_cosin=0.9", "mean min_cosine? Give one of artefact, "),
        ("min_cosine", "NAME=VALUE"),
        ("min_cosine=much", "no number"),
        ("min_cosine=nan", "no number"),
    ],
)
def test_a_gate_that_is_none(san: San, files: Files, gate: str, message: str) -> None:
    assert (
        message in san("parity", files.fp32, files.fp16, "--crops", files.crops, "--gate", gate, code=2).err
    )


def test_what_cannot_be_compared_is_one_line(san: San, files: Files, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for index in range(9):
        Image.fromarray(np.zeros((20, 10, 3), np.uint8)).save(few / f"{index}.png")
    labels = tmp_path / "identities.csv"
    labels.write_text("camera,track,person\ncam1,t001,1\n")
    foreign = tmp_path / "foreign.onnx"
    onnx.save(files.model, str(foreign))
    older = tmp_path / "older.onnx"
    shutil.copy(files.fp32, older)
    model = onnx.load(str(older))
    for item in model.metadata_props:
        if item.key == "san.schema_version":
            item.value = "0"
    onnx.save(model, str(older))
    (tmp_path / "cut.onnx").write_bytes(files.fp32.read_bytes()[:1000])
    (tmp_path / "engine.engine").write_bytes(b"plan")
    tiny = tiny_model(tmp_path / "tiny.onnx")
    other = files.write(tmp_path / "other.onnx", files.model, embedding_dim=17)
    crops = ("--crops", files.crops)
    refused = [
        (1, (files.fp32, tiny, *crops), "takes crops of 32 x 16"),
        (1, (files.fp32, other, *crops), "gives embeddings of 17 values"),
        (1, (files.fp32, files.write(tmp_path / "a.onnx", files.model, arch="osnet"), *crops), "osnet"),
        (1, (files.fp32, foreign, *crops), "was not written by san export"),
        (1, (files.fp32, older, *crops), "schema 0"),
        (1, (tmp_path / "cut.onnx", files.fp32, *crops), "cut short|not a whole ONNX file"),
        (1, (tmp_path / "none.onnx", files.fp32, *crops), "does not exist"),
        (1, (files.fp32, files.fp16, "--crops", few), "9 crops, at least 10"),
        (1, (files.fp32, files.fp16, "--crops", tmp_path / "nowhere"), "does not exist"),
        (1, (files.fp32, files.fp16, *crops, "--labels", labels), "does not say who is on"),
        (1, (files.fp32, files.fp16, *crops, "--json", tmp_path), "is a folder"),
        (1, (files.fp32, files.fp16, *crops, "--html", labels), "exists"),
        (1, (files.fp32, files.fp16, *crops, "--html", labels / "a.html"), "no folder that can be written"),
        (2, (tmp_path / "engine.engine", files.fp32, *crops), "is an engine"),
        (2, (files.fp32, files.checkpoint, *crops), "san export"),
        (2, (files.fp32, files.fp16, *crops, "--mask", "argmax"), "part of the file"),
        (2, (files.fp32, files.fp16, *crops, "--onnx", files.fp32), "--onnx is for an engine"),
        (2, (files.fp32, files.fp16, *crops, "--device", "gpu"), "unknown"),
        (2, (files.fp32, files.fp16, "--crops", few, "--split", "test"), "fewer|for labelled crops"),
    ]
    for code, arguments, message in refused:
        result = san("parity", *arguments, code=code)
        lines = [line for line in result.err.splitlines() if line.startswith("Error: ")]
        assert len(lines) == 1 and any(part in lines[0] for part in message.split("|")), result.err
        assert result.out == "" and "Comparing" not in result.err


def test_labels_beside_the_crops(san: San, files: Files, tmp_path: Path) -> None:
    """One camera's folder, and labels that lie elsewhere: nobody is seen by two cameras."""
    labels = files.crops / "identities.csv"
    arguments = ("parity", files.fp32, files.fp32, "--crops", files.crops / "cam1")
    result = san(*arguments, "--labels", labels, code=1)
    assert "one camera" in result.err and "--no-camera" not in result.err
    result = san(*arguments, "--gate", "rank1_drop=0", code=2)
    assert "rank1_drop cannot be measured" in result.err and "--labels" in result.err
    result = san(*arguments, "--json", "-")
    assert not json.loads(result.out)["stages"]["ranking"]["figures"]["labelled"]
    both = tmp_path / "both"
    shutil.copytree(files.crops, both)
    (both / "identities.csv").rename(tmp_path / "who.csv")
    told = json.loads(
        san(
            "parity", files.fp32, files.fp32, "--crops", both, "--labels", tmp_path / "who.csv", "--json", "-"
        ).out
    )
    assert told["stages"]["ranking"]["figures"]["queries"] == 20


@pytest.mark.slow
def test_other_masks_are_compared_and_said(san: San, files: Files) -> None:
    result = san("parity", files.checkpoint, files.fp32, "--crops", files.crops, "--mask", "expected", code=3)
    assert "THE MASKS DIFFER: expected in the reference, ramp:0.25 in the target" in result.err


def test_rows_that_another_program_computed(san: San, files: Files, tmp_path: Path) -> None:
    """The rows of `san embed`, as such and in the order of the crops; then a person's rows exchanged for another's."""
    san("embed", files.crops, "-m", files.fp32, "-o", tmp_path / "rows.npz")
    with np.load(tmp_path / "rows.npz") as arrays:
        rows = arrays["embedding"]
    np.save(tmp_path / "rows.npy", rows)
    arguments = ("parity", files.fp32, "--crops", files.crops)
    for name in ("rows.npz", "rows.npy"):
        result = san(*arguments, "--outputs", tmp_path / name, "--json", "-")
        told = json.loads(result.out)
        assert told["passed"] and told["stages"]["embeddings"]["figures"]["equal_rows"] == 1
        assert told["stages"]["ranking"]["figures"]["queries"] == 20
        assert {stage for stage in STAGES if told["stages"][stage]["skipped"]} == {
            "artefact",
            "preprocessing",
            "masks",
            "layers",
        }
    np.save(tmp_path / "mixed.npy", np.roll(rows, 5, axis=0))
    assert "min_cosine" in san(*arguments, "--outputs", tmp_path / "mixed.npy", code=3).err
    np.save(tmp_path / "few.npy", rows[:-1])
    np.save(tmp_path / "narrow.npy", rows[:, :5])
    (tmp_path / "cut.npz").write_bytes((tmp_path / "rows.npz").read_bytes()[:400])
    np.savez(tmp_path / "named.npz", features=rows, names=rows)
    refused = [
        (1, "few.npy", "19 rows for the 20 crops"),
        (1, "narrow.npy", "have 5 numbers"),
        (1, "cut.npz", "cut short"),
        (1, "named.npz", "name the arrays"),
        (1, "none.npy", "does not exist"),
    ]
    for code, name, message in refused:
        assert message.lower() in san(*arguments, "--outputs", tmp_path / name, code=code).err.lower(), name
    assert "one target" in san(*arguments, code=2).err
    assert "one target" in san(*arguments[:2], files.fp16, *arguments[2:], "--outputs", "a.npy", code=2).err


def test_another_resize_is_measured(san: San, files: Files, tmp_path: Path) -> None:
    """On crops larger than the input, OpenCV's linear resize leaves details out that ours averages."""
    large = tmp_path / "large"
    for path in files.crops.rglob("*.png"):
        with Image.open(path) as image:
            (large / path.relative_to(files.crops)).parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(0).integers(0, 256, (192, 96, 3), dtype=np.uint8)
            mixed = Image.blend(image.resize((96, 192)), Image.fromarray(noise), 0.4)
            mixed.save(large / path.relative_to(files.crops))
    arguments = ("parity", files.fp32, files.fp32, "--crops", large, "--json", "-")
    same = json.loads(san(*arguments, "--resize", "pillow-bicubic-antialias").out)
    assert same["stages"]["embeddings"]["figures"]["equal_rows"] == 1
    result = san(*arguments, "--resize", "cv2-linear", code=3)
    told = json.loads(result.out)
    assert told["stages"]["preprocessing"]["figures"]["pixels_differ"] > 0
    assert told["stages"]["embeddings"]["figures"]["batches"][0]["min_cosine"] < 0.999
    assert "The crops differ before the networks see them" in result.err
    assert "unknown" in san(*arguments, "--resize", "cv2-bicubic", code=2).err
