"""Recipes and their overrides."""

from __future__ import annotations

import json
import re

import pytest

pytest.importorskip("torch")

from san_train.models import ARCHITECTURES, SanSettings
from san_train.recipe import RECIPES, from_dict, learning_rate, resolve

from san_deploy.errors import UsageError


def test_the_papers_recipe() -> None:
    """san.md, section Training."""
    paper = resolve("paper")
    assert (paper.num_ids, paper.num_instances, paper.margin, paper.lr, paper.weight_decay) == (
        64,
        4,
        0.5,
        2e-4,
        5e-4,
    )
    assert (paper.epochs, paper.tv_weight, paper.tau_rate, paper.tau_floor) == (150, 0.1, 0.008, 0.5)
    assert (paper.augmentation.area, paper.augmentation.aspect) == ((0.64, 1.0), (2.0, 3.0))
    assert paper.identity_weight == 0
    assert SanSettings(**paper.settings) == SanSettings()


@pytest.mark.parametrize(
    ("arch", "name"), [(arch, name) for arch, made in ARCHITECTURES.items() for name in made.recipes]
)
def test_round_trip_through_json(arch: str, name: str) -> None:
    share = "distill.share=[1, 2]" if name == "distill" else "share=[1, 2]"
    recipe = resolve(name, [share, "augmentation.tone=1"], arch=arch)
    assert recipe.arch == arch
    assert from_dict(json.loads(json.dumps(recipe.as_dict()))).as_dict() == recipe.as_dict()


def test_overrides() -> None:
    recipe = resolve(
        "scratch",
        ["settings.width=0.25", "augmentation.erase=0", "lr=1e-4", "schedule=hermans"],
        {"epochs": 3},
    )
    assert recipe.settings["width"] == 0.25 and recipe.settings["depth"] == 18
    assert (recipe.augmentation.erase, recipe.lr, recipe.schedule, recipe.epochs) == (0.0, 1e-4, "hermans", 3)


@pytest.mark.parametrize(
    "wrong",
    [
        "lr",
        "lr=fast",
        "epochs=1.5",
        "rate=1",
        "settings.depht=18",
        "settings=1",
        "augmentation.zoom=1",
        "num_ids=1",
        "lr=-1",
        "mask=argmin",
        "settings.depth=20",
        "tau_floor=0",
        "triplet_unit=1",
        "steps=-1",
        "weight_decay=-1",
        "smoothing=3",
        "share=[-1, 2]",
        "augmentation.area=[1, 2]",
        "augmentation.area=[0.5, 0.7, 1]",
        "augmentation.flip=2",
        "settings.size_hw=[128.5, 64]",
        "settings.hidden=1000000000000",
        "seed=99999999999",
    ],
)
def test_wrong_overrides_are_refused(wrong: str) -> None:
    with pytest.raises(UsageError):
        resolve("scratch", [wrong])


def test_numbers_are_numbers_however_they_are_written() -> None:
    recipe = resolve("scratch", ["settings.width=.5", "lr=1.e-3", "epochs=+7", "margin=.4", "share=[1]"])
    assert (recipe.settings["width"], recipe.lr, recipe.epochs, recipe.margin) == (0.5, 1e-3, 7, 0.4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("settings.width=half", "field width is 'half', not a number"),
        ("settings.depth=18.5", "field depth is 18.5, not a whole number"),
        ("settings.size_hw=128", "field size_hw is 128, not a list"),
        ("settings.neck=1", "field neck is 1, not true or false"),
        ("settings.depht=18", "'depht' is no setting; did you mean depth?"),
        ("settings.std_rgb=[1, 0, 1]", "std_rgb is three numbers above 0"),
        ("lr=fast", "'lr' takes a number; received 'fast'"),
        ("lr=NaN", "'lr' takes a number; received 'NaN'"),
        ("epochs=.5", "'epochs' takes a whole number; received 0.5"),
        ("epochs=0", "epochs is at least 1; received 0"),
        ("validate_every=0", "validate_every is at least 1; received 0"),
        ("lr=-1", "lr is above 0; received -1"),
        ("hard_mask_epochs=61", "the recipe has 60 epochs, of which the last 61 have hard masks"),
    ],
)
def test_a_wrong_value_is_told_with_its_field_and_type(wrong: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        resolve("scratch", [wrong])


def test_unknown_recipe_is_refused() -> None:
    with pytest.raises(UsageError, match="none of paper, scratch, distill, which san has"):
        resolve("papper")


@pytest.mark.parametrize("arch", list(ARCHITECTURES))
def test_every_architecture_trains_from_scratch(arch: str) -> None:
    assert "scratch" in ARCHITECTURES[arch].recipes


def test_a_shorter_run_keeps_the_share_of_its_last_phase() -> None:
    assert resolve("scratch").hard_mask_epochs == 24
    assert resolve("scratch", ["epochs=10"]).hard_mask_epochs == 4
    assert resolve("scratch", [], {"epochs": 1}).hard_mask_epochs == 0
    assert resolve("scratch", ["epochs=10", "hard_mask_epochs=9"]).hard_mask_epochs == 9
    assert resolve("paper", ["epochs=10"]).hard_mask_epochs == 0


def test_hermans_schedule() -> None:
    paper = RECIPES["paper"]
    assert learning_rate(paper, 0) == learning_rate(paper, 90) == 2e-4
    assert learning_rate(paper, 120) == pytest.approx(2e-4 * 0.001**0.5)
    assert learning_rate(paper, 150) == pytest.approx(2e-7)


def test_warm_up_and_cosine() -> None:
    recipe = resolve("scratch", ["warmup=2", "epochs=10", "hard_mask_epochs=2", "hard_mask_lr=0.1"])
    assert learning_rate(recipe, 0) == pytest.approx(recipe.lr / 100)
    assert learning_rate(recipe, 2) == pytest.approx(recipe.lr)
    assert learning_rate(recipe, 5) < recipe.lr
    plain = resolve("scratch", ["warmup=2", "epochs=10", "hard_mask_epochs=0"])
    assert learning_rate(recipe, 9) == pytest.approx(0.1 * learning_rate(plain, 9))


def test_the_mask_to_deploy() -> None:
    assert resolve("paper").deploy_mask == "argmax" and resolve("paper").mask_margin_weight == 0
    scratch = resolve("scratch")
    assert (scratch.deploy_mask, scratch.mask_margin_weight) == ("ramp:0.0625", 100)
    assert resolve("scratch", ["deploy_mask=argmax"]).deploy_mask == "argmax"
    with pytest.raises(UsageError, match="deploy_mask: mask 'sharp' is none of"):
        resolve("scratch", ["deploy_mask=sharp"])
    with pytest.raises(UsageError, match="deploy_mask does not fit fmn"):
        resolve("scratch", ["deploy_mask=expected"], arch="fmn")
