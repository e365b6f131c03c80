from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from san_export.importing.foreign import read_foreign

from san_deploy.errors import SanError, UsageError

from .made import DIM, network, save

FLOAT = TensorProto.FLOAT


def test_what_the_file_says(tmp_path: Path) -> None:
    found = read_foreign(save(network(batch=4), tmp_path / "a.onnx"))
    assert (found.input, found.output, found.layout) == ("image", "features", "nchw")
    assert (found.size_hw, found.batch, found.problems) == ((32, 16), 4, ())
    assert read_foreign(save(network(layout="nhwc"), tmp_path / "b.onnx")).layout == "nhwc"


def test_an_open_size_is_asked_for(tmp_path: Path) -> None:
    path = save(network(size_hw=("h", "w")), tmp_path / "a.onnx")
    with pytest.raises(UsageError, match=r"leaves its size open\. Say --size"):
        read_foreign(path)
    assert read_foreign(path, size_hw=(64, 32)).size_hw == (64, 32)
    with pytest.raises(UsageError, match=r"--size 16x32 does not fit .* 32 x 16"):
        read_foreign(save(network(), tmp_path / "b.onnx"), size_hw=(16, 32))


def test_several_outputs_need_a_name(tmp_path: Path) -> None:
    more = [helper.make_node("Relu", ["features"], ["logits"])]
    outputs = [("logits", FLOAT, ["batch", DIM]), ("features", FLOAT, ["batch", DIM])]
    path = save(network(extra=more, outputs=outputs), tmp_path / "a.onnx")
    with pytest.raises(UsageError, match=r"has 2 outputs. Choose one: --output NAME, of logits"):
        read_foreign(path)
    assert read_foreign(path, output="features").output == "features"
    with pytest.raises(UsageError, match="has no output embeddings"):
        read_foreign(path, output="embeddings")


def _with_input(name: str, kind: int = FLOAT, shape: tuple[object, ...] = ("n", 5)) -> onnx.ModelProto:
    model = network()
    model.graph.input.append(helper.make_tensor_value_info(name, kind, list(shape)))
    return model


def _relabelled(model: onnx.ModelProto, domain: str) -> onnx.ModelProto:
    model.graph.node[1].domain = domain
    model.opset_import.append(helper.make_opsetid(domain, 1))
    return model


def _typed(kind: int) -> onnx.ModelProto:
    extra = [helper.make_node("Cast", ["features"], ["labels"], to=kind)]
    return network(extra=extra, outputs=[("labels", kind, ["batch", DIM])])


def _old() -> onnx.ModelProto:
    model = network()
    model.opset_import[0].version = 9
    return model


def _with_pixels() -> onnx.ModelProto:
    model = network()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    return model


def _detector(*more: tuple[str, int, list[object]]) -> onnx.ModelProto:
    model = network()
    del model.graph.output[:]
    shapes = [("boxes", FLOAT, ["batch", 100, 4]), *more]
    model.graph.output.extend(helper.make_tensor_value_info(*item) for item in shapes)
    return model


def _map() -> onnx.ModelProto:
    model = network()
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("d", FLOAT, ["batch", 8, 7, 3]))
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: _with_input("camera"), r"has 2 inputs \(image, camera\).*one image"),
        (lambda: _relabelled(network(), "com.example"), "operators of its own: com.example.Tanh"),
        (lambda: _typed(TensorProto.INT64), "labels of .* is int64, an embedding is float"),
        (_old, "has opset 9, the oldest read is 11"),
        (_with_pixels, r"takes uint8, not float32\. Export it without its preprocessing"),
        (_detector, r"output boxes of .* has shape \(batch, 100, 4\).*detectors and feature maps"),
        (_map, r"output d of .* has shape \(batch, 8, 7, 3\).*detectors and feature maps"),
    ],
)
def test_what_is_no_embedding_network(
    tmp_path: Path, model: Callable[[], onnx.ModelProto], message: str
) -> None:
    with pytest.raises(SanError, match=message):
        read_foreign(save(model(), tmp_path / "a.onnx"))


def test_weights_that_are_nan(tmp_path: Path) -> None:
    """A Relu of NaN is 0 in one runtime and NaN in another: such a file may embed, and nobody knows as what."""
    model = network()
    broken = numpy_helper.to_array(model.graph.initializer[1]).copy()
    broken[0, 0, 0, 0] = np.nan
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(broken, "w2"))
    with pytest.raises(SanError, match=r"hold NaN, in w2"):
        read_foreign(save(model, tmp_path / "a.onnx"))
    model.graph.initializer[1].raw_data = b"\0" * 5
    with pytest.raises(SanError, match=r"damaged: w2"):
        read_foreign(save(model, tmp_path / "a.onnx"))


def test_axes_that_do_not_tell(tmp_path: Path) -> None:
    model = network()
    dims = model.graph.input[0].type.tensor_type.shape.dim
    dims[1].dim_param = "c"
    path = save(model, tmp_path / "a.onnx")
    with pytest.raises(UsageError, match=r"no single axis has 3 channels. Say --layout"):
        read_foreign(path)
    assert read_foreign(path, layout="nchw").size_hw == (32, 16)
    with pytest.raises(UsageError, match="--layout nhwc does not fit"):
        read_foreign(path, layout="nhwc")


def test_a_detector_with_several_outputs(tmp_path: Path) -> None:
    """Its outputs are listed with their shapes; none of them is an embedding."""
    path = save(
        _detector(("scores", FLOAT, ["batch", 100]), ("labels", TensorProto.INT64, ["batch", 100])),
        tmp_path / "a.onnx",
    )
    with pytest.raises(
        UsageError, match=r"has 3 outputs.*boxes \(batch, 100, 4\), scores \(batch, 100\), labels"
    ):
        read_foreign(path)
    with pytest.raises(
        SanError, match=r"labels of .* is int64, an embedding is float\. Choose another: --output NAME"
    ):
        read_foreign(path, output="labels")


@pytest.mark.parametrize("data", [b"", b"hello", b"\x08\x09" * 50, bytes(range(256))])
def test_no_onnx_file(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(data)
    with pytest.raises(SanError, match=r"a.onnx is not an ONNX file"):
        read_foreign(path)
    with pytest.raises(SanError, match=r"none.onnx does not exist"):
        read_foreign(tmp_path / "none.onnx")
    with pytest.raises(SanError, match="is not a file"):
        read_foreign(tmp_path)


def test_weights_beside_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    model = network()
    wanted = [onnx.numpy_helper.to_array(item) for item in model.graph.initializer]
    onnx.save_model(
        model, str(folder / "a.onnx"), save_as_external_data=True, location="a.bin", size_threshold=0
    )
    found = read_foreign(folder / "a.onnx").model
    assert all(
        np.array_equal(onnx.numpy_helper.to_array(item), value)
        for item, value in zip(found.graph.initializer, wanted, strict=True)
    )
    (folder / "a.bin").rename(folder / "b.bin")
    with pytest.raises(SanError, match=r"wants its weights from .*a.bin, which is no file"):
        read_foreign(folder / "a.onnx")


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "inner/../../secret.bin"])
def test_weights_outside_of_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(b"\0" * 100_000)
    model = network()
    onnx.save_model(
        model, str(folder / "a.onnx"), save_as_external_data=True, location="a.bin", size_threshold=0
    )
    raw = onnx.ModelProto()
    raw.ParseFromString((folder / "a.onnx").read_bytes())
    for item in raw.graph.initializer:
        for entry in item.external_data:
            if entry.key == "location":
                entry.value = location
    (folder / "a.onnx").write_bytes(raw.SerializeToString())
    with pytest.raises(SanError, match="outside of its folder"):
        read_foreign(folder / "a.onnx")


def test_weights_over_two_gigabytes_are_refused(tmp_path: Path) -> None:
    model = network()
    onnx.save_model(
        model, str(tmp_path / "a.onnx"), save_as_external_data=True, location="a.bin", size_threshold=0
    )
    # A sparse file: nothing of it is read.
    with (tmp_path / "a.bin").open("r+b") as file:
        file.truncate(2**31 + 10)
    raw = onnx.ModelProto()
    raw.ParseFromString((tmp_path / "a.onnx").read_bytes())
    for entry in list(raw.graph.initializer[0].external_data):
        if entry.key == "length":
            raw.graph.initializer[0].external_data.remove(entry)
    (tmp_path / "a.onnx").write_bytes(raw.SerializeToString())
    with pytest.raises(SanError, match=r"has 2\.0 GiB of weights.*below 2 GiB"):
        read_foreign(tmp_path / "a.onnx")


def test_what_tensorrt_would_refuse_is_named(tmp_path: Path) -> None:
    extra = [
        helper.make_node("Bernoulli", ["features"], ["drawn"]),
        helper.make_node("Add", ["features", "drawn"], ["sum"]),
    ]
    model = network(extra=extra, outputs=[("sum", FLOAT, ["batch", DIM])])
    problems = read_foreign(save(model, tmp_path / "a.onnx")).problems
    assert any("Bernoulli" in line for line in problems)


def test_weights_beside_the_file_are_part_of_what_it_is(tmp_path: Path) -> None:
    """Networks that differ in the file beside them alone are two; so are two outputs, and two orders of colours."""
    found = []
    for seed in (0, 1, 0):
        folder = tmp_path / f"{len(found)}"
        folder.mkdir()
        onnx.save_model(
            network(seed=seed),
            str(folder / "a.onnx"),
            save_as_external_data=True,
            location="a.bin",
            size_threshold=0,
        )
        found.append(read_foreign(folder / "a.onnx"))
    assert (tmp_path / "0/a.onnx").read_bytes() == (tmp_path / "1/a.onnx").read_bytes()
    one, other, same = (item.weights_sha256("rgb") for item in found)
    assert one == same != other and one != found[0].weights_sha256("bgr")
    extra = [helper.make_node("Relu", ["features"], ["more"])]
    outputs = [("more", FLOAT, ["batch", DIM]), ("features", FLOAT, ["batch", DIM])]
    path = save(network(extra=extra, outputs=outputs), tmp_path / "two.onnx")
    assert len({read_foreign(path, output=name).weights_sha256("rgb") for name in ("more", "features")}) == 2
