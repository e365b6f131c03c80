"""A plan is run before it is trusted: on the GPU, against the ONNX file that it was built from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from san_deploy.artefact import Artefact
from san_deploy.backends import cuda as cuda_runtime
from san_deploy.backends.tensorrt import TensorRT
from san_deploy.errors import GateError

from ..verify import (
    BATCHES,
    Gate,
    Parity,
    check_crops,
    default_gate,
    embed_in_batches,
    judge,
    measure,
    open_checked,
)
from .builder import BuildOptions

#: Of FP32 convolutions whose operands have TF32's 10 bits of mantissa, as FP16's have.
_TF32 = Gate(0.999)


def engine_gate(artefact: Artefact, *, tf32: bool) -> Gate:
    """What a plan must reach against its ONNX file in ONNX Runtime: the gates of that precision."""
    if artefact.precision == "fp32" and tf32:
        return _TF32 if artefact.mask != "argmax" else default_gate("argmax", "fp16")
    return default_gate(artefact.mask, artefact.precision)


def run_plan(
    plan: Path, onnx: Path, options: BuildOptions, *, trt: ModuleType, report: Callable[[str], None]
) -> tuple[Parity, Gate]:
    """Run a plan at its smallest, best and largest batch, and compare its rows with its ONNX file's.

    Args:
        plan: with its description beside it.
        onnx: that it was built from.
        options: it was built with.
        trt: the module that built it.
        report: takes one line for each step.

    Raises:
        SanError: the plan does not open or run, or there are no crops.
        GateError: it embeds something else.
    """
    reference = open_checked(onnx)
    artefact = reference.artefact
    crops = check_crops(options.crops, artefact.size_hw, report, resize=artefact.resize)
    batches = tuple(sorted(set(options.batch)))
    sizes = ", ".join(map(str, batches))
    report(
        f"running the engine on {len(crops.images)} {crops.source} against {onnx.name}, at batches of {sizes}"
    )
    rows = embed_in_batches(reference, crops.images, BATCHES[-1])
    gate = engine_gate(artefact, tf32=options.tf32)
    with TensorRT(plan, device=options.device, trt=trt, cuda=cuda_runtime.load()) as model:
        parity = measure(model, rows, crops, name="the ONNX file in ONNX Runtime", batches=batches)
    if failures := judge(parity, gate):
        do = "report it, with the versions, the ONNX file and the GPU"
        if options.tf32:
            do = f"build it without --tf32; or {do}"
        raise GateError(f"no engine was written: the plan that was built, {'; '.join(failures)}", do=do)
    return parity, gate
