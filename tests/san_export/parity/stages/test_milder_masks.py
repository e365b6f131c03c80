from __future__ import annotations

import numpy as np
import pytest
from san_export.parity.stages.milder_masks import MASKS, graph_rows, measure_masks, torch_rows
from san_export.verify import CheckCrops
from san_train.evaluate import embed
from san_train.models import SharpAttentionNetwork

from san_deploy.errors import SanError
from tests.san_export.parity.conftest import Files


def unit(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), np.sin(angle)]], np.float32)


def test_each_mask_is_measured_against_itself() -> None:
    """What a ramp costs is its rounding, not that it is another mask than argmax."""
    apart = {"argmax": 0.5, "ramp:0.015625": 0.1, "ramp:0.0625": 0.0}
    start = {"argmax": 0.0, "ramp:0.015625": 1.0, "ramp:0.0625": 2.0}
    images = np.zeros((1, 4, 4, 3), np.uint8)
    costs = measure_masks(
        lambda images, mask: unit(start[mask]), lambda images, mask: unit(start[mask] + apart[mask]), images
    )
    assert [cost.mask for cost in costs] == ["argmax", *MASKS] and {cost.crops for cost in costs} == {1}
    assert [cost.min_cosine for cost in costs] == pytest.approx([np.cos(angle) for angle in apart.values()])


def test_a_graph_without_masks_to_replace_gives_none() -> None:
    def refuse(images: np.ndarray, mask: str) -> np.ndarray:
        raise SanError("no mask")

    assert measure_masks(refuse, refuse, np.zeros((1, 4, 4, 3), np.uint8)) == ()


def test_a_checkpoints_rows_are_pytorchs_with_that_mask(
    files: Files, network: SharpAttentionNetwork, crops: CheckCrops
) -> None:
    """The reference's own graph would round as the target does, and hide what argmax costs."""
    images = crops.images[:5]
    for mask in ("argmax", "ramp:0.25"):
        rows = torch_rows(network)(images, mask)
        assert np.array_equal(rows, embed(network, images, mask=mask, batch=8))
    found = graph_rows(files.model, files.artefact)(images, "ramp:0.25")
    np.testing.assert_allclose(found, rows, atol=1e-5)
