"""A gallery in PostgreSQL with pgvector: for several writers, several machines, or more than fits in one folder."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import psycopg

from ..errors import SanError
from .tracks import (
    ANY,
    AuditEvent,
    GalleryInfo,
    Hit,
    SearchFilter,
    Tracks,
    none_if_nan,
    refuse_merge,
    refuse_other_space,
    refuse_split,
    space_of_model,
)

_SCHEMA_VERSION = 1
#: Seconds until a server that does not answer is given up.
_PATIENCE_S = 10
#: A space has a row; tracklets name it by a foreign key, so that embeddings of two networks never meet. NaN and
#: infinity are refused by pgvector itself, rows of other lengths by the index and by `add`.
_TABLES = """
CREATE EXTENSION IF NOT EXISTS vector;
CREATE TABLE IF NOT EXISTS san_spaces (
    id smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, space text NOT NULL UNIQUE, dim integer NOT NULL,
    model jsonb NOT NULL, schema_version integer NOT NULL, next_person bigint NOT NULL DEFAULT 1
);
CREATE TABLE IF NOT EXISTS san_tracks (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    space_id smallint NOT NULL REFERENCES san_spaces (id),
    camera text NOT NULL, track text NOT NULL, person bigint, crops bigint NOT NULL,
    start_s double precision, end_s double precision, added_s double precision NOT NULL, embedding vector NOT NULL,
    UNIQUE (space_id, camera, track)
);
CREATE TABLE IF NOT EXISTS san_pictures (
    track_id bigint NOT NULL REFERENCES san_tracks (id) ON DELETE CASCADE, place integer NOT NULL, jpeg bytea NOT NULL,
    PRIMARY KEY (track_id, place)
);
CREATE TABLE IF NOT EXISTS san_events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, space_id smallint NOT NULL REFERENCES san_spaces (id),
    when_s double precision NOT NULL, what text NOT NULL, detail jsonb NOT NULL
);
"""


class PostgresGallery:
    """A `Gallery` in a database. Any number of writers; each change is a transaction.

    Search is exact until `index` makes an approximate one.

    Args:
        url: `postgresql://...`, as libpq takes it.
        create: see `open_gallery`.
    """

    def __init__(self, url: str, *, create: Mapping[str, Any] | None = None) -> None:
        self._name = re.sub(r"(//[^:/@]*):[^@]*@", r"\1:...@", url)
        try:
            self._db = psycopg.connect(url, autocommit=True, connect_timeout=_PATIENCE_S)
        except psycopg.Error as error:
            raise SanError(f"cannot connect to {self._name}", why=_first_line(error)) from error
        try:
            self._open(create)
        except BaseException:
            self._db.close()
            raise

    def _open(self, create: Mapping[str, Any] | None) -> None:
        with self._told():
            if create is not None:
                self._make(create)
            there = self._db.execute("SELECT to_regclass('san_spaces') IS NOT NULL").fetchone()
            rows = (
                self._db.execute(
                    "SELECT id, space, dim, model, schema_version FROM san_spaces ORDER BY id"
                ).fetchall()
                if there and there[0]
                else []
            )
        if not rows:
            raise SanError(
                f"{self._name} holds no gallery", do="make one: san gallery add CAMERA --gallery URL"
            )
        self._id, self._space, self._dim, self._model, version = rows[0]
        if version != _SCHEMA_VERSION:
            raise SanError(f"{self._name} has gallery schema {version}, this is {_SCHEMA_VERSION}")
        if create is not None:
            refuse_other_space(self._name, self._space, create)

    def _make(self, model: Mapping[str, Any]) -> None:
        with self._db.transaction():
            # Two programs that make it at once wait for each other.
            self._db.execute("SELECT pg_advisory_xact_lock(hashtext('san_gallery'))")
            self._db.execute(_TABLES)
            if self._db.execute("SELECT 1 FROM san_spaces").fetchone():
                return
            row = self._db.execute(
                "INSERT INTO san_spaces (space, dim, model, schema_version) VALUES (%s, %s, %s, %s) RETURNING id",
                (
                    space_of_model(model),
                    int(model["embedding_dim"]),
                    json.dumps(dict(model)),
                    _SCHEMA_VERSION,
                ),
            ).fetchone()
            assert row is not None
            self._id = row[0]
            self._note("create", {"space": space_of_model(model)})

    def info(self) -> GalleryInfo:
        """See `Gallery`."""
        with self._told():
            cameras: dict[str, int] = dict(
                self._db.execute(
                    "SELECT camera, count(*) FROM san_tracks WHERE space_id = %s GROUP BY camera"
                    ' ORDER BY camera COLLATE "C"',
                    (self._id,),
                ).fetchall()
            )
            people, size = self._one(
                "SELECT count(DISTINCT person), pg_total_relation_size('san_tracks') FROM san_tracks"
                " WHERE space_id = %s",
                self._id,
            )
        return GalleryInfo(
            location=self._name,
            store="postgresql",
            space=self._space,
            dim=self._dim,
            model=self._model,
            tracks=sum(cameras.values()),
            cameras=cameras,
            people=people,
            deleted=0,
            bytes=size,
        )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """See `Gallery`."""
        with self._told(), self._db.transaction():
            self._db.execute("SELECT pg_advisory_xact_lock(hashtext('san_gallery'))")
            yield

    def add(self, tracks: Tracks, pictures: Sequence[Sequence[bytes]] | None = None) -> int:
        """See `Gallery`."""
        if tracks.embedding.shape[1] != self._dim:
            raise SanError(
                f"{self._name} holds embeddings of {self._dim} numbers, not {tracks.embedding.shape[1]}"
            )
        persons = [person or None for person in tracks.people.tolist()]
        now = time.time()
        with self._told(), self._db.transaction():
            try:
                with (
                    self._db.cursor() as cursor,
                    cursor.copy(
                        "COPY san_tracks (space_id, camera, track, person, crops, start_s, end_s, added_s, embedding)"
                        " FROM STDIN"
                    ) as copy,
                ):
                    for at, track in enumerate(tracks.track.tolist()):
                        copy.write_row(
                            (
                                self._id, tracks.camera, track, persons[at], int(tracks.crops[at]),
                                none_if_nan(tracks.start[at]), none_if_nan(tracks.end[at]), now,
                                _text(tracks.embedding[at]),
                            )
                        )  # fmt: skip
            except psycopg.errors.UniqueViolation as error:
                raise SanError(
                    f"{self._name} has a tracklet of camera {tracks.camera} with a name that comes again",
                    do=f"delete it first (san gallery delete --camera {tracks.camera}), or name the camera anew",
                ) from error
            if pictures is not None:
                self._keep(tracks, pictures)
            self._raise_next(tracks.people.tolist())
            self._note("add", {"camera": tracks.camera, "tracks": len(tracks.track)})
        return len(tracks.track)

    def search(self, queries: np.ndarray, k: int, where: SearchFilter = ANY) -> list[list[Hit]]:
        """See `Gallery`."""
        if queries.ndim != 2 or queries.shape[1] != self._dim or k < 1:
            raise SanError(
                f"{self._name} holds embeddings of {self._dim} numbers; received {queries.shape} and k {k}"
            )
        conditions = ["space_id = %s"]
        values: list[Any] = [self._id]
        if where.cameras:
            conditions.append("camera = ANY(%s)")
            values.append(list(where.cameras))
        if where.after is not None:
            conditions.append("end_s >= %s")
            values.append(where.after)
        if where.before is not None:
            conditions.append("start_s < %s")
            values.append(where.before)
        # The cast is the index's expression. FETCH FIRST ... WITH TIES leaves the cut among equal ones to names.
        distance = f"(embedding::vector({int(self._dim)})) <#> %s::vector({int(self._dim)})"
        statement = (
            f"SELECT camera, track, person, crops, start_s, end_s, -({distance}) FROM san_tracks"
            f" WHERE {' AND '.join(conditions)} ORDER BY {distance} FETCH FIRST %s ROWS WITH TIES"
        )
        found = []
        with self._told(), self._db.transaction():
            # Without it an approximate index stops after its first candidates, however few the filter leaves.
            self._db.execute("SET LOCAL hnsw.iterative_scan = strict_order")
            for query in queries:
                text = _text(query)
                rows = self._db.execute(statement, [text, *values, text, k]).fetchall()
                hits = [
                    Hit(camera, track, person, float(value), _or_nan(start), _or_nan(end), crops)
                    for camera, track, person, crops, start, end, value in rows
                ]
                found.append(sorted(hits, key=lambda hit: (-hit.similarity, hit.camera, hit.track))[:k])
        return found

    def pictures(self, camera: str, track: str) -> list[bytes]:
        """See `Gallery`."""
        with self._told():
            rows = self._db.execute(
                "SELECT jpeg FROM san_pictures JOIN san_tracks ON id = track_id"
                " WHERE space_id = %s AND camera = %s AND track = %s ORDER BY place",
                (self._id, camera, track),
            ).fetchall()
        return [bytes(jpeg) for (jpeg,) in rows]

    def new_people(self, count: int) -> list[int]:
        """See `Gallery`."""
        with self._told():
            (after,) = self._one(
                "UPDATE san_spaces SET next_person = next_person + %s WHERE id = %s RETURNING next_person",
                count,
                self._id,
            )
        return list(range(after - count, after))

    def assign(self, camera: str, people: Mapping[str, int]) -> None:
        """See `Gallery`."""
        with self._told(), self._db.transaction():
            values = [(person, self._id, camera, track) for track, person in people.items()]
            with self._db.cursor() as cursor:
                cursor.executemany(
                    "UPDATE san_tracks SET person = %s WHERE space_id = %s AND camera = %s AND track = %s",
                    values,
                )
                count = cursor.rowcount
            if count != len(values):
                raise SanError(f"{self._name} has no such tracklets of camera {camera}")
            self._raise_next(people.values())
            self._note("assign", {"camera": camera, "tracks": count})

    def merge(self, into: int, person: int) -> int:
        """See `Gallery`."""
        with self._told(), self._db.transaction():
            known = self._db.execute(
                "SELECT DISTINCT person FROM san_tracks WHERE space_id = %s AND person IN (%s, %s)",
                (self._id, into, person),
            ).fetchall()
            refuse_merge(self._name, into, person, {number for (number,) in known})
            count = self._db.execute(
                "UPDATE san_tracks SET person = %s WHERE space_id = %s AND person = %s",
                (into, self._id, person),
            ).rowcount
            self._note("merge", {"into": into, "person": person, "tracks": count})
        return count

    def split(self, person: int, away: Sequence[tuple[str, str]]) -> int:
        """See `Gallery`."""
        with self._told(), self._db.transaction():
            own = self._db.execute(
                "SELECT camera, track FROM san_tracks WHERE space_id = %s AND person = %s",
                (self._id, person),
            ).fetchall()
            refuse_split(self._name, person, away, {(camera, track) for camera, track in own})
            (number,) = self.new_people(1)
            with self._db.cursor() as cursor:
                cursor.executemany(
                    "UPDATE san_tracks SET person = %s WHERE space_id = %s AND camera = %s AND track = %s",
                    [(number, self._id, camera, track) for camera, track in away],
                )
            self._note("split", {"person": person, "into": number, "tracks": len(away)})
        return number

    def delete(self, camera: str, track: str | None = None) -> int:
        """See `Gallery`."""
        with self._told(), self._db.transaction():
            count = self._db.execute(
                "DELETE FROM san_tracks WHERE space_id = %s AND camera = %s AND (%s::text IS NULL OR track = %s)",
                (self._id, camera, track, track),
            ).rowcount
            if not count:
                what = f"camera {camera}" if track is None else f"tracklet {track} of camera {camera}"
                raise SanError(
                    f"{self._name} has no {what}", do="san gallery info --gallery URL lists the cameras"
                )
            self._note("delete", {"camera": camera, "tracks": count})
        return count

    def expire(self, before: float) -> int:
        """See `Gallery`."""
        with self._told(), self._db.transaction():
            count = self._db.execute(
                "DELETE FROM san_tracks WHERE space_id = %s AND coalesce(end_s, added_s) < %s",
                (self._id, before),
            ).rowcount
            self._note("expire", {"before": before, "tracks": count})
        return count

    def compact(self) -> int:
        """See `Gallery`. PostgreSQL's files are rewritten; its write-ahead log keeps older pages until it recycles."""
        with self._told():
            self._db.execute("VACUUM FULL san_tracks")
            self._note("compact", {})
        return 0

    def index(self, kind: str) -> None:
        """Make an approximate index, or remove it.

        Args:
            kind: `hnsw` or `none`.
        """
        name = f"san_tracks_hnsw_{int(self._id)}"
        with self._told():
            self._db.execute(f"DROP INDEX IF EXISTS {name}")
            if kind == "hnsw":
                self._db.execute(
                    f"CREATE INDEX {name} ON san_tracks USING hnsw"
                    f" ((embedding::vector({int(self._dim)})) vector_ip_ops) WHERE space_id = {int(self._id)}"
                )

    def export(self) -> tuple[Tracks, ...]:
        """See `Gallery`."""
        found = []
        for camera in sorted(self.info().cameras):
            with self._told():
                rows = self._db.execute(
                    "SELECT track, crops, start_s, end_s, coalesce(person, 0), vector_send(embedding) FROM san_tracks"
                    ' WHERE space_id = %s AND camera = %s ORDER BY track COLLATE "C"',
                    (self._id, camera),
                    binary=True,
                ).fetchall()
            track, crops, start, end, person, vectors = zip(*rows, strict=True)
            begin, finish = (np.array(values, np.float64) for values in (start, end))  # None becomes NaN
            found.append(
                Tracks(
                    camera,
                    np.array(track),
                    np.stack([_vector(data) for data in vectors]),
                    np.array(crops, np.int64),
                    begin,
                    finish,
                    np.array(person, np.int64),
                )
            )
        return tuple(found)

    def events(self) -> list[AuditEvent]:
        """See `Gallery`."""
        with self._told():
            rows = self._db.execute(
                "SELECT when_s, what, detail FROM san_events WHERE space_id = %s ORDER BY id", (self._id,)
            ).fetchall()
        return [AuditEvent(when, what, detail) for when, what, detail in rows]

    def close(self) -> None:
        """See `Gallery`."""
        self._db.close()

    def _keep(self, tracks: Tracks, pictures: Sequence[Sequence[bytes]]) -> None:
        with self._db.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO san_pictures SELECT id, %s, %s FROM san_tracks"
                " WHERE space_id = %s AND camera = %s AND track = %s",
                [
                    (place, jpeg, self._id, tracks.camera, track)
                    for track, files in zip(tracks.track.tolist(), pictures, strict=True)
                    for place, jpeg in enumerate(files)
                ],
            )

    def _raise_next(self, people: Iterable[int]) -> None:
        self._db.execute(
            "UPDATE san_spaces SET next_person = greatest(next_person, %s) WHERE id = %s",
            (max(people, default=0) + 1, self._id),
        )

    def _one(self, statement: Any, *values: Any) -> tuple[Any, ...]:
        row = self._db.execute(statement, values).fetchone()
        assert row is not None
        return row

    def _note(self, what: str, detail: Mapping[str, Any]) -> None:
        self._db.execute(
            "INSERT INTO san_events (space_id, when_s, what, detail) VALUES (%s, %s, %s, %s)",
            (self._id, time.time(), what, json.dumps(dict(detail))),
        )

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What the server refuses, as a message."""
        try:
            yield
        except psycopg.errors.UndefinedFile as error:
            raise SanError(
                f"the server of {self._name} has no pgvector",
                do="install it there: package postgresql-NN-pgvector",
            ) from error
        except psycopg.Error as error:
            raise SanError(f"{self._name} refused", why=_first_line(error)) from error


def _text(vector: np.ndarray) -> str:
    """pgvector's text form; nine digits bring each float32 back."""
    return "[" + ",".join(f"{value:.9g}" for value in vector.tolist()) + "]"


def _vector(data: bytes) -> np.ndarray:
    """pgvector's binary form: two 16-bit numbers, then big-endian float32."""
    return np.frombuffer(data, ">f4", offset=4).astype(np.float32)


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
