"""What `san import` makes of networks of others, in every precision: the table of docs/bring-your-own.md.

    python tools/import_table.py ../shared/ward/cam1 osnet.onnx=torchreid hacnn.onnx=torchreid

Each FILE.onnx=PRESET is imported, exported to FP16 and to INT8 (CPU and TensorRT forms), given to TensorRT-RTX's parser
where it is installed, and timed against the original in ONNX Runtime, both with one thread and in turn.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from san_export.importing.convention import PRESETS
from san_export.importing.foreign import read_foreign
from san_export.importing.run import ImportOptions, import_model, open_original
from san_export.pipeline import export
from san_export.request import ExportRequest
from san_export.verify import open_checked, read_crops, row_cosine

from san_deploy.backends import trt
from san_deploy.errors import SanError

_CROPS, _ROUNDS, _BATCH = 96, 5, 16


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("crops", type=Path)
    parser.add_argument("models", nargs="+", metavar="FILE.onnx=PRESET")
    given = parser.parse_args()
    print("| network | size, D | MB | against the original | FP16 | INT8 cpu | INT8 TensorRT | RTX parser | time |")
    print("|---|---|---|---|---|---|---|---|---|")
    for item in given.models:
        name, _, preset = item.rpartition("=")
        with tempfile.TemporaryDirectory() as folder:
            print(_row(Path(name), preset, given.crops, Path(folder)), flush=True)


def _row(source: Path, preset: str, crops: Path, folder: Path) -> str:
    mine = folder / "mine.onnx"
    result = import_model(ImportOptions(source, PRESETS[preset], crops=crops), mine)
    artefact = result.artefact
    images = read_crops(crops, artefact.size_hw, _CROPS).images
    original = open_original(read_foreign(source), PRESETS[preset])
    wrapped = open_checked(mine)
    reference = np.concatenate([wrapped(images[at : at + _BATCH]) for at in range(0, len(images), _BATCH)])
    cells = [f"{min(figures.min_cosine for figures in result.parity.batches):.7f}"]
    for precision, form in (("fp16", "auto"), ("int8", "cpu"), ("int8", "tensorrt")):
        path = folder / f"{precision}-{form}.onnx"
        request = ExportRequest(
            source=mine, out=path, precision=precision, runtime=form, crops=crops, engine=False,
            calib=crops if precision == "int8" else None,
        )  # fmt: skip
        try:
            export(request)
        except SanError as error:
            cells.append(error.message.split("(")[0])
            continue
        lower = open_checked(path)
        cosine = row_cosine(np.concatenate([lower(images[at : at + 8]) for at in range(0, len(images), 8)]), reference)
        cells.append(f"{cosine.mean():.5f} / {cosine.min():.4f}")
    cells.append(_parses(mine))
    ratios = []
    for _ in range(_ROUNDS):
        begin = time.perf_counter()
        original(images[:_BATCH])
        middle = time.perf_counter()
        wrapped(images[:_BATCH])
        ratios.append((time.perf_counter() - middle) / (middle - begin))
    height, width = artefact.size_hw
    size = mine.stat().st_size / 1e6
    cells.append(f"{statistics.median(ratios):.2f}")
    return f"| {source.stem} | {height} x {width}, {artefact.embedding_dim} | {size:.1f} | " + " | ".join(cells) + " |"


def _parses(path: Path) -> str:
    if "tensorrt-rtx" not in trt.available():
        return "not installed"
    module = trt.load("tensorrt-rtx")
    logger = trt.logger(module)
    network = module.Builder(logger).create_network(0)
    parser = module.OnnxParser(network, logger)
    if parser.parse(path.read_bytes()):
        return "parses"
    return str(parser.get_error(0).desc())[:60]


if __name__ == "__main__":
    main()
