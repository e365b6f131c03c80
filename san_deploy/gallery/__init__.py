"""People who were seen, kept to be found again: a folder (`folder`) or PostgreSQL with pgvector (`postgres`)."""

from .tracks import Event, Gallery, GalleryInfo, Hit, SearchFilter, Tracks, is_url, open_gallery

__all__ = ["Event", "Gallery", "GalleryInfo", "Hit", "SearchFilter", "Tracks", "is_url", "open_gallery"]
