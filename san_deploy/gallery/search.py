"""A search from crops to ranked tracklets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import metrics
from ..embedder import Embedder
from ..errors import SanError
from ..images import track_of
from ..matching.sources import Source, read_sources
from .tracks import ANY, Gallery, Hit, SearchFilter, refuse_other_space


@dataclass(frozen=True)
class Query:
    """Somebody who is looked for.

    Attributes:
        name: the file, or the folder of crops.
        files: the crops, absolute or relative as they were given.
        embedding: `(D,)` float32, their mean brought to length 1.
    """

    name: str
    files: tuple[Path, ...]
    embedding: np.ndarray


@dataclass(frozen=True)
class Found:
    """What a gallery has for one query, the most similar tracklet first."""

    query: Query
    hits: tuple[Hit, ...]


def read_queries(sources: Sequence[Source], embedder: Embedder) -> list[Query]:
    """The queries of an image, or of a folder: each of its tracklets; loose crops of no known layout are one person's.

    Args:
        sources: of `query_sources`.
        embedder: the model.

    Raises:
        SanError: nothing readable there, or a folder holds both crops and folders.
    """
    queries = []
    for source in sources:
        for name, files in _groups(source).items():
            rows = np.asarray(embedder.embed_paths(files))
            pooled, _ = metrics.pool_tracklets(rows, np.array([name] * len(rows)))
            queries.append(Query(name if len(sources) == 1 else f"{source.name}/{name}", files, pooled[0]))
    return queries


def query_sources(path: Path, pattern: str = "") -> list[Source]:
    """What was given for queries; nothing is decoded. See `matching.sources.read_sources` for layouts."""
    if path.is_file():
        return [Source(path.name, path.parent, {path.name: path.name})]
    return [
        replace(source, layout="") if _one_person(source) else source
        for source in read_sources([path], pattern, at_least=1)
    ]


def _one_person(source: Source) -> bool:
    """Whether crops lie loose, without a layout that says whose they are."""
    return all("/" not in path and track == track_of(Path(path)) for path, track in source.tracks.items())


def _groups(source: Source) -> dict[str, tuple[Path, ...]]:
    loose = [path for path, track in source.tracks.items() if "/" not in path and track == path]
    if loose and len(loose) < len(source.tracks):
        raise SanError(
            f"{source.path} holds crops and folders of crops",
            do="give one person's folder, or a folder of such folders",
        )
    groups: dict[str, list[Path]] = {}
    for path, track in source.tracks.items():
        name = source.name if loose else track
        groups.setdefault(name, []).append(source.path / path)
    return {name: tuple(files) for name, files in groups.items()}


def search(
    gallery: Gallery,
    queries: Sequence[Query],
    model: Mapping[str, Any],
    *,
    k: int = 10,
    where: SearchFilter = ANY,
) -> list[Found]:
    """Look queries up.

    Args:
        gallery: where.
        queries: whom.
        model: description of the model that embedded them.
        k: hits of each, at most.
        where: which tracklets may be found.

    Raises:
        SanError: the gallery is of another embedding space.
    """
    info = gallery.info()
    refuse_other_space(info.location, info.space, model)
    hits = gallery.search(np.stack([query.embedding for query in queries]), k, where)
    return [Found(query, tuple(items)) for query, items in zip(queries, hits, strict=True)]
