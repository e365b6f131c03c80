"""Files, pairs of files and folders that appear whole or not at all: temporary name beside the target, then rename."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from ..errors import SanError

_DISK_ERRORS = frozenset(
    {
        errno.EACCES,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EIO,
        errno.EISDIR,
        errno.EMFILE,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOSPC,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
    }
)


def refuse_existing(path: Path, *, force: bool) -> None:
    """Raise SanError where `path` cannot be the output, before anything long starts.

    That is: it exists and `force` is false, or the folder that it would stand in cannot be written or made. A
    file is made there and removed, since rights alone do not tell: root has all of them below /proc.
    """
    path = Path(path)
    if not force and os.path.lexists(path):
        raise SanError(f"{path} exists", do="name another output or give --force to replace it")
    parent = path.absolute().parent
    while not os.path.lexists(parent):
        parent = parent.parent
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=parent)
    except OSError as error:
        raise SanError(
            f"cannot write {path}: {parent} is no folder that can be written",
            why=error.strerror or str(error),
            do="name another output",
        ) from error
    os.close(handle)
    os.unlink(name)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on any failure.

    The folder is made if it is missing. Ctrl-C and a full disk leave nothing behind; an OSError
    (full disk, no permission) is raised as SanError naming `path`.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise _cannot_write(path, error) from error
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes 0600; give what a plain open() would have given.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        if not is_of_the_disk(error):
            raise
        raise _cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_pair(path: Path, beside: Callable[[Path], Path]) -> Iterator[Path]:
    """`atomic_file` for a file and the description that stands beside it: both appear, or neither.

    Args:
        path: the file.
        beside: from a file's path to that of its description, as `artefact.sidecar_path`.

    Yields:
        The temporary path of the file. The block writes the description to `beside` of that path; on success the
        two take the names `path` and `beside(path)`.
    """
    description: Path | None = None
    try:
        with atomic_file(path) as temporary:
            description = beside(temporary)
            yield temporary
        # Both were complete before the first got its name; nothing but this rename is left.
        os.replace(description, beside(path))
    finally:
        if description is not None:
            description.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path, *, force: bool = False, ours: Collection[str] = ()) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it takes the name `path`.

    Args:
        path: the folder to make.
        force: replace an existing folder, after the new one is complete.
        ours: names that our own earlier output has at its top. A folder that holds anything else is
            never replaced, whatever `force` says: `-o ~ --force` must not cost a home folder.
    """
    path = Path(path)
    if path.is_dir() and not any(path.iterdir()):
        force = True
    refuse_existing(path, force=force)
    if path.exists():
        if not path.is_dir():
            raise SanError(f"{path} is not a folder", do="name another output")
        foreign = sorted({entry.name for entry in path.iterdir()} - set(ours))
        if foreign:
            raise SanError(
                f"{path} holds files that are not ours ({foreign[0]})", do="name another output folder"
            )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise _cannot_write(path, error) from error
    old: Path | None = None
    try:
        yield temporary
        os.chmod(temporary, 0o777 & ~_umask())
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent)) / path.name
            os.replace(path, old)
        os.replace(temporary, path)
    except OSError as error:
        if old is not None and old.exists() and not path.exists():
            os.replace(old, path)
        if not is_of_the_disk(error):
            raise
        raise _cannot_write(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if old is not None:
            shutil.rmtree(old.parent, ignore_errors=True)


def is_of_the_disk(error: OSError) -> bool:
    """Whether writing failed; a network error inside the block is an OSError too, but not ours."""
    return error.errno in _DISK_ERRORS


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _cannot_write(path: Path, error: OSError) -> SanError:
    return SanError(
        f"cannot write {path}: {error.strerror or error}",
        do="free some space, or choose a folder that can be written",
    )
