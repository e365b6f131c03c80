"""What the starter model's recipe promises: folds of `train` people only."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("torch")

from san_train import evaluate
from san_train.recipe import resolve

from san_deploy.datasets import read_dataset
from tests.san_train.conftest import write_crop_folder

STARTER = Path(__file__).parent.parent / "tools" / "starter"


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, STARTER / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_folds_part_the_train_people_and_never_show_a_test_person(tmp_path: Path) -> None:
    folds = tool("folds")
    ward = write_crop_folder(
        tmp_path / "ward", people=9, split=lambda person: "test" if person > 6 else "train"
    )
    held = []
    for fold in range(3):
        splits = read_dataset(folds.fold_of(ward, tmp_path / f"fold{fold}", fold, 3)).splits
        people = {name: {crop.person for crop in crops} for name, crops in splits.items()}
        assert set(people) == {"train", "val"}
        assert not people["train"] & people["val"] and people["train"] | people["val"] == set(range(1, 7))
        held += sorted(people["val"])
    assert sorted(held) == list(range(1, 7))


def test_the_five_splits_hold_everybody_out_twice(tmp_path: Path) -> None:
    folds = tool("folds")
    ward = write_crop_folder(tmp_path / "ward", people=50, cameras=1, each=1)
    held: list[int] = []
    for split, first in enumerate([1, 11, 21, 31, 41]):
        parts = read_dataset(folds.split_of(ward, tmp_path / f"split{split}", split)).splits
        train, val = ({crop.person for crop in parts[name]} for name in ("train", "val"))
        assert len(val) == 20 and len(train) == 30 and not train & val and first in val
        held += sorted(val)
    assert sorted(held) == sorted([*range(1, 51), *range(1, 51)])


def test_crops_and_views_of_another_recipe_are_not_trained_on(tmp_path: Path) -> None:
    refuse = tool("make_starter").refuse_other_data
    refuse(tmp_path / "runs", {"seed": 0})
    refuse(tmp_path / "runs", {"seed": 0})
    with pytest.raises(SystemExit, match=r"of another recipe.*name another --out"):
        refuse(tmp_path / "runs", {"seed": 1})


@pytest.mark.parametrize("part", ["views", "pretrain", "train", "final"])
def test_the_starters_recipe_is_one_that_san_train_takes(part: str) -> None:
    spec = json.loads((STARTER / "recipe.json").read_text())
    recipe = resolve("distill", spec["network"] + spec[part])
    assert recipe.distilled and recipe.settings["hidden"] == 0 and recipe.deploy_mask == "argmax"


@pytest.mark.parametrize("part", ["pretrain", "train"])
def test_the_studys_recipe_is_one_that_san_train_takes(part: str) -> None:
    spec = json.loads((STARTER / "study.json").read_text())
    recipe = resolve("scratch", spec["network"] + spec[part])
    assert recipe.settings["context"] == [1, 2]


def test_figures_of_a_split_are_the_evaluations(tmp_path: Path) -> None:
    table = tool("splits_table")
    ward = write_crop_folder(tmp_path / "ward", people=8, cameras=3, each=3)
    crops = read_dataset(ward).splits["train"]
    rows = np.random.default_rng(1).standard_normal((len(crops), 6)).astype(np.float32)
    rows += 1.5 * np.random.default_rng(2).standard_normal((9, 6))[[crop.person for crop in crops]].astype(
        np.float32
    )
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found, wanted = table.by_person(rows, crops), evaluate.rank(rows, crops)
    assert found[:, 0].tolist() == list(range(1, 9))
    expected = [wanted.tracklet_rank1, wanted.crops.rank1, wanted.crops.mean_ap]
    assert np.allclose(table.mean_of(found), 100 * np.array(expected), atol=1e-3)
    low, high = table.interval([found, found], draws=50)
    assert (low <= table.mean_of(found)).all() and (table.mean_of(found) <= high).all()
