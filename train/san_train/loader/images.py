"""What views are drawn from, by number: crop files, or one file of pixels. Both travel to another process as paths."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from san_deploy.images import read_image


class Images(Protocol):
    """Images by number. Implementations can be pickled, and are then small: another process reads for itself."""

    def __getitem__(self, number: int) -> np.ndarray:
        """`(H, W, 3)` uint8 BGR; not to be written into."""
        ...


class CropCache:
    """Decoded crops by number, kept up to `limit_bytes`; beyond it they are decoded again each time.

    A copy in another process starts empty.

    Args:
        paths: of the crops.
        limit_bytes: of what this process keeps.
    """

    def __init__(self, paths: Sequence[Path], *, limit_bytes: int = 3 << 30) -> None:
        self.paths, self.limit_bytes = list(paths), limit_bytes
        self._kept: dict[int, np.ndarray] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def __getitem__(self, number: int) -> np.ndarray:
        image = self._kept.get(number)
        if image is None:
            image = read_image(self.paths[number])
            with self._lock:
                if number not in self._kept and self._bytes + image.nbytes <= self.limit_bytes:
                    self._kept[number] = image
                    self._bytes += image.nbytes
        return image

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths, "limit_bytes": self.limit_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


class PixelFile:
    """Images that lie one after the other in a file, which is mapped: processes share what they read of it.

    Args:
        path: of the file.
        offset: `(N,)` int64, where each begins.
        shape: `(N, 2)` int64, height and width of each.
    """

    def __init__(self, path: Path, offset: np.ndarray, shape: np.ndarray) -> None:
        self.path, self.offset, self.shape = path, offset, shape

    @cached_property
    def _pixels(self) -> np.ndarray:
        return np.memmap(self.path, np.uint8, "r")

    def __getitem__(self, number: int) -> np.ndarray:
        (height, width), start = self.shape[number].tolist(), int(self.offset[number])
        return self._pixels[start : start + height * width * 3].reshape(height, width, 3)

    def __getstate__(self) -> dict[str, Any]:
        # Without the map, which would travel as its bytes.
        return {"path": self.path, "offset": self.offset, "shape": self.shape}
