"""Engines of TensorRT-RTX, which builds without a GPU, and of simulated TensorRT 10.3, 10.16 and 11.4."""

from __future__ import annotations

import json
import re
import resource
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import pytest
from san_export.engine import build as module
from san_export.engine import builder as engine_build
from san_export.engine import target as engine_target
from san_export.engine.builder import BuildOptions, known_targets
from san_export.engine.progress import Phases
from san_export.graph.precision_stats import count_operands
from san_export.verify import BatchFigures, Gate, Parity

from san_deploy.artefact import Artefact, PrecisionStats, read_sidecar, sha256_file
from san_deploy.backends import STARTER, cuda, trt
from san_deploy.backends.cuda import Device
from san_deploy.backends.onnxruntime import OnnxRuntime
from san_deploy.errors import GateError, SanError, UsageError
from tests.fakes.cuda import FakeCudart
from tests.fakes.tensorrt import MAGIC, FakeTensorRT, ParserError
from tests.san_export.product_models import product_model
from tests.san_export.test_trt_names import NEW, NEXT, OLD, VERSIONS

T4 = Device("NVIDIA T4", "sm75", 0)
RAN = Parity("the ONNX file", 48, "sample crops", (BatchFigures(1, 1.0, 1.0, 1.0, 0.0, 1.0),), 1.0, ())
ORIN = Device("Orin", "sm87", 0)


@pytest.fixture
def rtx() -> Any:
    """The installed TensorRT-RTX."""
    return pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed", exc_type=ImportError)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without a GPU, wherever this runs."""
    monkeypatch.setattr(engine_target, "devices", list)
    monkeypatch.setattr(engine_target, "probe", lambda: ([], "no NVIDIA driver is installed"))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeTensorRT]:
    """`fake("10.3.0", T4)`: that TensorRT and that GPU are here."""

    def install(version: str = "10.16.1", *devices: Device) -> FakeTensorRT:
        found = list(devices) or [T4]
        cudart = FakeCudart(
            devices=tuple(device.sm for device in found), names=tuple(device.name for device in found)
        )
        made = FakeTensorRT(cudart, version=version)
        monkeypatch.setitem(sys.modules, "tensorrt", made)
        monkeypatch.setattr(trt, "_loggers", {})
        runtime = cuda.Cuda(cudart, "fake")
        monkeypatch.setattr(cuda, "load", lambda: runtime)
        return made

    return install


def inspection(kind: str, *, schema: int = 10) -> str:
    """As the inspector tells of an engine of one convolution."""
    told = {"Format/Datatype": kind} if schema == 10 else {"Format": "linear", "DataType": kind}
    layer = {
        "Name": "conv",
        "LayerType": "CaskConvolution",
        "Inputs": [told],
        "Weights": {"Type": kind, "Count": 9},
    }
    return json.dumps({"Layers": [layer]} | ({"Bindings": []} if schema == 10 else {"I/O Tensors": []}))


def build_engine(onnx: Path, out: Path, *, runtime: str, **given: Any) -> Artefact:
    """`build.build_engine`, with the options of the build among the arguments."""
    own = {name: given.pop(name) for name in ("force", "report", "progress") if name in given}
    return module.build_engine(onnx, out, runtime=runtime, options=BuildOptions(**given), **own)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def bar(total: int, label: str, unit: str) -> Iterator[Callable[[int], None]]:
    """A progress bar that shows nothing."""
    yield lambda count: None


# TensorRT-RTX


def test_the_starter_becomes_an_engine(rtx: Any, no_gpu: None, tmp_path: Path) -> None:
    out, lines, told = tmp_path / "new" / "starter.engine", [], []

    @contextmanager
    def progress(total: int, label: str, unit: str) -> Iterator[Callable[[int], None]]:
        assert (total, label, unit) == (100, "building", "%")
        yield told.append
        told.append(0)

    written = build_engine(STARTER, out, runtime="tensorrt-rtx", report=lines.append, progress=progress)
    assert names(out.parent) == ["starter.engine", "starter.engine.json"]
    assert read_sidecar(out) == written and written.sha256 == sha256_file(out)
    engine = written.engine
    assert engine is not None
    assert (engine.runtime, engine.version) == ("tensorrt-rtx", rtx.__version__)
    assert engine.gpu == "" and engine.batch == (1, 16, 64) and engine.onnx_sha256 == sha256_file(STARTER)
    assert engine.onnx == "starter.onnx"
    assert not engine.tf32 and engine.hardware_compatibility == "none" and not engine.version_compatible
    assert written.versions["tensorrt-rtx"] == rtx.__version__
    # What it embeds is what the ONNX file says.
    source = OnnxRuntime(STARTER, threads=1).artefact
    for field in ("arch", "embedding_dim", "size_hw", "input", "mask", "precision", "threshold"):
        assert getattr(written, field) == getattr(source, field)
    # The ONNX file's checks are the ONNX file's: this plan never ran.
    assert written.checks["engine"]["run"] is False and "no GPU" in written.checks["engine"]["why"]
    assert "the engine was not run" in lines[-1]
    # As many as there are in the ONNX file, counted by other means there.
    counted = count_operands(onnx.load(STARTER))
    assert written.operands == PrecisionStats(counted.count, 1.0, 0.0, 0.0, "network")
    # All but Turing, which NVIDIA advises to build for alone.
    assert engine.sm == tuple(sm for sm in known_targets(rtx) if sm != "sm75") and "sm86" in engine.sm
    text = "\n".join(lines)
    assert "no GPU here and none named: built for sm80, sm86" in text and "FP32 in full" in text
    assert "FP32 100%" in text and "cannot be asked without a GPU" in text and "1 to 64 crops per run" in text
    assert sum(told) == 100 and told[-1] == 0
    # A plan as TensorRT wrote it: its own magic first.
    assert out.read_bytes()[1:4] == b"trt"


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("input", ["uint8", "float"])
def test_precision_is_counted_as_in_the_onnx_file(
    rtx: Any, no_gpu: None, tmp_path: Path, precision: str, input: str
) -> None:
    path = product_model(tmp_path / "model.onnx", precision=precision, input=input)
    out = tmp_path / "model.plan"
    written = build_engine(
        path, out, runtime="tensorrt-rtx", targets=["sm86", "sm120", "sm86"], batch=(2, 2, 2)
    )
    assert written.engine is not None
    assert written.engine.sm == ("sm86", "sm120") and written.engine.batch == (2, 2, 2)
    counted = count_operands(onnx.load(path))
    assert written.operands == PrecisionStats(
        counted.count, counted.fp32, counted.fp16, counted.int8, "network"
    )
    share = {"fp32": 1.0, "fp16": 1.0, "int8": 0.5}[precision]
    assert getattr(counted, precision) == share and counted.count == 8


@pytest.mark.parametrize("told", ["fp16", "int8"])
def test_a_file_that_is_fp32_in_truth_is_no_engine(rtx: Any, no_gpu: None, tmp_path: Path, told: str) -> None:
    path = product_model(tmp_path / "model.onnx", told=told)
    message = f"{told.upper()} was asked for, and the network that TensorRT parsed has it in 0%"
    with pytest.raises(GateError, match=message):
        build_engine(path, tmp_path / "model.engine", runtime="tensorrt-rtx")
    assert names(tmp_path) == ["model.onnx"]


def test_options_reach_tensorrt_rtx(rtx: Any, no_gpu: None, tmp_path: Path) -> None:
    path, out = product_model(tmp_path / "model.onnx"), tmp_path / "model.engine"
    written = build_engine(
        path, out, runtime="tensorrt-rtx", targets=["sm89"], tf32=True, workspace_mib=64, optimization_level=0
    )
    assert written.engine is not None and written.engine.tf32
    with pytest.raises(UsageError, match="has no optimization level 9"):
        build_engine(path, out, runtime="tensorrt-rtx", optimization_level=9, force=True)
    assert sha256_file(out) == written.sha256


def test_all_targets_that_this_version_names_are_known(rtx: Any) -> None:
    # From the enumeration, in the order of numbers, without NONE and CURRENT.
    named = [name for name in dir(rtx.ComputeCapability) if name.startswith("SM")]
    assert sorted(known_targets(rtx)) == sorted(name.lower() for name in named)
    assert known_targets(rtx).index("sm89") < known_targets(rtx).index("sm120")


def test_an_unknown_target_is_refused_with_what_is_known(rtx: Any, no_gpu: None, tmp_path: Path) -> None:
    path = product_model(tmp_path / "model.onnx")
    for target in ("sm42", "SM86", "current", "none", ""):
        with pytest.raises(
            UsageError, match=r"knows no target '.*'\. It knows sm75, sm80, sm86, sm89, sm120"
        ):
            build_engine(path, tmp_path / "model.engine", runtime="tensorrt-rtx", targets=["sm86", target])
    assert names(tmp_path) == ["model.onnx"]


def test_the_gpu_that_is_here_is_the_target(
    rtx: Any, no_gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = product_model(tmp_path / "model.onnx"), tmp_path / "model.engine"
    here = [Device("NVIDIA RTX A2000", "sm86", 0), Device("NVIDIA L4", "sm89", 1)]
    monkeypatch.setattr(engine_target, "devices", lambda: here)
    monkeypatch.setattr(module, "_current", lambda target: lambda: None)
    monkeypatch.setattr(module, "run_plan", lambda *_, **__: (RAN, Gate(0.999)))
    monkeypatch.setattr(
        module, "count_in_engine", lambda *_, **__: PrecisionStats(8, 1.0, 0.0, 0.0, "engine")
    )
    written = build_engine(path, out, runtime="tensorrt-rtx")
    assert written.engine is not None and written.operands is not None
    assert written.engine.sm == ("sm86", "sm89") and written.engine.gpu == "NVIDIA RTX A2000"
    assert written.operands.source == "engine"
    # An engine for others is not loaded here.
    written = build_engine(path, out, runtime="tensorrt-rtx", targets=["sm120"], force=True)
    assert written.engine is not None and written.operands is not None
    assert written.engine.gpu == "" and written.operands.source == "network"
    monkeypatch.setattr(engine_target, "devices", lambda: [Device("NVIDIA H100", "sm90", 0)])
    with pytest.raises(SanError, match=r"does not build for the GPU that is here \(sm90\)"):
        build_engine(path, out, runtime="tensorrt-rtx", force=True)


def test_an_engine_that_does_not_load_where_it_should_is_not_written(
    rtx: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if any(device.sm == "sm75" for device in cuda.devices()):
        pytest.skip("a GPU of that kind is here")
    monkeypatch.setattr(engine_target, "devices", lambda: [T4])
    monkeypatch.setattr(module, "_current", lambda target: lambda: None)
    path = product_model(tmp_path / "model.onnx", precision="fp16")
    with pytest.raises(SanError, match="was built, but does not load on this GPU") as caught:
        build_engine(path, tmp_path / "model.engine", runtime="tensorrt-rtx")
    # TensorRT's own words.
    assert "Error Code" in str(caught.value) and names(tmp_path) == ["model.onnx"]


def test_the_parsers_errors_are_told_as_they_are(rtx: Any, no_gpu: None, tmp_path: Path) -> None:
    path = product_model(tmp_path / "model.onnx", precision="int8", int32_bias=True)
    with pytest.raises(SanError, match=r"cannot parse .*model\.onnx") as caught:
        build_engine(path, tmp_path / "model.engine", runtime="tensorrt-rtx")
    told = str(caught.value)
    assert "input has type Int32" in told and "DequantizeLinear;" in told and "ModelImporter.cpp:" in told
    assert "\n" not in told and names(tmp_path) == ["model.onnx"]


def test_the_builders_error_is_told_as_it_is(rtx: Any, no_gpu: None, tmp_path: Path) -> None:
    path = product_model(tmp_path / "model.onnx")
    # FP32 matrix products are not for Turing in TensorRT-RTX.
    with pytest.raises(SanError, match=r"cannot build an engine of .*FP32 GEMM is not supported") as caught:
        build_engine(path, tmp_path / "model.engine", runtime="tensorrt-rtx", targets=["sm75"])
    assert "\n" not in str(caught.value) and names(tmp_path) == ["model.onnx"]


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda data: b"no onnx file at all", "cannot be opened"),
        (lambda data: data[: len(data) // 2], "cannot be opened"),
        (lambda data: b"", "is empty"),
        (
            lambda data: data.replace(b"san.schema_version", b"xyz.schema_version"),
            "not written by san export",
        ),
    ],
)
def test_a_damaged_file_is_refused(
    rtx: Any, no_gpu: None, tmp_path: Path, damage: Callable[[bytes], bytes], message: str
) -> None:
    path = product_model(tmp_path / "model.onnx")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(SanError, match=message) as caught:
        build_engine(path, tmp_path / "model.engine", runtime="tensorrt-rtx")
    assert "\n" not in str(caught.value) and names(tmp_path) == ["model.onnx"]


def test_ctrl_c_stops_tensorrt_and_leaves_nothing(
    rtx: Any, no_gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, told, lines = [], [], []

    class Watched(Phases):
        def step(self, name: str, step: int) -> bool:
            steps.append(super().step(name, step))
            return steps[-1]

    @contextmanager
    def progress(total: int, label: str, unit: str) -> Iterator[Callable[[int], None]]:
        def advance(count: int) -> None:
            told.append(count)
            if len(told) == 1:
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

        yield advance

    monkeypatch.setattr(engine_build, "Phases", Watched)
    with pytest.raises(KeyboardInterrupt):
        build_engine(
            STARTER, tmp_path / "a.engine", runtime="tensorrt-rtx", report=lines.append, progress=progress
        )
    # The first no was the last step that it made, of about 180.
    assert steps[-1] is False and steps.count(False) == 1
    assert sum(told) < 100 and names(tmp_path) == []
    assert lines[-1] == "stopping TensorRT at its next step"


def test_a_disk_that_is_full_is_told_before_the_build(
    rtx: Any, no_gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = product_model(tmp_path / "model.onnx")
    usage = shutil.disk_usage(tmp_path)._replace(free=path.stat().st_size - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    monkeypatch.setattr(module, "build_plan", lambda *_, **__: pytest.fail("the build began"))
    with pytest.raises(SanError, match="0 MB are free"):
        build_engine(path, tmp_path / "model.engine", runtime="tensorrt-rtx")
    assert names(tmp_path) == ["model.onnx"]


def test_a_disk_that_gets_full_leaves_the_old_engine(rtx: Any, no_gpu: None, tmp_path: Path) -> None:
    path, out = product_model(tmp_path / "model.onnx"), tmp_path / "model.engine"
    old = build_engine(path, out, runtime="tensorrt-rtx", targets=["sm86"])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Half of the plan can be written.
    resource.setrlimit(resource.RLIMIT_FSIZE, (out.stat().st_size // 2, before[1]))
    try:
        with pytest.raises(SanError, match=r"cannot write .*model\.engine: File too large"):
            build_engine(path, out, runtime="tensorrt-rtx", targets=["sm86"], force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == ["model.engine", "model.engine.json", "model.onnx"]
    assert sha256_file(out) == old.sha256 and read_sidecar(out) == old


# Refusals that need no TensorRT


def refused(tmp_path: Path, out: str = "model.engine", **options: Any) -> SanError:
    with pytest.raises(SanError) as caught:
        build_engine(tmp_path / "model.onnx", tmp_path / out, **({"runtime": "tensorrt"} | options))
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch": (0, 1, 2)}, "crops per run of 0, 1, 2 are no profile"),
        ({"batch": (4, 2, 8)}, "are no profile"),
        ({"batch": (1, 16, 8)}, "are no profile"),
        ({"batch": (1, 16, 4097)}, "from 1 to 4096"),
        ({"workspace_mib": 0}, "a workspace of 0 MiB"),
        ({"workspace_mib": 1 << 43}, f"a workspace of {1 << 43} MiB is none. Give 1 to 1048576"),
        ({"hardware_compatibility": "hopper"}, "choose among none, same-sm, ampere+"),
        ({"targets": ["sm86"]}, r"targets (sm86) are of TensorRT-RTX"),
        ({"runtime": "tensorrt-rtx", "timing_cache": Path("a.cache")}, "does not fit TensorRT-RTX"),
        ({"runtime": "tensorrt-rtx", "hardware_compatibility": "same-sm"}, "not of TensorRT-RTX"),
        ({"runtime": "tensorrt-rtx", "version_compatible": True}, "not of TensorRT-RTX"),
        ({"runtime": "trt"}, "'trt' is no TensorRT"),
        ({"out": "model.onnx"}, "does not end in .engine or .plan"),
    ],
)
def test_what_does_not_fit_is_wrong_usage(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    error = refused(tmp_path, **options)
    assert isinstance(error, UsageError) and message.lower() in str(error).lower()


@pytest.mark.parametrize("name", ["model.engine", "model.engine.json"])
def test_existing_files_are_kept(
    rtx: Any, no_gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = product_model(tmp_path / "model.onnx")
    (tmp_path / name).write_text("old")
    error = refused(tmp_path, runtime="tensorrt-rtx", targets=["sm86"])
    assert f"{name} exists" in str(error) and (tmp_path / name).read_text() == "old"
    written = build_engine(
        path, tmp_path / "model.engine", runtime="tensorrt-rtx", targets=["sm86"], force=True
    )
    assert read_sidecar(tmp_path / "model.engine") == written


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "is no folder that can be written" in str(refused(tmp_path, "file/model.engine"))
    (tmp_path / "folder.engine").mkdir()
    for force in (False, True):
        assert "is a folder" in str(refused(tmp_path, "folder.engine", force=force))
    cache = tmp_path / "file" / "timings"
    assert "is no folder that can be written" in str(refused(tmp_path, timing_cache=cache))


def test_without_tensorrt_the_way_to_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt, "_is_installed", lambda module: False)
    assert "pip install '.[tensorrt-cu12]'" in str(refused(tmp_path))


# TensorRT 10 and 11, simulated


@pytest.mark.parametrize("version, listed", [("10.3.0", OLD), ("10.16.1", NEW), ("11.4.0", NEXT)])
def test_the_simulation_has_no_name_that_tensorrt_has_not(version: str, listed: str) -> None:
    known, made = VERSIONS[listed], FakeTensorRT(version=version)
    kinds = {name: kind for name, kind in vars(made).items() if isinstance(kind, type)}
    assert {"Builder", "BuilderFlag", "ICudaEngine", "ITimingCache", "ParserError"} <= set(kinds) <= known[""]
    for name, kind in kinds.items():
        members = getattr(kind, "__members__", None) or vars(kind)
        public = {member for member in members if not member.startswith("_")}
        if name == "IExecutionContext":
            public.discard("shape")  # what a test looks at
        if name == "IOptimizationProfile":
            public.discard("shapes")
        assert public <= known[name], name


@pytest.mark.parametrize("version, schema", [("10.3.0", 10), ("10.16.1", 10), ("11.4.0", 11)])
def test_one_path_for_tensorrt_10_and_11(
    fake: Callable[..., FakeTensorRT], tmp_path: Path, version: str, schema: int
) -> None:
    made, lines = fake(version, ORIN, T4), []
    made.inspection = inspection("Half", schema=schema)
    path, out = product_model(tmp_path / "model.onnx", precision="fp16"), tmp_path / "model.engine"
    written = build_engine(path, out, runtime="tensorrt", batch=(1, 8, 32), report=lines.append)
    assert out.read_bytes().startswith(MAGIC) and read_sidecar(out) == written
    assert written.operands == PrecisionStats(2, 0.0, 1.0, 0.0, "engine")
    engine = written.engine
    assert engine is not None and (engine.gpu, engine.sm, engine.version) == ("Orin", ("sm87",), version)
    # The flag's number differs.
    assert made.network.flags == (1 if version == "11.4.0" else 2), "the network is not strongly typed"
    config = made.config
    assert not config.get_flag(made.BuilderFlag.TF32) and not config.get_flag(
        made.BuilderFlag.VERSION_COMPATIBLE
    )
    assert config.profiling_verbosity is made.ProfilingVerbosity.DETAILED
    assert config._profiles[0].shapes == {"crops": ((1, 16, 8, 3), (8, 16, 8, 3), (32, 16, 8, 3))}
    assert config.hardware_compatibility_level is made.HardwareCompatibilityLevel.NONE and not config._pools
    assert "Orin (sm87)" in lines[0] and "by the engine's own word" in lines[-2]
    # It was run, at the profile's three batches, on the memory of the GPU that it is for.
    assert "running the engine on 48 sample crops against model.onnx, at batches of 1, 8, 32" in lines[-1]
    ran = written.checks["engine"]
    assert set(ran["min_cosine"]) == {"1", "8", "32"} and min(ran["min_cosine"].values()) > 0.999999
    assert ran["gate"] == {"min_cosine": 0.999} and set(written.checks) == {"engine"}
    assert made.engine.runs > 3 and not made.cudart.alive()


@pytest.mark.parametrize(
    "misbehave, message",
    [
        ({"noise": 0.5}, r"the ONNX file in ONNX Runtime has a minimum row cosine of 0\.\d+ at batch"),
        ({"scale": 2.0}, "norm"),
        ({"fail_after": 2}, "TensorRT refused to run"),
        ({"batch": [1, 16, 32]}, "does not fit its own description"),
    ],
)
def test_an_engine_that_does_not_embed_as_its_file_does_is_not_written(
    fake: Callable[..., FakeTensorRT], tmp_path: Path, misbehave: dict[str, Any], message: str
) -> None:
    made = fake()
    made.inspection, made.misbehave = inspection("Float"), misbehave
    product_model(tmp_path / "model.onnx")
    error = refused(tmp_path)
    assert re.search(message, str(error)), error
    assert isinstance(error, GateError) == ("noise" in misbehave)
    assert names(tmp_path) == ["model.onnx"]


def test_the_gpu_that_was_asked_for_builds_and_runs(
    fake: Callable[..., FakeTensorRT], tmp_path: Path
) -> None:
    made = fake("10.16.1", T4, ORIN)
    made.inspection = inspection("Float")
    path = product_model(tmp_path / "model.onnx")
    written = build_engine(path, tmp_path / "a.engine", runtime="tensorrt", device=1)
    assert written.engine is not None and (written.engine.gpu, written.engine.sm) == ("Orin", ("sm87",))
    assert made.built_on == 1 and "min_cosine" in written.checks["engine"]
    assert "there is no GPU cuda:2. Found: cuda:0 NVIDIA T4 (sm75), cuda:1 Orin (sm87)" in str(
        refused(tmp_path, device=2)
    )


def test_options_reach_tensorrt(fake: Callable[..., FakeTensorRT], tmp_path: Path) -> None:
    made, lines = fake("11.4.0"), []
    made.inspection = inspection("Float", schema=11)
    written = build_engine(
        product_model(tmp_path / "model.onnx"),
        tmp_path / "model.engine",
        runtime="tensorrt",
        workspace_mib=512,
        tf32=True,
        hardware_compatibility="same-sm",
        version_compatible=True,
        optimization_level=5,
        report=lines.append,
    )
    config = made.config
    assert config.get_flag(made.BuilderFlag.TF32) and config.get_flag(made.BuilderFlag.VERSION_COMPATIBLE)
    assert (
        config._pools == {made.MemoryPoolType.WORKSPACE: 512 << 20} and config.builder_optimization_level == 5
    )
    assert config.hardware_compatibility_level is made.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY
    engine = written.engine
    assert engine is not None and engine.tf32 and engine.version_compatible
    assert engine.hardware_compatibility == "same-sm"
    assert "FP32 in TF32; hardware compatibility same-sm; for later versions too, with host code" in lines[0]


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"hardware_compatibility": "same-sm"},
            "tensorrt 10.3.0 has no hardware compatibility 'same-sm'. Choose among none, ampere+",
        ),
        ({"workspace_mib": 1 << 20}, "refuses a workspace of 1048576 MiB"),
        ({"optimization_level": 6}, "has no optimization level 6"),
        ({"optimization_level": -1}, "has no optimization level -1"),
    ],
)
def test_what_this_version_has_not_is_wrong_usage(
    fake: Callable[..., FakeTensorRT], tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    fake("10.3.0")
    product_model(tmp_path / "model.onnx")
    error = refused(tmp_path, **options)
    assert isinstance(error, UsageError) and message in str(error)
    assert names(tmp_path) == ["model.onnx"]


@pytest.mark.parametrize("told", ["Float", "Int8"])
def test_an_engine_of_another_precision_is_not_written(
    fake: Callable[..., FakeTensorRT], tmp_path: Path, told: str
) -> None:
    # TensorRT exits well and the network is FP16: only a look at the engine tells.
    fake("10.16.1").inspection = inspection(told)
    product_model(tmp_path / "model.onnx", precision="fp16")
    error = refused(tmp_path)
    assert isinstance(error, GateError) and "FP16 was asked for, and the engine has it in 0%" in str(error)
    assert "model.onnx in 100%" in str(error) and names(tmp_path) == ["model.onnx"]


def test_a_faster_precision_than_asked_for_is_not_written_either(
    fake: Callable[..., FakeTensorRT], tmp_path: Path
) -> None:
    fake("10.16.1").inspection = inspection("Half")
    product_model(tmp_path / "model.onnx")
    error = refused(tmp_path)
    assert isinstance(error, GateError) and "FP32 was asked for, and the engine has it in 0%" in str(error)


def test_an_inspector_that_says_nothing_leaves_the_networks_word(
    fake: Callable[..., FakeTensorRT], tmp_path: Path
) -> None:
    made, lines = fake("10.3.0"), []
    made.inspection = json.dumps({"Layers": ["conv", "conv_1"], "Bindings": []})
    path = product_model(tmp_path / "model.onnx", precision="fp16")
    written = build_engine(path, tmp_path / "model.engine", runtime="tensorrt", report=lines.append)
    # The simulation's parser knows Conv and MatMul.
    assert written.operands == PrecisionStats(4, 0.0, 1.0, 0.0, "network")
    assert "in the typed network; the engine itself does not say" in lines[-2]


def test_weak_typing_is_refused(fake: Callable[..., FakeTensorRT], tmp_path: Path) -> None:
    made = fake("10.3.0")
    del made.NetworkDefinitionCreationFlag
    made.NetworkDefinitionCreationFlag = type("Flags", (), {"EXPLICIT_BATCH": 0})
    product_model(tmp_path / "model.onnx")
    assert "has no strongly typed networks" in str(refused(tmp_path)) and names(tmp_path) == ["model.onnx"]


def test_typing_that_cannot_be_weak_needs_no_flag(fake: Callable[..., FakeTensorRT], tmp_path: Path) -> None:
    made = fake("11.4.0")
    made.inspection = inspection("Float")
    made.NetworkDefinitionCreationFlag = type("Flags", (), {})
    build_engine(product_model(tmp_path / "model.onnx"), tmp_path / "model.engine", runtime="tensorrt")
    assert made.network.flags == 0


@pytest.mark.parametrize(
    "broken, message",
    [
        ("starts", "tensorrt 10.16.1 does not start. CUDA initialization failure with error: 35"),
        ("builds", "cannot build an engine of {path}. Error Code 10: Internal Error (Could not find any"),
        (
            "loads",
            "was built, but does not load on this GPU. Error Code 1: Internal Error (the plan is no good",
        ),
    ],
)
def test_tensorrts_failures_are_told_in_its_words(
    fake: Callable[..., FakeTensorRT], tmp_path: Path, broken: str, message: str
) -> None:
    setattr(fake(), broken, False)
    path = product_model(tmp_path / "model.onnx")
    assert message.format(path=path) in str(refused(tmp_path)) and names(tmp_path) == ["model.onnx"]


def test_all_of_the_parsers_errors_are_told(fake: Callable[..., FakeTensorRT], tmp_path: Path) -> None:
    made = fake()
    path = product_model(tmp_path / "model.onnx")
    made.OnnxParser = type("Refuses", (made.OnnxParser,), {"parse": _refuse})
    told = str(refused(tmp_path))
    assert told.count("Assertion failed: no good (node 7 /conv Conv; Importer.cpp:118)") == 2
    assert str(path) in told


def _refuse(parser: Any, model: bytes) -> bool:
    parser._errors = [ParserError(), ParserError()]
    return False


def test_tensorrt_needs_the_gpu(
    fake: Callable[..., FakeTensorRT], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake()
    monkeypatch.setattr(engine_target, "probe", lambda: ([], "no NVIDIA driver is installed"))
    product_model(tmp_path / "model.onnx")
    told = str(refused(tmp_path))
    assert "finds none here. No NVIDIA driver is installed. Run this on the device" in told


def test_timings_are_read_and_written(fake: Callable[..., FakeTensorRT], tmp_path: Path) -> None:
    made, lines = fake(), []
    made.inspection = inspection("Float")
    path, cache = product_model(tmp_path / "model.onnx"), tmp_path / "cache" / "timings"

    def build() -> Artefact:
        lines.clear()
        return build_engine(
            path,
            tmp_path / "model.engine",
            runtime="tensorrt",
            timing_cache=cache,
            report=lines.append,
            force=True,
        )

    build()
    assert cache.read_bytes() == b"timings of T4|built now" and f"timing cache {cache}: new" in lines
    cache.write_bytes(b"timings of T4|of before")
    build()
    assert cache.read_bytes() == b"timings of T4|built now|of before" and names(cache.parent) == ["timings"]
    assert [line for line in lines if "read" in line] and [line for line in lines if "written" in line]

    def another() -> None:
        cache.write_bytes(b"timings of T4|by another build|of before")

    made.during = another
    build()
    assert cache.read_bytes() == b"timings of T4|built now|by another build|of before"
    # A failed build took its time, too.
    made.during, made.builds = lambda: None, False
    cache.write_bytes(b"timings of T4")
    with pytest.raises(SanError, match="Could not find any"):
        build()
    assert cache.read_bytes() == b"timings of T4|built now"


@pytest.mark.parametrize("content", [b"timings of Orin|x", b"something else"])
def test_timings_of_another_gpu_are_refused(
    fake: Callable[..., FakeTensorRT], tmp_path: Path, content: bytes
) -> None:
    fake()
    product_model(tmp_path / "model.onnx")
    cache = tmp_path / "timings"
    cache.write_bytes(content)
    assert "is damaged, or of another GPU or TensorRT" in str(refused(tmp_path, timing_cache=cache))
    assert cache.read_bytes() == content and names(tmp_path) == ["model.onnx", "timings"]


def test_timings_that_cannot_be_written_cost_no_engine(
    fake: Callable[..., FakeTensorRT], tmp_path: Path
) -> None:
    made, lines = fake(), []
    made.inspection = inspection("Float")
    path, cache = product_model(tmp_path / "model.onnx"), tmp_path / "timings"
    # Meanwhile another machine wrote it.
    made.during = lambda: cache.write_bytes(b"timings of Orin|x")
    build_engine(path, tmp_path / "model.engine", runtime="tensorrt", timing_cache=cache, report=lines.append)
    assert any("the timing cache was not written" in line and "another GPU" in line for line in lines)
    assert cache.read_bytes() == b"timings of Orin|x" and (tmp_path / "model.engine").exists()


def test_ctrl_c_stops_tensorrt_at_its_next_step(fake: Callable[..., FakeTensorRT], tmp_path: Path) -> None:
    made, steps, lines = fake(), [], []
    reached = threading.Event()

    def during() -> None:
        steps.append("step")
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        assert reached.wait(10)

    def report(line: str) -> None:
        lines.append(line)
        if line.startswith("stopping"):
            reached.set()

    made.during = during
    path = product_model(tmp_path / "model.onnx")
    with pytest.raises(KeyboardInterrupt):
        build_engine(path, tmp_path / "model.engine", runtime="tensorrt", report=report, progress=bar)
    assert len(steps) <= 2 and names(tmp_path) == ["model.onnx"]


def test_neither_torch_nor_onnx_is_needed() -> None:
    import subprocess

    code = (
        "import sys\n"
        "import san_export.engine.build\n"
        "print([name for name in ('torch', 'onnx', 'tensorrt', 'tensorrt_rtx') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
