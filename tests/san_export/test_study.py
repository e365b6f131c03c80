"""Forms that studies measure: each is in the precision that it says, and near the network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from san_export.crops import CheckCrops
from san_export.graph.precision_stats import count_operands
from san_export.study import FORMS, fp32_graph, lowered, rows
from san_export.verify import row_cosine
from san_train import evaluate
from san_train.checkpoint import CheckpointInfo, save_checkpoint
from san_train.models import SharpAttentionNetwork

from san_deploy.preprocess import RESIZE

LEAST = {"FP32": 0.9999, "FP16": 0.98, "INT8 cpu": 0.5, "INT8 tensorrt": 0.5}


def test_a_checkpoint_in_every_form(
    bilinear: SharpAttentionNetwork, crops: CheckCrops, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "model.safetensors"
    recipe = {"deploy_mask": "ramp:0.125"}
    save_checkpoint(
        checkpoint,
        bilinear,
        CheckpointInfo("san", bilinear.settings.as_dict(), RESIZE, 1, recipe=recipe),
    )
    model, artefact = fp32_graph(checkpoint, tmp_path / "fp32.onnx")
    assert artefact.mask == "ramp:0.125"
    reference = evaluate.embed(bilinear, crops.images, mask="ramp:0.125")
    for form in FORMS:
        lower = lowered(model, form, crops.images)
        got = rows(lower, artefact, crops.images)
        assert np.median(row_cosine(got, reference)) > LEAST[form]
        if form.startswith("INT8"):
            assert count_operands(lower).int8 > 0.4
            assert lowered(model, form, crops.images, method="minmax") != lower
    # Rounded FP16 computes in FP32 between its roundings.
    assert count_operands(lowered(model, "FP16", crops.images)).fp16 == 0
    assert lowered(model, "FP32", crops.images) is model
