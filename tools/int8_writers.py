"""Our INT8 writer beside onnxruntime.quantization: the table in docs/engines.md.

    python tools/int8_writers.py ../shared/ward

For each architecture and both forms: row cosines of INT8 with the same network in FP32 on WARD's `test` people, ranges
from its `train` people, the share of INT8, and, for the form `cpu`, the speed beside FP32's (the least of interleaved
runs). SAN is the starter's checkpoint; the others are trained here for some minutes, since an untrained network
stretches rounding without bound. Both writers leave the same layers in floating point and start from the same pixels.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from san_export.graph.graph import view
from san_export.graph.mask_branches import find_branches
from san_export.graph.precision_stats import count_operands
from san_export.onnx_writer import to_onnx
from san_export.precision.channels_last import normalise_channels_last
from san_export.precision.int8 import quantise
from san_export.verify import embed_in_batches, row_cosine
from san_export.wrapper import OnnxWrapper
from san_train.checkpoint import load_checkpoint
from san_train.data import normalise
from san_train.models import Network, architecture, build_model
from torch import nn

from san_deploy.datasets import Crop, read_dataset
from san_deploy.preprocess import read_crop

STARTER = Path(__file__).parent / "starter" / "starter.safetensors"
#: Architecture -> settings of a network that trains in minutes on a CPU.
NETWORKS: dict[str, dict[str, object]] = {
    "residual-attention": {
        "depth": 18,
        "width": 0.25,
        "size_hw": (128, 64),
        "attention": (1, 2, 3),
        "hidden": 0,
        "embedding_dim": 64,
        "neck": True,
    },
    "fmn": {"depth": 18, "width": 0.25, "size_hw": (128, 64), "hidden": 16},
    "rga-sc": {"depth": 18, "width": 0.25, "size_hw": (128, 64)},
    "ha-cnn": {"width": 0.25, "size_hw": (160, 64)},
}
STEPS, BATCH, CROPS, ROUNDS = 200, 32, (64, 128), 8


def main() -> None:
    """Print the table, row by row."""
    parser = argparse.ArgumentParser(description="INT8 by two writers.")
    parser.add_argument("ward", type=Path)
    parser.add_argument("--only", nargs="*", default=["san", *NETWORKS], choices=["san", *NETWORKS])
    options = parser.parse_args()
    torch.manual_seed(0)
    splits = read_dataset(options.ward).splits
    print("| network | form | writer | mean | 1st percentile | minimum | INT8 | speed x FP32 |")
    print("|---" * 8 + "|")
    for name, network, mask in networks(options.only, splits["train"]):
        size_hw = network.settings.size_hw
        calibration, test = (
            read(splits[split], count, size_hw) for split, count in zip(("train", "test"), CROPS, strict=True)
        )
        model = to_onnx(OnnxWrapper(network, mask=mask), size_hw)
        floating = architecture(name.partition(" ")[0]).floating
        for form in ("tensorrt", "cpu"):
            made = {
                "ours": quantise(model, calibration, form=form, floating=floating),
                "library, minmax": by_library(model, calibration, form, floating, CalibrationMethod.MinMax),
                "library, percentile": by_library(
                    model, calibration, form, floating, CalibrationMethod.Percentile
                ),
            }
            speeds = speed([model, *made.values()], test[:16]) if form == "cpu" else None
            reference = run(model, test)
            for place, (writer, lower) in enumerate(made.items()):
                cosine = row_cosine(run(lower, test), reference)
                times = f"{speeds[0] / speeds[place + 1]:.2f}" if speeds else ""
                print(
                    f"| {name} | {form} | {writer} | {cosine.mean():.5f} | {np.percentile(cosine, 1):.5f} "
                    f"| {cosine.min():.5f} | {count_operands(lower).int8:.0%} | {times} |",
                    flush=True,
                )


def networks(only: list[str], crops: list[Crop]) -> Iterator[tuple[str, Network, str]]:
    """Name, network in evaluation mode, and mask."""
    if "san" in only:
        network = load_checkpoint(STARTER)[0]
        yield "san argmax", network, "argmax"
        yield "san ramp", network, "ramp:0.0625"
    for name in only:
        if name in NETWORKS:
            yield name, trained(name, crops), "argmax"


def trained(name: str, crops: list[Crop]) -> Network:
    """A network that tells WARD's `train` people apart."""
    network = build_model(name, NETWORKS[name])
    images = read(crops, len(crops), network.settings.size_hw)
    people = {person: place for place, person in enumerate(sorted({crop.person for crop in crops}))}
    order = np.random.default_rng(0).permutation(len(crops))
    labels = torch.tensor([people[crops[place].person] for place in order])
    head = nn.Linear(network.settings.embedding_dim, len(people))
    optimizer = torch.optim.AdamW([*network.parameters(), *head.parameters()], lr=1e-3)
    network.train()
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        batch = rng.permutation(len(images))[:BATCH]
        rows = network(normalise(images[batch], torch.device("cpu")))
        loss = nn.functional.cross_entropy(head(rows), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    return network


def read(crops: list[Crop], count: int, size_hw: tuple[int, int]) -> np.ndarray:
    """`(N, H, W, 3)` uint8 BGR of some crops, in an order that is always the same."""
    order = np.random.default_rng(0).permutation(len(crops))[:count]
    return np.stack([read_crop(crops[place].path, size_hw) for place in order])


def by_library(
    model: onnx.ModelProto,
    crops: np.ndarray,
    form: str,
    floating: tuple[str, ...],
    method: CalibrationMethod,
) -> onnx.ModelProto:
    """`quantize_static`, with the settings that the form's runtime needs and without the same layers as ours."""
    tensorrt = form == "tensorrt"
    model = onnx.version_converter.convert_version(model, 19) if tensorrt else normalise_channels_last(model)
    for place, node in enumerate(model.graph.node):
        node.name = node.name or f"node{place}"
    branches = {name for branch in find_branches(model) for name in branch.nodes}
    excluded = [
        node.name
        for node in view(model).nodes
        if node.output[0] in branches or set(floating) & set(".".join(node.input[1:2]).split("."))
    ]
    integer = ["Conv", "Add", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat", "Gemm", "MatMul"]
    symmetric = {
        "ActivationSymmetric": True,
        "QuantizeBias": False,
        "OpTypesToExcludeOutputQuantization": ["Conv", "ConvTranspose"],
    }
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        onnx.save(model, before)
        quantize_static(
            before,
            after,
            _Crops(crops),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            nodes_to_exclude=excluded,
            calibrate_method=method,
            activation_type=QuantType.QInt8 if tensorrt else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "ConvTranspose"] if tensorrt else integer,
            extra_options=symmetric if tensorrt else {"MatMulConstBOnly": True},
        )
        return onnx.load(after)


class _Crops(CalibrationDataReader):
    def __init__(self, crops: np.ndarray) -> None:
        self._batches = iter([{"crops": crops[start : start + 8]} for start in range(0, len(crops), 8)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """One thread, on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    """Rows of the crops."""
    opened = session(model)
    return embed_in_batches(lambda batch: opened.run(None, {"crops": batch})[0], images, 16)


def speed(models: list[onnx.ModelProto], images: np.ndarray) -> list[float]:
    """Least seconds of each model, in turns."""
    opened = [session(model) for model in models]
    least = [float("inf")] * len(opened)
    for _ in range(ROUNDS):
        for place, item in enumerate(opened):
            begin = time.perf_counter()
            item.run(None, {"crops": images})
            least[place] = min(least[place], time.perf_counter() - begin)
    return least


if __name__ == "__main__":
    main()
