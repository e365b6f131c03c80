"""From an ONNX file of ours to a TensorRT plan whose precision was looked at. Needs neither PyTorch nor onnx."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from san_deploy.artefact import (
    MAX_BATCH,
    Artefact,
    Engine,
    PrecisionStats,
    is_onnx_name,
    sha256_file,
    sidecar_path,
    write_sidecar,
)
from san_deploy.backends import PLANS
from san_deploy.backends import cuda as cuda_runtime
from san_deploy.backends.onnxruntime import OnnxRuntime
from san_deploy.backends.plan import system
from san_deploy.backends.trt import load, version
from san_deploy.errors import GateError, SanError, UsageError
from san_deploy.io.atomic import atomic_pair, refuse_existing

from .builder import LEVELS, BuildOptions, Built, Progress, Report, build_plan
from .inspect import count_in_engine
from .target import Target, choose_target
from .trial import run_plan

#: 1 TiB, more than any GPU has; TensorRT's own numbers end at 2^64 bytes.
MAX_WORKSPACE_MIB = 1 << 20
#: Why a plan was not run.
_NOT_RUN = "no GPU that it is for was there where it was built; the first load on a device checks it there"
#: How much the share of operands in the asked precision may be below the ONNX file's own. TensorRT parses node by
#: node. In an engine several products may have become one layer, which shifts shares; what must be caught is an
#: engine in another precision, whose share is near 0.
TOLERANCE = {"network": 0.02, "engine": 0.2}


def build_engine(
    onnx: Path,
    out: Path,
    *,
    runtime: str,
    options: BuildOptions | None = None,
    force: bool = False,
    report: Report = lambda line: None,
    progress: Progress | None = None,
) -> Artefact:
    """Build a TensorRT plan, look at its precision, run it, and write it with its description beside it.

    The precision is that of the ONNX file: the network is strongly typed. The plan is written as TensorRT gives
    it, so that other tools read it. It gets its name when its precision is what the file promises and, where a
    GPU that it is for is here, when it embeds as the file does.

    Args:
        onnx: written by `san export`.
        out: ends in .engine or .plan.
        runtime: `tensorrt`, which builds for a GPU that is here, or `tensorrt-rtx`, which needs none.
        options: of the build; None takes all defaults.
        force: replace existing files.
        report: takes one line for each step.
        progress: `san_deploy.io.progress.bar` or the like.

    Returns:
        What is written beside the plan: the ONNX file's description, with `engine`, `operands`, `checks` and
        `sha256` of the plan.

    Raises:
        UsageError: options that do not fit together, the runtime or its version.
        SanError: TensorRT is not there, refuses the file, or `out` cannot be written.
        GateError: the plan is of another precision than the file, or does not embed alike.
    """
    onnx, out, options = Path(onnx), Path(out), options or BuildOptions()
    _check_options(runtime, options)
    _check_outputs(out, options.timing_cache, force=force)
    trt = load(runtime)
    artefact, data = _read(onnx)
    target = choose_target(trt, runtime, options.targets, report, index=options.device)
    # Entered before the long part, so that a folder that cannot be written is refused at once.
    with atomic_pair(out, sidecar_path, force=force) as temporary:
        _refuse_full(out, len(data))
        report(_headline(trt, runtime, options, target))
        built = build_plan(
            trt,
            data,
            onnx,
            options,
            targets=target.sm if target.ahead else (),
            on=_current(target),
            check=lambda operands: _judge(artefact, operands, onnx),
            report=report,
            progress=progress,
        )
        operands = _operands(trt, built, options, target, report)
        _judge(artefact, operands, onnx)
        with temporary.open("wb") as file:
            file.write(built.plan)
        described = replace(
            artefact,
            operands=operands,
            engine=_engine(trt, runtime, artefact, onnx, options, target),
            versions={**artefact.versions, runtime: version(trt)},
            checks={"engine": {"run": False, "why": _NOT_RUN}},
            sha256=sha256_file(temporary),
        )
        write_sidecar(described, temporary)
        if target.device is not None:
            # The ONNX file's own checks are in its description; they say nothing of a plan.
            parity, gate = run_plan(temporary, onnx, options, trt=trt, report=report)
            described = replace(described, checks={"engine": {**parity.as_dict(), "gate": gate.as_dict()}})
            write_sidecar(described, temporary)
        else:
            report(f"the engine was not run: {_NOT_RUN}")
    return described


def check_engine(runtime: str, options: BuildOptions) -> None:
    """Refuse what `build_engine` would refuse before it looks at the file; to be asked before anything long.

    Raises:
        UsageError: options that do not fit together, the runtime or its version.
        SanError: TensorRT does not load, or there is no GPU where one is needed.
    """
    _check_options(runtime, options)
    choose_target(load(runtime), runtime, options.targets, lambda line: None, index=options.device)


def _current(target: Target) -> Callable[[], None]:
    """What makes the target's GPU the current one of a thread; nothing where there is none."""
    device = target.device
    if device is None:
        return lambda: None
    return lambda: cuda_runtime.load().set_device(device.index)


def _engine(
    trt: ModuleType, runtime: str, artefact: Artefact, onnx: Path, options: BuildOptions, target: Target
) -> Engine:
    return Engine(
        runtime=runtime,
        version=version(trt),
        cuda=cuda_runtime.runtime_version(),
        gpu=target.device.name if target.device and target.on_gpu else "",
        sm=target.sm,
        batch=options.batch,
        onnx_sha256=artefact.sha256,
        tf32=options.tf32,
        hardware_compatibility=options.hardware_compatibility,
        version_compatible=options.version_compatible,
        system=system(),
        onnx=onnx.name if is_onnx_name(onnx.name) else "",
    )


def _check_options(runtime: str, options: BuildOptions) -> None:
    targets = options.targets
    least, best, most = options.batch
    if not 1 <= least <= best <= most <= MAX_BATCH:
        raise UsageError(
            f"crops per run of {least}, {best}, {most} are no profile",
            do=f"give least, best and most in this order, from 1 to {MAX_BATCH}",
        )
    if options.workspace_mib is not None and not 1 <= options.workspace_mib <= MAX_WORKSPACE_MIB:
        raise UsageError(
            f"a workspace of {options.workspace_mib} MiB is none",
            do=f"give 1 to {MAX_WORKSPACE_MIB}, or leave it out",
        )
    if options.hardware_compatibility not in LEVELS:
        raise UsageError(
            f"'{options.hardware_compatibility}' is no hardware compatibility",
            do=f"choose among {', '.join(LEVELS)}",
        )
    if runtime == "tensorrt-rtx":
        if options.timing_cache is not None:
            raise UsageError(
                "a timing cache does not fit TensorRT-RTX, which times nothing when it builds",
                do="leave it out, or build with --runtime tensorrt",
            )
        if options.hardware_compatibility != "none" or options.version_compatible:
            raise UsageError(
                "hardware and version compatibility are of TensorRT, not of TensorRT-RTX",
                do="name the GPUs instead: --target sm86,sm89",
            )
    elif targets:
        raise UsageError(
            f"targets ({', '.join(targets)}) are of TensorRT-RTX: TensorRT builds for the GPU that it runs on",
            do="build on that GPU, give --hardware-compatibility, or build with --runtime tensorrt-rtx",
        )


def _check_outputs(out: Path, timing_cache: Path | None, *, force: bool) -> None:
    if out.suffix not in PLANS:
        raise UsageError(f"{out} does not end in {' or '.join(PLANS)}", do="name the plan like model.engine")
    for path in (out, sidecar_path(out)):
        if path.is_dir():
            raise SanError(f"{path} is a folder", do="name another output")
        refuse_existing(path, force=force)
    if timing_cache is not None:
        refuse_existing(timing_cache, force=True)


def _read(path: Path) -> tuple[Artefact, bytes]:
    """What the file says of itself, and its bytes.

    ONNX Runtime reads the metadata: it is there wherever san-deploy is, and refuses what is cut short or keeps
    weights elsewhere, as the runtime that the engine is compared with.
    """
    artefact = OnnxRuntime(path, threads=1).artefact
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SanError(f"cannot read {path}: {error.strerror or error}") from error
    if hashlib.sha256(data).hexdigest() != artefact.sha256:
        raise SanError(f"{path} was replaced while it was read", do="export again when nobody writes it")
    return artefact, data


def _refuse_full(out: Path, needed: int) -> None:
    """A plan holds the weights, so it is about as large as its ONNX file."""
    try:
        free = shutil.disk_usage(out.absolute().parent).free
    except OSError:  # no figure is no reason to refuse
        return
    if free < needed:
        raise SanError(
            f"cannot write {out}: {free / 1e6:.0f} MB are free, and the engine needs about {needed / 1e6:.0f}",
            do="free some space, or choose another folder",
        )


def _headline(trt: ModuleType, runtime: str, options: BuildOptions, target: Target) -> str:
    where = (
        f"{target.device.name} ({target.device.sm})" if target.device and target.on_gpu else "ahead of time"
    )
    least, best, most = options.batch
    parts = [
        f"{runtime} {version(trt)}, {where}, for {', '.join(target.sm)}",
        f"{least} to {most} crops per run, best at {best}",
        f"FP32 in {'TF32' if options.tf32 else 'full'}",
    ]
    if options.hardware_compatibility != "none":
        parts.append(f"hardware compatibility {options.hardware_compatibility}")
    if options.version_compatible:
        parts.append("for later versions too, with host code inside")
    return "; ".join(parts)


def _operands(
    trt: ModuleType, built: Built, options: BuildOptions, target: Target, report: Callable[[str], None]
) -> PrecisionStats:
    """The engine's own, where a GPU of its kind is here; else the typed network's. `report` says which."""
    inspected = None
    if target.device is not None:
        inspected = count_in_engine(
            trt, built.plan, batch=options.batch[1], size=built.size, host_code=options.version_compatible
        )
    operands = built.operands if inspected is None else inspected
    shares = {"FP32": operands.fp32, "FP16": operands.fp16, "INT8": operands.int8}
    words = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share)
    where = "by the engine's own word"
    if inspected is None:
        reason = (
            "does not say" if target.device is not None else "cannot be asked without a GPU that it is for"
        )
        where = f"in the typed network; the engine itself {reason}"
    report(f"{operands.count} operands of convolutions and products: {words or 'none'}, counted {where}")
    return operands


def _judge(artefact: Artefact, operands: PrecisionStats, path: Path) -> None:
    """Refuse a plan whose share of the asked precision is not the ONNX file's."""
    asked = artefact.precision
    # Files from before operands were counted are FP32.
    before = getattr(artefact.operands, asked) if artefact.operands else 1.0
    share = getattr(operands, asked)
    if share > 0.0 and share >= before - TOLERANCE[operands.source]:
        return
    where = "the engine" if operands.source == "engine" else "the network that TensorRT parsed"
    raise GateError(
        f"no engine was written: {asked.upper()} was asked for, and {where} has it in {share:.0%} of the "
        f"operands of its convolutions, {path.name} in {before:.0%}",
        do="report it, with the versions and the ONNX file",
    )
