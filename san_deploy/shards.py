"""A folder of crops embedded by several processes or machines: who takes which tracklet, and the parts put together."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .backends import Backend
from .embed import Embeddings, arrays_of, read_arrays, write_arrays
from .errors import SanError, UsageError
from .io.paths import StrPath
from .matching.sources import Reading, Source, chosen_crops, embed_source

_FORM = re.compile(r"(\d{1,6})/(\d{1,6})")
#: Missing shards that are named.
_NAMED = 20
_SAME = "embed every shard of the same folder with the same model, and the same --per-track"


@dataclass(frozen=True)
class Shard:
    """One of several parts of a folder.

    Attributes:
        index: from 1 to `count`.
        count: of all parts.
    """

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Of `2/8`.

        Raises:
            UsageError: of another form, or not from 1 to N.
        """
        found = _FORM.fullmatch(text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise UsageError(f"--shard is I/N, I from 1 to N; received {text}", do="for example --shard 2/8")
        return cls(int(found[1]), int(found[2]))

    def takes(self, track: str) -> bool:
        """Whether a tracklet is of this part: by the hash of its name, the same on every machine."""
        digest = hashlib.sha256(track.encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.index - 1

    def of(self, source: Source) -> Source:
        """This part of a camera."""
        return replace(
            source, tracks={path: track for path, track in source.tracks.items() if self.takes(track)}
        )

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


@dataclass(frozen=True, eq=False)
class ShardEmbeddings:
    """What `embed_shard` gives.

    Attributes:
        result: of the part's crops; it may have no rows.
        shard: which part.
        number: `(N,)` int64, place of each row's crop in the listing of the whole folder.
        listing: hash of that listing, crops and tracklets.
    """

    result: Embeddings
    shard: Shard
    number: np.ndarray
    listing: str


def embed_shard(source: Source, backend: Backend, shard: Shard, reading: Reading) -> ShardEmbeddings:
    """Embed one part of a camera.

    Args:
        source: the whole camera.
        backend: the opened model.
        shard: which part.
        reading: how to read crops.

    Raises:
        SanError: the model fails, or a crop is unreadable and reading is strict.
    """
    crops = [crop.as_posix() for crop in chosen_crops(source, reading.per_track)]
    number = {crop: place for place, crop in enumerate(crops)}
    result = embed_source(shard.of(source), backend, reading, allow_empty=True)
    numbers = np.array([number[path] for path in result.path.tolist()], np.int64)
    listing = hashlib.sha256()
    for crop in crops:
        listing.update(f"{crop}\0{source.tracks[crop]}\0".encode("utf-8", "surrogateescape"))
    return ShardEmbeddings(result, shard, numbers, listing.hexdigest())


def write_shard(part: ShardEmbeddings, path: StrPath, *, force: bool = True) -> None:
    """Write a part as `embed.write_embeddings` writes a whole, and which part of what it is.

    Raises:
        SanError: as `write_embeddings`.
    """
    more = {
        "shard": np.array(str(part.shard)),
        "number": part.number,
        "listing": np.array(part.listing),
    }
    write_arrays({**arrays_of(part.result), **more}, path, force=force)


def merge(paths: Sequence[Path]) -> Embeddings:
    """Put the shards of a folder together: what a single run over it gives.

    Args:
        paths: files of `write_shard`, in any order.

    Raises:
        SanError: a file is no whole shard, two are of different models, folders or numbers of shards, or one is
            missing or there twice.
    """
    parts = [_read(Path(path)) for path in paths]
    if not parts:
        raise SanError("there is no shard to merge", do="name their files")
    first, *others = parts
    for path, part in zip(paths[1:], others, strict=True):
        _check_alike(Path(paths[0]), first, Path(path), part)
    _check_complete(paths, [part.shard for part in parts])
    order = np.argsort(np.concatenate([part.number for part in parts]), kind="stable")
    if not len(order):
        raise SanError(f"none of the {len(parts)} shards holds a readable crop")
    return Embeddings(
        np.concatenate([part.result.embedding for part in parts])[order],
        np.concatenate([part.result.path for part in parts])[order],
        np.concatenate([part.result.track for part in parts])[order],
        first.result.model,
    )


def _read(path: Path) -> ShardEmbeddings:
    result, more = read_arrays(path)
    try:
        shard = Shard.parse(str(more["shard"]))
        number, listing = more["number"], str(more["listing"])
    except (KeyError, UsageError) as error:
        raise SanError(f"{path} is no shard", do="write shards: san embed DIR --shard I/N -o FILE") from error
    if number.shape != result.path.shape or number.dtype != np.int64:
        raise SanError(f"{path} is no whole shard", do="write it again: san embed DIR --shard I/N")
    return ShardEmbeddings(result, shard, number, listing)


def _check_alike(one: Path, first: ShardEmbeddings, path: Path, part: ShardEmbeddings) -> None:
    models = first.result.model, part.result.model
    if models[0].get("space") != models[1].get("space"):
        raise SanError(
            f"{path} and {one} are of different networks, so their rows have nothing in common", do=_SAME
        )
    if models[0] != models[1]:
        differ = sorted(key for key in {*models[0], *models[1]} if models[0].get(key) != models[1].get(key))
        raise SanError(
            f"{path} and {one} are of different model files",
            why=f"they differ in {', '.join(differ)}",
            do=_SAME,
        )
    if first.shard.count != part.shard.count:
        raise SanError(f"{path} is shard {part.shard} and {one} is {first.shard}", do=_SAME)
    if first.listing != part.listing:
        raise SanError(
            f"{path} and {one} are of different crops",
            why="their folders did not list the same files",
            do=_SAME,
        )


def _check_complete(paths: Sequence[Path], shards: Sequence[Shard]) -> None:
    seen: dict[int, Path] = {}
    for path, shard in zip(paths, shards, strict=True):
        if shard.index in seen:
            raise SanError(f"{seen[shard.index]} and {path} are both shard {shard}", do="leave one out")
        seen[shard.index] = path
    count = shards[0].count
    if missing := [str(index) for index in range(1, count + 1) if index not in seen]:
        more = ", ..." if len(missing) > _NAMED else ""
        raise SanError(
            f"of {count} shards there are {len(seen)}; missing: {', '.join(missing[:_NAMED])}{more}",
            do=f"embed it: san embed DIR --shard {missing[0]}/{count} -o FILE.npz",
        )
