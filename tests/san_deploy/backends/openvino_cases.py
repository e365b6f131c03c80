"""OpenVINO, where it is installed, beside ONNX Runtime."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from san_deploy.backends import STARTER, open_backend
from san_deploy.data.samples import read_samples
from san_deploy.errors import SanError
from san_deploy.preprocess import resize_crop
from tests.san_deploy.backends.test_onnxruntime import CROPS, slow
from tests.tiny_models import tiny_model


@pytest.fixture
def openvino() -> None:
    pytest.importorskip("openvino")


@pytest.mark.usefixtures("openvino")
@pytest.mark.parametrize("threads", [None, 1, 3])
@pytest.mark.parametrize("form", ["uint8", "float"])
def test_embeddings_are_those_of_the_definition(tmp_path: Path, threads: int | None, form: str) -> None:
    backend = open_backend(tiny_model(tmp_path / "m.onnx", input=form), backend="openvino", threads=threads)
    assert backend.name.startswith("openvino 20") and backend.note == ""
    for count in (1, 2, 17, len(CROPS)):
        rows = backend(CROPS[:count])
        np.testing.assert_allclose(rows, slow(CROPS[:count]), atol=2e-6)
        assert rows.dtype == np.float32 and rows.flags.owndata


@pytest.mark.usefixtures("openvino")
def test_calls_from_several_threads(model: Path) -> None:
    backend = open_backend(model, backend="openvino", device="cpu", threads=2)
    expected = backend(CROPS)
    with ThreadPoolExecutor(4) as pool:
        for rows in pool.map(backend, [CROPS] * 12):
            np.testing.assert_array_equal(rows, expected)


@pytest.mark.usefixtures("openvino")
def test_the_starter_agrees_with_onnx_runtime() -> None:
    """In FP32, also on a processor that has BF16, which OpenVINO would take by itself."""
    size_hw = open_backend(device="cpu").artefact.size_hw
    crops = np.stack([resize_crop(sample.read(), size_hw) for sample in read_samples(24)])
    cosine = (open_backend(backend="openvino")(crops) * open_backend(device="cpu")(crops)).sum(axis=1)
    # A mask bit may fall the other way in a crop, as between any two processors; BF16 is further off in every crop.
    assert np.median(cosine) > 0.99999 and cosine.min() > 0.95


@pytest.mark.usefixtures("openvino")
def test_bad_files_and_crops(tmp_path: Path, model: Path) -> None:
    (tmp_path / "cut.onnx").write_bytes(model.read_bytes()[:300])
    with pytest.raises(SanError, match="cut short, or not an ONNX file"):
        open_backend(tmp_path / "cut.onnx", backend="openvino")
    broken = open_backend(tiny_model(tmp_path / "nan.onnx", scale=float("nan")), backend="openvino")
    with pytest.raises(SanError, match="not finite"):
        broken(CROPS[:2])
    backend = open_backend(model, backend="openvino")
    for crops in (CROPS[:0], CROPS[:, :8]):
        with pytest.raises(SanError):
            backend(crops)


def test_without_openvino_it_is_said_how_to_get_it(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(SanError, match=r"OpenVINO is not installed.*pip install '.*\[openvino\]'"):
        open_backend(model, backend="openvino")


def test_it_is_never_taken_by_itself() -> None:
    assert open_backend(STARTER, device="cpu").name.startswith("onnxruntime")
