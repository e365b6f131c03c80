"""From a checked FP32 file to one of lower precision, measured against it before anybody trusts it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from san_deploy.artefact import Artefact, Calibration
from san_deploy.errors import GateError, SanError
from san_deploy.io.versions import versions

from ..graph.precision_stats import count_operands
from ..onnx_writer import write_onnx
from ..request import CALIBRATION_CROPS, Request
from ..verify import (
    BATCHES,
    CheckCrops,
    Gate,
    Parity,
    check_crops,
    default_gate,
    embed_in_batches,
    judge,
    measure,
    open_checked,
    report_unreadable,
    row_cosine,
)
from .calibration import CalibrationCrops, Labelled, pick_crops, read_labelled
from .emulate_fp16 import emulate_fp16
from .fp16 import to_fp16
from .int8 import METHOD, never_quantised, quantise, within

#: Least share of the convolutions' operands in the precision that was asked for. The rest are the mask
#: branches, which INT8 leaves alone, and what --max-drop gave back.
LEAST_SHARE = {"fp16": 0.9, "int8": 0.5}
#: Least mean row cosine of the file as ONNX Runtime runs it here.
_ALIKE = 0.98
_TOOLS = ("san-deploy", "onnx", "onnxruntime")


@dataclass(frozen=True)
class Converted:
    """A file of lower precision.

    Attributes:
        artefact: what it says of itself.
        parity: against the FP32 file.
        gate: what that had to reach.
        accuracy: of both on labelled crops, and whose; empty where there are no labels.
        rounded: whether FP16's roundings were put in where ONNX Runtime leaves them out on a CPU.
    """

    artefact: Artefact
    parity: Parity
    gate: Gate
    accuracy: dict[str, Any]
    rounded: bool


def convert(
    fp32: Path,
    out: Path,
    artefact: Artefact,
    *,
    request: Request,
    form: str,
    report: Callable[[str], None],
) -> Converted:
    """Write `fp32` in the precision of `request`, and check what was written.

    Args:
        fp32: a checked file.
        out: a temporary name, as it holds a file even where a check fails.
        artefact: of `fp32`.
        request: precision, crops, gate, calibration.
        form: of INT8: `tensorrt` or `cpu`.
        report: takes one line for each step.

    Raises:
        SanError: the folder of crops or of calibration is no good.
        GateError: the file does not have the precision that was asked for, or does not embed alike.
    """
    precision = request.precision
    assert precision in LEAST_SHARE
    model = onnx.load(fp32)
    accuracy: dict[str, Any] = {}
    calibration: Calibration | None = None
    if precision == "fp16":
        report(f"to FP16: {fp32.name if request.source else 'the starter model'}")
        crops = check_crops(request.crops, artefact.size_hw, report)
        lower = to_fp16(model)
    else:
        assert request.calib is not None
        chosen = pick_crops(
            request.calib,
            artefact.size_hw,
            count=request.calib_count or CALIBRATION_CROPS,
            seed=request.seed or 0,
        )
        report_unreadable(chosen.unreadable, report)
        crops = (
            chosen.check if request.crops is None else check_crops(request.crops, artefact.size_hw, report)
        )
        labelled = read_labelled(request.calib, artefact.size_hw, seed=request.seed or 0)
        lower, calibration, accuracy = _to_int8(
            model, artefact, fp32, chosen, labelled, request=request, form=form, report=report
        )
    operands = count_operands(lower)
    share = getattr(operands, precision)
    if share < LEAST_SHARE[precision]:
        raise GateError(
            f"{precision.upper()} was asked for, but {share:.0%} of the convolutions' operands have it, "
            f"the least is {LEAST_SHARE[precision]:.0%}",
            why="--max-drop gave the rest back" if calibration and calibration.reverted else "",
            do="allow a larger --max-drop, or export in FP16" if precision == "int8" else "report it",
        )
    lowered = replace(
        artefact,
        precision=precision,
        operands=operands,
        calibration=calibration,
        sha256="",
        versions={**artefact.versions, **versions(*_TOOLS)},
    )
    gate = request.gate or default_gate(artefact.mask, precision)
    write_onnx(lower, lowered, out)
    report(
        f"checking {len(crops.images)} {crops.source}, {precision.upper()} against FP32, both in ONNX Runtime"
    )
    rounded = operands.fp16 > 0
    reference = _rows(fp32, crops)
    with tempfile.TemporaryDirectory(prefix="san-check-") as folder:
        measured = out
        if rounded:
            measured = Path(folder) / "rounded.onnx"
            write_onnx(emulate_fp16(lower), lowered, measured)
        parity = _compare(measured, reference, crops)
    failures = judge(parity, gate)
    if failures:
        raise GateError(
            f"{precision.upper()} was not written: {'; '.join(failures)}",
            why="rounding flips bits of the sharp masks" if artefact.mask == "argmax" else "",
            do=_advice(artefact, precision, parity),
        )
    # What was measured may be another form of the same numbers: the file itself must run as well.
    alike = float(row_cosine(_rows(out, crops), reference).mean())
    if not alike >= _ALIKE:
        raise GateError(
            f"ONNX Runtime computes something else from the {precision.upper()} file than it says",
            why=f"mean row cosine {alike:.4f} with FP32, {parity.batches[-1].mean_cosine:.4f} was measured",
            do="report it, with the version of onnxruntime",
        )
    checks = {**artefact.checks, precision: {**parity.as_dict(), "gate": gate.as_dict()}}
    if accuracy:
        checks["accuracy"] = accuracy
    lowered = replace(lowered, checks=checks)
    write_onnx(lower, lowered, out)
    # The file was written again, with the figures in it: one more look at what lies on the disk.
    open_checked(out)(crops.images[:1])
    return Converted(lowered, parity, gate, accuracy, rounded)


def _to_int8(
    model: onnx.ModelProto,
    artefact: Artefact,
    fp32: Path,
    chosen: CalibrationCrops,
    labelled: Labelled | None,
    *,
    request: Request,
    form: str,
    report: Callable[[str], None],
) -> tuple[onnx.ModelProto, Calibration, dict[str, Any]]:
    if request.max_drop is not None and labelled is None:
        raise SanError(
            f"--max-drop needs labels, and {request.calib} has none",
            do="put identities.csv (camera,track,person) into it, or leave --max-drop out",
        )
    report(f"to INT8, form for {form}: calibrating on {len(chosen.images)} crops of {chosen.folder}")
    accuracy: dict[str, Any] = {}
    reverted: tuple[str, ...] = ()
    if labelled is None:
        lower = quantise(model, chosen.images, form=form)
    else:
        before = labelled.accuracy(open_checked(fp32))
        with tempfile.TemporaryDirectory(prefix="san-int8-") as folder:

            def scores(candidate: onnx.ModelProto) -> dict[str, float]:
                path = Path(folder) / "candidate.onnx"
                if request.rest == "fp16":
                    candidate = emulate_fp16(to_fp16(candidate))
                write_onnx(candidate, replace(artefact, sha256=""), path)
                return labelled.accuracy(open_checked(path))

            def loss(candidate: onnx.ModelProto) -> float:
                return max(before[key] - value for key, value in scores(candidate).items())

            if request.max_drop is None:
                lower = quantise(model, chosen.images, form=form)
            else:
                lower, reverted = within(
                    model, chosen.images, loss, request.max_drop, form=form, report=report
                )
            after = scores(lower)
        accuracy = {"on": labelled.source, "fp32": before, "int8": after}
        if request.max_drop is not None:
            accuracy["max_drop"] = request.max_drop
    calibration = Calibration(
        crops=len(chosen.images),
        crops_sha256=chosen.sha256,
        folder=chosen.folder,
        seed=chosen.seed,
        method=METHOD,
        form=form,
        rest=request.rest,
        left=never_quantised(model, form=form),
        reverted=reverted,
    )
    return to_fp16(lower) if request.rest == "fp16" else lower, calibration, accuracy


def _rows(path: Path, crops: CheckCrops) -> np.ndarray:
    return embed_in_batches(open_checked(path), crops.images, BATCHES[-1])


def _compare(lower: Path, reference: np.ndarray, crops: CheckCrops) -> Parity:
    try:
        return measure(open_checked(lower), reference, crops, name="onnx fp32")
    except SanError as error:
        raise GateError("the file of lower precision does not run", why=error.message) from error


def _advice(artefact: Artefact, precision: str, parity: Parity) -> str:
    worst = min(parity.batches, key=lambda figures: figures.p1_cosine)
    found = (
        f"minimum {worst.min_cosine:.4f}, 1st percentile {worst.p1_cosine:.4f}, mean {worst.mean_cosine:.4f}"
    )
    if precision == "int8":
        return f"calibrate on more crops of your own cameras, give --max-drop, or use --fp16 (found: {found})"
    softer = "export with --mask ramp:0.0625, which rounds gently; " if artefact.mask == "argmax" else ""
    return f"{softer}train on; or accept the difference with --min-cosine (found: {found})"
