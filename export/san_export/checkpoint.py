"""From a checkpoint to a checked FP32 graph. Needs PyTorch; the rest of `san export` does not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxscript  # noqa: F401  torch's exporter needs it; a missing extra is to be named before the work
import torch
from san_train.checkpoint import load_checkpoint
from san_train.describe import describe, resolve_mask
from san_train.evaluate import embed
from san_train.models import Network

from san_deploy.artefact import Artefact, sha256_file
from san_deploy.checkpoint_info import check_hashes, read_header, tensors_sha256
from san_deploy.errors import GateError, SanError
from san_deploy.io.cpu import give_back
from san_deploy.preprocess import RESIZES
from san_deploy.self_check import keep_samples

from .graph.precision_stats import count_operands
from .onnx_writer import to_onnx, write_onnx
from .verify import (
    BATCHES,
    EQUAL,
    STEADIER_MASK,
    CheckCrops,
    Gate,
    Parity,
    check_crops,
    default_gate,
    judge,
    measure,
    open_checked,
)
from .wrapper import OnnxWrapper

#: The tools whose version changes what is written.
TOOLS = ("san-deploy", "torch", "onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class CheckedGraph:
    """An FP32 graph that gives what the trained network gives.

    Attributes:
        artefact: what the file says of itself, the figures of the check included.
        parity: those figures.
        parameters: weights of the trained network, batch norm statistics not counted.
    """

    artefact: Artefact
    parity: Parity
    parameters: int


def export_graph(
    checkpoint: Path,
    path: Path,
    *,
    mask: str | None,
    input_form: str,
    crops: Path | None,
    gate: Gate | None,
    opset: int,
    report: Callable[[str], None],
) -> CheckedGraph:
    """Write a checkpoint's graph as ONNX and check it against PyTorch, crop by crop.

    Args:
        checkpoint: written by `san train`.
        path: where to write; a temporary name, as it holds a file even where the check fails.
        mask: `argmax`, `expected` or `ramp:EPS`; None is what the checkpoint was trained for.
        input_form: `uint8` or `float`, see `deployed.INPUTS`.
        crops: a folder of crops to check on; None draws people.
        gate: what to reach against PyTorch; None takes `check.default_gate`.
        opset: of the file.
        report: takes one line for each step.

    Raises:
        UsageError: options that do not fit together, or do not fit the network.
        SanError: no checkpoint, or no crops.
        GateError: the file does not give what the network gives.
    """
    network, info = load_checkpoint(checkpoint)
    header = read_header(checkpoint)
    if note := check_hashes(checkpoint, header).note:
        report(f"{checkpoint}: {note}")
    mask_name = resolve_mask(network, mask)
    gate = gate or default_gate(mask_name)
    if info.resize not in RESIZES:
        raise SanError(
            f"{checkpoint} was trained with the resize '{info.resize}'",
            why=f"this version has {', '.join(RESIZES)}",
            do="use the version of san-deploy that trained it",
        )
    size_hw = network.settings.size_hw
    chosen = check_crops(crops, size_hw, report, resize=info.resize)
    artefact = describe(
        network,
        info,
        mask=mask_name,
        input_form=input_form,
        checkpoint_sha256=sha256_file(checkpoint),
        weights_sha256=tensors_sha256(checkpoint, header),
        tools=TOOLS,
    )
    report(f"exporting {artefact.arch}, mask {mask_name}, input {input_form}")
    deployed = OnnxWrapper(network, mask=mask_name, input_form=input_form)
    model = to_onnx(deployed, size_hw, opset=opset, report=report)
    deployed.release()
    write_onnx(model, artefact, path)
    report(f"checking {len(chosen.images)} {chosen.source}, ONNX Runtime against PyTorch")
    parity = compare(network, path, chosen, mask=mask_name)
    failures = judge(parity, gate)
    if failures:
        report("the check failed, looking for the reason")
        why, do = _explain(network, path, artefact, chosen, parity, opset=opset)
        raise GateError(f"{checkpoint} was not exported: {'; '.join(failures)}", why=why, do=do)
    artefact = replace(
        artefact,
        operands=count_operands(model),
        samples=keep_samples(
            artefact, lambda images: _reference(network, images, mask_name), source="torch fp32"
        ),
        checks={**parity.as_dict(), "gate": gate.as_dict()},
    )
    write_onnx(model, artefact, path)
    # The file was written again, with the figures in it: one more look at what lies on the disk.
    open_checked(path)(chosen.images[:1])
    return CheckedGraph(artefact, parity, sum(parameter.numel() for parameter in network.parameters()))


def compare(network: Network, path: Path, crops: CheckCrops, *, mask: str) -> Parity:
    """The model file in ONNX Runtime, as the edge runs it, against the trained network in PyTorch, in FP32.

    Raises:
        GateError: the file does not load, or gives rows that are not finite or not of norm 1.
    """
    reference = _reference(network, crops.images, mask)
    give_back()
    try:
        return measure(open_checked(path), reference, crops)
    except SanError as error:
        raise GateError("the exported file does not run", why=error.message) from error


def _reference(network: Network, images: np.ndarray, mask: str) -> np.ndarray:
    """What PyTorch gives in FP32, `(N, D)` float32."""
    # A network without a sharp mask has nothing to switch.
    evaluated = "argmax" if mask in ("none", "soft") else mask
    # One thread on both sides: the same kind of processor gives the same figures, and so the same file,
    # however many cores it has.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return embed(network, images, mask=evaluated, batch=BATCHES[-1])
    finally:
        torch.set_num_threads(threads)


def _explain(
    network: Network,
    path: Path,
    artefact: Artefact,
    crops: CheckCrops,
    parity: Parity,
    *,
    opset: int,
) -> tuple[str, str]:
    """Why a check failed, and what to do: rounding at the threshold of a mask, or a wrong graph.

    The expected mask has no threshold. Where its graph, made by the same code, agrees with PyTorch, the
    weights, the preprocessing and the operators are right, and mask bits flipped. `path` is overwritten.
    """
    wrong = (
        "the graph computes something else than the network",
        "report it, with the versions of torch, onnx and onnxruntime",
    )
    if artefact.mask in ("expected", "none", "soft"):
        return wrong
    deployed = OnnxWrapper(network, mask="expected", input_form=artefact.input)
    model = to_onnx(deployed, artefact.size_hw, opset=opset)
    deployed.release()
    write_onnx(model, replace(artefact, mask="expected"), path)
    smooth = compare(network, path, crops, mask="expected")
    if judge(smooth, Gate(EQUAL)):
        return wrong
    equal = min(figures.equal_rows for figures in parity.batches)
    why = (
        f"the graph is right (with the smooth mask `expected` it agrees to {smooth.min_cosine:.7f}, and "
        f"{equal:.0%} of these rows are equal): FP32 rounding flips mask bits at the threshold of "
        f"{artefact.mask}"
    )
    do = "train on, since a trained network is steadier"
    if artefact.mask == "argmax":
        do += f", give --mask {STEADIER_MASK}, which does not flip"
    floor = math.floor(min(parity.min_cosine, parity.invariance) * 1000) / 1000
    return why, f"{do}, or accept the flips with --min-cosine {floor:g}"
