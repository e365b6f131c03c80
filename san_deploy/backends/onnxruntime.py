"""ONNX Runtime on the CPU."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime

from ..artefact import INPUT_NAME, OUTPUT_NAME, Artefact, check_sidecar, from_metadata
from ..cores import usable_cores
from ..errors import SanError

#: A protobuf message cannot be larger, so no ONNX file without external data is.
_MAX_BYTES = 2**31
#: Rows of the graph's output may differ from norm 1 by this much, which leaves room for FP16.
_NORM_TOLERANCE = 1e-3
#: A part of a batch that one thread runs. More crops give no more speed, but need more memory.
_PART = 16
_PROVIDER = "CPUExecutionProvider"
_FATAL_ONLY = 4
_Port = tuple[str | int | None, ...]
_EXPORT = "export the checkpoint again: san export CHECKPOINT -o model.onnx"


class OnnxRuntime:
    """A `Backend` that runs an ONNX file written by `san export` on the CPU.

    A batch is cut into parts, one for each thread. On two cores this gives up to 1.3 times the crops per
    second of ONNX Runtime's own threads, which wait for each other behind every operator. A single crop is
    therefore run by a single thread. Calls from several threads at once share the same `threads`.

    Args:
        path: the .onnx file. It is read once, whole: nothing outside it is read, whatever it says.
        threads: that run the network; None takes one for each core.

    Attributes:
        artefact: what the file says of itself, with the SHA-256 of the bytes that run.
        name: `onnxruntime (CPU, 2 threads)`.

    Raises:
        SanError: the file is missing, empty, cut short, not ONNX, not ours, larger than 2 GiB, not the one
            that its sidecar describes, or its graph is not what it says of itself.

    Example:
        >>> OnnxRuntime(Path("model.onnx"))(np.zeros((3, 256, 128, 3), np.uint8)).shape
        (3, 128)
    """

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        path = Path(path)
        threads = usable_cores() if threads is None else threads
        if threads < 1:
            raise SanError(f"a model runs on 1 thread or more; received {threads}")
        data = _read(path)
        self._path = path
        self._session = _open(data, path)
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.artefact: Artefact = from_metadata(metadata, path=path, sha256=hashlib.sha256(data).hexdigest())
        check_sidecar(self.artefact, path)
        _check_graph(self._session, self.artefact, path)
        self.name = f"onnxruntime (CPU, {threads} thread{'s' if threads > 1 else ''})"
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, "san-onnxruntime")

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """Embed prepared crops.

        Args:
            crops: `(N, H, W, 3)` uint8 BGR, N >= 1; H and W as in `artefact.size_hw`.

        Returns:
            `(N, D)` float32, unit rows in the order of `crops`; a new array.

        Raises:
            SanError: other crops, the runtime fails, or a row is not finite or not of norm 1.
        """
        batch = self.artefact.to_input(crops)
        if not len(batch):
            raise SanError("the model was given no crops")
        size = min(_PART, -(-len(batch) // self._threads))
        parts = [self._pool.submit(self._run, batch[i : i + size]) for i in range(0, len(batch), size)]
        embedding = np.concatenate([part.result() for part in parts])
        if embedding.shape != (len(crops), self.artefact.embedding_dim):
            raise SanError(f"{self._path} gave {embedding.shape} for {len(crops)} crops", do=_EXPORT)
        with np.errstate(all="ignore"):
            norm = np.linalg.norm(embedding, axis=1)
            # Written so that NaN, too, is bad.
            bad = np.flatnonzero(~(np.abs(norm - 1.0) <= _NORM_TOLERANCE))
        if len(bad):
            rows = ", ".join(map(str, bad[:5].tolist())) + (" and more" if len(bad) > 5 else "")
            raise SanError(
                f"{self._path} gave embeddings that are not finite or not of norm 1",
                why=f"{len(bad)} of {len(crops)} rows: {rows}",
                do=_EXPORT,
            )
        return embedding

    def _run(self, batch: np.ndarray) -> np.ndarray:
        try:
            output: np.ndarray = self._session.run([OUTPUT_NAME], {INPUT_NAME: batch})[0]
        except Exception as error:  # its exceptions have no common base but this
            raise SanError(
                f"{self._path} failed in ONNX Runtime", why=_first_line(error), do=_EXPORT
            ) from error
        return output


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


def _open(data: bytes, path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    # Parts of a batch are run side by side, each by one thread: see the class.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    # What it would print is in the exception, and becomes one line.
    options.log_severity_level = _FATAL_ONLY
    # External data would be looked for in the working directory; nothing can lie below a file.
    folder = str(path.absolute() / "none")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    try:
        session = onnxruntime.InferenceSession(data, options, providers=[_PROVIDER])
    except Exception as error:  # its exceptions have no common base but this
        raise SanError(
            f"model {path} cannot be opened: it is cut short, or not an ONNX file that runs here",
            why=_first_line(error),
            do="fetch it again, or " + _EXPORT,
        ) from error
    session.disable_fallback()
    return session


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


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
