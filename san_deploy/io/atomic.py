"""Files and folders that appear whole or not at all.

Each output is made in a work folder `.san-XXXXXXXX` on the same disk and takes its name by a rename. Whoever works
in such a folder holds a lock on it, so that the next run knows the folders of killed ones and removes them, other
containers' on a shared volume included. Where a name cannot be renamed to, as the end of a bind mount, its content
is replaced in place, in an order that never shows a half result as a whole one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import SanError
from . import work_folder
from .paths import StrPath, is_fixed, is_mount
from .work_folder import WorkFolder

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_DISK_ERRORS = _FULL | {
    errno.EACCES,
    errno.EBUSY,
    errno.EFBIG,
    errno.EIO,
    errno.EISDIR,
    errno.EMFILE,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOSYS,
    errno.ENOTDIR,
    errno.EOPNOTSUPP,
    errno.EPERM,
    errno.EROFS,
    errno.EXDEV,
}
#: What a rename onto a mount point gives; EXDEV also comes from an overlay's lower layer.
_NO_RENAME = frozenset({errno.EBUSY, errno.EXDEV})
#: What a file system keeps in a volume's top folder for itself.
_OF_THE_VOLUME = frozenset({"lost+found", ".Trashes", "System Volume Information"})
#: Bytes at the start of a file that come last when it is filled in place.
_HEAD = 4096


def refuse_existing(path: StrPath, *, force: bool) -> None:
    """Raise SanError where `path` cannot be the output file, before anything long starts.

    That is: it exists and `force` is false; it is a device, a pipe, a socket or a link, which are never replaced; or
    the folder that it would stand in cannot be written or made. A file is made there and removed, since rights
    alone do not tell: root has all of them below /proc.
    """
    path = Path(path)
    mode = _mode(path)
    if mode is not None and not force:
        raise SanError(f"{path} exists", do="name another output or give --force to replace it")
    if mode is not None and not stat.S_ISDIR(mode):
        _refuse_special(path, mode)
        if is_fixed(path) and os.access(path, os.W_OK):
            return
    parent = path.absolute().parent
    while not os.path.lexists(parent):
        parent = parent.parent
    try:
        handle, name = tempfile.mkstemp(prefix=work_folder.PREFIX, suffix=".probe", dir=parent)
    except OSError as error:
        raise SanError(
            f"cannot write {path}: {parent} is no folder that can be written",
            why=error.strerror or str(error),
            do="name another output",
        ) from error
    os.close(handle)
    os.unlink(name)


@contextlib.contextmanager
def atomic_file(path: StrPath, *, force: bool = True) -> Iterator[Path]:
    """Yield a temporary path of the same name; it becomes `path` on success and is removed on any failure.

    The folder is made if it is missing, the file is on the disk before it gets its name, and Ctrl-C or a full disk
    leave nothing behind. Errors from inside the block name `path`, not the temporary file.

    Args:
        path: the file to write.
        force: replace an existing file. Without it, a file that appeared meanwhile is kept, and the new one gets
            a name beside it, which the error tells.

    Raises:
        SanError: the disk is full, there is no permission, or `path` is taken.
    """
    with _publishing(Path(path), None, force) as temporary:
        yield temporary


@contextlib.contextmanager
def atomic_pair(path: StrPath, beside: Callable[[Path], Path], *, force: bool = True) -> Iterator[Path]:
    """`atomic_file` for a file and a second one that belongs to it, such as a model and its sidecar.

    Args:
        path: the first file.
        beside: gives the second one's path for a path of the first, in the same folder.
        force: as of `atomic_file`.

    Yields:
        The temporary path. The block also writes `beside` that path; both get their names together.
    """
    with _publishing(Path(path), beside, force) as temporary:
        yield temporary


@contextlib.contextmanager
def atomic_folder(path: StrPath, *, force: bool = False, ours: Sequence[str] = ()) -> Iterator[Path]:
    """Yield a temporary folder; on success it takes the name `path`. A link to a folder is followed.

    A mount point, the working directory and a folder whose parent cannot be written stay, and get the new content.

    Args:
        path: the folder to make.
        force: replace an existing folder, after the new one is complete.
        ours: names that our own output has at its top. A folder that holds anything else is never replaced,
            whatever `force` says: `-o ~ --force` must not cost a home folder. Where content is replaced in
            place, the last of them, which makes the output whole, goes first and comes last.

    Raises:
        SanError: `path` is taken, by then or meanwhile, or cannot be written.
    """
    named = Path(path)
    path = _followed(named)
    empty = path.is_dir() and not _entries(path)
    if not path.is_dir():
        refuse_existing(path, force=force)
        if os.path.lexists(path):
            raise SanError(f"{named} is not a folder", do="name another output")
    elif not empty:
        if not force:
            raise SanError(f"{named} exists", do="name another output or give --force to replace it")
        _refuse_foreign(path, named, ours)
    stays = path.is_dir() and (is_fixed(path) or path.samefile(Path.cwd()))
    with _working(named, path if stays else path.parent, path) as work:
        new = work.new / path.name
        new.mkdir()
        yield new
        _sync_tree(new)
        with _uninterrupted():
            if stays:
                _refuse_foreign(path, named, ours if force else ())
                _fill_folder(work, new, path, ours)
            else:
                _place_folder(work, new, path, named, ours if force else ())
            _sync(path.parent)


def is_of_the_disk(error: OSError) -> bool:
    """Whether writing failed; a network error inside the block is an OSError too, but not ours."""
    return error.errno in _DISK_ERRORS


def disk_advice(error: OSError) -> str:
    """What to do about an error of the disk."""
    if error.errno in _FULL:
        return "free some space, or choose a folder that can be written"
    return "choose a folder that can be written"


@contextlib.contextmanager
def _publishing(path: Path, beside: Callable[[Path], Path] | None, force: bool) -> Iterator[Path]:
    mode = _mode(path)
    if mode is not None:
        _refuse_special(path, mode)
    fixed = mode is not None and is_fixed(path)
    with _working(path, Path(tempfile.gettempdir()) if fixed else path.parent, path) as work:
        temporary = work.new / path.name
        temporary.touch()
        yield temporary
        second = beside(temporary) if beside else None
        for file in filter(None, (temporary, second)):
            _sync(file)
        with _uninterrupted():
            work.begin(second)
            try:
                _place_file(temporary, path, force)
            except FileExistsError as error:
                work.begin(None)
                kept = _keep(temporary, path)
                if beside and second and kept:
                    os.replace(second, beside(kept))
                raise _taken(path, kept) from error
            if beside and second:
                # It belongs to the first, whose name was free or is replaced.
                _place_file(second, beside(path), True)
            _sync(path.parent)


@contextlib.contextmanager
def _working(named: Path, where: Path, path: Path) -> Iterator[WorkFolder]:
    """A work folder in `where` for `path`, which the user calls `named`; gone afterwards, whatever happens."""
    try:
        where.mkdir(parents=True, exist_ok=True)
        work_folder.remove_dead(where)
        work = WorkFolder(where, path)
    except OSError as error:
        raise _cannot_write(named, error) from error
    inside = str(work.new / path.name)
    try:
        yield work
    except OSError as error:
        if not is_of_the_disk(error):
            raise
        raise _cannot_write(named, error) from error
    except SanError as error:
        for part in ("message", "why", "do"):
            setattr(error, part, getattr(error, part).replace(inside, str(named)))
        raise
    finally:
        work.close()


def _place_file(new: Path, path: Path, force: bool) -> None:
    """Give a whole file its name; `new` is gone then. FileExistsError where the name is taken."""
    if not force:
        _rename_exclusively(new, path)
        return
    if (mode := _mode(path)) is not None:
        _refuse_special(path, mode)
    try:
        os.replace(new, path)
    except OSError as error:
        if error.errno not in _NO_RENAME:
            raise
        _fill_file(new, path)


def _rename_exclusively(new: Path, path: Path) -> None:
    """Rename a file to a name that nobody has; FileExistsError where somebody does."""
    if os.name == "nt":
        os.rename(new, path)
        return
    try:
        os.link(new, path)
    except FileExistsError:
        raise
    except OSError:
        # A file system without hard links: hold the name with an empty file.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        try:
            os.replace(new, path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    else:
        new.unlink()


def _fill_file(new: Path, path: Path) -> None:
    """Replace a file's content. Until the last write its head is empty, which no format of ours reads as whole."""
    old = new.parent.parent / "old"
    # A second file beside a first one that is mounted may be new, on another disk than the work folder.
    path.touch()
    shutil.copyfile(path, old)
    try:
        _copy_head_last(new, path)
    except BaseException:
        _copy_head_last(old, path)
        raise
    new.unlink()


def _copy_head_last(source: Path, target: Path) -> None:
    with source.open("rb") as read, target.open("r+b") as write:
        write.truncate(0)
        head = read.read(_HEAD)
        write.seek(len(head))
        shutil.copyfileobj(read, write, 1 << 20)
        write.flush()
        os.fsync(write.fileno())
        write.seek(0)
        write.write(head)
        write.flush()
        os.fsync(write.fileno())


def _place_folder(work: WorkFolder, new: Path, path: Path, named: Path, ours: Sequence[str]) -> None:
    """Give a whole folder its name, putting an old one of ours aside."""
    made = False
    try:
        if path.is_dir() and _entries(path):
            if not ours:
                raise FileExistsError
            _refuse_foreign(path, named, ours)
            os.rename(path, work.old)
        # The name is taken exclusively; then the rename onto an empty folder is one step.
        if os.name != "nt" and not os.path.lexists(path):
            path.mkdir()
            made = True
        os.rename(new, path)
    except BaseException as error:
        if made and new.exists():
            path.rmdir()
        work.settle()
        if not isinstance(error, OSError):
            raise
        if error.errno in _NO_RENAME:
            # A mount point that /proc does not show, or the lower layer of an overlay.
            _fill_folder(work, new, path, ours)
        elif isinstance(error, (FileExistsError, NotADirectoryError)) or error.errno == errno.ENOTEMPTY:
            raise _taken(named, _keep(new, path)) from error
        else:
            raise


def _fill_folder(work: WorkFolder, new: Path, path: Path, ours: Sequence[str]) -> None:
    """Replace a folder's content: the old out, then the new in, with the last of `ours` out first and in last."""

    def rank(name: str) -> int:
        return ours.index(name) if name in ours else -1

    work.moving_out.mkdir()
    try:
        for name in sorted(_entries(path), key=rank, reverse=True):
            shutil.move(path / name, work.moving_out / name)
        os.rename(work.moving_out, work.moving_in)
        for name in sorted(os.listdir(new), key=rank):
            shutil.move(new / name, path / name)
        os.rename(work.moving_in, work.old_content)
    except BaseException:
        work.settle()
        raise


def _keep(new: Path, path: Path) -> Path | None:
    """Give a whole result, whose name somebody took meanwhile, a free name beside it."""
    for number in range(2, 100):
        kept = path.with_name(f"{path.stem}-{number}{path.suffix}")
        try:
            if new.is_dir():
                kept.mkdir()
                os.rename(new, kept)
            else:
                _rename_exclusively(new, kept)
        except OSError:
            continue
        return kept
    return None


def _taken(path: Path, kept: Path | None) -> SanError:
    if kept is None:
        return SanError(f"{path} appeared while this ran", do="run it again with another output")
    return SanError(
        f"{path} appeared while this ran, and was kept", do=f"the result is whole and stands in {kept}"
    )


def _mode(path: Path) -> int | None:
    """The mode of what has this name, links not followed; None where nothing has."""
    try:
        return os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SanError(
            f"cannot write {path}: {path.absolute().parent} is no folder that can be written",
            why=error.strerror or str(error),
            do="name another output",
        ) from error


def _refuse_special(path: Path, mode: int) -> None:
    """Refuse to replace what is neither a file nor a folder."""
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return
    kinds = {stat.S_IFLNK: "a link", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    what = kinds.get(stat.S_IFMT(mode), "a device")
    to = f" to {os.readlink(path)}" if stat.S_ISLNK(mode) else ""
    raise SanError(f"{path} is {what}{to}, which is never replaced", do="name another output")


def _followed(path: Path) -> Path:
    """The folder that is meant: a link to one is followed, another link is refused."""
    mode = _mode(path)
    if mode is not None and stat.S_ISLNK(mode) and not path.is_dir():
        _refuse_special(path, mode)
    return path.resolve()


def _entries(folder: Path) -> list[str]:
    """Names in a folder, sorted; without our work folders and what a volume keeps for itself."""
    left_out = _OF_THE_VOLUME if is_mount(folder) else ()
    return sorted(
        name
        for name in os.listdir(folder)
        if not name.startswith(work_folder.PREFIX) and name not in left_out
    )


def _refuse_foreign(path: Path, named: Path, ours: Sequence[str]) -> None:
    foreign = [name for name in _entries(path) if name not in ours]
    if foreign:
        raise SanError(
            f"{named} holds files that are not ours ({foreign[0]})", do="name another output folder"
        )


def _sync(path: Path) -> None:
    """Have a file or a folder's names on the disk, where the disk can tell."""
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0)
    if os.name == "nt":
        if path.is_dir():
            return
        flags = os.O_RDWR | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network and FUSE disks have no such call; a write that failed says so with these.
        if error.errno in (*_FULL, errno.EIO):
            raise
    finally:
        os.close(handle)


def _sync_tree(folder: Path) -> None:
    for root, _, files in os.walk(folder):
        for name in files:
            _sync(Path(root, name))
        _sync(Path(root))


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the block is done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before: dict[int, Any] = {
        number: signal.signal(number, lambda number, frame: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for number in came[:1]:
            signal.raise_signal(number)


def _cannot_write(path: Path, error: OSError) -> SanError:
    return SanError(f"cannot write {path}: {error.strerror or error}", do=disk_advice(error))
