"""`san info --run --endpoint` and the endpoint behind it, against a server of the standard library."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from san_deploy import load_artefact
from san_deploy.backends.endpoint import Endpoint, _model_url
from san_deploy.backends.onnxruntime import OnnxRuntime
from san_deploy.errors import SanError, UsageError
from san_deploy.images import read_image_bytes
from san_deploy.preprocess import resize_crop
from san_deploy.self_check import check_endpoint, keep_samples
from tests.fakes.kserve import Fake, serving
from tests.tiny_models import tiny_artefact, tiny_model

San = Callable[..., Any]
RESIZE = tiny_artefact().resize


def exported(path: Path, **changes: Any) -> Path:
    """The tiny network as `san export` leaves it: with rows to compare with, and what they must reach."""
    plain = tiny_model(path, **changes)
    samples = keep_samples(tiny_artefact(), OnnxRuntime(plain), source="onnx fp32")
    told = {"samples": samples, "checks": {"gate": {"min_cosine": 0.999}}}
    return tiny_model(path, **changes, told=told)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return exported(tmp_path / "tiny.onnx")


def labels(**values: str) -> dict[str, Any]:
    return {
        "max_batch_size": 5,
        "parameters": {key: {"string_value": value} for key, value in values.items()},
    }


@pytest.mark.parametrize("binary", [True, False])
def test_a_server_that_gives_the_rows(san: San, file: Path, binary: bool) -> None:
    fake = Fake(OnnxRuntime(file), binary=binary, config=labels(san_sha256=load_artefact(file).sha256))
    with serving(fake) as address:
        said = san("info", file, "--run", "--endpoint", f"{address}/reid")
        assert "serves this very file" in said.err and "within the gate of the file" in said.out
        # As many at a time as the server allows.
        assert fake.batches == [5, 5, 2]
        told = json.loads(san("info", file, "--run", "--endpoint", f"{address}/v2/models/reid", "--json").out)
    assert told["min_cosine"] == pytest.approx(1) and told["crops"] == 12 and told["failures"] == []
    assert told["serves"] == "serves this very file" and told["endpoint"].endswith("/v2/models/reid")


def test_a_float_model(tmp_path: Path) -> None:
    file = exported(tmp_path / "float.onnx", input="float")
    session = OnnxRuntime(file)

    def embed(planes: np.ndarray) -> np.ndarray:
        """RGB planes of 0..255, as its file takes them."""
        return session(planes[:, ::-1].transpose(0, 2, 3, 1).astype(np.uint8))

    with serving(Fake(embed, datatype="FP32", shape=(-1, 3, 32, 16))) as address:
        found = check_endpoint(Endpoint(f"{address}/reid", load_artefact(file)))
    assert found.failures == () and found.min_cosine > 0.999999


def test_a_model_that_takes_files(san: San, file: Path) -> None:
    session = OnnxRuntime(file)

    def embed(files: list[bytes]) -> np.ndarray:
        crops = [resize_crop(read_image_bytes(data, "crop"), (32, 16), RESIZE) for data in files]
        return session(np.stack(crops))

    with serving(Fake(embed, datatype="BYTES", shape=(-1, 1))) as address:
        said = san("info", file, "--run", "--endpoint", f"{address}/reid")
        assert "serves a file that it does not name" in said.err and "within the gate of the file" in said.out


def test_another_network_behind_the_address(san: San, tmp_path: Path, file: Path) -> None:
    other = tiny_model(tmp_path / "other.onnx", seed=3)
    config = labels(san_sha256="b" * 64, san_space="c" * 64)
    with serving(Fake(OnnxRuntime(other), config=config)) as address:
        said = san("info", file, "--run", "--endpoint", f"{address}/reid", code=3)
    assert "serves another network, SHA-256 bbbbbbbbbbbb" in said.err and "least cosine is" in said.err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (-1, 64, 32, 3)}, r"takes UINT8 \[-1, 64, 32, 3\], the model file UINT8 \[N, 32, 16, 3\]"),
        ({"datatype": "FP32"}, r"takes FP32 .*the model file UINT8"),
        ({"outputs": ("boxes", "scores")}, "gives boxes, scores, none of them 'embedding'"),
        ({"outputs": ()}, "no embedding network"),
        ({"embed": lambda crops: np.zeros((len(crops), 4))}, r"gave rows of \[12, 4\], not \[12, 8\]"),
        ({"embed": lambda crops: np.full((len(crops), 8), np.nan)}, "gave NaN or infinity"),
        ({"answer": b"<html>"}, "gave no rows"),
        ({"answer": b'{"outputs": []}'}, "gave no rows"),
    ],
)
def test_what_is_no_such_model(san: San, file: Path, changes: dict[str, Any], message: str) -> None:
    fake = Fake(**{"embed": OnnxRuntime(file), **changes})
    with serving(fake) as address, pytest.raises(SanError, match=message):
        check_endpoint(Endpoint(f"{address}/reid", load_artefact(file)))


def test_a_server_that_fails(san: San, file: Path) -> None:
    def broken(crops: np.ndarray) -> np.ndarray:
        raise ValueError("out of memory")

    with serving(Fake(broken)) as address:
        said = san("info", file, "--run", "--endpoint", f"{address}/reid", code=1)
        assert "refused. Out of memory. Look at the server's log" in said.err
        said = san("info", file, "--run", "--endpoint", f"{address}/other", code=1)
        assert "refused. Request for unknown model" in said.err
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = san("info", file, "--run", "--endpoint", f"http://127.0.0.1:{port}/reid", code=1)
    assert "was not reached" in said.err and "start the server" in said.err.lower()


def test_a_server_that_hangs(file: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(SanError, match=r"was not reached.*Timed out"),
    ):
        Endpoint(f"http://127.0.0.1:{silent.getsockname()[1]}/reid", load_artefact(file), timeout=0.2)


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("http://host:8000/reid", "http://host:8000/v2/models/reid"),
        ("https://host/v2/models/reid/", "https://host/v2/models/reid"),
        ("http://host/reid/versions/2", "http://host/v2/models/reid/versions/2"),
        ("http://host/behind/v2/models/reid/versions/2", "http://host/behind/v2/models/reid/versions/2"),
    ],
)
def test_addresses(url: str, wanted: str) -> None:
    assert _model_url(url) == wanted


@pytest.mark.parametrize(
    "url", ["host:8000/reid", "http://host:8000", "http://host:8000/", "file:///etc/passwd"]
)
def test_no_addresses(url: str) -> None:
    with pytest.raises(UsageError, match=r"names no served model\. Give http://HOST:8000/NAME"):
        _model_url(url)


def test_usage(san: San, file: Path) -> None:
    url = "http://127.0.0.1:9/reid"
    assert "--endpoint is of --run" in san("info", file, "--endpoint", url, code=2).err
    assert "are of a file" in san("info", "--run", "--endpoint", url, code=2).err
    said = san("info", file, "--run", "--endpoint", url, "--backend", "onnxruntime", code=2)
    assert "--endpoint runs nothing here" in said.err
