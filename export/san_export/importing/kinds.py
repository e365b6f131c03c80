"""Telling PyTorch weights from ONNX files by their names. Needs no PyTorch."""

from __future__ import annotations

from pathlib import Path

#: Files of a folder that Roboflow's `reid` saves.
CONFIG, WEIGHTS = "reid_config.json", "weights.safetensors"
_SUFFIXES = (".pth", ".pt", ".tar", ".safetensors")


def is_weights(path: Path) -> bool:
    """Whether a path is PyTorch weights: by its ending, or a folder of Roboflow's `reid`."""
    return path.suffix.lower() in _SUFFIXES or (path / CONFIG).is_file()
