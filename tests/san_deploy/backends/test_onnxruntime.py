"""ONNX Runtime: what it computes, and which files it refuses."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from san_deploy.artefact import sha256_file, write_sidecar
from san_deploy.backends import onnxruntime as module
from san_deploy.backends import open_backend
from san_deploy.backends.onnxruntime import OnnxRuntime
from san_deploy.errors import SanError
from tests.tiny_models import save_model, tiny_artefact, tiny_model

CROPS = np.random.default_rng(1).integers(0, 256, (70, 32, 16, 3), dtype=np.uint8)


def slow(crops: np.ndarray) -> np.ndarray:
    """The tiny network, in float64."""
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 1 / 255, (32 * 16 * 3, 8)).astype(np.float32)
    bias = rng.normal(0, 1, 8).astype(np.float32)
    rows = crops.reshape(len(crops), -1).astype(np.float64) @ weight + bias
    result: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return result


@pytest.mark.parametrize("kind", ["uint8", "float"])
@pytest.mark.parametrize("count", [1, 2, 3, 16, 33, 70])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_against_numpy(tmp_path: Path, kind: str, count: int, threads: int) -> None:
    backend = OnnxRuntime(tiny_model(tmp_path / "m.onnx", input=kind), threads=threads)
    embedding = backend(CROPS[:count])
    assert embedding.shape == (count, 8) and embedding.dtype == np.float32
    np.testing.assert_allclose(embedding, slow(CROPS[:count]), atol=2e-6)


def test_each_call_gives_a_new_array(model: Path) -> None:
    backend = OnnxRuntime(model)
    first = backend(CROPS[:3])
    kept = first.copy()
    backend(CROPS[3:6])
    assert np.array_equal(first, kept) and first.flags.writeable


def test_calls_from_several_threads_do_not_mix(model: Path) -> None:
    backend = OnnxRuntime(model, threads=2)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: backend(CROPS[i : i + 9]), list(range(60)) * 3))
    for i, embedding in zip(list(range(60)) * 3, found, strict=True):
        np.testing.assert_allclose(embedding, slow(CROPS[i : i + 9]), atol=2e-6)


def test_says_what_it_is(model: Path) -> None:
    backend = OnnxRuntime(model, threads=2)
    assert backend.name == "onnxruntime (CPU, 2 threads)"
    assert backend.artefact == tiny_artefact(sha256=sha256_file(model))
    assert OnnxRuntime(model, threads=1).name == "onnxruntime (CPU, 1 thread)"
    assert open_backend(model, threads=2).name == backend.name


def refusal(path: Path, capfd: pytest.CaptureFixture[str]) -> str:
    capfd.readouterr()
    with pytest.raises(SanError) as caught:
        OnnxRuntime(path)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message and len(message) < 600
    assert capfd.readouterr() == ("", ""), "ONNX Runtime spoke for itself"
    return message


def test_missing_empty_and_folder(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.onnx").touch()
    assert "does not exist" in refusal(tmp_path / "none.onnx", capfd)
    assert "is empty" in refusal(tmp_path / "empty.onnx", capfd)
    assert "Is a directory" in refusal(tmp_path, capfd)


def test_cut_short_anywhere(tmp_path: Path, model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = model.read_bytes()
    path = tmp_path / "cut.onnx"
    for length in (1, 2, 10, 100, len(data) // 2, len(data) - 2000, len(data) - 100, len(data) - 1):
        path.write_bytes(data[:length])
        refusal(path, capfd)


@pytest.mark.parametrize("content", [b"hello, I am no model", b"PK\x03\x04" * 50, b"\0" * 1000])
def test_not_onnx(tmp_path: Path, content: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    assert "cut short, or not an ONNX file" in refusal(path, capfd)


def test_not_ours(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tiny_model(tmp_path / "m.onnx", metadata={"producer": "somebody"})
    assert "was not written by san export" in refusal(path, capfd)


def test_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "_MAX_BYTES", 1000)
    assert "2 GiB" in refusal(tiny_model(tmp_path / "m.onnx"), capfd)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"size_hw": (16, 32)}, "(N, 16, 32, 3), found crops tensor(uint8) (N, 32, 16, 3)"),
        ({"input": "float"}, "(N, 3, 32, 16), found crops tensor(uint8)"),
        ({"embedding_dim": 16}, "(N, 16), found embedding tensor(float) (N, 8)"),
    ],
)
def test_the_graph_is_not_what_the_file_says(
    tmp_path: Path, told: dict[str, object], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert message in refusal(tiny_model(tmp_path / "m.onnx", told=told), capfd)


def test_a_fixed_batch_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "found crops tensor(uint8) (4, 32" in refusal(tiny_model(tmp_path / "m.onnx", batch=4), capfd)


def test_other_names_and_further_inputs_are_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tiny_model(tmp_path / "m.onnx")
    graph = onnx.load(path)
    graph.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["N"]))
    save_model(graph, path)
    assert "more tensor(float) (N)" in refusal(path, capfd)
    graph = onnx.load(tiny_model(path))
    graph.graph.output[0].name = graph.graph.node[-1].output[0] = "features_out"
    save_model(graph, path)
    assert "found features_out" in refusal(path, capfd)


def test_weights_outside_the_file_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tiny_model(tmp_path / "m.onnx")
    graph = onnx.load(path)
    onnx.save(graph, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").is_file()
    monkeypatch.chdir(tmp_path)
    refusal(path, capfd)
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    up = "../" * 9 + str(tmp_path / "weights.bin").lstrip("/")
    for location in ("../weights.bin", up, str(tmp_path / "weights.bin")):
        graph = onnx.load(path, load_external_data=False)
        for tensor in graph.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location
        path.write_bytes(graph.SerializeToString())
        refusal(path, capfd)


def test_sidecar_of_another_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tiny_model(tmp_path / "m.onnx")
    write_sidecar(tiny_artefact(sha256=sha256_file(path)), path)
    OnnxRuntime(path)
    tiny_model(path, seed=1)
    assert "is not the file that m.onnx.json describes" in refusal(path, capfd)


def test_refuses_crops_that_do_not_fit(model: Path) -> None:
    backend = OnnxRuntime(model)
    for crops in (CROPS[:, :16], CROPS[0], CROPS.astype(np.float32), CROPS.transpose(0, 3, 1, 2)):
        with pytest.raises(SanError, match="the model takes crops"):
            backend(crops)
    with pytest.raises(SanError, match="no crops"):
        backend(CROPS[:0])
    with pytest.raises(SanError, match="1 thread or more"):
        OnnxRuntime(model, threads=0)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 0.0, 1.01, -0.5])
def test_an_output_that_is_no_unit_row_is_an_error(tmp_path: Path, scale: float) -> None:
    backend = OnnxRuntime(tiny_model(tmp_path / "m.onnx", scale=scale))
    with pytest.raises(SanError, match="7 of 7 rows: 0, 1, 2, 3, 4 and more"):
        backend(CROPS[:7])


def test_one_bad_row_is_named(model: Path) -> None:
    """A crop whose features all vanish has no direction: 0 / 0."""
    graph = onnx.load(model)
    for tensor in graph.graph.initializer:
        if tensor.name == "bias":
            tensor.raw_data = bytes(len(tensor.raw_data))
    save_model(graph, model)
    crops = CROPS[:7].copy()
    crops[5] = 0
    with pytest.raises(SanError, match="1 of 7 rows: 5"):
        OnnxRuntime(model, threads=2)(crops)


def test_a_failure_inside_the_runtime_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tiny_model(tmp_path / "m.onnx")
    graph = onnx.load(path)
    # The brightest pixel is taken for an index of the bias, which has 8 entries.
    place = next(i for i, node in enumerate(graph.graph.node) if node.output[0] == "features")
    graph.graph.node[place].output[0] = "sum"
    for offset, node in enumerate(
        [
            helper.make_node("ReduceMax", ["pixels", "last"], ["brightest"], keepdims=1),
            helper.make_node("Cast", ["brightest"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["bias", "index"], ["chosen"]),
            helper.make_node("Add", ["sum", "chosen"], ["features"]),
        ]
    ):
        graph.graph.node.insert(place + 1 + offset, node)
    save_model(graph, path)
    backend = OnnxRuntime(path)
    capfd.readouterr()
    with pytest.raises(SanError, match=r"m\.onnx failed in ONNX Runtime") as caught:
        backend(CROPS[:1])
    assert "\n" not in str(caught.value) and capfd.readouterr() == ("", "")


def test_metadata_survives(tmp_path: Path) -> None:
    """What the runtime reads is what `metadata_props` wrote, not only what our own reader makes of it."""
    told = {"checks": {"min_cosine": {"1": 0.9999}}, "versions": {"onnx": "1"}}
    backend = OnnxRuntime(tiny_model(tmp_path / "m.onnx", told=told))
    assert json.loads(json.dumps(backend.artefact.checks)) == told["checks"]
    assert backend.artefact.versions == told["versions"]


@pytest.mark.parametrize("what", ["ir_version", "opset"])
def test_a_file_of_a_newer_onnx_asks_for_a_newer_runtime(tmp_path: Path, model: Path, what: str) -> None:
    made = onnx.load(model)
    if what == "opset":
        made.opset_import[0].version = 99
    else:
        made.ir_version = 99
    (tmp_path / "new.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(
        SanError, match=r"of a newer ONNX than this ONNX Runtime .* 99.*Upgrade it: pip install"
    ):
        OnnxRuntime(tmp_path / "new.onnx")


def test_a_damaged_file_prints_nothing(
    tmp_path: Path, model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """ONNX Runtime's own fallback prints on stdout, where --json is."""
    data = model.read_bytes()
    for length in range(1, len(data), len(data) // 40):
        (tmp_path / "cut.onnx").write_bytes(data[:length])
        with pytest.raises(SanError):
            OnnxRuntime(tmp_path / "cut.onnx")
    assert capfd.readouterr() == ("", "")
