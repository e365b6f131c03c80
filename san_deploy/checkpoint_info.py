"""What a checkpoint says of itself, read without PyTorch: the header of a safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from .artefact import Threshold
from .errors import SanError

SCHEMA_VERSION = 1
#: Of recipes, and of checkpoints from before they named one.
_DEFAULT_MASK = "argmax"
#: The format's own limit on its header.
_HEADER_BYTES = 100_000_000


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
class Header:
    """The head of a safetensors file of ours.

    Attributes:
        description: what stands under the key `san`.
        shapes: of the tensors, by name.
    """

    description: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]


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
        metadata = header.pop("__metadata__", {})
        shapes = {name: tuple(map(int, tensor["shape"])) for name, tensor in header.items()}
        if max((tensor["data_offsets"][1] for tensor in header.values()), default=0) != left:
            raise ValueError("its tensors do not fill it: it is cut short, or was added to")
        if "san" not in metadata:
            raise SanError(f"{path} was not written by san train")
        description = json.loads(metadata["san"])
        if not isinstance(description, dict):
            raise ValueError("its description is no JSON object")
        return Header(description, shapes)
    except (ValueError, OSError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise SanError(f"{path} is not a whole safetensors file", why=str(error)) from error


def read_info(path: Path, description: Mapping[str, Any]) -> CheckpointInfo:
    """The description as a `CheckpointInfo`.

    Raises:
        SanError: it is damaged, of another schema, or of something else than a network.
    """
    try:
        if description["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema {description['schema_version']}, this is {SCHEMA_VERSION}")
        values = dict(description)
        lacking = [name for name in ("arch", "settings", "resize", "epoch") if name not in values]
        if lacking:
            raise ValueError(f"it says nothing of its {lacking[0]}")
        unknown = sorted(set(values) - {item.name for item in fields(CheckpointInfo)})
        if unknown:
            raise ValueError(f"it says '{unknown[0]}', which this version does not know")
        if values.get("threshold") is not None:
            values["threshold"] = Threshold(**values["threshold"])
        return CheckpointInfo(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise SanError(f"{path} is no checkpoint of a network", why=str(error)) from error
