from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from san_train.checkpoint import (
    CheckpointInfo,
    load_checkpoint,
    load_tensors,
    load_weights,
    save_checkpoint,
    save_tensors,
)
from san_train.describe import resolve_mask
from san_train.models import SanSettings, SharpAttentionNetwork

from san_deploy.artefact import Threshold
from san_deploy.errors import SanError

SETTINGS = SanSettings(depth=18, width=0.125, size_hw=(64, 32), hidden=32, embedding_dim=16)
INFO = CheckpointInfo(
    arch="san",
    settings=SETTINGS.as_dict(),
    resize="pillow-bicubic-antialias",
    epoch=3,
    recipe={"lr": 1e-3},
    metrics={"rank1": 0.5},
    threshold=Threshold(0.6, 0.01, 0.9, 1000, 50, "drawn people"),
    data=["ward: 10 crops of 2 people"],
    versions={"torch": "2.13"},
)


@pytest.fixture(scope="module")
def network() -> SharpAttentionNetwork:
    torch.manual_seed(0)
    return SharpAttentionNetwork(SETTINGS)


@pytest.fixture
def path(network: SharpAttentionNetwork, tmp_path: Path) -> Path:
    path = tmp_path / "best.safetensors"
    save_checkpoint(path, network, INFO)
    return path


def describe(**changes: Any) -> dict[str, Any]:
    return asdict(INFO) | changes


def test_comes_back_whole(network: SharpAttentionNetwork, path: Path) -> None:
    loaded, info = load_checkpoint(path)
    assert not loaded.training
    assert loaded.settings == SETTINGS
    # JSON knows no tuples; the network's own settings above do.
    assert replace(info, settings=SETTINGS.as_dict()) == INFO
    state = network.state_dict()
    assert set(loaded.state_dict()) == set(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())


def test_same_network_same_bytes(network: SharpAttentionNetwork, path: Path, tmp_path: Path) -> None:
    # The artefact names its checkpoint by hash.
    save_checkpoint(tmp_path / "again.safetensors", network, INFO)
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_description_stands_beside_it_for_people(path: Path) -> None:
    told = json.loads(path.with_suffix(".json").read_text())
    assert told["settings"]["width"] == 0.125
    assert told["threshold"]["similarity"] == 0.6


def test_moved_alone_it_still_loads(path: Path, tmp_path: Path) -> None:
    path.with_suffix(".json").unlink()
    moved = tmp_path / "elsewhere.safetensors"
    path.rename(moved)
    assert load_checkpoint(moved)[1].epoch == 3


def refused(path: Path) -> str:
    with pytest.raises(SanError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_missing_file(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "none.safetensors")
    assert "is not a file" in refused(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 1000, -1])
def test_cut_short(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])
    assert "not a whole safetensors file" in refused(path)


def test_pickle_is_not_opened(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
            return Path.touch, (tmp_path / "exploded",)  # type: ignore[return-value]

    path = tmp_path / "model.pth"
    torch.save({"state_dict": Bomb()}, path)
    refused(path)
    assert not (tmp_path / "exploded").exists()


def test_safetensors_of_somebody_else(network: SharpAttentionNetwork, tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file(dict(network.state_dict()), path)
    assert "not written by san train" in refused(path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"arch": "pcb"}, "pcb"),
        ({"settings": {"depth": 101}}, "101"),
        ({"settings": {"no_such_setting": 1}}, "no_such_setting"),
        ({"settings": {"width": "wide"}}, "width is 'wide', not a number"),
        ({"settings": {"size_hw": [64]}}, "size_hw"),
        ({"settings": ["depth", 18]}, "not a record"),
        ({"schema_version": 99}, "99"),
        ({"invented": 1}, "invented"),
        ({"threshold": {"similarity": 0.5}}, "no checkpoint of a network"),
    ],
)
def test_description_that_does_not_fit(
    network: SharpAttentionNetwork, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    path = tmp_path / "odd.safetensors"
    save_tensors(path, dict(network.state_dict()), describe(**changes))
    assert told in refused(path)


def test_description_that_lacks_a_field(network: SharpAttentionNetwork, tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    save_tensors(path, dict(network.state_dict()), {"recipe": {}})
    assert "no checkpoint of a network" in refused(path)


def test_description_that_is_no_json(network: SharpAttentionNetwork, tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    save_file(dict(network.state_dict()), path, {"san": "{"})
    refused(path)


@pytest.mark.parametrize(
    "changes", [{"width": 0.25}, {"attention": [], "context": []}, {"neck": True}, {"embedding_dim": 8}]
)
def test_weights_of_another_architecture(
    network: SharpAttentionNetwork, tmp_path: Path, changes: dict[str, Any]
) -> None:
    path = tmp_path / "other.safetensors"
    save_tensors(path, dict(network.state_dict()), describe(settings=SETTINGS.as_dict() | changes))
    assert "another architecture" in refused(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(network: SharpAttentionNetwork, tmp_path: Path, value: float) -> None:
    tensors = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    tensors["backbone.layer2.0.conv1.weight"][0, 0, 0, 0] = value
    path = tmp_path / "nan.safetensors"
    save_tensors(path, tensors, describe())
    assert "backbone.layer2.0.conv1.weight" in refused(path)


def test_a_refused_file_changes_no_weight(network: SharpAttentionNetwork) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    tensors = {name: torch.zeros_like(tensor) for name, tensor in before.items()}
    tensors.pop("backbone.conv1.weight")
    with pytest.raises(SanError):
        load_weights(network, tensors, Path("x.safetensors"))
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_a_failed_write_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("san_train.checkpoint.save_file", full)
    with pytest.raises(SanError, match="No space left"):
        save_tensors(path, {}, {})
    assert path.read_bytes() == before
    assert sorted(item.name for item in path.parent.iterdir()) == ["best.json", "best.safetensors"]


def test_tensors_come_back_contiguous_and_on_the_cpu(tmp_path: Path) -> None:
    # Channels-last weights of a GPU run.
    weight = torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last)
    save_tensors(tmp_path / "a.safetensors", {"weight": weight}, {})
    tensors, _ = load_tensors(tmp_path / "a.safetensors")
    assert torch.equal(tensors["weight"], weight) and tensors["weight"].is_contiguous()


def test_masks_are_argmax_whatever_the_recipe_recommends(
    network: SharpAttentionNetwork, tmp_path: Path
) -> None:
    info = replace(INFO, recipe={"deploy_mask": "ramp:0.0625"})
    save_checkpoint(tmp_path / "a.safetensors", network, info)
    read, known = load_checkpoint(tmp_path / "a.safetensors")
    assert known.recommended_mask == "ramp:0.0625"
    assert read.mode.evaluate == resolve_mask(read, None) == "argmax"
    assert resolve_mask(read, "expected") == "expected"


def test_a_mask_that_is_none_is_refused(network: SharpAttentionNetwork, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.safetensors", network, replace(INFO, recipe={"deploy_mask": "ramp:2"}))
    with pytest.raises(SanError, match=r"a\.safetensors cannot be built.*ramp:2"):
        load_checkpoint(tmp_path / "a.safetensors")
