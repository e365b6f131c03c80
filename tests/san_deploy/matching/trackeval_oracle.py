"""IDF1 and HOTA by trackeval, run by a Python of its own (it wants numpy >= 2.3 and opencv-python).

From stdin cases `{"found", "true", "boxes"}`, to stdout `[[IDF1, HOTA], ...]`. Each tracklet has its own frames: which
frames cameras share is nothing to either, where every box is found at its place.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np


def sequence(case: dict[str, list[int]]) -> dict[str, Any]:
    """What trackeval's metrics are given of one sequence."""
    people, found = np.unique(case["found"], return_inverse=True)
    pids, true = np.unique(case["true"], return_inverse=True)
    each = np.repeat(np.arange(len(found)), case["boxes"])
    return {
        "num_timesteps": len(each),
        "num_gt_ids": len(pids),
        "num_tracker_ids": len(people),
        "num_gt_dets": len(each),
        "num_tracker_dets": len(each),
        "gt_ids": [np.array([true[k]]) for k in each],
        "tracker_ids": [np.array([found[k]]) for k in each],
        "similarity_scores": [np.ones((1, 1)) for _ in each],
    }


def main() -> None:
    """Print what trackeval says."""
    import trackeval  # type: ignore[import-not-found]

    answers = []
    for case in json.load(sys.stdin):
        data = sequence(case)
        identity = trackeval.metrics.Identity({"PRINT_CONFIG": False}).eval_sequence(data)
        hota = trackeval.metrics.HOTA({"PRINT_CONFIG": False}).eval_sequence(data)
        answers.append([float(identity["IDF1"]), float(np.mean(hota["HOTA"]))])
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
