"""From a checkpoint to a checked model file: the work behind `san export`."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from san_deploy.train.attention import parse_mask
from san_deploy.train.checkpoint import CheckpointInfo, load_checkpoint
from san_deploy.train.evaluate import embed
from san_deploy.train.models import SharpAttentionNetwork

from san_deploy.artefact import Artefact, sha256_file, sidecar_path, write_sidecar
from san_deploy.atomic import atomic_file, refuse_existing
from san_deploy.backends.onnxruntime import OnnxRuntime
from san_deploy.errors import GateError, SanError, UsageError
from san_deploy.preprocess import MEAN_RGB, RESIZE, STD_RGB
from san_deploy.versions import versions

from .check import BATCHES, EQUAL, Parity, default_gate, judge, measure
from .crops import CheckCrops, draw_crops, read_crops
from .deployed import DeployedNetwork
from .onnx import OPSET, to_onnx, write_onnx

#: The tools whose version changes what is written.
TOOLS = ("san-deploy", "torch", "onnx", "onnxscript", "onnxruntime")
#: What to try where argmax flips: san.md's narrowest ramp that holds 0.9999 in FP16.
_STEADIER = "ramp:0.0625"


@dataclass(frozen=True)
class Exported:
    """A model file that was written.

    Attributes:
        path: the model file.
        artefact: what it says of itself.
        parity: what was measured before it got its name.
        gate: the least row cosine that was asked for.
        parameters: weights of the trained network, batch norm statistics not counted.
        opset: of the file.
        file_bytes: its size.
    """

    path: Path
    artefact: Artefact
    parity: Parity
    gate: float
    parameters: int
    opset: int
    file_bytes: int


def export_checkpoint(
    checkpoint: Path,
    out: Path,
    *,
    mask: str | None = None,
    input_form: str = "uint8",
    crops: Path | None = None,
    min_cosine: float | None = None,
    opset: int = OPSET,
    force: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> Exported:
    """Export a checkpoint and check the file; it gets its name only when the check passes.

    Args:
        checkpoint: written by `san train`.
        out: ends in .onnx; the contract is written beside it.
        mask: `argmax`, `expected` or `ramp:EPS`; None is argmax where the network has a sharp mask.
        input_form: `uint8` or `float`, see `deployed.INPUTS`.
        crops: a folder of crops to check on; None draws people.
        min_cosine: least row cosine against PyTorch; None takes `check.default_gate`.
        opset: of the file.
        force: replace existing files.
        report: takes one line for each step.

    Raises:
        UsageError: options that do not fit together, or do not fit the network.
        SanError: no checkpoint, no crops, `out` exists, or cannot be written.
        GateError: the file does not give what the network gives.
    """
    check_output(out, force=force)
    network, info = load_checkpoint(checkpoint)
    mask_name = resolve_mask(network, mask)
    gate = default_gate(mask_name) if min_cosine is None else min_cosine
    if info.resize != RESIZE:
        raise SanError(
            f"{checkpoint} was trained with the resize '{info.resize}'",
            why=f"this version has '{RESIZE}' alone",
            do="use the version of san-deploy that trained it",
        )
    size_hw = network.settings.size_hw
    chosen = draw_crops(size_hw) if crops is None else read_crops(crops, size_hw)
    if chosen.unreadable:
        few = chosen.unreadable == 1
        report(f"{chosen.unreadable} of the crops cannot be read and {'is' if few else 'are'} passed over")
    artefact = describe(
        network, info, mask=mask_name, input_form=input_form, checkpoint_sha256=sha256_file(checkpoint)
    )
    report(f"exporting {artefact.arch}, mask {mask_name}, input {input_form}")
    # Entered before the long part, so that a folder that cannot be written is told at once.
    with _pair(out) as temporary:
        model = to_onnx(DeployedNetwork(network, mask=mask_name, input_form=input_form), size_hw, opset=opset)
        write_onnx(model, artefact, temporary)
        report(f"checking {len(chosen.images)} {chosen.source}, ONNX Runtime against PyTorch")
        parity = compare(network, temporary, chosen, mask=mask_name)
        failures = judge(parity, gate)
        if failures:
            report("the check failed, looking for the reason")
            why, do = _explain(network, temporary, artefact, chosen, parity, opset=opset)
            raise GateError(f"{checkpoint} was not exported: {'; '.join(failures)}", why=why, do=do)
        artefact = replace(artefact, checks={**parity.as_dict(), "gate": gate})
        write_onnx(model, artefact, temporary)
        # The file was written again, with the figures in it: one more look at what lies on the disk.
        _open(temporary)(chosen.images[:1])
        artefact = replace(artefact, sha256=sha256_file(temporary))
        write_sidecar(artefact, temporary)
        file_bytes = temporary.stat().st_size
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Exported(out, artefact, parity, gate, parameters, opset, file_bytes)


def check_output(out: Path, *, force: bool) -> None:
    """Refuse a name that cannot be written, before anything long starts.

    Raises:
        UsageError: `out` does not end in .onnx.
        SanError: `out` or its sidecar exists and `force` is false, or is a folder.
    """
    if out.suffix != ".onnx":
        raise UsageError(f"-o {out} does not end in .onnx", do="name the file like model.onnx")
    for path in (out, sidecar_path(out)):
        if path.is_dir():
            raise SanError(f"{path} is a folder", do="name another output")
        refuse_existing(path, force=force)


def resolve_mask(network: SharpAttentionNetwork, asked: str | None) -> str:
    """The mask's name in the artefact: what was asked for, `argmax`, or what a network without a choice has.

    Returns:
        `argmax`, `expected`, `ramp:EPS`; `none` without attention; `soft` for a sigmoid gate.

    Raises:
        UsageError: `asked` is no mask, or the network has no sharp mask to choose.
    """
    if asked is not None:
        try:
            kind, eps = parse_mask(asked)
        except ValueError as error:
            raise UsageError(f"--mask: {error}") from error
        asked = f"{kind}:{eps:g}" if kind == "ramp" else kind
    fixed = "none" if not network.settings.attention else "soft" if network.settings.gate == "soft" else None
    if fixed is not None and asked is not None:
        what = "no attention" if fixed == "none" else "a soft gate"
        raise UsageError(
            f"--mask {asked} does not fit: the network has {what}, so no mask to choose",
            do="leave --mask out",
        )
    return fixed or asked or "argmax"


def describe(
    network: SharpAttentionNetwork,
    info: CheckpointInfo,
    *,
    mask: str,
    input_form: str,
    checkpoint_sha256: str,
) -> Artefact:
    """The artefact contract of an export, as yet without checks and without the file's own SHA-256."""
    settings = network.settings
    return Artefact(
        arch=f"{info.arch}-resnet{settings.depth}",
        settings=settings.as_dict(),
        embedding_dim=settings.embedding_dim,
        size_hw=settings.size_hw,
        input=input_form,
        resize=RESIZE,
        mean_rgb=MEAN_RGB,
        std_rgb=STD_RGB,
        mask=mask,
        precision="fp32",
        checkpoint_sha256=checkpoint_sha256,
        versions=versions(*TOOLS),
        threshold=info.threshold,
    )


def compare(network: SharpAttentionNetwork, path: Path, crops: CheckCrops, *, mask: str) -> Parity:
    """The model file in ONNX Runtime, as the edge runs it, against the trained network in PyTorch, in FP32.

    Raises:
        GateError: the file does not load, or gives rows that are not finite or not of norm 1.
    """
    # A network without a sharp mask has nothing to switch.
    evaluated = "argmax" if mask in ("none", "soft") else mask
    # One thread on both sides: the same kind of processor gives the same figures, and so the same file,
    # however many cores it has.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        reference = embed(network, crops.images, mask=evaluated, batch=BATCHES[-1])
    finally:
        torch.set_num_threads(threads)
    try:
        return measure(_open(path), reference, crops)
    except SanError as error:
        raise GateError("the exported file does not run", why=error.message) from error


def _explain(
    network: SharpAttentionNetwork,
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
    deployed = DeployedNetwork(network, mask="expected", input_form=artefact.input)
    model = to_onnx(deployed, artefact.size_hw, opset=opset)
    write_onnx(model, replace(artefact, mask="expected"), path)
    smooth = compare(network, path, crops, mask="expected")
    if judge(smooth, EQUAL):
        return wrong
    equal = min(figures.equal_rows for figures in parity.batches)
    why = (
        f"the graph is right (with the smooth mask `expected` it agrees to {smooth.min_cosine:.7f}, and "
        f"{equal:.0%} of these rows are equal): FP32 rounding flips mask bits at the threshold of "
        f"{artefact.mask}"
    )
    do = "train on, since a trained network is steadier"
    if artefact.mask == "argmax":
        do += f", give --mask {_STEADIER}, which does not flip"
    floor = math.floor(min(parity.min_cosine, parity.invariance) * 1000) / 1000
    return why, f"{do}, or accept the flips with --min-cosine {floor:g}"


@contextlib.contextmanager
def _pair(out: Path) -> Iterator[Path]:
    """`atomic_file` for a model file, and for the sidecar that is written beside its temporary name."""
    sidecar: Path | None = None
    try:
        with atomic_file(out) as temporary:
            sidecar = sidecar_path(temporary)
            yield temporary
        # Both were complete before the first got its name; nothing but this rename is left.
        os.replace(sidecar, sidecar_path(out))
    finally:
        if sidecar is not None:
            sidecar.unlink(missing_ok=True)


def _open(path: Path) -> OnnxRuntime:
    # With more threads it would cut a batch into one part for each, and a batch of 16 would never be run.
    return OnnxRuntime(path, threads=1)
