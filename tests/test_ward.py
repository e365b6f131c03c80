"""The figures that the starter model owes, on the real crops that it learned from.

How good it is on strangers, five splits tell (starter.md); what falls below these figures is broken.

Reads ../shared/ward beside the checkout; says so and skips where it is not there.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from san_deploy.backends import STARTER, open_backend

ROOT = Path(__file__).parent.parent
WARD = ROOT.parent / "shared" / "ward"

pytestmark = [
    pytest.mark.ward,
    pytest.mark.skipif(
        not (WARD / "identities.csv").is_file(), reason="the real crops of ../shared/ward are not here"
    ),
]


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def starter_figures() -> dict[str, Any]:
    found: dict[str, Any] = tool("ward_figures").figures(WARD, "test", open_backend())
    return found


def test_starter_model_on_the_test_people(starter_figures: dict[str, Any]) -> None:
    got = starter_figures
    assert got["people"] == 20
    assert got["tracklet_rank1"] >= 0.99
    assert got["rank1"] >= 0.97


def test_starter_threshold_was_calibrated_on_people_who_were_held_out() -> None:
    threshold = open_backend().artefact.threshold
    assert threshold is not None and "held out" in threshold.source
    assert 0 < threshold.false_match_rate <= 0.05


def test_reading_ward() -> None:
    from san_deploy.datasets import read_dataset

    splits = read_dataset(WARD).splits
    assert {name: len({crop.person for crop in crops}) for name, crops in splits.items()} == {
        "train": 30,
        "test": 20,
    }
    assert sum(map(len, splits.values())) == 3449


def test_batch_mates_do_not_change_a_real_crops_embedding() -> None:
    from san_deploy.datasets import read_dataset
    from san_deploy.images import read_image
    from san_deploy.preprocess import resize_crop

    backend = open_backend()
    crops = read_dataset(WARD).splits["train"][::150]
    images = np.stack([resize_crop(read_image(crop.path), backend.artefact.size_hw) for crop in crops])
    together = backend(images)
    alone = np.concatenate([backend(image[None]) for image in images])
    assert (together * alone).sum(1).min() >= 0.9999


@pytest.mark.slow
@pytest.mark.parametrize("form", ["cpu", "tensorrt"])
def test_int8_calibrated_on_the_train_people(
    form: str, tmp_path: Path, starter_figures: dict[str, Any]
) -> None:
    """Figures and their spread stand in docs/benchmarks.md: rank-1 moves by a point with the mask bits that flip."""
    import onnx
    from san_export.onnx_writer import write_onnx
    from san_export.precision.calibration import pick_crops
    from san_export.precision.int8 import quantise

    artefact = open_backend().artefact
    chosen = pick_crops(WARD, artefact.size_hw, count=512, seed=0)
    write_onnx(quantise(onnx.load(STARTER), chosen.images, form=form), artefact, tmp_path / "int8.onnx")
    before = starter_figures
    after = tool("ward_figures").figures(WARD, "test", open_backend(tmp_path / "int8.onnx"))
    assert after["mean_ap"] >= before["mean_ap"] - 0.005
    assert after["rank1"] >= before["rank1"] - 0.015
    assert after["tracklet_rank1"] >= before["tracklet_rank1"] - 0.02
