"""The road from a network in PyTorch to an engine, as the tests of every architecture walk it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from san_export.checkpoint import describe
from san_export.engine.build import build_engine
from san_export.engine.builder import BuildOptions
from san_export.graph.precision_stats import count_operands
from san_export.onnx_writer import write_onnx
from san_export.precision.fp16 import to_fp16
from san_export.precision.int8 import quantise
from san_train.checkpoint import CheckpointInfo
from san_train.data import normalise
from san_train.models import Network, architecture
from torch import nn

from san_deploy.artefact import Artefact, read_sidecar

#: TensorRT-RTX has no FP32 matrix product for Turing.
TARGETS = {"fp32": ("sm86", "sm120"), "fp16": ("sm75", "sm86", "sm120"), "int8": ("sm86", "sm120")}


def run(model: onnx.ModelProto, crops: np.ndarray) -> np.ndarray:
    """Rows of `crops`, `(N, H, W, 3)` uint8 BGR, in either input form."""
    if model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT:
        crops = np.ascontiguousarray(crops[..., ::-1].transpose(0, 3, 1, 2)).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"crops": crops})[0]


def calibrated(network: nn.Module, images: np.ndarray, *, momentum: float = 1.0, passes: int = 1) -> None:
    """Batch norms that have seen `images` so many times, and evaluation mode."""
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.momentum = momentum
    x = normalise(images, torch.device("cpu"))
    network.train()
    with torch.no_grad():
        for _ in range(passes):
            network(x)
    network.eval()


def furthest(network: nn.Module, model: onnx.ModelProto, images: np.ndarray) -> float:
    """Largest difference of ONNX Runtime's rows from PyTorch's, at batches of 1, 3 and all."""
    with torch.no_grad():
        rows = network(normalise(images, torch.device("cpu")))
    reference = nn.functional.normalize(rows, dim=1).numpy()
    return max(
        float(np.abs(run(model, images[start:end]) - reference[start:end]).max())
        for start, end in ((0, 1), (1, 4), (0, len(images)))
    )


def builds(
    model: onnx.ModelProto,
    artefact: Artefact,
    precision: str,
    folder: Path,
    *,
    int8: float = 0.9,
    batch: tuple[int, int, int] = (1, 4, 16),
    targets: tuple[str, ...] = (),
) -> None:
    """TensorRT-RTX takes the graph in that precision, and sees what was counted in the file.

    Args:
        model: a graph that is in `precision` already.
        artefact: what the graph is; its precision and operands are replaced.
        precision: `fp32`, `fp16` or `int8`.
        folder: where the files go.
        int8: the least share of products in INT8, where it is asked for.
        batch: minimum, optimum and maximum.
        targets: GPU generations; none are those of `TARGETS`.
    """
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: nothing can be built")
    targets = targets or TARGETS[precision]
    counted = count_operands(model)
    artefact = replace(artefact, precision=precision, operands=counted, engine=None)
    write_onnx(model, artefact, folder / "model.onnx")
    build_engine(
        folder / "model.onnx",
        folder / "model.engine",
        runtime="tensorrt-rtx",
        options=BuildOptions(batch=batch, targets=targets),
    )
    plan = read_sidecar(folder / "model.engine")
    assert plan.operands is not None and plan.engine is not None
    assert plan.engine.batch == batch and plan.engine.sm == targets
    share = getattr(plan.operands, precision)
    assert share == 1.0 if precision != "int8" else share >= int8
    assert share == pytest.approx(getattr(counted, precision), abs=0.02)


@dataclass(frozen=True)
class Road:
    """A network, its FP32 graph, and crops to calibrate with; each other precision is made once."""

    arch: str
    network: Network
    graph: onnx.ModelProto
    images: np.ndarray

    @cached_property
    def rows(self) -> np.ndarray:
        return run(self.graph, self.images)

    @cached_property
    def half(self) -> onnx.ModelProto:
        return to_fp16(self.graph)

    @cached_property
    def quantised(self) -> onnx.ModelProto:
        """For TensorRT, the rest in FP32."""
        return self.quantise("tensorrt")

    def quantise(self, form: str) -> onnx.ModelProto:
        """INT8, with what the architecture's row leaves in floating point."""
        return quantise(self.graph, self.images, form=form, floating=architecture(self.arch).floating)

    def furthest(self) -> float:
        return furthest(self.network, self.graph, self.images)

    def in_precision(self, precision: str) -> onnx.ModelProto:
        """INT8 has its rest in FP16."""
        if precision == "fp32":
            return self.graph
        return self.half if precision == "fp16" else to_fp16(self.quantised)

    def artefact(self, mask: str) -> Artefact:
        info = CheckpointInfo(self.arch, self.network.settings.as_dict(), "pillow-bicubic-antialias", 0)
        return describe(
            self.network,
            info,
            mask=mask,
            input_form="uint8",
            checkpoint_sha256="0" * 64,
            weights_sha256="1" * 64,
        )

    def builds(
        self,
        precision: str,
        folder: Path,
        *,
        int8: float = 0.9,
        batch: tuple[int, int, int] = (1, 4, 16),
    ) -> None:
        """An engine of the network with a soft mask, as `builds` has it."""
        model = self.in_precision(precision)
        builds(model, self.artefact("soft"), precision, folder, int8=int8, batch=batch)
