from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from san_export.importing.convention import PRESETS, Convention
from san_export.importing.foreign import read_foreign
from san_export.importing.run import ImportOptions, import_model
from san_export.importing.trial import try_conventions

from san_deploy.artefact import read_sidecar
from san_deploy.backends.onnxruntime import OnnxRuntime
from san_deploy.errors import GateError, SanError, UsageError
from san_deploy.images import read_image
from san_deploy.preprocess import MEAN_RGB, STD_RGB

from .made import DIM, SIZE_HW, crops, network, save

TORCHREID = PRESETS["torchreid"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Crops of other sizes than the network's."""
    path = tmp_path / "crops" / "t1"
    path.mkdir(parents=True)
    for index, crop in enumerate(crops(20, (64, 24))):
        Image.fromarray(crop[:, :, ::-1]).save(path / f"{index:02d}.png")
    return path.parent


def test_an_artefact_that_embeds_as_the_owner_does(tmp_path: Path, folder: Path) -> None:
    source = save(network(), tmp_path / "theirs.onnx")
    # The owner's program: OpenCV's resize, torchreid's arithmetic, cosine.
    convention = PRESETS["boxmot"]
    paths = sorted((folder / "t1").iterdir())
    rows = []
    session = onnxruntime.InferenceSession(source.read_bytes(), providers=["CPUExecutionProvider"])
    for path in paths:
        small = cv2.resize(cv2.imread(str(path)), (SIZE_HW[1], SIZE_HW[0]), interpolation=cv2.INTER_LINEAR)
        x = (cv2.cvtColor(small, cv2.COLOR_BGR2RGB) / 255.0 - MEAN_RGB) / STD_RGB
        rows.append(session.run(None, {"image": x.transpose(2, 0, 1)[None].astype(np.float32)})[0][0])
    np.save(tmp_path / "rows.npy", np.array(rows))
    options = ImportOptions(source, convention, crops=folder, reference=tmp_path / "rows.npy")
    result = import_model(options, tmp_path / "mine.onnx")
    assert result.against_reference is not None and result.against_reference["min_cosine"] > 0.9999
    model = OnnxRuntime(tmp_path / "mine.onnx")
    assert model.artefact == result.artefact == read_sidecar(tmp_path / "mine.onnx")
    assert (model.artefact.arch, model.artefact.mask, model.artefact.precision) == (
        "imported",
        "none",
        "fp32",
    )
    assert model.artefact.resize == "cv2-linear" and model.artefact.settings["file"] == "theirs.onnx"
    assert np.allclose(model.artefact.mean_rgb, MEAN_RGB) and np.allclose(model.artefact.std_rgb, STD_RGB)
    from san_deploy import Embedder

    embedded = Embedder(tmp_path / "mine.onnx")([read_image(path) for path in paths])
    unit = np.array(rows) / np.linalg.norm(rows, axis=1, keepdims=True)
    assert (embedded * unit).sum(1).min() > 0.9999


def test_another_convention_than_the_owners_fails_and_leaves_nothing(tmp_path: Path, folder: Path) -> None:
    source = save(network(), tmp_path / "theirs.onnx")
    first = ImportOptions(source, TORCHREID)
    import_model(first, tmp_path / "right.onnx")
    right = OnnxRuntime(tmp_path / "right.onnx")
    from san_export.importing.run import read_owner_crops

    np.save(tmp_path / "rows.npy", right(read_owner_crops(folder, SIZE_HW, TORCHREID.resize)))
    wrong = ImportOptions(source, PRESETS["openvino-bgr"], crops=folder, reference=tmp_path / "rows.npy")
    with pytest.raises(GateError, match=r"rows differ from rows\.npy's.*--try"):
        import_model(wrong, tmp_path / "mine.onnx")
    assert not (tmp_path / "mine.onnx").exists() and not (tmp_path / "mine.onnx.json").exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((3, DIM), np.float32), r"has rows of \(3, 6\).*give \(20, 6\)"),
        (np.zeros((20, DIM), np.int64), "is not .n, D. of floats"),
        (np.full((20, DIM), np.nan), "holds NaN or infinity"),
        (np.array([{}], dtype=object), "is no .npy file"),
    ],
)
def test_bad_references(tmp_path: Path, folder: Path, rows: np.ndarray, message: str) -> None:
    np.save(tmp_path / "rows.npy", rows, allow_pickle=True)
    source = save(network(), tmp_path / "theirs.onnx")
    options = ImportOptions(source, TORCHREID, crops=folder, reference=tmp_path / "rows.npy")
    with pytest.raises(SanError, match=message):
        import_model(options, tmp_path / "mine.onnx")
    with pytest.raises(UsageError, match="--reference holds rows of crops"):
        import_model(
            ImportOptions(source, TORCHREID, reference=tmp_path / "rows.npy"), tmp_path / "mine.onnx"
        )


def test_unit_rows_are_left_alone(tmp_path: Path) -> None:
    unit = [
        helper.make_node("LpNormalization", ["features"], ["unit"], axis=1, p=2),
    ]
    source = save(
        network(extra=unit, outputs=[("unit", TensorProto.FLOAT, ["batch", DIM])]), tmp_path / "a.onnx"
    )
    result = import_model(ImportOptions(source, TORCHREID), tmp_path / "mine.onnx")
    assert "its rows have length 1 already" in result.notes
    assert not any(node.op_type == "Sqrt" for node in onnx.load(tmp_path / "mine.onnx").graph.node)
    plain = save(network(), tmp_path / "b.onnx")
    assert (
        "the L2 norm was added" in import_model(ImportOptions(plain, TORCHREID), tmp_path / "b2.onnx").notes
    )
    with pytest.raises(SanError, match="not of length 1"):
        import_model(ImportOptions(plain, TORCHREID, normalise=False), tmp_path / "b3.onnx")


def _with(operator: str, *constants: float) -> onnx.ModelProto:
    model = network()
    names = [f"k{index}" for index in range(len(constants))]
    model.graph.node.append(helper.make_node(operator, ["features", *names], ["out"]))
    model.graph.output[0].name = "out"
    model.graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.float32), name)
        for name, value in zip(names, constants, strict=True)
    )
    return model


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: _with("Log"), "gives NaN or infinity for .* of 48 crops"),
        (lambda: _with("Mul", 0.0), "gives the same row for every crop"),
        (lambda: network(end="softmax"), "gives probabilities"),
    ],
)
def test_rows_that_are_no_embeddings(
    tmp_path: Path, made: Callable[[], onnx.ModelProto], message: str
) -> None:
    with pytest.raises(SanError, match=message):
        import_model(ImportOptions(save(made(), tmp_path / "a.onnx"), TORCHREID), tmp_path / "mine.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]


def test_a_batch_that_cannot_be_freed(tmp_path: Path) -> None:
    # Rows that depend on their batch's mean: free or not, crops would mix.
    extra = [
        helper.make_node("ReduceMean", ["features"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["features", "mean"], ["out"]),
    ]
    model = network(batch=4, extra=extra, outputs=[("out", TensorProto.FLOAT, [4, DIM])])
    with pytest.raises(SanError, match=r"a fixed batch of 4 that cannot be freed.*dynamic batch"):
        import_model(ImportOptions(save(model, tmp_path / "a.onnx"), TORCHREID), tmp_path / "mine.onnx")
    assert not (tmp_path / "mine.onnx").exists()
    result = import_model(
        ImportOptions(save(network(batch=4, end="reshape"), tmp_path / "b.onnx"), TORCHREID),
        tmp_path / "b2.onnx",
    )
    assert any("fixed at 4 and is free now" in note for note in result.notes)


def test_rows_that_are_not_one_for_each_crop(tmp_path: Path) -> None:
    """A detector's flat list of boxes: two axes, the first of which is no batch."""
    extra = [
        helper.make_node("Concat", ["features", "features"], ["boxes"], axis=0),
    ]
    model = network(extra=extra, outputs=[("boxes", TensorProto.FLOAT, ["count", DIM])])
    with pytest.raises(
        SanError, match=r"output boxes of .* has shape \(96, 6\) for 48 crops\. An embedding is \(N, D\)"
    ):
        import_model(ImportOptions(save(model, tmp_path / "a.onnx"), TORCHREID), tmp_path / "mine.onnx")


def test_an_odd_fixed_size(tmp_path: Path) -> None:
    source = save(network(size_hw=(37, 19)), tmp_path / "a.onnx")
    artefact = import_model(ImportOptions(source, TORCHREID), tmp_path / "mine.onnx").artefact
    assert artefact.size_hw == (37, 19)
    images = crops(4, (40, 20))[:, :37, :19]
    x = TORCHREID.apply(images, "nchw")
    session = onnxruntime.InferenceSession(source.read_bytes(), providers=["CPUExecutionProvider"])
    wanted = session.run(None, {"image": x})[0]
    wanted = wanted / np.linalg.norm(wanted, axis=1, keepdims=True)
    assert np.abs(OnnxRuntime(tmp_path / "mine.onnx")(images) - wanted).max() < 1e-5
    with pytest.raises(UsageError, match=r"--size 256x128 does not fit .*, which takes 37 x 19"):
        import_model(ImportOptions(source, TORCHREID, size_hw=(256, 128)), tmp_path / "other.onnx")


def test_logits_of_a_known_data_set_are_said(tmp_path: Path) -> None:
    weights = numpy_helper.from_array(
        np.random.default_rng(0).normal(size=(DIM, 751)).astype(np.float32), "w4"
    )
    model = network()
    model.graph.initializer.append(weights)
    model.graph.node.append(helper.make_node("MatMul", ["features", "w4"], ["logits"]))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 751]))
    result = import_model(ImportOptions(save(model, tmp_path / "a.onnx"), TORCHREID), tmp_path / "mine.onnx")
    assert any("logits of Market-1501" in note for note in result.notes)


def test_the_convention_that_fits_wins(tmp_path: Path) -> None:
    """A network that reads the blue of its input alone, in 0..1: people differ in blue, and red is noise."""
    rng = np.random.default_rng(0)
    data = tmp_path / "data"
    lines = ["camera,track,person"]
    for person in range(1, 9):
        for camera in ("a", "b"):
            track = data / camera / f"t{person}"
            track.mkdir(parents=True)
            lines.append(f"{camera},t{person},{person}")
            for index in range(2):
                crop = np.zeros((*SIZE_HW, 3), np.uint8)
                crop[:, :, 2] = rng.integers(0, 256, SIZE_HW[1])  # red
                crop[: SIZE_HW[0] // 2, :, 0] = 20 * person + rng.integers(0, 3)  # blue
                crop[SIZE_HW[0] // 2 :, :, 0] = 255 - 25 * person
                Image.fromarray(crop[:, :, ::-1]).save(track / f"{index}.png")
    (data / "identities.csv").write_text("\n".join(lines) + "\n")
    pool = [
        helper.make_node("Slice", ["image", "from", "to", "axes"], ["blue"]),
        helper.make_node("AveragePool", ["blue"], ["halves"], kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("Flatten", ["halves"], ["features"]),
    ]
    # The third channel: blue, where the order is RGB.
    weights = [
        numpy_helper.from_array(np.array([value]), name)
        for name, value in (("from", 2), ("to", 3), ("axes", 1))
    ]
    graph = helper.make_graph(
        pool,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, *SIZE_HW])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 2])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    found = try_conventions(read_foreign(save(model, tmp_path / "a.onnx")), data)
    assert found[0].convention.color == "rgb" and found[0].mean_ap is not None and found[0].mean_ap > 0.9
    worst = [item for item in found if item.convention.color == "bgr"]
    assert all(item.mean_ap is not None and item.mean_ap < found[0].mean_ap for item in worst)
    with pytest.raises(SanError, match="has no labels"):
        try_conventions(read_foreign(tmp_path / "a.onnx"), data / "a")


def test_conventions_are_checked() -> None:
    with pytest.raises(UsageError, match="--color grb"):
        Convention(color="grb")
    with pytest.raises(UsageError, match="--scale 100"):
        Convention(scale=100)
    with pytest.raises(UsageError, match="--std is above zero"):
        Convention(std=(0.0, 1.0, 1.0))
    with pytest.raises(UsageError, match="--resize nearest"):
        Convention(resize="nearest")
    with pytest.raises(UsageError, match="--mean is three finite numbers"):
        Convention(mean=(float("nan"), 0.0, 0.0))
