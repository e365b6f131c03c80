"""People who were seen, kept to be found again: a folder (`folder`) or PostgreSQL with pgvector (`postgres`)."""

from .location import is_url, open_gallery
from .tracks import AuditEvent, Gallery, GalleryInfo, Hit, SearchFilter, Tracks

__all__ = ["AuditEvent", "Gallery", "GalleryInfo", "Hit", "SearchFilter", "Tracks", "is_url", "open_gallery"]
