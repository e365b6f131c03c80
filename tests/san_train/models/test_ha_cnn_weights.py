"""torchreid's names: all of them, each in its place, and the same embeddings."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from san_train.models.foreign_weights import read_state  # noqa: E402
from san_train.models.ha_cnn import HaCnnSettings, HarmoniousAttentionNetwork  # noqa: E402
from san_train.models.ha_cnn_weights import load_torchreid, our_name  # noqa: E402

from san_deploy.errors import SanError  # noqa: E402
from tests.san_train.models.ha_cnn_oracle import State, draw_state, embed_literally  # noqa: E402


@pytest.fixture(scope="module")
def state() -> State:
    return draw_state()


def test_every_name_has_its_place(state: State) -> None:
    kept = {name: tensor for name, tensor in state.items() if not name.startswith("classifier")}
    ours = HarmoniousAttentionNetwork(HaCnnSettings()).state_dict()
    assert sum(tensor.numel() for tensor in kept.values() if tensor.is_floating_point()) > 2_929_112
    assert {our_name(name): tensor.shape for name, tensor in kept.items()} == {
        name: tensor.shape for name, tensor in ours.items()
    }
    assert len({our_name(name) for name in kept}) == len(kept)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("conv.conv.weight", "stem.conv.weight"),
        ("inception3.0.stream4.1.bn.bias", "stages.2.0.paths.3.1.bn.bias"),
        ("inception1.1.stream2.2.conv.bias", "stages.0.1.paths.1.2.conv.bias"),
        ("ha2.soft_attn.spatial_attn.conv2.bn.weight", "attention.1.spatial.1.bn.weight"),
        ("ha2.soft_attn.channel_attn.conv1.conv.weight", "attention.1.channel.0.conv.weight"),
        ("ha2.soft_attn.conv.bn.running_var", "attention.1.blend.bn.running_var"),
        ("ha3.hard_attn.fc.bias", "attention.2.hard.bias"),
        ("local_conv2.stream3.1.conv.weight", "streams.1.paths.2.1.conv.weight"),
        ("fc_local.1.running_mean", "head_local.1.running_mean"),
        ("convolution.weight", "convolution.weight"),
    ],
)
def test_names(theirs: str, ours: str) -> None:
    assert our_name(theirs) == ours


@pytest.mark.parametrize("align_corners", [False, True])
def test_the_embeddings_are_theirs(state: State, align_corners: bool) -> None:
    network = load_torchreid(state, align_corners=align_corners)
    assert not network.training and network.settings.align_corners == align_corners
    x = torch.randn(3, 3, 160, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = network(x)
        expected = embed_literally(state, x, align_corners=align_corners)
        other = embed_literally(state, x, align_corners=not align_corners)
    assert (ours - expected).abs().max() < 2e-5
    # The figure above would not pass with the other convention, or with another crop's row.
    assert (ours - other).abs().max() > 1e-3 and (ours - expected.roll(1, 0)).abs().max() > 1e-3


def test_parallel_models_the_global_branch_and_old_norms(state: State) -> None:
    parallel = {
        f"module.{name}": tensor
        for name, tensor in draw_state(local=False).items()
        if not name.endswith("num_batches_tracked")
    }
    network = load_torchreid(parallel)
    assert not network.settings.local and network.settings.embedding_dim == 512
    assert torch.equal(network.stem.conv.weight, parallel["module.conv.conv.weight"])


def test_what_does_not_fit_is_named(state: State) -> None:
    def without(name: str) -> State:
        return {key: tensor for key, tensor in state.items() if key != name}

    for wrong, named in (
        (without("ha1.hard_attn.fc.bias"), "attention.0.hard.bias"),
        (without("conv.bn.running_mean"), "stem.bn.running_mean"),
        ({**state, "layer1.0.conv1.weight": torch.zeros(1)}, "layer1.0.conv1.weight"),
        ({**state, "fc_global.0.weight": torch.zeros(512, 2048)}, "head_global.0.weight"),
        ({}, "tensors are missing"),
    ):
        with pytest.raises(SanError, match=f"no weights of torchreid's HA-CNN.*{named}"):
            load_torchreid(wrong)
    broken = {**state, "conv.conv.bias": torch.full((32,), float("nan"))}
    with pytest.raises(SanError, match=r"NaN or infinity.*stem\.conv\.bias"):
        load_torchreid(broken)


class Code:
    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("run",))


def test_checkpoints_are_read_without_running_code(
    state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.pth.tar-300"
    scores = {"epoch": 300, "rank1": np.float32(0.9), "mAP": np.float64(0.75)}
    torch.save({"state_dict": state, **scores}, path)
    assert set(read_state(path)) == set(state)
    # NumPy 1 kept its numbers elsewhere.
    old = tmp_path / "old.pth.tar"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(old, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            assert not name.endswith("data.pkl") or b"numpy" in data
            target.writestr(name, data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert torch.equal(read_state(old)["conv.conv.bias"], state["conv.conv.bias"])
    torch.save({"state_dict": state, "extra": Code()}, path)
    with pytest.raises(SanError, match="holds Python objects"):
        read_state(path)
    assert capsys.readouterr().out == ""
    torch.save([1, 2], path)
    with pytest.raises(SanError, match="holds no state dict"):
        read_state(path)
    path.write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(SanError, match="holds Python objects"):
        read_state(path)
    with pytest.raises(SanError, match="cannot be read"):
        read_state(tmp_path / "missing.pth")
