"""What is trained on: data sets put together, who is held out, and how a batch becomes the network's input."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from san_deploy.datasets import DISTRACTOR, Crop, Dataset
from san_deploy.errors import SanError
from san_deploy.images import UnreadableImage, read_image
from san_deploy.preprocess import MEAN_RGB, STD_RGB

#: How a file name, which need not be UTF-8, becomes bytes.
_NAMES = ("utf-8", "surrogateescape")


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


def gather(
    datasets: Sequence[Dataset],
    *,
    validation_people: int,
    seed: int,
    strict: bool = True,
    say: Callable[[str], None] = print,
) -> TrainingData:
    """Put data sets together; people and cameras of different sets are different.

    Validation takes the `val` splits; where there is none and `validation_people` is above 0, that many
    people of the first data set are held out, of those whom two cameras saw. Every crop is decoded once:
    an unreadable one must not end a night's run at a random step.

    Args:
        datasets: in the order in which they were named.
        validation_people: to hold out.
        seed: of the choice of those people.
        strict: whether an unreadable crop is an error; otherwise it is reported and left out.
        say: prints a line for people.

    Raises:
        SanError: no training crop, one person alone, fewer people than are to be held out, a person in both
            `train` and `val`, a `val` split that no two cameras share, an unreadable crop with `strict`.
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
        both = {crop.person for crop in train} & {crop.person for crop in val}
        if both:
            raise SanError(
                f"person {min(both)} of {dataset.root} is in the splits train and val",
                why="people who were trained on say nothing about strangers",
                do="split by person",
            )
        if val and not seen_twice(val):
            raise SanError(f"nobody in the split val of {dataset.root} is seen by two cameras")
        if index == 0 and not val and validation_people:
            people = np.array(sorted(seen_twice(train)))
            if validation_people > len(people) - 2:
                raise SanError(
                    f"{dataset.root} has {len(people)} people whom two cameras saw",
                    why=f"{validation_people} are to be held out for validation",
                    do="hold out fewer: --validation-people",
                )
            held = set(np.random.default_rng([seed, 7]).permutation(people)[:validation_people].tolist())
            val = [crop for crop in train if crop.person in held]
            train = [crop for crop in train if crop.person not in held]
        train, val = (_readable(part, strict=strict, say=say) for part in (train, val))
        crops += train
        domain += [index] * len(train)
        validation += _apart(val, index, {crop.person for crop in validation})
        people_here = len({crop.person for crop in train})
        sources.append(f"{dataset.name} {dataset.root.name}: {len(train)} crops of {people_here} people")
    keys = sorted({(where, crop.person) for where, crop in zip(domain, crops, strict=True)})
    if len(keys) < 2:
        raise SanError(
            "there is one person to train on", why="a re-ID network learns from differences between people"
        )
    number = {key: i for i, key in enumerate(keys)}
    classes = [number[where, crop.person] for where, crop in zip(domain, crops, strict=True)]
    return TrainingData(crops, domain, classes, validation, sources)


def _apart(crops: Sequence[Crop], index: int, taken: set[int]) -> list[Crop]:
    """Crops of the data set `index` with persons that are not `taken`, and cameras of their own; the first keeps its
    persons. Distractors stay nobody."""
    if index == 0:
        number = {crop.person: crop.person for crop in crops}
    else:
        people = sorted({crop.person for crop in crops} - {DISTRACTOR})
        free = (person for person in itertools.count(1) if person not in taken)
        number = {DISTRACTOR: DISTRACTOR} | dict(zip(people, free, strict=False))
    return [replace(crop, person=number[crop.person], camera=f"{index}/{crop.camera}") for crop in crops]


def seen_twice(crops: Sequence[Crop]) -> set[int]:
    """The people whom at least two cameras saw; distractors are nobody."""
    cameras: dict[int, set[str]] = {}
    for crop in crops:
        cameras.setdefault(crop.person, set()).add(crop.camera)
    return {person for person, seen in cameras.items() if len(seen) > 1 and person != DISTRACTOR}


def _readable(crops: Sequence[Crop], *, strict: bool, say: Callable[[str], None]) -> list[Crop]:
    """The crops that decode; the others are reported and counted, or an error with `strict`."""

    def problem(crop: Crop) -> UnreadableImage | None:
        try:
            read_image(crop.path)
        except UnreadableImage as error:
            return error
        return None

    with ThreadPoolExecutor(2) as pool:
        problems = list(pool.map(problem, crops))
    bad = [error for error in problems if error is not None]
    if bad and strict:
        raise bad[0]
    for error in bad[:10]:
        say(f"Left out: {error}")
    if bad:
        say(f"{len(bad)} of {len(crops)} crops cannot be read and are left out.")
    return [crop for crop, error in zip(crops, problems, strict=True) if error is None]


def fingerprint(data: TrainingData) -> str:
    """SHA-256 over what the data is: which crops, of whom, in which order, and which are held out."""
    digest = hashlib.sha256()
    for crop, where, label in zip(data.crops, data.domain, data.classes, strict=True):
        digest.update(f"{where}/{label}/{crop.camera}/{crop.track}/{crop.path.name}\n".encode(*_NAMES))
    for crop in data.validation:
        digest.update(f"{crop.person}/{crop.camera}/{crop.track}/{crop.path.name}\n".encode(*_NAMES))
    return digest.hexdigest()


def normalise(
    crops: np.ndarray | Tensor, device: torch.device, std_rgb: tuple[float, ...] = STD_RGB
) -> Tensor:
    """`(N, H, W, 3)` uint8 BGR to `(N, 3, H, W)` float32 RGB, normalised, channels-last in memory.

    The same arithmetic in the same order as the exported graph's, so that both give the same bits.

    Args:
        crops: to see.
        device: where.
        std_rgb: the network's, see `models.std_of`.
    """
    x = torch.as_tensor(crops).to(device).flip(-1).float()
    mean, scale = normalisation(std_rgb)
    return ((x - mean.to(device)) * scale.to(device)).permute(0, 3, 1, 2)


def normalisation(std_rgb: tuple[float, ...] = STD_RGB) -> tuple[Tensor, Tensor]:
    """Mean and scale of pixels in 0..255, two `(3,)` float32 in the order RGB: `(x - mean) * scale`."""
    # A product with the reciprocal: the exported graph is left without a division.
    return torch.tensor(MEAN_RGB) * 255.0, 1.0 / (torch.tensor(std_rgb) * 255.0)
