"""The page of a search: who was looked for, and the tracklets most like them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..gallery.cameras import kept_pictures
from ..images import spread
from ..io.atomic import atomic_file
from .html import environment, write_page
from .times import when

if TYPE_CHECKING:
    from ..artefact import Threshold
    from ..gallery import Gallery
    from ..gallery.search import Found

#: Crops of a query that are shown, at most.
_QUERY_CROPS = 6


def write_search_page(
    path: Path, found: Sequence[Found], gallery: Gallery, *, threshold: Threshold | None, force: bool = False
) -> None:
    """Write a self-contained page.

    Args:
        path: the .html file.
        found: of `gallery.search.search`.
        gallery: gives the pictures that it kept.
        threshold: the model's, to frame hits that reach it; None frames none.
        force: replace an existing file.

    Raises:
        SanError: it cannot be written.
    """
    queries = []
    for item in found:
        crops = spread(item.query.files, _QUERY_CROPS)
        hits = [
            {
                **vars(hit),
                "when": when(hit.start, hit.end),
                "likely": threshold is not None and hit.similarity >= threshold.similarity,
                "pictures": [_url(data) for data in gallery.pictures(hit.camera, hit.track)],
            }
            for hit in item.hits
        ]
        pictures = [_url(data) for data in kept_pictures([crops], len(crops))[0]]
        queries.append({"name": item.query.name, "pictures": pictures, "hits": hits})
    context = {"queries": queries, "gallery": gallery.info(), "threshold": threshold}
    with atomic_file(path, force=force) as temporary:
        write_page(temporary, environment().get_template("search_page.html.j2"), context)


def _url(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
