"""Which GPUs a plan is for: the one that is here, or those that were named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

from san_deploy.backends.cuda import Device, devices, probe
from san_deploy.backends.trt import version
from san_deploy.errors import SanError, UsageError

from .builder import known_targets

#: The first compute capability that TensorRT-RTX builds portable engines from. NVIDIA advises against one engine
#: for Turing and later GPUs: https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/getting-started/support-matrix.html
_PORTABLE = 80


@dataclass(frozen=True)
class Target:
    """Where a plan is to run.

    Attributes:
        sm: compute capabilities.
        device: the GPU that is here and can load it; None where there is none.
        ahead: whether TensorRT is given them, instead of looking at the GPU.
        on_gpu: whether it is built for `device` because that is here.
    """

    sm: tuple[str, ...]
    device: Device | None
    ahead: bool
    on_gpu: bool


def choose_target(
    trt: ModuleType, runtime: str, targets: Sequence[str], report: Callable[[str], None], *, index: int = 0
) -> Target:
    """Decide where a plan is to run, and say so where nobody asked for it.

    Args:
        trt: the runtime's module.
        runtime: `tensorrt` or `tensorrt-rtx`.
        targets: that the user names.
        report: takes one line.
        index: of the GPU to build on.

    Raises:
        UsageError: this version knows no such target.
        SanError: no GPU where one is needed, or one that this version does not build for.
    """
    if runtime == "tensorrt":
        found, why = probe()
        if not found:
            raise SanError(
                "TensorRT builds on the GPU that the engine is for, and finds none here",
                why=why,
                do="run this on the device, or build for an RTX GPU with --runtime tensorrt-rtx --target sm86",
            )
        chosen_gpu = _device_at(found, index)
        return Target((chosen_gpu.sm,), chosen_gpu, ahead=False, on_gpu=True)
    known = known_targets(trt)
    if not known:
        raise SanError(f"{trt.__name__} {version(trt)} cannot build ahead of time", do="install a later one")
    here = devices()
    unknown = [target for target in targets if target not in known]
    if unknown:
        raise UsageError(
            f"{trt.__name__} {version(trt)} knows no target '{unknown[0]}'", do=f"it knows {', '.join(known)}"
        )
    if targets:
        chosen = tuple(dict.fromkeys(targets))
    elif here:
        chosen = tuple(dict.fromkeys(device.sm for device in here))
        if missing := [sm for sm in chosen if sm not in known]:
            raise SanError(
                f"{trt.__name__} {version(trt)} does not build for the GPU that is here ({missing[0]})",
                do=f"name others with --target: it knows {', '.join(known)}",
            )
    else:
        chosen = tuple(sm for sm in known if int(sm[2:]) >= _PORTABLE)
        report(
            f"no GPU here and none named: built for {', '.join(chosen)}, all that {trt.__name__} {version(trt)} "
            "builds one engine for; older ones have one of their own, --target sm75"
        )
    loads = _device_at(here, index) if here or index else None
    device = loads if loads is not None and loads.sm in chosen else None
    return Target(chosen, device, ahead=True, on_gpu=not targets and bool(here))


def _device_at(found: Sequence[Device], index: int) -> Device:
    if index >= len(found):
        here = ", ".join(map(str, found)) or "none"
        raise SanError(f"there is no GPU cuda:{index}", why=f"found: {here}", do="give another --device")
    return found[index]
