"""What the sharp masks of a network in PyTorch are drawn from, and what they are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from san_train.attention import SharpAttention
from san_train.data import normalise
from san_train.models import Network, attention_blocks, std_of
from torch import Tensor, nn

from .probes import BlockValues, MaskProbe


def torch_probe(network: Network, mask: str) -> MaskProbe:
    """Look into the sharp blocks of a network.

    Args:
        network: on any device; after each call its mode, training flag and blocks are what they
            were.
        mask: how masks are drawn, as in `Artefact.mask`.

    Returns:
        A probe; blocks are named by the last part of their module's name, `stage1`.
    """
    return _TorchProbe(network, mask)


class _TorchProbe:
    def __init__(self, network: Network, mask: str) -> None:
        self._network = network
        self._mask = mask
        found = {
            name.rpartition(".")[2]: module
            for name, module in attention_blocks(network)
            if module.gate == "sharp"
        }
        self.blocks = tuple(found)
        self._modules = tuple(found.values())

    def __call__(self, images: np.ndarray) -> list[BlockValues]:
        if not self._modules:
            return []
        device = next(self._network.parameters()).device
        with self._evaluating(), torch.no_grad(), contextlib.ExitStack() as stack:
            watched = [stack.enter_context(_watch(module)) for module in self._modules]
            self._network(normalise(images, device, std_of(self._network)))
        return [BlockValues(_array(values["x"]), _array(values["mask"])) for values in watched]

    def redraw(self, block: int, x: np.ndarray) -> np.ndarray:
        module = self._modules[block]
        context, module.context = module.context, None
        device = next(self._network.parameters()).device
        try:
            with self._evaluating(), torch.no_grad():
                return _array(module.mask(torch.from_numpy(x).to(device))[0])
        finally:
            module.context = context

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        network = self._network
        was_training = network.training
        modes = {id(module.mode): module.mode for module in self._modules}
        before = {key: mode.evaluate for key, mode in modes.items()}
        network.eval()
        for mode in modes.values():
            mode.evaluate = self._mask
        try:
            yield
        finally:
            for key, mode in modes.items():
                mode.evaluate = before[key]
            network.train(was_training)


@contextlib.contextmanager
def _watch(module: SharpAttention) -> Iterator[dict[str, Tensor]]:
    """Keep a block's X and the mask that it gives, while this is open."""
    seen: dict[str, Tensor] = {}
    draw = module.mask

    def mask(trunk: Tensor) -> tuple[Tensor, Tensor | None]:
        # X is the trunk, unless the hook below sees the context-aware unit give another.
        seen["x"] = trunk
        drawn = draw(trunk)
        seen["mask"] = drawn[0]
        return drawn

    def keep(unit: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen["x"] = output

    handle = None if module.context is None else module.context.register_forward_hook(keep)
    # A mask is drawn by a method, which no hook of PyTorch's sees.
    module.__dict__["mask"] = mask
    try:
        yield seen
    finally:
        del module.__dict__["mask"]
        if handle is not None:
            handle.remove()


def _array(values: Tensor) -> np.ndarray:
    result: np.ndarray = values.detach().float().cpu().numpy()
    return result
