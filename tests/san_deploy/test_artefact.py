"""What a model file says of itself, and what it may not get away with."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from san_deploy.artefact import (
    Calibration,
    Threshold,
    from_metadata,
    read_sidecar,
    read_sidecar_sha256,
    sha256_file,
    sidecar_path,
    write_sidecar,
)
from san_deploy.errors import SanError
from tests.tiny_models import tiny_artefact

PATH = Path("m.onnx")
THRESHOLD = Threshold(0.6, 0.01, 0.9, 1000, 50, "drawn people")


@pytest.mark.parametrize("threshold", [None, THRESHOLD])
def test_round_trip(threshold: Threshold | None) -> None:
    artefact = tiny_artefact(threshold=threshold, checks={"min_cosine": {"1": 0.99}})
    metadata = artefact.metadata_props()
    assert "san.sha256" not in metadata and all(isinstance(value, str) for value in metadata.values())
    read = from_metadata(metadata | {"other": "tool"}, path=PATH, sha256="ab" * 32)
    assert read == tiny_artefact(threshold=threshold, checks={"min_cosine": {"1": 0.99}}, sha256="ab" * 32)


def test_a_later_minor_field_is_ignored() -> None:
    metadata = tiny_artefact().metadata_props() | {"san.later": "1"}
    assert from_metadata(metadata, path=PATH, sha256="").arch == "tiny"


def refusal(**changes: str | None) -> str:
    metadata: dict[str, str | None] = dict(tiny_artefact().metadata_props())
    metadata |= {f"san.{key}": value for key, value in changes.items()}
    given = {key: value for key, value in metadata.items() if value is not None}
    with pytest.raises(SanError) as caught:
        from_metadata(given, path=PATH, sha256="")
    assert "m.onnx" in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def test_refuses_what_is_not_ours() -> None:
    with pytest.raises(SanError, match=r"m\.onnx was not written by san export"):
        from_metadata({"author": "somebody"}, path=PATH, sha256="")
    assert "schema 2, this is 1" in refusal(schema_version="2")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("arch", None),
        ("arch", "{"),
        ("size_hw", "[32]"),
        ("size_hw", "[32, 16, 3]"),
        ("size_hw", "[0, 16]"),
        ("size_hw", "[32, 1000000000]"),
        ("size_hw", '["32", "16"]'),
        ("size_hw", "5"),
        ("embedding_dim", '"8"'),
        ("embedding_dim", "0"),
        ("input", '"nhwc"'),
        ("threshold", '{"similarity": 1}'),
        ("threshold", "3"),
        ("threshold", json.dumps(dataclasses.asdict(THRESHOLD) | {"similarity": "high"})),
        ("threshold", json.dumps(dataclasses.asdict(THRESHOLD) | {"similarity": True})),
        ("threshold", json.dumps(dataclasses.asdict(THRESHOLD) | {"similarity": 10**400})),
        ("operands", '{"count": 1, "fp32": "all", "fp16": 0, "int8": 0}'),
        ("operands", '{"count": 1.5, "fp32": 1, "fp16": 0, "int8": 0}'),
        ("mean_rgb", "[null, 0, 0]"),
        ("std_rgb", "[NaN, 1, 1]"),
        ("versions", "[1]"),
        ("versions", '{"onnx": 1}'),
        ("checks", '{"a": [{"b": Infinity}]}'),
        ("checks", '{"\\ud800": 1}'),
        ("settings", "5"),
        ("arch", '"\\udcff"'),
        ("mask", "null"),
        ("settings", "[" * 100_000),
    ],
)
def test_refuses_damaged_metadata(key: str, value: str | None) -> None:
    assert "damaged" in refusal(**{key: value})


def test_whole_numbers_are_numbers() -> None:
    metadata = tiny_artefact().metadata_props() | {"san.mean_rgb": "[0, 0, 0]", "san.std_rgb": "[1, 1, 1.0]"}
    assert from_metadata(metadata, path=PATH, sha256="") == tiny_artefact()


def test_the_name_of_a_folder_need_not_be_unicode() -> None:
    """It is told in words, and what is written must be read again."""
    calibration = Calibration(8, "c" * 64, "f\udcff", 0, "minmax", "cpu", left=("a",))
    metadata = tiny_artefact(calibration=calibration).metadata_props()
    read = from_metadata(metadata, path=PATH, sha256="").calibration
    assert read == dataclasses.replace(calibration, folder="f\\udcff")


def test_sidecar(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(b"model")
    artefact = tiny_artefact(sha256=sha256_file(model), threshold=THRESHOLD)
    assert read_sidecar_sha256(model) is None
    written = write_sidecar(artefact, model)
    assert written == sidecar_path(model) == tmp_path / "m.onnx.json"
    assert json.loads(written.read_text())["threshold"]["similarity"] == 0.6
    assert read_sidecar_sha256(model) == artefact.sha256 and read_sidecar(model) == artefact


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "3", "[" * 100_000])
def test_damaged_sidecar(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.onnx.json").write_text(text)
    with pytest.raises(SanError, match="not readable as the description"):
        read_sidecar_sha256(tmp_path / "m.onnx")


def test_to_input() -> None:
    crops = np.random.default_rng(0).integers(0, 256, (2, 32, 16, 3), dtype=np.uint8)
    assert tiny_artefact().to_input(crops) is crops
    planes = tiny_artefact(input="float").to_input(crops)
    assert planes.dtype == np.float32 and planes.shape == (2, 3, 32, 16) and planes.flags.c_contiguous
    assert planes[1, 0, 5, 7] == crops[1, 5, 7, 2] and planes[1, 2, 5, 7] == crops[1, 5, 7, 0]


@pytest.mark.parametrize(
    "crops",
    [
        np.zeros((32, 16, 3), np.uint8),
        np.zeros((1, 16, 32, 3), np.uint8),
        np.zeros((1, 3, 32, 16), np.uint8),
        np.zeros((1, 32, 16, 3), np.float32),
    ],
)
def test_to_input_refuses(crops: np.ndarray) -> None:
    with pytest.raises(SanError, match=r"the model takes crops of \(N, 32, 16, 3\) uint8 BGR"):
        tiny_artefact().to_input(crops)
