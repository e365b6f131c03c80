"""The crops that an INT8 file is calibrated on, and the labelled ones that its accuracy is measured on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from san_deploy import metrics
from san_deploy.backends import Backend
from san_deploy.datasets import Crop, is_dataset, labels, read_dataset
from san_deploy.errors import SanError
from san_deploy.images import UnreadableImage, list_crops
from san_deploy.preprocess import RESIZE, read_crop

from ..verify import BATCHES, COUNT, CheckCrops, embed_in_batches

#: Fewer crops give ranges that the next crop leaves.
LEAST = 32
#: Splits whose people judge a network: no range and no choice may come from them.
_JUDGES = frozenset({"test", "query", "gallery"})
#: Crops that accuracy is measured on, at most; whole people.
_MOST_LABELLED = 1500
_BATCH = 32


@dataclass(frozen=True)
class CalibrationCrops:
    """Crops to calibrate on, and others to check on.

    Attributes:
        images: `(N, H, W, 3)` uint8 BGR, resized as for every other use.
        check: further crops of the same folder; the same ones where it holds no more.
        folder: its name.
        seed: that chose them.
        sha256: of `images`.
        unreadable: files that were passed over.
    """

    images: np.ndarray
    check: CheckCrops
    folder: str
    seed: int
    sha256: str
    unreadable: int


def pick_crops(
    folder: Path, size_hw: tuple[int, int], *, count: int, seed: int, resize: str = RESIZE
) -> CalibrationCrops:
    """Choose `count` crops of `folder` by `seed`; all of them where it holds fewer.

    Of a labelled data set, people who judge networks (`test`, `query`, `gallery`) are left out.

    Raises:
        SanError: no such folder, or fewer than `LEAST` crops that can be read.
    """
    folder = Path(folder)
    paths = _calibration_paths(folder)
    order = np.random.default_rng(seed).permutation(len(paths))
    images: list[np.ndarray] = []
    names: list[str] = []
    unreadable = 0
    for place in order:
        if len(images) == count + COUNT:
            break
        try:
            images.append(read_crop(paths[place], size_hw, resize))
            names.append(paths[place].relative_to(folder).as_posix())
        except UnreadableImage:
            unreadable += 1
    if len(images) < LEAST:
        reasons = [f"{unreadable} files cannot be read"] if unreadable else []
        if is_dataset(folder):
            reasons.append("crops of test, query and gallery people do not count")
        raise SanError(
            f"{folder} holds {len(images)} crops to calibrate on, at least {LEAST} are needed",
            why="; ".join(reasons),
            do="give a folder of some hundred crops from your own cameras: --calib DIR",
        )
    used = min(count, len(images))
    # A check runs batches of 16; with fewer crops left over it takes those of the calibration.
    rest = slice(used, None) if len(images) - used >= BATCHES[-1] else slice(0, COUNT)
    chosen = np.stack(images[:used])
    check = CheckCrops(np.stack(images[rest]), tuple(names[rest]), f"crops of {folder.resolve().name}")
    digest = hashlib.sha256(np.ascontiguousarray(chosen).tobytes()).hexdigest()
    return CalibrationCrops(chosen, check, folder.resolve().name, seed, digest, unreadable)


@dataclass(frozen=True)
class Labelled:
    """Labelled crops, resized: each a query against all the others, Market-1501's rule.

    Attributes:
        images: `(N, H, W, 3)` uint8 BGR.
        person, camera: `(N,)`.
        source: in words.
    """

    images: np.ndarray
    person: np.ndarray
    camera: np.ndarray
    source: str

    def accuracy(self, backend: Backend) -> dict[str, float]:
        """`rank1` and `mAP`, 0..1.

        Raises:
            SanError: nobody is seen by two cameras.
        """
        rows = embed_in_batches(backend, self.images, _BATCH)
        ranking = metrics.evaluate_among(rows, person=self.person, camera=self.camera)
        return {"rank1": ranking.rank1, "mAP": ranking.mean_ap}


def read_labelled(
    folder: Path, size_hw: tuple[int, int], *, seed: int, resize: str = RESIZE
) -> Labelled | None:
    """Labelled crops of people who do not judge networks, whole people in an order that `seed` gives.

    The `val` people, where there are any: the network was not trained on them.

    Returns:
        None where the folder has no labels.

    Raises:
        SanError: the labels are damaged, or nobody is left.
    """
    if not is_dataset(folder):
        return None
    splits = _open_splits(folder)
    name = "val" if "val" in splits else ", ".join(splits)
    crops = splits.get("val") or [crop for split in splits.values() for crop in split]
    if not crops:
        raise SanError(
            f"{folder} has labels of {', '.join(sorted(_JUDGES))} people alone, who judge networks",
            do="give labelled crops of other people",
        )
    people = np.unique([crop.person for crop in crops if crop.person > 0])
    chosen: list[Crop] = []
    for person in np.random.default_rng(seed).permutation(people).tolist():
        chosen += [crop for crop in crops if crop.person == person]
        if len(chosen) >= _MOST_LABELLED:
            break
    person, camera, _ = labels(chosen)
    images = np.stack([read_crop(crop.path, size_hw, resize) for crop in chosen])
    count = len(set(person.tolist()))
    source = f"{len(chosen)} crops of {count} {name} people of {folder.resolve().name}"
    if name != "val":
        # On people whom it knows by heart a network has little to lose.
        source += ", whom the network may have been trained on"
    return Labelled(images, person, camera, source)


def _open_splits(folder: Path) -> dict[str, list[Crop]]:
    return {name: crops for name, crops in read_dataset(folder).splits.items() if name not in _JUDGES}


def _calibration_paths(folder: Path) -> list[Path]:
    if is_dataset(folder):
        return sorted(crop.path for crops in _open_splits(folder).values() for crop in crops)
    return [folder / path for path in list_crops(folder)]
