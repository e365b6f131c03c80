"""The ratios of docs/benchmarks.md, a table a command; and whether this commit still reaches the stored ones.

    python tools/bench.py training             measure and print
    python tools/bench.py training --write     store it, and write its table into docs/benchmarks.md
    python tools/bench.py --check              before a release: all stored tables, exit code 3 where one is worse

  evaluation  `metrics.rank_queries` in the time of its matrix product alone, at Market-1501's size
  embedding   `embed_folder` in the time of bare ONNX Runtime on crops in memory, and of a plain loop with OpenCV, the
              starter on the sample crops
  loader      augmented crops by processes, their CPU time in that of one loop, on the sample crops
  training    a training step in bf16 in the time of fp32, and with and without `keep_freed`, one thread

A ratio is the CPU time of one thing in that of another, taken within a round, the two in turn; lower is better. Its
spread is the lowest and the highest round. What counts as worse: the median of this run beyond the stored median by
more than twice the stored spread, and by more than 3 %. Ratios depend on the processor, so they are only held
against those of the same one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from san_deploy.io.atomic import atomic_file
from san_deploy.io.machine import machine
from san_deploy.io.versions import versions

ROOT = Path(__file__).resolve().parents[1]
STORED, PAGE = ROOT / "tools/bench.json", ROOT / "docs/benchmarks.md"
PACKAGES = ("numpy", "onnxruntime", "torch")
#: What a median may lose: so many stored spreads, and at least this share.
_SPREADS, _LEAST = 2.0, 0.03
#: `{row: a ratio for each round}`.
Rows = dict[str, list[float]]


@dataclass(frozen=True)
class Worse:
    """A row that misses what is stored."""

    table: str
    row: str
    median: float
    limit: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(TABLES)} (default: all)")
    parser.add_argument("--rounds", type=int, default=5)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--write", action="store_true", help="store the ratios and rewrite their tables")
    mode.add_argument("--check", action="store_true", help="hold them against the stored ones")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.tables) - set(TABLES)):
        parser.error(f"{unknown[0]} is no table; there are {', '.join(TABLES)}")
    stored = json.loads(STORED.read_text("utf-8")) if STORED.exists() else {}
    names = options.tables or [name for name in TABLES if not options.check or name in stored]
    worse: list[Worse] = []
    for name in names:
        if options.check and (why := not_comparable(stored.get(name))):
            print(f"{name}: {why}: python tools/bench.py {name} --write", file=sys.stderr)
            return 1
        rows = TABLES[name](options.rounds)
        print("\n".join(table(rows)))
        if options.check:
            worse += compare(name, rows, stored[name]["rows"])
        if options.write:
            stored[name] = record(rows)
            with atomic_file(STORED) as temporary:
                temporary.write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")
            write_page(name, stored[name], PAGE)
    for item in worse:
        print(
            f"worse: {item.table}, {item.row}: {item.median:.3f}, at most {item.limit:.3f}", file=sys.stderr
        )
    return 3 if worse else 0


def record(rows: Rows) -> dict[str, Any]:
    """What is stored of a table: the ratios, and where they were taken."""
    here = machine()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "rows": {name: [round(value, 4) for value in values] for name, values in rows.items()},
        "processor": here.processor,
        "cores": here.cores,
        "load_average": here.load_average,
        "versions": {"python": here.python, **versions(*PACKAGES)},
        "commit": commit.stdout.strip(),
    }


def not_comparable(known: Mapping[str, Any] | None) -> str:
    """Why this machine is not held against a stored table; empty where it is."""
    if known is None:
        return "nothing is stored"
    here = machine().processor
    return "" if known["processor"] == here else f"stored on {known['processor']}, this is {here}"


def compare(table_name: str, rows: Rows, stored: Mapping[str, Sequence[float]]) -> list[Worse]:
    """The rows whose median is worse than the stored one by more than the stored spread explains."""
    found = []
    for name, known in stored.items():
        middle = statistics.median(known)
        limit = middle + max(_SPREADS * (max(known) - min(known)), _LEAST * middle)
        median = statistics.median(rows[name]) if rows.get(name) else float("nan")
        # Written so that a row that is gone, or NaN, is worse, too.
        if not median <= limit:
            found.append(Worse(table_name, name, median, limit))
    return found


def table(rows: Rows) -> list[str]:
    """Lines of Markdown."""
    lines = ["| | ratio | lowest, highest | rounds |", "|---|---|---|---|"]
    for name, values in rows.items():
        spread = f"{min(values):.2f}, {max(values):.2f}"
        lines.append(f"| {name} | **{statistics.median(values):.2f}** | {spread} | {len(values)} |")
    return lines


def write_page(name: str, known: Mapping[str, Any], page: Path) -> None:
    """Put a table between its two marks, `<!-- bench: NAME -->` and `<!-- bench end -->`.

    Raises:
        SystemExit: the page has no such marks.
    """
    text = page.read_text("utf-8")
    marks = re.compile(rf"(<!-- bench: {re.escape(name)} -->\n).*?(<!-- bench end -->)", re.DOTALL)
    if not marks.search(text):
        raise SystemExit(
            f"{page} has no place for the table {name}: <!-- bench: {name} --> ... <!-- bench end -->"
        )
    used = ", ".join(f"{package} {version}" for package, version in known["versions"].items())
    where = (
        f"`python tools/bench.py {name} --write` at {known['commit']}: {known['processor']}, {known['cores']} cores, "
        f"load {known['load_average']}; {used}."
    )
    body = "\n".join([where, "", *table(known["rows"]), ""])
    with atomic_file(page) as temporary:
        temporary.write_text(marks.sub(lambda match: match[1] + body + match[2], text), encoding="utf-8")


def evaluation(rounds: int) -> Rows:
    """Of `tools/bench_eval.py`, in processes of their own."""
    import bench_eval

    with tempfile.TemporaryDirectory() as folder:
        bench_eval.write_data(Path(folder), "market", 0.8, 0)
        found = bench_eval.measure(["floor", "ours"], Path(folder), rounds, None)
    return {
        "ranking, of the matrix product": [
            one["ours"]["cpu_seconds"] / one["floor"]["cpu_seconds"] for one in found
        ]
    }


def embedding(rounds: int) -> Rows:
    """The starter on the sample crops, batch 32."""
    import bench_embed
    import cv2

    from san_deploy.artefact import INPUT_NAME
    from san_deploy.backends import STARTER, open_backend
    from san_deploy.data.samples import read_samples
    from san_deploy.embed import embed_folder
    from san_deploy.preprocess import read_crop

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for place, sample in enumerate(read_samples(512)):
            (folder / f"{place:04d}.jpg").write_bytes(sample.jpeg)
        backend = open_backend(STARTER, device="cpu")
        crops = [read_crop(path, backend.artefact.size_hw) for path in sorted(folder.iterdir())]
        # Threads that spin would be counted as work.
        session = bench_embed.session(STARTER, spin=False)

        def bare() -> None:
            for start in range(0, len(crops), 32):
                session.run(None, {INPUT_NAME: _stack(crops[start : start + 32])})

        paths = sorted(map(str, folder.iterdir()))
        size_wh = backend.artefact.size_hw[::-1]

        def plain() -> None:
            """What one would write by hand; its resize does not antialias, which is cheaper and not the same."""
            for start in range(0, len(paths), 32):
                images: list[Any] = [cv2.imread(path) for path in paths[start : start + 32]]
                session.run(None, {INPUT_NAME: _stack([cv2.resize(image, size_wh) for image in images])})

        def ours() -> None:
            embed_folder(folder, backend, batch=32)

        return {
            "files to embeddings, of bare ONNX Runtime on crops in memory": in_turn(ours, bare, rounds),
            "files to embeddings, of a plain loop with OpenCV and ONNX Runtime": in_turn(ours, plain, rounds),
        }


def loader(rounds: int) -> Rows:
    """Views of the sample crops: what the loader's processes and this one take, in the time of the views alone."""
    from san_deploy.data.samples import read_samples

    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{place:04d}.jpg" for place in range(512)]
        for path, sample in zip(paths, read_samples(512), strict=True):
            path.write_bytes(sample.jpeg)
        return {
            f"two processes, of one loop: recipe {name}, {height} x {width}": _loaded(
                name, (height, width), paths, rounds
            )
            for name, height, width in (("scratch", 128, 64), ("paper", 256, 128))
        }


def _loaded(recipe: str, size_hw: tuple[int, int], paths: list[Path], rounds: int) -> list[float]:
    from san_train.loader.images import CropCache
    from san_train.loader.processes import Loader
    from san_train.loader.worker import EpochDraws
    from san_train.recipe import resolve

    plan = [list(range(start, start + 64)) for start in range(0, 512, 64)] * 2
    draws = EpochDraws(size_hw, resolve(recipe).augmentation, seed=0, epoch=0)
    with Loader(CropCache(paths), 0) as alone, Loader(CropCache(paths), 2) as two:
        return in_turn(
            lambda: list(two.batches(plan, draws)),
            lambda: list(alone.batches(plan, draws)),
            rounds,
            lambda: time.process_time() + sum(map(_cpu_seconds, two.process_ids)),
        )


def _cpu_seconds(process: int) -> float:
    """What a process has taken, of all its threads, to a hundredth of a second (Linux)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def training(rounds: int) -> Rows:
    """A step of a ResNet-18 SAN of half width, 64 crops of 128 x 64, forward and backward, one thread."""
    found: dict[str, list[list[float]]] = {}
    for _ in range(rounds):
        for freed in ("default", "kept"):
            command = [sys.executable, __file__, "--step", freed]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=_with_paths())
            found.setdefault(freed, []).append(json.loads(done.stdout.splitlines()[-1]))
    default, kept = found["default"], found["kept"]
    return {
        "fp32 step with freed memory kept, of glibc's default": _ratios(kept, default, 0, 0),
        "bf16 step with freed memory kept, of glibc's default": _ratios(kept, default, 1, 1),
        "bf16 step, of fp32, freed memory kept": _ratios(kept, kept, 1, 0),
    }


def step(freed: str) -> None:
    """Print the CPU seconds of a step in fp32 and in bf16, the best of three each."""
    import torch
    from san_train.models import build_model
    from san_train.recipe import resolve

    from san_deploy.io.cpu import keep_freed

    if freed == "kept":
        keep_freed()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    recipe = resolve("distill", ["settings.size_hw=[128, 64]"])
    network: Any = build_model(recipe.arch, recipe.settings)
    network = network.to(memory_format=torch.channels_last).train()
    network.mode.train = recipe.mask
    crops = torch.randn(64, 3, 128, 64).to(memory_format=torch.channels_last)
    best = []
    for low in (False, True):
        seconds = []
        for _ in range(3):
            start = time.process_time()
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                heads = network.train_outputs(crops).heads
                loss = torch.stack([head.identity.float().square().mean() for head in heads]).sum()
            loss.backward()
            seconds.append(time.process_time() - start)
        best.append(min(seconds))
    print(json.dumps(best))


def in_turn(
    ours: Callable[[], object],
    base: Callable[[], object],
    rounds: int,
    clock: Callable[[], float] = time.process_time,
) -> list[float]:
    """CPU time of one in that of the other, round by round, who is first by turns."""
    ours(), base()
    found = []
    for place in range(rounds):
        taken = {}
        for work in (ours, base) if place % 2 == 0 else (base, ours):
            start = clock()
            work()
            taken[work] = clock() - start
        found.append(taken[ours] / taken[base])
    return found


def _ratios(ours: list[list[float]], base: list[list[float]], first: int, second: int) -> list[float]:
    return [one[first] / other[second] for one, other in zip(ours, base, strict=True)]


def _stack(crops: list[Any]) -> Any:
    import numpy as np

    return np.stack(crops)


def _with_paths() -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "train"), str(ROOT / "export")]),
    }


TABLES: dict[str, Callable[[int], Rows]] = {
    "evaluation": evaluation,
    "embedding": embedding,
    "loader": loader,
    "training": training,
}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--step"]:
        step(sys.argv[2])
    else:
        sys.exit(main())
