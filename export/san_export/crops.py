"""The crops that an export is checked on: a user's own, or the sample crops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from san_deploy.errors import SanError
from san_deploy.images import UnreadableImage, list_crops, read_image
from san_deploy.preprocess import resize_crop

#: Crops to check on: a multiple of every batch of `check.BATCHES`, few enough for a ResNet-50 on two cores.
COUNT = 48


@dataclass(frozen=True)
class CheckCrops:
    """Crops to check on.

    Attributes:
        images: `(N, H, W, 3)` uint8 BGR, resized as for every other use.
        names: N names, for messages.
        source: whose they are, in words.
        unreadable: files that were passed over.
    """

    images: np.ndarray
    names: tuple[str, ...]
    source: str
    unreadable: int = 0


def read_crops(folder: Path, size_hw: tuple[int, int], count: int = COUNT) -> CheckCrops:
    """Up to `count` crops of a folder, spread evenly over its cameras and tracklets; always the same ones.

    Raises:
        SanError: no such folder, no image in it, or none that can be read.
    """
    paths = list(list_crops(folder))
    images, names, unreadable = [], [], 0
    for place in np.unique(np.linspace(0, len(paths) - 1, min(count, len(paths))).round().astype(int)):
        try:
            images.append(resize_crop(read_image(folder / paths[place]), size_hw))
            names.append(paths[place].as_posix())
        except UnreadableImage:
            unreadable += 1
    if not images:
        raise SanError(f"none of the crops in {folder} can be read", why=f"{unreadable} were tried")
    return CheckCrops(np.stack(images), tuple(names), f"crops of {folder.resolve().name}", unreadable)


def check_crops(folder: Path | None, size_hw: tuple[int, int], report: Callable[[str], None]) -> CheckCrops:
    """The crops of `folder`, or the sample crops where there is none; `report` is told of unreadable files."""
    chosen = draw_crops(size_hw) if folder is None else read_crops(folder, size_hw)
    report_unreadable(chosen.unreadable, report)
    return chosen


def report_unreadable(count: int, report: Callable[[str], None]) -> None:
    """Tell `report` how many files were passed over, where there are any."""
    if count:
        report(f"{count} of the crops cannot be read and {'is' if count == 1 else 'are'} passed over")


def draw_crops(size_hw: tuple[int, int], count: int = COUNT) -> CheckCrops:
    """`count` of the sample crops that ship with the package, spread over their cameras; always the same."""
    from san_deploy.data.samples import read_samples

    samples = read_samples(count)
    images = [resize_crop(sample.read(), size_hw) for sample in samples]
    return CheckCrops(np.stack(images), tuple(sample.name for sample in samples), "the sample crops")
