"""OpenVINO on a CPU: for INT8 files on Intel's processors, where it is faster than ONNX Runtime.

Its plug-ins for Intel's GPUs and NPUs were not run, and are not offered.
"""

from __future__ import annotations

import io
import queue
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..artefact import INPUT_NAME, OUTPUT_NAME
from ..errors import SanError, first_line, last_line
from ..io.cpu import usable_cores
from ..io.extras import install
from .common import check_embeddings, other_files, prepare
from .info import Compatibility, FileInfo
from .spec import Backend, BackendSpec, Installed, OpenRequest, installed_packages

#: A part of a batch that one thread runs, as in `onnxruntime`.
_PART = 16
_INSTALL = install("openvino")


class OpenVino:
    """A `Backend` that runs an ONNX file written by `san export`.

    As with `OnnxRuntime` a batch is cut into parts, one for each thread, and calls from several threads share the
    same `threads`. What is FP32 in the file is computed in FP32: OpenVINO itself would take BF16 where the processor
    has it.

    Args:
        path: the .onnx file, read once, whole.
        threads: that run the network; None takes one for each core.

    Attributes:
        artefact: what the file says of itself, with the SHA-256 of the bytes that run.
        name: `openvino 2025.3.0 (CPU, 2 threads)`.
        note: empty.

    Raises:
        SanError: OpenVINO is not installed or refuses the file, or as `OnnxRuntime`, which reads the description.
    """

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        from .onnxruntime import read_onnx

        threads = usable_cores() if threads is None else threads
        if threads < 1:
            raise SanError(f"a model runs on 1 thread or more; received {threads}")
        openvino = _load()
        self._path, self._threads = Path(path), threads
        data, self.artefact = read_onnx(self._path)
        # One stream for each thread: parts of a batch are run side by side.
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            # It pins its threads to the first cores: two programs side by side would share those and leave the rest.
            "ENABLE_CPU_PINNING": False,
            "NUM_STREAMS": threads,
            "INFERENCE_NUM_THREADS": threads,
        }
        try:
            core = openvino.Core()
            compiled = core.compile_model(core.read_model(io.BytesIO(data)), "CPU", settings)
            self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
            for _ in range(threads):
                self._requests.put(compiled.create_infer_request())
        except Exception as error:  # its exceptions have no common base but this
            raise SanError(
                f"OpenVINO does not run {path}", why=last_line(error), do="give --backend onnxruntime"
            ) from error
        self._pool = ThreadPoolExecutor(threads, "san-openvino")
        version = str(openvino.__version__).split("-")[0]
        self.name = f"openvino {version} (CPU, {threads} thread{'s' if threads > 1 else ''})"
        self.note = ""

    def __call__(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Embed prepared crops.

        Args:
            crops: `(N, H, W, 3)` uint8 BGR, N >= 1; H and W as in `artefact.size_hw`.

        Returns:
            `(N, D)` float32, norm 1, in the order of `crops`; a new array.

        Raises:
            SanError: other crops, the runtime fails, or an embedding is not finite or not of norm 1.
        """
        batch = prepare(self.artefact, crops)
        size = min(_PART, -(-len(batch) // self._threads))
        parts = [self._pool.submit(self._run, batch[i : i + size]) for i in range(0, len(batch), size)]
        embeddings = np.concatenate([part.result() for part in parts])
        shape = (len(crops), self.artefact.embedding_dim)
        return check_embeddings(embeddings, shape=shape, path=self._path, do="give --backend onnxruntime")

    def _run(self, batch: np.ndarray) -> np.ndarray:
        request = self._requests.get()
        try:
            # Its memory is used again by the next run.
            return np.array(request.infer({INPUT_NAME: np.ascontiguousarray(batch)})[OUTPUT_NAME])
        except Exception as error:
            raise SanError(f"{self._path} failed in OpenVINO", why=last_line(error)) from error
        finally:
            self._requests.put(request)


def open_model(spec: BackendSpec, request: OpenRequest) -> Backend:
    """As `spec.Runtime.open_model`."""
    return OpenVino(request.path, threads=request.threads)


def installed(spec: BackendSpec) -> Installed:
    """As `spec.Runtime.installed`, without loading it."""
    return installed_packages(spec, do=_INSTALL)


def diagnose(spec: BackendSpec, file: FileInfo) -> list[Compatibility]:
    """As `spec.Runtime.diagnose`."""
    if not spec.takes(file.path):
        return other_files(spec, file)
    there = installed(spec)
    if there.problem is not None:
        return [Compatibility(spec.name, "", False, there.problem.message, _INSTALL)]
    return [Compatibility(spec.name, "", True, f"{there.version} is there: running it is the proof")]


def _load() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise SanError("OpenVINO is not installed", why=first_line(error), do=_INSTALL) from error
    return openvino
