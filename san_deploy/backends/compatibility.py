"""Whether a model file runs on this machine, backend by backend, with the reason and what to do about it."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..artefact import Artefact
from ..errors import SanError
from ..io.extras import install
from ..io.versions import versions
from . import KINDS, cuda, trt
from .onnxruntime import CUDA, TENSORRT, OnnxRuntime, export_int8, missing_provider
from .plan import Plan, check_device, check_system, check_version


@dataclass(frozen=True)
class Compatibility:
    """Whether one backend runs a file here.

    Attributes:
        backend: a name in `backends.KINDS`.
        device: `cpu` or `cuda`, for a backend that runs the file on either; else empty.
        runs: whether it does.
        why: in words.
        do: what to do about it where it does not; empty where nothing helps.
    """

    backend: str
    device: str
    runs: bool
    why: str
    do: str = ""


def _others(suffix: str, do: str = "") -> list[Compatibility]:
    """The backends that do not take files of this ending."""
    return [
        Compatibility(name, "", False, f"it takes {' and '.join(kind.suffixes)} files", do)
        for name, kind in KINDS.items()
        if suffix not in kind.suffixes
    ]


def runs_onnx(path: Path, artefact: Artefact) -> tuple[Compatibility, ...]:
    """Compatibility of an ONNX file that was opened on the CPU.

    It is no code, so where a GPU may run it, it is opened there, too.
    """
    found = [Compatibility("onnxruntime", "cpu", True, "opened here")]
    why = cuda.probe()[1] or missing_provider(CUDA)
    try:
        if not why:
            found.append(
                Compatibility("onnxruntime", "cuda", True, f"opened here: {OnnxRuntime(path, device=0).name}")
            )
    except SanError as error:
        found.append(Compatibility("onnxruntime", "cuda", False, _in_words(error), error.do))
    else:
        if why:
            found.append(Compatibility("onnxruntime", "cuda", False, why))
    why = cuda.probe()[1] or missing_provider(TENSORRT)
    told = why or "the provider is there: running it is the proof"
    found.append(Compatibility("onnxruntime-tensorrt", "", not why, told))
    found += [_as_engine(path, artefact, runtime) for runtime in trt.MODULES]
    found += [verdict for verdict in _others(".onnx") if verdict.backend not in trt.MODULES]
    return tuple(found)


def _as_engine(path: Path, artefact: Artefact, runtime: str) -> Compatibility:
    """TensorRT runs an ONNX file as an engine that was built on this machine."""
    if artefact.calibration is not None and artefact.calibration.form == "cpu":
        return Compatibility(
            runtime,
            "",
            False,
            "its INT8 is of ONNX Runtime's form, which TensorRT refuses",
            f"export it for TensorRT: {export_int8(artefact)}",
        )
    words = ["san", "export", str(path), "--engine"]
    words += [] if runtime == "tensorrt" else ["--runtime", runtime]
    build = f"build one: {shlex.join(words)}"
    problem = loaded(runtime).problem
    if problem is not None:
        return Compatibility(
            runtime, "", False, f"it runs engines, and {problem.message}", f"{problem.do}; then {build}"
        )
    found, why = cuda.probe()
    if not found:
        return Compatibility(runtime, "", False, f"it runs engines, on an NVIDIA GPU, and {why}")
    return Compatibility(runtime, "", False, "it runs engines, not ONNX files", build)


def runs_plan(plan: Plan) -> tuple[Compatibility, ...]:
    """Compatibility of an engine. It is code, and nothing of it is executed."""
    return (*(_runs_plan(plan, runtime) for runtime in trt.MODULES), *_others(plan.path.suffix))


def _runs_plan(plan: Plan, runtime: str) -> Compatibility:
    """By the sidecar, the runtime that is installed and the GPUs: nothing of the plan is executed."""
    if runtime != plan.engine.runtime:
        return Compatibility(runtime, "", False, f"this engine is for {plan.engine.runtime}")
    refused: list[SanError] = []

    def held(check: Callable[[], object]) -> bool:
        try:
            check()
        except SanError as error:
            refused.append(error)
            return False
        return True

    held(lambda: check_system(plan))
    installed = loaded(runtime)
    if installed.problem is not None:
        refused.append(installed.problem)
    else:
        held(lambda: check_version(plan, installed.version))
    found, why = cuda.probe()
    if not found:
        refused.append(SanError(why, do="run it on a machine with an NVIDIA GPU"))
    # One GPU that fits is enough; where none does, the first says why.
    before = len(refused)
    fitting = [device for device in found if held(lambda device=device: check_device(plan, device))]  # type: ignore[misc]
    if fitting:
        del refused[before:]
    if refused:
        reasons = "; ".join(dict.fromkeys(map(_in_words, refused)))
        return Compatibility(runtime, "", False, reasons, refused[0].do)
    told = f"{installed.version} on {fitting[0]}, by its description: opening it is the proof"
    return Compatibility(runtime, "", True, told)


def _in_words(error: SanError) -> str:
    return f"{error.message}: {error.why}" if error.why else error.message


def runs_checkpoint(path: Path) -> tuple[Compatibility, ...]:
    """Compatibility of a checkpoint."""
    installed = versions("torch").get("torch")
    export = f"export it: {shlex.join(['san', 'export', str(path)])}"
    torch = Compatibility("torch", "", True, f"{installed}, which is not loaded to say so")
    if installed is None:
        torch = Compatibility("torch", "", False, "PyTorch is not installed", install("train"))
        export = f"where PyTorch is installed, {export}"
    return (torch, *_others(path.suffix, export))


@dataclass(frozen=True)
class Runtime:
    """A TensorRT as it is found here.

    Attributes:
        name: `tensorrt` or `tensorrt-rtx`.
        version: `10.16.1.11`; empty where it does not load.
        problem: why it does not; None where it does.
    """

    name: str
    version: str
    problem: SanError | None = field(default=None, compare=False)


def loaded(runtime: str) -> Runtime:
    """Load a TensorRT, or say why it does not load."""
    try:
        return Runtime(runtime, trt.version(trt.load(runtime)))
    except SanError as error:
        return Runtime(runtime, "", error)
