"""What may stand at a path."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

#: What every public function takes for a path.
StrPath: TypeAlias = "str | os.PathLike[str]"


def cache_folder() -> Path:
    """Where this user's programs keep what can be made again; it need not exist."""
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(base) if base else Path.home() / ".cache") / "san-deploy"


def is_fixed(path: Path) -> bool:
    """Whether an existing file or folder can only be changed in place."""
    return is_mount(path) or not os.access(path.absolute().parent, os.W_OK)


def is_mount(path: Path) -> bool:
    """Whether something is mounted here; bind mounts of files and of folders of the same disk, too."""
    if os.path.ismount(path):
        return True
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return False
    real = os.fsencode(os.path.realpath(path))
    # proc(5): the fifth field, where space, tab, newline and backslash are \040, ...
    return any(line.split()[4].decode("unicode_escape").encode("latin-1") == real for line in lines)
