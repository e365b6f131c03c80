"""What PostgreSQL alone has: approximate indexes, foreign keys, servers that are not there."""

from __future__ import annotations

import numpy as np
import pytest

from san_deploy.errors import SanError
from san_deploy.gallery import SearchFilter, open_gallery

from .made import DIM, MODEL, tracks, unit

psycopg = pytest.importorskip("psycopg")


@pytest.fixture
def url(server: str) -> str:
    name = "alone"
    with psycopg.connect(server, autocommit=True) as db:
        db.execute(f"DROP DATABASE IF EXISTS {name}")
        db.execute(f"CREATE DATABASE {name}")
    return server.replace("/postgres?", f"/{name}?")


def test_an_approximate_index_with_a_filter_still_gives_k(url: str) -> None:
    """Of 3,000 tracklets 20 are of the camera asked for, and none of them is near the query."""
    gallery = open_gallery(url, write=True, create=MODEL)
    rng = np.random.default_rng(0)
    query = unit(np.ones((1, DIM)))
    near = tracks("many", 3000)
    near.embedding[:] = unit(query + 0.05 * rng.normal(size=(3000, DIM)))
    gallery.add(near)
    far = tracks("few", 20)
    far.embedding[:] = unit(-query + 0.3 * rng.normal(size=(20, DIM)))
    gallery.add(far)
    exact = gallery.search(query, 10, SearchFilter(cameras=("few",)))[0]
    gallery.index("hnsw")
    with psycopg.connect(url) as db:
        assert db.execute(
            "SELECT count(*) FROM pg_indexes WHERE indexname LIKE 'san_tracks_hnsw%'"
        ).fetchone() == (1,)
        db.execute("SET enable_seqscan = off")
    found = gallery.search(query, 10, SearchFilter(cameras=("few",)))[0]
    assert len(found) == 10 and {hit.camera for hit in found} == {"few"}
    assert len({hit.track for hit in found} & {hit.track for hit in exact}) >= 8
    gallery.index("none")
    assert gallery.search(query, 10, SearchFilter(cameras=("few",)))[0] == exact
    gallery.close()


def test_tracklets_name_their_space_and_nan_is_refused_by_the_server(url: str) -> None:
    open_gallery(url, write=True, create=MODEL).close()
    columns = "space_id, camera, track, crops, added_s, embedding"
    insert = f"INSERT INTO san_tracks ({columns}) VALUES (%s, 'a', 'b', 1, 0, %s)"
    with psycopg.connect(url) as db, pytest.raises(psycopg.errors.ForeignKeyViolation):
        db.execute(insert, (77, str([1.0] * DIM)))
    with psycopg.connect(url) as db, pytest.raises(psycopg.errors.DataException):
        db.execute(insert, (1, "[" + ",".join(["NaN"] * DIM) + "]"))


def test_a_server_that_is_not_there_and_an_empty_database(url: str) -> None:
    with pytest.raises(SanError, match=r"cannot connect to postgresql://me:\.\.\.@127\.0\.0\.1:1/x") as error:
        open_gallery("postgresql://me:secret@127.0.0.1:1/x")
    assert "secret" not in str(error.value)
    with pytest.raises(SanError, match="holds no gallery"):
        open_gallery(url)
