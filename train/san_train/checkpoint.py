"""Checkpoints: one safetensors file that describes itself, and the same description as JSON beside it for people.

No pickle is written or read. The description stands in the safetensors header (key `san`), so that the
file may be moved alone.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from san_deploy.artefact import mask_name
from san_deploy.checkpoint_info import CheckpointInfo, check_hashes, read_header, read_info, stamp
from san_deploy.errors import SanError
from san_deploy.io.atomic import atomic_file

from .models import Network, build_model


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], description: dict[str, Any]) -> None:
    """Write tensors and their description, with the hashes of both, atomically."""
    with atomic_file(path) as temporary, _disk_errors(path):
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            temporary,
            {"san": json.dumps(description, sort_keys=True)},
        )
        stamp(temporary)


def load_tensors(
    path: Path, *, accept_damaged: bool = False
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote.

    Args:
        path: the file.
        accept_damaged: do not hold its bytes against its hashes; the caller does, and says so.

    Raises:
        SanError: missing, cut short, no safetensors file, not ours, or of other bytes than were written.
    """
    header = read_header(path)
    description = header.description
    if not accept_damaged:
        check_hashes(path, header).require(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, description  # noqa: SIM118
    except (SafetensorError, ValueError, OSError) as error:
        raise SanError(f"{path} is not a whole safetensors file", why=str(error)) from error


def save_checkpoint(path: Path, model: Network, info: CheckpointInfo) -> None:
    """Write `path` (.safetensors) and the description beside it (.json), each atomically."""
    description = asdict(info)
    save_tensors(path, dict(model.state_dict()), description)
    with atomic_file(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(description, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def load_checkpoint(path: Path, *, accept_damaged: bool = False) -> tuple[Network, CheckpointInfo]:
    """Read a checkpoint and build its network, on the CPU, in evaluation mode.

    Its masks are argmax, whatever its recipe recommends (`CheckpointInfo.recommended_mask`).

    Args:
        path: the file.
        accept_damaged: as of `load_tensors`.

    Raises:
        SanError: not a checkpoint, of an unknown architecture, or weights that do not fit it.
    """
    tensors, description = load_tensors(path, accept_damaged=accept_damaged)
    info = read_info(path, description)
    try:
        model = build_model(info.arch, info.settings)
        if model.mask_kind == "sharp":
            mask_name(info.named_mask)  # refused here, where the file is known
    except (ValueError, TypeError, RuntimeError, MemoryError, OverflowError) as error:
        raise SanError(
            f"{path} cannot be built", why=str(error), do="use the version of san-deploy that wrote it"
        ) from error
    load_weights(model, tensors, path)
    return model.eval(), info


def load_weights(model: Network | torch.nn.Module, tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Load exactly these weights; a missing, foreign or misshapen one is an error, never a random layer."""
    expected = model.state_dict()
    wrong = sorted(set(expected) ^ set(tensors))
    wrong += sorted(
        name for name in set(expected) & set(tensors) if expected[name].shape != tensors[name].shape
    )
    if wrong:
        raise SanError(
            f"{path} holds the weights of another architecture",
            why=f"{len(wrong)} tensors differ, the first is {wrong[0]}",
        )
    broken = sorted(
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not torch.isfinite(tensor).all()
    )
    if broken:
        raise SanError(f"{path} holds NaN or infinity in {broken[0]}", do="train again")
    try:
        model.load_state_dict(tensors)
    except ValueError as error:
        # A network may look closer than at shapes: weights of equal shapes can belong to another input size.
        raise SanError(f"{path} holds weights that do not fit", why=str(error)) from error


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """safetensors reports a full disk as its own exception, which is no OSError."""
    try:
        yield
    except SafetensorError as error:
        space = "free some space, or " if re.search(r"os error (28|122)\b", str(error)) else ""
        raise SanError(
            f"cannot write {path}",
            why=str(error),
            # 28 and 122 are ENOSPC and EDQUOT.
            do=f"{space}choose a folder that can be written",
        ) from error
