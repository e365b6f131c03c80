"""A gallery in a folder: SQLite for what is known of tracklets, append-only files for their vectors."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SanError
from . import segments
from .tracks import (
    ANY,
    AuditEvent,
    GalleryInfo,
    Hit,
    SearchFilter,
    Tracks,
    at_least_kth,
    none_if_nan,
    refuse_merge,
    refuse_other_space,
    refuse_split,
    space_of_model,
)

_DATABASE = "gallery.sqlite"
_VECTORS = "vectors"
_LOCK = "writer.lock"
_SCHEMA_VERSION = 1
#: Queries that are compared with a segment at a time: 65,536 x 100 similarities are 26 MB.
_QUERIES = 100
#: Seconds that a reader waits for a commit, and a writer for readers.
_PATIENCE_S = 30
#: What keys of the CRC-32 of segments begin with, in `about`.
_CRC = "crc32/"
_TABLES = """
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE segments (number INTEGER PRIMARY KEY, rows INTEGER NOT NULL);
CREATE TABLE tracks (
    id INTEGER PRIMARY KEY, camera TEXT NOT NULL, track TEXT NOT NULL, person INTEGER, crops INTEGER NOT NULL,
    start REAL, "end" REAL, added REAL NOT NULL, segment INTEGER NOT NULL, row INTEGER NOT NULL
);
CREATE UNIQUE INDEX tracks_by_name ON tracks (camera, track);
CREATE UNIQUE INDEX tracks_by_place ON tracks (segment, row);
CREATE TABLE pictures (
    track INTEGER NOT NULL REFERENCES tracks (id) ON DELETE CASCADE, place INTEGER NOT NULL, jpeg BLOB NOT NULL,
    PRIMARY KEY (track, place)
);
CREATE TABLE events ("when" REAL NOT NULL, what TEXT NOT NULL, detail TEXT NOT NULL);
"""


class FolderGallery:
    """A `Gallery` in a folder: one writer at a time, any number of readers.

    A change is one commit of SQLite, after the vectors that it names are on the disk. Killed before, it did not
    happen: what lies behind the committed length of a file is overwritten by the next writer.

    Args:
        path: the folder.
        write: to change it; waits for nobody: a second writer is refused.
        create: see `open_gallery`.
    """

    def __init__(self, path: Path, *, write: bool = False, create: Mapping[str, Any] | None = None) -> None:
        self._path = path
        self._lock: Any = None
        self._mapped: dict[int, np.ndarray] = {}
        self._live_places: dict[SearchFilter, dict[int, tuple[np.ndarray, np.ndarray]]] = {}
        self._live_version = -1
        database = path / _DATABASE
        # SQLite takes back what a killed program had begun to create.
        begun = database.is_file() and database.stat().st_size > 0
        if not begun and create is None:
            raise _no_gallery(path)
        if not begun and path.exists() and not _only_ours(path):
            raise SanError(f"{path} is there and is no gallery", do="name a folder that is new or empty")
        try:
            path.mkdir(parents=True, exist_ok=True)
            if write or not begun:
                self._lock = _lock(path)
            self._db = sqlite3.connect(database, timeout=_PATIENCE_S, isolation_level=None)
            # Deleted names and times are overwritten with zeros.
            self._db.execute("PRAGMA secure_delete = ON")
            self._db.execute("PRAGMA foreign_keys = ON")
            if not self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                if create is None:
                    raise _no_gallery(path)
                if self._lock is None:
                    self._lock = _lock(path)
                self._create(create)
            about = dict(self._db.execute("SELECT key, value FROM about").fetchall())
            version = about["schema_version"]
            self._dim = int(about["dim"])
            self._space = str(about["space"])
            self._model: dict[str, Any] = json.loads(about["model"])
        except (sqlite3.Error, KeyError, ValueError, TypeError, RecursionError) as error:
            self.close()
            raise _refusal(path, error) from error
        except OSError as error:
            self.close()
            raise SanError(f"cannot open {path}: {error.strerror or error}") from error
        except SanError:
            self.close()
            raise
        if version != str(_SCHEMA_VERSION):
            self.close()
            raise SanError(f"{path} has gallery schema {version}, this is {_SCHEMA_VERSION}")
        if create is not None:
            try:
                refuse_other_space(str(path), self._space, create)
            except SanError:
                self.close()
                raise

    def info(self) -> GalleryInfo:
        """See `Gallery`."""
        cameras = dict(self._query("SELECT camera, count(*) FROM tracks GROUP BY camera ORDER BY camera"))
        people = self._query("SELECT count(DISTINCT person) FROM tracks")[0][0]
        stored = self._query("SELECT coalesce(sum(rows), 0) FROM segments")[0][0]
        total = sum(cameras.values())
        size = sum(file.stat().st_size for file in self._path.rglob("*") if file.is_file())
        return GalleryInfo(
            location=str(self._path),
            store="folder",
            space=self._space,
            dim=self._dim,
            model=self._model,
            tracks=total,
            cameras=cameras,
            people=people,
            deleted=stored - total,
            bytes=size,
        )

    def transaction(self) -> contextlib.AbstractContextManager[None]:
        """See `Gallery`."""
        return self._change()

    def add(self, tracks: Tracks, pictures: Sequence[Sequence[bytes]] | None = None) -> int:
        """See `Gallery`."""
        if tracks.embedding.shape[1] != self._dim:
            raise SanError(
                f"{self._path} holds embeddings of {self._dim} numbers, not {tracks.embedding.shape[1]}"
            )
        persons = [person or None for person in tracks.people.tolist()]
        now = time.time()
        with self._change():
            number, used = self._last_segment()
            done = 0
            while done < len(tracks.track):
                if used >= segments.ROWS_PER_SEGMENT:
                    number, used = number + 1, 0
                part = slice(done, done + segments.ROWS_PER_SEGMENT - used)
                vectors = tracks.embedding[part]
                segments.append(self._path / _VECTORS, number, used, vectors)
                self._vouch(number, used, vectors)
                values = [
                    (
                        tracks.camera, str(tracks.track[at]), persons[at], int(tracks.crops[at]),
                        none_if_nan(tracks.start[at]), none_if_nan(tracks.end[at]), now, number, used + at - done,
                    )
                    for at in range(done, done + len(vectors))
                ]  # fmt: skip
                try:
                    self._db.executemany(
                        'INSERT INTO tracks (camera, track, person, crops, start, "end", added, segment, row)'
                        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                        values,
                    )
                except sqlite3.IntegrityError as error:
                    raise SanError(
                        f"{self._path} has a tracklet of camera {tracks.camera} with a name that comes again",
                        do=f"delete it first (san gallery delete --camera {tracks.camera}), or name the camera anew",
                    ) from error
                used += len(vectors)
                done += len(vectors)
                self._db.execute(
                    "INSERT INTO segments VALUES (?, ?) ON CONFLICT (number) DO UPDATE SET rows = excluded.rows",
                    (number, used),
                )
            if pictures is not None:
                self._keep(tracks, pictures)
            self._raise_next(persons)
            self._note("add", {"camera": tracks.camera, "tracks": done})
        return done

    def search(self, queries: np.ndarray, k: int, where: SearchFilter = ANY) -> list[list[Hit]]:
        """See `Gallery`."""
        if queries.ndim != 2 or queries.shape[1] != self._dim or k < 1:
            raise SanError(
                f"{self._path} holds embeddings of {self._dim} numbers; received {queries.shape} and k {k}"
            )
        found: list[list[tuple[float, int]]] = [[] for _ in queries]
        for segment, (rows, identities) in self._live(where).items():
            tile = self._chosen(segment, rows)
            for first in range(0, len(queries), _QUERIES):
                similarity = queries[first : first + _QUERIES] @ tile.T
                for query, values in enumerate(similarity, first):
                    columns = at_least_kth(values, k)
                    pairs = zip((-values[columns]).tolist(), identities[columns].tolist(), strict=True)
                    found[query] += pairs
        return [self._hits(items, k) for items in found]

    def pictures(self, camera: str, track: str) -> list[bytes]:
        """See `Gallery`."""
        rows = self._query(
            "SELECT jpeg FROM pictures JOIN tracks ON tracks.id = pictures.track"
            " WHERE camera = ? AND tracks.track = ? ORDER BY place",
            (camera, track),
        )
        return [bytes(jpeg) for (jpeg,) in rows]

    def new_people(self, count: int) -> list[int]:
        """See `Gallery`."""
        with self._change():
            with self._plausible():
                first = int(self._about("next_person"))
            self._set_about("next_person", str(first + count))
        return list(range(first, first + count))

    def assign(self, camera: str, people: Mapping[str, int]) -> None:
        """See `Gallery`."""
        with self._change():
            values = [(person, camera, track) for track, person in people.items()]
            count = self._db.executemany(
                "UPDATE tracks SET person = ? WHERE camera = ? AND track = ?", values
            ).rowcount
            if count != len(values):
                raise SanError(f"{self._path} has no such tracklets of camera {camera}")
            self._raise_next(list(people.values()))
            self._note("assign", {"camera": camera, "tracks": count})

    def merge(self, into: int, person: int) -> int:
        """See `Gallery`."""
        with self._change():
            known = self._query("SELECT DISTINCT person FROM tracks WHERE person IN (?, ?)", (into, person))
            refuse_merge(str(self._path), into, person, {number for (number,) in known})
            count = self._db.execute("UPDATE tracks SET person = ? WHERE person = ?", (into, person)).rowcount
            self._note("merge", {"into": into, "person": person, "tracks": count})
        return count

    def split(self, person: int, away: Sequence[tuple[str, str]]) -> int:
        """See `Gallery`."""
        with self._change():
            own = self._query("SELECT camera, track FROM tracks WHERE person = ?", (person,))
            refuse_split(str(self._path), person, away, {(camera, track) for camera, track in own})
            (number,) = self.new_people(1)
            self._db.executemany(
                "UPDATE tracks SET person = ? WHERE camera = ? AND track = ?",
                [(number, camera, track) for camera, track in away],
            )
            self._note("split", {"person": person, "into": number, "tracks": len(away)})
        return number

    def delete(self, camera: str, track: str | None = None) -> int:
        """See `Gallery`."""
        with self._change():
            if track is None:
                count = self._db.execute("DELETE FROM tracks WHERE camera = ?", (camera,)).rowcount
            else:
                names = (camera, track)
                count = self._db.execute("DELETE FROM tracks WHERE camera = ? AND track = ?", names).rowcount
            if not count:
                what = f"camera {camera}" if track is None else f"tracklet {track} of camera {camera}"
                raise SanError(
                    f"{self._path} has no {what}", do="san gallery info --gallery DIR lists the cameras"
                )
            self._note("delete", {"camera": camera, "tracks": count})
        return count

    def expire(self, before: float) -> int:
        """See `Gallery`."""
        with self._change():
            count = self._db.execute(
                'DELETE FROM tracks WHERE coalesce("end", added) < ?', (before,)
            ).rowcount
            self._note("expire", {"before": before, "tracks": count})
        return count

    def compact(self) -> int:
        """See `Gallery`."""
        folder = self._path / _VECTORS
        removed = self.info().deleted
        old = [number for (number,) in self._query("SELECT number FROM segments")]
        if removed:
            with self._change():
                number = max(old) + 1
                first, used = number, 0
                rows = self._query("SELECT id, segment, row FROM tracks ORDER BY segment, row")
                for low in range(0, len(rows), segments.ROWS_PER_SEGMENT):
                    part = rows[low : low + segments.ROWS_PER_SEGMENT]
                    vectors = np.empty((len(part), self._dim), np.float32)
                    for at, (_, segment, row) in enumerate(part):
                        vectors[at] = self._vectors(segment)[row]
                    segments.append(folder, number, 0, vectors)
                    self._vouch(number, 0, vectors)
                    moved = [(number, at, identity) for at, (identity, _, _) in enumerate(part)]
                    self._db.executemany("UPDATE tracks SET segment = ?, row = ? WHERE id = ?", moved)
                    self._db.execute("INSERT INTO segments VALUES (?, ?)", (number, len(part)))
                    number, used = number + 1, len(part)
                assert used or not rows
                self._db.execute("DELETE FROM segments WHERE number < ?", (first,))
                self._db.executemany("DELETE FROM about WHERE key = ?", [(f"{_CRC}{gone}",) for gone in old])
                self._note("compact", {"removed": removed})
        self._forget()
        self._cut_leftovers()
        self._db.execute("VACUUM")
        return removed

    def export(self) -> tuple[Tracks, ...]:
        """See `Gallery`."""
        found = []
        for (camera,) in self._query("SELECT DISTINCT camera FROM tracks ORDER BY camera"):
            rows = self._query(
                'SELECT track, crops, start, "end", person, segment, row FROM tracks WHERE camera = ? ORDER BY track',
                (camera,),
            )
            track, crops, start, end, person, segment, row = zip(*rows, strict=True)
            with self._plausible():
                if not all(isinstance(name, str) for name in (camera, *track)):
                    raise TypeError("a name is no text")
                places = np.array([segment, row], np.int64)
                begin, finish = (np.array(values, np.float64) for values in (start, end))  # None becomes NaN
                numbers = np.array(crops, np.int64), np.array([number or 0 for number in person], np.int64)
            embedding = np.empty((len(rows), self._dim), np.float32)
            for number in np.unique(places[0]).tolist():
                here = places[0] == number
                embedding[here] = self._chosen(number, places[1, here])
            found.append(Tracks(camera, np.array(track), embedding, numbers[0], begin, finish, numbers[1]))
        return tuple(found)

    def events(self) -> list[AuditEvent]:
        """See `Gallery`."""
        rows = self._query('SELECT "when", what, detail FROM events ORDER BY rowid')
        with self._plausible():
            return [AuditEvent(float(when), str(what), json.loads(detail)) for when, what, detail in rows]

    def close(self) -> None:
        """See `Gallery`."""
        if (database := getattr(self, "_db", None)) is not None:
            database.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _vectors(self, segment: int) -> np.ndarray:
        if segment not in self._mapped:
            # In one statement: a writer may commit between two.
            found = self._query(
                "SELECT rows, (SELECT value FROM about WHERE key = ?) FROM segments WHERE number = ?",
                (f"{_CRC}{segment}", segment),
            )
            rows, crc = found[0] if found else (0, None)
            vectors = segments.read(self._path / _VECTORS, segment, rows, self._dim)
            if crc is not None and str(zlib.crc32(vectors.data)) != crc:
                path = segments.segment_path(self._path / _VECTORS, segment)
                raise SanError(f"{path} is damaged", do="restore it from a copy, or fill a new gallery")
            self._mapped[segment] = vectors
        return self._mapped[segment]

    def _chosen(self, segment: int, rows: np.ndarray) -> np.ndarray:
        """The vectors in rows of a segment; mapped where all are wanted, in their order."""
        vectors = self._vectors(segment)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(vectors):
            raise _refusal(self._path, ValueError(f"a tracklet has no vector in segment {segment}"))
        return vectors if np.array_equal(rows, np.arange(len(vectors))) else vectors[rows]

    @contextlib.contextmanager
    def _plausible(self) -> Iterator[None]:
        """SQLite takes any value in any column: one that cannot be there is damage."""
        try:
            yield
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise _refusal(self._path, error) from error

    def _live(self, where: SearchFilter) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """By segment, rows and ids of the tracklets that may be found; read again when somebody changed them."""
        version = self._query("PRAGMA data_version")[0][0]
        if self._live_version != version:
            self._live_places.clear()
            self._mapped.clear()
            self._live_version = version
        if where not in self._live_places:
            conditions, values = _conditions(where)
            places = self._query(
                f"SELECT segment, row, id FROM tracks{conditions} ORDER BY segment, row", values
            )
            with self._plausible():
                table = np.array(places, np.int64).reshape(-1, 3)
            edges = np.flatnonzero(np.diff(table[:, 0])) + 1
            parts = np.split(table, edges) if len(table) else []
            self._live_places[where] = {int(part[0, 0]): (part[:, 1], part[:, 2]) for part in parts}
        return self._live_places[where]

    def _hits(self, items: list[tuple[float, int]], k: int) -> list[Hit]:
        """The `k` best of (negative similarity, id), equal ones by name."""
        if len(items) > k:
            bound = np.partition(np.array([value for value, _ in items]), k - 1)[k - 1]
            items = [item for item in items if item[0] <= bound]
        hits = []
        for negative, identity in items:
            camera, track, person, crops, start, end = self._query(
                'SELECT camera, track, person, crops, start, "end" FROM tracks WHERE id = ?', (identity,)
            )[0]
            with self._plausible():
                times = [np.nan if value is None else float(value) for value in (start, end)]
            hits.append(Hit(camera, track, person, -negative, times[0], times[1], crops))
        return sorted(hits, key=lambda hit: (-hit.similarity, hit.camera, hit.track))[:k]

    def _create(self, model: Mapping[str, Any]) -> None:
        (self._path / _VECTORS).mkdir(exist_ok=True)
        self._db.execute("BEGIN IMMEDIATE")
        for statement in _TABLES.split(";\n"):
            self._db.execute(statement)
        about = {
            "schema_version": str(_SCHEMA_VERSION),
            "space": space_of_model(model),
            "dim": str(int(model["embedding_dim"])),
            "model": json.dumps(dict(model), sort_keys=True),
            "next_person": "1",
        }
        self._db.executemany("INSERT INTO about VALUES (?, ?)", about.items())
        self._note("create", {"space": about["space"]})
        self._db.execute("COMMIT")

    @contextlib.contextmanager
    def _change(self) -> Iterator[None]:
        """One commit, or nothing, inside another a part of it. What was mapped may have grown."""
        if self._lock is None:
            raise SanError(f"{self._path} was opened to read")
        self._forget()
        if self._db.in_transaction:
            try:
                yield
            finally:
                self._forget()
            return
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                # A writer that was killed left vectors that no row names.
                self._cut_leftovers()
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                self._forget()
                self._cut_leftovers()
                raise
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise _refusal(self._path, error) from error
        except OSError as error:
            raise SanError(f"cannot write {self._path}: {error.strerror or error}") from error
        finally:
            self._forget()

    def _cut_leftovers(self) -> None:
        """Take vectors out of the files that the database does not count: what is refused or killed leaves no bytes."""
        folder = self._path / _VECTORS
        counted = dict(self._query("SELECT number, rows FROM segments"))
        files = {segments.segment_path(folder, number): rows for number, rows in counted.items()}
        for file in folder.glob("*.f32"):
            if file not in files:
                _wipe(file)
            elif file.stat().st_size > files[file] * self._dim * 4:
                with file.open("r+b") as handle:
                    handle.truncate(files[file] * self._dim * 4)

    def _forget(self) -> None:
        self._mapped.clear()
        self._live_places.clear()

    def _query(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise _refusal(self._path, error) from error

    def _keep(self, tracks: Tracks, pictures: Sequence[Sequence[bytes]]) -> None:
        known = dict(self._query("SELECT track, id FROM tracks WHERE camera = ?", (tracks.camera,)))
        values = [
            (known[track], place, jpeg)
            for track, files in zip(tracks.track.tolist(), pictures, strict=True)
            for place, jpeg in enumerate(files)
        ]
        self._db.executemany("INSERT INTO pictures VALUES (?, ?, ?)", values)

    def _last_segment(self) -> tuple[int, int]:
        rows = self._query("SELECT number, rows FROM segments ORDER BY number DESC LIMIT 1")
        return rows[0] if rows else (1, 0)

    def _vouch(self, segment: int, before: int, vectors: np.ndarray) -> None:
        """Note the CRC-32 of a segment that has got `vectors` behind its first `before`."""
        known = (
            self._query("SELECT value FROM about WHERE key = ?", (f"{_CRC}{segment}",))
            if before
            else [("0",)]
        )
        # In galleries from before, nothing vouches for a segment that was begun then.
        if known:
            crc = zlib.crc32(np.ascontiguousarray(vectors, "<f4").data, int(known[0][0]))
            self._db.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (f"{_CRC}{segment}", str(crc)))

    def _raise_next(self, people: Sequence[int | None]) -> None:
        highest = max((person for person in people if person is not None), default=0)
        if highest >= int(self._about("next_person")):
            self._set_about("next_person", str(highest + 1))

    def _about(self, key: str) -> str:
        return str(self._query("SELECT value FROM about WHERE key = ?", (key,))[0][0])

    def _set_about(self, key: str, value: str) -> None:
        self._db.execute("UPDATE about SET value = ? WHERE key = ?", (value, key))

    def _note(self, what: str, detail: Mapping[str, Any]) -> None:
        text = json.dumps(dict(detail), sort_keys=True)
        self._db.execute("INSERT INTO events VALUES (?, ?, ?)", (time.time(), what, text))


def _conditions(where: SearchFilter) -> tuple[str, list[Any]]:
    parts: list[str] = []
    values: list[Any] = []
    if where.cameras:
        parts.append(f"camera IN ({', '.join('?' * len(where.cameras))})")
        values += where.cameras
    if where.after is not None:
        parts.append('"end" >= ?')
        values.append(where.after)
    if where.before is not None:
        parts.append("start < ?")
        values.append(where.before)
    return (" WHERE " + " AND ".join(parts) if parts else ""), values


def _wipe(path: Path) -> None:
    """Overwrite a file with zeros, then remove it: a deleted file's blocks can be read for long."""
    with path.open("r+b") as file:
        size = path.stat().st_size
        for _ in range(0, size, 1 << 20):
            file.write(bytes(min(1 << 20, size - file.tell())))
        file.flush()
    path.unlink()


def _lock(path: Path) -> Any:
    """Hold the folder's only place for a writer; it is free again when this process ends, however it ends.

    SQLite's own lock does it, on every system: an empty database beside the gallery's, in a transaction that
    stays open.
    """
    lock = sqlite3.connect(path / _LOCK, timeout=0, isolation_level=None)
    try:
        lock.execute("PRAGMA locking_mode = EXCLUSIVE")
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        lock.close()
        raise _refusal(path, error) from error
    return lock


def _only_ours(path: Path) -> bool:
    """Whether it is a folder that holds nothing, or what is left where somebody was killed who began a gallery."""
    if not path.is_dir() or any((path / _VECTORS).glob("*")):
        return False
    ours = {_VECTORS, *(f"{name}{tail}" for name in (_DATABASE, _LOCK) for tail in ("", "-journal"))}
    return {item.name for item in path.iterdir()} <= ours


def _no_gallery(path: Path) -> SanError:
    return SanError(f"{path} is no gallery", do="make one: san gallery add CAMERA --gallery DIR")


def _refusal(path: Path, error: Exception) -> SanError:
    """What SQLite, or a value that it should not hold, means for the gallery: SQLite's words tell, in every version."""
    why = str(error)
    if "locked" in why:
        return SanError(f"{path} is being written by another program", do="wait for it to end")
    if any(word in why for word in ("full", "readonly", "unable to open", "disk I/O")):
        return SanError(f"{path} cannot be written", why=why, do="see to the disk and its rights")
    return SanError(f"{path} is damaged", why=why, do="restore it from a copy")
