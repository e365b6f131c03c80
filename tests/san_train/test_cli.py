"""`san train`: resuming with options, the triplet loss from random weights, options that nothing reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("tensorboard")

from san_deploy.errors import SanError
from tests.conftest import Result
from tests.san_train.distill.conftest import write_toy_teacher

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


@pytest.mark.parametrize(("share", "chosen"), [(0.5, "bf16"), (0.9, "bf16"), (0.97, "fp32"), (3.0, "fp32")])
def test_auto_takes_the_precision_that_was_measured_to_be_faster(
    monkeypatch: pytest.MonkeyPatch, share: float, chosen: str
) -> None:
    from san_train import cli

    monkeypatch.setattr(cli, "bf16_share", lambda: share)
    lines: list[str] = []
    assert cli.choose_compute("cpu", "auto", 1, say=lines.append).precision == chosen
    assert lines == [
        f"Precision: {chosen} (auto): bf16 takes {share:.2f} of fp32's time here, measured on a block"
    ]


def test_a_precision_that_was_asked_for_is_taken_unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    from san_train import cli

    monkeypatch.setattr(cli, "bf16_share", lambda: pytest.fail("measured"))
    for precision in ("fp32", "bf16"):
        assert cli.choose_compute("cpu", precision, 1, say=pytest.fail).precision == precision


def test_ranks_take_the_first_ones_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their machines may differ, and one network is trained in one precision."""
    import torch
    from san_train import cli
    from san_train.ranks import Ranks

    class Second(Ranks):
        def add(self, values: list[float], device: torch.device) -> list[float]:  # type: ignore[override]
            assert values == [0.0]
            return [0.4]

    monkeypatch.setattr(cli, "bf16_share", lambda: pytest.fail("measured"))
    compute = cli.choose_compute("cpu", "auto", 1, Second(1, 2), say=lambda line: None)
    assert compute.precision == "bf16" and compute.ranks.world == 2


def test_measuring_leaves_the_random_numbers_alone() -> None:
    import torch
    from san_train.cli import bf16_share

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    assert 0 < bf16_share(1) < 1000
    assert torch.equal(torch.rand(3), expected)


def test_views_of_another_run(san: San, crop_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    teacher = write_toy_teacher(tmp_path / "toy.onnx")
    small = [*TINY[:4], *TINY[8:], "--epochs", 1, "--precision", "fp32", "--set", "distill.batch=4"]
    first, second = tmp_path / "first", tmp_path / "second"
    drawn = ["--set", "views.each=2", "--set", "views.composite=0.6"]
    asked = ["--teacher", teacher, "--teacher-input", "rgb"]
    said = san("train", crop_folder, "-o", first, *small, *drawn, *asked)
    assert "Asking toy.onnx about 32 views" in said.out
    config = json.loads((first / "config.json").read_text())
    assert (config["teacher_input"], config["views"]) == ("rgb", None)
    views = ["--views", first / "views"]
    for wrong, message in (
        ([*views, "--set", "views.each=3"], "was drawn with views.each=2, not with views.each=3"),
        ([*views, "--teacher-input", "bgr"], "--teacher-input says what a teacher takes"),
    ):
        assert message in san("train", crop_folder, "-o", second, *small, *wrong, code=2).err
    san("train", crop_folder, "-o", second, *small, *views, "--set", "views.each=2")
    config = json.loads((second / "config.json").read_text())
    # What the views are, not what the recipe has where nobody says anything.
    assert (config["recipe"]["views"]["each"], config["recipe"]["views"]["composite"]) == (2, 0.6)
    said = san("train", crop_folder, "-o", second, "--resume", "--epochs", 2)
    assert "Resumed after epoch 1" in said.out and not (second / "views").exists()
    moved = tmp_path / "moved"
    (first / "views").rename(moved)
    said = san("train", crop_folder, "-o", second, "--resume", "--epochs", 3, "--views", moved)
    assert "Resumed after epoch 2" in said.out
    other = san("train", crop_folder, "-o", first, "--resume", *asked[:3], "bgr", code=2)
    assert "teacher_input was 'rgb' in this run; received 'bgr'" in other.err


def test_what_would_end_a_run_ends_it_before_the_teacher_is_asked(
    san: San, crop_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnx")
    from san_train.cli import TrainOptions, train

    run = tmp_path / "run"
    small = [*TINY[:4], *TINY[8:], "--teacher", write_toy_teacher(tmp_path / "toy.onnx")]
    said = san("train", crop_folder, "-o", run, *small, "--set", "distill.share=[0.5,0.5]", code=2)
    assert "2 parts for 1 data sets" in said.err and not run.exists()
    options = TrainOptions(
        (crop_folder,),
        run,
        teachers=(tmp_path / "toy.onnx",),
        start=tmp_path / "none.safetensors",
        precision="fp32",
    )
    with pytest.raises(SanError, match=r"none\.safetensors does not exist"):
        train(options)
    assert not run.exists()
