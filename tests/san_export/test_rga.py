"""Relation-aware attention through every pass of the export: a small network fast, a whole one slowly."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from san_export.graph.graph import view
from san_export.graph.mask_branches import find_branches
from san_export.graph.operators import check_operators
from san_export.onnx_writer import to_onnx
from san_export.precision.emulate_fp16 import emulate_fp16
from san_export.precision.fp16 import to_fp16
from san_export.precision.int8 import never_quantised, quantise
from san_export.precision.quantization_plan import candidates
from san_export.verify import CheckCrops, row_cosine
from san_export.wrapper import OnnxWrapper, reverse_input_channels
from san_train.attention import MaskMode
from san_train.data import normalise
from san_train.models import architecture
from san_train.models.rga import RelationAwareNetwork, RgaSettings
from san_train.models.rga_block import RelationAttention, RelationBlock
from torch import Tensor, nn

from tests.san_export.road import builds, calibrated, furthest, run
from tests.tiny_models import tiny_artefact

SIZE_HW = (64, 32)
FLOATING = architecture("rga-sc").floating


class OneBlock(nn.Module):
    """Two convolutions, a relation-aware block on 16 x 8 places, and a neck."""

    def __init__(self) -> None:
        super().__init__()
        self.mode = MaskMode()
        self.settings = SimpleNamespace(size_hw=SIZE_HW)
        self.stem = nn.Sequential(
            nn.Conv2d(3, 40, 7, 4, padding=3, bias=False), nn.BatchNorm2d(40), nn.ReLU(inplace=True)
        )
        self.block = RelationBlock(40, (16, 8))
        self.last = nn.Sequential(
            nn.Conv2d(40, 24, 3, 2, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU(inplace=True)
        )
        self.neck = nn.BatchNorm1d(24)

    def forward(self, x: Tensor) -> Tensor:
        return self.neck(self.last(self.block(self.stem(x))).mean((2, 3)))


@pytest.fixture(scope="module")
def small(crops: CheckCrops) -> OneBlock:
    torch.manual_seed(5)
    network = OneBlock()
    calibrated(network, crops.images, momentum=0.1, passes=30)
    return network


@pytest.fixture(scope="module")
def small_model(small: OneBlock) -> onnx.ModelProto:
    return to_onnx(OnnxWrapper(small), SIZE_HW)


def built(model: onnx.ModelProto, precision: str, folder: Path) -> None:
    (output,) = model.graph.output
    dim = output.type.tensor_type.shape.dim[1].dim_value
    artefact = tiny_artefact(size_hw=SIZE_HW, embedding_dim=dim)
    folder.mkdir(exist_ok=True)
    builds(model, artefact, precision, folder, int8=0.15, targets=("sm86",))


@pytest.mark.numeric
def test_fp32(small: OneBlock, small_model: onnx.ModelProto, crops: CheckCrops, tmp_path: Path) -> None:
    assert check_operators(small_model) == [] and not find_branches(small_model)
    assert furthest(small, small_model, crops.images) < 1e-5
    built(small_model, "fp32", tmp_path)


def test_the_graph_has_no_map_no_norm_and_no_shape(small_model: onnx.ModelProto) -> None:
    graph = view(small_model)
    kinds = Counter(node.op_type for node in graph.nodes)
    for name in ("Shape", "Gather", "Expand", "Identity", "Div", "Where"):
        assert kinds[name] == 0, name
    # That of the neck alone, in FP32 behind the last product.
    assert kinds["BatchNormalization"] == 1 and kinds["MatMul"] == 2 * 3
    # 128 places and 40 channels.
    for name, shape in graph.shapes.items():
        assert not any(shape[-2:] == (nodes, nodes) for nodes in (128, 40)), name


@pytest.mark.numeric
def test_fp16(small_model: onnx.ModelProto, crops: CheckCrops, tmp_path: Path) -> None:
    half = to_fp16(small_model)
    expected = run(small_model, crops.images)
    for form in (half, emulate_fp16(half)):
        assert row_cosine(run(form, crops.images), expected).min() > 0.9995
    graph = view(half)
    kinds = {
        kind: {graph.types[node.output[0]] for node in graph.nodes if node.op_type == kind}
        for kind in ("MatMul", "Conv", "Sigmoid", "ReduceMean", "BatchNormalization")
    }
    fp16, fp32 = {TensorProto.FLOAT16}, {TensorProto.FLOAT}
    assert kinds["MatMul"] == kinds["Conv"] == kinds["Sigmoid"] == fp16
    assert kinds["ReduceMean"] == kinds["BatchNormalization"] == fp32
    built(half, "fp16", tmp_path)


def scaled_up(network: OneBlock, factor: float) -> None:
    """Embeddings `factor` times, and so affinities its square times, as large; the same function."""
    with torch.no_grad():
        for half in network.modules():
            if isinstance(half, RelationAttention):
                norm, pair = half.embed[1], slice(0, 2 * half.embedded)
                norm.weight[pair] *= factor
                norm.bias[pair] *= factor
                half.norm.running_mean *= factor**2
                half.norm.running_var *= factor**4


@pytest.mark.numeric
def test_affinities_beyond_fp16(small: OneBlock, small_model: onnx.ModelProto, crops: CheckCrops) -> None:
    """The literal form's map would be infinite there; its norm's variance does not even fit."""
    network = OneBlock().eval()
    network.load_state_dict(small.state_dict())
    scaled_up(network, 150.0)
    affinities: list[float] = []
    for half in (network.block.spatial, network.block.channel):
        half.register_forward_pre_hook(
            lambda half, inputs: affinities.append(largest_affinity(half, inputs[0]))
        )
    with torch.no_grad():
        rows = network(normalise(crops.images, torch.device("cpu"))).numpy()
    expected = run(small_model, crops.images)
    assert row_cosine(rows, expected).min() > 0.9999 and min(affinities) > 65504
    assert network.block.spatial.norm.running_var.max() > 65504
    half = emulate_fp16(to_fp16(to_onnx(OnnxWrapper(network), SIZE_HW)))
    assert row_cosine(run(half, crops.images), expected).min() > 0.9995


def largest_affinity(half: RelationAttention, x: Tensor) -> float:
    theta, phi, _ = half.embed(x).flatten(2).split(half.embedded, 1)
    return float((theta.transpose(1, 2) @ phi).max())


@pytest.mark.numeric
@pytest.mark.parametrize("form", ["tensorrt", "cpu"])
def test_int8(small_model: onnx.ModelProto, crops: CheckCrops, form: str, tmp_path: Path) -> None:
    # The embeddings are quantised; what makes a gate of relations is not, nor a product of two values.
    names = candidates(small_model, view(small_model), form, FLOATING)
    relations = {name.removeprefix("network.block.") for name in names if "block" in name}
    expected = {"spatial.embed.0", "channel.embed.0"}
    if form == "cpu":
        expected |= {f"{half}.{side}" for half in ("spatial", "channel") for side in ("outgoing", "incoming")}
    assert relations == expected
    # A convolution whose only input is pixels, and one behind the gates.
    assert {"network.stem.0", "network.last.0"} <= set(names)
    assert {
        name.removeprefix("network.block.") for name in never_quantised(small_model, floating=FLOATING)
    } == {f"{half}.weigh.{layer}" for half in ("spatial", "channel") for layer in (0, 3)}
    images = np.concatenate([crops.images, crops.images[:, :, ::-1]])
    quantised = quantise(small_model, images, form=form, floating=FLOATING)
    assert row_cosine(run(quantised, crops.images), run(small_model, crops.images)).mean() > 0.98
    if form == "tensorrt":
        assert check_operators(quantised) == []
        built(quantised, "int8", tmp_path / "rest-fp32")
        built(to_fp16(quantised), "int8", tmp_path / "rest-fp16")


def test_a_layer_on_three_features_is_not_taken_for_the_first() -> None:
    # 16 places give 2 relations, and with the unary embedding 3 channels.
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2, padding=1), RelationBlock(8, (4, 4)))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert network[1].spatial.weigh[0].in_channels == 3
    reverse_input_channels(network)
    changed = [name for name, value in network.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["0.weight"]
    assert torch.equal(network[0].weight, before["0.weight"].flip(1))


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["sc", "s", "c"])
def test_whole_networks(crops: CheckCrops, variant: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = RelationAwareNetwork(RgaSettings(variant, 18, 0.125, SIZE_HW))
    # With exact statistics, PyTorch's own FP32 rows of `sc` are 2e-5 from those in FP64.
    calibrated(network, crops.images, momentum=0.1, passes=30)
    model = to_onnx(OnnxWrapper(network), SIZE_HW)
    assert check_operators(model) == []
    assert furthest(network, model, crops.images) < 1e-5
    if variant != "sc":
        # Every layer of these stands in `sc` as well.
        return
    expected = run(model, crops.images)
    half = to_fp16(model)
    assert row_cosine(run(emulate_fp16(half), crops.images), expected).min() > 0.998
    built(half, "fp16", tmp_path / "fp16")
    built(model, "fp32", tmp_path / "fp32")
    images = np.concatenate([crops.images, crops.images[:, :, ::-1]])
    quantised = quantise(model, images, form="tensorrt", floating=FLOATING)
    # Random weights: a quick training on WARD takes this to 0.997.
    assert row_cosine(run(quantised, crops.images), expected).mean() > 0.85
    built(quantised, "int8", tmp_path / "int8")
