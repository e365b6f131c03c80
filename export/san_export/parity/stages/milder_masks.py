"""What a ramp in the place of argmax would lose by the target's rounding, on the same crops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from san_deploy.artefact import INPUT_NAME, OUTPUT_NAME, Artefact
from san_deploy.errors import SanError

from ...graph.replace_masks import replace_masks
from ...verify import row_cosine
from ..result import MaskCost
from .probes import open_diagnostic, run

#: The widths that are tried: the starter's studies chose among them.
MASKS = ("ramp:0.015625", "ramp:0.0625")
_BATCH = 16


def measure_masks(
    reference: tuple[onnx.ModelProto, Artefact],
    target: tuple[onnx.ModelProto, Artefact],
    images: np.ndarray,
    masks: Sequence[str] = ("argmax", *MASKS),
) -> tuple[MaskCost, ...]:
    """Compare rows with each mask put into both graphs.

    Args:
        reference: graph and artefact.
        target: likewise, in its precision; FP16 emulated in FP32.
        images: `(N, H, W, 3)` uint8 BGR.
        masks: as in `Artefact.mask`.

    Returns:
        One for each mask; none where a graph's masks cannot be replaced, or one does not run.
    """
    found = []
    for mask in masks:
        try:
            known, rows = (
                _rows(replace_masks(model, mask), artefact, images) for model, artefact in (reference, target)
            )
        except SanError:
            return ()
        cosine = row_cosine(rows, known)
        found.append(MaskCost(mask, len(images), float(cosine.min()), float(cosine.mean())))
    return tuple(found)


def _rows(model: onnx.ModelProto, artefact: Artefact, images: np.ndarray) -> np.ndarray:
    session = open_diagnostic(model, artefact)
    parts = [artefact.to_input(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
    return np.concatenate([run(session, {INPUT_NAME: part}, [OUTPUT_NAME])[0] for part in parts])
