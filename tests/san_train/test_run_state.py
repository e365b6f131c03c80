"""A run's folder: files of earlier versions, and what a kill at any place leaves."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tensorboard")

from san_train import trainer  # noqa: E402
from san_train.checkpoint import load_checkpoint  # noqa: E402
from san_train.data import gather  # noqa: E402
from san_train.recipe import Recipe, from_dict, resolve  # noqa: E402
from san_train.run_state import LOG, MODEL, forget_log_after, is_run, read_config  # noqa: E402
from san_train.trainer import Compute, Training  # noqa: E402

from san_deploy.datasets import read_dataset  # noqa: E402
from san_deploy.errors import SanError  # noqa: E402
from tests.san_train.conftest import write_crop_folder  # noqa: E402

#: Written by `san train` of commit d9878af, which said people, crops_each, sharpen_* and decisive_*.
OLD = Path(__file__).parent / "run_of_d9878af"
TINY = ["settings.width=0.016", "settings.size_hw=[32, 32]", "settings.embedding_dim=4", "num_ids=3",
        "num_instances=2", "steps=1", "warmup=0"]  # fmt: skip


def epochs(out: Path) -> list[int]:
    return [json.loads(line)["epoch"] for line in (out / LOG).read_text().splitlines()]


def train(recipe: Recipe, folder: Path, out: Path, *, held: int = 0) -> Training:
    data = gather([read_dataset(folder)], validation_people=held, seed=0)
    return Training(recipe, data, out, Compute(torch.device("cpu")), say=lambda line: None)


def test_a_run_of_before_goes_on(tmp_path: Path) -> None:
    out = Path(shutil.copytree(OLD, tmp_path / "run"))
    assert is_run(out)
    recipe = from_dict(read_config(out)["recipe"])
    assert (recipe.num_ids, recipe.num_instances, recipe.hard_mask_epochs) == (3, 2, 1)
    assert (recipe.mask_margin_weight, recipe.hard_mask_kind) == (50.0, "straight-through")
    folder = write_crop_folder(tmp_path / "crops", people=6)
    training = train(replace(recipe, epochs=3), folder, out, held=2)
    training.resume(changed=("epochs",))
    assert training.epoch == 2
    training.run()
    assert epochs(out) == [1, 2, 3]
    assert "num_ids" in json.loads((out / "config.json").read_text())["recipe"]


def test_a_checkpoint_of_before_loads() -> None:
    network, info = load_checkpoint(OLD / MODEL)
    assert info.epoch == 2 and info.recommended_mask == "ramp:0.0625" and network.mask_kind == "sharp"
    assert info.recipe["decisive_weight"] == 50.0


def test_set_takes_the_old_spellings() -> None:
    recipe = resolve("scratch", ["people=5", "crops_each=3", "decisive_weight=2", "sharpen_epochs=7"])
    assert (recipe.num_ids, recipe.num_instances, recipe.mask_margin_weight) == (5, 3, 2.0)
    assert recipe.hard_mask_epochs == 7


def test_killed_between_log_and_state(
    crop_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = resolve("scratch", [*TINY, "epochs=3"])
    training = train(recipe, crop_folder, tmp_path / "run")

    def killed(out: Path, record: dict[str, object]) -> None:
        append(out, record)
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    append = trainer.append_log
    monkeypatch.setattr(trainer, "append_log", killed)
    with pytest.raises(KeyboardInterrupt):
        training.run()
    monkeypatch.undo()
    assert epochs(tmp_path / "run") == [1, 2]
    again = train(recipe, crop_folder, tmp_path / "run")
    again.resume()
    assert again.epoch == 1
    again.run()
    assert epochs(tmp_path / "run") == [1, 2, 3]


def test_a_line_cut_short_is_dropped(tmp_path: Path) -> None:
    (tmp_path / LOG).write_text('{"epoch": 1}\n{"epoch": 2}\n{"epoch": 3, "lo')
    forget_log_after(tmp_path, 2)
    assert (tmp_path / LOG).read_text() == '{"epoch": 1}\n{"epoch": 2}\n'
    lines = ['{"epoch": 1}', '{"epoch": Infinity}', '{"epoch": "1"}', "[" * 100_000, "[1]", "7", ""]
    (tmp_path / LOG).write_text("\n".join(lines))
    forget_log_after(tmp_path, 2)
    assert (tmp_path / LOG).read_text() == '{"epoch": 1}\n{"epoch": "1"}\n'
    (tmp_path / LOG).write_text('{"epoch": 1}\n', encoding="utf-16")
    with pytest.raises(SanError, match=r"metrics\.jsonl is no text in UTF-8"):
        forget_log_after(tmp_path, 2)
