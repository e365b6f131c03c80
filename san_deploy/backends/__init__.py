"""Runtimes that embed crops. One file per runtime, one protocol for all."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..artefact import Artefact, read_sidecar
from ..errors import SanError, UsageError
from ..io.paths import StrPath


class Backend(Protocol):
    """Runs one exported network on a batch of prepared crops.

    Implementations should
    - return a new array from each call, never a view of a reused buffer;
    - take any number of crops, cutting or filling up where the network was built for other numbers;
    - refuse crops that do not fit `artefact` before calling the runtime (`Artefact.to_input`);
    - raise SanError where an output is not finite or not of norm 1, naming the rows (`rows.check_rows`);
    - run on the device and precision asked for, or raise; never fall back;
    - be safe to call from two threads at once, which is how `embed_folder` keeps a runtime busy.

    One that can tell its steps apart also has `profile(crops)`, which gives milliseconds by name, as `TensorRT`.
    """

    artefact: Artefact
    #: What runs it, in words, to print: `onnxruntime (CPU, 2 threads)`.
    name: str
    #: What to know of how it runs here, in words, to print: why this device, what costs time. Empty for nothing.
    note: str

    def __call__(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """`(N, H, W, 3)` uint8 BGR, N >= 1, to `(N, D)` float32 unit rows."""
        ...


@dataclass(frozen=True)
class Kind:
    """What a backend takes.

    Attributes:
        suffixes: endings of its files.
        devices: where it can run them, the one to prefer last.
    """

    suffixes: tuple[str, ...]
    devices: tuple[str, ...]


#: Endings of a TensorRT plan, ours first.
PLANS = (".engine", ".plan")
#: Every backend by its name on the command line. `auto` takes the first that fits the file.
KINDS = {
    "onnxruntime": Kind((".onnx",), ("cpu", "cuda")),
    "onnxruntime-tensorrt": Kind((".onnx",), ("cuda",)),
    "tensorrt": Kind(PLANS, ("cuda",)),
    "tensorrt-rtx": Kind(PLANS, ("cuda",)),
    "torch": Kind((".safetensors",), ("cpu", "cuda")),
}
STARTER = Path(__file__).parent.parent / "data" / "starter.onnx"


def open_backend(
    model: StrPath | None = None,
    *,
    backend: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    mask: str | None = None,
) -> Backend:
    """Open a model file.

    Args:
        model: an .onnx file, a TensorRT plan (.engine, .plan) with its sidecar, or a checkpoint
            (.safetensors, needs PyTorch); None takes the starter model that ships in the package.
        backend: a name in `KINDS`; `auto` takes the one that the file's ending calls for, and for a plan the
            runtime that it was built with.
        device: `cpu`, `cuda` or `cuda:1`; `auto` takes the first GPU where the backend can use it, else the CPU,
            and says in `note` which and why.
        threads: of ONNX Runtime and PyTorch on the CPU; None lets them take one per core.
        mask: of a checkpoint: `argmax`, `expected` or `ramp:EPS`; None is what it was trained for. Every other file
            has its own.

    Raises:
        UsageError: no such backend, device or mask, or it does not fit the file or the others.
        SanError: the model or the device is not there, or does not run. What was named is never replaced.
    """
    asked, index = _parse_device(device)
    path = STARTER if model is None else Path(model)
    if backend != "auto" and backend not in KINDS:
        raise UsageError(f"--backend {backend} is unknown", do=_choices(backend, ("auto", *KINDS)))
    if model is None and not path.is_file():
        raise SanError(f"the starter model {path} is not installed", do="give a model: -m model.onnx")
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise SanError(f"model {path} {what}", do="export one: san export CHECKPOINT -o model.onnx")
    kind = _kind(path, backend)
    if asked not in ("auto", *KINDS[kind].devices):
        raise UsageError(
            f"--device {device} does not fit: {kind} runs {path} on {' or '.join(KINDS[kind].devices)} alone",
            do="leave --device out",
        )
    if kind == "torch":
        return _open_torch(path, asked, device, threads, mask)
    if mask is not None:
        raise UsageError(
            f"--mask {mask} does not go with {path}",
            why="its mask is part of the file",
            do="give the checkpoint, or export it with that mask: san export CHECKPOINT --mask",
        )
    if kind == "onnxruntime":
        return _open_onnx(path, asked, index, threads)
    if kind == "onnxruntime-tensorrt":
        from .onnxruntime import OnnxRuntime

        return OnnxRuntime(path, device=index, tensorrt=True)
    from .tensorrt import TensorRT

    return TensorRT(path, device=index)


def _parse_device(device: str) -> tuple[str, int]:
    """`cuda:1` -> (`cuda`, 1)."""
    match = re.fullmatch(r"(auto|cpu|cuda)(?:(?<=cuda):(\d{1,3}))?", device)
    if match is None:
        near = "cuda" if "gpu" in device.lower() else device
        raise UsageError(
            f"--device {device} is unknown", do=_choices(near, ("auto", "cpu", "cuda", "cuda:1"))
        )
    return match[1], int(match[2] or 0)


def _choices(name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name.lower(), known, 1)
    return (f"did you mean {near[0]}? Give" if near else "give") + f" one of {', '.join(known)}"


def _kind(path: Path, backend: str) -> str:
    """The backend that runs a file, of `KINDS`."""
    fitting = [name for name, kind in KINDS.items() if path.suffix in kind.suffixes]
    if not fitting:
        raise SanError(
            f"model {path} is of no kind that runs here",
            do="give an .onnx or .engine file written by san export, or a checkpoint of san train (.safetensors)",
        )
    if backend != "auto" and backend not in fitting:
        build = f"build its engine: san export {path} --engine; or " if path.suffix == ".onnx" else ""
        raise UsageError(
            f"--backend {backend} takes {' and '.join(KINDS[backend].suffixes)}, not {path}",
            do=f"{build if backend.startswith('tensorrt') else ''}give --backend auto",
        )
    if path.suffix not in PLANS:
        return fitting[0] if backend == "auto" else backend
    engine = read_sidecar(path).engine
    # What is no engine by its description is refused when it is opened.
    built = engine.runtime if engine is not None else fitting[0]
    if backend not in ("auto", built):
        raise UsageError(
            f"--backend {backend} does not run {path}",
            why=f"it was built with {built}",
            do="give --backend auto",
        )
    return built


def _open_onnx(path: Path, asked: str, index: int, threads: int | None) -> Backend:
    from .onnxruntime import CUDA, OnnxRuntime, missing_provider

    if asked == "cpu":
        return OnnxRuntime(path, threads=threads)
    if asked == "cuda":
        return OnnxRuntime(path, threads=threads, device=index)
    from .cuda import probe

    # A machine without a GPU is told of that, not of a package that would not help it.
    why = probe()[1] or missing_provider(CUDA)
    result: OnnxRuntime | None = None
    if not why:
        try:
            result = OnnxRuntime(path, threads=threads, device=index)
        except SanError as error:
            why = error.message + (f": {error.why}" if error.why else "")
    if result is None:
        result = OnnxRuntime(path, threads=threads)
    return _choice(result, why)


def _open_torch(path: Path, asked: str, device: str, threads: int | None, mask: str | None) -> Backend:
    from .torch import TorchNetwork, cuda_reason

    if asked != "auto":
        return TorchNetwork(path, device=device, threads=threads, mask=mask)
    why = cuda_reason()
    return _choice(TorchNetwork(path, device="cpu" if why else "cuda:0", threads=threads, mask=mask), why)


def _choice(result: Backend, why: str) -> Backend:
    """Say which device `auto` took, and for the CPU why."""
    choice = f"--device auto took the CPU: {why}" if why else "--device auto took the GPU"
    result.note = "; ".join(filter(None, (choice, result.note)))
    return result
