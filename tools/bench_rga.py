"""Relation-aware attention without its map of relations, beside the literal form: speed and memory in one run.

    python tools/bench_rga.py --rounds 3
    python tools/bench_rga.py --depth 18 --width 0.5 --size 128 64 --batch 16

Both forms have the same weights and give the same embeddings, which is checked first. Each round runs, literal and
rewritten in turn, which of them first by turns:
  torch      evaluation in PyTorch
  step       a training step: forward, backward
  ort        the exported graph in ONNX Runtime
A ratio is taken within a round, so that a machine that slows down slows both; its median is printed. Where other
programs run, believe the CPU time, with one thread. Peak memory is what a process of its own needs for one call
beyond what it held before; weights and session are not counted, and ONNX Runtime is without its arena there, which
keeps what it once had. Linux alone, as the peaks are read from /proc.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from san_train.models.rga import VARIANTS, RelationAwareNetwork, RgaSettings
from torch import Tensor

from san_deploy.artefact import INPUT_NAME
from san_deploy.backends.ort import onnxruntime, quiet_options
from san_deploy.bench.latency import ratio
from san_deploy.io.machine import machine

FORMS = ("literal", "rewritten")
TASKS = ("torch", "step", "ort")
_SEED = 0


@dataclass(frozen=True)
class Bench:
    """What is measured.

    Attributes:
        settings: of the network.
        batch: crops per call.
        threads: of PyTorch and ONNX Runtime.
        folder: where the exported graphs lie, one for each form.
    """

    settings: RgaSettings
    batch: int
    threads: int
    folder: Path

    def network(self, form: str) -> RelationAwareNetwork:
        """The same weights for both forms."""
        torch.manual_seed(_SEED)
        return RelationAwareNetwork(self.settings, literal=form == "literal")

    def graph(self, form: str) -> Path:
        """The exported file."""
        return self.folder / f"{form}.onnx"


def main() -> None:
    """Measure, print a table and, last, one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--variant", choices=VARIANTS, default="sc")
    parser.add_argument("--depth", type=int, default=50)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--size", type=int, nargs=2, default=(256, 128), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batch", type=int, default=4, help="crops per call, at least 2 (default 4)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch and ONNX Runtime (default 1)")
    arguments = parser.parse_args()
    try:
        settings = RgaSettings(
            arguments.variant, arguments.depth, arguments.width, size_hw=tuple(arguments.size)
        )
    except ValueError as error:
        parser.error(str(error))
    if min(arguments.rounds, arguments.threads) < 1 or arguments.batch < 2:
        parser.error("rounds and threads are at least 1, batch is at least 2")
    result = measure(settings, batch=arguments.batch, rounds=arguments.rounds, threads=arguments.threads)
    print(f"largest difference of two numbers of unit rows: {result['difference']:.1e}")
    for task in TASKS:
        for form in FORMS:
            figures = result["measured"][task][form]
            print(
                f"{task:6} {form:10} {figures['ms_per_crop']:8.1f} ms and {figures['cpu_ms_per_crop']:8.1f} CPU ms "
                f"per crop, peak {figures['peak_mb']:7.1f} MB"
            )
        figures = result["measured"][task]
        print(
            f"{task:6} rewritten is {figures['speedup']:.2f} times as fast ({figures['speedup_low']:.2f} to "
            f"{figures['speedup_high']:.2f}), {figures['cpu_speedup']:.2f} times in CPU time, with "
            f"{figures['memory']:.2f} of the memory"
        )
    print(json.dumps(result))


def measure(settings: RgaSettings, *, batch: int, rounds: int, threads: int) -> dict:
    """Peaks first, each in a process of its own, then rounds; plain data for JSON."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(settings, batch, threads, Path(folder))
        export(bench)
        peaks = {(task, form): _in_a_process(peak_mb, bench, task, form) for task in TASKS for form in FORMS}
        work = {(task, form): prepare(bench, task, form) for task in TASKS for form in FORMS}
    rows = [torch.nn.functional.normalize(work["torch", form](), dim=1) for form in FORMS]
    for call in work.values():
        call()
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in work}
    cpu: dict[tuple[str, str], list[float]] = {key: [] for key in work}
    for index in range(rounds):
        for task in TASKS:
            for form in FORMS if index % 2 == 0 else FORMS[::-1]:
                cpu_start, start = time.process_time(), time.perf_counter()
                work[task, form]()
                seconds[task, form].append(time.perf_counter() - start)
                cpu[task, form].append(time.process_time() - cpu_start)
    measured: dict[str, dict] = {}
    for task in TASKS:
        faster = ratio(seconds[task, "literal"], seconds[task, "rewritten"])
        measured[task] = {
            form: {
                "ms_per_crop": statistics.median(seconds[task, form]) / batch * 1e3,
                "cpu_ms_per_crop": statistics.median(cpu[task, form]) / batch * 1e3,
                "peak_mb": peaks[task, form],
            }
            for form in FORMS
        }
        measured[task] |= {
            "speedup": faster.median,
            "speedup_low": faster.least,
            "speedup_high": faster.most,
            "cpu_speedup": ratio(cpu[task, "literal"], cpu[task, "rewritten"]).median,
            "memory": peaks[task, "rewritten"] / peaks[task, "literal"],
        }
    return {
        "settings": settings.as_dict(),
        "batch": batch,
        "rounds": rounds,
        "threads": threads,
        "difference": float((rows[0] - rows[1]).abs().max()),
        "measured": measured,
        "machine": asdict(machine()),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def export(bench: Bench) -> None:
    """Write the graph of each form."""
    # Not above: the processes that measure memory have no use for the exporter.
    from san_export.onnx_writer import to_onnx
    from san_export.wrapper import OnnxWrapper

    for form in FORMS:
        deployed = OnnxWrapper(bench.network(form), input_form="float")
        bench.graph(form).write_bytes(to_onnx(deployed, bench.settings.size_hw).SerializeToString())


def prepare(bench: Bench, task: str, form: str, *, arena: bool = True) -> Callable[[], Tensor]:
    """The call to measure; it gives rows, or the loss of a step."""
    torch.set_num_threads(bench.threads)
    torch.manual_seed(_SEED + 1)
    x = torch.randn(bench.batch, 3, *bench.settings.size_hw)
    if task == "ort":
        options = quiet_options()
        options.intra_op_num_threads = bench.threads
        options.enable_cpu_mem_arena = arena
        session = onnxruntime.InferenceSession(
            str(bench.graph(form)), options, providers=["CPUExecutionProvider"]
        )
        return lambda: torch.from_numpy(session.run(None, {INPUT_NAME: x.numpy()})[0])
    network = bench.network(form).train(task == "step")

    def evaluate() -> Tensor:
        with torch.no_grad():
            return network(x)

    def step() -> Tensor:
        network.zero_grad(set_to_none=True)
        loss = network(x).square().mean()
        loss.backward()
        return loss.detach()

    return step if task == "step" else evaluate


def peak_mb(bench: Bench, task: str, form: str) -> float:
    """The peak of one call beyond what the process held before it, MB."""
    call = prepare(bench, task, form, arena=False)
    # Else the call would take what the preparation gave back, and seem to need nothing.
    ctypes.CDLL(None).malloc_trim(0)
    before = _status_mb("VmRSS")
    # Else the peak would be that of the preparation, where that needed more.
    Path("/proc/self/clear_refs").write_text("5")
    call()
    return _status_mb("VmHWM") - before


def _status_mb(key: str) -> float:
    (line,) = [
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{key}:")
    ]
    return int(line.split()[1]) / 1024


def _in_a_process(call: Callable[..., float], *arguments: object) -> float:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(call, *arguments).result()


if __name__ == "__main__":
    main()
