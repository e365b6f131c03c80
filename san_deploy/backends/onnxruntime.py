"""ONNX Runtime: on the CPU, and through its CUDA and TensorRT providers. Those two were not run on a GPU."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

import numpy as np

from ..artefact import (
    INPUT_NAME,
    OUTPUT_NAME,
    PREFIX,
    Artefact,
    from_metadata,
    read_sidecar,
    sidecar_path,
)
from ..errors import SanError, first_line
from ..integrity import of_onnx, unbounded
from ..io.cpu import give_back, saturates_int8, usable_cores
from ..io.extras import install
from . import cuda, trt
from .common import auto_note, check_embeddings, export_int8, in_words, other_files, prepare
from .cuda import require
from .info import Compatibility, FileInfo
from .ort import onnxruntime, quiet_options
from .spec import Backend, BackendSpec, Installed, OpenRequest

#: A protobuf message cannot be larger, so no ONNX file without external data is.
_MAX_BYTES = 2**31
#: A part of a batch that one thread runs. More crops give no more speed, but need more memory.
_PART = 16
CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
_Port = tuple[str | int | None, ...]
_EXPORT = "export the checkpoint again: san export CHECKPOINT -o model.onnx"
#: What ONNX Runtime says of an IR version or an opset above its own.
_TOO_NEW = re.compile(
    r"Unsupported model IR version: \d+(, max supported IR version: \d+)?|Opset \d+ is under development"
)
#: Both packages are one folder: side by side they overwrite each other.
_INSTALL = (
    f"pip uninstall -y onnxruntime && {install('cuda')}; on a Jetson NVIDIA's own wheel for its JetPack"
)


class OnnxRuntime:
    """A `Backend` that runs an ONNX file written by `san export`.

    On the CPU a batch is cut into parts, one for each thread. On two cores this gives up to 1.3 times the crops
    per second of ONNX Runtime's own threads, which wait for each other behind every operator. A single crop is
    therefore run by a single thread. Calls from several threads at once share the same `threads`.

    On a GPU a batch is run whole. What was asked for is what runs: nothing is left to the CPU. FP32 is FP32, not
    TF32, and convolutions are chosen by rule, not by timing, so that the same crops give the same rows.

    Args:
        path: the .onnx file. It is read once, whole: nothing outside it is read, whatever it says.
        threads: that run the network on the CPU; None takes one for each core.
        device: index of the GPU; None is the CPU.
        tensorrt: on the GPU, through the TensorRT provider, which builds an engine when the first batch of each
            size comes. That takes minutes, and nothing of it is kept: `san export --engine` is better.
        accept_damaged: open it even where its bytes are not those that were written; `integrity` says so.

    Attributes:
        artefact: what the file says of itself, with the SHA-256 of the bytes that run.
        name: `onnxruntime (CPU, 2 threads)`, `onnxruntime (CUDA, cuda:0 NVIDIA T4, sm75)`.
        note: a warning that an INT8 file is slow here, or that nothing vouches for the file; else empty.
        integrity: what vouches for its bytes.

    Raises:
        SanError: the file is missing, empty, cut short, not ONNX, not ours, larger than 2 GiB, damaged, not the
            one that its sidecar describes, or its graph is not what it says of itself; the GPU or what is needed
            to use it is not there; an INT8 file of the CPU's form for a GPU.

    Example:
        >>> OnnxRuntime(Path("model.onnx"))(np.zeros((3, 256, 128, 3), np.uint8)).shape
        (3, 128)
    """

    def __init__(
        self,
        path: Path,
        *,
        threads: int | None = None,
        device: int | None = None,
        tensorrt: bool = False,
        accept_damaged: bool = False,
    ) -> None:
        path = Path(path)
        threads = usable_cores() if threads is None else threads
        if threads < 1:
            raise SanError(f"a model runs on 1 thread or more; received {threads}")
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        if device is None:
            asked = CPU
            self.name = f"onnxruntime (CPU, {threads} thread{'s' if threads > 1 else ''})"
        else:
            asked = TENSORRT if tensorrt else CUDA
            self.name = f"onnxruntime ({'TensorRT' if tensorrt else 'CUDA'}, {_gpu(device, asked)})"
        data = _read(path)
        self._path = path
        # On the CPU first, in any case: whether the file is whole does not depend on what a GPU makes of it.
        self._session = open_cpu(data, path, optimise=device is None)
        self.artefact: Artefact = _describe(self._session, data, path)
        self.integrity = of_onnx(data, path)
        if not accept_damaged:
            self.integrity.require(path)
        if device is None and (entries := int8_entries(self.artefact)):
            self._session = open_cpu(data, path, entries=entries)
        self.note = "; ".join(filter(None, (_note(self.artefact, path, asked), self.integrity.note)))
        if device is None:
            self._pool = ThreadPoolExecutor(threads, "san-onnxruntime")
        else:
            self._session = _open_gpu(data, path, device, asked)

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """Embed prepared crops.

        Args:
            crops: `(N, H, W, 3)` uint8 BGR, N >= 1; H and W as in `artefact.size_hw`.

        Returns:
            `(N, D)` float32, norm 1, in the order of `crops`; a new array.

        Raises:
            SanError: other crops, the runtime fails, or a row is not finite or not of norm 1.
        """
        batch = prepare(self.artefact, crops)
        if self._pool is None:
            rows = self._run(batch)
        else:
            size = min(_PART, -(-len(batch) // self._threads))
            parts = [self._pool.submit(self._run, batch[i : i + size]) for i in range(0, len(batch), size)]
            rows = np.concatenate([part.result() for part in parts])
        shape = (len(crops), self.artefact.embedding_dim)
        return check_embeddings(rows, shape=shape, path=self._path, do=_EXPORT)

    def _run(self, batch: np.ndarray) -> np.ndarray:
        try:
            output: np.ndarray = self._session.run([OUTPUT_NAME], {INPUT_NAME: batch})[0]
        except Exception as error:  # its exceptions have no common base but this
            raise SanError(
                f"{self._path} failed in ONNX Runtime", why=first_line(error), do=_EXPORT
            ) from error
        return output


def read_onnx(path: Path) -> tuple[bytes, Artefact]:
    """The bytes of an ONNX file of `san export`, and what it says of itself, for another runtime to run.

    Raises:
        SanError: as `OnnxRuntime`.
    """
    data = _read(path)
    session = open_cpu(data, path, optimise=False)
    artefact = _describe(session, data, path)
    of_onnx(data, path).require(path)
    return data, artefact


def _describe(session: onnxruntime.InferenceSession, data: bytes, path: Path) -> Artefact:
    """What the file says of itself, held against its graph."""
    try:
        metadata = session.get_modelmeta().custom_metadata_map
    except UnicodeDecodeError as error:  # ONNX Runtime opens such a file all the same
        raise SanError(
            f"model {path} is damaged", why=str(error), do="fetch it again, or " + _EXPORT
        ) from error
    artefact = from_metadata(metadata, path=path, sha256=hashlib.sha256(data).hexdigest())
    _check_graph(session, artefact, path)
    _check_bounded(data, path)
    return artefact


def _check_bounded(data: bytes, path: Path) -> None:
    try:
        found = unbounded(data)
    except ValueError as error:
        raise SanError(
            f"model {path} is damaged", why=str(error), do="fetch it again, or " + _EXPORT
        ) from error
    if found:
        raise SanError(
            f"model {path} holds {found}", why="nobody can say how long it runs", do=_EXPORT + ", without"
        )


def missing_provider(name: str) -> str:
    """Why this ONNX Runtime cannot be asked for a provider, in words; empty where it can."""
    available = onnxruntime.get_available_providers()
    if name in available:
        return ""
    has = ", ".join(available)
    return f"this ONNX Runtime {onnxruntime.__version__} has no {name}, but {has}"


def _gpu(index: int, asked: str) -> str:
    """The GPU in words; SanError where there is none, or this ONNX Runtime cannot use it."""
    if missing := missing_provider(asked):
        raise SanError(f"ONNX Runtime cannot run on cuda:{index}", why=missing, do=_INSTALL)
    gpu = require(index)
    return f"cuda:{gpu.index} {gpu.name}, {gpu.sm}"


def _note(artefact: Artefact, path: Path, provider: str) -> str:
    """What to know of an INT8 file here; SanError where its form does not fit at all."""
    if artefact.calibration is None:
        return ""
    if artefact.calibration.form == "cpu":
        if provider == CPU:
            return ""
        raise SanError(
            f"{path} is INT8 in the form for CPUs, which does not run on a GPU",
            do=f"run it with --device cpu, or export the form for GPUs: {export_int8(artefact)}",
        )
    if provider == CPU:
        command = f"{export_int8(artefact)} --runtime cpu"
        return f"INT8 in the form for TensorRT is slower than FP32 on a CPU; for a CPU: {command}"
    if provider == CUDA:
        return "ONNX Runtime's CUDA provider has no INT8 convolutions, TensorRT has: san export FILE.onnx --engine"
    return ""


def int8_entries(artefact: Artefact) -> dict[str, str]:
    """What an INT8 file needs on the CPU besides, as settings of the session."""
    calibration = artefact.calibration
    if calibration is None:
        return {}
    if calibration.rest == "fp16":
        # ONNX Runtime 1.31 quantises such a file's FP16 biases when it fuses, which overflows: wrong rows.
        return {"session.disable_quant_qdq": "1"}
    if calibration.form == "cpu" and saturates_int8():
        # Exact products, at 0.6 times the speed where it was measured.
        return {"session.x64quantprecision": "1"}
    return {}


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise SanError(
            f"model {path} does not exist", do="export one: san export CHECKPOINT -o model.onnx"
        ) from error
    except OSError as error:
        raise SanError(f"cannot read model {path}: {error.strerror or error}") from error
    if not data:
        raise SanError(f"model {path} is empty", do="fetch it again, or " + _EXPORT)
    if len(data) > _MAX_BYTES:
        raise SanError(f"model {path} is larger than 2 GiB, which no ONNX file of ours is", do=_EXPORT)
    return data


def _options() -> onnxruntime.SessionOptions:
    options = quiet_options()
    # Parts of a batch are run side by side, each by one thread: see the class.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return options


def open_cpu(
    data: bytes, path: Path, *, optimise: bool = True, entries: Mapping[str, str] | None = None
) -> onnxruntime.InferenceSession:
    """A session on the CPU, run by one thread.

    Args:
        data: of the ONNX file.
        path: for messages.
        optimise: fuse operators; without, to look at the file alone.
        entries: settings of the session besides, as `int8_entries` gives them.

    Raises:
        SanError: ONNX Runtime refuses the file.
    """
    options = _options()
    for key, value in (entries or {}).items():
        options.add_session_config_entry(key, value)
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        # With the fallback of its Python side it would print on stdout, and try again.
        session = onnxruntime.InferenceSession(data, options, providers=[CPU], enable_fallback=0)
    except Exception as error:  # its exceptions have no common base but this
        if too_new := _TOO_NEW.search(str(error)):
            raise SanError(
                f"model {path} is of a newer ONNX than this ONNX Runtime {onnxruntime.__version__} knows",
                why=too_new[0],
                do="upgrade it: pip install --upgrade onnxruntime",
            ) from error
        raise SanError(
            f"model {path} cannot be opened: it is cut short, or not an ONNX file that runs here",
            why=first_line(error),
            do="fetch it again, or " + _EXPORT,
        ) from error
    session.disable_fallback()
    # What it was made from, twice the file, is free now and else stays with this process.
    give_back(2 * len(data))
    return session


def _open_gpu(data: bytes, path: Path, index: int, asked: str) -> onnxruntime.InferenceSession:
    options = _options()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    # TF32 has 10 bits of mantissa. Convolutions chosen by timing differ from run to run, by rounding and so by
    # mask bits, and the choice would be made anew for every batch size.
    cuda = {"device_id": str(index), "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
    providers = [(CUDA, cuda)]
    if asked == TENSORRT:
        # Without its own switches for FP16 and INT8, the provider takes the types of the graph.
        providers.insert(0, (TENSORRT, {"device_id": str(index), "trt_engine_cache_enable": "0"}))
    problem = _preload(asked)
    try:
        # With the fallback of its Python side it would print, and try the CPU.
        session = onnxruntime.InferenceSession(data, options, providers=providers, enable_fallback=0)
    except Exception as error:  # its exceptions have no common base but this
        raise SanError(
            f"ONNX Runtime does not run {path} with {asked}", why=first_line(error), do=_INSTALL
        ) from error
    session.disable_fallback()
    # A provider whose libraries do not load is left out without an error.
    given = session.get_providers()
    if given[0] != asked:
        raise SanError(
            f"ONNX Runtime was asked for {asked} and took {given[0]}",
            why=problem or "the libraries that it needs do not load: CUDA and cuDNN",
            do=_INSTALL,
        )
    return session


def _preload(asked: str) -> str:
    """Load CUDA, cuDNN and, for its provider, TensorRT from their wheels, which the loader does not find by itself.

    Returns:
        In words, what TensorRT lacks where its provider was asked for; else empty.
    """
    if hasattr(onnxruntime, "preload_dlls"):
        # It prints what it does not find, which may lie elsewhere; what is missing in the end shows soon.
        with contextlib.redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls()
    if asked != TENSORRT:
        return ""
    try:
        # Importing it loads libnvinfer, which the provider then finds by its name.
        trt.load("tensorrt")
    except SanError as error:
        return (
            f"TensorRT's libnvinfer was not found: {in_words(error)}; {error.do}; or set LD_LIBRARY_PATH to "
            "the folder of an installed TensorRT's libnvinfer.so"
        )
    return "TensorRT's libnvinfer was loaded, so it is CUDA, cuDNN or another version of TensorRT that is missing"


def _check_graph(session: onnxruntime.InferenceSession, artefact: Artefact, path: Path) -> None:
    height, width = artefact.size_hw
    expected = {
        "uint8": (INPUT_NAME, "tensor(uint8)", "N", height, width, 3),
        "float": (INPUT_NAME, "tensor(float)", "N", 3, height, width),
    }[artefact.input]
    _check_ports("input", [_port(node) for node in session.get_inputs()], expected, path)
    output = (OUTPUT_NAME, "tensor(float)", "N", artefact.embedding_dim)
    _check_ports("output", [_port(node) for node in session.get_outputs()], output, path)


def _port(node: onnxruntime.NodeArg) -> _Port:
    first, *rest = node.shape or (0,)
    # A free first dimension has any name, or none.
    return (node.name, node.type, first if isinstance(first, int) else "N", *rest)


def _check_ports(what: str, found: list[_Port], expected: _Port, path: Path) -> None:
    if found != [expected]:
        raise SanError(
            f"the {what} of {path} does not fit its own description",
            why=f"expected {_words(expected)}, found {'; '.join(map(_words, found)) or 'none'}",
            do=_EXPORT,
        )


def _words(port: _Port) -> str:
    name, kind, *shape = port
    return f"{name} {kind} ({', '.join(map(str, shape))})"


def open_model(spec: BackendSpec, request: OpenRequest) -> Backend:
    """As `spec.Runtime.open_model`. `auto` takes the CPU where the GPU cannot be used, and says why."""
    path, threads, damaged = request.path, request.threads, request.accept_damaged
    if "cpu" not in spec.devices:
        return OnnxRuntime(path, device=request.index, tensorrt=True, accept_damaged=damaged)
    if request.device == "cpu":
        return OnnxRuntime(path, threads=threads, accept_damaged=damaged)
    if request.device == "cuda":
        return OnnxRuntime(path, threads=threads, device=request.index, accept_damaged=damaged)
    # A machine without a GPU hears of that, not of a package that would not help it.
    why = cuda.probe()[1] or missing_provider(CUDA)
    result: OnnxRuntime | None = None
    if not why:
        try:
            result = OnnxRuntime(path, threads=threads, device=request.index, accept_damaged=damaged)
        except SanError as error:
            why = in_words(error)
    if result is None:
        result = OnnxRuntime(path, threads=threads, accept_damaged=damaged)
    result.note = auto_note(why, result.note)
    return result


def installed(spec: BackendSpec) -> Installed:
    """As `spec.Runtime.installed`."""
    try:
        missing = "" if "cpu" in spec.devices else missing_provider(TENSORRT)
        version = str(onnxruntime.__version__)
    except SanError as error:
        return Installed(spec.name, "", error)
    return (
        Installed(spec.name, version)
        if not missing
        else Installed(spec.name, "", SanError(missing, do=_INSTALL))
    )


def diagnose(spec: BackendSpec, file: FileInfo) -> list[Compatibility]:
    """As `spec.Runtime.diagnose`. An ONNX file is no code, so where a GPU may run it, it is opened there, too."""
    if not spec.takes(file.path):
        return other_files(spec, file)
    if "cpu" not in spec.devices:
        why = cuda.probe()[1] or missing_provider(TENSORRT)
        return [
            Compatibility(spec.name, "", not why, why or "the provider is there: running it is the proof")
        ]
    found = [Compatibility(spec.name, "cpu", True, "opened here")]
    why = cuda.probe()[1] or missing_provider(CUDA)
    if why:
        return [*found, Compatibility(spec.name, "cuda", False, why)]
    try:
        opened = OnnxRuntime(file.path, device=0).name
    except SanError as error:
        return [*found, Compatibility(spec.name, "cuda", False, in_words(error), error.do)]
    return [*found, Compatibility(spec.name, "cuda", True, f"opened here: {opened}")]


def read_file(path: Path) -> FileInfo:
    """As `spec.Runtime.read_file`."""
    try:
        opened = OnnxRuntime(path, threads=1, accept_damaged=True)
    except SanError as error:
        ports = _foreign_ports(path)
        if ports is None:
            raise
        raise SanError(f"{path} was not written by san export", why=ports, do=error.do) from error
    artefact = opened.artefact
    beside = _beside(path) if opened.integrity.state == "whole" else None
    if beside is not None and beside != artefact:
        differ = [
            item.name
            for item in fields(Artefact)
            if getattr(beside, item.name) != getattr(artefact, item.name)
        ]
        raise SanError(
            f"{path} and {sidecar_path(path).name} contradict each other",
            why=f"they differ in {', '.join(differ)}",
            do="fetch both again, or export the model again",
        )
    return FileInfo(
        path,
        "ONNX",
        path.stat().st_size,
        artefact.sha256,
        sidecar_path(path).name if beside else "",
        artefact=artefact,
        integrity=opened.integrity,
    )


def _beside(path: Path) -> Artefact | None:
    return read_sidecar(path) if sidecar_path(path).exists() else None


def _foreign_ports(path: Path) -> str | None:
    """Inputs and outputs of an ONNX file that says nothing of itself; None for ours and for what does not open."""
    if path.stat().st_size > _MAX_BYTES:
        return None
    try:
        session = onnxruntime.InferenceSession(
            path.read_bytes(), quiet_options(), providers=[CPU], enable_fallback=0
        )
    except Exception:  # its exceptions have no common base but this; what is wrong was said by the backend
        return None
    try:
        metadata = session.get_modelmeta().custom_metadata_map
    except UnicodeDecodeError:
        return None
    if any(key.startswith(PREFIX) for key in metadata):
        return None
    taken, given = (
        ", ".join(f"{node.name} {node.type} {tuple(node.shape or ())}" for node in ports) or "nothing"
        for ports in (session.get_inputs(), session.get_outputs())
    )
    return f"it takes {taken} and gives {given}"
