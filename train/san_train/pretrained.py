"""ImageNet weights for the backbone: a file or a URL, checked by SHA-256, never a pickle that runs code."""

from __future__ import annotations

import hashlib
import http.client
import re
import urllib.request
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from san_deploy.artefact import sha256_file
from san_deploy.errors import SanError, UsageError
from san_deploy.io.atomic import atomic_file

from .models.foreign_weights import PARALLEL, read_state

#: torchvision's published files and their SHA-256, whose first eight digits torchvision has in the names.
KNOWN = {
    18: (
        "https://download.pytorch.org/models/resnet18-f37072fd.pth",
        "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
    ),
    34: (
        "https://download.pytorch.org/models/resnet34-b627a593.pth",
        "b627a593bcbe140c234610266fe4f8ae95ea42fc881d091c9b6052e6b1d0590f",
    ),
    50: (
        "https://download.pytorch.org/models/resnet50-0676ba61.pth",
        "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
    ),
}
_CACHE = Path.home() / ".cache" / "san-deploy"
_LIMIT_BYTES = 1 << 30


def fetch(source: str, *, depth: int, sha256: str = "") -> Path:
    """The local path of pretrained weights.

    Args:
        source: a file, an https:// or file:// URL, or `imagenet` for torchvision's file of that depth.
        depth: of the ResNet, for `imagenet`.
        sha256: of the file, whole, 64 digits; a URL needs it.

    Raises:
        SanError: missing, not reachable, or of another checksum.
        UsageError: a URL without a checksum or of another scheme, or a checksum that is none.
    """
    url, known = KNOWN[depth] if source == "imagenet" else (source, "")
    expected = sha256.lower() or known
    if expected and not re.fullmatch(r"[0-9a-f]{64}", expected):
        raise UsageError(
            f"'{sha256}' is no SHA-256",
            why="part of one can be forged",
            do="give all 64 digits: sha256sum FILE",
        )
    scheme = re.match(r"([a-z][a-z0-9+.-]+)://", url, re.IGNORECASE)
    if scheme and scheme[1].lower() not in ("https", "file"):
        raise UsageError(f"{url} is neither https:// nor file://", do="fetch it elsewhere and give the file")
    if not scheme:
        path = Path(url)
        if not path.is_file():
            raise SanError(f"pretrained weights {path} do not exist", do="give a file, a URL, or imagenet")
        _check(path, expected)
        return path
    if not expected:
        raise UsageError(f"{url} needs a checksum", do="give its SHA-256: --pretrained-sha256 DIGITS")
    # By its checksum: another file of the same name is another file.
    target = _CACHE / f"{expected[:16]}-{url.rsplit('/', 1)[-1]}"
    if not target.is_file():
        _download(url, target, expected)
    _check(target, expected)
    return target


def _download(url: str, target: Path, expected: str) -> None:
    digest, size = hashlib.sha256(), 0
    try:
        with atomic_file(target) as temporary:
            with urllib.request.urlopen(url, timeout=60) as answer, temporary.open("wb") as file:
                while block := answer.read(1 << 20):
                    size += len(block)
                    if size > _LIMIT_BYTES:
                        raise SanError(f"{url} is larger than {_LIMIT_BYTES >> 20} MiB")
                    digest.update(block)
                    file.write(block)
            if digest.hexdigest() != expected:
                raise SanError(f"{url} has SHA-256 {digest.hexdigest()[:16]}, expected {expected[:16]}")
    except (OSError, http.client.HTTPException) as error:
        raise SanError(
            f"cannot fetch {url}", why=str(error), do="fetch it elsewhere and give the file"
        ) from error


def _check(path: Path, expected: str) -> None:
    if expected and sha256_file(path) != expected:
        raise SanError(f"{path} has another SHA-256 than {expected[:16]}", do="remove it and fetch it again")


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from .safetensors, or from a .pth that holds tensors alone (`weights_only`)."""
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except (SafetensorError, OSError, ValueError) as error:
            raise SanError(f"{path} cannot be read as weights", why=str(error).splitlines()[0]) from error
    return read_state(path)


def load_backbone(backbone: nn.Module, state: dict[str, Tensor]) -> None:
    """Load torchvision's names, DataParallel's `module.` before them or not, into a backbone.

    Its classifier `fc` is left out, all else must fit.

    Raises:
        SanError: a weight is missing, is not finite, or has another shape (another depth or width).
    """
    plain = {name.removeprefix(PARALLEL): value for name, value in state.items()}
    state = {name: value for name, value in plain.items() if not name.startswith("fc.")}
    expected = backbone.state_dict()
    wrong = [name for name in expected if name not in state and not name.endswith("num_batches_tracked")]
    wrong += [name for name in state if name not in expected]
    wrong += [name for name in set(expected) & set(state) if expected[name].shape != state[name].shape]
    if wrong:
        raise SanError(
            "the pretrained weights are of another backbone",
            why=f"{len(wrong)} tensors differ, the first is {sorted(wrong)[0]}",
            do="use weights of the same depth, at width 1",
        )
    broken = sorted(
        name for name, value in state.items() if value.is_floating_point() and not torch.isfinite(value).all()
    )
    if broken:
        raise SanError(f"the pretrained weights hold NaN or infinity in {broken[0]}", do="fetch them again")
    backbone.load_state_dict(state, strict=False)
