"""The header's reader against the safetensors library, which reads and writes the same files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from san_deploy.checkpoint_info import CheckpointInfo, read_header, read_info
from san_deploy.errors import SanError

safetensors = pytest.importorskip("safetensors.numpy")

DESCRIPTION: dict[str, Any] = {
    "arch": "san",
    "settings": {"depth": 18},
    "resize": "pillow-bicubic-antialias",
    "epoch": 3,
    "threshold": {
        "similarity": 0.6,
        "false_match_rate": 0.05,
        "true_match_rate": 0.9,
        "impostor_pairs": 100,
        "genuine_pairs": 10,
        "source": "drawn people",
    },
    "schema_version": 1,
}


def write(path: Path, description: object = None, tensors: dict[str, np.ndarray] | None = None) -> Path:
    if tensors is None:
        tensors = {
            "conv.weight": np.ones((4, 3, 2, 2), np.float32),
            "bn.running_mean": np.zeros(4, np.float32),
        }
    told = DESCRIPTION if description is None else description
    safetensors.save_file(tensors, path, {"san": json.dumps(told)})
    return path


def test_reads_what_the_library_wrote(tmp_path: Path) -> None:
    header = read_header(write(tmp_path / "a.safetensors"))
    assert header.description == DESCRIPTION
    assert header.shapes == {"conv.weight": (4, 3, 2, 2), "bn.running_mean": (4,)}
    info = read_info(tmp_path / "a.safetensors", header.description)
    assert (info.arch, info.epoch, info.recipe) == ("san", 3, {})
    assert info.threshold is not None and info.threshold.source == "drawn people"


@pytest.mark.parametrize(
    ("arch", "settings", "recipe", "mask"),
    [
        ("san", {}, {}, ""),
        ("san", {"gate": "sharp", "attention": [1]}, {"deploy_mask": "ramp:0.0625"}, "ramp:0.0625"),
        ("san", {"gate": "soft"}, {"deploy_mask": "argmax"}, ""),
        ("san", {"attention": []}, {"deploy_mask": "ramp:0.0625"}, ""),
        # The default, which the recipes of all networks have.
        ("ha-cnn", {}, {"deploy_mask": "argmax"}, ""),
        ("ha-cnn", {}, {}, ""),
        ("later", {}, {"deploy_mask": "expected"}, "expected"),
    ],
)
def test_the_mask_that_the_recipe_recommends(
    arch: str, settings: dict[str, Any], recipe: dict[str, Any], mask: str
) -> None:
    assert CheckpointInfo(arch, settings, "", 1, recipe).recommended_mask == mask


def test_a_file_without_tensors(tmp_path: Path) -> None:
    assert read_header(write(tmp_path / "a.safetensors", tensors={})).shapes == {}


def refused(path: Path) -> str:
    with pytest.raises(SanError) as caught:
        read_info(path, read_header(path).description)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("keep", [0, 7, 8, 100, -1])
def test_cut_short_and_so_says_the_library(tmp_path: Path, keep: int) -> None:
    path = write(tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(pytest.importorskip("safetensors").SafetensorError):
        safetensors.load_file(path)
    assert "is not a whole safetensors file" in refused(path)


def test_added_to(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes() + b"more")
    assert "was added to" in refused(path)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{",
        b'{"a": 1}',
        b'{"a": {"shape": ["x"], "data_offsets": [0, 0]}}',
        b'{"a": {"shape": [1], "data_offsets": []}}',
        b'{"__metadata__": 5}',
        b'{"__metadata__": {"san": 5}}',
        b'{"__metadata__": {"san": "[]"}}',
        b'{"__metadata__": {"san": "{"}}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_headers_that_are_none(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    assert "is not a whole safetensors file" in refused(path)


def test_a_length_that_would_fill_the_memory_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with path.open("wb") as file:
        file.write((1 << 40).to_bytes(8, "little"))
        file.truncate(1 << 41)  # sparse: it takes no space
    assert "Its header does not fit" in refused(path)


def test_missing_and_foreign(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "none.safetensors")
    assert "is not a file" in refused(tmp_path)
    safetensors.save_file({}, tmp_path / "foreign.safetensors")
    assert "was not written by san train" in refused(tmp_path / "foreign.safetensors")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"schema_version": 2}, "Schema 2, this is 1"),
        ({"arch": None, "invented": 1}, "'invented'"),
        ({"threshold": {"similarity": 1}}, "missing"),
        ({"threshold": 5}, "not a record"),
        ({"recipe": 1.5}, "not a record"),
        ({"threshold": DESCRIPTION["threshold"] | {"similarity": "a"}}, "not a number"),
        ({"threshold": DESCRIPTION["threshold"] | {"similarity": 1.01}}, "not in -1..1"),
        ({"epoch": "3"}, "not a whole number"),
        ({"data": [1]}, "not text"),
    ],
)
def test_descriptions_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    assert told in refused(write(tmp_path / "a.safetensors", DESCRIPTION | changes))


def test_the_state_of_a_run_is_no_network(tmp_path: Path) -> None:
    path = write(tmp_path / "state.safetensors", {"best": -1.0, "epoch": 20, "schema_version": 1})
    assert "is no checkpoint of a network. It says nothing of its arch" in refused(path)
