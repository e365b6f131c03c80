"""Throughput of `embed_folder` beside that of bare ONNX Runtime: same model, same batch, one run.

    python tools/bench_embed.py ../shared/ward/cam1 -m model.onnx --batch 32 --rounds 7

Each round runs, one after the other, on the same crops:
  bare      an InferenceSession with ONNX Runtime's default options (its own threads, which spin) on crops
            that lie decoded in memory;
  sync      the same session with spinning off, which is faster where other programs run;
  backend   `OnnxRuntime`, likewise on crops in memory;
  decode    decoding and resizing alone, in one thread;
  folder    `embed_folder`: files to embeddings.
A ratio is taken within a round, so that a machine that slows down slows both; its median is printed. CPU
milliseconds per crop do not depend on what else runs, and say where the time goes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np
import onnxruntime

from san_deploy.artefact import INPUT_NAME
from san_deploy.backends.onnxruntime import OnnxRuntime
from san_deploy.bench.latency import ratio
from san_deploy.embed import embed_folder
from san_deploy.images import list_crops
from san_deploy.io.machine import machine
from san_deploy.preprocess import read_crop

NAMES = ("bare", "sync", "backend", "decode", "folder")


def main() -> None:
    """Measure, print a table and, last, one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("folder", type=Path, help="a folder of crops")
    parser.add_argument("-m", "--model", type=Path, required=True, help="an .onnx file of san export")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--crops", type=int, default=1024, help="crops per measurement (default 1024)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, help="threads that decode (default: as san embed)")
    arguments = parser.parse_args()

    paths = [arguments.folder / path for path in islice(list_crops(arguments.folder), arguments.crops)]
    with tempfile.TemporaryDirectory() as name:
        for index, path in enumerate(paths):
            (Path(name) / f"{index:06d}{path.suffix}").symlink_to(path.resolve())
        result = measure(
            Path(name),
            paths,
            arguments.model,
            batch=arguments.batch,
            rounds=arguments.rounds,
            workers=arguments.workers,
        )
    for what in NAMES:
        figures = result["measured"][what]
        print(
            f"{what:8} {figures['crops_per_second']:8.1f} crops/s (best {figures['best']:.1f}), "
            f"{figures['cpu_ms_per_crop']:.2f} CPU ms per crop, {figures['ratio_to_bare']:.3f} of bare "
            f"({figures['ratio_low']:.3f} to {figures['ratio_high']:.3f})"
        )
    print(json.dumps(result))


def measure(
    folder: Path, paths: list[Path], model: Path, *, batch: int, rounds: int, workers: int | None
) -> dict[str, dict]:
    """Run `rounds` rounds on the crops `paths`, which also lie in `folder`; plain data for JSON."""
    backend = OnnxRuntime(model)
    size_hw = backend.artefact.size_hw
    crops = np.stack([read_crop(path, size_hw) for path in paths])
    batches = [backend.artefact.to_input(crops[i : i + batch]) for i in range(0, len(crops), batch)]
    spinning, sync = session(model, spin=True), session(model, spin=False)

    def run_all(bare: onnxruntime.InferenceSession) -> None:
        for item in batches:
            bare.run(None, {INPUT_NAME: item})

    work: dict[str, Callable[[], object]] = {
        "bare": lambda: run_all(spinning),
        "sync": lambda: run_all(sync),
        "backend": lambda: [backend(crops[i : i + batch]) for i in range(0, len(crops), batch)],
        "decode": lambda: [read_crop(path, size_hw) for path in paths],
        "folder": lambda: embed_folder(folder, backend, batch=batch, workers=workers),
    }
    for warm_up in work.values():
        warm_up()
    rate: dict[str, list[float]] = {name: [] for name in NAMES}
    cpu: dict[str, list[float]] = {name: [] for name in NAMES}
    for index in range(rounds):
        # Turn the order round: who comes behind a spinning or a warm neighbour changes.
        for name in NAMES if index % 2 == 0 else NAMES[::-1]:
            cpu_start, start = time.process_time(), time.perf_counter()
            work[name]()
            rate[name].append(len(paths) / (time.perf_counter() - start))
            cpu[name].append((time.process_time() - cpu_start) / len(paths) * 1e3)
    measured = {}
    for name in NAMES:
        to_bare = ratio(rate[name], rate["bare"])
        measured[name] = {
            "crops_per_second": statistics.median(rate[name]),
            "best": max(rate[name]),
            "cpu_ms_per_crop": statistics.median(cpu[name]),
            "ratio_to_bare": to_bare.median,
            "ratio_low": to_bare.least,
            "ratio_high": to_bare.most,
            "ratio_of_best": max(rate[name]) / max(rate["bare"]),
        }
    setting = {
        "model": model.name,
        "sha256": backend.artefact.sha256,
        "size_hw": size_hw,
        "batch": batch,
        "crops": len(paths),
        "rounds": rounds,
        "machine": asdict(machine()),
        "onnxruntime": onnxruntime.__version__,
    }
    return {"setting": setting, "measured": measured}


def session(model: Path, *, spin: bool) -> onnxruntime.InferenceSession:
    """ONNX Runtime as it comes, but for spinning."""
    options = onnxruntime.SessionOptions()
    if not spin:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
