from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import save_file  # noqa: E402
from san_export.importing.weights import import_file, read_weights, recognise  # noqa: E402
from san_train.checkpoint import load_checkpoint  # noqa: E402

from san_deploy.backends.onnxruntime import OnnxRuntime  # noqa: E402
from san_deploy.errors import SanError, UsageError  # noqa: E402
from san_deploy.preprocess import MEAN_RGB, STD_RGB  # noqa: E402
from tests.san_train.models.ha_cnn_oracle import draw_state as draw_ha_cnn  # noqa: E402
from tests.san_train.models.test_osnet import as_theirs, made  # noqa: E402
from tests.san_train.models.test_rga_weights import draw_state as draw_rga  # noqa: E402

from .made import crops  # noqa: E402


def wanted_rows(network: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    """As the owners of the weights embed: RGB, 0..1, ImageNet's statistics, then cosine."""
    x = (images[:, :, :, ::-1].astype(np.float64) / 255 - MEAN_RGB) / STD_RGB
    with torch.no_grad():
        rows = network(torch.from_numpy(x.transpose(0, 3, 1, 2).astype(np.float32))).numpy()
    found: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return found


@pytest.mark.parametrize("form", ["pth", "tar", "safetensors", "folder"])
def test_weights_to_an_artefact(tmp_path: Path, form: str) -> None:
    network = made()
    state = as_theirs(network)
    size: tuple[int, int] | None = (64, 32)
    if form == "folder":
        path = tmp_path / "reid"
        path.mkdir()
        save_file({name: value.contiguous() for name, value in state.items()}, path / "weights.safetensors")
        told = {
            "architecture": "osnet_x0_25",
            "preprocessing": {"input_size": [64, 32], "interpolation": "bicubic"},
        }
        (path / "reid_config.json").write_text(json.dumps(told))
        size = None
    elif form == "safetensors":
        path = tmp_path / "a.safetensors"
        save_file({name: value.contiguous() for name, value in state.items()}, path)
    else:
        path = tmp_path / f"a.{form}"
        torch.save(
            state if form == "pth" else {"state_dict": state, "epoch": 3, "rank1": np.float64(0.9)}, path
        )
    arch = "" if form in ("folder", "tar") else "osnet"
    images = crops(6, (64, 32))
    # One form goes on to ONNX: all of them come to the same checkpoint.
    out = tmp_path / ("mine.onnx" if form == "pth" else "mine.safetensors")
    artefact = import_file(path, out, arch=arch, size_hw=size)
    assert artefact.arch == "osnet-x0.25" and artefact.mask == "none" and artefact.size_hw == (64, 32)
    assert artefact.resize == (
        "pillow-bicubic-antialias" if form == "folder" else "pillow-bilinear-antialias"
    )
    if form == "pth":
        rows = OnnxRuntime(out)(images)
    else:
        loaded, _ = load_checkpoint(out)
        assert isinstance(loaded, torch.nn.Module)
        rows = wanted_rows(loaded.eval(), images)
    assert np.abs(rows - wanted_rows(network, images)).max() < 1e-5


def test_weights_to_a_checkpoint(tmp_path: Path) -> None:
    network = made("ain")
    torch.save(network.state_dict(), tmp_path / "a.pth")
    out = tmp_path / "mine.safetensors"
    import_file(tmp_path / "a.pth", out, arch="osnet", size_hw=(64, 32))
    loaded, info = load_checkpoint(out)
    assert info.resize == "pillow-bilinear-antialias" and info.data == ["imported from a.pth"]
    x = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        assert torch.equal(loaded(x), network(x))  # type: ignore[operator]
    assert (tmp_path / "mine.json").is_file()


class _Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("a pickle ran",))


def test_nothing_in_a_file_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": _Code()}, tmp_path / "a.pth")
    with pytest.raises(SanError, match="holds Python objects beside weights"):
        read_weights(tmp_path / "a.pth")
    assert "a pickle ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arch", "size", "message"),
    [
        ("rga-s", None, "no weights of the authors' RGA"),
        ("resnet", None, "--arch resnet has no form"),
        ("ha-cnn", None, "no weights of torchreid's HA-CNN"),
        ("ha-cnn", (64, 32), "takes 160x64 alone"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, arch: str, size: tuple[int, int] | None, message: str) -> None:
    torch.save(made().state_dict(), tmp_path / "a.pth")
    with pytest.raises((SanError, UsageError), match=message):
        import_file(tmp_path / "a.pth", tmp_path / "b.onnx", arch=arch, size_hw=size)
    assert not (tmp_path / "b.onnx").exists()


@pytest.mark.parametrize(
    "change",
    [
        {0: torch.zeros(1)},
        {"module.conv1.conv.weight": torch.tensor(1.0)},
        {"module.conv1.conv.weight": torch.zeros(0, 3, 7, 7)},
        {"module.fc.0.weight": torch.zeros(4, 4).to_sparse()},
        {"module.fc.0.weight": torch.zeros(4, 4, dtype=torch.complex64)},
        {"module.fc.0.weight": torch.zeros(4, 4, device="meta")},
        {"module.fc.0.bias": torch.tensor([float("nan")] * 512)},
    ],
    ids=["number", "scalar", "empty", "sparse", "complex", "meta", "nan"],
)
def test_tensors_that_are_no_weights(tmp_path: Path, change: dict[object, torch.Tensor]) -> None:
    torch.save({"state_dict": {**as_theirs(made()), **change}}, tmp_path / "a.pth")
    with pytest.raises(SanError, match=r"a\.pth"):
        import_file(tmp_path / "a.pth", tmp_path / "b.safetensors", size_hw=(64, 32))
    assert not (tmp_path / "b.safetensors").exists()


def test_a_size_that_no_network_has(tmp_path: Path) -> None:
    torch.save(as_theirs(made()), tmp_path / "a.pth")
    with pytest.raises(SanError, match=r"a\.pth makes no osnet.*32 to 4096.*--size"):
        import_file(tmp_path / "a.pth", tmp_path / "b.onnx", size_hw=(8, 8))


def test_weights_say_what_they_are_of(tmp_path: Path) -> None:
    """By the names of their tensors, where nobody gives --arch."""
    assert recognise(as_theirs(made())) == recognise(made("ain").state_dict()) == "osnet"
    assert recognise({f"module.{name}": value for name, value in draw_ha_cnn().items()}) == "ha-cnn"
    for variant in ("sc", "s", "c"):
        assert (
            recognise({f"module.{name}": value for name, value in draw_rga(variant).items()})
            == f"rga-{variant}"
        )
    torch.save({"state_dict": {"layer1.0.conv1.weight": torch.zeros(1)}}, tmp_path / "a.pth")
    message = r"the tensors of .*a\.pth are of no architecture.*rga-c; import any other network as ONNX"
    with pytest.raises(UsageError, match=message):
        import_file(tmp_path / "a.pth", tmp_path / "b.onnx")


def test_weights_of_rga(tmp_path: Path) -> None:
    """As its authors save them, to a checkpoint that says what it is."""
    torch.save(
        {"state_dict": draw_rga("s"), "epoch": 600, "best_top1": 0.0}, tmp_path / "checkpoint_600.pth.tar"
    )
    out = tmp_path / "mine.safetensors"
    artefact = import_file(tmp_path / "checkpoint_600.pth.tar", out, size_hw=(64, 32))
    assert (artefact.arch, artefact.size_hw, artefact.embedding_dim) == ("rga-s-resnet50", (64, 32), 2048)
    assert load_checkpoint(out)[1].arch == "rga-s"
    with pytest.raises(SanError, match=r"weights of rga-s, not of rga-sc\. Give another --arch"):
        import_file(tmp_path / "checkpoint_600.pth.tar", tmp_path / "b.onnx", arch="rga-sc", size_hw=(64, 32))


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("{", "reid_config.json cannot be read"),
        ('{"architecture": "osnet_x1_0", "preprocessing": {"resize_mode": "letterbox"}}', "letterboxed"),
        (
            '{"architecture": "osnet_x1_0", "preprocessing": {"interpolation": "nearest"}}',
            "the resize 'nearest'",
        ),
        ("{}", "cannot be read. 'architecture'"),
    ],
)
def test_bad_folders(tmp_path: Path, told: str, message: str) -> None:
    (tmp_path / "reid_config.json").write_text(told)
    with pytest.raises(SanError, match=message):
        read_weights(tmp_path)
