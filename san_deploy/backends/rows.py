"""What every runtime's output is held against: one finite row of norm 1 for each crop."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import SanError

#: Rows may differ from norm 1 by this much. The norm is computed in FP32, whatever the network is.
NORM_TOLERANCE = 1e-3


def check_rows(rows: np.ndarray, *, shape: tuple[int, int], path: Path, do: str) -> np.ndarray:
    """Give `rows` back, or refuse them.

    Args:
        rows: what the runtime gave, float32.
        shape: (crops, embedding_dim) that it should have given.
        path: the model, for messages.
        do: what to do about a bad model.

    Raises:
        SanError: another shape, or a row that is not finite or not of norm 1.
    """
    if rows.shape != shape:
        raise SanError(f"{path} gave {rows.shape} for {shape[0]} crops", do=do)
    with np.errstate(all="ignore"):
        norm = np.linalg.norm(rows, axis=1)
        # Written so that NaN, too, is bad.
        bad = np.flatnonzero(~(np.abs(norm - 1.0) <= NORM_TOLERANCE))
    if len(bad):
        named = ", ".join(map(str, bad[:5].tolist())) + (" and more" if len(bad) > 5 else "")
        raise SanError(
            f"{path} gave embeddings that are not finite or not of norm 1",
            why=f"{len(bad)} of {len(rows)} rows: {named}",
            do=do,
        )
    return rows
