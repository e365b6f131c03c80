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


def test_another_depth_or_width_is_refused(published: Path) -> None:
    for backbone in (ResNet(34, width=0.125), ResNet(18, width=0.25), ResNet(50, width=0.125)):
        with pytest.raises(SanError, match="another backbone"):
            pretrained.load_backbone(backbone, pretrained.read_weights(published))


def test_url_with_checksum(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "_CACHE", tmp_path / "cache")
    digest = sha256_file(published)
    named = published.rename(published.with_name(f"resnet18-{digest[:8]}.pth"))
    got = pretrained.fetch(named.as_uri(), depth=18)
    assert got.parent == tmp_path / "cache" and sha256_file(got) == digest
    assert pretrained.fetch(named.as_uri(), depth=18, sha256=digest) == got
    with pytest.raises(SanError, match="another SHA-256"):
        pretrained.fetch(str(named), depth=18, sha256="0" * 64)
    other = named.rename(named.with_name("resnet18-00000000.pth"))
    with pytest.raises(SanError, match="expected 00000000"):
        pretrained.fetch(other.as_uri(), depth=18)
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [got.name]
    plain = other.rename(other.with_name("resnet18.pth"))
    with pytest.raises(UsageError, match="checksum"):
        pretrained.fetch(plain.as_uri(), depth=18)


def test_missing_file_and_unreachable_url(tmp_path: Path) -> None:
    with pytest.raises(SanError, match="do not exist"):
        pretrained.fetch(str(tmp_path / "none.pth"), depth=18)
    with pytest.raises(SanError, match="cannot fetch"):
        pretrained.fetch((tmp_path / "none-01234567.pth").as_uri(), depth=18)


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


def test_published_urls_carry_their_checksums() -> None:
    for url in pretrained.KNOWN.values():
        assert len(pretrained._checksum_in(url.rsplit("/", 1)[-1])) == 8


def test_weights_that_are_not_finite_are_refused(published: Path) -> None:
    state = pretrained.read_weights(published)
    state["layer2.0.conv1.weight"][0, 0] = float("nan")
    with pytest.raises(SanError, match=r"NaN or infinity in layer2\.0\.conv1\.weight"):
        pretrained.load_backbone(ResNet(18, width=0.125), state)
