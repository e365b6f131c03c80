"""A model repository for NVIDIA Triton (`model_config.proto` of triton-inference-server/common)."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from san_deploy import __version__
from san_deploy.artefact import INPUT_NAME, OUTPUT_NAME, Artefact, sidecar_path, write_sidecar
from san_deploy.errors import SanError, UsageError
from san_deploy.gallery.tracks import space_of_model
from san_deploy.io.atomic import atomic_folder

#: What the served models are called.
KINDS = ("native", "jpeg")
#: Largest batch of an ONNX file, which takes any; of a plan it is its profile's.
_ONNX_MAX_BATCH, _ONNX_BEST_BATCH = 64, 16
#: Microseconds that a request waits for others to share its batch.
_QUEUE_US = 500
#: Input of the model that takes image files.
IMAGE_NAME = "image"
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_CONFIG, _VERSION = "config.pbtxt", "1"
_PYTHON = "model.py"


@dataclass(frozen=True)
class TritonOptions:
    """How a model is served.

    Attributes:
        name: of the model, a folder in the repository.
        kind: `native`, Triton's own ONNX Runtime or TensorRT backend, which takes prepared crops; or `jpeg`, the Python
            backend, which takes image files as bytes and needs san-deploy in the server's Python.
    """

    name: str = "reid"
    kind: str = "native"

    def __post_init__(self) -> None:
        if not _MODEL_NAME.fullmatch(self.name):
            raise UsageError(
                f"--name {self.name} is no name of a model", do="letters, digits, '_', '-' and '.'"
            )
        if self.kind not in KINDS:
            raise UsageError(f"--triton-kind {self.kind} is unknown", do=f"give {' or '.join(KINDS)}")


def write_repository(
    model: Path, artefact: Artefact, repository: Path, options: TritonOptions, *, force: bool = False
) -> Path:
    """Put a model into a Triton repository: `NAME/config.pbtxt` and `NAME/1/`.

    Other models of the repository stay. A plan runs where Triton's TensorRT is the one that built it.

    Args:
        model: an .onnx file or a TensorRT plan.
        artefact: what it says of itself.
        repository: the folder that tritonserver is given; made where it is missing.
        options: name and kind.
        force: replace a model of this name that `san export` wrote.

    Returns:
        The model's folder.

    Raises:
        SanError: the folder is taken, or the file cannot be copied.
    """
    folder = repository / options.name
    plan = artefact.engine is not None
    file = ("model.plan" if plan else "model.onnx") if options.kind == "native" else f"model{model.suffix}"
    if repository.exists() and not repository.is_dir():
        raise SanError(f"{repository} is not a folder", do="name a folder for the repository")
    with atomic_folder(folder, force=force, ours=[_CONFIG, _VERSION]) as made:
        version = made / _VERSION
        version.mkdir()
        shutil.copyfile(model, version / file)
        if options.kind == "jpeg":
            # The Python backend opens the model as `san embed` does, with its description.
            write_sidecar(artefact, version / file)
            assert sidecar_path(version / file).is_file()
            shutil.copyfile(Path(__file__).with_name("python_model.py"), version / _PYTHON)
        (made / _CONFIG).write_text(config(artefact, options), encoding="utf-8")
    return folder


def config(artefact: Artefact, options: TritonOptions) -> str:
    """The text of config.pbtxt.

    Args:
        artefact: of the model file.
        options: name and kind.
    """
    most, best = _ONNX_MAX_BATCH, _ONNX_BEST_BATCH
    if artefact.engine is not None:
        _, best, most = artefact.engine.batch
    height, width = artefact.size_hw
    given: tuple[str, str, tuple[int, ...]]
    if options.kind == "jpeg":
        backend, given = 'backend: "python"', (IMAGE_NAME, "TYPE_STRING", (1,))
    elif artefact.engine is not None:
        backend, given = 'platform: "tensorrt_plan"', _native_input(artefact, height, width)
    else:
        backend, given = 'backend: "onnxruntime"', _native_input(artefact, height, width)
    name, kind, dims = given
    lines = [
        f"# {artefact.arch}, {height} x {width}, {artefact.precision.upper()}, mask {artefact.mask}",
        f'name: "{options.name}"',
        backend,
        f"max_batch_size: {most}",
        f'input [{{ name: "{name}" data_type: {kind} dims: [{_numbers(dims)}] }}]',
        f'output [{{ name: "{OUTPUT_NAME}" data_type: TYPE_FP32 dims: [{artefact.embedding_dim}] }}]',
        f"dynamic_batching {{ preferred_batch_size: [{best}] max_queue_delay_microseconds: {_QUEUE_US} }}",
        "version_policy { latest { num_versions: 1 } }",
    ]
    if options.kind == "native":
        # The first request would otherwise pay for what a runtime sets up at its first run.
        data = f"data_type: {kind} dims: [{_numbers(dims)}] zero_data: true"
        lines.append(
            f'model_warmup [{{ name: "first" batch_size: {best} inputs {{ key: "{name}" value {{ {data} }} }} }}]'
        )
    labels = {
        "san_deploy": __version__,
        "san_sha256": artefact.sha256,
        "san_space": space_of_model(artefact.as_dict()),
        "san_resize": artefact.resize,
        "san_arch": artefact.arch,
    }
    lines += [
        f'parameters {{ key: "{key}" value {{ string_value: "{_escaped(value)}" }} }}'
        for key, value in labels.items()
        if value
    ]
    return "\n".join(lines) + "\n"


def _native_input(artefact: Artefact, height: int, width: int) -> tuple[str, str, tuple[int, ...]]:
    if artefact.input == "uint8":
        return INPUT_NAME, "TYPE_UINT8", (height, width, 3)
    return INPUT_NAME, "TYPE_FP32", (3, height, width)


def _numbers(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values))


def _escaped(text: str) -> str:
    return "".join(
        character if character.isprintable() and character not in '"\\' else "_" for character in text
    )
