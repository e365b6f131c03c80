"""What this machine has: runtimes, GPUs, the starter model."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from .. import __version__
from ..errors import SanError
from ..io.extras import BUILDS, conflict
from ..io.machine import Machine, machine
from ..io.versions import versions
from . import BACKENDS, STARTER, cuda, packages, read_file
from .info import FileInfo
from .trt import MODULES


@dataclass(frozen=True)
class Environment:
    """What this machine has.

    Attributes:
        san_deploy: version.
        machine: processor, cores, system, Python.
        packages: versions of those that are installed.
        providers: execution providers of ONNX Runtime.
        no_providers: reason why there are none; empty where there are.
        conflicts: packages that are installed over each other, one sentence each, with the command that mends it.
        backends: `{name: version}` of the runtimes that are there.
        backend_problems: `{name: why not}` of the others.
        cuda_runtime: version of libcudart, `13.0`; empty where there is none.
        cuda_driver: newest CUDA that the driver supports; empty where there is none.
        gpus: `[{"name", "sm", "index"}]`.
        no_gpu: reason why there is none; empty where there is.
        starter: description of the starter model; None where it is not as it should be.
        starter_problem: why; empty where it is.
    """

    san_deploy: str
    machine: Machine
    packages: dict[str, str]
    providers: list[str]
    no_providers: str
    conflicts: list[str]
    backends: dict[str, str]
    backend_problems: dict[str, str]
    cuda_runtime: str
    cuda_driver: str
    gpus: list[dict[str, Any]]
    no_gpu: str
    starter: FileInfo | None
    starter_problem: str

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return values | {
            "machine": asdict(self.machine),
            "starter": None if self.starter is None else self.starter.as_dict(),
            # The names that these had before there was a table of runtimes.
            "tensorrt": {name: found for name, found in self.backends.items() if name in MODULES},
            "tensorrt_problems": {k: why for k, why in self.backend_problems.items() if k in MODULES},
        }


def read_environment() -> Environment:
    """Look at this machine. What is missing is said, and is no error."""
    providers, no_providers = _providers()
    runtimes = [spec.runtime.installed(spec) for spec in BACKENDS.values()]
    found, no_gpu = cuda.probe()
    starter, problem = None, ""
    try:
        starter = read_file(STARTER)
    except SanError as error:
        problem = str(error)
    return Environment(
        san_deploy=__version__,
        machine=machine(),
        packages=versions(*packages("onnx", "safetensors")),
        providers=providers,
        no_providers=no_providers,
        conflicts=[message for module in BUILDS if (message := conflict(module))],
        backends={item.name: item.version for item in runtimes if item.problem is None},
        backend_problems={item.name: str(item.problem) for item in runtimes if item.problem},
        cuda_runtime=cuda.runtime_version(),
        cuda_driver=_driver_version(),
        gpus=[asdict(device) for device in found],
        no_gpu=no_gpu,
        starter=starter,
        starter_problem=problem,
    )


def _providers() -> tuple[list[str], str]:
    """Execution providers of ONNX Runtime, or why there are none."""
    from .ort import onnxruntime

    try:
        return list(onnxruntime.get_available_providers()), ""
    except SanError as error:
        return [], str(error)


def _driver_version() -> str:
    try:
        return cuda.load().driver_version()
    except SanError:
        return ""
