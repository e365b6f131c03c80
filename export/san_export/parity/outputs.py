"""What another pipeline does: rows that it computed for the same crops, and how it resizes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from san_deploy.errors import SanError, UsageError
from san_deploy.images import list_crops
from san_deploy.preprocess import RESIZES, resize_crop

from .sample import Resize

#: OpenCV's ways to resize beside those of `preprocess.RESIZES`; they need OpenCV.
_OPENCV = ("cv2-area", "cv2-cubic", "cv2-nearest", "cv2-lanczos")
_MAX_BYTES = 4 << 30


@dataclass(frozen=True, eq=False)
class GivenRows:
    """Rows that another program computed.

    Attributes:
        path: of the file.
        rows: `(N, D)` float32, as they came.
        place: the row of each crop, by its path below the folder, with `/`.
    """

    path: Path
    rows: np.ndarray
    place: dict[str, int]

    def of(self, names: Sequence[str]) -> np.ndarray:
        """`(n, D)` float32 rows of crops; SanError where there is none."""
        missing = [name for name in names if name not in self.place]
        if missing:
            raise SanError(
                f"{self.path} has no row for {missing[0]} ({len(missing)} such crops)",
                do="compute the rows of every crop of --crops",
            )
        return self.rows[[self.place[name] for name in names]]


def read_outputs(path: Path, folder: Path) -> GivenRows:
    """Read an .npy of `(N, D)` rows, in the sorted order of the crops' paths, or an .npz.

    An .npz has `embedding` (N, D) and `path` (N,), each below the folder, as `san embed` writes it; or one array, as
    an .npy.

    Args:
        path: of the file; nothing in it is executed.
        folder: of the crops.

    Raises:
        SanError: no such file, something else in it, or not one row for each crop of the folder.
    """
    path = Path(path)
    rows, names = _read(path)
    if rows.ndim != 2 or rows.dtype.kind != "f" or 0 in rows.shape:
        raise SanError(
            f"{path} holds {rows.shape} {rows.dtype}, not rows of embeddings", do="write (N, D) float32"
        )
    if names is None:
        names = [crop.as_posix() for crop in list_crops(folder)]
        if len(names) != len(rows):
            raise SanError(
                f"{path} holds {len(rows)} rows for the {len(names)} crops of {folder}",
                do="give a row for each crop in the sorted order of their paths, or an .npz with `embedding` and "
                "`path`",
            )
    if len(names) != len(rows) or len(set(names)) != len(names):
        raise SanError(f"{path} does not have one path for each of its {len(rows)} rows")
    return GivenRows(path, rows.astype(np.float32), {name: row for row, name in enumerate(names)})


def _read(path: Path) -> tuple[np.ndarray, list[str] | None]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise SanError(f"{path} is larger than {_MAX_BYTES >> 30} GiB", do="give the rows of fewer crops")
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded, None
        with loaded as arrays:
            if {"embedding", "path"} <= set(arrays):
                return arrays["embedding"], [str(name) for name in arrays["path"].tolist()]
            if len(arrays) == 1:
                return arrays[next(iter(arrays))], None
            found = ", ".join(sorted(arrays))
    except FileNotFoundError:
        raise SanError(f"{path} does not exist", do="give an .npy or .npz of rows: --outputs FILE") from None
    except SanError:
        raise
    except Exception as error:  # zipfile's, zlib's and NumPy's readers raise whatever a damaged file leads to
        raise SanError(f"{path} is not an .npy or .npz of rows, or is cut short") from error
    raise SanError(f"{path} holds {found}", do="name the arrays `embedding` and `path`")


def resize_of(name: str) -> Resize:
    """A resize by its name: one of `preprocess.RESIZES`, or OpenCV's area, cubic, nearest or lanczos.

    Raises:
        UsageError: there is none of that name.
        SanError: it needs OpenCV, which is not installed.
    """
    if name in RESIZES:
        return lambda image, size_hw: resize_crop(image, size_hw, name)
    if name not in _OPENCV:
        raise UsageError(f"--resize {name} is unknown", do=f"give one of {', '.join((*RESIZES, *_OPENCV))}")
    try:
        import cv2
    except ImportError:
        raise SanError(f"--resize {name} needs OpenCV", do="pip install opencv-python-headless") from None
    flag = {
        "cv2-area": cv2.INTER_AREA,
        "cv2-cubic": cv2.INTER_CUBIC,
        "cv2-nearest": cv2.INTER_NEAREST,
        "cv2-lanczos": cv2.INTER_LANCZOS4,
    }[name]

    def resize(image: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
        return np.asarray(cv2.resize(image, size_hw[::-1], interpolation=flag))

    return resize
