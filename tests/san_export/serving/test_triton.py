"""Triton's repository: against Triton's own schema, and, slowly, against a real server."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from san_export.serving.triton import KINDS, TritonOptions, config, write_repository

from san_deploy import Embedder, load_artefact
from san_deploy.artefact import Engine
from san_deploy.backends import STARTER
from san_deploy.backends.endpoint import Endpoint
from san_deploy.data.samples import read_samples
from san_deploy.errors import SanError, UsageError
from san_deploy.self_check import check_endpoint
from tests.tiny_models import tiny_artefact, tiny_model

ROOT = Path(__file__).parents[3]
ENGINE = Engine(
    "tensorrt",
    "10.3.0",
    "12.6",
    "Fake GPU",
    ("sm87",),
    (1, 8, 24),
    "0" * 64,
    False,
    "none",
    False,
    "linux-aarch64",
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["uint8", "float"])
@pytest.mark.parametrize("engine", [None, ENGINE])
def test_the_config_is_tritons_form(kind: str, form: str, engine: Engine | None) -> None:
    model_config_pb2 = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    from google.protobuf import text_format

    artefact = dataclasses.replace(tiny_artefact(input=form), engine=engine, sha256="ab" * 32)
    parsed = text_format.Parse(
        config(artefact, TritonOptions("person", kind)), model_config_pb2.ModelConfig()
    )
    assert parsed.name == "person" and parsed.max_batch_size == (24 if engine else 64)
    (given,), (output,) = parsed.input, parsed.output
    assert output.name == "embedding" and list(output.dims) == [artefact.embedding_dim]
    assert parsed.parameters["san_sha256"].string_value == "ab" * 32
    assert parsed.dynamic_batching.max_queue_delay_microseconds == 500
    height, width = artefact.size_hw
    if kind == "jpeg":
        assert (parsed.backend, given.name, given.data_type, list(given.dims)) == (
            "python", "image", model_config_pb2.TYPE_STRING, [1],
        )  # fmt: skip
        return
    assert (parsed.platform, parsed.backend) == (("tensorrt_plan", "") if engine else ("", "onnxruntime"))
    wanted = [height, width, 3] if form == "uint8" else [3, height, width]
    assert given.name == "crops" and list(given.dims) == wanted
    assert given.data_type == (model_config_pb2.TYPE_UINT8 if form == "uint8" else model_config_pb2.TYPE_FP32)
    (warm,) = parsed.model_warmup
    assert list(warm.inputs["crops"].dims) == wanted and warm.batch_size == (8 if engine else 16)


def test_a_repository_keeps_its_other_models(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "tiny.onnx")
    artefact = load_artefact(model)
    other = tmp_path / "repository" / "other" / "config.pbtxt"
    other.parent.mkdir(parents=True)
    other.write_text("mine")
    folder = write_repository(model, artefact, tmp_path / "repository", TritonOptions())
    assert (folder / "1" / "model.onnx").read_bytes() == model.read_bytes() and other.read_text() == "mine"
    with pytest.raises(SanError, match="exists"):
        write_repository(model, artefact, tmp_path / "repository", TritonOptions())
    write_repository(model, artefact, tmp_path / "repository", TritonOptions(kind="jpeg"), force=True)
    assert sorted(path.name for path in (folder / "1").iterdir()) == [
        "model.onnx",
        "model.onnx.json",
        "model.py",
    ]
    (other.parent / "notes.txt").write_text("mine too")
    with pytest.raises(SanError, match="holds files that are not ours"):
        write_repository(model, artefact, tmp_path / "repository", TritonOptions("other"), force=True)
    with pytest.raises(UsageError, match="is no name of a model"):
        TritonOptions("../up")
    with pytest.raises(UsageError, match="is unknown"):
        TritonOptions(kind="png")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Interpreter and address of a real tritonserver, of the wheel nvidia-pytriton, that serves the starter.

    The wheel wants NumPy below 2, so it has an environment of its own: SAN_TRITON_PYTHON names its interpreter, as
    `make triton-env` builds it.
    """
    python = os.environ.get("SAN_TRITON_PYTHON") or str(ROOT / ".venv-triton" / "bin" / "python")
    if not Path(python).is_file():
        pytest.skip("no environment with nvidia-pytriton: make triton-env, or set SAN_TRITON_PYTHON")
    folder = tmp_path_factory.mktemp("triton")
    write_repository(STARTER, load_artefact(STARTER), folder / "repository", TritonOptions("people", "jpeg"))
    home = Path(
        subprocess.run(
            [python, "-c", "import pytriton, os; print(os.path.dirname(pytriton.__file__))"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()
    ) / "tritonserver"  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = home / "python_backend_stubs" / version / "triton_python_backend_stub"
    backends = home / "backends"
    site = Path(python).parents[1] / "lib" / f"python{version}" / "site-packages"
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": f"{home / 'external_libs'}:{os.environ.get('LD_LIBRARY_PATH', '')}",
        "PYTHONPATH": f"{site}:{ROOT}",
        "PATH": f"{Path(python).parent}:{os.environ['PATH']}",
    }
    target = backends / "python" / "triton_python_backend_stub"
    if stub.is_file() and not target.exists():
        target.symlink_to(stub)
    log = (folder / "log").open("w")
    running = subprocess.Popen(
        [
            home / "bin" / "tritonserver", "--model-repository", folder / "repository", "--backend-directory", backends,
            "--http-address", "127.0.0.1", "--http-port", str(port), "--allow-grpc", "false",
            "--allow-metrics", "false", "--exit-timeout-secs", "5",
        ],
        env=environment, stdout=log, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        for _ in range(240):
            if running.poll() is not None:
                break
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/models/people/ready", timeout=1)
                break
            except OSError:
                time.sleep(0.5)
        else:
            raise AssertionError((folder / "log").read_text()[-3000:])
        assert running.poll() is None, (folder / "log").read_text()[-3000:]
        yield python, f"127.0.0.1:{port}"
    finally:
        running.terminate()
        running.wait(30)
        log.close()


#: Runs in the server's own environment, which has Triton's client: address, image files, and where rows go.
CLIENT = """
import json, sys
import numpy as np
import tritonclient.http as http
address, out, *files = sys.argv[1:]
client = http.InferenceServerClient(address)
def infer(items):
    given = http.InferInput("image", [len(items), 1], "BYTES")
    given.set_data_from_numpy(np.array(items, dtype=object)[:, None])
    return client.infer("people", [given]).as_numpy("embedding")
rows = infer([open(file, "rb").read() for file in files])
try:
    infer([b"no image"])
    broken = ""
except Exception as error:
    broken = str(error)
np.savez(out, rows=rows, broken=broken, config=json.dumps(client.get_model_config("people")))
"""


@pytest.mark.slow
def test_a_real_server_gives_the_rows_of_san_embed(server: tuple[str, str], tmp_path: Path) -> None:
    python, address = server
    files = []
    for index, sample in enumerate(read_samples(5)):
        files.append(tmp_path / f"{index}.jpg")
        files[-1].write_bytes(sample.jpeg)
    command = [python, "-c", CLIENT, address, tmp_path / "out.npz", *files]
    subprocess.run(command, check=True, timeout=120, env={**os.environ, "PYTHONPATH": ""})
    wanted = Embedder().embed_paths(files)
    with np.load(tmp_path / "out.npz") as told:
        assert told["rows"].shape == wanted.shape and np.abs(told["rows"] - wanted).max() < 1e-5
        assert "image 0 cannot be read" in str(told["broken"])
        parameters = json.loads(str(told["config"]))["parameters"]
    assert parameters["san_sha256"]["string_value"] == load_artefact(STARTER).sha256


@pytest.mark.slow
def test_san_info_asks_a_real_server(
    server: tuple[str, str], san: Callable[..., Any], tmp_path: Path
) -> None:
    _, address = server
    said = san("info", STARTER, "--run", "--endpoint", f"http://{address}/people")
    assert "serves this very file" in said.err and "within the gate of the file" in said.out
    said = san("info", STARTER, "--run", "--endpoint", f"http://{address}/nobody", code=1)
    assert "refused" in said.err and "nobody" in said.err
    # The rows that this server should not give.
    artefact = load_artefact(STARTER)
    assert artefact.samples is not None
    rows = base64.b64encode(artefact.samples.array()[::-1].tobytes()).decode()
    other = dataclasses.replace(
        artefact, sha256="0" * 64, space="1" * 64, samples=dataclasses.replace(artefact.samples, rows=rows)
    )
    endpoint = Endpoint(f"http://{address}/v2/models/people/versions/1", other)
    assert endpoint.serves().startswith("serves another network") and check_endpoint(endpoint).failures
