"""The page of an evaluation: figures, CMC curves, the worst and the best rank lists; one file, no network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from ..datasets import Crop, Options
from ..evaluation.output import below, explained, table
from ..evaluation.rank_lists import LENGTH, Answer, Listed, worst_and_best
from ..evaluation.result import EvaluationResult
from ..preprocess import read_crop
from .html import environment, model_facts
from .html import write_page as write_html
from .pictures import BlockMasks, crop_uri, mask_uri
from .svg import INK, plot

#: `(N, H, W, 3)` uint8 BGR crops -> the masks of each block, for each crop.
DrawMasks = Callable[[np.ndarray], Sequence[Sequence[BlockMasks]]]

#: Ranks of right answers that are named for each list.
_RANKS_NAMED = 12
#: The page's colours follow light and dark; the plot has no ground of its own there.
_PAGE_INK = {"ink": "var(--ink)", "soft": "var(--soft)", "line": "var(--line)", "page": ""}


def write_page(
    path: Path,
    result: EvaluationResult,
    summary: Mapping[str, Any],
    options: Options,
    *,
    lists: int = 8,
    draw_masks: DrawMasks | None = None,
) -> None:
    """Write the page. Crops of the lists are read from the data set again.

    Args:
        path: the .html file to write, in a folder of `atomic_folder`.
        result: what to show.
        summary: `output.as_dict` of it.
        options: how the data set was read.
        lists: worst rank lists, and as many of the best.
        draw_masks: of a checkpoint; None where the model is an exported file.

    Raises:
        OSError: no space, no permission; `atomic_folder` says it in words.
    """
    worst, best = worst_and_best(result, lists)
    masks, why_no_masks = _masks([listed.crop for listed in (*worst, *best)], summary["model"], draw_masks)
    pictures = _Pictures()
    shown = [_list_view(listed, result, options, pictures) for listed in (*worst, *best)]
    for view, drawn in zip(shown, masks, strict=True):
        view["blocks"] = drawn
    jinja = environment()
    # Where papers draw a gallery, that is what a reader compares with.
    drawn_gallery = result.single_shot if result.chosen.single_shot else None
    context = {
        "title": f"{result.chosen.name} · {result.chosen.root.resolve().name}",
        "crops": result.crops,
        "shots": drawn_gallery.expected if drawn_gallery else result.crops,
        "shot_name": ", single shot" if drawn_gallery else "",
        "evaluated": summary["data"]["evaluated"],
        "split": result.chosen.split,
        "with_cameras": not options.no_camera,
        "own_queries": result.chosen.query_rows is not None,
        "table": table(result),
        "plot": Markup(_svg(jinja, result, _PAGE_INK)),
        "explained": explained(result, options),
        "model": model_facts(summary["model"], str(summary["runtime"]["name"])),
        "data": [
            ("Folder", summary["data"]["root"]),
            ("Labels, SHA-256", summary["data"]["labels_sha256"][:16]),
        ],
        "sections": [
            ("Worst rank lists", shown[: len(worst)]),
            ("Best rank lists", shown[len(worst) :]),
        ],
        "length": LENGTH,
        "score": "cosine similarity" if result.choices.rerank is None else "re-ranked distance",
        "why_no_masks": why_no_masks,
        "has_masks": any(view["blocks"] for view in shown),
    }
    write_html(path, jinja.get_template("evaluation_page.html.j2"), context)


def write_plot(path: Path, result: EvaluationResult) -> None:
    """Write the CMC curves as an SVG file."""
    path.write_text(_svg(environment(), result, INK), encoding="utf-8")


def _svg(jinja: jinja2.Environment, result: EvaluationResult, ink: Mapping[str, str]) -> str:
    curves: dict[str, Sequence[float]] = {"crops": result.crops.cmc}
    if result.single_shot:
        curves["single shot, expected"] = result.single_shot.expected.cmc
    if result.tracklets:
        curves["tracklets"] = result.tracklets.every.cmc
    # Beyond the gallery's size a curve has nothing to say.
    most = max(2, min(max(map(len, curves.values())), result.scores.shape[1]))
    view = plot({name: curve[:most] for name, curve in curves.items()})
    return jinja.get_template("cmc.svg.j2").render(plot=view, ink=ink)


class _Pictures:
    """Data URIs of crops; a crop that comes again is read once."""

    def __init__(self) -> None:
        self._known: dict[Path, str] = {}

    def of(self, path: Path) -> str:
        if path not in self._known:
            self._known[path] = crop_uri(path)
        return self._known[path]


def _list_view(
    listed: Listed, result: EvaluationResult, options: Options, pictures: _Pictures
) -> dict[str, Any]:
    def crop_view(crop: Crop) -> dict[str, Any]:
        return {
            "picture": pictures.of(crop.path),
            "file": below(result.chosen.root, crop),
            "camera": "" if options.no_camera else crop.camera,
            "person": crop.person,
        }

    def answer_view(answer: Answer) -> dict[str, Any]:
        # 0 has no sign: -0.000 would look like an error.
        score = abs(answer.score) if result.choices.rerank else answer.score
        return crop_view(answer.crop) | {"rank": answer.rank, "score": score, "right": answer.right}

    named = ", ".join(map(str, listed.ranks[:_RANKS_NAMED]))
    return {
        "query": crop_view(listed.crop),
        "average_precision": listed.average_precision,
        "answers": [answer_view(answer) for answer in listed.answers],
        "first_right": answer_view(listed.first_right) if listed.first_right else None,
        "positives": len(listed.ranks),
        "ranks": named + (f", … {listed.ranks[-1]}" if len(listed.ranks) > _RANKS_NAMED else ""),
        "gallery": result.scores.shape[1],
    }


def _masks(
    crops: Sequence[Crop], model: Mapping[str, Any], draw_masks: DrawMasks | None
) -> tuple[list[list[dict[str, Any]]], str]:
    """For each crop the pictures of its blocks; and, where there are none, why."""
    none: list[list[dict[str, Any]]] = [[] for _ in crops]
    path = Path(model["file"])
    if draw_masks is None:
        return none, f"{path.name} gives embeddings alone; the masks need the checkpoint: --checkpoint"
    if model["mask"] == "none":
        return none, "the network has no attention, so no masks"
    if not crops:
        return none, ""
    images = np.stack([read_crop(crop.path, tuple(model["size_hw"]), model["resize"]) for crop in crops])
    drawn = draw_masks(images)
    if not any(drawn):
        return none, "the network shows none"
    return [
        [_block_view(image[:, :, ::-1], block) for block in blocks]
        for image, blocks in zip(images, drawn, strict=True)
    ], ""


def _stretched(mask: np.ndarray) -> np.ndarray:
    """From 0 to 1: a mean over many channels hardly varies."""
    span = float(mask.max() - mask.min())
    return (mask - mask.min()) / span if span > 0 else np.zeros_like(mask)


def _block_view(rgb: np.ndarray, block: BlockMasks) -> dict[str, Any]:
    def pair(soft: np.ndarray, sharp: np.ndarray | None) -> dict[str, str]:
        return {
            "soft": mask_uri(rgb, soft),
            "sharp": "" if sharp is None else mask_uri(rgb, sharp),
        }

    height, width = block.soft.shape
    return {
        "stage": block.stage,
        "size": f"{height} × {width}",
        "channels": block.channels,
        "channel": block.channel,
        "one": pair(block.soft, block.sharp),
        "mean": pair(
            _stretched(block.soft_mean),
            None if block.sharp_mean is None else _stretched(block.sharp_mean),
        ),
    }
