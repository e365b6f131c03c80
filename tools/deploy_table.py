"""What each mask costs and gives in each precision: the table in docs/parity.md.

    python tools/deploy_table.py starter=tools/starter/starter.safetensors --data ../shared/ward --split test

Every row is compared with PyTorch in FP32 with the same mask, crop by crop, in ONNX Runtime on the CPU: FP16 with
every rounding of a GPU put in, INT8 calibrated on the people of `--calib-split`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from precision_forms import FORMS, embeddings, fp32_graph, to_precision
from san_export.verify import row_cosine
from san_train import evaluate
from san_train.checkpoint import load_checkpoint

from san_deploy import metrics
from san_deploy.datasets import Crop, labels, read_dataset
from san_deploy.preprocess import read_crop

MASKS = ("argmax", "ramp:0.015625", "ramp:0.0625", "expected")
CALIBRATION_CROPS = 512
_BATCH = 32


def main() -> None:
    """Print the table, row by row."""
    parser = argparse.ArgumentParser(description="Masks and precisions on real crops.")
    parser.add_argument("models", nargs="+", metavar="NAME=CHECKPOINT")
    parser.add_argument("--data", type=Path, default=Path("../shared/ward"))
    parser.add_argument("--split", default="test")
    parser.add_argument("--calib-split", default="train")
    parser.add_argument("--num", type=int, help="so many crops of the split, spread over it; default all")
    parser.add_argument("--masks", nargs="*", default=list(MASKS))
    parser.add_argument("--forms", nargs="*", default=list(FORMS), choices=FORMS)
    options = parser.parse_args()
    splits = read_dataset(options.data).splits
    crops = splits[options.split]
    if options.num is not None:
        crops = [crops[i] for i in np.linspace(0, len(crops) - 1, options.num).astype(int)]
    calibration = splits[options.calib_split]
    chosen = np.random.default_rng(0).permutation(len(calibration))[:CALIBRATION_CROPS]
    print(f"{len(crops)} crops of {len({crop.person for crop in crops})} people ({options.split})\n")
    print(
        "| network | mask | precision | rank-1 | mAP | rank-1, against PyTorch | mAP "
        "| row cosine: minimum | 1st percentile | mean |"
    )
    print("|---" * 10 + "|")
    for item in options.models:
        name, _, checkpoint = item.partition("=")
        for mask in options.masks:
            for line in figures(
                Path(checkpoint), mask, crops, [calibration[i] for i in chosen], tuple(options.forms)
            ):
                print(f"| {name} | `{mask}` | {line} |", flush=True)


def figures(
    checkpoint: Path, mask: str, crops: list[Crop], calibration: list[Crop], forms: tuple[str, ...]
) -> list[str]:
    """One row of figures for each form."""
    network, _ = load_checkpoint(checkpoint)
    size_hw = network.settings.size_hw
    images, training = (
        np.stack([read_crop(crop.path, size_hw) for crop in some]) for some in (crops, calibration)
    )
    person, camera, _ = labels(crops)

    def scores(embedding: np.ndarray) -> np.ndarray:
        ranking = metrics.evaluate_among(embedding, person=person, camera=camera)
        return 100 * np.array([ranking.rank1, ranking.mean_ap])

    reference = evaluate.embed(network, images, mask=mask, batch=_BATCH)
    before = scores(reference)
    lines = [f"PyTorch FP32 | {before[0]:.2f} | {before[1]:.2f} | | | | | "]
    with TemporaryDirectory() as folder:
        model, artefact = fp32_graph(checkpoint, Path(folder) / "fp32.onnx", mask=mask)
        for form in forms:
            found = embeddings(to_precision(model, form, training), artefact, images)
            after, cosine = scores(found), row_cosine(found, reference)
            change = after - before
            lines.append(
                f"{form} | {after[0]:.2f} | {after[1]:.2f} | {change[0]:+.2f} | {change[1]:+.2f} "
                f"| {cosine.min():.5f} | {np.percentile(cosine, 1):.5f} | {cosine.mean():.6f}"
            )
    return lines


if __name__ == "__main__":
    main()
