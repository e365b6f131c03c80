"""`san demo`: drawn people, matched and judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.san_deploy.cli.test_match import OUTPUTS, ColourBackend, San, backend

__all__ = ["backend"]  # a fixture

SMALL = ("demo", "--people", "2", "--cameras", "2", "--distractors", "1")


@pytest.mark.usefixtures("backend")
def test_demo(san: San, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = san(*SMALL)
    out = Path("demo")
    assert sorted(path.name for path in out.iterdir()) == ["cameras", "demo.json", *OUTPUTS]
    assert result.out.splitlines()[-1] == "demo/report.html"
    for word in ("rank-1", "recall", "crops/s"):
        assert word in result.out
    told = json.loads((out / "demo.json").read_text())
    assert (told["people"], told["cameras"], told["distractors"], told["seed"]) == (2, 2, 1, 0)
    assert told["accuracy"]["possible"] == 2 and told["accuracy"]["alone"] == 1
    matches = json.loads((out / "matches.json").read_text())
    # Not the temporary name under which it was written.
    assert [camera["folder"] for camera in matches["cameras"]] == ["cameras/cam1", "cameras/cam2"]
    assert "/." not in json.dumps(matches["cameras"])
    assert (out / "cameras" / "identities.csv").is_file()
    assert "3 drawn people, 2 cameras" in (out / "report.html").read_text()


@pytest.mark.usefixtures("backend")
def test_seed_decides_everything_and_a_demo_is_replaced_by_force(san: San, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for out in (first, second):
        san(*SMALL, "--seed", "1", "-o", out)
    table = (first / "matches.csv").read_bytes()
    assert (second / "matches.csv").read_bytes() == table

    assert "--force" in san(*SMALL, "-o", first, code=1).err
    assert (first / "matches.csv").read_bytes() == table
    san(*SMALL, "-o", first, "--force", "--seed", "3")
    assert json.loads((first / "demo.json").read_text())["seed"] == 3
    assert (first / "matches.csv").read_bytes() != table
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]


@pytest.mark.usefixtures("backend")
def test_a_folder_of_somebody_else_is_never_replaced(san: San, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    (out / "cameras" / "precious").mkdir(parents=True)
    result = san(*SMALL, "-o", out, "--force", code=1)
    assert "was not made by san demo" in result.err
    assert (out / "cameras" / "precious").is_dir()


def test_model_without_threshold_is_refused_before_drawing(
    san: San, tmp_path: Path, backend: ColourBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.threshold = None

    def never(*_: object, **__: object) -> None:
        raise AssertionError("drawn in vain")

    monkeypatch.setattr("san_deploy.drawn.draw_cameras", never)
    san(*SMALL, "-o", tmp_path / "demo", code=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "option", [("--people", "1"), ("--cameras", "1"), ("--distractors", "-1"), ("--seed", "-1")]
)
def test_numbers_out_of_range(san: San, tmp_path: Path, option: tuple[str, str]) -> None:
    result = san("demo", *option, "-o", tmp_path / "demo", code=2)
    assert option[0] in result.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("backend")
def test_interrupt_leaves_nothing(san: San, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(out: Path, **_: object) -> None:
        (out / "cam1").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr("san_deploy.drawn.draw_cameras", interrupt)
    san(*SMALL, "-o", tmp_path / "demo", code=130)
    assert list(tmp_path.iterdir()) == []
