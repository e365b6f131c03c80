"""Three cameras of 5,000 tracklets: what people over all cameras cost beside the matches alone.

    python tools/bench_people.py --tracks 5000
    python tools/bench_people.py --tracks 5000 --known 20000     # and against a gallery of as many people

Everybody is before every camera; embeddings are drawn around a centre of each person. CPU seconds of one process, which
do not depend on what else the machine does, and the memory beyond the embeddings.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from san_deploy.gallery import open_gallery
from san_deploy.gallery.cameras import tracks_of
from san_deploy.gallery.recognise import recognise, record
from san_deploy.matching.cameras import Camera
from san_deploy.matching.identities import METHODS, find_people
from san_deploy.matching.match import match_cameras
from san_deploy.matching.output import write_matches
from san_deploy.matching.site import Site
from san_deploy.matching.threshold import threshold_at
from san_deploy.reports.match_report import Findings, write_report


def main() -> None:
    """Print a line for each step, and people and memory beside the matches alone."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tracks", type=int, default=5000, help="of each camera")
    parser.add_argument("--cameras", type=int, default=3)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument(
        "--noise", type=float, default=1.0, help="of a tracklet, beside a person's spread of 1"
    )
    parser.add_argument(
        "--known", type=int, default=0, help="people in a gallery; those of the cameras first"
    )
    given = parser.parse_args()
    cameras = drawn(given)
    pairs = cameras[0].embedding[:2000] @ cameras[1].embedding[:2000].T
    threshold = threshold_at(pairs[~np.eye(len(pairs), dtype=bool)], 0.001)
    before = peak_gb()

    start = time.process_time()
    matching = match_cameras(cameras, threshold=threshold)
    alone = step("matches", start)
    for method in METHODS:
        start = time.process_time()
        people = find_people(matching, method=method)
        spent = step(f"people, {method}", start, f"{people.count} people")
        print(f"    with the matches {(alone + spent) / alone:.2f} of the matches alone")
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        people = find_people(matching)
        write_matches(Path(folder), matching, people=people)
        step("people again, and the tables", start)
        start = time.process_time()
        write_report(Path(folder) / "report.html", Findings(matching, people))
        size = (Path(folder) / "report.html").stat().st_size
        step("report, no pictures", start, f"{size / 1e6:.1f} MB")
        if given.known:
            against_gallery(Path(folder) / "gallery", cameras, threshold, given)
    print(f"memory {peak_gb() - before:.2f} GB beyond the embeddings")


def against_gallery(path: Path, cameras: list[Camera], threshold: float, given: argparse.Namespace) -> None:
    """The same against a gallery, as `san match --gallery`."""
    model = {"sha256": "0" * 64, "space": "1" * 64, "embedding_dim": given.dim, "arch": "drawn at random"}
    gallery = open_gallery(str(path), write=True, create=model)
    old = drawn(argparse.Namespace(**vars(given) | {"tracks": given.known, "cameras": 1}), seed=1)[0]
    gallery.add(tracks_of(old, np.arange(1, given.known + 1)))
    matching = match_cameras(cameras, threshold=threshold)
    start = time.process_time()
    with gallery.transaction():
        found = recognise(gallery, cameras, Site(), threshold=threshold, unknown=threshold)
        step(
            "look the gallery up",
            start,
            f"{len(found.known.person)} of {given.known} people may be among them",
        )
        start = time.process_time()
        people = find_people(matching, known=found.known)
        step("people, with those known", start, f"{len(people.known)} known, {people.count} in all")
        start = time.process_time()
        record(gallery, cameras, people, found.there, 0)
    step("write them into the gallery", start)
    gallery.close()


def drawn(given: argparse.Namespace, seed: int = 0) -> list[Camera]:
    """Cameras that see the first `tracks` people, a tracklet each."""
    names = np.array([f"t{number:06d}" for number in range(given.tracks)])
    crops = tuple((f"{name}/1.jpg",) for name in names.tolist())
    cameras = []
    for number in range(given.cameras):
        # People are the same whatever their number and seed: drawn one block after the other.
        people = np.random.default_rng(7).normal(size=(given.tracks, given.dim))
        rows = people + given.noise * np.random.default_rng((seed, number)).normal(size=people.shape)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        name = f"cam{number + 1}" if not seed else f"old{number + 1}"
        cameras.append(Camera(name, Path(name), names, rows.astype(np.float32), crops))
    return cameras


def step(what: str, start: float, more: str = "") -> float:
    """Print and give the CPU seconds since `start`."""
    spent = time.process_time() - start
    print(f"{what:32s} {spent:8.2f} CPU s  {more}".rstrip(), flush=True)
    return spent


def peak_gb() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    main()
