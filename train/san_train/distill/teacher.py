"""Networks that are asked for answers: OpenVINO IR, ONNX files of ours or of others, checkpoints, TensorRT plans.

A teacher gives a row for each crop and, where its file shows its graph, the last feature map of each size: a map
says what it saw where, which teaches far more with each crop than one row does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from san_deploy.artefact import PREFIX, from_metadata, sha256_file
from san_deploy.data.samples import read_samples
from san_deploy.errors import SanError, UsageError, first_line, last_line
from san_deploy.io.extras import install
from san_deploy.preprocess import MEAN_RGB, STD_RGB, resize_crop

#: What a network of somebody else takes, `--teacher-input`: BGR or RGB of 0..255 as they are (Intel's Open Model Zoo:
#: bgr), or RGB with ImageNet's mean and deviation taken out (torchvision's and torchreid's).
FORMS = ("bgr", "rgb", "imagenet")
#: Maps that are asked for, from the last one back.
LEVELS = 3
#: Maps are taken as means over blocks, down to these sizes, by level, the last map first.
GRIDS = ((8, 4), (16, 8), (16, 8))
#: Of a run's precision, as OpenVINO calls them.
_HINTS = {"fp32": "f32", "bf16": "bf16"}
#: A map below this size is a vector, one above it holds edges and colours, not people.
_SMALLEST, _LARGEST = 2, 64


@dataclass(frozen=True, eq=False)
class Answers:
    """What a teacher says of N crops.

    Attributes:
        rows: `(N, D)` float32, not normalised.
        maps: the last feature maps of each size, the last first, `(N, C, h, w)` float32 each; may be empty.
    """

    rows: np.ndarray
    maps: tuple[np.ndarray, ...]


class Teacher(Protocol):
    """Answers of one network. `name` says which, in words, to print and to write on a card."""

    name: str

    def __call__(self, crops: Sequence[np.ndarray]) -> Answers:
        """Crops, `(H, W, 3)` uint8 BGR of any sizes, to answers."""
        ...


def open_teacher(
    path: Path, *, form: str = "bgr", threads: int | None = None, precision: str = "fp32"
) -> Teacher:
    """Open a teacher, and ask it about two sample crops: whatever cannot answer ends here, before hours of views.

    Args:
        path: OpenVINO IR (.xml with its .bin), an ONNX file of ours or of others, a checkpoint of ours
            (.safetensors) or a TensorRT plan of ours. The last two give no maps.
        form: of `FORMS`, for a network that is not ours; ours know what they take.
        threads: on the CPU; None takes one per core.
        precision: `bf16` lets OpenVINO compute in bfloat16, three times as fast where the processor has AMX.

    Raises:
        SanError: no such file, one that cannot be run, no network of crops, or the same answer to both; UsageError for
            an unknown form.
    """
    path = Path(path)
    if form not in FORMS:
        raise UsageError(f"--teacher-input is one of {', '.join(FORMS)}; received '{form}'")
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise SanError(f"the teacher {path} {what}", do="give a .xml, .onnx or .safetensors file")
    teacher: Teacher
    if path.suffix == ".xml":
        teacher = _OpenVino(path, form, threads, precision)
    elif path.suffix == ".onnx":
        teacher = _Onnx(path, form, threads)
    else:
        from san_deploy.backends import open_backend

        teacher = _Own(open_backend(path, threads=threads), path)
    _try(teacher, path)
    return teacher


def _try(teacher: Teacher, path: Path) -> None:
    crops = [sample.read() for sample in read_samples(2)]
    try:
        rows = teacher(crops).rows
    except SanError:
        raise
    except Exception as error:  # runtimes' exceptions have no common base but this
        raise SanError(f"the teacher {path} fails on a crop", why=first_line(error)) from error
    if not np.ptp(rows, axis=0).any():
        raise SanError(
            f"the teacher {path} gives the same row for every crop",
            do="check what it takes (--teacher-input), or export it again",
        )


class _Own:
    """A backend of ours."""

    def __init__(self, backend: Any, path: Path) -> None:
        self._backend, self.name = backend, path.name

    def __call__(self, crops: Sequence[np.ndarray]) -> Answers:
        size_hw = self._backend.artefact.size_hw
        return Answers(self._backend(np.stack([resize_crop(crop, size_hw) for crop in crops])), ())


class _Onnx:
    """ONNX Runtime on the CPU; maps are made outputs."""

    def __init__(self, path: Path, form: str, threads: int | None) -> None:
        try:
            import onnx
        except ModuleNotFoundError as error:
            raise SanError(f"the teacher {path} needs onnx", do=install("convert")) from error
        from google.protobuf.message import DecodeError

        from san_deploy.backends.ort import onnxruntime, quiet_options

        self.name = path.name
        try:
            model = onnx.load(path, load_external_data=False)
            self.artefact = None
            if any(item.key.startswith(PREFIX) for item in model.metadata_props):
                metadata = {item.key: item.value for item in model.metadata_props}
                self.artefact = from_metadata(metadata, path=path, sha256=sha256_file(path))
            (entry,) = [
                item
                for item in model.graph.input
                if item.name not in {w.name for w in model.graph.initializer}
            ]
            inferred = onnx.shape_inference.infer_shapes(model)
        except (
            DecodeError,
            OSError,
            ValueError,
            onnx.onnx_cpp2py_export.shape_inference.InferenceError,
        ) as error:
            raise SanError(
                f"the teacher {path} is no ONNX file of one input", why=first_line(error)
            ) from error
        if any(item.data_location == onnx.TensorProto.EXTERNAL for item in model.graph.initializer):
            raise SanError(
                f"the teacher {path} has its weights in another file",
                do=f"take them in: san import {path} -o teacher.onnx",
            )
        _refuse_choice(path, [output.name for output in model.graph.output])
        dims = [item.dim_value for item in entry.type.tensor_type.shape.dim]
        if self.artefact is None:
            self._frame = _Frame(path, dims, form)
        self._batched = not dims[0]
        shapes = {
            value.name: [item.dim_value for item in value.type.tensor_type.shape.dim]
            for value in inferred.graph.value_info
        }
        order = [(name, shapes[name]) for node in model.graph.node for name in node.output if name in shapes]
        self._maps = _last_maps(order)
        known = {output.name for output in model.graph.output}
        self._row = model.graph.output[0].name
        for value in inferred.graph.value_info:
            if value.name in self._maps and value.name not in known:
                model.graph.output.append(value)
        options = quiet_options()
        if threads:
            options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise SanError(f"ONNX Runtime cannot run the teacher {path}", why=first_line(error)) from error
        self._input, self._path = entry.name, path

    def __call__(self, crops: Sequence[np.ndarray]) -> Answers:
        if self.artefact is not None:
            batch = self.artefact.to_input(
                np.stack([resize_crop(crop, self.artefact.size_hw) for crop in crops])
            )
        else:
            batch = np.stack([self._frame(crop) for crop in crops])
        parts = [batch] if self._batched else [batch[i : i + 1] for i in range(len(batch))]
        names = [self._row, *self._maps]
        found = [self._session.run(names, {self._input: part}) for part in parts]
        return _answers([np.concatenate(part) for part in zip(*found, strict=True)], len(crops), self._path)


class _OpenVino:
    """OpenVINO on the CPU; maps are made outputs."""

    def __init__(self, path: Path, form: str, threads: int | None, precision: str) -> None:
        try:
            import openvino
        except ModuleNotFoundError as error:
            raise SanError(f"the teacher {path} needs OpenVINO", do="pip install openvino") from error
        self.name, self._path = path.stem, path
        core = openvino.Core()
        try:
            model = core.read_model(path)
        except (RuntimeError, UnicodeDecodeError) as error:  # messages quote the file's bytes
            raise SanError(
                f"OpenVINO cannot read the teacher {path}",
                why=last_line(error),
                do="fetch both files again, the .bin under the same name beside the .xml",
            ) from error
        if len(model.inputs) != 1:
            raise SanError(f"the teacher {path} has {len(model.inputs)} inputs, not one")
        _refuse_choice(path, [" ".join(sorted(output.get_names())) for output in model.outputs])
        shape = model.inputs[0].partial_shape
        dims = [item.get_length() if item.is_static else 0 for item in shape] if shape.rank.is_static else []
        self._frame = _Frame(path, dims, form)
        ports = _changing_ports(model)
        wanted = _last_maps([(key, dims) for key, (_, dims) in ports.items()])
        # Outputs that are added stand behind those that were there.
        self._first = len(model.outputs)
        if wanted:
            model.add_outputs(
                [_pooled_port(*ports[key], grid) for key, grid in zip(wanted, GRIDS, strict=False)]
            )
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            # Else each of several programs takes the first core for itself, and all share it.
            "ENABLE_CPU_PINNING": False,
        }
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            self._request = core.compile_model(model, "CPU", settings).create_infer_request()
        except RuntimeError as error:
            raise SanError(f"OpenVINO cannot run the teacher {path}", why=last_line(error)) from error
        self._count = len(wanted)

    def __call__(self, crops: Sequence[np.ndarray]) -> Answers:
        places = [0, *range(self._first, self._first + self._count)]
        found: list[list[np.ndarray]] = []
        for crop in crops:
            self._request.infer([self._frame(crop)[None]])
            found.append([np.array(self._request.get_output_tensor(place).data) for place in places])
        return _answers([np.concatenate(part) for part in zip(*found, strict=True)], len(crops), self._path)


class _Frame:
    """Crops as a network of somebody else takes them: `(3, H, W)` float32."""

    def __init__(self, path: Path, dims: Sequence[int], form: str) -> None:
        if len(dims) != 4 or dims[1] != 3 or not all(dims[2:]):
            raise SanError(
                f"the teacher {path} takes no crops",
                why=f"its input is {'x'.join(str(item or '?') for item in dims)}, not N x 3 x H x W",
            )
        if dims[0] > 1:
            raise SanError(
                f"the teacher {path} takes {dims[0]} crops at a time",
                do="export it for one, or for any number",
            )
        self._size_hw, self._form = (dims[2], dims[3]), form

    def __call__(self, crop: np.ndarray) -> np.ndarray:
        planes = resize_crop(crop, self._size_hw).astype(np.float32).transpose(2, 0, 1)
        if self._form == "bgr":
            return np.ascontiguousarray(planes)
        planes = planes[::-1]
        if self._form == "imagenet":
            mean, std = (
                np.float32(255) * np.array(part, np.float32)[:, None, None] for part in (MEAN_RGB, STD_RGB)
            )
            planes = (planes - mean) / std
        return np.ascontiguousarray(planes)


def _refuse_choice(path: Path, outputs: Sequence[str]) -> None:
    """Raise SanError where somebody has to say which output the row is."""
    if len(outputs) != 1:
        raise SanError(
            f"the teacher {path} has {len(outputs)} outputs ({', '.join(outputs)}), not one",
            do=f"choose: san import {path} --output NAME -o teacher.onnx",
        )


def _changing_ports(model: Any) -> dict[str, tuple[Any, list[int]]]:
    """What follows from the input, by a name of its own, in order: the port and its shape (0 where it is open)."""
    found: dict[str, tuple[Any, list[int]]] = {}
    changing: set[str] = set()
    for node in model.get_ordered_ops():
        key = node.get_friendly_name()
        sources = {node.input_value(i).get_node().get_friendly_name() for i in range(node.get_input_size())}
        if node.get_type_name() == "Parameter" or sources & changing:
            changing.add(key)
            if node.get_type_name() not in ("Parameter", "Result"):
                port = node.output(0)
                shape = port.partial_shape
                if shape.rank.is_static:
                    found[key] = (port, [item.get_length() if item.is_static else 0 for item in shape])
    return found


def _pooled_port(port: Any, dims: Sequence[int], grid: tuple[int, int]) -> Any:
    """Means over equal blocks in the graph itself, so that large maps are not copied; the port where none fit."""
    from openvino import opset13

    blocks = [side // wanted for side, wanted in zip(dims[2:], grid, strict=True)]
    if any(side % wanted for side, wanted in zip(dims[2:], grid, strict=True)) or max(blocks) <= 1:
        return port
    return opset13.avg_pool(port, blocks, [0, 0], [0, 0], blocks, exclude_pad=False).output(0)


def _last_maps(order: Sequence[tuple[str, Sequence[int]]]) -> list[str]:
    """The last value of each map size, the smallest map first, `LEVELS` at most.

    Args:
        order: names of the values that follow from the crops, in the order in which they are made, with shapes.
    """
    last: dict[tuple[int, int], str] = {}
    for name, dims in order:
        if len(dims) == 4 and dims[1] > 3 and all(_SMALLEST <= side <= _LARGEST for side in dims[2:]):
            last[dims[2], dims[3]] = name
    sizes = sorted(last, key=lambda size: size[0] * size[1])
    return [last[size] for size in sizes[:LEVELS]]


def _answers(found: list[np.ndarray], count: int, path: Path) -> Answers:
    rows = np.asarray(found[0], np.float32).reshape(count, -1)
    if rows.shape[1] < 2:
        raise SanError(f"the teacher {path} gives {rows.shape[1]} number for a crop, no row")
    for values in (rows, *found[1:]):
        if not np.isfinite(values).all():
            raise SanError(f"the teacher {path} gives NaN or infinity", do="take another, or mend its export")
    # Windows and heads of attention look like maps, and are several for each crop.
    maps = [part for part in found[1:] if len(part) == count]
    return Answers(rows, tuple(np.asarray(part, np.float32) for part in maps))
