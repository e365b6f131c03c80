"""Weights of torchreid's HA-CNN (KaiyangZhou/deep-person-reid, torchreid/models/hacnn.py at f8cd150), by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from san_deploy.errors import SanError

from ..pretrained import PARALLEL, load_tensors
from .ha_cnn import HaCnnSettings, HarmoniousAttentionNetwork

#: torchreid's classifiers are of its training people.
_CLASSIFIERS = ("classifier_global.", "classifier_local.")
#: Head of torchreid's name -> head of ours; numbers in names count from 1 there, from 0 here.
_HEADS: tuple[tuple[str, str], ...] = (
    (r"conv", "stem"),
    (r"inception(\d)", "stages.{0}"),
    (r"ha(\d)\.soft_attn\.spatial_attn\.conv(\d)", "attention.{0}.spatial.{1}"),
    (r"ha(\d)\.soft_attn\.channel_attn\.conv(\d)", "attention.{0}.channel.{1}"),
    (r"ha(\d)\.soft_attn\.conv", "attention.{0}.blend"),
    (r"ha(\d)\.hard_attn\.fc", "attention.{0}.hard"),
    (r"local_conv(\d)", "streams.{0}"),
    (r"fc_global", "head_global"),
    (r"fc_local", "head_local"),
)


def our_name(name: str) -> str:
    """Our name of one of torchreid's tensors; the same name where it is none."""
    for pattern, ours in _HEADS:
        match = re.match(pattern + r"(?=\.)", name)
        if match:
            head = ours.format(*(int(number) - 1 for number in match.groups()))
            return head + re.sub(r"\.stream(\d)\.", _path, name[match.end() :])
    return name


def _path(match: re.Match[str]) -> str:
    return f".paths.{int(match[1]) - 1}."


def read_torchreid(path: Path) -> dict[str, Tensor]:
    """The state dict in a checkpoint that torchreid wrote. No code in the file is run (`weights_only`).

    Args:
        path: a `.pth.tar` or `.pth`. torchreid saves scores beside the weights, as NumPy numbers.

    Raises:
        SanError: missing, no such file, or more in it than tensors and numbers.
    """
    with torch.serialization.safe_globals(_numbers()):
        state = load_tensors(path)
    for wrapper in ("state_dict", "model", "encoder"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
            break
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise SanError(f"{path} holds no state dict")
    return state


def _numbers() -> list[Any]:
    """What makes a NumPy number out of bytes, and nothing else; NumPy 1 has it under another name."""
    kinds = [np.dtype(kind) for kind in ("f4", "f8")]
    make = kinds[0].type(0).__reduce__()[0]
    return [make, (make, "numpy.core.multiarray.scalar"), np.dtype, *(type(kind) for kind in kinds)]


def load_torchreid(state: Mapping[str, Tensor], *, align_corners: bool = False) -> HarmoniousAttentionNetwork:
    """The network that torchreid's weights make, on the CPU, in evaluation mode.

    Args:
        state: of torchreid's `HACNN` with or without its local branch; classifiers are left out.
        align_corners: of the sampling of regions. torchreid leaves it to PyTorch, where it was true until 1.2 (the
            weights of 2018) and is false since 1.3.

    Raises:
        SanError: a tensor is missing, unknown, of another shape, or holds NaN or infinity.
    """
    given = {
        our_name(name.removeprefix(PARALLEL)): tensor
        for name, tensor in state.items()
        if not name.removeprefix(PARALLEL).startswith(_CLASSIFIERS)
    }
    local = any(name.startswith("streams.") for name in given)
    network = HarmoniousAttentionNetwork(HaCnnSettings(local=local, align_corners=align_corners))
    expected = network.state_dict()
    # PyTorch 0.4.0 had no such counters, and evaluation does not read them.
    counters = {name for name in expected if name.endswith(".num_batches_tracked")}
    wrong = sorted((set(expected) ^ set(given)) - (counters - set(given)))
    wrong += sorted(name for name in set(expected) & set(given) if expected[name].shape != given[name].shape)
    if wrong:
        raise SanError(
            "these are no weights of torchreid's HA-CNN",
            why=f"{len(wrong)} tensors are missing, unknown or of another shape, the first is {wrong[0]}",
        )
    broken = [name for name in given if not torch.isfinite(given[name]).all()]
    if broken:
        raise SanError("torchreid's weights hold NaN or infinity", why=f"in {broken[0]}")
    network.load_state_dict({**expected, **given})
    return network.eval()
