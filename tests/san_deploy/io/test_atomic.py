"""Whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from san_deploy.errors import SanError
from san_deploy.io import atomic, paths
from san_deploy.io.atomic import atomic_file, atomic_folder, atomic_pair, refuse_existing

DISK_FULL = OSError(errno.ENOSPC, "No space left on device")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.txt"
    with atomic_file(target) as temporary:
        assert temporary.name == target.name and temporary.parents[2] == target.parent
        temporary.write_text("one")
        assert not target.exists()
    assert target.read_text() == "one" and names(target.parent) == ["a.txt"]


def test_file_has_the_rights_of_a_plain_one(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with atomic_file(tmp_path / "ours"):
        pass
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("error", [DISK_FULL, KeyboardInterrupt(), ValueError("a bug")])
def test_a_failure_keeps_the_old_file_and_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    expected = SanError if error is DISK_FULL else type(error)
    with pytest.raises(expected), atomic_file(target) as temporary:
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_a_full_disk_is_one_line_with_the_name(tmp_path: Path) -> None:
    line = r"cannot write .*a\.txt: No space left on device"
    with pytest.raises(SanError, match=line) as caught, atomic_file(tmp_path / "a.txt"):
        raise DISK_FULL
    assert "\n" not in str(caught.value)


def test_a_real_full_device(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(SanError, match="No space left"), atomic_file(tmp_path / "a.txt") as temporary:
        temporary.unlink()
        temporary.symlink_to("/dev/full")
        with temporary.open("w") as file:
            file.write("x" * 100_000)
    assert names(tmp_path) == []


def test_file_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(SanError, match="cannot write"), atomic_file(tmp_path / "a" / "b.txt"):
        pass


def test_refuse_existing(tmp_path: Path) -> None:
    refuse_existing(tmp_path / "a", force=False)
    refuse_existing(tmp_path / "new" / "newer" / "a", force=False)
    refuse_existing(Path("surely-not-here"), force=False)
    (tmp_path / "a").symlink_to("nowhere")
    with pytest.raises(SanError, match="--force"):
        refuse_existing(tmp_path / "a", force=False)
    (tmp_path / "b").touch()
    refuse_existing(tmp_path / "b", force=True)


def test_refuse_existing_sees_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    refuse_existing(tmp_path / "new" / "a.npz", force=False)
    assert names(tmp_path) == ["dangling", "file"]
    for path in ("file/a.npz", "file/new/a.npz", "dangling/a.npz", "a" * 300 + ".npz"):
        with pytest.raises(SanError, match="no folder that can be written"):
            refuse_existing(tmp_path / path, force=True)

    def denied(*arguments: object, **named: object) -> None:  # root may write everywhere
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("san_deploy.io.atomic.tempfile.mkstemp", denied)
    with pytest.raises(SanError, match=r"no folder that can be written. Permission denied"):
        refuse_existing(tmp_path / "a.npz", force=False)


@pytest.mark.parametrize("path", ["/proc/a.html", "/proc/new/a.html"])
def test_refuse_existing_tries_to_write(path: str) -> None:
    """Root has all rights there, and can make no file."""
    if not Path("/proc/self").exists():
        pytest.skip("no /proc here")
    with pytest.raises(SanError, match=r"cannot write /proc/.*no folder that can be written"):
        refuse_existing(Path(path), force=False)


def test_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "out"
    with atomic_folder(target) as temporary:
        (temporary / "a").write_text("one")
        assert not target.exists()
    assert names(target) == ["a"] and names(target.parent) == ["out"]


def test_folder_takes_the_place_of_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with atomic_folder(tmp_path / "out") as temporary:
        (temporary / "a").touch()
    assert names(tmp_path / "out") == ["a"]


def test_folder_replaces_ours_only_by_force(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with atomic_folder(out) as temporary:
        (temporary / "a").write_text("old")
    with pytest.raises(SanError, match="--force"), atomic_folder(out, ours=["a"]):
        pytest.fail("started although the folder exists")
    with atomic_folder(out, force=True, ours=["a"]) as temporary:
        (temporary / "a").write_text("new")
    assert (out / "a").read_text() == "new" and names(tmp_path) == ["out"]


def test_folder_never_replaces_what_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").touch()
    with (
        pytest.raises(SanError, match=r"thesis\.tex"),
        atomic_folder(tmp_path / "home", force=True, ours=["a"]),
    ):
        pytest.fail("started although the folder holds other files")
    (tmp_path / "file").touch()
    with pytest.raises(SanError, match="is not a folder"), atomic_folder(tmp_path / "file", force=True):
        pytest.fail("started although the name is a file")


@pytest.mark.parametrize("error", [DISK_FULL, KeyboardInterrupt(), ValueError("a bug")])
def test_folder_failure_keeps_the_old_one(tmp_path: Path, error: BaseException) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a").write_text("old")
    expected = SanError if error is DISK_FULL else type(error)
    with pytest.raises(expected), atomic_folder(out, force=True, ours=["a"]) as temporary:
        (temporary / "a").write_text("half")
        raise error
    assert (out / "a").read_text() == "old" and names(tmp_path) == ["out"]


def interrupted(function: str, call: int, error: BaseException, patch: pytest.MonkeyPatch) -> list[object]:
    """Have the n-th call of a function of `os` raise instead of working; gives the calls so far."""
    real = getattr(os, function)
    calls: list[object] = []

    def raises(source: Path, target: Path) -> None:
        # Renames of the lock are not of the output.
        if Path(target).name != "lock":
            calls.append(target)
            if len(calls) == call:
                raise error
        real(source, target)

    patch.setattr(os, function, raises)
    return calls


@pytest.mark.parametrize("error", [DISK_FULL, KeyboardInterrupt()])
@pytest.mark.parametrize("call", [1, 2])
def test_folder_cut_short_between_two_renames_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, call: int
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a").write_text("old")
    with monkeypatch.context() as patch:
        interrupted("rename", call, error, patch)
        with (
            pytest.raises(SanError if error is DISK_FULL else KeyboardInterrupt),
            atomic_folder(out, force=True, ours=["a"]) as temporary,
        ):
            (temporary / "a").write_text("new")
    assert (out / "a").read_text() == "old" and names(tmp_path) == ["out"]


def beside(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def write_pair(path: Path, text: str, *, force: bool = True) -> None:
    with atomic_pair(path, beside, force=force) as temporary:
        temporary.write_text(text)
        beside(temporary).write_text(text)


def read_pair(path: Path) -> tuple[str, str]:
    return path.read_text(), beside(path).read_text()


def test_a_pair_appears_when_both_are_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "model.onnx"
    write_pair(target, "one")
    assert names(target.parent) == ["model.onnx", "model.onnx.json"] and read_pair(target) == ("one", "one")


@pytest.mark.parametrize("error", [DISK_FULL, KeyboardInterrupt(), ValueError("a bug")])
def test_a_pair_that_fails_keeps_the_old_pair(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "model.onnx"
    write_pair(target, "old")
    with pytest.raises(SanError if error is DISK_FULL else type(error)), atomic_pair(target, beside) as new:
        new.write_text("new")
        beside(new).write_text("new")
        raise error
    assert names(tmp_path) == ["model.onnx", "model.onnx.json"] and read_pair(target) == ("old", "old")


@pytest.mark.parametrize(("call", "left"), [(1, "old"), (2, "new")])
def test_a_pair_is_never_of_two_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int, left: str
) -> None:
    target = tmp_path / "model.onnx"
    write_pair(target, "old")
    with monkeypatch.context() as patch:
        interrupted("replace", call, KeyboardInterrupt(), patch)
        with pytest.raises(KeyboardInterrupt):
            write_pair(target, "new")
    assert read_pair(target) == (left, left) and names(tmp_path) == ["model.onnx", "model.onnx.json"]


def test_ctrl_c_waits_for_the_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        signal.raise_signal(signal.SIGINT)
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        write_pair(tmp_path / "model.onnx", "one")
    assert read_pair(tmp_path / "model.onnx") == ("one", "one")


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:  # as FAT

        def link(source: Path, target: Path) -> None:
            raise PermissionError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", link)
    target = tmp_path / "a.npz"
    with (
        pytest.raises(SanError, match=r"a\.npz appeared while this ran.*stands in .*a-2\.npz"),
        atomic_file(target, force=False) as temporary,
    ):
        temporary.write_text("mine")
        target.write_text("another's")
    assert target.read_text() == "another's" and (tmp_path / "a-2.npz").read_text() == "mine"
    assert names(tmp_path) == ["a-2.npz", "a.npz"]
    write_pair(tmp_path / "b.onnx", "one", force=False)
    with pytest.raises(SanError, match=r"b-2\.onnx"):
        write_pair(tmp_path / "b.onnx", "two", force=False)
    assert read_pair(tmp_path / "b.onnx") == ("one", "one")
    assert read_pair(tmp_path / "b-2.onnx") == ("two", "two")


def test_two_runs_into_one_folder_lose_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(SanError, match="out appeared while this ran"),
        atomic_folder(tmp_path / "out") as first,
    ):
        (first / "a").write_text("first")
        with atomic_folder(tmp_path / "out") as second:
            (second / "a").write_text("second")
    assert (tmp_path / "out" / "a").read_text() == "second"
    assert (tmp_path / "out-2" / "a").read_text() == "first"
    assert names(tmp_path) == ["out", "out-2"]


@pytest.mark.parametrize("old", [None, "empty", "a"])
def test_what_somebody_puts_there_meanwhile_is_kept(tmp_path: Path, old: str | None) -> None:
    out = tmp_path / "out"
    if old:
        out.mkdir()
    if old == "a":
        (out / "a").touch()
    with pytest.raises(SanError), atomic_folder(out, force=old == "a", ours=["a"]):
        out.mkdir(exist_ok=True)
        (out / "thesis.tex").write_text("years of work")
    assert (out / "thesis.tex").read_text() == "years of work"


def test_force_replaces_files_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("a stranger's")
    (tmp_path / "link").symlink_to("file")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    before = {path.name: path.lstat().st_mode for path in tmp_path.iterdir()}
    for name, what in (("pipe", "a pipe"), ("socket", "a socket"), ("link", "a link to file")):
        for attempt in (refuse_existing, atomic_folder):
            with pytest.raises(SanError, match=f"{what}, which is never replaced"):
                with_force(attempt, tmp_path / name)
        with pytest.raises(SanError, match="never replaced"), atomic_file(tmp_path / name):
            pytest.fail("started")
    with pytest.raises(SanError, match="a device, which is never replaced"):
        refuse_existing("/dev/null", force=True)
    assert {path.name: path.lstat().st_mode for path in tmp_path.iterdir()} == before


def with_force(attempt: Callable[..., object], path: Path) -> None:
    made = attempt(path, force=True)
    if made is not None:
        with made:  # type: ignore[attr-defined]
            pytest.fail("started")


def test_a_link_to_a_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with atomic_folder(tmp_path / "link") as temporary:
        (temporary / "a").touch()
    assert (tmp_path / "link").is_symlink() and names(tmp_path / "real") == ["a"]
    with pytest.raises(SanError, match=r"link exists"), atomic_folder(tmp_path / "link"):
        pytest.fail("started")


KILLED = """
import sys, time
from pathlib import Path
from san_deploy.io import atomic, work_folder
kind, target, at = sys.argv[1:]
step = getattr(atomic, at, None)
def stop(*arguments, **named):
    print("here", flush=True)
    time.sleep(60)
if at:
    real = getattr(atomic.os, at)
    def after(*arguments):
        real(*arguments)
        if Path(arguments[1]).name != "lock":
            stop()
    setattr(atomic.os, at, after)
with getattr(atomic, kind)(target, force=True, **({"ours": ["a"]} if kind == "atomic_folder" else {})) as new:
    (new / "a" if kind == "atomic_folder" else new).write_text("new")
    if not at:
        stop()
"""


@pytest.mark.parametrize(
    ("kind", "at"), [("atomic_file", ""), ("atomic_folder", ""), ("atomic_folder", "rename")]
)
def test_the_next_run_cleans_up_after_a_killed_one(tmp_path: Path, kind: str, at: str) -> None:
    if sys.platform == "win32":
        pytest.skip("POSIX signals")
    target = tmp_path / "out"
    if kind == "atomic_folder":
        target.mkdir()
        (target / "a").write_text("old")
    command = [sys.executable, "-c", KILLED, kind, str(target), at]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "here\n"
        with atomic_file(tmp_path / "other"):
            pass
        assert any(name.startswith(".san-") for name in names(tmp_path)), "it was alive"
        process.kill()
    with atomic_file(tmp_path / "other"):
        pass
    if kind == "atomic_folder":
        assert (target / "a").read_text() == "old"
        assert names(tmp_path) == ["other", "out"]
    else:
        assert names(tmp_path) == ["other"]


def test_a_planted_work_folder_moves_nothing_elsewhere(tmp_path: Path) -> None:
    """In /tmp anybody may make a folder that looks like that of a killed run of ours."""
    victim = tmp_path / "home" / "secret"
    victim.parent.mkdir()
    (tmp_path / "shared").mkdir()
    for number, target in enumerate((victim, victim.parent / "..", tmp_path)):
        planted = tmp_path / "shared" / f".san-planted{number}"
        (planted / "old").mkdir(parents=True)
        (planted / "old" / "evil").touch()
        (planted / "lock").touch()
        (planted / "target").write_bytes(os.fsencode(target))
    with atomic_file(tmp_path / "shared" / "a"):
        pass
    assert names(tmp_path / "shared") == ["a"] and names(tmp_path) == ["home", "shared"]
    assert names(victim.parent) == []


def test_a_disk_without_locks_and_chmod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    for function in ("chmod", "fchmod", "link"):
        monkeypatch.setattr(os, function, refuse)
    monkeypatch.setattr("fcntl.flock", refuse)
    monkeypatch.setattr(os, "fsync", refuse)
    with atomic_file(tmp_path / "a") as temporary:
        temporary.write_text("one")
    with atomic_file(tmp_path / "b", force=False) as temporary:
        temporary.write_text("two")
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "c").touch()
    assert names(tmp_path) == ["a", "b", "out"]


@pytest.mark.parametrize(
    ("number", "advice"), [(errno.ENOSPC, "space"), (errno.EDQUOT, "space"), (errno.EACCES, "folder")]
)
def test_only_a_full_disk_is_told_to_free_space(tmp_path: Path, number: int, advice: str) -> None:
    with pytest.raises(SanError) as caught, atomic_file(tmp_path / "a"):
        raise OSError(number, os.strerror(number))
    assert advice in caught.value.do and ("space" in caught.value.do) == (advice == "space")


def test_errors_name_the_users_file(tmp_path: Path) -> None:
    with (
        pytest.raises(SanError, match=r"^model .*/a\.onnx is broken") as caught,
        atomic_file(tmp_path / "a.onnx") as temporary,
    ):
        raise SanError(f"model {temporary} is broken", why=f"{temporary}: cut", do=f"look at {temporary}")
    assert ".san-" not in str(caught.value)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """`mounted(source, target)` binds one to the other, as `docker run -v` does."""
    targets: list[Path] = []

    def mount(source: Path, target: Path, *options: str) -> None:
        command = ["mount", "--bind", *options, str(source), str(target)]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("no right to mount here")
        targets.append(target)

    yield mount
    for target in reversed(targets):
        subprocess.run(["umount", str(target)], check=True)


def test_a_folder_at_a_mount_point(tmp_path: Path, mounted: Callable[..., None]) -> None:
    volume, out = tmp_path / "volume", tmp_path / "out"
    volume.mkdir(), out.mkdir()
    mounted(volume, out)
    (volume / "lost+found").mkdir()
    with atomic_folder(out, ours=["a", "z"]) as temporary:
        (temporary / "a").write_text("one")
        (temporary / "z").write_text("one")
    assert names(volume) == ["a", "lost+found", "z"]
    with pytest.raises(SanError, match="out exists"), atomic_folder(out, ours=["a", "z"]):
        pytest.fail("started")
    with atomic_folder(out, force=True, ours=["a", "z"]) as temporary:
        (temporary / "z").write_text("two")
    assert names(volume) == ["lost+found", "z"] and (volume / "z").read_text() == "two"


def test_a_file_at_a_mount_point(tmp_path: Path, mounted: Callable[..., None]) -> None:
    inside, outside = tmp_path / "in" / "a.npz", tmp_path / "out.npz"
    inside.parent.mkdir()
    inside.write_text("old")
    outside.write_text("old")
    mounted(outside, inside)
    refuse_existing(inside, force=True)
    with atomic_file(inside) as temporary:
        assert inside.parent not in temporary.parents
        temporary.write_text("new" * 10_000)
    assert outside.read_text() == "new" * 10_000 and names(inside.parent) == ["a.npz"]


def test_a_mount_point_that_is_not_listed(
    tmp_path: Path, mounted: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without /proc only the rename tells."""
    monkeypatch.setattr(atomic, "is_mount", lambda path: False)
    monkeypatch.setattr(paths, "is_mount", lambda path: False)
    for name in ("volume", "out"):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.npz").write_text("old")
    mounted(tmp_path / "volume", tmp_path / "out")
    mounted(tmp_path / "volume.npz", tmp_path / "out.npz")
    for text in ("one", "two"):
        with atomic_folder(tmp_path / "out", force=True, ours=["a"]) as folder:
            (folder / "a").write_text(text)
        with atomic_file(tmp_path / "out.npz") as file:
            file.write_text(text)
        assert (tmp_path / "volume" / "a").read_text() == (tmp_path / "volume.npz").read_text() == text
    assert names(tmp_path) == ["out", "out.npz", "volume", "volume.npz"]


@pytest.mark.parametrize("call", range(1, 7))
def test_filling_a_folder_that_is_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """The old content is put back, or the new is completed: never a mixture, and `z` only with the rest."""
    monkeypatch.setattr(atomic, "is_fixed", lambda path: True)
    out = tmp_path / "out"
    out.mkdir()
    for name in ("a", "z"):
        (out / name).write_text("old")
    with monkeypatch.context() as patch:
        calls = interrupted("rename", call, KeyboardInterrupt(), patch)
        with pytest.raises(KeyboardInterrupt), atomic_folder(out, force=True, ours=["a", "z"]) as temporary:
            (temporary / "a").write_text("new")
            (temporary / "z").write_text("new")
    steps = ["z", "a", "moving-in", "a", "z", "old-content"]
    assert [Path(str(name)).name for name in calls[:call]] == steps[:call]
    assert names(out) == ["a", "z"] and names(tmp_path) == ["out"]
    assert (out / "a").read_text() == (out / "z").read_text() == ("old" if call < 4 else "new")


@pytest.mark.parametrize("size", [0, 10, 4096, 100_000])
def test_a_file_filled_in_place_is_whole_at_the_last_write_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    target, new = tmp_path / "a", tmp_path / "work" / "new" / "a"
    new.parent.mkdir(parents=True)
    target.write_bytes(b"old" * 50_000)
    new.write_bytes(b"n" * size)
    seen: list[bytes] = []
    monkeypatch.setattr(os, "fsync", lambda handle: seen.append(target.read_bytes()))
    atomic._fill_file(new, target)
    assert seen[0] == (b"" if size <= 4096 else b"\0" * 4096 + b"n" * (size - 4096))
    assert seen[-1] == target.read_bytes() == b"n" * size


def test_a_failed_fill_puts_the_old_content_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, new = tmp_path / "a", tmp_path / "work" / "new" / "a"
    new.parent.mkdir(parents=True)
    target.write_text("old")
    new.write_text("new")
    calls: list[int] = []

    def fsync(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 2:
            raise DISK_FULL

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space"):
        atomic._fill_file(new, target)
    assert target.read_text() == "old"


def test_chmod_is_refused_by_a_real_disk(tmp_path: Path) -> None:
    """bindfs stands in for exFAT and CIFS."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir(), target.mkdir()
    command = ["bindfs", "--chmod-deny", str(source), str(target)]
    if not shutil.which("bindfs") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no bindfs here")
    try:
        with pytest.raises(PermissionError):
            target.chmod(0o700)
        with atomic_file(target / "a") as temporary:
            temporary.write_text("one")
        with atomic_folder(target / "out") as folder:
            (folder / "b").write_text("two")
        assert names(target) == ["a", "out"]
        with pytest.raises(SanError, match="appeared"), atomic_file(target / "a", force=False):
            pass
    finally:
        subprocess.run(["fusermount", "-u", str(target)], check=True)


def test_the_working_directory_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    inode = Path().stat().st_ino
    with atomic_folder(".") as folder:
        (folder / "a").touch()
    assert names(Path()) == ["a"] and Path().stat().st_ino == inode


@pytest.mark.parametrize("name", ["old", "new", "lock", "plan", "target", ".san-x", "a" * 250])
def test_any_name_will_do(tmp_path: Path, name: str) -> None:
    for text in ("one", "two"):
        with atomic_file(tmp_path / name) as temporary:
            temporary.write_text(text)
    assert (tmp_path / name).read_text() == "two"
    with atomic_folder(tmp_path / "folder" / name) as folder:
        (folder / "a").touch()
    assert names(tmp_path / "folder") == [name]


def test_outputs_in_threads(tmp_path: Path) -> None:
    def write(number: int) -> None:
        for _ in range(5):
            with atomic_file(tmp_path / f"{number}") as temporary:
                temporary.write_text(str(number))

    workers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {str(n): str(n) for n in range(4)}
