"""What the target says of itself, held against what its file is and against the reference."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields

import onnx
from onnx import TensorProto

from san_deploy.artefact import (
    INPUT_NAME,
    OUTPUT_NAME,
    Artefact,
    PrecisionStats,
    read_sidecar,
    sha256_file,
    sidecar_path,
)
from san_deploy.errors import SanError

from ...graph.precision_stats import agree, count_operands, shares
from ...precision.convert import MIN_FP16
from ..gates import Gates
from ..models import ModelPair, ParityModel
from ..result import ArtefactFigures, Stage

#: Least share of the operands that an FP32 file must have in FP32.
_FP32_SHARE = 1.0
Fact = tuple[str, str, str, bool]


def check_artefact(pair: ModelPair, gates: Gates) -> Stage:
    """Look at the description of the target fact by fact.

    Args:
        pair: opened; nothing is run.
        gates: what to reach.
    """
    target = pair.target
    facts = [
        *(_of_onnx(target, target.model) if target.model is not None else _of_engine(pair)),
        *_sidecar(target),
        *_against(pair.reference, target.artefact),
    ]
    wrong = [fact for fact in facts if not fact[3]]
    message = f"{len(wrong)} of {len(facts)} facts do not agree"
    if wrong:
        message += ": " + "; ".join(f"{name}: {found}, not {claimed}" for name, claimed, found, _ in wrong)
    return Stage(
        "artefact",
        ArtefactFigures(tuple(facts)),
        gates.check("artefact", len(wrong), message),
        notes=(*pair.notes, *target.notes),
    )


def _of_onnx(target: ParityModel, model: onnx.ModelProto) -> list[Fact]:
    artefact = target.artefact
    facts = []
    try:
        found = count_operands(model)
    except SanError as error:
        # A runtime's own operators: what they compute with is not seen, so nothing that the file says is false.
        facts.append(("precision", artefact.precision.upper(), f"not comparable here: {error.message}", True))
    else:
        facts += _precision(artefact, found)
        if artefact.operands is not None:
            claimed = artefact.operands
            facts.append(("operands", shares(claimed), shares(found), agree(claimed, found)))
    height, width = artefact.size_hw
    taken = {
        "uint8": f"{INPUT_NAME} UINT8 (N, {height}, {width}, 3)",
        "float": f"{INPUT_NAME} FLOAT (N, 3, {height}, {width})",
    }[artefact.input]
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = _ports(item for item in model.graph.input if item.name not in weights)
    given = f"{OUTPUT_NAME} FLOAT (N, {artefact.embedding_dim})"
    outputs = _ports(model.graph.output)
    return [
        *facts,
        ("input", taken, inputs, _any_batch(inputs) == taken),
        ("output", given, outputs, _any_batch(outputs) == given),
    ]


def _of_engine(pair: ModelPair) -> list[Fact]:
    """Of a plan: what was counted when it was built. Its ports and its profile were looked at when it was opened."""
    artefact = pair.target.artefact
    engine = artefact.engine
    if engine is None:
        return [("engine", "an engine", "no engine by its description", False)]
    asked = artefact.precision.upper()
    if artefact.operands is None:
        facts: list[Fact] = [("precision", asked, "not counted when it was built", False)]
    else:
        facts = _precision(artefact, artefact.operands)
    least, best, most = engine.batch
    profile = f"{least} to {most} crops, best at {best}"
    facts.append(("profile", profile, "the engine's own, seen when it was opened", True))
    if pair.onnx_file is not None:
        found = sha256_file(pair.onnx_file)
        facts.append(("built from", engine.onnx_sha256[:12], found[:12], found == engine.onnx_sha256))
    return facts


def _precision(artefact: Artefact, found: PrecisionStats) -> list[Fact]:
    """Asked against built."""
    share = getattr(found, artefact.precision)
    enough = {"fp16": MIN_FP16, "int8": artefact.int8.min_share}.get(artefact.precision, _FP32_SHARE)
    # A network without a product has nothing to count.
    good = not found.count or share >= enough
    return [("precision", artefact.precision.upper(), shares(found), good)]


def _sidecar(target: ParityModel) -> list[Fact]:
    """What lies beside the file, where something does."""
    path, artefact = target.path, target.artefact
    if not sidecar_path(path).exists():
        return []
    try:
        beside = read_sidecar(path)
    except SanError as error:
        return [(sidecar_path(path).name, f"the description of {path.name}", error.message, False)]
    found = artefact.sha256 or sha256_file(path)
    facts = [("SHA-256", beside.sha256[:12] or "none", found[:12], beside.sha256 == found)]
    if target.model is not None:
        differ = [
            item.name
            for item in fields(Artefact)
            if item.name != "sha256" and getattr(beside, item.name) != getattr(artefact, item.name)
        ]
        what = "differs in " + ", ".join(differ) if differ else "the same"
        facts.append((sidecar_path(path).name, "what the file says", what, not differ))
    return facts


def _against(reference: ParityModel, target: Artefact) -> list[Fact]:
    """What both must have in common."""
    known = reference.artefact
    facts: list[Fact] = [
        (
            "checkpoint",
            known.checkpoint_sha256[:12],
            target.checkpoint_sha256[:12],
            known.checkpoint_sha256 == target.checkpoint_sha256,
        ),
        ("settings", "the reference's", *_settings(known.settings, target.settings)),
    ]
    for name in ("resize", "mean_rgb", "std_rgb"):
        claimed, found = getattr(known, name), getattr(target, name)
        facts.append((name, _text(claimed), _text(found), claimed == found))
    # Comparing masks is legitimate, so another one is no failure; the notes say it loudly.
    other = "" if known.mask == target.mask else ", which may be compared: see the notes"
    return [*facts, ("mask", known.mask, target.mask + other, True)]


def _settings(known: Mapping[str, object], found: Mapping[str, object]) -> tuple[str, bool]:
    """Of those that both have: another version of san-deploy may know a setting more."""
    differ = sorted(key for key in known.keys() & found.keys() if not _same(known[key], found[key]))
    return ("others: " + ", ".join(differ), False) if differ else ("the same", True)


def _same(a: object, b: object) -> bool:
    """JSON makes lists of tuples."""
    return list(a) == list(b) if isinstance(a, list | tuple) and isinstance(b, list | tuple) else a == b


def _text(value: object) -> str:
    return ", ".join(f"{item:g}" for item in value) if isinstance(value, tuple) else str(value)


def _any_batch(ports: str) -> str:
    """Ports of a file that is fixed to a batch, as if they took any."""
    return re.sub(r"\(\d+,", "(N,", ports)


def _ports(items: Iterable[onnx.ValueInfoProto]) -> str:
    """Inputs or outputs in words; a batch of any size is N, whatever it is called."""
    ports = []
    for item in items:
        kind = item.type.tensor_type
        first, *rest = list(kind.shape.dim) or [None]
        shape = [str(first.dim_value) if first is not None and first.HasField("dim_value") else "N"]
        shape += [str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?" for dim in rest]
        ports.append(f"{item.name} {TensorProto.DataType.Name(kind.elem_type)} ({', '.join(shape)})")
    return "; ".join(ports) or "none"
