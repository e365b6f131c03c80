"""What a model file is and whether it runs here, without PyTorch and without executing an engine."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..artefact import INPUT_NAME, OUTPUT_NAME, PREFIX, Artefact, read_sidecar, sha256_file, sidecar_path
from ..checkpoint_info import CheckpointInfo, read_header, read_info
from ..errors import SanError
from ..io.printable import printable
from .compatibility import Compatibility, runs_checkpoint, runs_onnx, runs_plan
from .plan import read_plan

#: What a file is by its ending.
WHAT = {
    ".onnx": "ONNX",
    ".engine": "TensorRT engine",
    ".plan": "TensorRT engine",
    ".safetensors": "checkpoint",
}
#: No ONNX file without external data is larger.
_MAX_BYTES = 2**31
#: Ends of the names of tensors that are counted, not learned.
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class FileInfo:
    """What a model file is.

    Attributes:
        path: the file.
        kind: one of the values of `WHAT`.
        bytes: its size.
        sha256: of its bytes.
        sidecar: name of the description beside it, which agrees with it; empty where there is none.
        artefact: of an ONNX file or an engine.
        checkpoint: of a checkpoint.
        parameters: of a checkpoint, batch norm statistics not counted.
        runs: a verdict for each backend.
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

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        ports = (
            {}
            if self.artefact is None
            else {"input": input_of(self.artefact), "output": output_of(self.artefact)}
        )
        mask = {} if self.checkpoint is None else {"deploy_mask": self.checkpoint.deploy_mask or None}
        return asdict(self) | {"path": printable(self.path)} | ports | mask


def input_of(artefact: Artefact) -> dict[str, Any]:
    """What the graph takes, and what it does to it, so that nobody does that twice."""
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
    return {"name": OUTPUT_NAME, "shape": ["N", artefact.embedding_dim], "type": "float32", "row_norm": 1.0}


def read_file(path: Path) -> FileInfo:
    """Say what a model file is. An engine is code, and is not executed.

    Raises:
        SanError: it is missing, damaged, not ours, of an unknown kind, or contradicts itself or its sidecar.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not a file" if path.exists() else "does not exist"
        raise SanError(f"{path} {what}", do="give an .onnx, an .engine or a .safetensors file")
    read = {"ONNX": _read_onnx, "TensorRT engine": _read_plan, "checkpoint": _read_checkpoint}
    kind = WHAT.get(path.suffix)
    if kind is None:
        described = path.suffix == ".json" and path.with_suffix("").suffix in WHAT
        raise SanError(
            f"{path} is no model file by its name",
            why=f"it describes {path.with_suffix('').name}" if described else "",
            do=f"give that file: {path.with_suffix('')}"
            if described
            else f"its ending is one of {', '.join(WHAT)}",
        )
    return read[kind](path)


def _read_onnx(path: Path) -> FileInfo:
    # Imported here: a machine that has TensorRT alone can be told what an engine is.
    from .onnxruntime import OnnxRuntime

    try:
        artefact = OnnxRuntime(path, threads=1).artefact
    except SanError as error:
        ports = _foreign_ports(path)
        if ports is None:
            raise
        raise SanError(f"{path} was not written by san export", why=ports, do=error.do) from error
    told = _beside(path)
    if told is not None and told != artefact:
        differ = [
            item.name for item in fields(Artefact) if getattr(told, item.name) != getattr(artefact, item.name)
        ]
        raise SanError(
            f"{path} and {sidecar_path(path).name} contradict each other",
            why=f"they differ in {', '.join(differ)}",
            do="fetch both again, or export the model again",
        )
    return FileInfo(
        path,
        WHAT[path.suffix],
        path.stat().st_size,
        artefact.sha256,
        sidecar_path(path).name if told else "",
        artefact=artefact,
        runs=runs_onnx(path, artefact),
    )


def _beside(path: Path) -> Artefact | None:
    return read_sidecar(path) if sidecar_path(path).exists() else None


def _foreign_ports(path: Path) -> str | None:
    """Inputs and outputs of an ONNX file that says nothing of itself; None for ours and for what does not open."""
    if path.stat().st_size > _MAX_BYTES:
        return None
    from .ort import onnxruntime, quiet_options

    try:
        session = onnxruntime.InferenceSession(
            path.read_bytes(), quiet_options(), providers=["CPUExecutionProvider"]
        )
    except Exception:  # its exceptions have no common base but this; what is wrong was said by the backend
        return None
    if any(key.startswith(PREFIX) for key in session.get_modelmeta().custom_metadata_map):
        return None
    taken, given = (
        ", ".join(f"{node.name} {node.type} {tuple(node.shape or ())}" for node in ports) or "nothing"
        for ports in (session.get_inputs(), session.get_outputs())
    )
    return f"it takes {taken} and gives {given}"


def _read_plan(path: Path) -> FileInfo:
    plan = read_plan(path)
    return FileInfo(
        path,
        WHAT[path.suffix],
        len(plan.data),
        plan.artefact.sha256,
        sidecar_path(path).name,
        artefact=plan.artefact,
        runs=runs_plan(plan),
    )


def _read_checkpoint(path: Path) -> FileInfo:
    header = read_header(path)
    info = read_info(path, header.description)
    parameters = sum(
        math.prod(shape) for name, shape in header.shapes.items() if not name.endswith(_STATISTICS)
    )
    return FileInfo(
        path,
        WHAT[path.suffix],
        path.stat().st_size,
        sha256_file(path),
        _check_beside(path, header.description),
        checkpoint=info,
        parameters=parameters,
        runs=runs_checkpoint(path),
    )


def _check_beside(path: Path, description: dict[str, Any]) -> str:
    """Name of the JSON file that `san train` wrote beside a checkpoint, for people; empty where there is none."""
    beside = path.with_suffix(".json")
    try:
        told = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return ""
    # Many programs write a model.json.
    if not (isinstance(told, dict) and {"arch", "settings", "schema_version"} <= told.keys()):
        return ""
    differ = sorted(key for key in told.keys() | description.keys() if told.get(key) != description.get(key))
    if differ:
        raise SanError(
            f"{path} and {beside.name} contradict each other",
            why=f"they differ in {', '.join(differ)}",
            do="the checkpoint itself counts; remove the other file, or fetch both again",
        )
    return beside.name
