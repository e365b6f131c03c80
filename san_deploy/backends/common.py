"""What runtimes do alike: crops are prepared, embeddings are checked, and answers have the same words."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np

from ..artefact import Artefact, read_sidecar
from ..data import STARTER
from ..errors import SanError
from ..io.versions import versions
from .cuda import NO_DRIVER
from .info import Compatibility, FileInfo
from .spec import BackendSpec

#: Embeddings may differ from norm 1 by this much. The norm is computed in FP32, whatever the network is.
NORM_TOLERANCE = 1e-3


def prepare(artefact: Artefact, crops: np.ndarray) -> np.ndarray:
    """Crops as the network takes them.

    Args:
        artefact: of the network.
        crops: `(N, H, W, 3)` uint8 BGR.

    Raises:
        SanError: they do not fit the network, or there are none.
    """
    batch = artefact.to_input(crops)
    if not len(batch):
        raise SanError("the model was given no crops")
    return batch


def check_embeddings(embeddings: np.ndarray, *, shape: tuple[int, int], path: Path, do: str) -> np.ndarray:
    """Give `embeddings` back, or refuse them.

    Args:
        embeddings: what the runtime gave, float32.
        shape: (crops, embedding_dim) that it should have given.
        path: the model, for messages.
        do: what to do about a bad model.

    Raises:
        SanError: another shape, or an embedding that is not finite or not of norm 1.
    """
    if embeddings.shape != shape:
        raise SanError(f"{path} gave {embeddings.shape} for {shape[0]} crops", do=do)
    with np.errstate(all="ignore"):
        norm = np.linalg.norm(embeddings, axis=1)
        # Written so that NaN, too, is bad.
        bad = np.flatnonzero(~(np.abs(norm - 1.0) <= NORM_TOLERANCE))
    if len(bad):
        named = ", ".join(map(str, bad[:5].tolist())) + (" and more" if len(bad) > 5 else "")
        raise SanError(
            f"{path} gave embeddings that are not finite or not of norm 1",
            why=f"{len(bad)} of {len(embeddings)} rows: {named}",
            do=do,
        )
    return embeddings


def auto_note(why: str, note: str) -> str:
    """What `auto` took: the CPU, and why no GPU, or the GPU; then what else there is to know.

    Without a driver nobody expects a GPU, and the CPU is in the runtime's name: nothing is said of it.
    """
    choice = f"--device auto took the CPU: {why}" if why else "--device auto took the GPU"
    choice = "" if why == NO_DRIVER else choice
    return "; ".join(filter(None, (choice, note)))


def other_files(spec: BackendSpec, file: FileInfo) -> list[Compatibility]:
    """The answer of a backend to a file that has none of its endings."""
    do = export_advice(file.path) if file.checkpoint is not None else ""
    return [Compatibility(spec.name, "", False, f"it takes {' and '.join(spec.suffixes)} files", do)]


def export_advice(checkpoint: Path) -> str:
    """How a checkpoint becomes a file for the other runtimes."""
    export = f"export it: {shlex.join(['san', 'export', str(checkpoint)])}"
    return export if versions("torch") else f"where PyTorch is installed, {export}"


def in_words(error: SanError) -> str:
    """What an error says happened and why, without what to do."""
    return f"{error.message}: {error.why}" if error.why else error.message


def export_int8(artefact: Artefact) -> str:
    """The command that makes an INT8 file in another form, from what its user has."""
    try:
        of_starter = read_sidecar(STARTER).checkpoint_sha256 == artefact.checkpoint_sha256
    except SanError:
        of_starter = False
    return f"san export {'' if of_starter else 'FP32.onnx '}--int8 --calib DIR"
