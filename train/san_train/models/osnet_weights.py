"""Weights of OSNet as torchreid and Roboflow's `reid` keep them, by name."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from san_deploy.errors import SanError

from .foreign_weights import PARALLEL, fill
from .osnet import OmniScaleNetwork, OsNetSettings

#: What may stand in front of every name: torch.nn.DataParallel's, and those of wrappers around a backbone.
_PREFIXES = (PARALLEL, "model.", "encoder.", "backbone.")
#: torchreid's `osnet` calls the streams a to d, and puts what shrinks the map behind the blocks.
_RENAMED = (
    (re.compile(r"\.conv2a\."), ".conv2.0.layers.0."),
    (re.compile(r"\.conv2b\.(\d)\."), r".conv2.1.layers.\1."),
    (re.compile(r"\.conv2c\.(\d)\."), r".conv2.2.layers.\1."),
    (re.compile(r"\.conv2d\.(\d)\."), r".conv2.3.layers.\1."),
    (re.compile(r"^conv([23])\.2\.0\."), r"pool\1.0."),
)


def our_name(name: str) -> str:
    """Our name of one of their tensors; the same name where it is none."""
    stripped = True
    while stripped:
        stripped = False
        for prefix in _PREFIXES:
            if name.startswith(prefix):
                name, stripped = name[len(prefix) :], True
    for pattern, ours in _RENAMED:
        name = pattern.sub(ours, name)
    return name


def load_osnet(state: Mapping[str, Tensor], size_hw: tuple[int, int] = (256, 128)) -> OmniScaleNetwork:
    """The network that their weights make, on the CPU, in evaluation mode. Variant and width follow from the tensors.

    Args:
        state: a state dict; classifiers are left out.
        size_hw: of the input, which the weights do not say.

    Raises:
        SanError: a tensor is missing, unknown, of another shape, or holds NaN or infinity.
    """
    given = {our_name(name): tensor for name, tensor in state.items()}
    given = {name: tensor for name, tensor in given.items() if not name.startswith("classifier.")}
    wrong = "these are no weights of OSNet"
    ranks = [given[name].ndim if name in given else 0 for name in ("conv1.conv.weight", "fc.0.weight")]
    if ranks != [4, 2]:
        raise SanError(wrong, why="conv1.conv.weight or fc.0.weight is missing, or of another shape")
    instance = "conv1.bn.running_mean" not in given
    inside = instance and "conv2.0.conv3.bn.weight" not in given
    settings = OsNetSettings(
        size_hw=size_hw,
        width=given["conv1.conv.weight"].shape[0] / 64,
        variant="ain" if inside else "ibn" if instance else "plain",
        head_dim=given["fc.0.weight"].shape[0],
    )
    return fill(OmniScaleNetwork(settings), given, "OSNet")
