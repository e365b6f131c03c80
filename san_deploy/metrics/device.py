"""Where similarities are computed: the CPU, or a GPU by PyTorch or CuPy."""

from __future__ import annotations

import difflib
import importlib.util
import re

from ..backends import cuda
from ..errors import UsageError

_KNOWN = ("auto", "cpu", "cuda", "cuda:1")


def rank_device(asked: str) -> str:
    """The device to take.

    Args:
        asked: `cpu`, `cuda` or `cuda:1`, which are taken as they are; `auto` takes the first GPU where there is one
            and PyTorch with CUDA or CuPy is installed, else the CPU.

    Returns:
        `cpu`, `cuda` or `cuda:1`.

    Raises:
        UsageError: any other name.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", asked):
        near = difflib.get_close_matches("cuda" if "gpu" in asked.lower() else asked.lower(), _KNOWN, 1)
        raise UsageError(
            f"--rank-device {asked} is unknown",
            do=(f"did you mean {near[0]}? Give" if near else "give") + f" one of {', '.join(_KNOWN)}",
        )
    if asked != "auto":
        return asked
    return "cuda" if cuda.devices() and (torch_has_cuda() or has_cupy()) else "cpu"


def torch_has_cuda() -> bool:
    """Whether PyTorch is installed and can use a GPU."""
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()


def has_cupy() -> bool:
    """Whether CuPy is installed."""
    return importlib.util.find_spec("cupy") is not None
