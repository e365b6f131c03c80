"""What `san import` makes of networks of others, in every precision: the table of docs/bring-your-own.md.

    python tools/foreign_networks.py zoo --crops ../shared/ward/cam1 --torchreid deep-person-reid ...
    python tools/import_table.py ../shared/ward/cam1 zoo/osnet_x1_0.onnx=torchreid intel.xml=openvino-bgr

Each FILE=PRESET is imported, converted to FP16 and to INT8 (CPU and TensorRT forms) as `san export` does, given to
TensorRT-RTX's parser where it is installed, and timed on one thread: the original in the runtime it is of, the import
and INT8 in ONNX Runtime, in turn, the least CPU time of the rounds. An import is held against the original, the others
against the import; a star is where `san export` would have refused the file, since it misses the usual gate.
The same crops calibrate and check, so that the INT8 columns flatter: they are of arithmetic, not of people found.
"""

from __future__ import annotations

import argparse
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from san_export.graph.precision_stats import count_operands
from san_export.importing.convention import PRESETS
from san_export.importing.foreign import read_foreign
from san_export.importing.run import Imported, ImportOptions, import_model, open_original
from san_export.onnx_writer import write_onnx
from san_export.precision.emulate_fp16 import emulate_fp16
from san_export.precision.fp16 import to_fp16
from san_export.precision.int8 import quantise
from san_export.verify import default_gate, open_checked, read_crops, row_cosine

from san_deploy.backends import trt
from san_deploy.images import list_crops

_ROUNDS, _BATCH = 4, 8
_HEAD = (
    "| network | size, D | against the original | FP16 mean / least | INT8 CPU form | INT8 TensorRT form "
    "| MB: FP32, FP16, INT8 | RTX parses | time: import, INT8 |"
)


def main() -> None:
    """Print the table, a row as soon as it is known."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("crops", type=Path)
    parser.add_argument("models", nargs="+", metavar="FILE=PRESET")
    parser.add_argument("--num", type=int, default=16, help="crops")
    parser.add_argument("--no-head", action="store_true", help="rows alone, to go on with a table")
    given = parser.parse_args()
    if not given.no_head:
        print(f"{_HEAD}\n|{'---|' * (_HEAD.count('|') - 1)}")
    for item in given.models:
        name, _, preset = item.rpartition("=")
        with tempfile.TemporaryDirectory() as folder:
            crops = _some(given.crops, given.num, Path(folder) / "crops")
            print(_row(Path(name), preset, crops, Path(folder)), flush=True)


def _some(source: Path, count: int, target: Path) -> Path:
    """A folder of crops from all over another."""
    target.mkdir()
    found = list(list_crops(source))
    for place, index in enumerate(np.linspace(0, len(found) - 1, count).astype(int)):
        shutil.copy(source / found[index], target / f"{place:04d}{found[index].suffix}")
    return target


def _row(source: Path, preset: str, crops: Path, folder: Path) -> str:
    mine = folder / "fp32.onnx"
    result = import_model(ImportOptions(source, PRESETS[preset], crops=crops), mine)
    artefact, model = result.artefact, onnx.load(mine)
    images = read_crops(crops, artefact.size_hw).images
    wrapped = open_checked(mine)
    reference = _embed(wrapped, images)
    half, cpu, tensorrt = (
        to_fp16(model),
        *(quantise(model, images, form=form) for form in ("cpu", "tensorrt")),
    )
    forms = {"fp16": half, "int8-cpu": cpu, "int8-tensorrt": tensorrt}
    cells, runs = [_least(result)], {}
    for name, lower in forms.items():
        path = folder / f"{name}.onnx"
        described = replace(artefact, precision=name[:4], operands=count_operands(lower), samples=None)
        # ONNX Runtime leaves FP16's roundings out on a CPU: they are put in, as `san export` checks it.
        write_onnx(emulate_fp16(lower) if name == "fp16" else lower, described, path)
        runs[name] = open_checked(path)
        cosine = row_cosine(_embed(runs[name], images), reference)
        gate = default_gate(artefact.mask, name[:4])
        found = (cosine.min(), np.percentile(cosine, 1), cosine.mean())
        missed = any(value < least for value, least in zip(found, vars(gate).values(), strict=True))
        cells.append(f"{cosine.mean():.5f} / {cosine.min():.5f}{' *' if missed else ''}")
    original = open_original(read_foreign(source), PRESETS[preset])
    height, width = artefact.size_hw
    cells = [source.stem, f"{height} x {width}, {artefact.embedding_dim}", *cells]
    cells.append(", ".join(f"{item.ByteSize() / 1e6:.1f}" for item in (model, half, cpu)))
    # The CPU's form is none for TensorRT.
    cells.append(_parses({"fp32": model, "fp16": half, "int8": tensorrt}))
    ratios = _ratios([original, wrapped, runs["int8-cpu"]], images[:_BATCH])
    return f"| {' | '.join([*cells, ', '.join(f'{ratio:.2f}' for ratio in ratios)])} |"


def _embed(model: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> np.ndarray:
    return np.concatenate([model(images[at : at + _BATCH]) for at in range(0, len(images), _BATCH)])


def _least(result: Imported) -> str:
    return f"{min(figures.min_cosine for figures in result.parity.batches):.7f}"


def _ratios(runs: list[Callable[[np.ndarray], np.ndarray]], batch: np.ndarray) -> list[float]:
    """The least CPU time of each but the first, as a fraction of the first's."""
    least = [float("inf")] * len(runs)
    for _ in range(_ROUNDS):
        for place, run in enumerate(runs):
            begin = time.process_time()
            run(batch)
            least[place] = min(least[place], time.process_time() - begin)
    return [value / least[0] for value in least[1:]]


def _parses(models: dict[str, onnx.ModelProto]) -> str:
    """What TensorRT-RTX's parser says of them, strongly typed as the engines are built."""
    if "tensorrt-rtx" not in trt.available():
        return "not installed"
    module = trt.load("tensorrt-rtx")
    for name, model in models.items():
        logger = trt.logger(module)
        flags = 1 << int(module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = module.Builder(logger).create_network(flags)
        parser = module.OnnxParser(network, logger)
        if not parser.parse(model.SerializeToString()):
            why = re.sub(r"[|\s]+", " ", str(parser.get_error(0).desc()))
            return f"{name}: {why[:80]}"
    return "all three"


if __name__ == "__main__":
    main()
