"""tools/architectures.py: every row has a recipe, and its multiply-accumulates are those of the tests of the models."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("scipy")

import torch
from san_export.onnx_writer import to_onnx
from san_export.wrapper import OnnxWrapper
from san_train.models import architecture, build_model

TOOLS = Path(__file__).parent.parent / "tools"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    sys.path.insert(0, str(TOOLS))
    try:
        import architectures
    finally:
        sys.path.remove(str(TOOLS))
    return architectures


def test_every_row_has_a_recipe_of_the_common_budget(tool: ModuleType) -> None:
    recipes = {row: tool.recipe_of(row, 3) for row in tool.ROWS}
    assert {recipe.arch for recipe in recipes.values()} <= {"san", *(arch for arch, _ in tool.ROWS.values())}
    assert (
        len({(recipe.epochs, recipe.steps, recipe.num_ids, recipe.seed) for recipe in recipes.values()}) == 1
    )
    for recipe in recipes.values():
        architecture(recipe.arch).make_settings(recipe.settings)
    assert recipes["san"].mask_margin_weight > 0 and recipes["fmn"].mask_margin_weight == 0


def test_multiply_accumulates_of_one_crop(tool: ModuleType) -> None:
    """HA-CNN's, which its paper has, stand in tests/san_export/test_ha_cnn.py."""
    from torch.utils.flop_counter import FlopCounterMode

    settings = {"depth": 18, "width": 0.25, "size_hw": [64, 32], "attention": [], "context": []}
    network = build_model("san", settings).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 64, 32))
    found = tool.macs(to_onnx(OnnxWrapper(network), (64, 32))) / 1e9
    assert found == pytest.approx(counter.get_total_flops() / 2e9, abs=1e-6)


def test_the_table_holds_every_row_that_was_run(tool: ModuleType) -> None:
    figures = {"rank1": 0.5, "mean_ap": 0.4, "tracklet_rank1": 0.75}
    line = {"size_hw": [128, 64], "embedding": 128, "parameters": 3_300_000, "gmac": 0.1234, "fp32": figures}
    line |= {form: {**figures, "rank1": 0.49, "cosine": [0.9, 0.95, 0.99]} for form in tool.FORMS}
    text = tool.table([line | {"row": "san", "seed": seed} for seed in (0, 1)])
    (row,) = [one for one in text.splitlines() if one.startswith("| san ")]
    assert "| 3.30 | 0.123 | 2 | 50.0" in row and "0.90000, 0.95000, 0.99000" in row and "-1.00, +0.00" in row
