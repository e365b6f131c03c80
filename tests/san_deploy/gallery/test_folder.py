from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from san_deploy.errors import SanError, UsageError
from san_deploy.gallery import open_gallery, segments
from san_deploy.gallery.tracks import at_least_kth

from .made import DIM, MODEL, tracks, unit


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "gallery"
    open_gallery(str(path), write=True, create=MODEL).close()
    return path


def test_vectors_over_several_segments(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "ROWS_PER_SEGMENT", 7)
    gallery = open_gallery(str(folder), write=True)
    items = [tracks("door", 5), tracks("hall", 20), tracks("yard", 3)]
    for item in items:
        gallery.add(item)
    assert len(list((folder / "vectors").iterdir())) == 4
    every = np.concatenate([item.embedding for item in items])
    for at, query in enumerate(every):
        assert gallery.search(query[None], 1)[0][0].similarity == pytest.approx(1, abs=1e-6), at
    gallery.delete("hall")
    gallery.compact()
    assert len(list((folder / "vectors").iterdir())) == 2
    assert {hit.camera for hit in gallery.search(unit(np.ones((1, DIM))), 100)[0]} == {"door", "yard"}
    for item in (items[0], items[2]):
        for query in item.embedding:
            assert gallery.search(query[None], 1)[0][0].similarity == pytest.approx(1, abs=1e-6)
    gallery.close()


def test_after_delete_and_compact_the_bytes_are_nowhere(folder: Path) -> None:
    gallery = open_gallery(str(folder), write=True)
    gallery.add(tracks("door", 6), pictures=[[f"picture {index}".encode() * 20] for index in range(6)])
    secret = tracks("secret-camera", 1)
    gallery.add(secret, pictures=[[b"secret picture" * 20]])

    def holds(needle: bytes) -> bool:
        return any(needle in path.read_bytes() for path in folder.rglob("*") if path.is_file())

    vector = secret.embedding[0].tobytes()
    assert holds(vector) and holds(b"secret picture")
    gallery.delete("secret-camera")
    assert not holds(b"secret picture")
    assert gallery.compact() == 1
    assert not holds(vector) and not holds(vector[:16]) and not holds(vector[-16:])
    assert gallery.info().tracks == 6
    gallery.close()


def test_one_writer_and_many_readers(folder: Path) -> None:
    writer = open_gallery(str(folder), write=True)
    with pytest.raises(SanError, match="is being written by another program"):
        open_gallery(str(folder), write=True)
    reader = open_gallery(str(folder))
    query = unit(np.ones((1, DIM)))
    assert reader.search(query, 5) == [[]]
    writer.add(tracks("door", 3))
    assert len(reader.search(query, 5)[0]) == 3
    writer.delete("door", "t0001")
    assert len(reader.search(query, 5)[0]) == 2
    writer.compact()
    assert len(reader.search(query, 5)[0]) == 2
    with pytest.raises(SanError, match="was opened to read"):
        reader.add(tracks("hall", 1))
    writer.close()
    open_gallery(str(folder), write=True).close()
    reader.close()


def kill(code: str) -> None:
    """Run code in a process of its own, where `die()` is SIGKILL; fails unless it died."""
    begin = """
        import os, signal
        from san_deploy.gallery import folder, open_gallery, segments
        from tests.san_deploy.gallery.made import MODEL, tracks
        def die(*args, **kwargs):
            os.kill(os.getpid(), signal.SIGKILL)
    """
    root = Path(__file__).parents[3]
    path = os.pathsep.join([str(root), str(root / "train"), str(root / "export")])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(begin) + textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": path},
        cwd=root,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("moment", ["connect", "_create", "_note"])
def test_killed_while_it_is_made_it_is_made_again(tmp_path: Path, moment: str) -> None:
    """Before the database has a name, while it is empty, and with its tables before the commit."""
    path = tmp_path / "gallery"
    owner = "folder.sqlite3" if moment == "connect" else "folder.FolderGallery"
    kill(
        f"""
        held = folder._lock
        folder._lock = lambda path: (held(path), setattr({owner}, {moment!r}, die))
        open_gallery({str(path)!r}, write=True, create=MODEL)
        """
    )
    assert path.is_dir()
    with pytest.raises(SanError, match=r"is no gallery\. Make one"):
        open_gallery(str(path))
    with contextlib.closing(open_gallery(str(path), write=True, create=MODEL)) as gallery:
        gallery.add(tracks("door", 5))
        assert gallery.info().cameras == {"door": 5}


def test_a_stranger_beside_what_is_left_of_one_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "gallery.sqlite").touch()
    (tmp_path / "vectors").mkdir()
    (tmp_path / "vectors" / "mine.svg").touch()
    with pytest.raises(SanError, match="is there and is no gallery"):
        open_gallery(str(tmp_path), write=True, create=MODEL)
    assert (tmp_path / "gallery.sqlite").stat().st_size == 0


def test_a_disk_that_is_full_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect

    def small(path: Path, **given: Any) -> sqlite3.Connection:
        database = connect(path, **given)
        database.execute("PRAGMA max_page_count = 3")
        return database

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", small)
        with pytest.raises(SanError, match=r"cannot be written\. .*full.*disk"):
            open_gallery(str(tmp_path / "gallery"), write=True, create=MODEL)
    open_gallery(str(tmp_path / "gallery"), write=True, create=MODEL).close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE tracks SET row = -1 WHERE id = 1",
        "UPDATE tracks SET row = 99 WHERE id = 1",
        "UPDATE tracks SET segment = 99 WHERE id = 1",
        "UPDATE tracks SET segment = 'x' WHERE id = 1",
        "UPDATE tracks SET person = 'x' WHERE id = 1",
        "UPDATE tracks SET start = 'x' WHERE id = 1",
        "UPDATE tracks SET track = x'ff' WHERE id = 1",
        "UPDATE about SET value = 'x' WHERE key = 'next_person'",
        "UPDATE events SET detail = '{'",
    ],
)
def test_a_value_that_cannot_be_there_is_damage(folder: Path, change: str) -> None:
    """SQLite takes any value in any column. A row that is off would be another tracklet's vector."""
    with contextlib.closing(open_gallery(str(folder), write=True)) as gallery:
        gallery.add(tracks("door", 3))
    with contextlib.closing(sqlite3.connect(folder / "gallery.sqlite")) as database, database:
        database.execute(change)
    gallery = open_gallery(str(folder), write=True)
    with contextlib.closing(gallery), pytest.raises(SanError, match=r"is damaged|cannot be read"):
        gallery.search(unit(np.ones((1, DIM))), 3)
        gallery.export()
        gallery.events()
        gallery.new_people(1)


@pytest.mark.parametrize("moment", ["write", "insert", "commit"])
def test_killed_in_an_append_it_opens_whole(folder: Path, moment: str) -> None:
    """The writer is killed for good while vectors are written, before the names are, and before the commit."""
    gallery = open_gallery(str(folder), write=True)
    gallery.add(tracks("door", 5))
    gallery.close()
    kill(
        f"""
        gallery = open_gallery({str(folder)!r}, write=True)
        append = segments.append
        if {moment!r} == "write":
            def half(folder, number, before, vectors):
                append(folder, number, before, vectors[:2])
                die()
            segments.append = half
        elif {moment!r} == "insert":
            segments.append = lambda *given: (append(*given), die())
        else:
            type(gallery)._note = die
        gallery.add(tracks("hall", 4))
        """
    )
    gallery = open_gallery(str(folder), write=True)
    assert gallery.info().cameras == {"door": 5}
    assert np.array_equal(gallery.export()[0].embedding, tracks("door", 5).embedding)
    gallery.add(tracks("hall", 4))
    assert np.array_equal(gallery.export()[1].embedding, tracks("hall", 4).embedding)
    gallery.close()


def test_a_full_disk_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = open_gallery(str(folder), write=True)
    gallery.add(tracks("door", 5))

    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(segments, "append", full)
        with pytest.raises(SanError, match=r"cannot write .*No space left"):
            gallery.add(tracks("hall", 4))
    assert gallery.info().cameras == {"door": 5}
    gallery.add(tracks("hall", 4))
    gallery.close()


def test_what_is_no_gallery(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(SanError, match=r"none is no gallery. Make one: san gallery add"):
        open_gallery(str(tmp_path / "none"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(SanError, match="is there and is no gallery"):
        open_gallery(str(tmp_path / "mine"), write=True, create=MODEL)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    with pytest.raises(UsageError, match="mysql://x is no gallery"):
        open_gallery("mysql://x")
    (folder / "gallery.sqlite").write_bytes(b"SQLite format 3\0" + b"\xff" * 4000)
    with pytest.raises(SanError, match="is damaged"):
        open_gallery(str(folder))


def test_a_refused_or_killed_add_leaves_no_bytes(folder: Path) -> None:
    gallery = open_gallery(str(folder), write=True)
    gallery.add(tracks("door", 4))
    before = {path: path.read_bytes() for path in (folder / "vectors").iterdir()}
    with pytest.raises(SanError, match="comes again"):
        gallery.add(tracks("door", 4))
    assert {path: path.read_bytes() for path in (folder / "vectors").iterdir()} == before
    # As a killed writer leaves it: rows behind those that were committed, and a segment that never was.
    (last,) = before
    last.write_bytes(before[last] + b"somebody's vector" * 40)
    other = last.with_name(last.name.replace("0", "9"))
    other.write_bytes(b"somebody else's")
    gallery.assign("door", {str(tracks("door", 1).track[0]): 7})
    assert {path: path.read_bytes() for path in (folder / "vectors").iterdir()} == before
    gallery.close()


def test_a_cut_file_of_vectors_is_named(folder: Path) -> None:
    gallery = open_gallery(str(folder), write=True)
    gallery.add(tracks("door", 5))
    gallery.close()
    file = segments.segment_path(folder / "vectors", 1)
    file.write_bytes(file.read_bytes()[:-1])
    gallery = open_gallery(str(folder), write=True)
    with pytest.raises(SanError, match=r"00000001\.f32 is cut short"):
        gallery.search(unit(np.ones((1, DIM))), 1)
    with pytest.raises(SanError, match=r"00000001\.f32 is cut short"):
        gallery.add(tracks("hall", 1))
    gallery.close()


def test_no_damaged_vector_is_searched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through several segments, additions to one, deletion and compaction; a gallery from before has no sums."""
    monkeypatch.setattr(segments, "ROWS_PER_SEGMENT", 7)
    query = tracks("door", 1).embedding
    with contextlib.closing(open_gallery(str(folder), write=True)) as gallery:
        for item in (tracks("door", 5), tracks("hall", 20), tracks("yard", 3)):
            gallery.add(item)
        gallery.delete("hall")
        gallery.compact()
        gallery.add(tracks("roof", 4))
        assert len(gallery.search(query, 20)[0]) == 12
    rng = np.random.default_rng(0)
    for file in sorted((folder / "vectors").iterdir()):
        whole = file.read_bytes()
        for _ in range(20):
            damaged = bytearray(whole)
            damaged[rng.integers(len(whole))] ^= 1 << int(rng.integers(8))
            file.write_bytes(bytes(damaged))
            gallery = open_gallery(str(folder))
            with contextlib.closing(gallery), pytest.raises(SanError, match=f"{file.name} is damaged"):
                gallery.search(query, 20)
        file.write_bytes(whole)
    with contextlib.closing(sqlite3.connect(folder / "gallery.sqlite")) as database, database:
        assert database.execute("SELECT count(*) FROM about WHERE key LIKE 'crc32/%'").fetchone() == (2,)
        database.execute("DELETE FROM about WHERE key LIKE 'crc32/%'")
    with contextlib.closing(open_gallery(str(folder), write=True)) as gallery:
        gallery.add(tracks("gate", 3))
        assert len(gallery.search(query, 20)[0]) == 15


def test_a_later_schema_is_refused(folder: Path) -> None:
    with sqlite3.connect(folder / "gallery.sqlite") as db:
        db.execute("UPDATE about SET value = '99' WHERE key = 'schema_version'")
    with pytest.raises(SanError, match="has gallery schema 99, this is 1"):
        open_gallery(str(folder))


@pytest.mark.parametrize(
    ("values", "k", "places"),
    [([], 3, []), ([0.1], 3, [0]), ([0.1, 0.9, 0.5], 1, [1]), ([0.5, 0.9, 0.5, 0.1], 2, [0, 1, 2])],
)
def test_the_kth_value_and_its_equals(values: list[float], k: int, places: list[int]) -> None:
    assert at_least_kth(np.array(values), k).tolist() == places
