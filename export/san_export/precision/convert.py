"""From a checked FP32 file to one of lower precision, measured against it before anybody trusts it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from san_deploy.artefact import Artefact, Calibration, PrecisionStats, space_of
from san_deploy.errors import GateError, SanError
from san_deploy.io.versions import versions

from ..graph.precision_stats import count_operands
from ..graph.replace_masks import replace_masks
from ..onnx_writer import write_onnx
from ..request import CALIBRATION_CROPS, ExportRequest
from ..verify import (
    BATCHES,
    STEADIER_MASK,
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

#: Least fraction of the operands that `--fp16` must reach; that of `--int8` is the architecture's (`Int8Rule`).
MIN_FP16 = 0.9
#: How much the mean row cosine of the file, as ONNX Runtime runs it here, may be below what was measured.
_ALIKE = 0.02
_TOOLS = ("san-deploy", "onnx", "onnxruntime")
Report = Callable[[str], None]


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


@dataclass(frozen=True)
class _Lowered:
    """A graph in the precision that was asked for, and how it came to be.

    Attributes:
        model: the graph.
        crops: to check it on.
        calibration: of INT8.
        accuracy: see `Converted`.
        reachable: the most of its operands that could be in that precision, 0..1.
    """

    model: onnx.ModelProto
    crops: CheckCrops
    calibration: Calibration | None = None
    accuracy: dict[str, Any] | None = None
    reachable: float = 1.0


def convert(
    fp32: Path, out: Path, artefact: Artefact, *, request: ExportRequest, form: str, report: Report
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
    assert precision in ("fp16", "int8")
    if precision == "fp16":
        report(f"to FP16: {fp32.name if request.source else 'the starter model'}")
        crops = check_crops(request.crops, artefact.size_hw, report, resize=artefact.resize)
        lowered = _Lowered(to_fp16(onnx.load(fp32)), crops)
    else:
        lowered = _to_int8(fp32, artefact, request=request, form=form, report=report)
    operands = count_operands(lowered.model)
    _require_share(artefact, precision, operands, lowered)
    described = replace(
        artefact,
        precision=precision,
        operands=operands,
        calibration=lowered.calibration,
        sha256="",
        versions={**artefact.versions, **versions(*_TOOLS)},
    )
    gate = request.gate or default_gate(artefact.mask, precision)
    write_onnx(lowered.model, described, out)
    parity = _check(fp32, out, lowered, described, gate, report)
    checks = {**artefact.checks, precision: {**parity.as_dict(), "gate": gate.as_dict()}}
    if lowered.accuracy:
        checks["accuracy"] = lowered.accuracy
    described = replace(described, checks=checks)
    write_onnx(lowered.model, described, out)
    # The file was written again, with the figures in it: one more look at what lies on the disk.
    open_checked(out)(lowered.crops.images[:1])
    if operands.int8 and operands.fp16:
        report(
            "for TensorRT; on a CPU ONNX Runtime 1.31 computes wrong embeddings from INT8 with FP16 unless its session "
            "option session.disable_quant_qdq is 1, as it is in san-deploy: other programs must set it"
        )
    return Converted(described, parity, gate, lowered.accuracy or {}, operands.fp16 > 0)


def _require_share(artefact: Artefact, precision: str, operands: PrecisionStats, lowered: _Lowered) -> None:
    """Refuse a graph of which too little is in the precision that was asked for."""
    share = getattr(operands, precision)
    least = artefact.int8.min_share if precision == "int8" else MIN_FP16
    if share >= least:
        return
    message = f"{precision.upper()} was asked for, but {share:.0%} of the convolutions' operands have it"
    if precision == "fp16":
        raise GateError(f"{message}, the least is {least:.0%}", do="report it, with the file")
    reverted = bool(lowered.calibration and lowered.calibration.reverted)
    reachable = (
        f"{lowered.reachable:.0%} can be: masks, gates and what has no 8-bit kernel stay in floating point"
    )
    raise GateError(
        f"{message}, the least for {artefact.arch} is {least:.0%}",
        why=f"--max-drop gave layers back; without it {reachable}" if reverted else reachable,
        do="allow a larger --max-drop, or export in FP16: --fp16" if reverted else "export in FP16: --fp16",
    )


def _check(
    fp32: Path, out: Path, lowered: _Lowered, described: Artefact, gate: Gate, report: Report
) -> Parity:
    """Measure what a GPU would compute of the file, and what ONNX Runtime computes of it here."""
    crops, precision = lowered.crops, described.precision
    report(
        f"checking {len(crops.images)} {crops.source}, {precision.upper()} against FP32, both in ONNX Runtime"
    )
    reference = _rows(fp32, crops)
    with tempfile.TemporaryDirectory(prefix="san-check-") as folder:
        measured = out
        if described.operands is not None and described.operands.fp16:
            measured = Path(folder) / "rounded.onnx"
            write_onnx(emulate_fp16(lowered.model), described, measured)
        parity = _compare(measured, reference, crops)
    failures = judge(parity, gate)
    if failures:
        raise GateError(
            f"{precision.upper()} was not written: {'; '.join(failures)}",
            why=_gentler(fp32, lowered, described, report),
            do=_advice(described, precision, parity),
        )
    # What was measured may be another form of the same numbers: the file itself must run as well.
    if measured != out:
        found, expected = (
            float(row_cosine(_rows(out, crops), reference).mean()),
            parity.batches[-1].mean_cosine,
        )
        if not found >= expected - _ALIKE:
            raise GateError(
                f"ONNX Runtime computes something else from the {precision.upper()} file than it says",
                why=f"mean row cosine with FP32 {found:.4f}, but {expected:.4f} with every rounding in its place",
                do="report it, with the version of onnxruntime",
            )
    return parity


def _to_int8(
    fp32: Path, artefact: Artefact, *, request: ExportRequest, form: str, report: Report
) -> _Lowered:
    """Calibrate on the crops of `request.calib`, and quantise as much as `request.max_drop` allows."""
    assert request.calib is not None
    model, seed, floating = onnx.load(fp32), request.seed or 0, artefact.int8.floating
    chosen = pick_crops(
        request.calib,
        artefact.size_hw,
        count=request.calib_count or CALIBRATION_CROPS,
        seed=seed,
        resize=artefact.resize,
    )
    report_unreadable(chosen.unreadable, report)
    crops = (
        chosen.check
        if request.crops is None
        else check_crops(request.crops, artefact.size_hw, report, resize=artefact.resize)
    )
    labelled = read_labelled(request.calib, artefact.size_hw, seed=seed, resize=artefact.resize)
    if request.max_drop is not None and labelled is None:
        raise SanError(
            f"--max-drop needs labels, and {request.calib} has none",
            do="put identities.csv (camera,track,person) into it, or leave --max-drop out",
        )
    report(f"to INT8, form for {form}: calibrating on {len(chosen.images)} crops of {chosen.folder}")
    whole = quantise(model, chosen.images, form=form, floating=floating)
    reachable = count_operands(whole).int8
    accuracy: dict[str, Any] = {}
    reverted: tuple[str, ...] = ()
    if labelled is not None:
        with tempfile.TemporaryDirectory(prefix="san-int8-") as folder:
            scores = _Scores(labelled, artefact, Path(folder) / "candidate.onnx", request.rest)
            before = labelled.accuracy(open_checked(fp32))
            if request.max_drop is not None:
                whole, reverted = within(
                    model,
                    chosen.images,
                    lambda candidate: max(before[key] - value for key, value in scores(candidate).items()),
                    request.max_drop,
                    form=form,
                    floating=floating,
                    report=report,
                )
            accuracy = {"on": labelled.source, "fp32": before, "int8": scores(whole)}
            if request.max_drop is not None:
                accuracy["max_drop"] = request.max_drop
    calibration = _calibration(chosen, model, artefact, request=request, form=form, reverted=reverted)
    lower = to_fp16(whole) if request.rest == "fp16" else whole
    return _Lowered(lower, crops, calibration, accuracy, reachable)


@dataclass(frozen=True)
class _Scores:
    """Rank-1 and mAP of a candidate as it would be written."""

    labelled: Labelled
    artefact: Artefact
    path: Path
    rest: str

    def __call__(self, candidate: onnx.ModelProto) -> dict[str, float]:
        if self.rest == "fp16":
            candidate = emulate_fp16(to_fp16(candidate))
        write_onnx(candidate, replace(self.artefact, sha256=""), self.path)
        return self.labelled.accuracy(open_checked(self.path))


def _calibration(
    chosen: CalibrationCrops,
    model: onnx.ModelProto,
    artefact: Artefact,
    *,
    request: ExportRequest,
    form: str,
    reverted: tuple[str, ...],
) -> Calibration:
    return Calibration(
        crops=len(chosen.images),
        crops_sha256=chosen.sha256,
        folder=chosen.folder,
        seed=chosen.seed,
        method=METHOD,
        form=form,
        rest=request.rest,
        left=never_quantised(model, form=form, floating=artefact.int8.floating),
        reverted=reverted,
    )


def _rows(path: Path, crops: CheckCrops) -> np.ndarray:
    return embed_in_batches(open_checked(path), crops.images, BATCHES[-1])


def _compare(lower: Path, reference: np.ndarray, crops: CheckCrops) -> Parity:
    try:
        return measure(open_checked(lower), reference, crops, name="onnx fp32")
    except SanError as error:
        raise GateError("the file of lower precision does not run", why=error.message) from error


def _gentler(fp32: Path, lowered: _Lowered, described: Artefact, report: Report) -> str:
    """In words, what the same change of precision costs on the same crops with a ramp in argmax's place.

    Empty where the mask is another one, or where INT8's ranges would have to be found anew.
    """
    if described.mask != "argmax" or described.precision != "fp16":
        return ""
    report(f"the check failed, measuring what --mask {STEADIER_MASK} would give")
    soft = replace(described, mask=STEADIER_MASK, precision="fp32", samples=None)
    soft = replace(soft, space=space_of(soft))
    with tempfile.TemporaryDirectory(prefix="san-mask-") as folder:
        before, after = Path(folder) / "fp32.onnx", Path(folder) / "fp16.onnx"
        model = replace_masks(onnx.load(fp32), STEADIER_MASK)
        write_onnx(model, soft, before)
        write_onnx(emulate_fp16(to_fp16(model)), soft, after)
        cosine = row_cosine(_rows(after, lowered.crops), _rows(before, lowered.crops))
    return (
        f"on the same crops FP16 with --mask {STEADIER_MASK} has a minimum row cosine of {cosine.min():.6f} "
        f"and a mean of {cosine.mean():.6f} with FP32"
    )


def _advice(artefact: Artefact, precision: str, parity: Parity) -> str:
    worst = min(parity.batches, key=lambda figures: figures.p1_cosine)
    found = (
        f"minimum {worst.min_cosine:.4f}, 1st percentile {worst.p1_cosine:.4f}, mean {worst.mean_cosine:.4f}"
    )
    if precision == "int8":
        softer = f"give --mask {STEADIER_MASK}, " if artefact.mask == "argmax" else ""
        return f"calibrate on more crops of your own cameras, {softer}give --max-drop, or use --fp16 (found: {found})"
    softer = f"export with --mask {STEADIER_MASK}, which rounds gently; " if artefact.mask == "argmax" else ""
    return f"{softer}train on; or accept the difference with --min-cosine (found: {found})"
