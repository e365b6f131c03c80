"""`san train` from the command line: what it writes, what it refuses."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("tensorboard")

from tests.san_train.conftest import write_crop_folder

SMALL = [
    "--set", "settings.width=0.125", "--set", "settings.hidden=0", "--set", "settings.embedding_dim=8",
    "--set", "num_ids=3", "--set", "num_instances=2", "--set", "steps=1", "--size", "64x32",
    # `auto` measures for a second.
    "--precision", "fp32", "--epochs", "1",
]  # fmt: skip


def san(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "san_deploy", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_crop_folder(tmp_path_factory.mktemp("data") / "crops", people=6)


def test_train_then_resume_then_force(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = san("train", data, "-o", run, "--validation-people", 2, *SMALL)
    assert first.returncode == 0, first.stderr
    assert "crops rank-1" in first.stdout and "san export" in first.stdout and "Device: " in first.stdout
    assert {"model.safetensors", "model.json", "config.json", "metrics.jsonl", "state.safetensors"} <= {
        p.name for p in run.iterdir()
    }

    again = san("train", data, "-o", run, *SMALL)
    assert again.returncode == 1 and "--resume" in again.stderr and "Traceback" not in again.stderr
    resumed = san("train", data, "-o", run, "--resume")
    assert resumed.returncode == 0 and "Resumed after epoch 1" in resumed.stdout, resumed.stderr
    clash = san("train", data, "-o", run, "--resume", "--set", "lr=0.5")
    assert clash.returncode == 2

    (run / "notes.txt").write_text("mine")
    forced = san("train", data, "-o", run, "--force", *SMALL)
    assert forced.returncode == 0 and (run / "notes.txt").is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--size", "64"], 2, "HxW"),
        (["--set", "lr=fast"], 2, "lr"),
        (["--recipe", "papper"], 2, "papper"),
        (["--device", "cuda:7"], 1, "cuda:7"),
        (["--device", "tpu"], 2, "tpu"),
        (["--pretrained", "none.pth"], 1, "none.pth"),
        (["--validation-people", 5], 1, "held out"),
        (["--epochs", 0], 2, "epochs"),
    ],
)
def test_wrong_options(data: Path, tmp_path: Path, arguments: list, code: int, text: str) -> None:
    result = san("train", data, "-o", tmp_path / "run", *arguments)
    assert result.returncode == code and text in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


def test_wrong_data(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    one = write_crop_folder(tmp_path / "one", people=1)
    (tmp_path / "file").write_text("x")
    for folder, text in (
        ("none", "does not exist"),
        ("empty", "no layout"),
        ("file", "not a folder"),
        (one.name, "one person"),
    ):
        result = san("train", tmp_path / folder, "-o", tmp_path / "run", *SMALL)
        assert result.returncode == 1 and text in result.stderr and "Traceback" not in result.stderr, (
            result.stderr
        )
        # Said before the precision is measured, which takes seconds.
        assert "Precision" not in result.stdout or folder == one.name


def test_an_unreadable_crop_is_left_out_or_stops_with_strict(tmp_path: Path) -> None:
    folder = write_crop_folder(tmp_path / "data", people=3)
    broken = next(folder.glob("cam1/*/0000.png"))
    broken.write_bytes(broken.read_bytes()[:60])
    strict = san("train", folder, "-o", tmp_path / "run", "--validation-people", 0, "--strict", *SMALL)
    assert strict.returncode == 1 and str(broken) in strict.stderr and "Traceback" not in strict.stderr
    assert not (tmp_path / "run").exists()
    result = san("train", folder, "-o", tmp_path / "run", "--validation-people", 0, *SMALL)
    assert result.returncode == 0 and str(broken) in result.stderr and "1 of 12 crops" in result.stderr


def test_force_costs_nothing_where_the_new_run_cannot_start(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert san("train", data, "-o", run, "--validation-people", 0, *SMALL).returncode == 0
    before = (run / "model.safetensors").read_bytes()
    wrong = san("train", data, "-o", run, "--force", "--start", tmp_path / "none.safetensors", *SMALL)
    assert wrong.returncode == 1 and (run / "model.safetensors").read_bytes() == before
    again = san("train", data, "-o", run, "--force", "--start", run / "model.safetensors", *SMALL)
    assert again.returncode == 0, again.stderr


def test_a_file_of_somebody_else_is_never_replaced(data: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["Other"]}')
    (tmp_path / "model.safetensors").write_text("theirs")
    result = san("train", data, "-o", tmp_path, "--force", *SMALL)
    assert result.returncode == 1 and (tmp_path / "model.safetensors").read_text() == "theirs"


def test_set_beats_the_defaults(data: Path, tmp_path: Path) -> None:
    more = ["--set", "seed=20260101", "--set", "validation_people=0"]
    assert san("train", data, "-o", tmp_path / "run", *SMALL, *more).returncode == 0
    recipe = json.loads((tmp_path / "run" / "config.json").read_text())["recipe"]
    assert (recipe["seed"], recipe["validation_people"]) == (20260101, 0)


def test_one_camera_trains_without_validation(tmp_path: Path) -> None:
    folder = write_crop_folder(tmp_path / "data", people=6, cameras=1)
    result = san("train", folder, "-o", tmp_path / "run", *SMALL)
    assert result.returncode == 0 and "uncalibrated" in result.stderr, result.stderr


def test_any_folder_trains_by_a_pattern(tmp_path: Path) -> None:
    folder = write_crop_folder(tmp_path / "data", people=4)
    flat = tmp_path / "flat"
    flat.mkdir()
    for row in (folder / "identities.csv").read_text().splitlines()[1:]:
        camera, track, person = row.split(",")[:3]
        for path in sorted((folder / camera / track).iterdir()):
            path.rename(flat / f"{person}_{camera}_{path.name}")
    wrong = san("train", flat, "-o", tmp_path / "run", *SMALL)
    assert wrong.returncode == 1 and "no layout" in wrong.stderr
    pattern = ["--pattern", "{person}_{camera}_{}.png", "--validation-people", 0]
    result = san("train", flat, "-o", tmp_path / "run", *pattern, *SMALL)
    assert result.returncode == 0, result.stderr
    assert "4 people" in result.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_leaves_a_run_that_resumes(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    small = [*SMALL[:-1], "400"]
    words = [
        sys.executable,
        "-m",
        "san_deploy",
        "train",
        str(data),
        "-o",
        str(run),
        "--validation-people",
        "0",
        *small,
    ]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch   2/"):
                process.send_signal(signal.SIGINT)
                break
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "--resume" in errors and "Traceback" not in errors, errors
    assert not [path.name for path in run.iterdir() if path.name.startswith(".")]
