"""`san export MODEL.onnx --mask`: another deterministic mask in an FP32 file of ours, checked before it is trusted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from san_deploy.artefact import Artefact, Threshold, space_of
from san_deploy.errors import GateError, SanError, UsageError
from san_deploy.io.versions import versions
from san_deploy.self_check import keep_samples

from .graph.precision_stats import count_operands
from .graph.replace_masks import masks_differ, replace_masks
from .onnx_writer import write_onnx
from .verify import BATCHES, CheckCrops, check_crops, embed_in_batches, open_checked, row_cosine

#: A mask lies in 0..1, and FP32 has 24 bits: what a quotient may be off by.
_ROUNDING = 2.0**-22
_TOOLS = ("san-deploy", "onnx", "onnxruntime")


def change_mask(
    source: Path,
    path: Path,
    artefact: Artefact,
    mask: str,
    *,
    crops: Path | None,
    report: Callable[[str], None],
) -> Artefact:
    """Write `source` with another mask to `path`.

    Its masks are made again in NumPy from the same values and must agree; how far its rows are from those with the
    old mask is reported, and is what the change of mask costs on these crops.

    Args:
        source: an FP32 file of `san export`.
        path: a temporary name, as it holds a file even where the check fails.
        artefact: of `source`.
        mask: of `artefact.mask_name`, another than the file has.
        crops: a folder of crops to check on; None takes the sample crops.
        report: takes one line for each step.

    Returns:
        What the new file says of itself. A threshold stays where it was calibrated for this mask; the checks of the
        old graph do not.

    Raises:
        UsageError: the network has no sharp mask.
        SanError: the graph's masks are of a form that is not replaced.
        GateError: the masks of the new file are not those that were asked for.
    """
    if artefact.mask in ("none", "soft"):
        what = "no attention" if artefact.mask == "none" else "a soft gate"
        raise UsageError(
            f"--mask {mask} does not fit: {source} has {what}, so no mask to choose", do="leave --mask out"
        )
    report(f"replacing the mask {artefact.mask} by {mask}")
    chosen = check_crops(crops, artefact.size_hw, report, resize=artefact.resize)
    try:
        model = replace_masks(onnx.load(source), mask)
        difference = masks_differ(model, mask, artefact.to_input(chosen.images))
    except SanError as error:
        raise SanError(
            f"the mask of {source} cannot be replaced: {error.message}", why=error.why, do=error.do
        ) from error
    # Written so that NaN, too, is above.
    if not difference <= _ROUNDING:
        raise GateError(
            f"{source} was not written with the mask {mask}: its masks differ from NumPy's by {difference:.2g}",
            do="report it, with the versions of onnx and onnxruntime",
        )
    changed = replace(
        artefact,
        mask=mask,
        operands=count_operands(model),
        threshold=_threshold(artefact.threshold, artefact.mask, mask),
        sha256="",
        versions={**artefact.versions, **versions(*_TOOLS)},
        checks={},
        samples=None,
    )
    changed = replace(changed, space=space_of(changed))
    write_onnx(model, changed, path)
    figures = {"masks_max_abs": difference, **_cost(source, path, artefact.mask, chosen)}
    report(
        f"on {len(chosen.images)} {chosen.source}, rows with {mask} against rows with {artefact.mask}: cosine "
        f"at least {figures['min_cosine']}, mean {figures['mean_cosine']}"
    )
    samples = keep_samples(changed, open_checked(path), source=f"onnx fp32, mask {mask}")
    changed = replace(changed, checks={"mask": figures}, samples=samples)
    write_onnx(model, changed, path)
    return changed


def _cost(source: Path, path: Path, replaced: str, crops: CheckCrops) -> dict[str, Any]:
    """Row cosines of the new file with the old one: what the change of mask costs on these crops."""
    before, after = (
        embed_in_batches(open_checked(file), crops.images, BATCHES[-1]) for file in (source, path)
    )
    cosine = row_cosine(after, before)
    return {
        "replaced": replaced,
        "crops": len(crops.images),
        "source": crops.source,
        "min_cosine": round(float(cosine.min()), 7),
        "p1_cosine": round(float(np.percentile(cosine, 1)), 7),
        "mean_cosine": round(float(cosine.mean()), 7),
    }


def _threshold(known: Threshold | None, before: str, mask: str) -> Threshold | None:
    """The file's threshold, where it was calibrated for the new mask."""
    return known if known is not None and (known.mask or before) == mask else None
