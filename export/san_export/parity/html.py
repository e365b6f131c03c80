"""The page of a parity run: verdict, stages, what each found in plots and pictures; one file, no network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from san_deploy.io.atomic import atomic_file
from san_deploy.reports import html
from san_deploy.reports.pictures import crop_uri

from . import pictures, plots
from . import text as words
from .result import (
    ArtefactFigures,
    BlockFlips,
    Check,
    CropMasks,
    EmbeddingFigures,
    LayerFigures,
    MaskFigures,
    ParityRun,
    PreprocessingFigures,
    RankingFigures,
    Stage,
)

#: What one page shows at most: crops with their masks, blocks of each, worst rows and channels, rows of tables.
_CROPS, _BLOCKS, _WORST, _CHANNELS, _ROWS = 8, 24, 10, 5, 400
_TITLES = {
    "artefact": (
        "Artefact",
        "What the target says of itself, held against what it is and against the reference.",
    ),
    "preprocessing": ("Preprocessing", "The same crops through the training path and through the target's."),
    "embeddings": (
        "Embeddings",
        "The two embeddings of every crop. A mean hides a bad row, so look at the worst: the scale is logarithmic.",
    ),
    "masks": (
        "Masks",
        "Bits of the sharp masks that fell the other way. A bit flips where its probability pi is nearer to 1/2 than "
        "the target rounds.",
    ),
    "layers": (
        "Layers",
        "Each layer of the target given the reference's inputs, so that an error is shown where it is made.",
    ),
    "ranking": ("Ranking", "Whether the same people are found."),
}


def write_page(run: ParityRun, path: Path) -> None:
    """Write the page, whole or not at all.

    Args:
        run: to show; stages that were left out are named with their reason.
        path: the .html file to write.

    Raises:
        SanError: it cannot be written.
    """
    # The style is that of the evaluation's page.
    template = html.environment(Path(__file__).parent).get_template("parity.html.j2")
    with atomic_file(path) as temporary:
        html.write_page(temporary, template, _context(run))


def _context(run: ParityRun) -> dict[str, Any]:
    verdict = words.headline(run)
    target, reference = words.names(run)
    what = {"FAIL": "differs from", "PASS": "agrees with"}.get(verdict.word, "was not held against")
    context: dict[str, Any] = {
        "verdict": verdict,
        "headline": f"{target} {what} {reference}",
        "lead": _lead(run),
        "finding": _sentence(words.finding(run)),
        "target": target,
        "models": _models(run),
        "tiles": _tiles(run),
        "missed": [_missed(stage, run) for stage in run.stages if not stage.passed],
        "stages": [_stage(stage) for stage in run.stages],
        "gates": [_gate(check) for stage in run.stages for check in stage.checks],
        "crops": [],
    }
    for stage in run.stages:
        context |= _figures(stage)
    return context


def _lead(run: ParityRun) -> str:
    checks, failed = sum(len(stage.checks) for stage in run.stages), len(run.failed)
    if not checks:
        return "No gate was asked."
    if failed:
        return f"{failed} of {words.count(checks, 'gate')} missed on {words.sample(run)}."
    return f"{'All' if checks > 1 else 'The'} {words.count(checks, 'gate')} held on {words.sample(run)}."


def _models(run: ParityRun) -> list[tuple[str, str, str]]:
    """What is known of target and reference, side by side."""
    rows = []
    for key in dict.fromkeys((*run.target, *run.reference)):
        values = [model.get(key) for model in (run.target, run.reference)]
        if any(value not in ("", None) for value in values):
            target, reference = ("" if value is None else words.clean(value) for value in values)
            rows.append((words.clean(key), target, reference))
    return rows


def _tiles(run: ParityRun) -> list[dict[str, str]]:
    checks, failed = sum(len(stage.checks) for stage in run.stages), len(run.failed)
    tiles = [_tile("Gates", f"{checks - failed} of {checks} held" if checks else "none", _stages_ran(run))]
    for stage in run.stages:
        figures = stage.figures
        if isinstance(figures, EmbeddingFigures) and figures.batches:
            least = words.least(row.min_cosine for row in figures.batches)
            worst = f"of {words.clean(figures.worst[0][0])}" if figures.worst else "over all batches"
            tiles.append(_tile("Least row cosine", words.cosine(least), worst))
        if isinstance(figures, MaskFigures) and figures.blocks:
            bits = sum(block.bits for block in figures.blocks)
            flipped = sum(block.flipped for block in figures.blocks)
            below = f"{words.number(flipped)} of {words.number(bits)}"
            tiles.append(_tile("Flipped bits", words.share(flipped / bits if bits else math.nan), below))
        if isinstance(figures, LayerFigures) and figures.layers:
            apart = sum(layer.differs for layer in figures.layers)
            below = f"of {words.number(len(figures.layers))}, by more than rounding"
            tiles.append(_tile("Layers apart", words.number(apart), below))
        if isinstance(figures, RankingFigures):
            if figures.labelled and "rank1" in figures.reference and "rank1" in figures.target:
                before, after = figures.reference["rank1"], figures.target["rank1"]
                below = f"points, {words.points(before)} to {words.points(after)} %"
                tiles.append(_tile("Rank-1", _change(after - before), below))
            else:
                tiles.append(
                    _tile("Same nearest tracklet", words.share(figures.top1_agreement), "of all crops")
                )
    return tiles


def _tile(title: str, value: str, below: str) -> dict[str, str]:
    return {"title": title, "value": value, "below": below}


def _change(points: float) -> str:
    if not math.isfinite(points):
        return words.figure(points)
    # A change that rounds to nothing has no sign.
    return f"{points:+.2f}" if abs(points) >= 0.005 else "0.00"


def _stages_ran(run: ParityRun) -> str:
    skipped = sum(words.state(stage) == "skipped" for stage in run.stages)
    seconds = sum(stage.seconds for stage in run.stages if math.isfinite(stage.seconds))
    return f"{len(run.stages) - skipped} of {words.count(len(run.stages), 'stage')} ran, {seconds:.1f} s"


def _missed(stage: Stage, run: ParityRun) -> dict[str, Any]:
    return {
        "measured": "; ".join(map(words.measured, stage.failed)),
        "messages": [words.clean(check.message) for check in stage.failed],
        "remedy": _sentence(words.remedy(stage, run)),
    }


def _sentence(text: str) -> str:
    return text if text.startswith("san ") else text[:1].upper() + text[1:]


def _stage(stage: Stage) -> dict[str, Any]:
    title, about = _TITLES.get(stage.name, (stage.name, ""))
    return {
        "name": stage.name,
        "title": title,
        "about": about,
        "state": words.state(stage),
        "decided": words.decided(stage),
        "gist": words.gist(stage) if words.state(stage) in ("FAIL", "differs") else "",
        "seconds": f"{stage.seconds:.1f} s" if stage.seconds else "",
        "notes": [words.clean(note) for note in stage.notes],
        "figures": stage.figures is not None,
    }


def _gate(check: Check) -> dict[str, Any]:
    return {
        "name": words.clean(check.gate),
        "value": words.figure(check.value, check.limit),
        "asked": words.asked(check),
        "passed": check.passed,
        "message": words.clean(check.message),
        "setting": words.setting(check),
    }


def _figures(stage: Stage) -> dict[str, Any]:
    """What the template needs of one stage."""
    figures = stage.figures
    if isinstance(figures, ArtefactFigures):
        facts = [
            {
                "name": words.clean(name),
                "claimed": words.clean(claimed),
                "found": words.clean(found),
                "agree": agree,
            }
            # What does not agree is never among those left out.
            for name, claimed, found, agree in sorted(figures.facts, key=lambda fact: fact[3])
        ]
        return {"facts": facts[:_ROWS], "facts_left": max(0, len(facts) - _ROWS)}
    if isinstance(figures, PreprocessingFigures):
        return {"preprocessing": _preprocessing(figures)}
    if isinstance(figures, EmbeddingFigures):
        return _embeddings(figures, stage.checks)
    if isinstance(figures, MaskFigures):
        return _masks(figures)
    if isinstance(figures, LayerFigures):
        return _layers(figures)
    if isinstance(figures, RankingFigures):
        return _ranking(figures)
    return {}


def _preprocessing(figures: PreprocessingFigures) -> list[tuple[str, str]]:
    rows = [
        ("Crops", words.number(figures.crops)),
        ("Pixel values that differ", words.number(figures.pixels_differ)),
        ("Inputs that are equal to the bit", words.share(figures.input_equal)),
        ("Largest difference of an input", words.small(figures.input_max_abs)),
    ]
    return rows + ([("Crop that differs most", words.clean(figures.worst))] if figures.worst else [])


def _embeddings(figures: EmbeddingFigures, checks: Sequence[Check]) -> dict[str, Any]:
    gates = [check for check in checks if check.gate.endswith("cosine")]
    unknown = int(np.count_nonzero(~np.isfinite(figures.cosine)))
    return {
        "histogram": plots.cosines(figures, gates),
        "without": f"{words.count(unknown, 'row')} without a cosine: NaN or infinity." if unknown else "",
        "worst": [(words.clean(name), words.cosine(value)) for name, value in figures.worst[:_WORST]],
        "batches": words.batches(figures),
        "embeddings_below": f"A crop in another batch or among others: row cosine at least "
        f"{words.cosine(figures.invariance)}. {words.share(figures.equal_rows)} of the rows are equal up to "
        f"rounding. Norms before anything normalises them are off 1 by at most {words.small(figures.norm_error)}. "
        f"{words.count(figures.not_finite, 'row')} with a NaN or an infinity.",
    }


def _masks(figures: MaskFigures) -> dict[str, Any]:
    blocks = figures.blocks
    return {
        "blocks": [_block(block) for block in blocks],
        "flips_chart": plots.flips(blocks),
        "crops": [_crop(crop, blocks) for crop in figures.crops[:_CROPS]],
    }


def _block(block: BlockFlips) -> dict[str, Any]:
    most = max((flips for _, flips in block.worst_channels), default=0)
    places = f"{words.count(block.flipped, 'flip')} at {block.height} x {block.width} places"
    if block.flipped and block.worst_places:
        row, column, flips = block.worst_places[0]
        places += f", most at row {row}, column {column}: {words.number(flips)}"
    return {
        "name": words.clean(block.name),
        "cells": [
            f"{block.channels} x {block.height} x {block.width}",
            words.number(block.bits),
            words.share(words.flipped_share(block)),
            words.share(words.predicted_share(block)),
            words.share(words.own_share(block)),
            words.small(block.mean_abs),
            words.share(block.near[0]),
            words.share(block.near[1]),
            words.small(block.rounding),
        ],
        "margins": plots.margins(block),
        "places": places,
        "heat": pictures.heat_uri(block.by_place) if block.flipped and block.by_place.size else "",
        "channels": [
            {"number": channel, "flips": words.number(flips), "width": f"{100 * flips / most:.1f}"}
            for channel, flips in block.worst_channels[:_CHANNELS]
            if flips > 0
        ],
    }


def _crop(crop: CropMasks, blocks: Sequence[BlockFlips]) -> dict[str, Any]:
    drawn = []
    for block, reference, target, flips in list(
        zip(blocks, crop.reference, crop.target, crop.flips, strict=False)
    )[:_BLOCKS]:
        masks = pictures.mask_uris(crop.image, reference, target)
        height, width = flips.shape
        drawn.append(
            {
                "name": words.clean(block.name),
                "below": f"{height} x {width}, {words.count(int(flips.sum()), 'flip')}",
                "reference": masks[0],
                "target": masks[1],
                "flips": pictures.flips_uri(crop.image, flips),
            }
        )
    return {
        "name": words.clean(crop.name),
        "cosine": words.cosine(crop.cosine),
        "picture": crop_uri(crop.image),
        "blocks": drawn,
    }


def _layers(figures: LayerFigures) -> dict[str, Any]:
    first = figures.first
    return {
        "first": None
        if first is None
        else {
            "name": words.layer(first),
            "detail": words.clean(_sentence(figures.detail)),
            "error": f"{_sentence(words.error(first))}; looked at with {words.count(figures.crops, 'crop')}.",
        },
        "errors_chart": plots.errors(figures),
        "has_carried": any(math.isfinite(layer.carried) for layer in figures.layers),
        "apart": any(layer.differs for layer in figures.layers),
        "layers": [
            {
                "name": words.layer(layer),
                "local": words.small(layer.local),
                "allowed": words.small(layer.allowed),
                "carried": "" if math.isnan(layer.carried) else words.small(layer.carried),
                "differs": layer.differs,
                "first": layer == first,
            }
            for layer in figures.layers[:_ROWS]
        ],
        "layers_left": max(0, len(figures.layers) - _ROWS),
    }


def _ranking(figures: RankingFigures) -> dict[str, Any]:
    below = _sentence(f"{words.neighbours(figures)}.")
    if figures.labelled:
        below = (
            f"Of {words.count(figures.queries, 'query', 'queries')}, the first answer became right for "
            f"{words.number(figures.won)} and wrong for {words.number(figures.lost)}. {below}"
        )
    return {
        "scores": [
            {
                "title": title,
                "before": f"{words.points(figures.reference[key])} %",
                "after": f"{words.points(figures.target[key])} %",
                "change": _change(figures.target[key] - figures.reference[key]),
            }
            for key, title in words.SCORES
            if key in figures.reference and key in figures.target
        ],
        "ranking_below": below,
    }
