"""Runtimes that embed crops. One file per runtime, one protocol for all."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from ..artefact import Artefact
from ..errors import SanError


class Backend(Protocol):
    """Runs one exported network on a batch of prepared crops.

    Implementations should
    - return a new array from each call, never a view of a reused buffer;
    - refuse crops that do not fit `artefact` before calling the runtime (`Artefact.to_input`);
    - raise SanError where an output is not finite or not of norm 1, naming the rows;
    - run on the device and precision asked for, or raise; never fall back;
    - be safe to call from two threads at once, which is how `embed_folder` keeps a runtime busy.
    """

    artefact: Artefact
    #: What runs it, in words, to print: `onnxruntime (CPU)`.
    name: str

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """`(N, H, W, 3)` uint8 BGR, N >= 1, to `(N, D)` float32 unit rows."""
        ...


STARTER = Path(__file__).parent.parent / "data" / "starter.onnx"


def open_backend(model: Path | None = None, *, threads: int | None = None) -> Backend:
    """Open a model file with the runtime that its ending calls for.

    Args:
        model: an .onnx file; None takes the starter model that ships in the package.
        threads: of the runtime; None lets it take one per core.
    """
    path = STARTER if model is None else Path(model)
    if model is None and not path.is_file():
        raise SanError(f"the starter model {path} is not installed", do="give a model: -m model.onnx")
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise SanError(f"model {path} {what}", do="export one: san export CHECKPOINT -o model.onnx")
    if path.suffix != ".onnx":
        raise SanError(
            f"model {path} is of no kind that runs here", do="give an .onnx file written by san export"
        )
    from .onnxruntime import OnnxRuntime

    return OnnxRuntime(path, threads=threads)
