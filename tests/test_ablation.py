"""The ablation: docs/research/ablation.md has the paper's rows, and tools/ablation.py compares like with like."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import statistics
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from san_train.models import build_model
from san_train.recipe import resolve
from scipy import stats

from san_deploy.cli import san
from san_deploy.datasets import read_dataset
from san_deploy.errors import SanError
from tests.san_train.conftest import write_crop_folder

ROOT = Path(__file__).parent.parent
LINES = (ROOT / "docs/research/ablation.md").read_text(encoding="utf-8").splitlines()
#: Folder of the run -> attention, context, weight of TV, parameters in millions (san.md: 25.74, + 10.67 for CU).
PAPER: dict[str, tuple[tuple[int, ...], tuple[int, ...], float, float]] = {
    "baseline": ((), (), 0.0, 25.74),
    "sab": ((1, 2, 3, 4), (), 0.0, 25.74),
    "sab-cu": ((1, 2, 3, 4), (1, 2, 3), 0.0, 36.42),
    "sab-cu-tv": ((1, 2, 3, 4), (1, 2, 3), 0.1, 36.42),
}
TOY = ["--set", "epochs=1", "--set", "steps=1", "--set", "num_ids=2", "--set", "num_instances=2"]
TOY += ["--set", "settings.width=0.125", "--set", "settings.size_hw=[32, 32]", "--set", "settings.hidden=8"]


@pytest.fixture(scope="module")
def ablation() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ablation", ROOT / "tools" / "ablation.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parsed(command: str, line: str) -> dict[str, Any]:
    """The options of a documented line, as `san` itself reads them."""
    words = shlex.split(line.replace("$DATA", "market").replace("$RUNS", "runs"))[2:]
    found = san.get_command(click.Context(san), command)
    assert found
    return found.make_context(command, words).params


def documented(command: str) -> dict[str, dict[str, Any]]:
    """By folder of the run: the options of the lines of one command."""
    lines = [line for line in LINES if line.startswith(f"san {command} ") and "$RUNS/" in line]
    found = {re.search(r"\$RUNS/([\w-]+)", line)[1]: parsed(command, line) for line in lines}  # type: ignore[index]
    assert len(found) == len(lines)
    return found


def test_the_documented_lines_are_the_rows_of_the_paper() -> None:
    got = {}
    for name, options in documented("train").items():
        recipe = resolve(options["recipe"], options["overrides"])
        with torch.device("meta"):
            model = build_model(recipe.arch, recipe.settings)
        settings = model.settings
        millions = round(sum(p.numel() for p in model.parameters()) / 1e6, 2)
        got[name] = (settings.attention, settings.context, recipe.tv_weight, millions)
        # Nobody of the training people is held out, as in the paper; the rest is its section IV.B.
        assert options["pretrained"] == "imagenet" and options["validation_people"] == 0
        assert (settings.depth, settings.width, settings.size_hw) == (50, 1.0, (256, 128))
        assert (settings.gate, settings.upsample, settings.embedding_dim) == ("sharp", "deconv", 128)
        assert (recipe.num_ids, recipe.num_instances, recipe.margin, recipe.lr) == (64, 4, 0.5, 2e-4)
        assert (recipe.epochs, recipe.mask, recipe.hard_mask_epochs) == (150, "sample", 0)
    assert got == PAPER


def test_the_documented_lines_test_what_they_trained() -> None:
    trained, tested = documented("train"), documented("eval")
    assert list(tested) == list(trained)
    for name, options in tested.items():
        assert Path(options["checkpoint"]) == Path(trained[name]["out"]) / "model.safetensors"
        assert options["tta"] == "ten-crop"


def test_ward_runs_the_rows_that_are_documented(ablation: ModuleType) -> None:
    sets = {name: set(options["overrides"]) for name, options in documented("train").items()}
    assert [set(ablation.ROWS[row]) for row in list(ablation.ROWS)[:4]] == list(sets.values())


def test_rows_differ_in_nothing_but_what_they_are_named_for(ablation: ModuleType) -> None:
    own = {"attention", "context", "gate", "tv_weight"}
    rest = []
    for row in ablation.ROWS:
        plain = ablation.recipe_of(row, 3).as_dict()
        flat = plain | plain.pop("settings")
        rest.append({key: value for key, value in flat.items() if key not in own})
    assert all(one == rest[0] for one in rest) and rest[0]["seed"] == 3
    assert ablation.recipe_of("soft + CU + TV", 0).settings["gate"] == "soft"
    assert ablation.recipe_of("+ SAB + CU + TV", 0).tv_weight == resolve("scratch").tv_weight > 0


def test_runs_what_is_missing_and_refuses_to_mix_budgets(
    ablation: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = write_crop_folder(tmp_path / "d", people=8, split=lambda p: "test" if p > 5 else "train")
    results = tmp_path / "out" / "results.jsonl"

    def call(*more: str, rows: str = "0 3") -> str:
        words = ["ablation", str(data), "--out", str(tmp_path / "out"), "--seeds", "0", *TOY, *more]
        monkeypatch.setattr("sys.argv", [*words, "--rows", *rows.split()])
        ablation.main()
        return capsys.readouterr().out

    assert call(rows="0").count(" s)") == 1
    # Only the second row is new.
    assert "+ SAB + CU + TV, seed 0" in call() and len(results.read_text().splitlines()) == 2
    baseline, sharp = (json.loads(line) for line in results.read_text().splitlines())
    assert set(baseline["masks"]) == {"argmax"} and set(sharp["masks"]) == {"argmax", "expected"}
    assert set(sharp["masks"]["argmax"]["people"]) == {"6", "7", "8"}
    # The mean over a person's queries, over people who have as many queries each, is the mean over queries.
    people = list(baseline["masks"]["argmax"]["people"].values())
    assert np.mean(people, 0) == pytest.approx(
        [baseline["masks"]["argmax"]["rank1"], baseline["masks"]["argmax"]["mean_ap"]]
    )
    assert not list(tmp_path.rglob("state.safetensors"))
    with pytest.raises(SanError, match="another setup"):
        call("--set", "lr=0.01")


def test_held_out_people_stand_in_for_test_people_that_are_never_opened(
    ablation: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_crop_folder(tmp_path / "d", people=8, split=lambda p: "test" if p > 5 else "train")
    for crop in read_dataset(data).splits["test"]:
        crop.path.write_bytes(b"not an image")
    out = tmp_path / "out"
    words = ["ablation", str(data), "--out", str(out), "--seeds", "0", "--rows", "0", "--held-out", "2"]
    monkeypatch.setattr("sys.argv", words + TOY)
    ablation.main()
    people = json.loads((out / "results.jsonl").read_text())["masks"]["argmax"]["people"]
    assert len(people) == 2 and set(people) < {"1", "2", "3", "4", "5"}


def test_spread_and_interval_are_the_textbooks(ablation: ModuleType) -> None:
    values = [0.61, 0.64, 0.58, 0.67]
    expected = f"{100 * statistics.mean(values):.1f} ± {100 * statistics.stdev(values):.1f} (58.0..67.0)"
    assert ablation.spread(values) == expected and ablation.spread(values[:1]) == "61.0"
    low, high = stats.ttest_1samp(np.multiply(values, 100), 0).confidence_interval(0.95)
    assert ablation.interval(values) == f"{low:+.1f} to {high:+.1f}"


def test_differences_are_paired_by_seed(ablation: ModuleType) -> None:
    def line(row: str, seed: int, share: float) -> dict[str, Any]:
        result: dict[str, Any] = dict.fromkeys(ablation.MEASURES, share)
        result["people"] = {"1": [share, share], "2": [share - 0.1, share]}
        return {"row": row, "seed": seed, "masks": {"argmax": result}}

    # Out of order, and with a seed that only one of them has.
    lines = [line("baseline", 0, 0.5), line("baseline", 1, 0.7), line("baseline", 2, 0.1)]
    lines += [line("+ SAB", 1, 0.72), line("+ SAB", 0, 0.51)]
    table = ablation.tables(lines)
    assert "| + SAB, argmax, against baseline | rank-1 | +1.0, +2.0 | +1.5 |" in table
    assert "| + SAB | argmax | 2 |" in table and "| baseline | none | 3 |" in table
