from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from san_export.graph.operators import check_operators
from san_export.onnx_writer import clean, to_onnx, write_onnx
from san_export.verify import CheckCrops, row_cosine
from san_export.wrapper import OnnxWrapper
from san_train.attention import MaskMode
from san_train.evaluate import embed
from san_train.models import SharpAttentionNetwork
from torch import Tensor

from san_deploy.artefact import Artefact, Threshold, from_metadata
from tests.settled import SIZE_HW, calibrated, settle


def count(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def run(model: onnx.ModelProto, crops: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["embedding"], {"crops": crops})[0]


def test_argmax_holds_no_random_log_or_division(argmax_model: onnx.ModelProto) -> None:
    nodes = count(argmax_model)
    assert not [
        name
        for name in nodes
        if "Random" in name or name in ("Bernoulli", "Multinomial", "Log", "Exp", "Div", "Softmax")
    ]
    # One mask for each of the four stages, and the reciprocal of the rows' norm.
    assert nodes["Greater"] == nodes["ReduceMin"] == nodes["ReduceMax"] == 4
    assert nodes["Reciprocal"] == nodes["Sqrt"] == 1
    # Batch norms went into the weights; nothing reorders channels; nothing computes shapes.
    for name in (
        "BatchNormalization",
        "Gather",
        "Slice",
        "Shape",
        "Concat",
        "If",
        "Loop",
        "Identity",
        "Dropout",
    ):
        assert nodes[name] == 0, name


def test_uint8_is_cast_before_all_else(argmax_model: onnx.ModelProto) -> None:
    # TensorRT's parser takes nothing but a cast of uint8.
    readers = [node for node in argmax_model.graph.node if "crops" in node.input]
    assert [node.op_type for node in readers] == ["Cast"]
    assert readers[0].attribute[0].i == onnx.TensorProto.FLOAT


def test_interface(argmax_model: onnx.ModelProto, expected_model: onnx.ModelProto) -> None:
    for model, shape, kind in (
        (argmax_model, ["N", 64, 32, 3], onnx.TensorProto.UINT8),
        (expected_model, ["N", 3, 64, 32], onnx.TensorProto.FLOAT),
    ):
        (crops,) = model.graph.input
        (embedding,) = model.graph.output
        assert (crops.name, embedding.name) == ("crops", "embedding")
        assert [item.dim_param or item.dim_value for item in crops.type.tensor_type.shape.dim] == shape
        assert crops.type.tensor_type.elem_type == kind
        assert [item.dim_param or item.dim_value for item in embedding.type.tensor_type.shape.dim] == [
            "N",
            16,
        ]
        assert embedding.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_opset_ir_and_weights(argmax_model: onnx.ModelProto, ramp_model: onnx.ModelProto) -> None:
    assert [(item.domain, item.version) for item in argmax_model.opset_import] == [("", 18)]
    assert [(item.domain, item.version) for item in ramp_model.opset_import] == [("", 22)]
    for model in (argmax_model, ramp_model):
        onnx.checker.check_model(model, full_check=True)
        assert model.ir_version <= 10
        assert {weight.data_type for weight in model.graph.initializer} <= {
            onnx.TensorProto.FLOAT,
            onnx.TensorProto.INT64,
        }
        assert not [weight for weight in model.graph.initializer if weight.external_data]


def test_file_tells_nothing_of_this_machine(argmax_model: onnx.ModelProto) -> None:
    content = argmax_model.SerializeToString()
    for trace in (
        b"site-packages",
        b".py",
        b"stack_trace",
        str(Path.home()).encode() + b"/",
        str(Path.cwd()).encode(),
    ):
        assert trace not in content


@pytest.mark.numeric
@pytest.mark.parametrize("batch", [1, 3, 20])
def test_masks_and_forms_equal_pytorch(
    request: pytest.FixtureRequest,
    network: SharpAttentionNetwork,
    bilinear: SharpAttentionNetwork,
    crops: CheckCrops,
    batch: int,
) -> None:
    planar = np.ascontiguousarray(crops.images[..., ::-1].transpose(0, 3, 1, 2)).astype(np.float32)
    for fixture, trained, mask, images in (
        ("argmax_model", network, "argmax", crops.images),
        ("expected_model", bilinear, "expected", planar),
        ("ramp_model", network, "ramp:0.25", crops.images),
    ):
        cosine = row_cosine(
            run(request.getfixturevalue(fixture), images[:batch]),
            embed(trained, crops.images[:batch], mask=mask),
        )
        # No mask hangs on rounding (tests.settled), so that FP32's is all there is.
        assert cosine.min() > 0.999999, fixture


def test_no_shape_is_computed_at_run_time(expected_model: onnx.ModelProto) -> None:
    nodes = [node for node in expected_model.graph.node if node.op_type == "Resize"]
    weights = {weight.name: onnx.numpy_helper.to_array(weight) for weight in expected_model.graph.initializer}
    assert [weights[node.input[2]].tolist() for node in nodes] == [[1, 1, 2, 2]] * 3
    assert not {"Shape", "Concat", "Expand", "Gather"} & set(count(expected_model))


def test_extremes_give_unit_rows(argmax_model: onnx.ModelProto) -> None:
    # Constant crops make constant channels: nothing is attended, and nothing becomes NaN.
    crops = np.stack([np.full((64, 32, 3), value, np.uint8) for value in (0, 128, 255)])
    rows = run(argmax_model, crops)
    assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() < 1e-5


def artefact() -> Artefact:
    return Artefact(
        arch="san-resnet18",
        settings={"depth": 18, "size_hw": (64, 32)},
        embedding_dim=16,
        size_hw=SIZE_HW,
        input="uint8",
        resize="pillow-bicubic-antialias",
        mean_rgb=(0.485, 0.456, 0.406),
        std_rgb=(0.229, 0.224, 0.225),
        mask="argmax",
        precision="fp32",
        checkpoint_sha256="0" * 64,
        versions={"torch": "2"},
        threshold=Threshold(0.5, 0.01, 0.9, 100, 10, "drawn people"),
        checks={"min_cosine": {"1": 1.0}},
        space="5" * 64,
    )


def test_metadata_comes_back(argmax_model: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    write_onnx(clean(argmax_model), artefact(), path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    read = from_metadata(session.get_modelmeta().custom_metadata_map, path=path, sha256="")
    # JSON knows no tuples; the contract's own fields come back as they were.
    assert read.as_dict() | {"settings": None} == artefact().as_dict() | {"settings": None}
    assert read.settings == {"depth": 18, "size_hw": [64, 32]}


def test_writing_twice_gives_equal_bytes(argmax_model: onnx.ModelProto, tmp_path: Path) -> None:
    model = clean(argmax_model)
    write_onnx(model, artefact(), tmp_path / "a.onnx")
    write_onnx(model, artefact(), tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def build(model: onnx.ModelProto) -> int:
    """Bytes of the plan that TensorRT-RTX makes of a graph, ahead of time and without a GPU."""
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(model.SerializeToString()), [
        parser.get_error(i).desc() for i in range(parser.num_errors)
    ]
    crops = network.get_input(0)
    assert crops.name == "crops"
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    profile = builder.create_optimization_profile()
    size = tuple(crops.shape)[1:]
    profile.set_shape(crops.name, (1, *size), (16, *size), (64, *size))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None
    return int(plan.nbytes)


def test_tensorrt_builds_the_graph(
    argmax_model: onnx.ModelProto, expected_model: onnx.ModelProto, ramp_model: onnx.ModelProto
) -> None:
    for model in (argmax_model, expected_model, ramp_model):
        assert check_operators(model) == []
        assert not count(model)["ConvTranspose"]
        assert build(model) > 100_000


@pytest.mark.numeric
@pytest.mark.parametrize(
    ("upsample", "input_form", "opset", "width"),
    # Three places interpolated from two, as a width of 40 has them, put the one in the middle on the threshold.
    [("deconv", "uint8", 18, 40), ("bilinear", "float", 22, 72)],
)
def test_odd_sizes(
    *,
    crops: CheckCrops,
    upsample: str,
    input_form: str,
    opset: int,
    width: int,
) -> None:
    # Maps 18, 9, 5 high: what comes back from half of 9 is cut by a place.
    size_hw = (72, width)
    side = (width - 32) // 2
    images = np.pad(crops.images, ((0, 0), (4, 4), (side, side), (0, 0)), mode="edge")
    network = calibrated(images, upsample=upsample, size_hw=size_hw)
    images = images[:3]
    settle(network, images)
    model = to_onnx(OnnxWrapper(network, input_form=input_form), size_hw, opset=opset)
    assert check_operators(model) == []
    assert not count(model)["ConvTranspose"]
    planar = np.ascontiguousarray(images[..., ::-1].transpose(0, 3, 1, 2)).astype(np.float32)
    rows = run(model, images if input_form == "uint8" else planar)
    assert row_cosine(rows, embed(network, images, mask="argmax")).min() > 0.999999
    assert build(model) > 100_000


class Sampler(torch.nn.Module):
    """As much of a network as an export needs, with an operator that TensorRT gets wrong since opset 20."""

    def __init__(self) -> None:
        super().__init__()
        self.mode = MaskMode()
        self.conv = torch.nn.Conv2d(3, 4, 1)
        self.register_buffer("grid", torch.rand(1, 5, 5, 2) * 2 - 1)

    def forward(self, x: Tensor) -> Tensor:
        grid = self.get_buffer("grid").expand(x.shape[0], -1, -1, -1)
        return F.grid_sample(self.conv(x), grid, align_corners=False).mean((2, 3))


def test_what_tensorrt_would_get_wrong_is_told_and_is_no_error() -> None:
    told: list[str] = []
    to_onnx(OnnxWrapper(Sampler()), (16, 8), report=told.append)
    assert told == []
    model = to_onnx(OnnxWrapper(Sampler()), (16, 8), opset=22, report=told.append)
    assert count(model)["GridSample"] == 1
    (line,) = told
    assert "TensorRT 10.3" in line and "GridSample" in line and "opset below 20" in line and "\n" not in line


def test_no_gradient_is_kept(network: SharpAttentionNetwork) -> None:
    # The session's networks are shared: exporting must not have switched their gradients off.
    assert all(
        parameter.requires_grad for name, parameter in network.named_parameters() if name != "neck.bias"
    )
    assert torch.is_grad_enabled()
