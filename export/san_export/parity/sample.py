"""The crops that both models are compared on: chosen by a seed, decoded as needed, labelled where labels are there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from san_deploy.datasets import (
    DISTRACTOR,
    Crop,
    Dataset,
    EvaluationSet,
    diagnose,
    evaluation_set,
    is_dataset,
    read_dataset,
)
from san_deploy.datasets.crop_folder import read_identities
from san_deploy.errors import SanError, UsageError
from san_deploy.images import UnreadableImage, list_crops, read_image, track_of
from san_deploy.io.cpu import usable_cores
from san_deploy.io.prefetch import in_order, threads
from san_deploy.preprocess import RESIZE, read_crop

#: Fewer crops say nothing of a percentile, or of who is nearest.
LEAST = 10
#: Crops that are compared where nobody asks for another number.
COUNT = 1000
#: Crops of a person, where there are enough people: a query and its answers, with a few to choose among.
_CROPS_EACH = 4
#: Decoded crops are kept up to this many bytes; beyond it they are decoded again when they are needed.
_KEPT_BYTES = 256 << 20
#: Decoding tasks that wait for each thread.
_AHEAD = 8


@dataclass(frozen=True, eq=False)
class SampleLabels:
    """Who is on the crops.

    Attributes:
        person: `(N,)` int64 of all crops of the sample.
        camera: `(N,)` text, likewise.
        query: `(Q,)` int64, rows that are asked for.
        gallery: `(G,)` int64, rows that they are compared with.
        source: in words.
    """

    person: np.ndarray
    camera: np.ndarray
    query: np.ndarray
    gallery: np.ndarray
    source: str


@dataclass(frozen=True, eq=False)
class Chosen:
    """Files of crops, none of them opened yet.

    Attributes:
        paths: of N crops.
        names: of them below their folder, with `/`.
        tracks: the tracklet of each: its folder, or what a labelled data set says; itself where it lies loose.
        labels: None where nothing says who they are.
        source: whose crops they are, in words.
        notes: for people.
    """

    paths: tuple[Path, ...]
    names: tuple[str, ...]
    tracks: tuple[str, ...]
    labels: SampleLabels | None
    source: str
    notes: tuple[str, ...] = ()


def choose(
    folder: Path,
    *,
    labels: Path | None = None,
    count: int | None = None,
    seed: int = 0,
    split: str | None = None,
) -> Chosen:
    """Choose crops of a folder.

    A labelled data set (`datasets.read_dataset`, an identities.csv in the folder among them) is labelled by
    itself; of it, and of a folder with `labels`, the crops are taken that `san eval` evaluates.

    Args:
        folder: of crops.
        labels: an identities.csv (`camera,track,person[,split]`) that names every tracklet of the folder, which
            holds `CAMERA/TRACK/*.jpg`, or is one camera's.
        count: crops to take; None takes `COUNT`, and all where there are fewer. Of labelled crops many people are
            taken with few crops each (`_spread`); of others every crop has the same chance.
        seed: of the choice.
        split: of labelled crops, see `datasets.evaluation_set`.

    Raises:
        SanError: the folder is missing or holds fewer than `LEAST` crops; the labels are damaged or do not
            cover the crops, nobody is seen by two cameras, or the crops chosen by `labels` are of one person.
        UsageError: a split of crops without labels.
    """
    folder = Path(folder)
    rng = np.random.default_rng(seed)
    if labels is not None:
        found = evaluation_set(_labelled(folder, Path(labels)), split)
        if problem := diagnose(found):
            # What san eval would do about it, no option here does.
            raise SanError(
                problem.message,
                why=problem.why,
                do="label people whom two cameras see, or leave --labels out",
            )
        rows, crops, taken = _choose_labelled(folder, found, count or COUNT, rng)
        if taken.one_person:
            raise SanError(taken.one_person, do="take more crops: --num N")
        return taken.chosen(rows, crops, folder, str(labels), seed)
    if is_dataset(folder):
        found = evaluation_set(read_dataset(folder), split)
        rows, crops, taken = _choose_labelled(folder, found, count or COUNT, rng)
        return taken.chosen(rows, crops, folder, found.name, seed)
    if split is not None:
        raise UsageError(f"--split {split} is for labelled crops", do="give --labels, or leave it out")
    paths = list(list_crops(folder))
    _enough(folder, len(paths))
    kept = [paths[row] for row in np.sort(rng.permutation(len(paths))[: count or COUNT])]
    return Chosen(
        tuple(folder / path for path in kept),
        tuple(path.as_posix() for path in kept),
        tuple(track_of(path) for path in kept),
        None,
        f"crops of {folder.resolve().name}{_part(len(kept), len(paths), seed)}",
    )


@dataclass(frozen=True)
class _Labelled:
    """An evaluation set, and why it ranks nobody on the crops that were chosen of it."""

    found: EvaluationSet
    ranks_nobody: str
    one_person: str

    def chosen(self, rows: np.ndarray, crops: list[Crop], folder: Path, where: str, seed: int) -> Chosen:
        taken = [crops[row] for row in rows]
        person = np.array([crop.person for crop in taken], np.int64)
        notes: list[str] = []
        if self.ranks_nobody:
            notes.append(f"The labels of {folder} rank nobody: {self.ranks_nobody}.")
        elif self.one_person:
            notes.append(f"The labels rank nobody: {self.one_person}. --num N takes more.")
        labels = None
        if not notes:
            query, gallery = ({crop.path for crop in part} for part in (self.found.query, self.found.gallery))
            labels = SampleLabels(
                person,
                np.array([crop.camera for crop in taken], str),
                np.array([i for i, crop in enumerate(taken) if crop.path in query], np.int64),
                np.array([i for i, crop in enumerate(taken) if crop.path in gallery], np.int64),
                where,
            )
        people = len(set(person.tolist()) - {DISTRACTOR})
        described = f" ({self.found.split}, {people} people){_part(len(taken), len(crops), seed)}"
        return Chosen(
            tuple(crop.path for crop in taken),
            tuple(_name(crop.path, folder) for crop in taken),
            tuple(f"{crop.camera}/{crop.track}" for crop in taken),
            labels,
            f"crops of {folder.resolve().name}{described}",
            tuple(notes),
        )


def _choose_labelled(
    folder: Path, found: EvaluationSet, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, list[Crop], _Labelled]:
    """The rows to take of all crops that are evaluated, in ascending order."""
    crops = list({crop.path: crop for crop in (*found.query, *found.gallery)}.values())
    _enough(folder, len(crops))
    person = np.array([crop.person for crop in crops], np.int64)
    rows = _spread(person, np.array([crop.camera for crop in crops], str), count, rng)
    problem = diagnose(found)
    one_person = ""
    if len(set(person[rows].tolist())) == 1:
        # Not a ranking: every answer is right, whatever the target does.
        one_person = (
            f"the {len(rows)} crops chosen of {folder} are of one person, whom nobody is confused with"
        )
    return rows, crops, _Labelled(found, problem.message if problem else "", one_person)


def _part(taken: int, there: int, seed: int) -> str:
    return f", {taken} of {there} chosen by seed {seed}" if taken < there else ""


#: `(H, W, 3)` uint8 and `(height, width)` to `(height, width, 3)` uint8.
Resize = Callable[[np.ndarray, tuple[int, int]], np.ndarray]


class Sample:
    """Chosen crops that can be read, decoded and resized as they are needed.

    Args:
        chosen: which; what cannot be read is left out, as `notes` says.
        size_hw: of both networks' input.
        resize: that the networks were trained with, a name in `preprocess.RESIZES`.

    Attributes:
        paths, names, tracks, labels, source, notes: as of `Chosen`, of the readable crops.

    Raises:
        SanError: fewer than `LEAST` crops can be read.
    """

    def __init__(self, chosen: Chosen, size_hw: tuple[int, int], resize: str = RESIZE) -> None:
        self.size_hw, self.resize = size_hw, resize
        self._kept: list[np.ndarray | None] = []
        readable = []
        limit = _KEPT_BYTES // (size_hw[0] * size_hw[1] * 3)
        with threads(usable_cores(), "san-decode") as pool:
            decoded = in_order(pool, self._decode, chosen.paths, ahead=_AHEAD * usable_cores())
            for row, image in enumerate(decoded):
                if image is not None:
                    readable.append(row)
                    self._kept.append(image if len(self._kept) < limit else None)
        unread = len(chosen.paths) - len(readable)
        self.paths = tuple(chosen.paths[row] for row in readable)
        self.names = tuple(chosen.names[row] for row in readable)
        self.tracks = tuple(chosen.tracks[row] for row in readable)
        self.source = chosen.source
        self.notes = chosen.notes
        if unread:
            self.notes += (
                f"{unread} of the crops cannot be read and {'is' if unread == 1 else 'are'} left out.",
            )
        if len(readable) < LEAST:
            raise SanError(
                f"{len(readable)} of the {len(chosen.paths)} {chosen.source} can be read, at least {LEAST} are needed",
                do="give a folder of crops: --crops DIR",
            )
        self.labels = chosen.labels and _kept_labels(chosen.labels, np.array(readable))

    def __len__(self) -> int:
        return len(self.paths)

    def images(self, rows: Iterable[int], resize: Resize | None = None) -> np.ndarray:
        """`(n, H, W, 3)` uint8 BGR of the crops at `rows`; with `resize` brought to that size by another function."""
        if resize is not None:
            return np.stack([resize(read_image(self.paths[row]), self.size_hw) for row in rows])
        result = []
        for row in rows:
            image = self._kept[row]
            result.append(read_crop(self.paths[row], self.size_hw, self.resize) if image is None else image)
        return np.stack(result)

    def _decode(self, path: Path) -> np.ndarray | None:
        try:
            return read_crop(path, self.size_hw, self.resize)
        except UnreadableImage:
            return None


def _kept_labels(labels: SampleLabels, readable: np.ndarray) -> SampleLabels:
    place = np.full(len(labels.person), -1)
    place[readable] = np.arange(len(readable))
    query, gallery = (place[rows] for rows in (labels.query, labels.gallery))
    return SampleLabels(
        labels.person[readable],
        labels.camera[readable],
        query[query >= 0],
        gallery[gallery >= 0],
        labels.source,
    )


def _enough(folder: Path, count: int) -> None:
    if count < LEAST:
        raise SanError(
            f"{folder} holds {count} crops, at least {LEAST} are needed to compare on",
            do="give a folder of some hundred crops of your own cameras: --crops DIR",
        )


def _labelled(folder: Path, labels: Path) -> Dataset:
    """The crops of a folder as a data set, by an identities.csv that lies anywhere."""
    known = read_identities(labels)
    splits: dict[str, list[Crop]] = {}
    missing = []
    for path in list_crops(folder):
        owner = next((key for key in _keys(folder, path) if key in known), None)
        if owner is None:
            missing.append(path.as_posix())
            continue
        person, split = known[owner]
        splits.setdefault(split, []).append(Crop(folder / path, person, *owner))
    if missing:
        raise SanError(
            f"{labels} does not say who is on {missing[0]} of {folder} ({len(missing)} such crops)",
            do="name every tracklet in it (camera,track,person), or leave --labels out",
        )
    return Dataset(f"{folder.name} by {labels.name}", folder, splits, unsplit=set(splits) == {"train"})


def _keys(folder: Path, path: Path) -> Iterable[tuple[str, str]]:
    """Camera and track that a crop may belong to: both by its folders, or the camera by the folder itself."""
    track = track_of(path)
    parts = track.split("/")
    for place in range(1, len(parts)):
        yield "/".join(parts[:place]), "/".join(parts[place:])
    yield folder.resolve().name, track


def _spread(person: np.ndarray, camera: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of many people with few crops each, ascending.

    People come in a random order, as many as get `_CROPS_EACH` crops, or more where they have fewer; each gives its
    crops camera by camera in turn, so that its first two are of two cameras. A distractor is a person of its own.

    Args:
        person: `(N,)` int64.
        camera: `(N,)` text.
        count: rows to take.
        rng: of the choice.
    """
    alone = np.where(person == DISTRACTOR, -1 - np.arange(len(person)), person)
    _, group = np.unique(alone, return_inverse=True)
    place = rng.permutation(group.max() + 1)[group]
    shuffled = rng.permutation(len(person))
    # The how manieth crop of its person and camera, then of its person with the cameras taken in turn.
    turn = _rank_within(shuffled, place, camera)
    in_turn = shuffled[np.argsort(turn[shuffled], kind="stable")]
    rank = _rank_within(in_turn, place)
    people = max(1, count // _CROPS_EACH)
    size = np.bincount(place)
    while size[:people].sum() < min(count, len(person)):
        people += 1
    order = np.lexsort((place, rank))
    return np.sort(order[place[order] < people][:count])


def _rank_within(order: np.ndarray, *keys: np.ndarray) -> np.ndarray:
    """For each row, how many rows with the same keys stand before it in `order`."""
    seen: Counter[tuple[object, ...]] = Counter()
    rank = np.zeros(len(order), np.int64)
    for row in order:
        key = tuple(values[row] for values in keys)
        rank[row] = seen[key]
        seen[key] += 1
    return rank


def _name(path: Path, folder: Path) -> str:
    """The path below the folder; CUHK03's crops may be extracted elsewhere."""
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
