"""Test-time augmentation: several views of one crop, whose embeddings are summed.

Views are uint8 crops like any other, so that every runtime takes them, and pixels are normalised where they always
are, in the network. Each view's embedding has length 1; their sum is brought to length 1 once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import SanError, UsageError
from ..preprocess import RESIZE, read_crop

#: Name -> how many views.
VIEWS = {"none": 1, "flip": 2, "ten-crop": 10}
#: Ten-crop resizes by this before it cuts: AlexNet's 256 / 224, which the paper's "standard 10-crop testing" cites.
#: A cut has 77 % of the area, within the 64 % to 100 % that the paper trains on (Sec. IV.B).
SCALE = 8 / 7


@dataclass(frozen=True)
class TTA:
    """Which views are taken.

    Args:
        name: `none`, the crop itself; `flip`, and its mirror image; `ten-crop`, the four corners and the centre of a
            larger one, and their mirror images.

    Raises:
        UsageError: any other name.
    """

    name: str = "none"

    def __post_init__(self) -> None:
        if self.name not in VIEWS:
            raise UsageError(f"--tta {self.name} is unknown", do=f"give one of {', '.join(VIEWS)}")

    @property
    def count(self) -> int:
        """Views of one crop."""
        return VIEWS[self.name]

    def read(self, path: Path, size_hw: tuple[int, int], resize: str = RESIZE) -> np.ndarray:
        """The views of an image file.

        Args:
            path: of the file.
            size_hw: height and width of each view, pixels.
            resize: a name in `preprocess.RESIZES`.

        Returns:
            `(count, size_hw[0], size_hw[1], 3)` uint8 BGR.

        Raises:
            UnreadableImage: see `images.read_image`.
        """
        height, width = size_hw
        if self.name != "ten-crop":
            crops = read_crop(path, size_hw, resize)[None]
        else:
            large_hw = round(height * SCALE), round(width * SCALE)
            large = read_crop(path, large_hw, resize)
            down, across = large_hw[0] - height, large_hw[1] - width
            corners = ((0, 0), (0, across), (down, 0), (down, across), (down // 2, across // 2))
            crops = np.stack([large[y : y + height, x : x + width] for y, x in corners])
        return crops if self.name == "none" else np.concatenate([crops, crops[:, :, ::-1]])

    def pool(self, rows: np.ndarray) -> np.ndarray:
        """Embeddings of crops from those of their views.

        Args:
            rows: `(N x count, D)` float32 embeddings of norm 1, the views of a crop one after the other.

        Returns:
            `(N, D)` float32 embeddings of norm 1; `rows` itself where there is one view each.

        Raises:
            SanError: the views of a crop cancel out.
        """
        if self.count == 1:
            return rows
        total = rows.reshape(-1, self.count, rows.shape[1]).sum(axis=1, dtype=np.float64)
        norm = np.linalg.norm(total, axis=1, keepdims=True)
        if (norm < 1e-6).any():
            raise SanError(f"the {self.count} views of a crop cancel out", do="evaluate with --tta none")
        return np.asarray(total / norm, np.float32)
