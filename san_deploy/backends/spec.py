"""What a runtime is to the rest: a row of the table in `backends`, and a file with the functions of `Runtime`."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from ..errors import SanError
from ..io.versions import versions

if TYPE_CHECKING:
    # Help texts read the table of runtimes: it loads nothing heavy.
    import numpy as np
    import numpy.typing as npt

    from ..artefact import Artefact
    from .info import Compatibility, FileInfo


class Backend(Protocol):
    """Runs one exported network on a batch of prepared crops.

    Implementations should

    - return a new array from each call, never a view of a reused buffer;
    - take any number of crops, cutting or filling up where the network was built for other numbers;
    - refuse crops that do not fit `artefact` before calling the runtime (`common.prepare`);
    - raise SanError where an output is not finite or not of norm 1, naming the crops (`common.check_embeddings`);
    - run on the device and precision asked for, or raise; never fall back;
    - be safe to call from two threads at once, which is how `embed_folder` keeps a runtime busy.

    One that can time its steps also has `profile(crops)`, which gives milliseconds by name, as `TensorRT`.
    """

    artefact: Artefact
    #: What runs it, in words, to print: `onnxruntime (CPU, 2 threads)`.
    name: str
    #: What to know of how it runs here, in words, to print: why this device, what costs time. Empty for nothing.
    note: str

    def __call__(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """`(N, H, W, 3)` uint8 BGR, N >= 1, to `(N, D)` float32 embeddings of norm 1."""
        ...


@dataclass(frozen=True)
class OpenRequest:
    """A file to open, and how.

    Attributes:
        path: the file, which exists and has one of the runtime's endings.
        device: `auto`, `cpu` or `cuda`; `auto` or one of the runtime's devices.
        index: number of the GPU.
        threads: number of threads on the CPU; None lets the runtime take one per core.
        mask: mask of a checkpoint; None is its own.
        accept_damaged: whether to open a file whose bytes are not those that were written; `note` says so. Never an
            engine.
    """

    path: Path
    device: str = "auto"
    index: int = 0
    threads: int | None = None
    mask: str | None = None
    accept_damaged: bool = False


@dataclass(frozen=True)
class Installed:
    """A runtime as it is found on this machine.

    Attributes:
        name: name of the backend.
        version: `10.16.1.11`; empty where it is not there or does not load.
        problem: reason why it does not load; None where it does.
    """

    name: str
    version: str
    problem: SanError | None = field(default=None, compare=False)


class Runtime(Protocol):
    """The functions in a runtime's file. Importing the file imports no library that may be missing."""

    def open_model(self, spec: BackendSpec, request: OpenRequest) -> Backend:
        """Open a file, or raise SanError; UsageError for options that do not fit each other."""

    def diagnose(self, spec: BackendSpec, file: FileInfo) -> list[Compatibility]:
        """Whether it runs a file here, by device. `common.other_files` answers for those of other endings."""

    def installed(self, spec: BackendSpec) -> Installed:
        """Whether its library is there. `installed_packages` answers by the packages of its row."""

    def read_file(self, path: Path) -> FileInfo:
        """What a file is. Of the first row that names an ending alone; the others need not have it."""

    def built_for(self, path: Path) -> str:
        """The backend that a file says it was built for. Of runtimes whose endings say too little; others lack it."""


@dataclass(frozen=True)
class BackendSpec:
    """A row of the table of runtimes.

    Attributes:
        name: name on the command line.
        module: Python module with the functions of `Runtime`, relative to this package.
        suffixes: endings of its files, lower case, the usual one first.
        devices: places where it runs them.
        packages: whose versions bear on its figures.
        kind: what its files are, in words.
        int8_form: the form of INT8 file that is for it, as in `Calibration.form`.
        takes_mask: whether --mask chooses the mask of its files.
        self_checks: whether a file's first load on a device is held against what the network gave, `self_check`.
        made_by: advice that makes a file of its own of an ONNX file, with a place `{path}`; empty for none.
    """

    name: str
    module: str
    suffixes: tuple[str, ...]
    devices: tuple[str, ...]
    packages: tuple[str, ...] = ()
    kind: str = "ONNX"
    int8_form: str = ""
    takes_mask: bool = False
    self_checks: bool = False
    made_by: str = ""

    def takes(self, path: Path) -> bool:
        """Whether a file has one of its endings."""
        return path.suffix.lower() in self.suffixes

    @property
    def runtime(self) -> Runtime:
        """Its file, imported when it is first asked for."""
        return cast(Runtime, importlib.import_module(self.module, __package__))


def installed_packages(spec: BackendSpec, do: str = "") -> Installed:
    """By the packages of the row alone: nothing is imported."""
    found = versions(*spec.packages)
    if not found:
        problem = SanError(f"{spec.name} is not installed", do=do or f"pip install {spec.packages[0]}")
        return Installed(spec.name, "", problem)
    return Installed(spec.name, next(iter(found.values())))
