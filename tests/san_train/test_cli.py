"""`san train`: resuming with options, the triplet loss from random weights, options that nothing reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("tensorboard")

from tests.conftest import Result

San = Callable[..., Result]
TINY = [
    "--set", "settings.width=0.016", "--set", "settings.embedding_dim=4", "--set", "num_ids=3",
    "--set", "num_instances=2", "--set", "steps=1", "--set", "warmup=0", "--size", "32x32",
]  # fmt: skip


def test_resume_takes_the_same_options_and_a_longer_run(san: San, crop_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    san("train", crop_folder, "-o", run, *TINY, "--epochs", 1, "--seed", 3)
    # As in the shell's history, with --resume behind it.
    same = san("train", crop_folder, "-o", run, *TINY, "--epochs", 1, "--seed", 3, "--resume")
    assert "Resumed after epoch 1." in same.out
    other = san("train", crop_folder, "-o", run, *TINY, "--set", "lr=0.5", "--resume", code=2)
    assert "in which lr is another" in other.err
    shorter = san("train", crop_folder, "-o", run, "--recipe", "paper", "--resume", code=2)
    assert "recipe_name" in shorter.err or "paper" in shorter.err
    longer = san("train", crop_folder, "-o", run, "--epochs", 2, "--resume")
    assert "2 epochs instead of 1: the schedule is stretched" in longer.out
    assert [json.loads(line)["epoch"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [1, 2]


def test_a_run_killed_before_its_first_state_begins_again(
    san: San, crop_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    san("train", crop_folder, "-o", run, *TINY, "--epochs", 1)
    first = (run / "model.safetensors").read_bytes()
    for name in ("state.safetensors", "model.safetensors", "model.json", "metrics.jsonl"):
        (run / name).unlink()
    said = san("train", crop_folder, "-o", run, "--resume")
    assert "begins again, with its own recipe" in said.out
    assert (run / "model.safetensors").read_bytes() == first


def test_triplets_from_random_weights_are_asked_about(san: San, crop_folder: Path, tmp_path: Path) -> None:
    small = [*TINY, "--epochs", 1, "--recipe", "paper", "--set", "settings.depth=18"]
    said = san("train", crop_folder, "-o", tmp_path / "run", *small, code=2)
    assert "collapses" in said.err and "--pretrained none" in said.err and not (tmp_path / "run").exists()
    san("train", crop_folder, "-o", tmp_path / "run", *small, "--pretrained", "none")


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("decay_from=0.9", "schedule is cosine"),
        ("mask_margin_weight=3", "hard_mask_epochs is 0"),
        ("smoothing=0.2", "identity_weight is 0.0"),
    ],
)
def test_a_value_that_nothing_reads_is_refused(
    san: San, crop_folder: Path, tmp_path: Path, override: str, why: str
) -> None:
    off = {"mask": "hard_mask_epochs=0", "smoo": "identity_weight=0"}.get(override[:4])
    more = [] if off is None else ["--set", off]
    said = san("train", crop_folder, "-o", tmp_path / "run", *TINY, *more, "--set", override, code=2)
    assert f"{override.partition('=')[0]} has no effect" in said.err and why in said.err.lower()
