"""Weights of torchreid's HA-CNN (KaiyangZhou/deep-person-reid, torchreid/models/hacnn.py at f8cd150), by name."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from .foreign_weights import PARALLEL, fill
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
    return fill(network, given, "torchreid's HA-CNN")
