"""Whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from san_deploy.errors import SanError
from san_deploy.io.atomic import atomic_file, atomic_folder, atomic_pair, refuse_existing

DISK_FULL = OSError(errno.ENOSPC, "No space left on device")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.txt"
    with atomic_file(target) as temporary:
        assert temporary.suffix == ".txt" and temporary.parent == target.parent
        temporary.write_text("one")
        assert not target.exists()
    assert target.read_text() == "one" and names(target.parent) == ["a.txt"]


def beside(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def test_a_pair_appears_when_both_are_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "model.onnx"
    with atomic_pair(target, beside) as temporary:
        temporary.write_text("model")
        beside(temporary).write_text("description")
        assert not target.exists() and not beside(target).exists()
    assert names(target.parent) == ["model.onnx", "model.onnx.json"]
    assert (target.read_text(), beside(target).read_text()) == ("model", "description")


@pytest.mark.parametrize("error", [DISK_FULL, KeyboardInterrupt(), ValueError("a bug")])
def test_a_pair_that_fails_keeps_the_old_pair(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "model.onnx"
    target.write_text("old")
    beside(target).write_text("old description")
    with pytest.raises(BaseException), atomic_pair(target, beside) as temporary:  # noqa: B017
        temporary.write_text("new")
        beside(temporary).write_text("new description")
        raise error
    assert names(tmp_path) == ["model.onnx", "model.onnx.json"]
    assert (target.read_text(), beside(target).read_text()) == ("old", "old description")


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
    refuse_existing(tmp_path / "a", force=True)


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


def test_folder_whose_rename_fails_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a").write_text("old")
    real = os.replace
    calls = []

    def replace(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:  # the old folder is away, the new one does not come
            raise DISK_FULL
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(SanError), atomic_folder(out, force=True, ours=["a"]) as temporary:
        (temporary / "a").write_text("new")
    assert (out / "a").read_text() == "old" and names(tmp_path) == ["out"]
