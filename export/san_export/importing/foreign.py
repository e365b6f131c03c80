"""Reading a file that another program wrote, and refusing what cannot become an embedding network."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, numpy_helper

from san_deploy.errors import SanError, UsageError, first_line

from ..graph.operators import check_operators
from . import openvino_ir

#: A protobuf message cannot be larger, and an artefact holds its weights inside.
MAX_BYTES = 2**31 - 1
#: Operators whose form did not change since; below, exporters of years ago wrote what nobody runs today.
OLDEST_OPSET = 11
_FLOATS = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16"}
_KINDS = {number: name.lower() for name, number in TensorProto.DataType.items()}


@dataclass(frozen=True)
class Foreign:
    """A network of another origin, looked at.

    Attributes:
        model: weights inside.
        path: where it was read.
        input, output: names.
        input_type: element type of the input, of `TensorProto`.
        output_type: likewise of the output.
        layout: `nchw` or `nhwc`.
        size_hw: height and width of its input, pixels.
        batch: crops that it takes at a time; None for any number.
        problems: what TensorRT 10.3 would refuse or compute otherwise, a line for each node.
        content_sha256: of the graph with its weights, wherever these lie.
    """

    model: onnx.ModelProto
    path: Path
    input: str
    output: str
    input_type: int
    output_type: int
    layout: str
    size_hw: tuple[int, int]
    batch: int | None
    problems: tuple[str, ...]
    content_sha256: str

    @property
    def is_ir(self) -> bool:
        """Whether it is OpenVINO's IR, which OpenVINO runs."""
        return self.path.suffix.lower() == openvino_ir.SUFFIX

    def weights_sha256(self, color: str) -> str:
        """What tells its rows from those of every other network: weights, output and the order of colours.

        Size, resize, mean and deviation have fields of their own in an artefact.
        """
        return hashlib.sha256(json.dumps([self.content_sha256, self.output, color]).encode()).hexdigest()


def read_foreign(
    path: Path, *, size_hw: tuple[int, int] | None = None, layout: str = "", output: str = ""
) -> Foreign:
    """Read and look at an ONNX file, or at OpenVINO's IR.

    Args:
        path: the .onnx file, whose weights may lie beside it in its own folder, or the .xml file of an IR.
        size_hw: height and width, where the file leaves them open; checked where it does not.
        layout: `nchw` or `nhwc`; empty to tell by the axis of three channels.
        output: name of the embedding, where there are several outputs.

    Raises:
        UsageError: an option is missing or contradicts the file.
        SanError: it is no ONNX file, or no network from one image to one embedding.
    """
    path = Path(path)
    model = openvino_ir.ir_to_onnx(path) if path.suffix.lower() == openvino_ir.SUFFIX else _load(path)
    if any(key.key == "san.schema_version" for key in model.metadata_props):
        raise SanError(f"{path} is an artefact already", do="use it as it is, or: san export FILE --fp16")
    _check_operators(model, path)
    _check_weights(model, path)
    given = _input(model, path)
    kind, shape = _type(given), _shape(given)
    if kind not in _FLOATS:
        raise SanError(
            f"{path} takes {_KINDS.get(kind, kind)}, not float32", do="export it without its preprocessing"
        )
    if len(shape) != 4:
        raise SanError(
            f"{path} takes {_words(shape)}: an image network takes (N, 3, H, W) or (N, H, W, 3)",
            do="give the network that embeds a crop",
        )
    layout = _layout(shape, layout, path)
    size = shape[2:] if layout == "nchw" else shape[1:3]
    name = _output(model, output, path)
    return Foreign(
        model=model,
        path=path,
        input=given.name,
        output=name.name,
        input_type=kind,
        output_type=_type(name),
        layout=layout,
        size_hw=_size(size, size_hw, path),
        batch=shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None,
        problems=tuple(check_operators(model)),
        content_sha256=hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest(),
    )


def _load(path: Path) -> onnx.ModelProto:
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise SanError(f"{path} is not a file", do="give an .onnx file")
        if size > MAX_BYTES:
            raise SanError(
                f"{path} has {size} bytes", why="no ONNX file with its weights inside is over 2 GiB"
            )
        model = onnx.ModelProto()
        model.ParseFromString(path.read_bytes())
    except FileNotFoundError as error:
        raise SanError(f"{path} does not exist", do="give an .onnx file") from error
    except OSError as error:
        raise SanError(f"cannot read {path}: {error.strerror or error}") from error
    except DecodeError as error:
        raise SanError(
            f"{path} is not an ONNX file, or is cut short", do="fetch or export it again"
        ) from error
    if not model.graph.node or not model.graph.output:
        raise SanError(f"{path} is not an ONNX file, or holds no network", do="fetch or export it again")
    _load_weights(model, path)
    return model


def _load_weights(model: onnx.ModelProto, path: Path) -> None:
    """Read weights that lie beside the file into it. Only its own folder is read."""
    folder = path.resolve().parent
    total = 0
    outside = [item for item in model.graph.initializer if item.data_location == TensorProto.EXTERNAL]
    for tensor in outside:
        where = {entry.key: entry.value for entry in tensor.external_data}
        name = where.get("location", "")
        beside = (folder / name).resolve()
        if not name or not beside.is_relative_to(folder):
            raise SanError(
                f"{path} wants weights from {name or 'nowhere'}, outside of its folder",
                why="a file from elsewhere must not read where it likes",
                do="put them beside it and save it again",
            )
        if not beside.is_file():
            raise SanError(f"{path} wants its weights from {beside}, which is no file", do="fetch both files")
        try:
            total += int(where.get("length", beside.stat().st_size))
        except ValueError as error:
            raise SanError(f"{path} is damaged: the length of {tensor.name} is no number") from error
    if total > MAX_BYTES:
        raise SanError(
            f"{path} has {total / 2**30:.1f} GiB of weights", why="an artefact holds them inside, below 2 GiB"
        )
    if outside:
        try:
            onnx.load_external_data_for_model(model, str(folder))
        except (OSError, ValueError, RuntimeError, onnx.checker.ValidationError) as error:
            raise SanError(f"the weights of {path} cannot be read", why=str(error).split("\n")[0]) from error


def _check_operators(model: onnx.ModelProto, path: Path) -> None:
    opsets = {item.domain or "ai.onnx": item.version for item in model.opset_import}
    opset = opsets.get("ai.onnx", 0)
    if opset < OLDEST_OPSET:
        raise SanError(
            f"{path} has opset {opset}, the oldest read is {OLDEST_OPSET}",
            do="export it again, or bring it up with onnx.version_converter",
        )
    newest = onnx.defs.onnx_opset_version()
    if opset > newest:
        raise SanError(f"{path} has opset {opset}, this onnx knows {newest}", do="pip install -U onnx")
    local = {(function.domain, function.name) for function in model.functions}
    foreign = sorted(
        {
            f"{node.domain}.{node.op_type}"
            for node in model.graph.node
            if node.domain not in ("", "ai.onnx") and (node.domain, node.op_type) not in local
        }
    )
    if foreign:
        raise SanError(
            f"{path} has operators of its own: {', '.join(foreign[:5])}",
            why="no runtime has them without its library",
            do="export it from its framework with standard operators",
        )


def _check_weights(model: onnx.ModelProto, path: Path) -> None:
    """Refuse NaN, which an activation may hide in one runtime and not in another."""
    for item in model.graph.initializer:
        if item.data_type not in _FLOATS:
            continue
        try:
            broken = bool(np.isnan(numpy_helper.to_array(item)).any())
        except ValueError as error:
            raise SanError(
                f"the weights of {path} are damaged: {item.name}", why=first_line(error)
            ) from error
        if broken:
            raise SanError(f"the weights of {path} hold NaN, in {item.name}", do="fetch or export it again")


def _input(model: onnx.ModelProto, path: Path) -> onnx.ValueInfoProto:
    weights = {item.name for item in model.graph.initializer}
    inputs = [item for item in model.graph.input if item.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(item.name for item in inputs) or "none"
        raise SanError(
            f"{path} has {len(inputs)} inputs ({names})",
            why="an embedding network takes one image",
            do="export it with the others fixed (a camera number, for example)",
        )
    return inputs[0]


def _output(model: onnx.ModelProto, name: str, path: Path) -> onnx.ValueInfoProto:
    outputs = {item.name: item for item in model.graph.output}
    listed = ", ".join(f"{key} {_words(_shape(item))}" for key, item in outputs.items())
    if name:
        if name not in outputs:
            raise UsageError(f"{path} has no output {name}", do=f"choose one of {listed}")
    elif len(outputs) > 1:
        raise UsageError(f"{path} has {len(outputs)} outputs", do=f"choose one: --output NAME, of {listed}")
    found = outputs[name or next(iter(outputs))]
    kind, shape = _type(found), _shape(found)
    if kind not in _FLOATS:
        raise SanError(
            f"output {found.name} of {path} is {_KINDS.get(kind, kind)}, an embedding is float",
            do="choose another: --output NAME"
            if len(outputs) > 1
            else "give the network before its decision",
        )
    # Exporters of dynamic graphs leave the rank open; running it tells.
    if shape and len(shape) != 2:
        raise SanError(
            f"output {found.name} of {path} has shape {_words(shape)}",
            why="an embedding is (N, D); detectors and feature maps are not",
            do="choose another: --output NAME" if len(outputs) > 1 else "export the pooled features",
        )
    return found


def _layout(shape: tuple[int | str, ...], asked: str, path: Path) -> str:
    found = [name for name, axis in (("nchw", 1), ("nhwc", 3)) if shape[axis] == 3]
    if asked:
        axis = 1 if asked == "nchw" else 3
        if isinstance(shape[axis], int) and shape[axis] != 3:
            raise UsageError(f"--layout {asked} does not fit {path}, which takes {_words(shape)}")
        return asked
    if len(found) != 1:
        raise UsageError(
            f"{path} takes {_words(shape)}, where no single axis has 3 channels",
            do="say --layout nchw or nhwc",
        )
    return found[0]


def _size(size: tuple[int | str, ...], asked: tuple[int, int] | None, path: Path) -> tuple[int, int]:
    fixed = [side if isinstance(side, int) and side > 0 else None for side in size]
    if asked is None:
        if None in fixed:
            raise UsageError(
                f"{path} leaves its size open", do="say --size HEIGHTxWIDTH, for example 256x128"
            )
        return fixed[0] or 0, fixed[1] or 0
    for side, value in zip(fixed, asked, strict=True):
        if side is not None and side != value:
            raise UsageError(
                f"--size {asked[0]}x{asked[1]} does not fit {path}, which takes {fixed[0]} x {fixed[1]}",
                do="sizes are HEIGHTxWIDTH",
            )
    return asked


def _type(item: onnx.ValueInfoProto) -> int:
    return int(item.type.tensor_type.elem_type)


def _shape(item: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    return tuple(
        dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or "?")
        for dim in item.type.tensor_type.shape.dim
    )


def _words(shape: tuple[int | str, ...]) -> str:
    return f"({', '.join(map(str, shape))})"
