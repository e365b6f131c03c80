"""Opening a gallery by its location."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .tracks import Gallery

#: Addresses that mean PostgreSQL.
_URLS = ("postgresql://", "postgres://")


def is_url(location: str) -> bool:
    """Whether a location means PostgreSQL."""
    return location.startswith(_URLS)


def open_gallery(location: str, *, write: bool = False, create: Mapping[str, Any] | None = None) -> Gallery:
    """Open a gallery.

    Args:
        location: a folder, or a postgresql:// address.
        write: to change it. A folder has one writer at a time.
        create: description of a model, `Artefact.as_dict()`: makes the gallery where there is none.

    Raises:
        SanError: there is none, somebody else writes, it is damaged, or it is of another embedding space than
            `create` has.
    """
    if is_url(location):
        from .postgres import PostgresGallery

        return PostgresGallery(location, create=create)
    if "://" in location:
        raise UsageError(f"{location} is no gallery", do="give a folder, or postgresql://USER@HOST/DATABASE")
    from .folder import FolderGallery

    return FolderGallery(Path(location), write=write, create=create)
