"""What a model file is and whether it runs here, without PyTorch and without executing an engine."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..integrity import WHOLE, Integrity
from ..io.printable import printable

if TYPE_CHECKING:
    from ..artefact import Artefact
    from ..checkpoint_info import CheckpointInfo


@dataclass(frozen=True)
class Compatibility:
    """Whether one backend runs a file here.

    Attributes:
        backend: a name in `backends.BACKENDS`.
        device: `cpu` or `cuda`, for a backend that runs the file on either; else empty.
        runs: whether it does.
        why: reason, in words.
        do: what to do about it where it does not; empty where nothing helps.
    """

    backend: str
    device: str
    runs: bool
    why: str
    do: str = ""


@dataclass(frozen=True)
class FileInfo:
    """What a model file is.

    Attributes:
        path: the file.
        kind: one of the values of `backends.file_kinds()`.
        bytes: its size.
        sha256: checksum of its bytes.
        sidecar: name of the description beside it, which agrees with it; empty where there is none.
        artefact: description of an ONNX file or an engine.
        checkpoint: description of a checkpoint.
        parameters: number of a checkpoint's parameters, batch norm statistics not counted.
        runs: what each backend says of it.
        integrity: what vouches for its bytes.
    """

    path: Path
    kind: str
    bytes: int
    sha256: str
    sidecar: str
    artefact: Artefact | None = None
    checkpoint: CheckpointInfo | None = None
    parameters: int | None = None
    runs: tuple[Compatibility, ...] = ()
    integrity: Integrity = WHOLE

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        ports = (
            {}
            if self.artefact is None
            else {"input": input_of(self.artefact), "output": output_of(self.artefact)}
        )
        mask = (
            {} if self.checkpoint is None else {"recommended_mask": self.checkpoint.recommended_mask or None}
        )
        artefact = {} if self.artefact is None else {"artefact": self.artefact.as_dict()}
        return asdict(self) | artefact | {"path": printable(self.path)} | ports | mask


def input_of(artefact: Artefact) -> dict[str, Any]:
    """What the graph takes, and what it does to it, so that nobody does that twice."""
    from ..artefact import INPUT_NAME

    height, width = artefact.size_hw
    taken = (
        {"shape": ["N", height, width, 3], "layout": "NHWC", "type": "uint8", "colour": "BGR"}
        if artefact.input == "uint8"
        else {"shape": ["N", 3, height, width], "layout": "NCHW", "type": "float32", "colour": "RGB"}
    )
    return {
        "name": INPUT_NAME,
        **taken,
        "range": [0, 255],
        "resize": artefact.resize,
        "normalised_inside": {"mean_rgb": artefact.mean_rgb, "std_rgb": artefact.std_rgb},
    }


def output_of(artefact: Artefact) -> dict[str, Any]:
    """What the graph gives."""
    from ..artefact import OUTPUT_NAME

    return {"name": OUTPUT_NAME, "shape": ["N", artefact.embedding_dim], "type": "float32", "row_norm": 1.0}
