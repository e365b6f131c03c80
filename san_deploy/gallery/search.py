"""A search from crops to ranked tracklets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import metrics
from ..embedder import Embedder
from ..errors import SanError
from ..images import list_crops
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


def read_queries(path: Path, embedder: Embedder) -> list[Query]:
    """Queries of an image, of a folder of one person's crops, or of a folder of such folders.

    Raises:
        SanError: nothing readable there, or a folder holds both crops and folders.
    """
    if path.is_file():
        groups = {path.name: [path]}
    else:
        crops = list(list_crops(path))
        loose = [crop for crop in crops if crop.parent == Path()]
        if loose and len(loose) < len(crops):
            raise SanError(
                f"{path} holds crops and folders of crops",
                do="give one person's folder, or a folder of such folders",
            )
        groups = {}
        for crop in crops:
            name = path.resolve().name if loose else crop.parent.as_posix()
            groups.setdefault(name, []).append(path / crop)
    queries = []
    for name, files in groups.items():
        rows = np.asarray(embedder.embed_paths(files))
        pooled, _ = metrics.pool_tracklets(rows, np.array([name] * len(rows)))
        queries.append(Query(name, tuple(files), pooled[0]))
    return queries


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
