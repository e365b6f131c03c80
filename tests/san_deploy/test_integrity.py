"""Files that carry a hash of what they are: no flipped byte is missed, and none is refused that was not flipped."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from san_deploy.artefact import (
    Samples,
    Threshold,
    from_metadata,
    read_sidecar,
    sidecar_path,
    space_of,
    write_sidecar,
)
from san_deploy.backends.onnxruntime import OnnxRuntime
from san_deploy.checkpoint_info import check_hashes, read_header, read_info, read_state, stamp
from san_deploy.errors import SanError
from san_deploy.integrity import (
    CONTENT,
    content_sha256,
    of_onnx,
    read_metadata,
    stamp_onnx,
    unbounded,
    with_metadata,
)
from tests.conftest import Result
from tests.tiny_models import save_model, tiny_artefact, tiny_model


def test_metadata_is_what_the_onnx_package_reads(model: Path) -> None:
    data = model.read_bytes()
    expected = {item.key: item.value for item in onnx.load(model).metadata_props}
    assert read_metadata(data) == expected and CONTENT in expected
    changed = onnx.load_from_string(
        with_metadata(data, {"san.arch": None, "by": "münchen", "long": "x" * 1000})
    )
    del expected["san.arch"]
    assert {item.key: item.value for item in changed.metadata_props} == expected | {
        "by": "münchen",
        "long": "x" * 1000,
    }
    del changed.metadata_props[:]
    plain = onnx.load(model)
    del plain.metadata_props[:]
    assert changed == plain


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(max_size=8), st.text(max_size=300), max_size=5), st.binary(max_size=400))
def test_metadata_of_any_message(entries: dict[str, str], graph: bytes) -> None:
    message = onnx.ModelProto(ir_version=2**40, producer_name="x" * 200, doc_string="d")
    message.opset_import.add(domain="", version=18)
    message.graph.doc_string = graph.hex()
    onnx.helper.set_model_props(message, entries)
    data = message.SerializeToString()
    assert read_metadata(data) == entries
    stamped = stamp_onnx(data)
    assert json.loads(read_metadata(stamped)[CONTENT]) == content_sha256(data, CONTENT)
    assert stamp_onnx(stamped) == stamped
    assert with_metadata(stamped, {CONTENT: None}) == data


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        read_metadata(data)
        assert isinstance(content_sha256(data, CONTENT), str)
    except ValueError:
        pass


def test_the_hash_survives_the_onnx_package_and_not_a_change(model: Path) -> None:
    loaded = onnx.load(model)
    onnx.save(loaded, model)
    assert of_onnx(model.read_bytes(), model).state == "whole"
    loaded.metadata_props[0].value = '"other"'
    onnx.save(loaded, model)
    assert of_onnx(model.read_bytes(), model).state == "damaged"


def test_no_flipped_byte_is_missed(model: Path) -> None:
    whole = model.read_bytes()
    assert of_onnx(whole, model).state == "whole"
    rng = np.random.default_rng(0)
    # Every byte of what is not weights, and some of those.
    places = {*range(200), *range(len(whole) - 1500, len(whole)), *rng.integers(0, len(whole), 200).tolist()}
    for place in sorted(places):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(8))
        assert of_onnx(bytes(flipped), model).state == "damaged", place


def test_damaged_files_are_refused_and_described(
    model: Path, san: Callable[..., object], crops: Path
) -> None:
    data = bytearray(model.read_bytes())
    # A weight: the file opens, and gives other rows.
    data[len(data) // 2] ^= 4
    model.write_bytes(data)
    for arguments in (["embed", crops, "-o", model.with_suffix(".npz"), "-m", model],):
        assert "tiny.onnx is damaged, or was changed" in san(*arguments, code=1).err  # type: ignore[attr-defined]
    out = san("info", model).out  # type: ignore[attr-defined]
    assert "integrity  the file is damaged: content SHA-256" in out
    assert json.loads(san("info", model, "--json").out)["integrity"]["state"] == "damaged"  # type: ignore[attr-defined]
    with pytest.raises(SanError, match="damaged"):
        OnnxRuntime(model)
    opened = OnnxRuntime(model, accept_damaged=True)
    assert opened.integrity.state == "damaged" and "the file is damaged" in opened.note


def test_files_from_before_load_with_one_line(tmp_path: Path) -> None:
    path = tmp_path / "old.onnx"
    old = dataclasses.replace(tiny_artefact(), space="")
    graph = onnx.load(tiny_model(path))
    onnx.helper.set_model_props(graph, old.metadata_props())
    onnx.save(graph, path)
    assert of_onnx(path.read_bytes(), path).state == "unknown"
    assert "nothing vouches for the bytes of this file" in OnnxRuntime(path).note
    # Its sidecar does.
    write_sidecar(dataclasses.replace(old, sha256=hashlib.sha256(path.read_bytes()).hexdigest()), path)
    assert of_onnx(path.read_bytes(), path).state == "whole"
    assert OnnxRuntime(path).note == ""


def test_a_sidecar_that_was_changed(model: Path) -> None:
    write_sidecar(tiny_artefact(sha256="1" * 64), model)
    beside = sidecar_path(model)
    text = beside.read_text()
    assert read_sidecar(model) == tiny_artefact(sha256="1" * 64)
    for old, new in (
        ('"embedding_dim": 8', '"embedding_dim": 9'),
        ('"description_sha256"', '"description_sha257"'),
    ):
        beside.write_text(text.replace(old, new))
        with pytest.raises(SanError, match="is damaged, or was changed after it was written"):
            read_sidecar(model)


def test_space(tmp_path: Path) -> None:
    artefact = tiny_artefact(threshold=Threshold(0.5, 0.01, 0.9, 10, 10, "x"), weights_sha256="1" * 64)
    space = space_of(artefact)
    for kept in (
        {"precision": "fp16"},
        {"threshold": None},
        {"checks": {"a": 1}},
        {"checkpoint_sha256": "3" * 64},
        {"input": "float"},
        {"sha256": "2"},
    ):
        assert space_of(dataclasses.replace(artefact, **kept)) == space  # type: ignore[arg-type]
    for other in ({"mask": "argmax"}, {"size_hw": (64, 32)}, {"resize": "x"}, {"mean_rgb": (0.0, 0.0, 0.1)}):
        assert space_of(dataclasses.replace(artefact, **other)) != space  # type: ignore[arg-type]
    assert space_of(dataclasses.replace(artefact, weights_sha256="2" * 64)) != space


def test_files_from_before_get_a_space() -> None:
    old = dataclasses.replace(tiny_artefact(), space="")
    assert "san.space" not in old.metadata_props()
    read = [
        from_metadata(dataclasses.replace(old, **changes).metadata_props(), path=Path("a"), sha256="")  # type: ignore[arg-type]
        for changes in ({}, {"precision": "fp16"}, {"checkpoint_sha256": "1" * 64})
    ]
    assert read[0].space == read[1].space != read[2].space and len(read[0].space) == 64


def test_samples_are_kept_to_the_bit() -> None:
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (3, 32, 16, 3), dtype=np.uint8)
    rows = rng.normal(size=(3, 8)).astype(np.float32)
    artefact = tiny_artefact(samples=Samples.of(crops, rows, files_sha256="f" * 64, source="torch fp32"))
    read = from_metadata(artefact.metadata_props(), path=Path("a"), sha256="").samples
    assert read is not None and read == artefact.samples
    np.testing.assert_array_equal(read.array(), rows)
    assert "samples" not in artefact.as_dict()
    short = dataclasses.replace(
        artefact, samples=Samples.of(crops, rows[:, :4], files_sha256="f" * 64, source="x")
    )
    with pytest.raises(SanError, match="Field samples"):
        from_metadata(short.metadata_props(), path=Path("a"), sha256="")


@pytest.mark.parametrize("similarity", [1.0001, -2.0])
def test_a_similarity_is_one(similarity: float) -> None:
    metadata = tiny_artefact(threshold=Threshold(similarity, 0.0, 1.0, 1, 1, "x")).metadata_props()
    with pytest.raises(SanError, match=r"threshold.similarity is .*, not in -1\.\.1"):
        from_metadata(metadata, path=Path("a"), sha256="")


DESCRIPTION = {
    "arch": "san",
    "settings": {"depth": 18},
    "resize": "pillow-bicubic-antialias",
    "epoch": 3,
    "recipe": {"seed": 1},
    "metrics": {"rank1": 0.5},
    "schema_version": 1,
}
STATE = {
    "schema_version": 1,
    "epoch": 3,
    "best": -1.0,
    "metrics": {},
    "recipe": {"a": [1, 2]},
    "data": {"a": 1},
}


def checkpoint(path: Path, description: dict[str, object]) -> Path:
    safetensors = pytest.importorskip("safetensors.numpy")
    rng = np.random.default_rng(0)
    tensors = {
        "b.weight": rng.normal(size=(4, 3, 2)).astype(np.float32),
        "a.count": np.array(7, np.int64),
        "c.half": rng.normal(size=5).astype(np.float16),
    }
    safetensors.save_file(tensors, path, {"san": json.dumps(description)})
    stamp(path)
    # The library reads what was stamped.
    read = safetensors.load_file(path)
    assert all(np.array_equal(read[name], tensor) for name, tensor in tensors.items())
    return path


def test_no_flipped_byte_of_a_checkpoint_is_missed(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a.safetensors", DESCRIPTION)
    whole = path.read_bytes()
    assert check_hashes(path, read_header(path)).state == "whole"
    missed = []
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1
        path.write_bytes(flipped)
        try:
            header = read_header(path)
            read_info(path, header.description)
            if check_hashes(path, header).state == "whole":
                missed.append(place)
        except SanError:
            continue
    # A space more or less in the padding says nothing.
    assert all(whole[place : place + 1] == b" " for place in missed)


def test_checkpoints_from_before(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "a.safetensors"
    safetensors.save_file({"a": np.ones(3, np.float32)}, path, {"san": json.dumps(DESCRIPTION)})
    assert "nothing vouches" in check_hashes(path, read_header(path)).note


@pytest.mark.parametrize(("of", "read"), [(DESCRIPTION, read_info), (STATE, read_state)])
def test_damaged_descriptions_are_one_line(of: dict[str, object], read: Callable[..., object]) -> None:
    """Files from before the hashes: a value of another type is refused, or is one that may stand there."""
    read(Path("a"), of)
    for key in of:
        for value in (None, 1.5, "a", [], {}, [["a"]], float("inf"), float("nan"), True, -1, 10**400):
            try:
                read(Path("a"), {**of, key: value})
            except SanError as error:
                assert "\n" not in str(error) and str(error).startswith("a ")


def test_the_state_of_a_run_and_a_checkpoint_are_refused_where_they_are_damaged(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from san_train.checkpoint import load_tensors

    for name, description in (("model.safetensors", DESCRIPTION), ("state.safetensors", STATE)):
        path = checkpoint(tmp_path / name, dict(description))
        assert len(load_tensors(path)[0]) == 3
        data = bytearray(path.read_bytes())
        data[-5] ^= 64
        path.write_bytes(data)
        with pytest.raises(SanError, match=f"{name} is damaged, or was changed after it was written"):
            load_tensors(path)
        assert len(load_tensors(path, accept_damaged=True)[0]) == 3


def test_a_checkpoint_from_before_is_adopted(san: Callable[..., object], tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "old.safetensors"
    safetensors.save_file({"a": np.ones(3, np.float32)}, path, {"san": json.dumps(DESCRIPTION)})
    assert "nothing vouches" in san("info", path).out  # type: ignore[attr-defined]
    assert "nothing vouches" not in san("info", path, "--adopt").out  # type: ignore[attr-defined]
    header = read_header(path)
    assert check_hashes(path, header).state == "whole" and header.description == DESCRIPTION
    assert "carries its hash already" in san("info", path, "--adopt", code=2).err  # type: ignore[attr-defined]
    assert [item.name for item in tmp_path.iterdir()] == ["old.safetensors"]


def _with_loop(model: onnx.ModelProto) -> None:
    """Run the last operator's output through a Loop of 10^15 rounds."""
    helper, kinds = onnx.helper, onnx.TensorProto
    ports = [("go", kinds.BOOL, []), ("x", kinds.FLOAT, None)]
    body = helper.make_graph(
        [helper.make_node("Identity", [name], [f"{name}_out"]) for name, _, _ in ports],
        "body",
        [helper.make_tensor_value_info(name, *of) for name, *of in [("round", kinds.INT64, []), *ports]],
        [helper.make_tensor_value_info(f"{name}_out", *of) for name, *of in ports],
    )
    graph = model.graph
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(10**15), "rounds"))
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "start"))
    graph.node[-1].output[0] = "before"
    graph.node.append(helper.make_node("Loop", ["rounds", "start", "before"], ["embedding"], body=body))


def _with_function(model: onnx.ModelProto) -> None:
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("own", 1)]
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    model.functions.append(onnx.helper.make_function("own", "Same", ["x"], ["y"], [node], opsets[:1]))
    model.opset_import.append(opsets[1])


def _with_sparse(model: onnx.ModelProto) -> None:
    values = onnx.helper.make_tensor("sparse", onnx.TensorProto.FLOAT, [1], [1.0])
    indices = onnx.helper.make_tensor("at", onnx.TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, indices, [3]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_with_loop, "control flow (Loop)"),
        (_with_function, "functions"),
        (_with_sparse, "sparse weights"),
        (lambda model: None, ""),
    ],
)
def test_what_may_run_for_ever_is_refused_by_info_and_embed_alike(
    san: Callable[..., Result],
    tmp_path: Path,
    crops: Path,
    change: Callable[[onnx.ModelProto], None],
    words: str,
) -> None:
    path = tiny_model(tmp_path / "a.onnx")
    model = onnx.load(path)
    change(model)
    save_model(model, path)
    assert unbounded(path.read_bytes()) == words
    commands: list[list[object]] = [["info", path], ["embed", crops, "-m", path, "-o", tmp_path / "a.npz"]]
    messages = {san(*command, code=1 if words else 0).err if words else "" for command in commands}
    assert len(messages) == 1 and words in messages.pop()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 60), st.integers(0, 255))
def test_any_graph_is_judged_or_refused(data: bytes, place: int, byte: int) -> None:
    model = onnx.ModelProto()
    node = onnx.helper.make_node("Loop", ["a"], ["b"], body=onnx.GraphProto(name="inside"))
    model.graph.node.append(node)
    mutant = bytearray(model.SerializeToString())
    assert unbounded(bytes(mutant)) == "control flow (Loop)"
    mutant[place % len(mutant)] = byte
    for damaged in (data, bytes(mutant), bytes(mutant) + data):
        with contextlib.suppress(ValueError):
            assert isinstance(unbounded(damaged), str)


@pytest.mark.parametrize("command", ["info", "embed"])
def test_metadata_that_is_no_text_is_refused(
    san: Callable[..., Result], tmp_path: Path, crops: Path, command: str
) -> None:
    """ONNX Runtime opens such a file, and fails when it is asked for the metadata."""
    path = tiny_model(tmp_path / "a.onnx")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"san.resize", b"san.re\x89ize"))
    assert path.read_bytes() != data
    words = ["info", path] if command == "info" else ["embed", crops, "-m", path, "-o", tmp_path / "a.npz"]
    assert "a.onnx is damaged" in san(*words, code=1).err
