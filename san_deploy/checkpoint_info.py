"""What a checkpoint says of itself, read without PyTorch: the header of a safetensors file."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from .artefact import Threshold, check_threshold, description_sha256
from .errors import SanError
from .integrity import UNKNOWN, WHOLE, Integrity
from .io.typed_json import read_record

SCHEMA_VERSION = 1
#: Of recipes, and of checkpoints from before they named one.
_DEFAULT_MASK = "argmax"
#: The format's own limit on its header.
_HEADER_BYTES = 100_000_000
#: Keys of `__metadata__` beside the description `san`.
HASHES = ("san.tensors_sha256", "san.description_sha256")


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint says of itself.

    Attributes:
        arch: a name in `models.ARCHITECTURES`.
        settings: of that architecture, as its settings class takes them.
        resize: name of the resize that was trained with.
        epoch: epochs trained.
        recipe: the resolved configuration of the training run.
        metrics: the last validation, or empty.
        threshold: calibrated on people that were not trained on, or None.
        data: what it was trained on, in words.
        versions: of the tools.
    """

    arch: str
    settings: dict[str, Any]
    resize: str
    epoch: int
    recipe: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    threshold: Threshold | None = None
    data: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @property
    def named_mask(self) -> str:
        """The mask that the recipe names, whether the network has a choice or not."""
        return str(self.recipe.get("deploy_mask", _DEFAULT_MASK))

    @property
    def recommended_mask(self) -> str:
        """The mask that the recipe names where it is not the default, argmax; empty where there is no choice.

        Only the network itself knows its masks for sure, and PyTorch alone can build it: a soft gate and a network
        without attention are told by their settings.
        """
        sharp = self.settings.get("gate", "sharp") == "sharp" and self.settings.get("attention", True)
        return self.named_mask if sharp and self.named_mask != _DEFAULT_MASK else ""


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor stands in a safetensors file.

    Attributes:
        dtype: as the format spells it, `F32`.
        shape: of the tensor.
        data_offsets: where its bytes start and end, counted from the end of the header.
    """

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


@dataclass(frozen=True)
class Header:
    """The head of a safetensors file of ours.

    Attributes:
        description: what stands under the key `san`.
        tensors: by name.
        start: byte of the file at which the tensors start.
        tensors_sha256: that the file has of its tensors; empty in files from before it was kept.
        description_sha256: likewise of the description.
    """

    description: dict[str, Any]
    tensors: dict[str, TensorInfo]
    start: int
    tensors_sha256: str = ""
    description_sha256: str = ""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the tensors, by name."""
        return {name: tensor.shape for name, tensor in self.tensors.items()}


def read_header(path: Path) -> Header:
    """Read the description and the tensors' shapes; no tensor is read.

    The format (huggingface.co/docs/safetensors): 8 bytes with the header's length, little-endian; JSON,
    `{name: {dtype, shape, data_offsets}}` and `__metadata__`; the tensors' bytes without a gap.

    Raises:
        SanError: missing, cut short, no safetensors file, or not ours.
    """
    path = Path(path)
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise SanError(f"checkpoint {path} {what}", do="train one: san train DATA -o RUN")
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            left = path.stat().st_size - 8 - length
            if not (0 < length <= _HEADER_BYTES and left >= 0):
                raise ValueError("its header does not fit into it")
            header = json.loads(file.read(length))
        if not isinstance(header, dict):
            raise ValueError("its header is no JSON object")
        metadata = header.pop("__metadata__", {})
        tensors = {name: read_record(TensorInfo, value, name) for name, value in header.items()}
        if any(min((*tensor.shape, *tensor.data_offsets), default=0) < 0 for tensor in tensors.values()):
            raise ValueError("a shape or an offset is below zero")
        if max((tensor.data_offsets[1] for tensor in tensors.values()), default=0) != left:
            raise ValueError("its tensors do not fill it: it is cut short, or was added to")
        if not isinstance(metadata, dict):
            raise ValueError("its metadata is no JSON object")
        if "san" not in metadata:
            raise SanError(f"{path} was not written by san train")
        description = json.loads(metadata["san"])
        if not isinstance(description, dict):
            raise ValueError("its description is no JSON object")
        hashes = (str(metadata.get(key, "")) for key in HASHES)
        return Header(description, tensors, 8 + length, *hashes)
    except (ValueError, OSError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise SanError(f"{path} is not a whole safetensors file", why=str(error)) from error


def tensors_sha256(path: Path, header: Header) -> str:
    """SHA-256 over a file's tensors, by name: name, dtype, shape and bytes of each; hexadecimal.

    It does not depend on where they stand in the file, nor on the description.

    Raises:
        SanError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            for name, tensor in sorted(header.tensors.items()):
                digest.update(json.dumps([name, tensor.dtype, tensor.shape]).encode("utf-8"))
                start, end = tensor.data_offsets
                file.seek(header.start + start)
                left = end - start
                while left > 0 and (block := file.read(min(left, 1 << 20))):
                    digest.update(block)
                    left -= len(block)
    except OSError as error:
        raise SanError(f"cannot read {path}: {error.strerror or error}") from error
    return digest.hexdigest()


def check_hashes(path: Path, header: Header) -> Integrity:
    """What vouches for a checkpoint's or a training state's bytes; all of the file is read."""
    if not header.tensors_sha256 and not header.description_sha256:
        return UNKNOWN
    if description_sha256(header.description) != header.description_sha256:
        return Integrity("damaged", "its description is not the one that was written")
    found = tensors_sha256(path, header)
    if found != header.tensors_sha256:
        return Integrity(
            "damaged",
            f"SHA-256 of its tensors {found[:12]} here, {header.tensors_sha256[:12]!a} written in it",
        )
    return WHOLE


def stamp(path: Path) -> None:
    """Write the hashes of its tensors and of its description into a safetensors file of ours, in place.

    Args:
        path: a temporary file, as it is rewritten.

    Raises:
        SanError: it is no safetensors file of ours.
    """
    header = read_header(path)
    found = (tensors_sha256(path, header), description_sha256(header.description))
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        values = json.loads(file.read(length))
        values["__metadata__"].update(zip(HASHES, found, strict=True))
        text = json.dumps(values, separators=(",", ":")).encode("utf-8")
        # As the format's own writer does: tensors start at a multiple of 8.
        text += b" " * (-len(text) % 8)
        with path.with_name(path.name + ".stamped").open("wb") as target:
            target.write(len(text).to_bytes(8, "little") + text)
            shutil.copyfileobj(file, target, 1 << 20)
    os.replace(path.with_name(path.name + ".stamped"), path)


def read_info(path: Path, description: Mapping[str, Any]) -> CheckpointInfo:
    """The description as a `CheckpointInfo`.

    Raises:
        SanError: it is damaged, of another schema, or of something else than a network.
    """
    try:
        if description["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema {description['schema_version']}, this is {SCHEMA_VERSION}")
        lacking = [name for name in ("arch", "settings", "resize", "epoch") if name not in description]
        if lacking:
            raise ValueError(f"it says nothing of its {lacking[0]}")
        unknown = sorted(set(description) - {item.name for item in fields(CheckpointInfo)})
        if unknown:
            raise ValueError(f"it says '{unknown[0]}', which this version does not know")
        info = read_record(CheckpointInfo, description)
        check_threshold(info.threshold)
        return info
    except (KeyError, TypeError, ValueError) as error:
        raise SanError(f"{path} is no checkpoint of a network", why=str(error)) from error


@dataclass(frozen=True)
class StateInfo:
    """What the state of a training run says of itself.

    Attributes:
        epoch: epochs trained.
        best: score of the best checkpoint so far.
        metrics: the last validation, or empty.
        recipe: of the run; empty in states from before it was kept.
        data: fingerprint of what it is trained on; None likewise.
        precision: `fp32` or `bf16`; empty likewise.
        world_size: processes that trained together.
    """

    epoch: int
    best: float
    metrics: dict[str, Any]
    recipe: dict[str, Any] = field(default_factory=dict)
    data: Any = None
    precision: str = ""
    world_size: int = 1


def read_state(path: Path, description: Mapping[str, Any]) -> StateInfo:
    """The description as a `StateInfo`.

    Raises:
        SanError: it is damaged, or of something else than the state of a run.
    """
    try:
        state = read_record(StateInfo, description)
        if state.epoch < 0:
            raise ValueError(f"field epoch is {state.epoch}")
        return state
    except ValueError as error:
        raise SanError(f"{path} is no state of a run", why=str(error), do="start a new run") from error
