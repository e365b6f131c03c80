"""HA-CNN as it is deployed: the graph, FP16, INT8, and TensorRT-RTX's parser and builder."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from san_export.graph.graph import WEIGHTED_OPS, view
from san_export.graph.operators import check_operators
from san_export.graph.precision_stats import count_operands
from san_export.onnx_writer import to_onnx
from san_export.precision.emulate_fp16 import emulate_fp16
from san_export.precision.fp16 import to_fp16
from san_export.precision.fp32_nodes import fp32_nodes
from san_export.precision.int8 import never_quantised, quantise
from san_export.verify import CheckCrops, row_cosine, sample_crops
from san_export.wrapper import OnnxWrapper
from san_train.attention import MaskMode
from san_train.models import architecture
from san_train.models.ha_cnn import HaCnnSettings, HarmoniousAttentionNetwork
from san_train.models.ha_cnn_crop import RegionCrop
from san_train.models.ha_cnn_units import ConvUnit, HarmoniousAttention
from torch import Tensor, nn

from tests.san_export.road import Road, calibrated, furthest, run

SIZE_HW = (160, 64)
FLOATING = architecture("ha-cnn").floating
FP16, FP32 = TensorProto.FLOAT16, TensorProto.FLOAT
#: What a graph with sizes that follow from N, or with a grid, would hold.
NOT_HERE = {
    "AffineGrid",
    "BatchNormalization",
    "Expand",
    "GridSample",
    "ScatterElements",
    "ScatterND",
    "Shape",
}


def placed(network: nn.Module, images: np.ndarray, *, spread: float) -> None:
    """Calibrated, with places that follow from the image, not from the bias alone."""
    for module in network.modules():
        if isinstance(module, HarmoniousAttention):
            nn.init.normal_(module.hard.weight, std=spread)
    calibrated(network, images)


class OneLevel(nn.Module):
    """The least with a soft mask and a cut: a stem, attention to it, regions of it."""

    def __init__(self) -> None:
        super().__init__()
        self.mode = MaskMode()
        self.stem = ConvUnit(3, 16, 3, 2)
        self.attention = HarmoniousAttention(16, regions="literature")
        self.crop = RegionCrop((32, 16), (6, 7), align_corners=False)
        self.head = nn.Linear(2 * 4 * 16, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        mask, places = self.attention(x)
        regions = self.crop(x, places)
        # The left half of each region apart, so that shifts of half a pixel show.
        rows = torch.cat([regions.mean((2, 3)), regions[..., :3].mean((2, 3))], 1).reshape(-1, 128)
        return self.head(rows) + (x * mask).mean((2, 3))[:, :12]


@pytest.fixture(scope="module")
def small(crops: CheckCrops) -> tuple[nn.Module, onnx.ModelProto]:
    torch.manual_seed(2)
    network = OneLevel()
    placed(network, crops.images, spread=1.0)
    return network, to_onnx(OnnxWrapper(network), (64, 32))


def coordinates(model: onnx.ModelProto) -> set[int]:
    """The nodes between the pooled features and the products with the crop's weights, found by their shape."""
    graph = view(model)
    found = {i for i, node in enumerate(graph.nodes) if node.op_type in ("Abs", "Tanh")}
    assert found
    for index, node in enumerate(graph.nodes):
        if node.op_type not in WEIGHTED_OPS and any(graph.producer.get(name) in found for name in node.input):
            found.add(index)
    return found


@pytest.mark.numeric
def test_one_level_runs_as_in_torch(small: tuple[nn.Module, onnx.ModelProto], crops: CheckCrops) -> None:
    network, model = small
    assert furthest(network, model, crops.images) < 1e-5
    kinds = Counter(node.op_type for node in model.graph.node)
    assert not NOT_HERE & set(kinds) and not check_operators(model)
    assert kinds["MatMul"] == 2 and kinds["Gemm"] == 1


@pytest.mark.numeric
def test_coordinates_stay_in_fp32(small: tuple[nn.Module, onnx.ModelProto], crops: CheckCrops) -> None:
    _, model = small
    graph = view(model)
    typed = {index for index in coordinates(model) if graph.nodes[index].op_type != "Cast"}
    assert len(typed) > 20 and typed <= fp32_nodes(model, graph)
    half = to_fp16(model)
    kinds = view(half).types
    products = [node for node in half.graph.node if node.op_type in WEIGHTED_OPS]
    # For Turing, which has no other in TensorRT-RTX.
    assert {kinds[name] for node in products for name in node.input} == {FP16}
    # One cast for the rows' weights and one for the columns', right before the products.
    weights = [node for node in products if node.op_type == "MatMul"]
    makers = {name: node for node in half.graph.node for name in node.output}
    casts = {name for node in weights for name in node.input if makers[name].op_type == "Cast"}
    assert len(casts) == 2 and all(kinds[makers[name].input[0]] == FP32 for name in casts)
    assert row_cosine(run(emulate_fp16(half), crops.images), run(model, crops.images)).min() > 0.9999


def test_coordinates_in_fp16_would_show() -> None:
    """What the islands are for: at row 79 FP16 knows sixteenths, and half of that is 3 % of a neighbour's share."""
    pixels = np.arange(80, dtype=np.float32) - 79
    exact = np.maximum(0, 1 - np.abs(pixels + np.float32(0.47)))
    rounded = np.maximum(
        0, 1 - np.abs((pixels + 79).astype(np.float16) - np.float16(78.53)).astype(np.float32)
    )
    assert np.abs(exact - rounded).max() > 0.02


def tent(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    """`x` (N, 4) through a product to `v`, through `nodes` to `w`, and through a product to `y`."""
    first = helper.make_node("MatMul", ["x", "in"], ["v"])
    last = helper.make_node("MatMul", ["w", "out"], ["y"])
    constants = {"in": np.ones((4, 1), np.float32), "out": np.ones((5, 1), np.float32), **constants}
    return helper.make_model(
        helper.make_graph(
            [first, *nodes, last],
            "g",
            [helper.make_tensor_value_info("x", FP32, ["N", 4])],
            [helper.make_tensor_value_info("y", FP32, ["N", 1])],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )


def kept(model: onnx.ModelProto) -> set[str]:
    graph = view(model)
    return {graph.nodes[index].op_type for index in fp32_nodes(model, graph)}


@pytest.mark.parametrize("cut", ["Relu", "Max", "Clip"])
def test_every_form_of_the_tent_is_an_island(cut: str) -> None:
    constants = {
        "pixels": np.arange(5, dtype=np.float32),
        "one": np.float32(1),
        "zero": np.float32(0),
        "share": np.full(5, 0.5, np.float32),
    }
    nodes = [
        helper.make_node("Tanh", ["v"], ["t"]),
        helper.make_node("Sub", ["t", "pixels"], ["d"]),
        helper.make_node("Abs", ["d"], ["a"]),
        helper.make_node("Sub", ["one", "a"], ["s"]),
        helper.make_node(cut, ["s"] if cut == "Relu" else ["s", "zero"], ["c"]),
        helper.make_node("Mul", ["c", "share"], ["w"]),
    ]
    model = tent(nodes, constants)
    assert kept(model) == {"Tanh", "Sub", "Abs", cut, "Mul"}
    # A distance from a single number is an activation, and one from a computed value no grid.
    single = tent(nodes, {**constants, "pixels": np.float32(2), "share": np.ones((1, 5), np.float32)})
    assert kept(single) == set()
    other = [nodes[0], helper.make_node("Add", ["t", "t"], ["d"]), *nodes[2:]]
    assert kept(tent(other, {**constants, "share": np.ones((1, 5), np.float32)})) == set()
    # Nor is |p - j| alone, without the cut.
    plain = [*nodes[:3], helper.make_node("Mul", ["a", "share"], ["w"])]
    assert kept(tent(plain, constants)) == set()


def test_what_the_coordinates_share_with_others_is_no_island() -> None:
    constants = {
        "pixels": np.arange(5, dtype=np.float32),
        "one": np.float32(1),
    }
    nodes = [
        helper.make_node("Sigmoid", ["v"], ["shared"]),
        helper.make_node("Neg", ["shared"], ["t"]),
        helper.make_node("Add", ["t", "pixels"], ["d"]),
        helper.make_node("Abs", ["d"], ["a"]),
        helper.make_node("Sub", ["one", "a"], ["s"]),
        helper.make_node("Relu", ["s"], ["c"]),
        helper.make_node("Mul", ["c", "shared"], ["w"]),
    ]
    assert kept(tent(nodes, constants)) == {"Neg", "Add", "Abs", "Sub", "Relu"}


@pytest.mark.numeric
def test_spatial_attention_is_not_quantised(
    small: tuple[nn.Module, onnx.ModelProto], crops: CheckCrops
) -> None:
    _, model = small
    for form in ("tensorrt", "cpu"):
        left = never_quantised(model, form=form, floating=FLOATING)
        assert [name.removeprefix("network.attention.") for name in left] == [
            "spatial.0.conv",
            "spatial.1.conv",
        ]
        quantised = quantise(model, crops.images, form=form, floating=FLOATING)
        # The products of the cut have no constant weight, the layer of the places is none.
        assert not [
            node
            for node in quantised.graph.node
            if node.op_type == "QuantizeLinear" and "hard" in node.input[0]
        ]
        assert row_cosine(run(quantised, crops.images), run(model, crops.images)).min() > 0.98


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return sample_crops(SIZE_HW, 24).images


@pytest.fixture(scope="module")
def full(images: np.ndarray) -> Road:
    """The published network, untrained."""
    torch.manual_seed(0)
    network = HarmoniousAttentionNetwork(HaCnnSettings())
    placed(network, images, spread=0.02)
    return Road("ha-cnn", network, to_onnx(OnnxWrapper(network), SIZE_HW), images)


@pytest.mark.slow
def test_the_network_in_every_precision(full: Road, images: np.ndarray) -> None:
    model = full.graph
    assert full.furthest() < 1e-5
    kinds = Counter(node.op_type for node in model.graph.node)
    assert not NOT_HERE & set(kinds) and not check_operators(model)
    # 73 convolutions, each once: the four regions are one batch.
    assert (kinds["Conv"], kinds["MatMul"], kinds["Gemm"]) == (73, 6, 2)
    assert [item.version for item in model.opset_import] == [18]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    rows, half = full.rows, full.half
    assert count_operands(half).fp16 == 1.0 and not check_operators(half)
    assert row_cosine(run(emulate_fp16(half), images), rows).min() > 0.9998
    for form in ("tensorrt", "cpu"):
        quantised = (
            full.quantised if form == "tensorrt" else quantise(model, images, form=form, floating=FLOATING)
        )
        assert count_operands(quantised).int8 > 0.8
        cosine = row_cosine(run(quantised, images), rows)
        # The worst row of an untrained network is luck: which crop lies nearest to an edge of its regions.
        assert np.quantile(cosine, 0.1) > 0.96 and np.median(cosine) > 0.965
        assert form == "cpu" or not check_operators(quantised)


@pytest.mark.slow
def test_multiply_accumulates_of_one_crop(full: Road) -> None:
    from architectures import macs

    # The paper's; the regions, four to a crop, lie along the batch, and their cutting takes another 17 M.
    assert macs(full.graph) / 1e9 == pytest.approx(0.544 + 0.017, abs=0.0006)


@pytest.mark.slow
def test_the_global_branch_alone(images: np.ndarray) -> None:
    torch.manual_seed(1)
    settings = HaCnnSettings(local=False, width=0.25)
    network = HarmoniousAttentionNetwork(settings)
    placed(network, images[:8], spread=0.02)
    model = to_onnx(OnnxWrapper(network, input_form="float"), SIZE_HW)
    assert furthest(network, model, images[:8]) < 1e-5
    assert not check_operators(model) and not {"Abs", "MatMul"} & {node.op_type for node in model.graph.node}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_tensorrt_builds_it(full: Road, precision: str, tmp_path: Path) -> None:
    full.builds(precision, tmp_path, int8=0.8, batch=(1, 16, 64))
