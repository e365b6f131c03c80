"""The crops that both sides are compared on: chosen by a seed, decoded as needed, labelled where labels are there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
from san_deploy.images import UnreadableImage, list_crops, track_of
from san_deploy.io.cpu import usable_cores
from san_deploy.io.prefetch import in_order, threads
from san_deploy.preprocess import read_crop

#: Fewer crops say nothing of a percentile, or of who is nearest.
LEAST = 10
#: Crops that are compared where nobody asks for another number.
COUNT = 1000
#: Decoded crops are kept up to this many bytes; beyond it they are decoded again when they are needed.
_KEPT_BYTES = 256 << 20
#: Decoding tasks that wait for each thread.
_AHEAD = 8


@dataclass(frozen=True, eq=False)
class Labels:
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
    labels: Labels | None
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
        count: crops to take; None takes `COUNT`, and all where there are fewer. Of labelled crops whole people
            are taken, in an order that the seed gives, and the last one is cut: ranking needs each person's
            other crops. Of others every crop has the same chance.
        seed: of the choice.
        split: of labelled crops, see `datasets.evaluation_set`.

    Raises:
        SanError: the folder is missing or holds fewer than `LEAST` crops; the labels are damaged or do not
            cover the crops, nobody is seen by two cameras, or the crops chosen by `labels` are of one person.
        UsageError: a split of crops without labels.
    """
    folder = Path(folder)
    notes: list[str] = []
    found: EvaluationSet | None = None
    if labels is not None:
        found = evaluation_set(_labelled(folder, Path(labels)), split)
        if problem := diagnose(found):
            # What san eval would do about it, no option here does.
            raise SanError(
                problem.message,
                why=problem.why,
                do="label people whom two cameras see, or leave --labels out",
            )
        where = str(labels)
    elif is_dataset(folder):
        found = evaluation_set(read_dataset(folder), split)
        where = found.name
        if problem := diagnose(found):
            notes.append(f"The labels of {folder} rank nobody: {problem.message}.")
    elif split is not None:
        raise UsageError(f"--split {split} is for labelled crops", do="give --labels, or leave it out")
    rng = np.random.default_rng(seed)
    if found is None:
        paths = [folder / path for path in list_crops(folder)]
        _enough(folder, len(paths))
        rows = np.sort(rng.permutation(len(paths))[: count or COUNT])
        told, known = "", None
        all_paths: Sequence[Path] = paths
        tracks = [track_of(path.relative_to(folder)) for path in paths]
    else:
        crops = list({crop.path: crop for crop in (*found.query, *found.gallery)}.values())
        _enough(folder, len(crops))
        person = np.array([crop.person for crop in crops], np.int64)
        rows = _whole_people(person, count or COUNT, rng)
        asked, answers = ({crop.path for crop in part} for part in (found.query, found.gallery))
        all_paths = [crop.path for crop in crops]
        tracks = [f"{crop.camera}/{crop.track}" for crop in crops]
        known = None
        if not notes and len(set(person[rows].tolist())) == 1:
            # Not a ranking: every answer is right, whatever the target does.
            alone = (
                f"the {len(rows)} crops chosen of {folder} are of one person, whom nobody is confused with"
            )
            if labels is not None:
                raise SanError(alone, do="take more crops: --num N")
            notes.append(f"The labels rank nobody: {alone}. --num N takes more.")
        if not notes:
            taken = [crops[row] for row in rows]
            known = Labels(
                person[rows],
                np.array([crop.camera for crop in taken], str),
                np.array([i for i, crop in enumerate(taken) if crop.path in asked], np.int64),
                np.array([i for i, crop in enumerate(taken) if crop.path in answers], np.int64),
                where,
            )
        people = len(set(person[rows].tolist()) - {DISTRACTOR})
        told = f" ({found.split}, {people} people)"
    if len(rows) < len(all_paths):
        told += f", {len(rows)} of {len(all_paths)} chosen by seed {seed}"
    chosen = [all_paths[row] for row in rows]
    names = tuple(_name(path, folder) for path in chosen)
    source = f"crops of {folder.resolve().name}{told}"
    return Chosen(tuple(chosen), names, tuple(tracks[row] for row in rows), known, source, tuple(notes))


class Sample:
    """Chosen crops that can be read, decoded and resized as they are needed.

    Args:
        chosen: which; what cannot be read is left out, and told in `notes`.
        size_hw: of both networks' input.

    Attributes:
        paths, names, tracks, labels, source, notes: as of `Chosen`, of the readable crops.

    Raises:
        SanError: fewer than `LEAST` crops can be read.
    """

    def __init__(self, chosen: Chosen, size_hw: tuple[int, int]) -> None:
        self.size_hw = size_hw
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

    def images(self, rows: Iterable[int]) -> np.ndarray:
        """`(n, H, W, 3)` uint8 BGR of the crops at `rows`."""
        result = []
        for row in rows:
            image = self._kept[row]
            result.append(read_crop(self.paths[row], self.size_hw) if image is None else image)
        return np.stack(result)

    def _decode(self, path: Path) -> np.ndarray | None:
        try:
            return read_crop(path, self.size_hw)
        except UnreadableImage:
            return None


def _kept_labels(labels: Labels, readable: np.ndarray) -> Labels:
    place = np.full(len(labels.person), -1)
    place[readable] = np.arange(len(readable))
    query, gallery = (place[rows] for rows in (labels.query, labels.gallery))
    return Labels(
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


def _whole_people(person: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of whole people in a random order, the last one cut at `count`; ascending. A distractor is nobody else."""
    alone = np.where(person == DISTRACTOR, -1 - np.arange(len(person)), person)
    people, of = np.unique(alone, return_inverse=True)
    order = np.argsort(rng.permutation(len(people))[of], kind="stable")
    return np.sort(order[:count])


def _name(path: Path, folder: Path) -> str:
    """The path below the folder; CUHK03's crops may be extracted elsewhere."""
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
