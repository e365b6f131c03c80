"""The folder that an evaluation writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets import Options
from ..evaluation.output import EMBEDDINGS, JSON, PAGE, PLOT, below
from ..evaluation.result import EvaluationResult
from .evaluation_page import DrawMasks, write_page, write_plot


def write_evaluation(
    folder: Path,
    result: EvaluationResult,
    summary: Mapping[str, Any],
    options: Options,
    *,
    lists: int = 8,
    embeddings: bool = False,
    draw_masks: DrawMasks | None = None,
) -> None:
    """Write eval.json, cmc.svg and eval.html, and embeddings.npz if asked for.

    Args:
        folder: of `atomic_folder`.
        result: what was found.
        summary: `output.as_dict` of it.
        options: how the data set was read.
        lists: worst rank lists on the page, and as many of the best.
        embeddings: write them.
        draw_masks: see `evaluation_page.write_page`.
    """
    (folder / JSON).write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    write_plot(folder / PLOT, result)
    write_page(folder / PAGE, result, summary, options, lists=lists, draw_masks=draw_masks)
    if embeddings:
        _write_embeddings(folder / EMBEDDINGS, result, summary)


def _write_embeddings(path: Path, result: EvaluationResult, summary: Mapping[str, Any]) -> None:
    """An .npz that `numpy.load` reads without pickle.

    Its arrays: `embedding` (N, D) float32, one row per file; `path`, `person`, `camera` and `track` (N,) of them;
    `query` and `gallery`, the rows that are asked for and compared with; `model`, a JSON string.
    """
    chosen = result.chosen
    crops = dict(zip(result.gallery_rows.tolist(), chosen.gallery, strict=True))
    crops |= dict(zip(result.query_rows.tolist(), chosen.query, strict=True))
    rows = [crops[row] for row in range(len(result.embedded.embedding))]
    with path.open("wb") as file:
        np.savez(
            file,
            embedding=result.embedded.embedding,
            path=np.array([below(chosen.root, crop) for crop in rows], np.str_),
            person=np.array([crop.person for crop in rows], np.int64),
            camera=np.array([crop.camera for crop in rows], np.str_),
            track=np.array([crop.track for crop in rows], np.str_),
            query=result.query_rows,
            gallery=result.gallery_rows,
            model=np.array(json.dumps(summary["model"], sort_keys=True)),
        )
