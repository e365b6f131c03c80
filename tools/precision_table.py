"""What FP16 and INT8 cost on people that a network did not see: the table in docs/benchmarks.md.

    python tools/precision_table.py --runs runs/starter

The networks are the folds of `make_starter.py`; each is measured on its held-out people and calibrated on
its own training people, at several seeds. FP16 is measured with every value rounded as a GPU would.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from precision_forms import embeddings, fp32_graph, to_precision
from san_export.precision.ranges import METHODS
from san_export.verify import row_cosine

from san_deploy import metrics
from san_deploy.datasets import labels, read_dataset
from san_deploy.preprocess import read_crop

CALIBRATION_CROPS = 512


def main() -> None:
    """Print a table: means over folds and seeds, and the spread of rank-1."""
    parser = argparse.ArgumentParser(description="Cost of lower precision, on held-out people.")
    parser.add_argument("--runs", type=Path, default=Path("runs/starter"))
    parser.add_argument("--folds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    options = parser.parse_args()
    found: dict[str, list[list[float]]] = defaultdict(list)
    for fold in options.folds:
        with TemporaryDirectory() as folder:
            measure(options, fold, Path(folder), found)
    print(f"{'':28s}{'rank-1':>8s}{'spread':>8s}{'mAP':>8s}{'least':>8s}{'p1':>8s}{'mean':>9s}")
    for name, runs in found.items():
        rank1, mean_ap, least, p1, mean = np.mean(runs, axis=0)
        spread = np.std([run[0] for run in runs])
        print(f"{name:28s}{rank1:+8.2f}{spread:8.2f}{mean_ap:+8.2f}{least:8.4f}{p1:8.4f}{mean:9.5f}")


def measure(
    options: argparse.Namespace, fold: int, folder: Path, found: dict[str, list[list[float]]]
) -> None:
    """Add one fold's figures: points of rank-1 and mAP against FP32, row cosines with it."""
    splits = read_dataset(options.runs / f"fold{fold}-data").splits
    checkpoint = options.runs / f"fold{fold}" / "model.safetensors"
    model, artefact = fp32_graph(checkpoint, folder / "fp32.onnx")
    size_hw = artefact.size_hw
    images, training = (
        np.stack([read_crop(crop.path, size_hw) for crop in splits[name]]) for name in ("val", "train")
    )
    person, camera, _ = labels(splits["val"])

    def scores(embedding: np.ndarray) -> tuple[float, float]:
        ranking = metrics.evaluate_among(embedding, person=person, camera=camera)
        return 100 * ranking.rank1, 100 * ranking.mean_ap

    reference = embeddings(model, artefact, images)
    before = scores(reference)

    def note(name: str, lower: onnx.ModelProto) -> None:
        embedding = embeddings(lower, artefact, images)
        after, cosine = scores(embedding), row_cosine(embedding, reference)
        figures = [after[0] - before[0], after[1] - before[1]]
        found[name].append([*figures, cosine.min(), np.percentile(cosine, 1), cosine.mean()])
        print(f"fold {fold}, {name}: rank-1 {figures[0]:+.2f}, mAP {figures[1]:+.2f}", flush=True)

    note("FP16", to_precision(model, "FP16", training[:0]))
    for seed in options.seeds:
        chosen = training[np.random.default_rng(seed).permutation(len(training))[:CALIBRATION_CROPS]]
        for form in ("INT8 cpu", "INT8 tensorrt"):
            for method in options.methods:
                note(f"{form}, {method}", to_precision(model, form, chosen, method=method))


if __name__ == "__main__":
    main()
