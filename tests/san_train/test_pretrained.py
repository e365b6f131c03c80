"""ImageNet weights: names, checksums, hostile files."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from san_train import pretrained  # noqa: E402
from san_train.models.resnet import ResNet  # noqa: E402

from san_deploy.artefact import sha256_file  # noqa: E402
from san_deploy.errors import SanError, UsageError  # noqa: E402


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A state dict as torchvision saves it, classifier included."""
    state = ResNet(18, width=0.125).state_dict()
    state |= {"fc.weight": torch.zeros(1000, 64), "fc.bias": torch.zeros(1000)}
    torch.save(state, tmp_path / "resnet18.pth")
    return tmp_path / "resnet18.pth"


def test_weights_load_by_torchvisions_names(published: Path) -> None:
    backbone = ResNet(18, width=0.125)
    pretrained.load_backbone(backbone, pretrained.read_weights(published))
    torch.testing.assert_close(
        backbone.layer3[0].conv1.weight, torch.load(published, weights_only=True)["layer3.0.conv1.weight"]
    )


def test_older_files_without_batch_counters_load(published: Path) -> None:
    state = {
        name: value for name, value in pretrained.read_weights(published).items() if "num_batches" not in name
    }
    pretrained.load_backbone(ResNet(18, width=0.125), state)


def test_names_of_data_parallel_load(published: Path) -> None:
    state = {f"module.{name}": value for name, value in pretrained.read_weights(published).items()}
    backbone = ResNet(18, width=0.125)
    pretrained.load_backbone(backbone, state)
    assert torch.equal(backbone.conv1.weight, state["module.conv1.weight"])


def test_a_pickled_module_is_refused_with_what_to_do(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pth")
    with pytest.raises(SanError) as caught:
        pretrained.read_weights(tmp_path / "whole.pth")
    assert caught.value.do.endswith("torch.save(model.state_dict(), 'whole.pth')") and "trust" not in str(
        caught.value
    )


def test_another_depth_or_width_is_refused(published: Path) -> None:
    for backbone in (ResNet(34, width=0.125), ResNet(18, width=0.25), ResNet(50, width=0.125)):
        with pytest.raises(SanError, match="another backbone"):
            pretrained.load_backbone(backbone, pretrained.read_weights(published))


def test_url_with_checksum(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "_CACHE", tmp_path / "cache")
    digest, url = sha256_file(published), published.as_uri()
    got = pretrained.fetch(url, depth=18, sha256=digest)
    assert got.parent == tmp_path / "cache" and sha256_file(got) == digest
    assert pretrained.fetch(url, depth=18, sha256=digest.upper()) == got
    assert pretrained.fetch(str(published), depth=18, sha256=digest) == published
    # Eight digits of it, which is what torchvision has in its names, are no checksum.
    for short in (digest[:8], digest[:-1], "x" * 64):
        with pytest.raises(UsageError, match="is no SHA-256"):
            pretrained.fetch(url, depth=18, sha256=short)
    other = digest[:8] + "0" * 56
    with pytest.raises(SanError, match="another SHA-256"):
        pretrained.fetch(str(published), depth=18, sha256=other)
    with pytest.raises(SanError, match=f"expected {other[:16]}"):
        pretrained.fetch(url, depth=18, sha256=other)
    assert list((tmp_path / "cache").iterdir()) == [got]
    with pytest.raises(UsageError, match="needs a checksum"):
        pretrained.fetch(url, depth=18)


@pytest.mark.parametrize("scheme", ["http", "HTTP", "ftp"])
def test_only_https_and_files(scheme: str) -> None:
    with pytest.raises(UsageError, match="neither https:// nor file://"):
        pretrained.fetch(f"{scheme}://localhost/a.pth", depth=18, sha256="0" * 64)


def test_missing_file_and_unreachable_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "_CACHE", tmp_path / "cache")
    with pytest.raises(SanError, match="do not exist"):
        pretrained.fetch(str(tmp_path / "none.pth"), depth=18)
    with pytest.raises(SanError, match="cannot fetch"):
        pretrained.fetch((tmp_path / "none.pth").as_uri(), depth=18, sha256="0" * 64)


class Hostile:
    def __reduce__(self):  # type: ignore[no-untyped-def]
        return os.mkdir, ("hostile-was-here",)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Hostile()))
    torch.save({"conv1.weight": Hostile()}, tmp_path / "zip.pth")
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 cut")
    (tmp_path / "cut.safetensors").write_bytes(b"\x00" * 20)
    for name in ("evil.pth", "zip.pth", "cut.pth", "cut.safetensors"):
        with pytest.raises(SanError):
            pretrained.read_weights(tmp_path / name)
    assert not (tmp_path / "hostile-was-here").exists()


def test_published_urls_carry_the_heads_of_their_checksums() -> None:
    for url, sha256 in pretrained.KNOWN.values():
        assert len(sha256) == 64 and url.endswith(f"-{sha256[:8]}.pth")


def test_weights_that_are_not_finite_are_refused(published: Path) -> None:
    state = pretrained.read_weights(published)
    state["layer2.0.conv1.weight"][0, 0] = float("nan")
    with pytest.raises(SanError, match=r"NaN or infinity in layer2\.0\.conv1\.weight"):
        pretrained.load_backbone(ResNet(18, width=0.125), state)
