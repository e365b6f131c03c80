"""What the starter model's recipe promises: folds of `train` people only."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from san_train.recipe import resolve

from san_deploy.datasets import read_dataset
from tests.san_train.conftest import write_crop_folder

STARTER = Path(__file__).parent.parent / "tools" / "starter"


def test_folds_part_the_train_people_and_never_show_a_test_person(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("folds", STARTER / "folds.py")
    assert spec and spec.loader
    folds = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(folds)
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


@pytest.mark.parametrize("part", ["pretrain", "train"])
def test_the_starters_recipe_is_one_that_san_train_takes(part: str) -> None:
    spec = json.loads((STARTER / "recipe.json").read_text())
    recipe = resolve("scratch", spec["network"] + spec[part])
    assert recipe.settings["context"] == [1, 2]
