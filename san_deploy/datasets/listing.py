"""The image files of a data set, fast: nothing is opened."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import SanError
from ..images import is_image


class Tree:
    """Lists image files below `root`. Links are followed, as people keep large sets on another disk."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def images(self, folder: str = "") -> list[str]:
        """Names of the image files in `folder` (relative to the root), sorted; hidden names are skipped.

        Raises:
            SanError: the folder cannot be listed.
        """
        return sorted(self._scan(folder)[0])

    def images_below(self) -> list[str]:
        """Paths of all image files below the root, relative to it, with `/`, sorted.

        Raises:
            SanError: as `images`.
        """
        found: list[str] = []
        # Each folder with the real folders above it: a link to one of them would lead round in circles.
        waiting: list[tuple[str, tuple[str, ...]]] = [("", ())]
        while waiting:
            folder, above = waiting.pop()
            real = os.path.realpath(self.root / folder)
            if real in above:
                continue
            files, folders = self._scan(folder)
            prefix = f"{folder}/" if folder else ""
            found += [prefix + name for name in files]
            waiting += [(prefix + name, (*above, real)) for name in folders]
        return sorted(found)

    def _scan(self, folder: str) -> tuple[list[str], list[str]]:
        """Image files and folders of one folder, unsorted."""
        path = self.root / folder
        files, folders = [], []
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    name = entry.name
                    if name[0] == ".":
                        continue
                    if entry.is_dir():
                        folders.append(name)
                    elif is_image(entry.path):
                        files.append(name)
        except OSError as error:
            raise SanError(f"cannot read folder {path}: {error.strerror or error}") from error
        return files, folders


def first_image(folder: Path) -> str:
    """The first name of an image file in `folder`; empty where there is none, or no such folder."""
    try:
        with os.scandir(folder) as entries:
            names = (entry.name for entry in entries if entry.name[0] != "." and is_image(entry.path))
            return min(names, default="")
    except OSError:
        return ""
