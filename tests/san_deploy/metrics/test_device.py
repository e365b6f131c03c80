"""Which device ranks."""

from __future__ import annotations

import pytest

from san_deploy.errors import UsageError
from san_deploy.metrics import device, rank_device


@pytest.mark.parametrize(
    ("gpus", "torch", "cupy", "expected"),
    [
        (1, True, False, "cuda"),
        (1, False, True, "cuda"),
        (1, False, False, "cpu"),
        (0, True, True, "cpu"),
    ],
)
def test_auto(monkeypatch: pytest.MonkeyPatch, gpus: int, torch: bool, cupy: bool, expected: str) -> None:
    monkeypatch.setattr(device.cuda, "devices", lambda: [object()] * gpus)
    monkeypatch.setattr(device, "torch_has_cuda", lambda: torch)
    monkeypatch.setattr(device, "has_cupy", lambda: cupy)
    assert rank_device("auto") == expected


def test_without_a_gpu_pytorch_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked() -> bool:
        raise AssertionError("PyTorch was imported")

    monkeypatch.setattr(device.cuda, "devices", list)
    monkeypatch.setattr(device, "torch_has_cuda", asked)
    assert rank_device("auto") == "cpu"


@pytest.mark.parametrize("asked", ["cpu", "cuda", "cuda:1"])
def test_what_is_named_is_taken(asked: str) -> None:
    assert rank_device(asked) == asked


@pytest.mark.parametrize(
    ("asked", "told"), [("foo", "Give one of"), ("gpu", "did you mean cuda"), ("cup", "did you mean cpu")]
)
def test_unknown_names(asked: str, told: str) -> None:
    with pytest.raises(UsageError, match=f"(?i)--rank-device {asked} is unknown.*{told}"):
        rank_device(asked)
