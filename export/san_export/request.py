"""What `san export` was asked for, and what files that makes. Decided before anything long starts."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields
from pathlib import Path

from san_deploy.artefact import mask_name, sidecar_path
from san_deploy.backends import PLANS, STARTER, trt
from san_deploy.backends.cuda import devices
from san_deploy.errors import SanError, UsageError
from san_deploy.io.atomic import refuse_existing

from .engine.builder import BuildOptions
from .verify import Gate

#: Crops that INT8 is calibrated on.
CALIBRATION_CROPS = 512


@dataclass(frozen=True)
class EngineOptions:
    """How a plan is built; see `engine.build_engine`. None is a default that nobody asked to change."""

    batch: tuple[int, int, int] | None = None
    workspace_mib: int | None = None
    timing_cache: Path | None = None
    tf32: bool | None = None
    hardware_compatibility: str | None = None
    version_compatible: bool | None = None
    targets: tuple[str, ...] = ()
    device: int | None = None

    def build_options(self, crops: Path | None = None) -> BuildOptions:
        """With the defaults where nobody asked; the plan is run on `crops`."""
        given = {item.name: getattr(self, item.name) for item in fields(self)}
        return BuildOptions(
            crops=crops, **{name: value for name, value in given.items() if value is not None}
        )

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the command line's options that were given."""
        names = {
            "--batch": self.batch,
            "--workspace": self.workspace_mib,
            "--timing-cache": self.timing_cache,
            "--tf32": self.tf32,
            "--hardware-compatibility": self.hardware_compatibility,
            "--version-compatible": self.version_compatible,
            "--target": self.targets or None,
            "--device": self.device,
        }
        return tuple(name for name, value in names.items() if value is not None)


@dataclass(frozen=True)
class ExportRequest:
    """What to export, and how.

    Attributes:
        source: a checkpoint (.safetensors), or an .onnx file of ours; None is the starter model.
        out: the ONNX file or the plan; None names it after the source.
        precision: `fp32`, `fp16` or `int8`; None keeps what an ONNX source has, and is FP32 for a checkpoint.
        rest: what INT8 leaves alone: `fp32`, or `fp16` for TensorRT.
        mask: `argmax`, `expected` or `ramp:EPS`, of a checkpoint or an FP32 ONNX file; None is argmax for the one,
            and what it has for the other.
        input_form, opset: of a checkpoint; None takes the default.
        crops: a folder of crops to check on.
        gate: what the asked precision must reach against FP32, or FP32 against PyTorch.
        runtime: that the file is for: `auto`, `tensorrt`, `tensorrt-rtx`, or `cpu`, ONNX Runtime's own form of
            INT8, which TensorRT refuses.
        engine: True wants a plan, False none, None one where TensorRT is installed or `runtime` names it.
        options: of the plan.
        calib: a folder of crops to calibrate on.
        calib_count: crops of it that are used.
        max_drop: largest loss of rank-1 and of mAP, 0..1, on the labelled crops of `calib`.
        seed: that chooses crops; None is 0.
        force: replace existing files.
    """

    source: Path | None = None
    out: Path | None = None
    precision: str | None = None
    rest: str = "fp32"
    mask: str | None = None
    input_form: str | None = None
    opset: int | None = None
    crops: Path | None = None
    gate: Gate | None = None
    runtime: str = "auto"
    engine: bool | None = None
    options: EngineOptions = EngineOptions()
    calib: Path | None = None
    calib_count: int | None = None
    max_drop: float | None = None
    seed: int | None = None
    force: bool = False


@dataclass(frozen=True)
class ExportPlan:
    """What an export will do.

    Attributes:
        source: the file to read.
        is_checkpoint: whether it is one; else it is ONNX.
        precision: to have; None keeps that of the source.
        onnx: the ONNX file to write, or, where `write_onnx` is false, the one that is there.
        write_onnx: whether it is written.
        engine: the plan to write; None for none.
        runtime: that builds it, `tensorrt` or `tensorrt-rtx`; empty without a plan.
        form: of INT8: `tensorrt` or `cpu`.
        missing: one line on what would be needed for a plan, where one would have been welcome.
    """

    source: Path
    is_checkpoint: bool
    precision: str | None
    onnx: Path
    write_onnx: bool
    engine: Path | None
    runtime: str
    form: str
    missing: str = ""


def plan(request: ExportRequest) -> ExportPlan:
    """Decide on the files, and refuse what does not fit together.

    Raises:
        UsageError: options that contradict each other.
        SanError: the source is missing, an output exists, or TensorRT is wanted and not installed.
    """
    source = STARTER if request.source is None else Path(request.source)
    if not source.is_file():
        what = "is not a file" if source.exists() else "does not exist"
        raise SanError(f"{source} {what}", do="give a checkpoint of san train, or an ONNX file of san export")
    if source.suffix not in (".safetensors", ".onnx"):
        raise UsageError(
            f"{source} is neither a checkpoint (.safetensors) nor an ONNX file", do="give what to export"
        )
    is_checkpoint = source.suffix == ".safetensors"
    _check_source_options(request, is_checkpoint)
    _check_int8(request)
    runtime, missing = _builder(request)
    # The starter lies in the installed package, where nothing of a user's is written.
    changed = request.precision is not None or request.mask is not None
    keep = not is_checkpoint and not changed and request.source is not None
    onnx, engine = _names(request, source, keep=keep)
    if keep and not runtime:
        raise SanError(
            f"{source} is an ONNX file already, and there is nothing to do to it",
            why=missing.partition(";")[0] or "neither a precision nor an engine is asked for",
            do="build an engine where TensorRT is installed; an FP32 file takes --mask, --fp16 or --int8 --calib DIR",
        )
    if not keep and onnx.exists() and source.samefile(onnx):
        raise UsageError(f"{onnx} is the source itself", do="name another output: -o FILE.onnx")
    outputs = ([] if keep else [onnx]) + ([engine] if runtime else [])
    for path in (path for output in outputs for path in (output, sidecar_path(output))):
        if path.is_dir():
            raise SanError(f"{path} is a folder", do="name another output")
        refuse_existing(path, force=request.force)
    return ExportPlan(
        source=source,
        is_checkpoint=is_checkpoint,
        precision=request.precision or ("fp32" if is_checkpoint else None),
        onnx=onnx,
        write_onnx=not keep,
        engine=engine if runtime else None,
        runtime=runtime,
        form="cpu" if request.runtime == "cpu" else "tensorrt",
        missing=missing.format(f"san export {shlex.quote(str(onnx))} --engine"),
    )


def _check_source_options(request: ExportRequest, is_checkpoint: bool) -> None:
    if request.mask is not None:
        try:
            mask_name(request.mask)
        except ValueError as error:
            raise UsageError(f"--mask: {error}") from error
    given = {"--input": request.input_form, "--opset": request.opset}
    fixed = [name for name, value in given.items() if value is not None]
    if fixed and not is_checkpoint:
        what = "the starter model ships" if request.source is None else f"{request.source} is"
        raise UsageError(
            f"{fixed[0]} does not fit: {what} as ONNX, whose graph is made already",
            do="give the checkpoint that it was exported from",
        )


def _check_int8(request: ExportRequest) -> None:
    if request.precision == "int8":
        if request.calib is None:
            raise UsageError(
                "--int8 needs crops to find its ranges on", do="give --calib DIR, a folder of your own crops"
            )
        if request.rest == "fp16" and request.runtime == "cpu":
            raise UsageError(
                "--int8 --fp16 is for TensorRT: a CPU computes the rest in FP32",
                do="leave --fp16 or --runtime cpu out",
            )
        return
    given = {
        "--calib": request.calib,
        "--calib-num": request.calib_count,
        "--max-drop": request.max_drop,
        "--seed": request.seed,
    }
    for name, value in given.items():
        if value is not None:
            raise UsageError(f"{name} is for --int8", do="add --int8, or leave it out")


def _builder(request: ExportRequest) -> tuple[str, str]:
    """The runtime that builds the plan, empty for none; and one line on what a plan would need, with a place
    for the command.
    """
    wanted = request.engine is True or (request.out is not None and request.out.suffix in PLANS)
    wanted = wanted or bool(request.options.targets)
    given = request.options.given
    if request.engine is False or request.runtime == "cpu":
        off = "--no-engine" if request.engine is False else "--runtime cpu, ONNX Runtime's form,"
        if wanted or given:
            on = "--engine" if request.engine else (given or ("an -o that names a plan",))[0]
            raise UsageError(f"{off} and {on} contradict each other", do="leave one of them out")
        return "", ""
    if request.options.targets and request.runtime == "tensorrt":
        raise UsageError(
            "--target is for TensorRT-RTX: TensorRT builds for the GPU that it runs on",
            do="leave --target out, or give --runtime tensorrt-rtx",
        )
    choices = ("tensorrt", "tensorrt-rtx") if request.runtime == "auto" else (request.runtime,)
    if request.options.targets:
        choices = ("tensorrt-rtx",)
    installed = [runtime for runtime in choices if runtime in trt.available()]
    # TensorRT builds on a GPU alone: on a build server TensorRT-RTX may do what it cannot, or nobody.
    able = [runtime for runtime in installed if runtime != "tensorrt" or devices()]
    if able or (installed and (wanted or request.runtime != "auto")):
        return (able or installed)[0], ""
    if wanted or request.runtime != "auto":
        # An explicit choice is never downgraded: this says what is missing and how to get it.
        trt.load(choices[0])
    if installed:
        return (
            "",
            "no engine was built: TensorRT builds on the GPU that it is for, and there is none here; on it: {}",
        )
    names = " nor ".join(choices)
    lacking = f"neither {names} is installed" if len(choices) > 1 else f"{names} is not installed"
    return "", (
        f"no engine was built: {lacking}; pip install tensorrt-cu12 (or -cu13; on a Jetson it comes with JetPack), "
        "then: {}"
    )


def _names(request: ExportRequest, source: Path, *, keep: bool) -> tuple[Path, Path]:
    """The ONNX file and the plan: as asked, else named after the source and lying beside it."""
    ending = PLANS[0]
    out = request.out
    if out is not None and out.suffix not in (".onnx", *PLANS):
        raise UsageError(
            f"-o {out} ends in neither .onnx nor {' nor '.join(PLANS)}", do="name the file like model.onnx"
        )
    if out is not None and out.suffix in PLANS:
        ending = out.suffix
        out = out.with_suffix(".onnx")
    if keep:
        if out is not None and request.out is not None and request.out.suffix == ".onnx":
            raise UsageError(
                f"-o {out}: nothing is changed in {source}, so no ONNX file is written",
                do="ask for --fp16 or --int8, or name the engine: -o FILE.engine",
            )
        return source, (source if request.out is None else request.out).with_suffix(ending)
    if out is None:
        folder = Path() if request.source is None else source.parent
        # A file beside the one that it was made from says what is different about it.
        other = request.mask is not None and source.suffix == ".onnx"
        suffix = f"-{mask_name(request.mask).replace(':', '-')}" if other and request.mask else ""
        suffix += "" if request.precision in (None, "fp32") else f"-{request.precision}"
        if request.precision == "int8":
            suffix += "-cpu" if request.runtime == "cpu" else "-fp16" if request.rest == "fp16" else ""
        out = folder / f"{source.stem}{suffix}.onnx"
    return out, out.with_suffix(ending)
