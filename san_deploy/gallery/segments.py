"""Append-only files of float32 vectors: what lies behind the committed length does not count."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ..errors import SanError

#: Vectors in a file, after which the next one is begun: 32 MB each at 128 numbers.
ROWS_PER_SEGMENT = 65536


def segment_path(folder: Path, number: int) -> Path:
    """The file of segment `number`."""
    return folder / f"{number:08d}.f32"


def append(folder: Path, number: int, rows_before: int, vectors: np.ndarray) -> None:
    """Write vectors behind the first `rows_before` of a segment, and wait until they are on the disk.

    What a killed writer left behind them is overwritten and cut off.

    Args:
        folder: of the segments.
        number: of the segment; its file is made where it is missing.
        rows_before: committed vectors of it.
        vectors: `(N, D)` float32.

    Raises:
        SanError: the file is shorter than what was committed.
        OSError: no space, no permission.
    """
    path = segment_path(folder, number)
    width = vectors.shape[1] * 4
    with path.open("r+b" if path.exists() else "w+b") as file:
        if file.seek(0, os.SEEK_END) < rows_before * width:
            raise SanError(f"{path} is cut short", do="restore it from a copy, or fill a new gallery")
        file.seek(rows_before * width)
        file.truncate()
        file.write(np.ascontiguousarray(vectors, "<f4").tobytes())
        file.flush()
        os.fsync(file.fileno())


def read(folder: Path, number: int, rows: int, dim: int) -> np.ndarray:
    """The first `rows` vectors of a segment, `(rows, D)` float32, mapped and not read.

    Raises:
        SanError: the file is missing or shorter.
    """
    path = segment_path(folder, number)
    try:
        if path.stat().st_size < rows * dim * 4:
            raise SanError(f"{path} is cut short", do="restore it from a copy, or fill a new gallery")
        if not rows:
            return np.zeros((0, dim), np.float32)
        return np.memmap(path, "<f4", "r", shape=(rows, dim))
    except OSError as error:
        raise SanError(
            f"{path} cannot be read: {error.strerror or error}", do="restore it from a copy"
        ) from error
