"""san-deploy: Sharp Attention Networks for person re-identification, from training to the edge.

What `__all__` lists is the public API, which docs/api.md describes; each name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .artefact import Artefact
    from .backends import Backend, open_backend
    from .embed import Embeddings, read_embeddings, write_embeddings
    from .embedder import Embedder, load_artefact, match
    from .errors import SanError, UsageError
    from .images import UnreadableImage, read_image
    from .matching.match import Matching
    from .preprocess import resize_crop

__version__ = "0.1.0"

#: Public name -> the module that has it.
_HOME = {
    "Artefact": "artefact",
    "Backend": "backends",
    "Embedder": "embedder",
    "Embeddings": "embed",
    "Matching": "matching.match",
    "SanError": "errors",
    "UnreadableImage": "images",
    "UsageError": "errors",
    "load_artefact": "embedder",
    "match": "embedder",
    "open_backend": "backends",
    "read_embeddings": "embed",
    "read_image": "images",
    "resize_crop": "preprocess",
    "write_embeddings": "embed",
}
__all__ = [
    "Artefact",
    "Backend",
    "Embedder",
    "Embeddings",
    "Matching",
    "SanError",
    "UnreadableImage",
    "UsageError",
    "load_artefact",
    "match",
    "open_backend",
    "read_embeddings",
    "read_image",
    "resize_crop",
    "write_embeddings",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
