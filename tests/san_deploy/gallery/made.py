"""Made tracklets, and a model's description."""

from __future__ import annotations

from typing import Any

import numpy as np

from san_deploy.gallery import Tracks

DIM = 8
MODEL: dict[str, Any] = {"sha256": "f" * 64, "space": "a" * 64, "embedding_dim": DIM, "arch": "made"}


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def tracks(
    camera: str, number: int, *, seed: int = 0, first: int = 0, start: float | None = 1000.0
) -> Tracks:
    """`number` tracklets `t0000...` of random directions, each seen for five seconds, ten seconds apart."""
    rng = np.random.default_rng((seed, *camera.encode()))
    times = np.full(number, np.nan) if start is None else start + 10.0 * np.arange(number)
    return Tracks(
        camera,
        np.array([f"t{index:04d}" for index in range(first, first + number)]),
        unit(rng.normal(size=(number, DIM))),
        np.full(number, 3, np.int64),
        times,
        times + 5,
    )
