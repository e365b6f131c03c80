from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.san_deploy.video.made import WRITERS, boxes_of, write_video

San = Callable[..., Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("made")
    return write_video(folder / "door.mp4", boxes_of(20)), WRITERS["mot"](folder / "door.txt", boxes_of(20))


def test_a_camera_that_san_embed_takes(san: San, made: tuple[Path, Path], tmp_path: Path) -> None:
    video, boxes = made
    result = san("crops", video, "--detections", boxes, "-o", tmp_path / "door", "--per-track", 3)
    assert "20 frames" in result.out and "9 of 3 tracks" in result.out and "read as mot" in result.out
    told = json.loads(san("embed", tmp_path / "door", "-o", tmp_path / "door.npz", "--json").out)
    assert (told["crops"], told["tracklets"]) == (9, 3)


def test_json(san: San, made: tuple[Path, Path], tmp_path: Path) -> None:
    video, boxes = made
    told = json.loads(san("crops", video, "--detections", boxes, "-o", tmp_path / "a", "--json").out)
    assert told["format"] == "mot" and told["frames"] == 20
    assert sorted(track["name"] for track in told["tracks"]) == ["t0001", "t0002", "t0007"]


def test_only_our_own_folder_is_replaced(san: San, made: tuple[Path, Path], tmp_path: Path) -> None:
    video, boxes = made
    out = tmp_path / "cam"
    arguments = ("crops", video, "--detections", boxes, "-o", out)
    san(*arguments)
    assert "exists" in san(*arguments, code=1).err
    san(*arguments, "--force", "--per-track", 1)
    assert len(list(out.rglob("*.jpg"))) == 3
    (out / "mine.txt").write_text("keep")
    assert "mine.txt" in san(*arguments, "--force", code=1).err
    assert (out / "mine.txt").read_text() == "keep"


@pytest.mark.parametrize(
    ("extra", "code", "message"),
    [
        (("--box-size", "12"), 2, "give width and height, for example 1920x1080"),
        (("--start", "yesterday"), 2, "yesterday"),
        (("--format", "yolo"), 2, "--format yolo is unknown"),
        (("--fps", "5"), 2, "--fps is for folders"),
        (("--min-height", "500"), 1, "no box gives a crop"),
    ],
)
def test_bad_options(
    san: San, made: tuple[Path, Path], tmp_path: Path, extra: tuple[str, ...], code: int, message: str
) -> None:
    video, boxes = made
    result = san("crops", video, "--detections", boxes, "-o", tmp_path / "cam", *extra, code=code)
    assert message in result.err and not (tmp_path / "cam").exists()
