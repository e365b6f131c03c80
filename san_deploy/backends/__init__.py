"""Runtimes that embed crops: one file per runtime (`spec.Runtime`), one row each in `BACKENDS`."""

from __future__ import annotations

import difflib
import re
from dataclasses import replace
from pathlib import Path

from ..data import STARTER
from ..errors import SanError, UsageError
from ..io.paths import StrPath
from .info import Compatibility, FileInfo
from .spec import Backend, BackendSpec, OpenRequest

__all__ = [
    "BACKENDS",
    "PLANS",
    "STARTER",
    "Backend",
    "BackendSpec",
    "FileInfo",
    "OpenRequest",
    "file_kinds",
    "open_backend",
    "packages",
    "read_file",
]

#: Endings of a TensorRT plan, ours first.
PLANS = (".engine", ".plan")
_ENGINE = "build its engine: san export {path} --engine"
_ROWS = (
    BackendSpec(
        "onnxruntime",
        ".onnxruntime",
        (".onnx",),
        ("cpu", "cuda"),
        packages=("onnxruntime", "onnxruntime-gpu"),
        int8_form="cpu",
    ),
    BackendSpec(
        "onnxruntime-tensorrt",
        ".onnxruntime",
        (".onnx",),
        ("cuda",),
        packages=("onnxruntime-gpu", "tensorrt"),
        int8_form="tensorrt",
    ),
    BackendSpec(
        "tensorrt",
        ".tensorrt",
        PLANS,
        ("cuda",),
        packages=("tensorrt",),
        kind="TensorRT engine",
        int8_form="tensorrt",
        self_checks=True,
        made_by=_ENGINE,
    ),
    BackendSpec(
        "tensorrt-rtx",
        ".tensorrt",
        PLANS,
        ("cuda",),
        packages=("tensorrt-rtx-cu13",),
        kind="TensorRT engine",
        int8_form="tensorrt",
        self_checks=True,
        made_by=_ENGINE,
    ),
    BackendSpec(
        "openvino",
        ".openvino",
        (".onnx",),
        ("cpu",),
        packages=("openvino",),
        int8_form="cpu",
    ),
    BackendSpec(
        "torch",
        ".torch",
        (".safetensors",),
        ("cpu", "cuda"),
        packages=("torch",),
        kind="checkpoint",
        takes_mask=True,
    ),
)
#: Every backend by its name on the command line. `auto` takes the first that takes the file.
BACKENDS = {spec.name: spec for spec in _ROWS}


def packages(*others: str) -> tuple[str, ...]:
    """Names of the packages whose versions bear on figures: ours, and those of all runtimes.

    Args:
        others: more of them.
    """
    runtimes = [name for spec in BACKENDS.values() for name in spec.packages]
    return tuple(dict.fromkeys(("san-deploy", "numpy", "pillow", *runtimes, *others)))


def file_kinds() -> dict[str, str]:
    """What a model file is by its ending, `{".onnx": "ONNX", ...}`."""
    kinds: dict[str, str] = {}
    for spec in BACKENDS.values():
        for suffix in spec.suffixes:
            kinds.setdefault(suffix, spec.kind)
    return kinds


def open_backend(
    model: StrPath | None = None,
    *,
    backend: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    mask: str | None = None,
    self_check: bool = True,
    accept_damaged: bool = False,
) -> Backend:
    """Open a model file.

    Args:
        model: an .onnx file, a TensorRT plan (.engine, .plan) with its sidecar, or a checkpoint
            (.safetensors, needs PyTorch); None takes the starter model that ships in the package.
        backend: a name in `BACKENDS`; `auto` takes the first that takes the file's ending, and for a plan the
            runtime that it was built with.
        device: `cpu`, `cuda` or `cuda:1`; `auto` takes the first GPU where the backend can use it, else the CPU,
            and says in `note` which and why.
        threads: of ONNX Runtime and PyTorch on the CPU; None lets them take one per core.
        mask: of a checkpoint: `argmax`, `expected` or `ramp:EPS`; None is what it was trained for. Every other file
            has its own.
        accept_damaged: open an ONNX file or a checkpoint whose bytes are not those that were written; `note` says so.
        self_check: hold an engine's first load on a device against what the network gave, `san_deploy.self_check`.

    Raises:
        GateError: an engine gives other rows on this device than the network did.
        UsageError: no such backend, device or mask, or it does not fit the file or the others.
        SanError: the model or the device is not there, or does not run. What was named is never replaced.
    """
    asked, index = _parse_device(device)
    path = STARTER if model is None else Path(model)
    if backend != "auto" and backend not in BACKENDS:
        raise UsageError(f"--backend {backend} is unknown", do=_choices(backend, ("auto", *BACKENDS)))
    if model is None and not path.is_file():
        raise SanError(f"the starter model {path} is not installed", do="give a model: -m model.onnx")
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise SanError(f"model {path} {what}", do="export one: san export CHECKPOINT -o model.onnx")
    spec = _choose(path, backend)
    if asked not in ("auto", *spec.devices):
        raise UsageError(
            f"--device {device} does not fit: {spec.name} runs {path} on {' or '.join(spec.devices)} alone",
            do="leave --device out",
        )
    if mask is not None and not spec.takes_mask:
        raise UsageError(
            f"--mask {mask} does not go with {path}",
            why="its mask is part of the file",
            do="give the checkpoint, or export it with that mask: san export CHECKPOINT --mask",
        )
    opened = spec.runtime.open_model(spec, OpenRequest(path, asked, index, threads, mask, accept_damaged))
    if spec.self_checks and self_check:
        from ..self_check import check_once

        check_once(opened, path)
    return opened


def read_file(path: Path) -> FileInfo:
    """Say what a model file is. An engine is code, and is not executed.

    Raises:
        SanError: it is missing, unreadable, not ours, of an unknown kind, or contradicts itself or its sidecar. A file
            whose bytes are not those that were written is described, and `integrity` says what is wrong.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not a file" if path.exists() else "does not exist"
        raise SanError(f"{path} {what}", do="give an .onnx, an .engine or a .safetensors file")
    kinds = file_kinds()
    owner = next((spec for spec in BACKENDS.values() if spec.takes(path)), None)
    if owner is None:
        described = path.suffix == ".json" and path.with_suffix("").suffix in kinds
        raise SanError(
            f"{path} is no model file by its name",
            why=f"it describes {path.with_suffix('').name}" if described else "",
            do=f"give that file: {path.with_suffix('')}"
            if described
            else f"its ending is one of {', '.join(kinds)}",
        )
    file = owner.runtime.read_file(path)
    if file.integrity.state == "damaged":
        fitting = [spec.name for spec in BACKENDS.values() if spec.takes(path)]
        runs = [Compatibility(name, "", False, "the file is damaged") for name in fitting]
        return replace(file, runs=tuple(runs))
    runs = [verdict for spec in BACKENDS.values() for verdict in spec.runtime.diagnose(spec, file)]
    return replace(file, runs=tuple(runs))


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


def _choose(path: Path, backend: str) -> BackendSpec:
    """The row that runs a file."""
    fitting = [spec for spec in BACKENDS.values() if spec.takes(path)]
    if not fitting:
        raise SanError(
            f"model {path} is of no kind that runs here",
            do="give an .onnx or .engine file written by san export, or a checkpoint of san train (.safetensors)",
        )
    if backend != "auto" and BACKENDS[backend] not in fitting:
        asked = BACKENDS[backend]
        build = asked.made_by.format(path=path) if asked.made_by and path.suffix.lower() == ".onnx" else ""
        raise UsageError(
            f"--backend {backend} takes {' and '.join(asked.suffixes)}, not {path}",
            do=f"{build}; or give --backend auto" if build else "give --backend auto",
        )
    built_for = getattr(fitting[0].runtime, "built_for", None)
    if built_for is None:
        return fitting[0] if backend == "auto" else BACKENDS[backend]
    built = built_for(path) or fitting[0].name
    if backend not in ("auto", built):
        raise UsageError(
            f"--backend {backend} does not run {path}",
            why=f"it was built with {built}",
            do="give --backend auto",
        )
    return BACKENDS[built]
