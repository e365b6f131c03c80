"""What CUHK03's MATLAB files hold: cuhk-03.mat is HDF5 (v7.3), the new protocol's lists are of the older kind.

MATLAB writes arrays column by column, so that HDF5 shows every one of them transposed. In cuhk-03.mat:

- `labeled` and `detected`: a cell of 5 camera pairs, each a cell (people x 10) of images H x W x 3 uint8 RGB;
  images 1-5 are of the first view, 6-10 of the second; a missing one is empty.
- `testsets`: a cell of 20 matrices (100 x 2): camera pair and person in it, both from 1.
"""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import SanError
from ..images import MAX_PIXELS
from ..io.extras import install

_EXTRA = install("cuhk03")
#: Types of the elements of a MATLAB 5 file.
_MATRIX, _COMPRESSED = 14, 15


def person(pair: int, index: int) -> int:
    """One number for a person of a camera pair, both counted from 1. A pair has fewer than 1000 people."""
    return 1000 * pair + index


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """cuhk-03.mat as an h5py file.

    Raises:
        SanError: h5py is not installed, or the file is not HDF5.
    """
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise SanError(f"reading {path} needs h5py", do=_EXTRA) from error
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise SanError(
            f"{path} cannot be read", why=f"it is not a MATLAB file of version 7.3: {error}"
        ) from error
    with file:
        yield file


def extract(file: Any, boxes: str, folder: Path) -> None:
    """Write the crops of `boxes` (`labeled` or `detected`) to `folder` as 1_003_2_08.png.

    Raises:
        SanError: the file does not have the structure above.
    """
    for name, pixels in _images(file, boxes):
        Image.fromarray(pixels).save(folder / name, compress_level=1)


def test_sets(file: Any) -> list[set[int]]:
    """The people of each test set of the old protocol.

    Raises:
        SanError: the file does not have the structure above.
    """
    try:
        sets = []
        for reference in np.ravel(file["testsets"][()]):
            rows = file[reference][()]
            if rows.ndim != 2 or len(rows) != 2:
                raise ValueError(f"a test set has shape {rows.shape[::-1]}")
            # Both count from 1; written so that NaN is refused, too.
            if not ((rows >= 1) & (rows < 1000) & (rows % 1 == 0)).all():
                raise ValueError("a test set names nobody")
            sets.append({person(int(pair), int(index)) for pair, index in rows.T})
        if not sets:
            raise ValueError("it holds no test set")
    except (KeyError, ValueError, TypeError, AttributeError, OSError, RuntimeError) as error:
        raise _not_cuhk03(file, error) from error
    return sets


def new_protocol(path: Path) -> dict[str, list[str]]:
    """File names by split (`train`, `query`, `gallery`) of a cuhk03_new_protocol_config_*.mat.

    Raises:
        SanError: scipy is not installed, or the file is not of that kind.
    """
    try:
        from scipy.io import loadmat
    except ModuleNotFoundError as error:
        raise SanError(f"reading {path} needs scipy", do=_EXTRA) from error
    try:
        data = path.read_bytes()
        _check_whole(data)
        content = loadmat(io.BytesIO(data))
        files = [str(np.ravel(cell)[0]) for cell in np.ravel(content["filelist"])]
        splits = {}
        for split in ("train", "query", "gallery"):
            rows = np.ravel(content[f"{split}_idx"]).astype(np.int64)
            if not len(rows) or rows.min() < 1 or rows.max() > len(files):
                raise ValueError(f"{split}_idx reaches beyond the {len(files)} files")
            splits[split] = [files[row - 1] for row in rows]
    except Exception as error:  # scipy's parser raises whatever a damaged file leads to.
        raise SanError(f"{path} is not a list of CUHK03's new protocol", why=str(error)) from error
    return splits


def _check_whole(data: bytes) -> None:
    """Check the elements of a MATLAB 5 file and the sums within those that are compressed: scipy 1.17 crashes the
    process on damage. ValueError where something is not as it was written."""
    place = 128
    order = ">" if data[126:128] == b"MI" else "<"
    while place < len(data):
        kind, length = struct.unpack_from(f"{order}II", data, place) if len(data) >= place + 8 else (0, 0)
        if kind not in (_MATRIX, _COMPRESSED) or place + 8 + length > len(data):
            raise ValueError(f"it is damaged at byte {place}")
        if kind == _COMPRESSED:
            stream = zlib.decompressobj()
            stream.decompress(data[place + 8 : place + 8 + length], 1 << 28)
            if not stream.eof:
                raise ValueError(f"it is damaged at byte {place}")
        place += 8 + length


def _images(file: Any, boxes: str) -> Iterator[tuple[str, np.ndarray]]:
    """`(file name, (H, W, 3) uint8 RGB)` of each image that is not empty."""
    try:
        for pair, reference in enumerate(np.ravel(file[boxes][()]), 1):
            cells = file[reference][()]
            if cells.ndim != 2 or len(cells) != 10:
                raise ValueError(f"camera pair {pair} has shape {cells.shape[::-1]}")
            for index, row in enumerate(cells.T, 1):
                for image, cell in enumerate(row, 1):
                    data = file[cell]
                    if data.ndim != 3 or 0 in data.shape:
                        continue
                    if data.dtype != np.uint8 or len(data) != 3 or data.size > 3 * MAX_PIXELS:
                        raise ValueError(f"an image has shape {data.shape[::-1]} and type {data.dtype}")
                    view = 1 if image <= 5 else 2
                    pixels = np.ascontiguousarray(data[()].transpose(2, 1, 0))
                    yield f"{pair}_{index:03d}_{view}_{image:02d}.png", pixels
    except (KeyError, ValueError, TypeError, AttributeError, OSError, RuntimeError) as error:
        raise _not_cuhk03(file, error) from error


def _not_cuhk03(file: Any, error: Exception) -> SanError:
    return SanError(f"{file.filename} does not hold CUHK03", why=str(error), do="download cuhk03_release.zip")
