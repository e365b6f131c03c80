"""The folder that an output is made in: locked while somebody works there, settled and removed when nobody does."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be removed
    fcntl = None  # type: ignore[assignment]

PREFIX = ".san-"
_LOCK = "lock"
_TARGET = "target"
_PLAN = "plan"


class WorkFolder:
    """A folder `.san-XXXXXXXX`.

    A kill between two renames leaves what is needed to finish or to undo them: `settle` does so, in the process
    itself or in the next one that finds the folder.

    Args:
        where: the folder to make it in.
        target: the output, absolute where the working directory may change.

    Attributes:
        path: the folder.
        new: where the output is made, under its own name.
        old: an old output folder that was put aside to make room.
        moving_out: entries of a folder whose content is replaced in place, while its old content leaves,
        moving_in: the same while its new content comes,
        old_content: and afterwards.
    """

    _lock: int | None

    def __init__(self, where: Path, target: Path) -> None:
        self._begin(Path(tempfile.mkdtemp(prefix=PREFIX, dir=where)), target.absolute())
        try:
            (self.path / _TARGET).write_bytes(os.fsencode(self._target))
            self.new.mkdir()
            name = "lock.new" if fcntl else _LOCK
            lock = os.open(self.path / name, os.O_CREAT | os.O_RDWR)
            self._lock = lock
            if fcntl:
                _try_lock(lock)
                # Under this name it counts, and it is locked by then.
                os.rename(self.path / name, self.path / _LOCK)
        except BaseException:
            self.close()
            raise

    def _begin(self, path: Path, target: Path) -> None:
        self.path = path
        self._target = target
        self._lock = None
        self.new = path / "new"
        self.old = path / "old"
        self.moving_out = path / "moving-out"
        self.moving_in = path / "moving-in"
        self.old_content = path / "old-content"

    @classmethod
    def of_dead(cls, path: Path, lock: int) -> WorkFolder:
        """The work folder of a process that was killed, now locked by this one.

        A target that is neither the folder around it nor in it is left alone: anybody may have made this in /tmp.
        """
        self = cls.__new__(cls)
        target = Path(os.fsdecode((path / _TARGET).read_bytes()))
        around = os.path.realpath(path.parent)
        near = around in (os.path.realpath(target), os.path.realpath(target.parent)) and target.name not in (
            "",
            "..",
        )
        self._begin(path, target if near else path / "nowhere" / "output")
        self._lock = lock
        return self

    def begin(self, second: Path | None) -> None:
        """Note that the file is whole and gets its name from now on, and so does the second, where there is one."""
        (self.path / _PLAN).write_bytes(os.fsencode(second.name) if second else b"")

    def settle(self) -> None:
        """Undo or finish what was cut short, whichever loses nothing. May be called again."""
        if not self._target.parent.is_dir():
            return
        if os.path.lexists(self.old) and not _has_entries(self._target):
            with contextlib.suppress(OSError):
                self._target.rmdir()
            os.rename(self.old, self._target)
        if self.moving_out.is_dir():
            for name in os.listdir(self.moving_out):
                shutil.move(self.moving_out / name, self._target / name)
            self.moving_out.rmdir()
        elif self.moving_in.is_dir():
            content = self.new / self._target.name
            for name in os.listdir(content):
                shutil.move(content / name, self._target / name)
            os.rename(self.moving_in, self.old_content)
        elif (self.path / _PLAN).is_file() and not (self.new / self._target.name).exists():
            # The first has its name already, so the second, which belongs to it, gets its own.
            name = os.fsdecode((self.path / _PLAN).read_bytes())
            if name and (self.new / name).exists():
                os.replace(self.new / name, self._target.with_name(name))

    def close(self) -> None:
        """Settle and remove the folder. What could not be put back is not removed either."""
        settled = False
        try:
            self.settle()
            settled = True
            for name in os.listdir(self.path):
                if name not in (_LOCK, _TARGET):
                    _remove(self.path / name)
        except (OSError, ValueError):
            # What could not be put back stays; a ValueError is a name that nobody of ours wrote.
            pass
        finally:
            # NFS, FUSE and Windows keep an open file's folder, so the lock goes before the rest of it.
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None
        if settled:
            shutil.rmtree(self.path, ignore_errors=True)


def remove_dead(where: Path) -> None:
    """Settle and remove the work folders in `where` whose processes are gone."""
    found: list[Path] = []
    # A folder may be written by those who cannot list it.
    with contextlib.suppress(OSError), os.scandir(where) as entries:
        found += [
            Path(entry.path)
            for entry in entries
            if entry.name.startswith(PREFIX) and entry.is_dir(follow_symlinks=False)
        ]
    for path in found:
        try:
            if hasattr(os, "geteuid") and path.lstat().st_uid != os.geteuid():
                continue
            if fcntl is None:
                os.unlink(path / _LOCK)
            lock = os.open(path / _LOCK, os.O_RDWR | (os.O_CREAT if fcntl is None else 0))
        except OSError:
            # Not ours, just begun, removed by another, or in use.
            continue
        if not _try_lock(lock):
            os.close(lock)
            continue
        try:
            dead = WorkFolder.of_dead(path, lock)
        except (OSError, ValueError):
            os.close(lock)
            continue
        dead.close()


def _try_lock(handle: int) -> bool:
    """Whether nobody else holds the lock. Where a disk has none, nobody's folder is taken for a dead one's."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _has_entries(folder: Path) -> bool:
    return os.path.lexists(folder) and (not folder.is_dir() or bool(os.listdir(folder)))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()
