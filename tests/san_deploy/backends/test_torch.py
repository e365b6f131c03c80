"""A checkpoint in PyTorch: what it computes, and that nothing of the process is changed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from san_train.checkpoint import CheckpointInfo, save_checkpoint  # noqa: E402
from san_train.models import SanSettings, SharpAttentionNetwork  # noqa: E402

from san_deploy.artefact import sha256_file  # noqa: E402
from san_deploy.backends import open_backend  # noqa: E402
from san_deploy.backends.torch import TorchNetwork  # noqa: E402
from san_deploy.errors import SanError, UsageError  # noqa: E402
from san_deploy.preprocess import MEAN_RGB, RESIZE, STD_RGB  # noqa: E402
from tests.settled import settle  # noqa: E402

CROPS = np.random.default_rng(3).integers(0, 256, (9, 64, 32, 3), dtype=np.uint8)


def checkpoint(path: Path, **settings: Any) -> tuple[Path, SharpAttentionNetwork]:
    torch.manual_seed(3)
    values = {"depth": 18, "width": 0.125, "size_hw": (64, 32), "hidden": 32, "embedding_dim": 16}
    network = SharpAttentionNetwork(SanSettings(**(values | settings))).train()
    with torch.no_grad():
        for _ in range(20):
            network(by_hand(CROPS))
    info = CheckpointInfo("san", network.settings.as_dict(), RESIZE, 1)
    network.eval()
    if network.mask_kind == "sharp":
        # No bit hangs on rounding, on whatever processor.
        settle(network, CROPS)
    save_checkpoint(path, network, info)
    return path, network


def by_hand(crops: np.ndarray) -> Any:
    """BGR to normalised RGB, `(N, 3, H, W)`."""
    rgb = crops[..., ::-1].astype(np.float64) / 255.0
    normal = (rgb - np.array(MEAN_RGB)) / np.array(STD_RGB)
    return torch.tensor(normal.transpose(0, 3, 1, 2).astype(np.float32))


def expected(network: SharpAttentionNetwork, crops: np.ndarray, mask: str) -> np.ndarray:
    network.mode.evaluate = mask
    with torch.no_grad():
        rows = network(by_hand(crops)).numpy().astype(np.float64)
    result: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return result


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SharpAttentionNetwork]:
    return checkpoint(tmp_path_factory.mktemp("torch") / "m.safetensors")


@pytest.mark.numeric
@pytest.mark.parametrize("mask", [None, "expected", "ramp:0.25"])
def test_against_the_network(trained: tuple[Path, SharpAttentionNetwork], mask: str | None) -> None:
    path, network = trained
    backend = TorchNetwork(path, mask=mask)
    rows = backend(CROPS)
    assert rows.shape == (9, 16) and rows.dtype == np.float32
    np.testing.assert_allclose(rows, expected(network, CROPS, mask or "argmax"), atol=1e-4)
    # Deterministic, though training samples its masks.
    assert np.array_equal(rows, backend(CROPS)) and backend.artefact.mask == (mask or "argmax")


def test_says_what_it_is(trained: tuple[Path, SharpAttentionNetwork]) -> None:
    backend = open_backend(trained[0], device="cpu")
    assert isinstance(backend, TorchNetwork)
    assert backend.name == f"torch {torch.__version__} (CPU)" and backend.note == ""
    artefact = backend.artefact
    assert (artefact.arch, artefact.embedding_dim, artefact.size_hw) == ("san-resnet18", 16, (64, 32))
    assert (artefact.input, artefact.precision, artefact.resize) == ("uint8", "fp32", RESIZE)
    assert artefact.sha256 == artefact.checkpoint_sha256 == sha256_file(trained[0])


def test_a_network_without_a_choice(tmp_path: Path) -> None:
    for name, settings in (("soft", {"gate": "soft"}), ("none", {"attention": (), "context": ()})):
        path, network = checkpoint(tmp_path / f"{name}.safetensors", **settings)
        backend = TorchNetwork(path)
        assert backend.artefact.mask == name
        np.testing.assert_allclose(backend(CROPS), expected(network, CROPS, "argmax"), atol=1e-4)
        with pytest.raises(UsageError, match="no mask to choose"):
            TorchNetwork(path, mask="expected")


def test_two_masks_of_one_checkpoint_from_several_threads(
    trained: tuple[Path, SharpAttentionNetwork],
) -> None:
    path, network = trained
    backends = {mask: TorchNetwork(path, mask=mask, threads=1) for mask in ("argmax", "expected")}
    wanted = {mask: expected(network, CROPS[:2], mask) for mask in backends}
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda mask: (mask, backends[mask](CROPS[:2])), [*backends] * 6))
    for mask, rows in found:
        np.testing.assert_allclose(rows, wanted[mask], atol=1e-4)
    assert torch.get_num_threads() == threads
    assert torch.backends.cudnn.allow_tf32 and not torch.backends.cudnn.deterministic


def test_refusals(trained: tuple[Path, SharpAttentionNetwork], tmp_path: Path) -> None:
    backend = TorchNetwork(trained[0])
    with pytest.raises(SanError, match="no crops"):
        backend(CROPS[:0])
    with pytest.raises(SanError, match="the model takes crops"):
        backend(CROPS[:, :32])
    with pytest.raises(UsageError, match="--mask"):
        TorchNetwork(trained[0], mask="sharp")
    with pytest.raises(SanError, match="1 thread or more"):
        TorchNetwork(trained[0], threads=0)
    (tmp_path / "cut.safetensors").write_bytes(trained[0].read_bytes()[:1000])
    with pytest.raises(SanError, match=r"cut\.safetensors"):
        open_backend(tmp_path / "cut.safetensors")


def test_no_gpu_is_an_error_where_one_was_named(
    trained: tuple[Path, SharpAttentionNetwork], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(
        SanError, match=r"PyTorch cannot run on cuda:1\. This PyTorch .* was built without CUDA"
    ):
        open_backend(trained[0], device="cuda:1")
    note = open_backend(trained[0]).note
    assert note.startswith("--device auto took the CPU: this PyTorch") and note.endswith("without CUDA")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SanError, match="PyTorch finds no GPU"):
        open_backend(trained[0], device="cuda")


def test_a_broken_network_is_named(trained: tuple[Path, SharpAttentionNetwork]) -> None:
    """A network that gives rows without a direction."""
    backend = TorchNetwork(trained[0])
    for parameter in backend.network.parameters():
        parameter.data.zero_()
    with pytest.raises(
        SanError, match=r"m\.safetensors gave embeddings that are not finite or not of norm 1"
    ):
        backend(CROPS)
