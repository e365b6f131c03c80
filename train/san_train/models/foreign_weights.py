"""Checkpoints of other programs: reading one without running it, and filling a network of ours from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from san_deploy.errors import SanError

#: What torch.nn.DataParallel puts in front of every name.
PARALLEL = "module."
#: Under these keys programs keep the weights beside what else they save.
_WRAPPERS = ("state_dict", "model", "encoder")
_Module = TypeVar("_Module", bound=nn.Module)


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a checkpoint of PyTorch. No code in the file is run (`weights_only`).

    Args:
        path: a `.pth.tar`, `.pth` or `.pt`. Scores saved beside the weights as NumPy numbers are left out.

    Raises:
        SanError: missing, no such file, or more in it than tensors and numbers.
    """
    try:
        with torch.serialization.safe_globals(_numbers()):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise SanError(f"{path} cannot be read", why=error.strerror or str(error)) from error
    except Exception as error:  # pickle.UnpicklingError and what a malformed pickle may raise
        # PyTorch's own words advise to run what is in the file.
        raise SanError(
            f"{path} is cut short, or holds Python objects beside weights, which are not read",
            do=f"save the weights alone where it was made: torch.save(model.state_dict(), '{path.name}')",
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
            break
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) and _is_plain(value)
        for name, value in state.items()
    ):
        raise SanError(f"{path} holds no state dict of plain tensors by name")
    return state


def _is_plain(value: Tensor) -> bool:
    """Whether its numbers are all there and real: neither sparse, quantised, complex nor left out (`meta`)."""
    return (
        value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_complex()
        and not value.is_quantized
    )


def _numbers() -> list[Any]:
    """What makes a NumPy number out of bytes, and nothing else; NumPy 1 has it under another name."""
    kinds = [np.dtype(kind) for kind in ("f4", "f8")]
    make = kinds[0].type(0).__reduce__()[0]
    return [make, (make, "numpy.core.multiarray.scalar"), np.dtype, *(type(kind) for kind in kinds)]


def fill(network: _Module, given: Mapping[str, Tensor], whose: str) -> _Module:
    """Set all tensors of a network, and put it into evaluation mode.

    Args:
        network: of ours, on the CPU.
        given: tensors by our names.
        whose: the network in words, for messages: `torchreid's HA-CNN`.

    Raises:
        SanError: a tensor is missing, unknown, of another shape, or holds NaN or infinity.
    """
    expected = network.state_dict()
    # PyTorch 0.4.0 had no such counters, and evaluation does not read them.
    counters = {name for name in expected if name.endswith(".num_batches_tracked")}
    wrong = sorted((set(expected) ^ set(given)) - (counters - set(given)))
    wrong += sorted(name for name in set(expected) & set(given) if expected[name].shape != given[name].shape)
    if wrong:
        raise SanError(
            f"these are no weights of {whose}",
            why=f"{len(wrong)} tensors are missing, unknown or of another shape, the first is {wrong[0]}",
        )
    broken = [name for name in given if not torch.isfinite(given[name]).all()]
    if broken:
        raise SanError(f"{whose}: the weights hold NaN or infinity", why=f"in {broken[0]}")
    network.load_state_dict({**expected, **given})
    return network.eval()
