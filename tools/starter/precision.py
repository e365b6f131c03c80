"""What FP16 and INT8 cost on people that a network did not see: the table in docs/benchmarks.md.

    python tools/starter/precision.py --runs runs/starter

The networks are the folds of `make_starter.py`; each is measured on its held-out people and calibrated on
its own training people, at several seeds. FP16 is measured with every value rounded as a GPU would.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from san_deploy.export.check import embed_in_batches, open_checked, row_cosine
from san_deploy.export.checkpoint import export_graph
from san_deploy.export.fp16 import to_fp16
from san_deploy.export.int8 import quantise
from san_deploy.export.ranges import METHODS
from san_deploy.export.rounding import rounding_fp16
from san_deploy.export.write import write_onnx

from san_deploy import metrics
from san_deploy.artefact import Artefact
from san_deploy.datasets import labels, read_dataset
from san_deploy.preprocess import read_crop

CALIBRATION_CROPS = 512
_BATCH = 32


def main() -> None:
    """Print a table: means over folds and seeds, and the spread of rank-1."""
    parser = argparse.ArgumentParser(description="Cost of lower precision, on held-out people.")
    parser.add_argument("--runs", type=Path, default=Path("runs/starter"))
    parser.add_argument("--folds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    options = parser.parse_args()
    rows: dict[str, list[list[float]]] = defaultdict(list)
    for fold in options.folds:
        with TemporaryDirectory() as folder:
            measure(options, fold, Path(folder), rows)
    print(f"{'':28s}{'rank-1':>8s}{'spread':>8s}{'mAP':>8s}{'least':>8s}{'p1':>8s}{'mean':>9s}")
    for name, found in rows.items():
        rank1, mean_ap, least, p1, mean = np.mean(found, axis=0)
        spread = np.std([row[0] for row in found])
        print(f"{name:28s}{rank1:+8.2f}{spread:8.2f}{mean_ap:+8.2f}{least:8.4f}{p1:8.4f}{mean:9.5f}")


def measure(options: argparse.Namespace, fold: int, folder: Path, rows: dict[str, list[list[float]]]) -> None:
    """Add one fold's figures: points of rank-1 and mAP against FP32, row cosines with it."""
    splits = read_dataset(options.runs / f"fold{fold}-data").splits
    checkpoint = options.runs / f"fold{fold}" / "model.safetensors"
    path = folder / "fp32.onnx"
    artefact = export_graph(
        checkpoint,
        path,
        mask=None,
        input_form="uint8",
        crops=None,
        gate=None,
        opset=18,
        report=lambda line: None,
    ).artefact
    size_hw = artefact.size_hw
    images, training = (
        np.stack([read_crop(crop.path, size_hw) for crop in splits[name]]) for name in ("val", "train")
    )
    person, camera, _ = labels(splits["val"])
    model = onnx.load(path)

    def scores(embedding: np.ndarray) -> tuple[float, float]:
        ranking = metrics.evaluate_among(embedding, person=person, camera=camera)
        return 100 * ranking.rank1, 100 * ranking.mean_ap

    reference = embed(model, artefact, images, folder)
    before = scores(reference)

    def note(name: str, lower: onnx.ModelProto) -> None:
        embedding = embed(lower, artefact, images, folder)
        after, cosine = scores(embedding), row_cosine(embedding, reference)
        figures = [after[0] - before[0], after[1] - before[1]]
        rows[name].append([*figures, cosine.min(), np.percentile(cosine, 1), cosine.mean()])
        print(f"fold {fold}, {name}: rank-1 {figures[0]:+.2f}, mAP {figures[1]:+.2f}", flush=True)

    note("FP16", rounding_fp16(to_fp16(model)))
    for seed in options.seeds:
        chosen = training[np.random.default_rng(seed).permutation(len(training))[:CALIBRATION_CROPS]]
        for form in ("cpu", "tensorrt"):
            for method in options.methods:
                note(f"INT8 {form}, {method}", quantise(model, chosen, form=form, method=method))


def embed(model: onnx.ModelProto, artefact: Artefact, images: np.ndarray, folder: Path) -> np.ndarray:
    """Embeddings in ONNX Runtime, `(N, D)` float32."""
    path = folder / "model.onnx"
    write_onnx(model, replace(artefact, sha256=""), path)
    return embed_in_batches(open_checked(path), images, _BATCH)


if __name__ == "__main__":
    main()
