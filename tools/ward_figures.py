"""Accuracy of a model file on a labelled crop folder, as the edge computes it (ONNX Runtime, no PyTorch).

    python tools/ward_figures.py ../shared/ward --split test [-m model.onnx] [--rounded] [--json]

Tracklets: each camera against each other camera, mean over the ordered pairs. Single crops: each a query
against all others, Market-1501's rule. `--rounded` puts every rounding of an FP16 file in, which ONNX Runtime
leaves out on a CPU.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from san_deploy import metrics
from san_deploy.backends import Backend, open_backend
from san_deploy.datasets import labels, read_dataset
from san_deploy.preprocess import read_crop


def rounded(model: Path) -> Backend:
    """An FP16 file as a GPU rounds it."""
    import onnx
    from san_export.onnx_writer import write_onnx
    from san_export.precision.emulate_fp16 import emulate_fp16

    artefact = open_backend(model).artefact
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rounded.onnx"
        write_onnx(emulate_fp16(onnx.load(model)), artefact, path)
        return open_backend(path)


def figures(root: Path, split: str, backend: Backend) -> dict[str, float]:
    """Shares in 0..1: `rank1`, `mean_ap`, `mean_inp` of crops, `tracklet_rank1`, `tracklet_map` of tracklets."""
    crops = read_dataset(root).splits[split]
    size_hw = backend.artefact.size_hw
    rows = np.concatenate(
        [
            backend(np.stack([read_crop(crop.path, size_hw) for crop in crops[start : start + 32]]))
            for start in range(0, len(crops), 32)
        ]
    )
    person, camera, track = labels(crops)
    single = metrics.evaluate_among(rows, person=person, camera=camera)
    pairs = metrics.evaluate_tracklets(rows, person=person, camera=camera, track=track)
    return {
        "people": len(set(person.tolist())),
        "crops": len(crops),
        "rank1": single.rank1,
        "mean_ap": single.mean_ap,
        "mean_inp": single.mean_inp,
        "tracklet_rank1": float(np.mean([ranking.rank1 for ranking in pairs.values()])),
        "tracklet_map": float(np.mean([ranking.mean_ap for ranking in pairs.values()])),
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("root", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("-m", "--model", type=Path)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounded", action="store_true")
    options = parser.parse_args()
    if options.rounded and options.model is None:
        parser.error("--rounded needs -m: the starter model is FP32")
    backend = rounded(options.model) if options.rounded else open_backend(options.model)
    result = figures(options.root, options.split, backend)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{result['people']:.0f} people, {result['crops']:.0f} crops ({options.split})")
    print(f"crops      rank-1 {100 * result['rank1']:.1f}  mAP {100 * result['mean_ap']:.1f}")
    print(f"tracklets  rank-1 {100 * result['tracklet_rank1']:.1f}  mAP {100 * result['tracklet_map']:.1f}")


if __name__ == "__main__":
    main()
