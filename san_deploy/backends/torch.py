"""PyTorch: a checkpoint as it was trained, in FP32. What every other runtime is compared with.

The one module of the edge that needs PyTorch, and only when a checkpoint is opened.
"""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..artefact import sha256_file
from ..checkpoint_info import check_hashes, read_header, read_info, tensors_sha256
from ..errors import SanError
from ..io.extras import install
from ..io.interrupts import held_interrupts
from .common import auto_note, check_embeddings, other_files, prepare
from .info import Compatibility, FileInfo
from .spec import Backend, BackendSpec, Installed, OpenRequest, installed_packages

if TYPE_CHECKING:
    import torch

_TRAIN = install("train")
#: Ends of the names of tensors that are counted, not learned.
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
#: One for all networks: `embed` sets the network's mask, but PyTorch's settings are of the whole process.
_lock = threading.Lock()


class TorchNetwork:
    """A `Backend` that runs a checkpoint of `san train`.

    In evaluation mode, in FP32 without TF32, with cuDNN's deterministic algorithms. Calls from several threads,
    of other networks too, wait for each other.

    Args:
        path: the checkpoint, .safetensors.
        device: `cpu`, `cuda` or `cuda:1`, as PyTorch names it.
        mask: `argmax`, `expected` or `ramp:EPS`; None is argmax where there is a choice.
        threads: of PyTorch while it runs here on the CPU; None leaves them as they are.
        accept_damaged: run it even where its bytes are not those that were written; `note` says so.

    Attributes:
        artefact: what an export of it with this mask would say of itself; its `sha256` is the checkpoint's.
        network: in evaluation mode; its weights are not to be changed.
        name: `torch 2.13.0 (CPU)`.
        note: that nothing vouches for a checkpoint from before hashes were kept, or that it is damaged; else empty.

    Raises:
        UsageError: the network has no sharp mask to choose, or `mask` is none.
        SanError: no checkpoint, or PyTorch has no such device.
        ModuleNotFoundError: PyTorch is not installed.
    """

    def __init__(
        self,
        path: Path,
        *,
        device: str = "cpu",
        mask: str | None = None,
        threads: int | None = None,
        accept_damaged: bool = False,
    ) -> None:
        import torch
        from san_train.checkpoint import load_checkpoint
        from san_train.describe import describe, resolve_mask

        if threads is not None and threads < 1:
            raise SanError(f"a model runs on 1 thread or more; received {threads}")
        self._path = Path(path)
        network, info = load_checkpoint(self._path, accept_damaged=accept_damaged)
        self._device = _device(device)
        self.network = network.to(self._device).eval()
        header = read_header(self._path)
        sha256 = sha256_file(self._path)
        self.artefact = describe(
            network,
            info,
            mask=resolve_mask(network, mask),
            input_form="uint8",
            checkpoint_sha256=sha256,
            weights_sha256=tensors_sha256(self._path, header),
            sha256=sha256,
        )
        self._threads = threads
        where = (
            "CPU"
            if self._device.type == "cpu"
            else f"{self._device}, {torch.cuda.get_device_name(self._device)}"
        )
        self.name = f"torch {torch.__version__} ({where})"
        self.note = check_hashes(self._path, header).note

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """Embed prepared crops.

        Args:
            crops: `(N, H, W, 3)` uint8 BGR, N >= 1; H and W as in `artefact.size_hw`.

        Returns:
            `(N, D)` float32, norm 1, in the order of `crops`; a new array.

        Raises:
            SanError: other crops, no memory, or a row is not finite or not of norm 1.
        """
        import torch
        from san_train.evaluate import embed

        batch = prepare(self.artefact, crops)
        # A network without a sharp mask has nothing to switch.
        mask = "argmax" if self.artefact.mask in ("none", "soft") else self.artefact.mask
        with _lock, torch.backends.cudnn.flags(deterministic=True, benchmark=False, allow_tf32=False):
            threads = torch.get_num_threads()
            if self._threads is not None:
                torch.set_num_threads(self._threads)
            try:
                rows = embed(self.network, batch, mask=mask)
            except torch.cuda.OutOfMemoryError as error:
                raise SanError(
                    f"{len(batch)} crops do not fit into the memory of {self._device}",
                    do="give a smaller --batch",
                ) from error
            finally:
                torch.set_num_threads(threads)
        shape = (len(crops), self.artefact.embedding_dim)
        return check_embeddings(rows, shape=shape, path=self._path, do="train again, see docs/training.md")


def cuda_reason() -> str:
    """Why PyTorch cannot use a GPU here, in words; empty where it can."""
    import torch

    if torch.version.cuda is None:
        return f"this PyTorch {torch.__version__} was built without CUDA"
    return "" if torch.cuda.is_available() else "PyTorch finds no GPU"


def _device(name: str) -> torch.device:
    import torch

    device = torch.device(name)
    if device.type == "cuda":
        if why := cuda_reason():
            raise SanError(
                f"PyTorch cannot run on {name}", why=why, do="install a PyTorch for CUDA, see pytorch.org"
            )
        if device.index is not None and device.index >= torch.cuda.device_count():
            raise SanError(f"there is no GPU {name}", why=f"PyTorch finds {torch.cuda.device_count()}")
    return device


def open_model(spec: BackendSpec, request: OpenRequest) -> Backend:
    """As `spec.Runtime.open_model`. `auto` takes the CPU where the GPU cannot be used, and says why."""
    with held_interrupts():
        import torch  # noqa: F401  its first import, which Ctrl-C must not cut short
    if request.device != "auto":
        device = f"cuda:{request.index}" if request.device == "cuda" else "cpu"
        return _open(request, device)
    why = cuda_reason()
    device = "cpu" if why else "cuda:0"
    result = _open(request, device)
    result.note = auto_note(why, result.note)
    return result


def _open(request: OpenRequest, device: str) -> TorchNetwork:
    return TorchNetwork(
        request.path,
        device=device,
        mask=request.mask,
        threads=request.threads,
        accept_damaged=request.accept_damaged,
    )


def installed(spec: BackendSpec) -> Installed:
    """As `spec.Runtime.installed`, without loading it."""
    return installed_packages(spec, do=_TRAIN)


def diagnose(spec: BackendSpec, file: FileInfo) -> list[Compatibility]:
    """As `spec.Runtime.diagnose`."""
    if not spec.takes(file.path):
        return other_files(spec, file)
    there = installed(spec)
    if there.problem is not None:
        return [Compatibility(spec.name, "", False, "PyTorch is not installed", _TRAIN)]
    return [Compatibility(spec.name, "", True, f"{there.version}, which is not loaded to say so")]


def read_file(path: Path) -> FileInfo:
    """As `spec.Runtime.read_file`, without PyTorch."""
    header = read_header(path)
    info = read_info(path, header.description)
    parameters = sum(
        math.prod(shape) for name, shape in header.shapes.items() if not name.endswith(_STATISTICS)
    )
    return FileInfo(
        path,
        "checkpoint",
        path.stat().st_size,
        sha256_file(path),
        _check_beside(path, header.description),
        checkpoint=info,
        parameters=parameters,
        integrity=check_hashes(path, header),
    )


def _check_beside(path: Path, description: dict[str, Any]) -> str:
    """Name of the JSON file that `san train` wrote beside a checkpoint, for people; empty where there is none."""
    beside = path.with_suffix(".json")
    try:
        message = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return ""
    # Many programs write a model.json.
    if not (isinstance(message, dict) and {"arch", "settings", "schema_version"} <= message.keys()):
        return ""
    differ = sorted(
        key for key in message.keys() | description.keys() if message.get(key) != description.get(key)
    )
    if differ:
        raise SanError(
            f"{path} and {beside.name} contradict each other",
            why=f"they differ in {', '.join(differ)}",
            do="the checkpoint itself counts; remove the other file, or fetch both again",
        )
    return beside.name
