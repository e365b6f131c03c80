"""Batches for training: decoded crops kept in memory, augmented in threads ahead of the network."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from san_deploy.datasets import DISTRACTOR, Crop, Dataset
from san_deploy.errors import SanError
from san_deploy.images import read_image
from san_deploy.preprocess import MEAN_RGB, STD_RGB

from .augment import Augmentation, augment

#: Batches prepared ahead: enough to hide decoding, few enough to keep memory small.
_AHEAD = 3


@dataclass(frozen=True)
class TrainingData:
    """Crops to train on and to validate on.

    Attributes:
        crops: the training crops; `person` is unique over data sets.
        domain: `(N,)`, which data set each is from.
        classes: `(N,)`, identities counted from 0.
        validation: crops of people who are not trained on; may be empty.
        sources: each data set in words.
    """

    crops: list[Crop]
    domain: list[int]
    classes: list[int]
    validation: list[Crop]
    sources: list[str]


def gather(datasets: Sequence[Dataset], *, validation_people: int, seed: int) -> TrainingData:
    """Put data sets together; people and cameras of different sets are different.

    Validation takes the `val` splits; where there is none and `validation_people` is above 0, that many
    people of the first data set are held out.

    Raises:
        SanError: no training crop, one person alone, or fewer people than are to be held out.
    """
    crops: list[Crop] = []
    domain: list[int] = []
    validation: list[Crop] = []
    sources = []
    for index, dataset in enumerate(datasets):
        train = [crop for crop in dataset.splits.get("train", []) if crop.person != DISTRACTOR]
        val = list(dataset.splits.get("val", []))
        if not train:
            raise SanError(
                f"{dataset.root} has no crops of the split train",
                do="give identities.csv a column split with train in it",
            )
        if index == 0 and not val and validation_people:
            people = np.array(sorted({crop.person for crop in train}))
            if validation_people > len(people) - 2:
                raise SanError(
                    f"{dataset.root} has {len(people)} people to train on",
                    why=f"{validation_people} are to be held out for validation",
                )
            held = set(np.random.default_rng([seed, 7]).permutation(people)[:validation_people].tolist())
            val = [crop for crop in train if crop.person in held]
            train = [crop for crop in train if crop.person not in held]
        crops += train
        domain += [index] * len(train)
        validation += val
        sources.append(
            f"{dataset.name} {dataset.root.name}: {len(train)} crops of {len({crop.person for crop in train})} people"
        )
    keys = sorted({(where, crop.person) for where, crop in zip(domain, crops, strict=True)})
    if len(keys) < 2:
        raise SanError(
            "there is one person to train on", why="a re-ID network learns from differences between people"
        )
    number = {key: i for i, key in enumerate(keys)}
    classes = [number[where, crop.person] for where, crop in zip(domain, crops, strict=True)]
    return TrainingData(crops, domain, classes, validation, sources)


class CropCache:
    """Decoded crops by index, kept up to `limit_bytes`; beyond it they are decoded again each time."""

    def __init__(self, crops: Sequence[Crop], *, limit_bytes: int = 3 << 30) -> None:
        self.crops = crops
        self._limit = limit_bytes
        self._kept: dict[int, np.ndarray] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def __getitem__(self, index: int) -> np.ndarray:
        image = self._kept.get(index)
        if image is None:
            image = read_image(self.crops[index].path)
            with self._lock:
                if index not in self._kept and self._bytes + image.nbytes <= self._limit:
                    self._kept[index] = image
                    self._bytes += image.nbytes
        return image


def batches(
    cache: CropCache,
    plan: Sequence[Sequence[int]],
    *,
    size_hw: tuple[int, int],
    augmentation: Augmentation,
    seed: int,
    epoch: int,
    workers: int = 2,
) -> Iterator[np.ndarray]:
    """Augmented batches, `(B, H, W, 3)` uint8 BGR, in the order of `plan`, whatever the threads' timing.

    Each crop's augmentation has a generator of its own, seeded by (seed, epoch, batch, place).
    """

    def view(step: int, place: int, index: int) -> np.ndarray:
        return augment(
            cache[index], size_hw, augmentation, np.random.default_rng([seed, epoch, step, place, 2])
        )

    with ThreadPoolExecutor(workers, thread_name_prefix="augment") as pool:
        waiting: list[list[Future[np.ndarray]]] = []
        following = enumerate(plan)
        try:
            for _ in range(len(plan)):
                while len(waiting) < _AHEAD:
                    step, batch = next(following, (0, None))
                    if batch is None:
                        break
                    waiting.append(
                        [pool.submit(view, step, place, index) for place, index in enumerate(batch)]
                    )
                yield np.stack([future.result() for future in waiting.pop(0)])
        finally:
            for futures in waiting:
                for future in futures:
                    future.cancel()


def normalise(crops: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """`(N, H, W, 3)` uint8 BGR to `(N, 3, H, W)` float32 RGB, ImageNet-normalised, channels-last in memory."""
    x = torch.as_tensor(crops).to(device).flip(-1).float()
    mean = torch.tensor(MEAN_RGB, device=device) * 255.0
    std = torch.tensor(STD_RGB, device=device) * 255.0
    return ((x - mean) / std).permute(0, 3, 1, 2)
