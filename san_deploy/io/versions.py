"""Versions of the tools, for the files that they write."""

from __future__ import annotations

from importlib import metadata


def versions(*packages: str) -> dict[str, str]:
    """`{package: version}` of those that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
