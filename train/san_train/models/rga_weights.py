"""Weights of the authors' RGA (microsoft/Relation-Aware-Global-Attention-Networks at cdc9965), by name."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from san_deploy.errors import SanError

from .foreign_weights import PARALLEL, fill
from .rga import RelationAwareNetwork, RgaSettings

_WHOSE = "the authors' RGA"
#: The classifier is of the training people.
_CLASSIFIER = "cls."
_BLOCK = re.compile(r"backbone\.rga_att(\d)\.(theta|phi|gx|gg|W)_(spatial|channel)\.(.*)")
#: Theta, Phi and the unary embedding read the same, and are one layer here in this order.
_EMBEDDINGS = ("theta", "phi", "gx")
#: A block reads the stem's output, a sixteenth of the picture's pixels.
_PIXELS_PER_NODE = 16


def load_rga(
    state: Mapping[str, Tensor], size_hw: tuple[int, int] = (256, 128), *, variant: str = "sc"
) -> RelationAwareNetwork:
    """The network that their weights make, on the CPU, in evaluation mode.

    Args:
        state: of the authors' `ResNet50_RGA_Model`; the classifier is left out.
        size_hw: of the input. The weights hold the product of both sides alone, which is checked.
        variant: `sc`, `s` or `c`.

    Raises:
        SanError: weights of another variant or size; a tensor is missing, unknown, of another shape, or holds NaN
            or infinity.
    """
    given = {name.removeprefix(PARALLEL): tensor for name, tensor in state.items()}
    given = {name: tensor for name, tensor in given.items() if not name.startswith(_CLASSIFIER)}
    halves = {"spatial": "s", "channel": "c"}
    found = "".join(
        letter for half, letter in halves.items() if any(f"theta_{half}." in name for name in given)
    )
    if found and found != variant:
        raise SanError(f"these are weights of rga-{found}, not of rga-{variant}")
    _check_size(given, size_hw)
    network = RelationAwareNetwork(RgaSettings(variant=variant, size_hw=size_hw))
    ours: dict[str, Tensor] = {"size_hw": network.size_hw}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in given.items():
        if (match := _BLOCK.fullmatch(name)) is None:
            ours[name.replace("feat_bn.", "neck.", 1)] = tensor
            continue
        number, part, half, rest = match.groups()
        ours_half = f"attention.{int(number) - 1}.{half}"
        if part == "W":
            ours[f"{ours_half}.weigh.{rest}"] = tensor
        elif part == "gg" and rest == "0.weight" and tensor.ndim == 4:
            # Relations to a node come first, then those from it: two halves of one convolution.
            ours[f"{ours_half}.outgoing"], ours[f"{ours_half}.incoming"] = tensor[:, :, 0, 0].T.chunk(2)
        elif part == "gg":
            ours[f"{ours_half}.norm.{rest.removeprefix('1.')}"] = tensor
        else:
            parts.setdefault(f"{ours_half}.embed.{rest}", {})[part] = tensor
    for name, three in parts.items():
        if len(three) != len(_EMBEDDINGS) or len({tensor.shape for tensor in three.values()}) != 1:
            continue  # and so it is missing
        first = three[_EMBEDDINGS[0]]
        ours[name] = torch.cat([three[part] for part in _EMBEDDINGS]) if first.ndim else first
    return fill(network, ours, _WHOSE)


def _check_size(given: Mapping[str, Tensor], size_hw: tuple[int, int]) -> None:
    for name, axis, nodes_each in (("gg_spatial.0.weight", 1, 2), ("theta_channel.0.weight", 1, 1)):
        tensor = given.get(f"backbone.rga_att1.{name}")
        if tensor is None or tensor.ndim != 4:
            continue
        pixels = tensor.shape[axis] // nodes_each * _PIXELS_PER_NODE
        if pixels != size_hw[0] * size_hw[1]:
            raise SanError(
                f"these weights are of crops of {pixels} pixels, and {size_hw[0]}x{size_hw[1]} has "
                f"{size_hw[0] * size_hw[1]}",
                do="give the height and width of the training crops: --size HEIGHTxWIDTH",
            )
        return
