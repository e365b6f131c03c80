"""Whether an ONNX file has the precision that it says: counted again, where the `onnx` package is there."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SanError

if TYPE_CHECKING:
    from ..artefact import Artefact, Operands

_DO = "do not use it; fetch it again, or export it again"


def recount(path: Path, artefact: Artefact) -> Operands | None:
    """Count the operands of an ONNX file by precision, without executing it.

    Args:
        path: the file that `artefact` was read from; of an engine nothing is counted.
        artefact: what it says of itself.

    Returns:
        What was counted; None for an engine, whose description has its SHA-256, and without the onnx package.

    Raises:
        SanError: the file says otherwise, has nothing of the precision that it says it was exported in, cannot
            be counted, or was replaced meanwhile.
    """
    if artefact.engine is not None or path.suffix != ".onnx":
        return None
    try:
        import onnx
    except ImportError:
        return None
    from san_export.graph.precision_stats import agree, count_operands, shares

    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != artefact.sha256:
        raise SanError(f"{path} was replaced while it was read", do="try again when nobody writes it")
    try:
        found = count_operands(onnx.load_model_from_string(data))
    except Exception as error:  # onnx's exceptions have no common base but this
        why = str(error).strip().split("\n")[0]
        raise SanError(f"the precision of {path} cannot be counted", why=why, do=_DO) from error
    # Files from before they were counted say nothing of their operands.
    if artefact.operands is not None and not agree(artefact.operands, found):
        raise SanError(
            f"the file {path} says that it has {shares(artefact.operands)}, but has {shares(found)}", do=_DO
        )
    if found.count and not getattr(found, artefact.precision):
        raise SanError(
            f"the file {path} says that it is {artefact.precision.upper()}, but has {shares(found)}", do=_DO
        )
    return found


def counted(artefact: Artefact, found: Operands | None) -> tuple[Artefact, str]:
    """An artefact with the operands that were counted, and how they are known, in words; empty for an engine."""
    if found is not None:
        return replace(artefact, operands=found), "counted again here"
    if artefact.engine is not None or artefact.operands is None:
        return artefact, ""
    return artefact, "by its own word: onnx is not installed to count again"
