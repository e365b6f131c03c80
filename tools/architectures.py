"""The architectures beside each other, trained on WARD with one budget: the tables in docs/architectures.md.

    python tools/architectures.py ../shared/ward --out runs/architectures --precision bf16

Trains each architecture with each seed on WARD's `train` people, from scratch (the recipe `scratch` and the budget of
tools/ablation.py), and measures on its `test` people: as PyTorch computes it, and in FP16 (every rounding of a GPU put
in) and INT8 as ONNX Runtime does. Finished runs are lines of OUT/results.jsonl and are skipped. At the end the FP32
files of the first seed embed the same crops in turn, so that their speeds are of one run.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from ablation import BUDGET, is_done, measure, read_lines, spread
from precision_forms import embeddings, fp32_graph, to_precision
from san_export.graph.graph import WEIGHTED_OPS, view
from san_export.verify import open_checked, row_cosine
from san_train import evaluate
from san_train.data import gather
from san_train.models import architecture
from san_train.recipe import Recipe, resolve
from san_train.trainer import Compute, Training

from san_deploy.datasets import Dataset, read_dataset
from san_deploy.preprocess import read_crop

#: Row -> architecture and what it sets beside `scratch` and the budget.
ROWS: dict[str, tuple[str, tuple[str, ...]]] = {
    "ResNet, no attention": ("san", ("settings.attention=[]", "settings.context=[]")),
    "san": ("san", ()),
    "residual-attention": ("residual-attention", ()),
    "ha-cnn": ("ha-cnn", ()),
    "rga-s": ("rga-s", ()),
    "rga-c": ("rga-c", ()),
    "rga-sc": ("rga-sc", ()),
    "fmn": ("fmn", ()),
}
FORMS = {"fp16": "FP16", "cpu": "INT8 cpu", "tensorrt": "INT8 tensorrt"}
CALIBRATION_CROPS = 512
_BATCH = 32
_ROUNDS = 5


def main() -> None:
    """Run what is missing in OUT/results.jsonl, then print the tables."""
    parser = argparse.ArgumentParser(description="The architectures, trained alike on a small data set.")
    parser.add_argument("data", type=Path, help="a crop folder with the splits train and test")
    parser.add_argument("--out", type=Path, default=Path("runs/architectures"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"], help="of training")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="another budget")
    parser.add_argument("--no-speed", action="store_true", help="leave the speeds out")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dataset = read_dataset(options.data)
    for seed in options.seeds:
        for row in options.rows:
            run(options, dataset, row, seed)
    lines = [line for line in read_lines(options.out / "results.jsonl") if line["row"] in options.rows]
    print(table(lines))
    if not options.no_speed:
        print()
        print(speeds(options, dataset))


def run(options: argparse.Namespace, dataset: Dataset, row: str, seed: int) -> None:
    """Train, export and measure one row with one seed, unless that was done."""
    results = options.out / "results.jsonl"
    recipe = recipe_of(row, seed, options.overrides)
    setup = {"recipe": json.loads(json.dumps(recipe.as_dict())), "precision": options.precision}
    if is_done(results, row, seed, setup):
        return
    out = options.out / f"{row.replace(', ', '-').replace(' ', '-')}-seed{seed}"
    data = gather([dataset], validation_people=0, seed=0)
    training = Training(
        recipe, data, out, Compute(torch.device("cpu"), options.precision, 1), say=lambda line: None
    )
    started = time.perf_counter()
    training.run()
    seconds = time.perf_counter() - started
    network = training.model
    size_hw = network.settings.size_hw
    crops = dataset.splits["test"]
    images = evaluate.load_crops(crops, size_hw, workers=1)
    reference = evaluate.embed(network, images, batch=_BATCH)
    chosen = np.random.default_rng(seed).permutation(len(dataset.splits["train"]))[:CALIBRATION_CROPS]
    calibration = np.stack([read_crop(dataset.splits["train"][i].path, size_hw) for i in chosen])
    model, artefact = fp32_graph(out / "model.safetensors", options.out / f"{out.name}.onnx")
    before = measure(reference, crops)
    record: dict[str, Any] = {
        "row": row,
        "seed": seed,
        "setup": setup,
        "seconds": round(seconds, 1),
        "size_hw": list(size_hw),
        "embedding": network.settings.embedding_dim,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "gmac": macs(model) / 1e9,
        "mask": artefact.mask,
        "fp32": before,
    }
    for form, name in FORMS.items():
        got = embeddings(to_precision(model, name, calibration), artefact, images)
        cosine = row_cosine(got, reference)
        record[form] = {
            **measure(got, crops),
            "cosine": [float(cosine.min()), float(np.percentile(cosine, 1)), float(cosine.mean())],
        }
    with results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    print(
        f"{row}, seed {seed}: rank-1 {100 * before['rank1']:.1f}, mAP {100 * before['mean_ap']:.1f} "
        f"({seconds:.0f} s)",
        flush=True,
    )


def recipe_of(row: str, seed: int, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a row: `scratch` with the common budget; `overrides` change that for all rows alike."""
    arch, changes = ROWS[row]
    # The budget steers the temperature of sampled masks, which only some have.
    budget = [one for one in BUDGET if architecture(arch).sharp or not one.startswith("tau_")]
    return resolve("scratch", [*budget, *overrides, *changes], {"seed": seed}, arch=arch)


def macs(model: onnx.ModelProto) -> int:
    """Multiply-accumulates of one crop: convolutions and matrix products, as the graph has them."""
    one = onnx.ModelProto()
    one.CopyFrom(model)
    for value in (*one.graph.input, *one.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    # Inferred again: a network may cut a crop into parts along the first axis.
    del one.graph.value_info[:]
    graph = view(one)
    total = 0
    for node in graph.nodes:
        if node.op_type not in WEIGHTED_OPS:
            continue
        out = [size or 1 for size in graph.shapes[node.output[0]]]
        left, right = (graph.shapes[name] for name in node.input[:2])
        if node.op_type == "Conv":
            inner = math.prod(size or 1 for size in right[1:])
        elif node.op_type == "ConvTranspose":
            # Each input value meets each weight of its channel; with stride 2, three outputs in four meet none.
            out, inner = [size or 1 for size in left], math.prod(size or 1 for size in right[1:])
        else:
            inner = left[-1] or 1
        total += math.prod(out) * inner
    return total


def table(lines: list[dict[str, Any]]) -> str:
    """Markdown: one row for each architecture; rank-1 and mAP over the seeds, cosines the worst of them."""
    heads = ["architecture", "input", "embedding", "M parameters", "GMAC", "runs", "rank-1", "mAP"]
    heads += ["tracklet rank-1", *(f"{name}: minimum, 1st percentile, mean" for name in FORMS.values())]
    heads += [f"{name}: rank-1, mAP" for name in FORMS.values()]
    text = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in ROWS:
        mine = [line for line in lines if line["row"] == row]
        if not mine:
            continue
        one = mine[0]
        cells = [row, "x".join(map(str, one["size_hw"])), str(one["embedding"])]
        cells += [f"{one['parameters'] / 1e6:.2f}", f"{one['gmac']:.3f}", str(len(mine))]
        cells += [
            spread([line["fp32"][key] for line in mine]) for key in ("rank1", "mean_ap", "tracklet_rank1")
        ]
        for form in FORMS:
            cells.append(
                ", ".join(f"{min(line[form]['cosine'][place] for line in mine):.5f}" for place in range(3))
            )
        for form in FORMS:
            changes = [
                100 * float(np.mean([line[form][key] - line["fp32"][key] for line in mine]))
                for key in ("rank1", "mean_ap")
            ]
            cells.append(", ".join(f"{change:+.2f}" for change in changes))
        text.append(f"| {' | '.join(cells)} |")
    return "\n".join(text)


def speeds(options: argparse.Namespace, dataset: Dataset) -> str:
    """Markdown: crops per second of each FP32 file, in turn, medians of rounds, one thread."""
    seed = options.seeds[0]
    backends = {}
    for row in options.rows:
        name = f"{row.replace(', ', '-').replace(' ', '-')}-seed{seed}.onnx"
        backends[row] = open_checked(options.out / name)
    crops = dataset.splits["test"][:_BATCH]
    images = {
        row: np.stack([read_crop(crop.path, backend.artefact.size_hw) for crop in crops])
        for row, backend in backends.items()
    }
    taken: dict[str, list[float]] = {row: [] for row in backends}
    for turn in range(_ROUNDS + 1):
        for row, backend in backends.items():
            started = time.perf_counter()
            backend(images[row])
            if turn:
                taken[row].append(time.perf_counter() - started)
    text = ["| architecture | crops per second | of the one without attention |", "|---|---|---|"]
    first = np.array(taken[options.rows[0]])
    for row, seconds in taken.items():
        ratio = float(np.median(first / np.array(seconds)))
        text.append(f"| {row} | {_BATCH / np.median(seconds):.0f} | {ratio:.2f} |")
    return "\n".join(text)


if __name__ == "__main__":
    main()
