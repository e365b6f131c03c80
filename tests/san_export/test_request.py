from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from san_export import request as request_module
from san_export.request import EngineOptions, ExportPlan, ExportRequest, plan
from san_export.verify import Gate

from san_deploy.backends import STARTER, trt
from san_deploy.backends.cuda import Device
from san_deploy.errors import SanError, UsageError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a checkpoint and an ONNX file, to be looked at by name alone, and crops."""
    (tmp_path / "run.safetensors").write_bytes(b"weights")
    (tmp_path / "best.onnx").write_bytes(b"graph")
    (tmp_path / "crops").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    installed(monkeypatch)
    return tmp_path


def installed(monkeypatch: pytest.MonkeyPatch, *runtimes: str, gpu: bool = True) -> None:
    monkeypatch.setattr(trt, "available", lambda: list(runtimes))
    monkeypatch.setattr(request_module, "devices", lambda: [Device("A GPU", "sm86", 0)] if gpu else [])


def names(todo: ExportPlan) -> tuple[str | None, str | None]:
    return (todo.onnx.name if todo.write_onnx else None, todo.engine.name if todo.engine else None)


@pytest.mark.parametrize(
    ("request_", "runtimes", "expected", "runtime"),
    [
        # The command that the project is known by, with and without TensorRT.
        (ExportRequest(precision="fp16"), (), ("starter-fp16.onnx", None), ""),
        (
            ExportRequest(precision="fp16"),
            ("tensorrt",),
            ("starter-fp16.onnx", "starter-fp16.engine"),
            "tensorrt",
        ),
        (
            ExportRequest(precision="fp16"),
            ("tensorrt", "tensorrt-rtx"),
            ("starter-fp16.onnx", "starter-fp16.engine"),
            "tensorrt",
        ),
        (
            ExportRequest(precision="fp16", options=EngineOptions(targets=("sm86",))),
            ("tensorrt", "tensorrt-rtx"),
            ("starter-fp16.onnx", "starter-fp16.engine"),
            "tensorrt-rtx",
        ),
        (ExportRequest(), ("tensorrt-rtx",), ("starter.onnx", "starter.engine"), "tensorrt-rtx"),
        (ExportRequest(precision="fp16", engine=False), ("tensorrt",), ("starter-fp16.onnx", None), ""),
        (ExportRequest(source=Path("run.safetensors")), (), ("run.onnx", None), ""),
        (ExportRequest(source=Path("run.safetensors"), precision="fp16"), (), ("run-fp16.onnx", None), ""),
        (
            ExportRequest(
                source=Path("run.safetensors"), precision="int8", calib=Path("crops"), runtime="cpu"
            ),
            ("tensorrt",),
            ("run-int8-cpu.onnx", None),
            "",
        ),
        (
            ExportRequest(source=Path("run.safetensors"), out=Path("a.plan"), precision="fp16"),
            ("tensorrt",),
            ("a.onnx", "a.plan"),
            "tensorrt",
        ),
        # An ONNX file and no precision: the engine alone, as on the device.
        (ExportRequest(source=Path("best.onnx")), ("tensorrt",), (None, "best.engine"), "tensorrt"),
        (
            ExportRequest(source=Path("best.onnx"), out=Path("x.engine")),
            ("tensorrt",),
            (None, "x.engine"),
            "tensorrt",
        ),
        (ExportRequest(source=Path("best.onnx"), precision="fp16"), (), ("best-fp16.onnx", None), ""),
    ],
)
def test_files_that_an_export_makes(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    request_: ExportRequest,
    runtimes: tuple[str, ...],
    expected: tuple[str | None, str | None],
    runtime: str,
) -> None:
    installed(monkeypatch, *runtimes)
    if request_.source is not None:
        request_ = replace(request_, source=folder / request_.source)
    todo = plan(request_)
    assert names(todo) == expected
    assert todo.runtime == runtime
    # Beside the source, but the starter's go into this folder, not into the installed package.
    written = todo.onnx if todo.write_onnx else todo.engine
    assert written is not None
    if request_.out is None:
        where = Path() if request_.source is None else folder
        assert written.parent == where
    assert bool(todo.missing) == (not runtime and request_.engine is None and request_.runtime != "cpu")


def test_what_is_missing_is_one_line_with_the_command(folder: Path) -> None:
    told = plan(ExportRequest(precision="fp16")).missing
    assert "pip install tensorrt" in told and "--engine" in told and "\n" not in told


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (ExportRequest(source=Path("best.onnx"), precision="fp16", mask="sharp"), "--mask"),
        (ExportRequest(precision="fp16", input_form="float"), "--input"),
        (ExportRequest(precision="int8"), "--calib"),
        (ExportRequest(precision="fp16", calib=Path("crops")), "--calib"),
        (ExportRequest(max_drop=0.01), "--max-drop"),
        (ExportRequest(precision="fp16", seed=5), "--seed"),
        (ExportRequest(engine=False, out=Path("a.engine")), "--no-engine"),
        (ExportRequest(engine=True, runtime="cpu"), "--engine"),
        (ExportRequest(engine=False, options=EngineOptions(batch=(1, 2, 3))), "--batch"),
        (ExportRequest(runtime="tensorrt", options=EngineOptions(targets=("sm86",))), "--target"),
        (ExportRequest(out=Path("a.bin")), ".onnx"),
        (ExportRequest(source=Path("crops")), "best"),
    ],
)
def test_contradictions(
    folder: Path, monkeypatch: pytest.MonkeyPatch, request_: ExportRequest, told: str
) -> None:
    installed(monkeypatch, "tensorrt", "tensorrt-rtx")
    if request_.source is not None and request_.source.suffix:
        request_ = replace(request_, source=folder / request_.source)
    elif request_.source is not None:
        (folder / "best.bin").write_bytes(b"")
        request_ = replace(request_, source=folder / "best.bin")
    with pytest.raises(UsageError, match=told):
        plan(request_)
    assert not list((folder / "here").iterdir())


def test_the_missing_line_has_the_file_in_it_as_a_shell_takes_it(folder: Path) -> None:
    told = plan(ExportRequest(precision="fp16", out=folder / "two words.onnx")).missing
    assert f"san export '{folder}/two words.onnx' --engine" in told


def test_tensorrt_without_a_gpu_leaves_the_building_to_who_can(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build server."""
    installed(monkeypatch, "tensorrt", "tensorrt-rtx", gpu=False)
    assert plan(ExportRequest(precision="fp16")).runtime == "tensorrt-rtx"
    assert (
        plan(ExportRequest(precision="fp16", runtime="tensorrt")).runtime == "tensorrt"
    )  # explicit, and refused later
    installed(monkeypatch, "tensorrt", gpu=False)
    todo = plan(ExportRequest(precision="fp16"))
    assert not todo.runtime and "there is none here" in todo.missing and "--engine" in todo.missing
    assert plan(ExportRequest(precision="fp16", engine=True)).runtime == "tensorrt"


@pytest.mark.parametrize("runtime", ["auto", "tensorrt", "tensorrt-rtx"])
def test_an_engine_that_is_wanted_needs_its_runtime(
    folder: Path, monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    monkeypatch.setattr(trt, "_is_installed", lambda module: False)
    with pytest.raises(SanError, match=r"not installed.*pip install"):
        plan(ExportRequest(precision="fp16", engine=True, runtime=runtime))


def test_nothing_to_do_is_said(folder: Path) -> None:
    with pytest.raises(SanError, match="nothing to do"):
        plan(ExportRequest(source=folder / "best.onnx"))


def test_outputs_are_refused_before_anything_starts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "tensorrt")
    request_ = ExportRequest(source=folder / "run.safetensors", precision="fp16")
    for name in ("run-fp16.onnx", "run-fp16.onnx.json", "run-fp16.engine", "run-fp16.engine.json"):
        (folder / name).write_bytes(b"")
        with pytest.raises(SanError, match="--force"):
            plan(request_)
        plan(replace(request_, force=True))
        (folder / name).unlink()
    (folder / "run-fp16.engine").mkdir()
    with pytest.raises(SanError, match="is a folder"):
        plan(replace(request_, force=True))


def test_the_source_is_never_the_output(folder: Path) -> None:
    with pytest.raises(UsageError, match="the source itself"):
        plan(
            ExportRequest(source=folder / "best.onnx", out=folder / "best.onnx", precision="fp16", force=True)
        )


def test_a_source_that_is_not_there(folder: Path) -> None:
    with pytest.raises(SanError, match="does not exist"):
        plan(ExportRequest(source=folder / "none.safetensors"))
    with pytest.raises(SanError, match="is not a file"):
        plan(ExportRequest(source=folder))


def test_the_starter_is_there() -> None:
    assert STARTER.is_file()
    assert ExportRequest().gate is None and ExportRequest(gate=Gate(0.9)).gate is not None
