"""`san export` from end to end: source, precision, checks, files, engine."""

from __future__ import annotations

import contextlib
import shlex
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from san_deploy.artefact import Artefact, mask_name, sha256_file, sidecar_path, write_sidecar
from san_deploy.backends.onnxruntime import export_int8
from san_deploy.errors import SanError, UsageError
from san_deploy.io.atomic import atomic_pair
from san_deploy.io.interrupts import held_interrupts

from .request import ExportPlan, ExportRequest, plan
from .verify import Parity, open_checked

if TYPE_CHECKING:
    from .engine.builder import Progress
    from .precision.convert import Converted

Report = Callable[[str], None]


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        onnx: the ONNX file; the source itself where only an engine was built.
        written: whether `onnx` was written.
        artefact: what it says of itself.
        graph: the FP32 graph against PyTorch; None where the source was ONNX.
        parameters: of the trained network; None likewise.
        converted: what the change of precision gave; None in FP32.
        engine: what the plan says of itself; None where none was built.
        engine_path: the plan.
        missing: one line on what an engine would have needed; empty where one was built or unwanted.
    """

    onnx: Path
    written: bool
    artefact: Artefact
    graph: Parity | None
    parameters: int | None
    converted: Converted | None
    engine: Artefact | None
    engine_path: Path | None
    missing: str

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        files = [self.onnx] + ([self.engine_path] if self.engine_path else [])
        return {
            "model": str(self.onnx),
            "written": self.written,
            "bytes": self.onnx.stat().st_size,
            "parameters": self.parameters,
            "artefact": self.artefact.as_dict(),
            "engine": None if self.engine is None else self.engine.as_dict(),
            "engine_model": None if self.engine_path is None else str(self.engine_path),
            "files": {str(path): path.stat().st_size for path in files},
            "missing": self.missing,
        }


def export(
    request: ExportRequest, *, report: Report = lambda line: None, progress: Progress | None = None
) -> Exported:
    """Export a checkpoint or an ONNX file of ours.

    The ONNX file gets its name when its checks have passed, the plan when it was built in the precision that
    was asked for. Where the plan fails, the ONNX file, which is whole, stays.

    Args:
        request: what to do.
        report: takes one line for each step.
        progress: `san_deploy.io.progress.bar` or the like, for the engine's build.

    Raises:
        UsageError: options that do not fit together.
        SanError: bad input, no space, or no plan could be built.
        GateError: a check ran to its end and failed.
    """
    todo = plan(request)
    if todo.engine is not None:
        from .engine.build import check_engine

        # Now, what would otherwise be said after a long export.
        check_engine(todo.runtime, request.options.build_options())
    base: _Base | None = None
    converted: Converted | None = None
    if todo.write_onnx:
        with atomic_pair(todo.onnx, sidecar_path, force=request.force) as temporary:
            with _fp32(request, todo, temporary, report) as base:
                artefact = base.artefact
                if todo.precision in (None, "fp32"):
                    if base.path != temporary:
                        temporary.write_bytes(base.path.read_bytes())
                else:
                    from .precision.convert import convert

                    converted = convert(
                        base.path, temporary, artefact, request=request, form=todo.form, report=report
                    )
                    artefact = converted.artefact
            artefact = replace(artefact, sha256=sha256_file(temporary))
            write_sidecar(artefact, temporary)
    else:
        artefact = open_checked(todo.onnx).artefact
    engine = None
    if todo.engine is not None:
        _refuse_form(artefact, todo.onnx)
        engine = _build(request, todo, report, progress)
    return Exported(
        onnx=todo.onnx,
        written=todo.write_onnx,
        artefact=artefact,
        graph=base.parity if base else None,
        parameters=base.parameters if base else None,
        converted=converted,
        engine=engine,
        engine_path=todo.engine,
        missing=todo.missing,
    )


@dataclass(frozen=True)
class _Base:
    """The FP32 file that an export starts from; figures against PyTorch where it comes from a checkpoint."""

    path: Path
    artefact: Artefact
    parity: Parity | None = None
    parameters: int | None = None


@contextlib.contextmanager
def _fp32(request: ExportRequest, todo: ExportPlan, target: Path, report: Report) -> Iterator[_Base]:
    """The FP32 graph as a file: the source itself, `target`, or a temporary one that is gone afterwards."""
    with contextlib.ExitStack() as stack:
        path = target
        if todo.precision not in (None, "fp32"):
            path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="san-export-"))) / "fp32.onnx"
        yield (_from_checkpoint if todo.is_checkpoint else _from_onnx)(request, todo, path, report)


def _from_onnx(request: ExportRequest, todo: ExportPlan, path: Path, report: Report) -> _Base:
    """The source itself, or `path` with another mask."""
    artefact = open_checked(todo.source).artefact
    if artefact.precision != "fp32":
        command = shlex.join(["san", "export", "FP32.onnx", *_arguments(request)])
        raise UsageError(
            f"{todo.source} is {artefact.precision.upper()} already"
            + (", and its masks are quantised with it" if request.mask else ""),
            do=f"start from the FP32 file or the checkpoint: {command}; or build its engine: --engine alone",
        )
    if request.mask is None:
        return _Base(todo.source, artefact)
    mask = mask_name(request.mask)
    if mask == artefact.mask:
        if todo.precision in (None, "fp32"):
            raise UsageError(
                f"{todo.source} has the mask {mask} already", do="ask for another, or for --fp16"
            )
        return _Base(todo.source, artefact)
    from .mask_change import change_mask

    return _Base(path, change_mask(todo.source, path, artefact, mask, crops=request.crops, report=report))


def _arguments(request: ExportRequest) -> list[str]:
    """The options that made a refused request what it is, to be typed again."""
    words = {"fp16": ["--fp16"], "int8": ["--int8", "--calib", str(request.calib or "DIR")]}
    given = words.get(request.precision or "", [])
    if request.precision == "int8" and request.rest == "fp16":
        given = ["--fp16", *given]
    return [*given, *(["--mask", request.mask] if request.mask else [])]


def _from_checkpoint(request: ExportRequest, todo: ExportPlan, path: Path, report: Report) -> _Base:
    with held_interrupts():
        from .checkpoint import export_graph
    from .onnx_writer import OPSET

    graph = export_graph(
        todo.source,
        path,
        mask=request.mask,
        input_form=request.input_form or "uint8",
        crops=request.crops,
        # A gate that the user gives is for the precision that was asked for.
        gate=request.gate if todo.precision == "fp32" else None,
        opset=request.opset or OPSET,
        report=report,
    )
    return _Base(path, graph.artefact, graph.parity, graph.parameters)


def _refuse_form(artefact: Artefact, path: Path) -> None:
    if artefact.calibration is not None and artefact.calibration.form == "cpu":
        raise SanError(
            f"{path} is INT8 in ONNX Runtime's form, which TensorRT refuses",
            do=f"export the form for TensorRT: {export_int8(artefact)}",
        )


def _build(request: ExportRequest, todo: ExportPlan, report: Report, progress: Progress | None) -> Artefact:
    from .engine.build import build_engine

    assert todo.engine is not None
    report(f"building {todo.engine.name} with {todo.runtime}")
    try:
        return build_engine(
            todo.onnx,
            todo.engine,
            runtime=todo.runtime,
            options=request.options.build_options(request.crops),
            force=request.force,
            report=report,
            progress=progress,
        )
    except SanError:
        if todo.write_onnx:
            report(f"{todo.onnx} is written and whole; only the engine is missing")
        raise
