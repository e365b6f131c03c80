"""Time and memory of evaluation and re-ranking beside FastReID's, on data of the benchmarks' sizes.

    python tools/bench_eval.py --size market --rounds 5 --fastreid fast-reid/fastreid/evaluation
    python tools/bench_eval.py --size market --rounds 1 --fastreid ... --only rerank
    python tools/bench_eval.py --size msmt17 --rounds 2 --fastreid ... --only rank,rerank --skip python,zhong

Embeddings of dimension 512 are drawn (a person has a centre, a camera a shift, a crop its noise; few directions
carry most of it), so that rank-1 and mAP are those of a fair network. Nothing is fetched. `--fastreid` is the
folder that holds rank.py and rerank.py, with rank_cylib/ built for this Python (`setup.py build_ext --inplace`);
without it only our figures are printed.

  floor    the inner products alone, in our tiles: no evaluation can be faster with them
  ours     `metrics.rank_queries`
  cython   FastReID's evaluate_rank, compiled, on the distance matrix that it asks for
  python   the same, not compiled
  rerank   `rerank.Reranked`, ranked like the rest
  zhong    the published re-ranking program, as FastReID has it, ranked by our metrics

Each runs in a process of its own, in turn, round after round; ratios are taken within a round, since other
programs may slow down a round as a whole. Time starts when the embeddings are in memory. `beyond` is the peak of
memory above what was there then, `peak` the peak of the process, interpreter and embeddings included.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path
from typing import Any

import numpy as np

from san_deploy.io.cpu import usable_cores
from san_deploy.metrics import RankingLabels, Similarity, rank_queries
from san_deploy.metrics.rerank import Reranked
from san_deploy.metrics.scores import tiles

DIMENSION = 512
#: Queries, gallery crops, of which distractors, people, cameras.
SIZES = {
    "small": (400, 2_000, 200, 60, 4),
    "market": (3_368, 15_913, 2_798, 750, 6),
    "msmt17": (11_659, 82_161, 0, 3_060, 15),
}
GROUPS = {"rank": ("floor", "ours", "cython", "python"), "rerank": ("rerank", "zhong")}
PEERS = "cython", "python", "zhong"
#: What each is divided by.
REFERENCE = {"floor": "cython", "ours": "cython", "python": "cython", "rerank": "zhong"}


def main() -> None:
    """Measure, print a table and, with --json, one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--size", choices=SIZES, default="market")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fastreid", type=Path, help="FastReID's fastreid/evaluation folder")
    parser.add_argument("--only", default="rank,rerank", help="rank, rerank or both (default)")
    parser.add_argument("--skip", default="", help="names to leave out, for example python,zhong")
    parser.add_argument("--noise", type=float, default=0.8, help="of a crop; 0.8 gives mAP near 65 %%")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        name, folder = options.child
        print(json.dumps(run(name, Path(folder), options.fastreid)))
        return
    names = [name for group in options.only.split(",") for name in GROUPS[group]]
    names = [name for name in names if name not in options.skip.split(",")]
    if options.fastreid is None:
        names = [name for name in names if name not in PEERS]
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder), options.size, options.noise, options.seed)
        rounds = measure(names, Path(folder), options.rounds, options.fastreid)
    result = {
        "size": options.size,
        "shape": SIZES[options.size][:2],
        "dimension": DIMENSION,
        "noise": options.noise,
        "seed": options.seed,
        "rounds": rounds,
        "cores": usable_cores(),
        "load_average": os.getloadavg()[0],
        "machine": platform.platform(),
        "numpy": np.__version__,
        "summary": {name: summary(name, rounds) for name in names},
    }
    table(result)
    if options.json:
        print(json.dumps(result))


def write_data(folder: Path, size: str, noise: float, seed: int) -> None:
    """Draw embeddings and labels and save them, one .npy file each."""
    queries, gallery, distractors, people, cameras = SIZES[size]
    rng = np.random.default_rng(seed)
    scale = np.arange(1, DIMENSION + 1, dtype=np.float32) ** -0.5

    def draw(rows: int) -> np.ndarray:
        return rng.standard_normal((rows, DIMENSION), np.float32) * scale

    centre, shift = draw(people + 1), 0.4 * draw(cameras)
    for name, count, nobody in (("query", queries, 0), ("gallery", gallery, distractors)):
        person = np.concatenate([rng.integers(1, people + 1, count - nobody), np.zeros(nobody, np.int64)])
        rng.shuffle(person)
        camera = rng.integers(0, cameras, count)
        rows = centre[person] + shift[camera]
        rows[person == 0] += draw(nobody)
        # Some crops are much harder than others.
        rows += noise * np.exp(0.6 * rng.standard_normal((count, 1), np.float32)) * draw(count)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        for what, values in (("rows", rows), ("person", person), ("camera", camera)):
            np.save(folder / f"{name}_{what}.npy", values)


def measure(names: list[str], folder: Path, rounds: int, peer: Path | None) -> list[dict[str, Any]]:
    """Run all, in turn; one dictionary of results by name for each round."""
    results = []
    for index in range(rounds):
        found = {}
        # Turn the order round: who comes behind a warm or a throttled neighbour changes.
        for name in names if index % 2 == 0 else names[::-1]:
            command = [sys.executable, __file__, "--child", name, str(folder)]
            if peer:
                command += ["--fastreid", str(peer)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{name} failed ({done.returncode}): {done.stderr.strip()[-2000:]}")
            found[name] = json.loads(done.stdout.splitlines()[-1])
            print(f"round {index + 1}: {name} {found[name]['seconds']:.2f} s", file=sys.stderr, flush=True)
        results.append(found)
    return results


def run(name: str, folder: Path, peer: Path | None) -> dict[str, float]:
    """Do one thing once, in this process."""
    query, gallery = np.load(folder / "query_rows.npy"), np.load(folder / "gallery_rows.npy")
    labels = {
        f"{side}_{what}": np.load(folder / f"{side}_{what}.npy")
        for side in ("query", "gallery")
        for what in ("person", "camera")
    }
    theirs = peer_module(peer, "rerank" if name == "zhong" else "rank") if name in PEERS else None
    before = memory("VmRSS")
    reset_peak()
    cpu, start = time.process_time(), time.perf_counter()
    if name == "floor":
        for _ in tiles(Similarity(query, gallery)):
            pass
        figures = {}
    elif theirs and name != "zhong":
        distance = query @ gallery.T
        np.subtract(1.0, distance, out=distance)
        cmc, precisions, penalties = theirs.evaluate_rank(
            distance,
            labels["query_person"],
            labels["gallery_person"],
            labels["query_camera"],
            labels["gallery_camera"],
            use_cython=name == "cython",
        )
        figures = {
            "rank1": float(cmc[0]),
            "mean_ap": float(np.mean(precisions)),
            "mean_inp": float(np.mean(penalties)),
        }
    else:
        if theirs:
            scores: Any = Matrix(theirs.re_ranking(*distances(query, gallery)))
        else:
            scores = Reranked(query, gallery) if name == "rerank" else Similarity(query, gallery)
        ranking = rank_queries(scores, RankingLabels(**labels)).summary()
        figures = {"rank1": ranking.rank1, "mean_ap": ranking.mean_ap, "mean_inp": ranking.mean_inp}
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
        "beyond_mb": memory("VmHWM") - before,
        "peak_mb": memory("VmHWM"),
        **figures,
    }


def distances(query: np.ndarray, gallery: np.ndarray) -> list[np.ndarray]:
    """The three matrices of Euclidean distances that the published re-ranking asks for."""
    result = []
    for a, b in ((query, gallery), (query, query), (gallery, gallery)):
        distance = a @ b.T
        distance *= -2.0
        distance += 2.0
        np.maximum(distance, 0.0, out=distance)
        result.append(np.sqrt(distance, out=distance))
    return result


class Matrix:
    """A matrix of distances as `metrics.Scores`."""

    def __init__(self, distance: np.ndarray) -> None:
        self._distance = distance
        self.shape = distance.shape

    def fill(self, start: int, stop: int, out: np.ndarray) -> None:
        """As `metrics.Scores.fill`."""
        np.negative(self._distance[start:stop], out=out)


def peer_module(folder: Path | None, name: str) -> Any:
    """A module of FastReID's evaluation package, without running the package's own __init__ (it needs faiss)."""
    if folder is None or not (folder / f"{name}.py").is_file():
        sys.exit(f"{folder} holds no {name}.py: give FastReID's fastreid/evaluation folder")
    package = types.ModuleType("peer")
    package.__path__ = [str(folder)]
    sys.modules["peer"] = package
    module = importlib.import_module(f"peer.{name}")
    if name == "rank" and not module.IS_CYTHON_AVAI:
        sys.exit(f"{folder / 'rank_cylib'} is not built for this Python")
    return module


def memory(field: str) -> float:
    """A field of /proc/self/status, in MB (10^6 bytes)."""
    status = Path("/proc/self/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 / 1e6 if found else float("nan")


def reset_peak() -> None:
    """Start VmHWM anew: the peak of reading the files does not count."""
    Path("/proc/self/clear_refs").write_text("5")


def summary(name: str, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians, the best, and the ratio to what it is measured against."""
    result = {key: statistics.median(found[name][key] for found in rounds) for key in rounds[0][name]}
    result["best_seconds"] = min(found[name]["seconds"] for found in rounds)
    against = REFERENCE.get(name)
    for key in ("seconds", "cpu_seconds", "peak_mb"):
        if against in rounds[0]:
            ratios = sorted(found[name][key] / found[against][key] for found in rounds)
            result[f"{key}_ratio"] = [statistics.median(ratios), ratios[0], ratios[-1]]
    if name == "ours" and "floor" in rounds[0]:
        ratios = sorted(found[name]["seconds"] / found["floor"]["seconds"] for found in rounds)
        result["above_floor"] = [statistics.median(ratios), ratios[0], ratios[-1]]
    return result


def table(result: dict[str, Any]) -> None:
    """Print what was measured."""
    queries, gallery = result["shape"]
    print(
        f"{result['size']}: {queries} x {gallery}, dimension {DIMENSION}, {len(result['rounds'])} rounds, "
        f"{result['cores']} cores, load {result['load_average']:.1f}; medians, ratios within a round (low, high)"
    )
    print(
        f"{'':8}{'time':>9}{'best':>9}{'CPU':>9}{'peak':>10}{'beyond':>10}"
        f"{'rank-1':>8}{'mAP':>8}{'mINP':>8}  against"
    )
    for name, found in result["summary"].items():
        shares = (
            f"{100 * found[key]:8.3f}" if key in found else " " * 8
            for key in ("rank1", "mean_ap", "mean_inp")
        )
        print(
            f"{name:8}{found['seconds']:7.2f} s{found['best_seconds']:7.2f} s{found['cpu_seconds']:7.2f} s"
            f"{found['peak_mb']:7.0f} MB{found['beyond_mb']:7.0f} MB{''.join(shares)}  {compared(name, found)}"
        )


def compared(name: str, found: dict[str, Any]) -> str:
    """The ratios, in words."""
    words = [
        f"{label} x {found[key][0]:.3f} ({found[key][1]:.3f}, {found[key][2]:.3f})"
        for key, label in (("seconds_ratio", "time"), ("cpu_seconds_ratio", "CPU"), ("peak_mb_ratio", "peak"))
        if key in found
    ]
    line = f"{REFERENCE[name]}: {', '.join(words)}" if words else ""
    if "above_floor" in found:
        line += f"; floor: time x {found['above_floor'][0]:.2f}"
    return line


if __name__ == "__main__":
    main()
