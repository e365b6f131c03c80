"""tools/precision_forms.py: each form is in the precision that it says, and near the network."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import torch
from san_export.graph.precision_stats import count_operands
from san_export.verify import row_cosine, sample_crops
from san_train import evaluate
from san_train.checkpoint import CheckpointInfo, save_checkpoint
from san_train.data import normalise
from san_train.models import build_model

from san_deploy.preprocess import RESIZE

SETTINGS = {"depth": 18, "width": 0.125, "size_hw": (64, 32), "hidden": 32, "embedding_dim": 16}
LEAST = {"FP32": 0.9999, "FP16": 0.98, "INT8 cpu": 0.5, "INT8 tensorrt": 0.5}


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    folder = str(Path(__file__).parent.parent / "tools")
    sys.path.insert(0, folder)
    try:
        import precision_forms
    finally:
        sys.path.remove(folder)
    return precision_forms


def test_a_checkpoint_in_every_form(tool: ModuleType, tmp_path: Path) -> None:
    images = sample_crops((64, 32), 20).images
    torch.manual_seed(3)
    network = build_model("san", {**SETTINGS, "upsample": "bilinear"}).train()
    with torch.no_grad():
        for _ in range(30):
            network(normalise(images, torch.device("cpu")))
    network.eval()
    checkpoint = tmp_path / "model.safetensors"
    save_checkpoint(checkpoint, network, CheckpointInfo("san", network.settings.as_dict(), RESIZE, 1))
    model, artefact = tool.fp32_graph(checkpoint, tmp_path / "fp32.onnx", mask="ramp:0.125")
    assert artefact.mask == "ramp:0.125"
    reference = evaluate.embed(network, images, mask="ramp:0.125")
    for form in tool.FORMS:
        lower = tool.to_precision(model, form, images)
        got = tool.embeddings(lower, artefact, images)
        assert np.median(row_cosine(got, reference)) > LEAST[form]
        if form.startswith("INT8"):
            assert count_operands(lower).int8 > 0.4
            assert tool.to_precision(model, form, images, method="minmax") != lower
    # Rounded FP16 computes in FP32 between its roundings.
    assert count_operands(tool.to_precision(model, "FP16", images)).fp16 == 0
    assert tool.to_precision(model, "FP32", images) is model
