"""A TensorRT plan, read and held against this machine before anything of it is executed.

A plan is code. It runs only where its sidecar vouches for its bytes, and only on the kind of machine that it was
built for; every refusal names what it was built with, what is here, and the command that builds it anew.
"""

from __future__ import annotations

import hashlib
import platform
import shlex
from dataclasses import dataclass
from pathlib import Path

from ..artefact import Artefact, Engine, read_sidecar, sha256_file
from ..errors import SanError
from .cuda import Device

#: No plan of ours is near: an ONNX file ends at 2 GiB, and the host code of a portable plan is some 50 MB.
_MAX_BYTES = 2**31 + 2**28
#: A plan that is version compatible and of the first major version runs on the second, beside its own. From
#: the support matrix of TensorRT 11.4.
_MAJORS = ((10, 11),)


@dataclass(frozen=True)
class Plan:
    """A plan whose bytes are those that its sidecar describes.

    Attributes:
        path: the file.
        data: its bytes. They are what was hashed, so nothing else can be loaded in their place.
        artefact: what the sidecar says.
        engine: of the artefact.
        device: index of the GPU that is to run it.
    """

    path: Path
    data: bytes
    artefact: Artefact
    engine: Engine
    device: int = 0

    @property
    def source(self) -> Path:
        """Where the ONNX file that it was built from lies, if it lies beside it."""
        return self.path.with_name(self.engine.onnx) if self.engine.onnx else self.path.with_suffix(".onnx")


def read_plan(path: Path, device: int = 0) -> Plan:
    """Read a plan and its sidecar, to run it on a GPU.

    Raises:
        SanError: either is missing or damaged, the sidecar describes no plan or other bytes, or the file is
            larger than any plan of ours.
    """
    artefact = read_sidecar(path)
    if artefact.engine is None:
        raise SanError(
            f"{path} is not described as a TensorRT engine by the file beside it",
            do="build the engine again: san export MODEL.onnx --engine",
        )
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise SanError(f"cannot read engine {path}: {error.strerror or error}") from error
    if len(data) > _MAX_BYTES:
        raise SanError(f"engine {path} is larger than {_MAX_BYTES >> 20} MiB, which no engine of ours is")
    plan = Plan(path, data, artefact, artefact.engine, device)
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != artefact.sha256:
        raise SanError(
            f"engine {path} is cut short, or is not the one that {path.name}.json describes",
            why=f"SHA-256 {sha256[:12]} here, {artefact.sha256[:12] or 'none'} there",
            do=f"copy both files again, or {rebuild(plan)}",
        )
    return plan


def system() -> str:
    """Operating system and processor, `linux-x86_64`, as in `Engine.system`."""
    return f"{platform.system()}-{platform.machine()}".lower()


def check_system(plan: Plan) -> None:
    """Refuse a plan of another operating system or processor; SanError."""
    if plan.engine.system != system():
        _refuse(plan, f"for {plan.engine.system}", f"this machine is {system()}")


def check_version(plan: Plan, installed: str) -> None:
    """Refuse a plan that the installed version of its runtime does not run.

    TensorRT wants its own version, to the build where both name it (JetPack's does not). A version compatible
    plan runs on later ones. TensorRT-RTX runs no plan of another version.

    Args:
        plan: to look at.
        installed: version of `plan.engine.runtime` here, `10.16.1.11`.

    Raises:
        SanError: it does not fit.
    """
    built, here = _numbers(plan.engine.version), _numbers(installed)
    common = min(len(built), len(here))
    if plan.engine.version == installed or (common >= 3 and built[:common] == here[:common]):
        return
    later = bool(built) and here > built and (here[0] == built[0] or (built[0], here[0]) in _MAJORS)
    if plan.engine.version_compatible and plan.engine.runtime == "tensorrt" and later:
        return
    compatible = "version compatible, " if plan.engine.version_compatible else ""
    runtime = plan.engine.runtime
    _refuse(plan, f"{compatible}with {runtime} {plan.engine.version}", f"this machine has {installed}")


def check_device(plan: Plan, device: Device) -> None:
    """Refuse a plan that was built for other GPUs; SanError."""
    fits = device.sm in plan.engine.sm
    if plan.engine.hardware_compatibility == "ampere+":
        fits = fits or _compute(device.sm) >= 80
    if not fits:
        built = f"for {', '.join(plan.engine.sm) or 'no GPU'}"
        if plan.engine.hardware_compatibility != "none":
            built += f" (hardware compatibility {plan.engine.hardware_compatibility})"
        if plan.engine.gpu:
            built += f", on {plan.engine.gpu}"
        _refuse(plan, built, f"this GPU is {device}")


def rebuild(plan: Plan, *, runtime: str = "") -> str:
    """How to build this plan on this machine, as an advice with its command.

    Args:
        plan: whose options are taken over.
        runtime: to build with; empty takes its own.
    """
    engine, path, source = plan.engine, plan.path, plan.source
    runtime = runtime or engine.runtime
    words = ["san", "export", str(source), "--engine", "--batch", ",".join(map(str, engine.batch))]
    words += ["--runtime", runtime] if runtime != "tensorrt" else []
    words += ["--device", f"cuda:{plan.device}"] if plan.device else []
    words += ["--tf32"] if engine.tf32 else []
    if engine.hardware_compatibility != "none":
        words += ["--hardware-compatibility", engine.hardware_compatibility]
    words += ["--version-compatible"] if engine.version_compatible else []
    words += ["-o", str(path)] if path != source.with_suffix(".engine") else []
    command = shlex.join([*words, "--force"])
    if not source.is_file():
        return (
            f"copy {source.name} (SHA-256 {engine.onnx_sha256[:12]}) beside it and rebuild it here: {command}"
        )
    if sha256_file(source) != engine.onnx_sha256:
        return f"rebuild it here, from the {source.name} beside it, which is not the one it was built from: {command}"
    return f"rebuild it here: {command}"


def _refuse(plan: Plan, built: str, found: str) -> None:
    raise SanError(f"engine {plan.path} was built {built}, but {found}", do=rebuild(plan))


def _numbers(version: str) -> tuple[int, ...]:
    """`10.16.1.11` -> (10, 16, 1, 11); empty where it is no such thing."""
    parts = version.split(".")
    return tuple(map(int, parts)) if all(part.isdecimal() for part in parts) else ()


def _compute(sm: str) -> int:
    """`sm86` -> 86."""
    digits = sm.removeprefix("sm")
    return int(digits) if digits.isdecimal() else 0
