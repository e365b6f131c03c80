"""What a ramp in the place of argmax would lose by the target's rounding, on the same crops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx

from san_deploy.artefact import INPUT_NAME, OUTPUT_NAME, Artefact
from san_deploy.errors import SanError
from san_deploy.io.cpu import usable_cores

from ...graph.replace_masks import replace_masks
from ...verify import row_cosine
from ..result import MaskCost
from .probes import open_diagnostic, run

if TYPE_CHECKING:
    from san_train.models import Network

#: The widths that are tried: the starter's studies chose among them.
MASKS = ("ramp:0.015625", "ramp:0.0625")
_BATCH = 8
#: `(n, H, W, 3)` uint8 BGR and a mask as in `Artefact.mask` to `(n, D)`; SanError where the network cannot have it.
RowsWithMask = Callable[[np.ndarray, str], np.ndarray]


def measure_masks(
    reference: RowsWithMask,
    target: RowsWithMask,
    images: np.ndarray,
    masks: Sequence[str] = ("argmax", *MASKS),
) -> tuple[MaskCost, ...]:
    """Compare rows with each mask put into both networks.

    Args:
        reference: what is right: `torch_rows` of a checkpoint, else `graph_rows`.
        target: `graph_rows` in its precision; FP16 emulated in FP32.
        images: `(N, H, W, 3)` uint8 BGR.
        masks: as in `Artefact.mask`.

    Returns:
        One for each mask; none where a graph's masks cannot be replaced, or one does not run.
    """
    found = []
    for mask in masks:
        try:
            cosine = row_cosine(target(images, mask), reference(images, mask))
        except SanError:
            return ()
        found.append(MaskCost(mask, len(images), float(cosine.min()), float(cosine.mean())))
    return tuple(found)


def graph_rows(model: onnx.ModelProto, artefact: Artefact) -> RowsWithMask:
    """Of a graph whose masks are replaced, in ONNX Runtime on the CPU."""

    def rows(images: np.ndarray, mask: str) -> np.ndarray:
        # As bytes, so that no second copy of the weights is held while ONNX Runtime makes its own.
        data = replace_masks(model, mask).SerializeToString()
        session = open_diagnostic(data, artefact, threads=usable_cores())
        parts = [artefact.to_input(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
        return np.concatenate([run(session, {INPUT_NAME: part}, [OUTPUT_NAME])[0] for part in parts])

    return rows


def torch_rows(network: Network) -> RowsWithMask:
    """Of a checkpoint's network, in PyTorch: it has every mask."""
    from san_train.evaluate import embed

    return lambda images, mask: embed(network, images, mask=mask, batch=_BATCH)
