"""Embedding and ranking labelled crops with a PyTorch network."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from san_deploy import metrics
from san_deploy.datasets import Crop, labels
from san_deploy.errors import SanError
from san_deploy.preprocess import read_crop

from .data import normalise
from .models import Network, std_of


@dataclass(frozen=True)
class Evaluation:
    """Single crops by Market-1501's rule, and tracklets averaged over the ordered pairs of cameras."""

    crops: metrics.Ranking
    tracklet_rank1: float
    tracklet_map: float

    def as_dict(self) -> dict[str, float]:
        """Flat, for logs and JSON."""
        return {
            "rank1": self.crops.rank1,
            "mean_ap": self.crops.mean_ap,
            "mean_inp": self.crops.mean_inp,
            "tracklet_rank1": self.tracklet_rank1,
            "tracklet_map": self.tracklet_map,
        }


def load_crops(crops: Sequence[Crop], size_hw: tuple[int, int], workers: int = 2) -> np.ndarray:
    """Decode and resize as the edge does: `(N, H, W, 3)` uint8 BGR."""
    with ThreadPoolExecutor(workers) as pool:
        return np.stack(list(pool.map(lambda crop: read_crop(crop.path, size_hw), crops)))


@torch.no_grad()
def embed(
    model: Network,
    images: np.ndarray,
    *,
    mask: str | None = None,
    batch: int = 64,
    dtype: torch.dtype = torch.float32,
) -> np.ndarray:
    """Unit embeddings of prepared crops, the network in evaluation mode.

    Args:
        model: on any device; its mode and training flag are restored.
        images: `(N, H, W, 3)` uint8 BGR.
        mask: of `attention.parse_mask`; nothing reads it where the network has no sharp mask.
        batch: crops per pass.
        dtype: the type the network computes in; masks are FP32 in any case.

    Returns:
        `(N, D)` float32, rows of L2 norm 1.

    Raises:
        SanError: an embedding is not finite.
    """
    parameter = next(model.parameters())
    if parameter.dtype != dtype:
        # A copy: weights rounded to 16 bits and back are not the weights any more.
        model = copy.deepcopy(model).to(dtype)
    was_training, was_mask = model.training, model.mode.evaluate
    device = parameter.device
    model.eval()
    model.mode.evaluate = mask or was_mask
    try:
        rows = [
            torch.nn.functional.normalize(
                model(normalise(images[i : i + batch], device, std_of(model)).to(dtype)).float(), dim=1
            ).cpu()
            for i in range(0, len(images), batch)
        ]
    finally:
        model.mode.evaluate = was_mask
        model.train(was_training)
    result = torch.cat(rows).numpy()
    if not np.isfinite(result).all():
        raise SanError("the network gave NaN or infinity", do="lower the learning rate, or train in fp32")
    return result


def rank(embedding: np.ndarray, crops: Sequence[Crop]) -> Evaluation:
    """Every crop a query against all others, and pooled tracklets of each camera against each other camera."""
    person, camera, track = labels(crops)
    single = metrics.evaluate_among(embedding, person=person, camera=camera)
    pairs = metrics.evaluate_tracklets(embedding, person=person, camera=camera, track=track)
    if not pairs:
        raise SanError("no two cameras see the same person", why="validation compares cameras")
    return Evaluation(
        single,
        float(np.mean([ranking.rank1 for ranking in pairs.values()])),
        float(np.mean([ranking.mean_ap for ranking in pairs.values()])),
    )
