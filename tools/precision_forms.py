"""A trained network in each precision, as it can be measured on a CPU: for studies. Needs PyTorch."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from san_export.checkpoint import export_graph
from san_export.onnx_writer import write_onnx
from san_export.precision.emulate_fp16 import emulate_fp16
from san_export.precision.fp16 import to_fp16
from san_export.precision.int8 import METHOD, quantise
from san_export.verify import Gate, embed_in_batches, open_checked

from san_deploy.artefact import Artefact

#: FP16 has every rounding of a GPU; INT8 comes in the form of a CPU and of TensorRT.
FORMS = ("FP32", "FP16", "INT8 cpu", "INT8 tensorrt")
_BATCH = 32


def fp32_graph(checkpoint: Path, path: Path, *, mask: str | None = None) -> tuple[onnx.ModelProto, Artefact]:
    """Write a checkpoint's FP32 graph to `path`, whatever it differs by, and read it again.

    Args:
        checkpoint: of san train.
        path: of the ONNX file.
        mask: as `san export` takes it; None is the checkpoint's own.

    Raises:
        SanError: no checkpoint, or a graph that does not run.
    """
    graph = export_graph(
        checkpoint,
        path,
        mask=mask,
        input_form="uint8",
        crops=None,
        gate=Gate(-1.0),
        opset=18,
        report=lambda line: None,
    )
    return onnx.load(path), graph.artefact


def to_precision(
    model: onnx.ModelProto, form: str, calibration: np.ndarray, *, method: str = METHOD
) -> onnx.ModelProto:
    """An FP32 graph in one of `FORMS`, not changed itself.

    Args:
        model: of `fp32_graph`.
        form: one of `FORMS`.
        calibration: `(N, H, W, 3)` uint8 BGR, for INT8.
        method: of INT8's ranges, see `ranges.METHODS`.
    """
    if form == "FP32":
        return model
    if form == "FP16":
        return emulate_fp16(to_fp16(model))
    return quantise(model, calibration, form=form.partition(" ")[2], method=method)


def embeddings(model: onnx.ModelProto, artefact: Artefact, images: np.ndarray) -> np.ndarray:
    """Embeddings in ONNX Runtime, `(N, D)` float32, of `(N, H, W, 3)` uint8 BGR crops."""
    with TemporaryDirectory(prefix="san-precision-") as folder:
        path = Path(folder) / "model.onnx"
        write_onnx(model, artefact, path)
        return embed_in_batches(open_checked(path), images, _BATCH)
