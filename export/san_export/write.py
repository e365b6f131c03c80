"""Writing an ONNX file with its description inside. Needs no PyTorch."""

from __future__ import annotations

from pathlib import Path

import onnx

from san_deploy.artefact import Artefact


def write_onnx(model: onnx.ModelProto, artefact: Artefact, path: Path) -> None:
    """Write `model` with the contract in its metadata_props; equal arguments give equal bytes.

    Args:
        model: of `to_onnx`; its metadata is replaced.
        artefact: what to write into it.
        path: an existing folder; the caller cares for the file's final name.
    """
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, dict(sorted(artefact.metadata_props().items())))
    path.write_bytes(model.SerializeToString(deterministic=True))
