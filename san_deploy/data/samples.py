"""The sample crops that ship with the package: drawn people before three cameras, with their identities.

`sample_crops.zip` is a crop folder (`cam1/t001/0001.jpg ... identities.csv`), drawn once by
tools/starter/make_samples.py, which says with which settings. 24 people pass all three cameras, 6 pass one camera
only, in 8 crops each.
"""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from io import BytesIO, TextIOWrapper
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from ..errors import SanError
from ..images import spread

PACK = "sample_crops.zip"
IDENTITIES = "identities.csv"


@dataclass(frozen=True)
class SampleCrop:
    """One of the sample crops.

    Attributes:
        name: path in the pack, `cam1/t001/0001.jpg`.
        person: number of the person in it; equal numbers are the same person.
        jpeg: the file.
    """

    name: str
    person: int
    jpeg: bytes

    @property
    def track(self) -> str:
        """Camera and tracklet, `cam1/t001`."""
        return PurePosixPath(self.name).parent.as_posix()

    def read(self) -> np.ndarray:
        """The picture, `(H, W, 3)` uint8 BGR."""
        with Image.open(BytesIO(self.jpeg)) as image:
            return np.ascontiguousarray(np.asarray(image.convert("RGB"))[:, :, ::-1])


def read_samples(count: int | None = None) -> list[SampleCrop]:
    """Sample crops in the order of their names.

    Args:
        count: how many, spread evenly over cameras and tracklets; None gives all.

    Raises:
        SanError: the installation lacks the pack, or it is damaged.
    """
    with _pack() as pack:
        with pack.open(IDENTITIES) as file:
            rows = csv.DictReader(TextIOWrapper(file, encoding="utf-8", newline=""))
            person_of = {f"{row['camera']}/{row['track']}": int(row["person"]) for row in rows}
        names = sorted(name for name in pack.namelist() if name.endswith(".jpg"))
        names = names if count is None else spread(names, count)
        return [
            SampleCrop(name, person_of[PurePosixPath(name).parent.as_posix()], pack.read(name))
            for name in names
        ]


def extract_samples(folder: Path) -> None:
    """Write the sample crops and identities.csv as a crop folder.

    Args:
        folder: an existing folder.

    Raises:
        SanError: the installation lacks the pack, or it is damaged.
        OSError: `folder` cannot be written to.
    """
    with _pack() as pack:
        pack.extractall(folder)


@contextmanager
def _pack() -> Iterator[zipfile.ZipFile]:
    with as_file(files(__package__) / PACK) as path:
        try:
            with zipfile.ZipFile(path) as pack:
                yield pack
        except (FileNotFoundError, zipfile.BadZipFile, KeyError, ValueError) as error:
            raise SanError(
                f"the sample crops in {path} cannot be read", why=str(error), do="install san-deploy again"
            ) from error
