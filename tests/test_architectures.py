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


@pytest.mark.parametrize(
    ("arch", "settings", "gmac"),
    [
        # The regions, four to a crop, lie along the batch; their cutting takes another 17 M.
        ("ha-cnn", {}, 0.544 + 0.017),
        ("san", {"depth": 18, "width": 0.25, "size_hw": [64, 32], "attention": [], "context": []}, None),
    ],
)
def test_multiply_accumulates_of_one_crop(
    tool: ModuleType, arch: str, settings: dict[str, object], gmac: float | None
) -> None:
    network = build_model(arch, settings).eval()
    size_hw = network.settings.size_hw
    if gmac is None:
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.zeros(1, 3, *size_hw))
        gmac = counter.get_total_flops() / 2e9
    found = tool.macs(to_onnx(OnnxWrapper(network), size_hw)) / 1e9
    assert found == pytest.approx(gmac, abs=0.0006 if arch == "ha-cnn" else 1e-6)


def test_the_table_holds_every_row_that_was_run(tool: ModuleType) -> None:
    figures = {"rank1": 0.5, "mean_ap": 0.4, "tracklet_rank1": 0.75}
    line = {"size_hw": [128, 64], "embedding": 128, "parameters": 3_300_000, "gmac": 0.1234, "fp32": figures}
    line |= {form: {**figures, "rank1": 0.49, "cosine": [0.9, 0.95, 0.99]} for form in tool.FORMS}
    text = tool.table([line | {"row": "san", "seed": seed} for seed in (0, 1)])
    (row,) = [one for one in text.splitlines() if one.startswith("| san ")]
    assert "| 3.30 | 0.123 | 2 | 50.0" in row and "0.90000, 0.95000, 0.99000" in row and "-1.00, +0.00" in row
