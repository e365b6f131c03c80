"""Triton's Python backend: image files as bytes to embeddings, prepared as `san embed` prepares crops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from san_deploy import Embedder
from san_deploy.images import UnreadableImage, read_image_bytes


class TritonPythonModel:
    """One copy of the network in the server; `san export --triton` writes this file into its repository."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the model that lies beside this file.

        Args:
            args: of Triton: `model_instance_kind` and `model_instance_device_id` say where to run.
        """
        folder = Path(__file__).parent
        (model,) = [path for path in folder.iterdir() if path.suffix in (".onnx", ".engine", ".plan")]
        device = "cpu"
        if args["model_instance_kind"] == "GPU":
            device = f"cuda:{args['model_instance_device_id']}"
        self._embedder = Embedder(model, device=device)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Embed the images of all requests in one call; a request with an unreadable image gets an error of its own."""
        crops: list[np.ndarray] = []
        found: list[slice | str] = []
        for request in requests:
            files = pb_utils.get_input_tensor_by_name(request, "image").as_numpy().reshape(-1)
            try:
                read = [read_image_bytes(data, f"image {place}") for place, data in enumerate(files)]
            except UnreadableImage as error:
                found.append(str(error))
                continue
            found.append(slice(len(crops), len(crops) + len(read)))
            crops += read
        rows = self._embedder(crops) if crops else np.zeros((0, 0), np.float32)
        return [_response(rows, place) for place in found]


def _response(rows: np.ndarray, place: slice | str) -> Any:
    if isinstance(place, str):
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(place))
    return pb_utils.InferenceResponse([pb_utils.Tensor("embedding", np.ascontiguousarray(rows[place]))])
