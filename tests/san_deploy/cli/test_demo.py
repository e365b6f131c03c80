"""`san demo`: the sample crops, matched and judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.san_deploy.cli.test_match import OUTPUTS, ColourBackend, San, backend

__all__ = ["backend"]  # a fixture


@pytest.mark.usefixtures("backend")
def test_demo(san: San, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = san("demo")
    out = Path("demo")
    assert sorted(path.name for path in out.iterdir()) == ["cameras", "demo.json", *OUTPUTS]
    assert "report: demo/report.html" in result.out and result.out.splitlines()[-1].startswith(
        "next: san match "
    )
    for word in ("rank-1", "recall", "crops/s"):
        assert word in result.out
    accuracy = json.loads((out / "demo.json").read_text())["accuracy"]
    # 24 people before three cameras, 6 before one of them.
    assert accuracy["possible"] == 24 * 3 and accuracy["alone"] == 6 * 2
    matches = json.loads((out / "matches.json").read_text())
    # Not the temporary name under which it was written.
    assert [camera["folder"] for camera in matches["cameras"]] == [f"cameras/cam{k}" for k in (1, 2, 3)]
    assert "/." not in json.dumps(matches["cameras"])
    assert (out / "cameras" / "identities.csv").is_file()
    assert "30 drawn people, 3 cameras" in (out / "report.html").read_text()


@pytest.mark.usefixtures("backend")
def test_a_demo_is_replaced_by_force_only(san: San, tmp_path: Path) -> None:
    out = tmp_path / "first"
    san("demo", "-o", out)
    table = (out / "matches.csv").read_bytes()
    (out / "matches.csv").write_bytes(b"older")
    assert "--force" in san("demo", "-o", out, code=1).err
    assert (out / "matches.csv").read_bytes() == b"older"
    san("demo", "-o", out, "--force")
    assert (out / "matches.csv").read_bytes() == table
    assert [path.name for path in tmp_path.iterdir()] == ["first"]


@pytest.mark.usefixtures("backend")
def test_a_folder_of_somebody_else_is_never_replaced(san: San, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    (out / "cameras" / "precious").mkdir(parents=True)
    result = san("demo", "-o", out, "--force", code=1)
    assert "was not made by san demo" in result.err
    assert (out / "cameras" / "precious").is_dir()


def test_model_without_threshold_is_refused_before_anything_is_written(
    san: San, tmp_path: Path, backend: ColourBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.threshold = None

    def never(_: Path) -> None:
        raise AssertionError("unpacked in vain")

    monkeypatch.setattr("san_deploy.data.samples.extract_samples", never)
    san("demo", "-o", tmp_path / "demo", code=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--people", "--cameras", "--distractors", "--seed"])
def test_options_of_the_drawing_are_refused_in_one_line(san: San, tmp_path: Path, option: str) -> None:
    result = san("demo", option, "3", "-o", tmp_path / "demo", code=2)
    (line,) = result.err.splitlines()
    assert line.startswith(f"Error: {option} is not there any more") and "san match" in line
    assert option not in san("demo", "--help").out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("backend")
def test_interrupt_leaves_nothing(san: San, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(out: Path) -> None:
        (out / "cam1").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr("san_deploy.data.samples.extract_samples", interrupt)
    san("demo", "-o", tmp_path / "demo", code=130)
    assert list(tmp_path.iterdir()) == []
