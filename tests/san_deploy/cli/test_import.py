from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.san_export.importing.made import network, save

San = Callable[..., Any]


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    return save(network(), tmp_path / "theirs.onnx")


def test_every_command_takes_what_was_imported(san: San, theirs: Path, tmp_path: Path, crops: Path) -> None:
    mine = tmp_path / "mine.onnx"
    said = san("import", theirs, "-o", mine, "--preset", "torchreid")
    assert "against the original" in said.out and "san threshold" in said.out
    text = san("info", mine).out
    assert "imported: convention (color rgb, " in text and "{" not in text
    told = json.loads(san("embed", crops, "-o", tmp_path / "a.npz", "-m", mine, "--json").out)
    assert told["embedding_dim"] == 6
    half = tmp_path / "half.onnx"
    san("export", mine, "--fp16", "-o", half)
    san("parity", mine, half, "--crops", crops, "--num", 16)
    assert san("info", half).code == 0


def test_json_and_options_in_place_of_a_preset(san: San, theirs: Path, tmp_path: Path) -> None:
    own = ("--color", "bgr", "--scale", 1, "--mean", "0,0,0", "--std", "1,1,1", "--resize", "cv2-linear")
    told = json.loads(san("import", theirs, "-o", tmp_path / "mine.onnx", *own, "--json").out)
    assert told["artefact"]["settings"]["convention"]["color"] == "bgr"
    assert told["artefact"]["resize"] == "cv2-linear" and told["tensorrt"] == []


@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        ((), 2, "what the network expects is not said: --color, --scale, --mean, --std"),
        (("--preset", "pytorch"), 2, "--preset pytorch is unknown"),
        (("--preset", "tao", "--size", "256"), 2, "give height and width, for example 256x128"),
        (("--preset", "tao", "--mean", "1,2"), 2, "is not three numbers"),
        (("--preset", "tao", "--output", "logits"), 2, "has no output logits"),
        (("--preset", "tao", "--try", "crops"), 2, "--try writes nothing"),
        (("--preset", "tao", "--crops", "nowhere"), 1, "nowhere does not exist"),
    ],
)
def test_bad_options(
    san: San, theirs: Path, tmp_path: Path, given: tuple[str, ...], code: int, message: str
) -> None:
    said = san("import", theirs, "-o", tmp_path / "mine.onnx", *given, code=code)
    assert message in said.err and not (tmp_path / "mine.onnx").exists()


def test_an_artefact_is_not_imported_again(san: San, theirs: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.onnx"
    san("import", theirs, "-o", mine, "--preset", "torchreid")
    assert (
        "is an artefact already"
        in san("import", mine, "-o", tmp_path / "b.onnx", "--preset", "tao", code=1).err
    )
    assert "exists" in san("import", theirs, "-o", mine, "--preset", "tao", code=1).err
    san("import", theirs, "-o", mine, "--preset", "tao", "--force")
