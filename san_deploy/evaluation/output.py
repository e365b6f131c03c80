"""An evaluation as text and as JSON."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..backends import Backend, packages
from ..datasets import Crop, EvaluationSet, Options, notes
from ..io.versions import versions
from ..metrics import AP_DEFINITION, Ranking, SingleShot
from .result import RULE, RULE_NO_CAMERA, TIES, EvaluationResult

SCHEMA_VERSION = 1
#: What files of an evaluation are called.
JSON, PAGE, PLOT, EMBEDDINGS = "eval.json", "eval.html", "cmc.svg", "embeddings.npz"
OUTPUTS = (JSON, PAGE, PLOT, EMBEDDINGS)
_RANKS = (1, 5, 10, 20)
#: One line of figures: what they are of, CMC at `_RANKS`, mAP and mINP where they are defined, how many.
_Line = tuple[str, tuple[float, ...], float | None, float | None, str]


def as_text(result: EvaluationResult, options: Options) -> str:
    """What is printed: figures, what they are, what to know of them; no newline at the end."""
    lines = _lines(result)
    width = max(len(line[0]) for line in lines) + 1
    columns = [*(f"rank-{rank}" for rank in _RANKS), "mAP", "mINP"]
    text = [f"{'':{width}s}" + "".join(f" {column:>7s}" for column in columns)]
    for name, cmc, mean_ap, mean_inp, count in lines:
        cells = "".join(f" {_percent(value):>7s}" for value in (*cmc, mean_ap, mean_inp))
        text.append(f"{name:{width}s}{cells}  {count}")
    return "\n".join([*text, "", *(f"{name:9s} {text}" for name, text in explained(result, options))])


def explained(result: EvaluationResult, options: Options) -> list[tuple[str, str]]:
    """What the figures are, and what to know of them: a word and a sentence each."""
    choices = result.choices
    lines = [
        ("rule", RULE_NO_CAMERA if options.no_camera else RULE),
        ("AP", AP_DEFINITION),
        ("ties", TIES),
    ]
    if choices.views.count > 1:
        lines.append(("views", f"{choices.views.name}: sum of the embeddings of {choices.views.count} views"))
    if choices.expansion:
        lines.append(
            (
                "expansion",
                f"of queries, by {choices.expansion.count} neighbours, alpha {choices.expansion.alpha:g}",
            )
        )
    if choices.rerank:
        values = choices.rerank
        lines.append(("re-ranked", f"k-reciprocal, k1 {values.k1}, k2 {values.k2}, lambda {values.weight:g}"))
    if result.single_shot:
        lines.append(("draws", _draws(result)))
    elif result.chosen.single_shot or choices.single_shot:
        lines.append(
            ("draws", "none: re-ranking and expansion need the whole gallery, a draw has one crop each")
        )
    return lines + [("note", line) for line in remarks(result)]


def _draws(result: EvaluationResult) -> str:
    shots = result.single_shot
    assert shots is not None
    message = "one gallery crop per person; the expectation is exact, over all draws"
    if shots.drawn:
        spread = shots.drawn.spread[0]
        message += (
            f"; {shots.drawn.draws} draws made with seed {result.choices.seed}, whose rank-1 varies by "
            f"{_percent(spread)} (standard deviation)"
        )
    return message + "; mAP is of the whole gallery"


def remarks(result: EvaluationResult) -> list[str]:
    """What to know of an evaluation, a sentence each."""
    lines = notes(result.chosen)
    left = result.embedded.unreadable
    if left:
        # A name that is not UTF-8 on disk must not stop what prints it.
        first = left[0].path.encode("utf-8", "backslashreplace").decode()
        lines.append(
            f"Crops that could not be read and were left out: {len(left)}, so that the figures are not those of the "
            f"whole data set; the first is {first}."
        )
    return lines


def _lines(result: EvaluationResult) -> list[_Line]:
    lines = [_line("crops", result.crops, f"{result.crops.queries} queries")]
    shots = result.single_shot
    if shots:
        people = f"mean over {shots.expected.people} people"
        lines.append(_shot("single shot, expected", shots.expected, people))
        if shots.drawn:
            lines.append(_shot(f"single shot, {shots.drawn.draws} draws", shots.drawn, people))
        message = f"mean over {shots.expected_by_query.queries} queries, as torchreid and FastReID draw"
        lines.append(_shot("single shot, by query", shots.expected_by_query, message))
    tracklets = result.tracklets
    if tracklets:
        lines.append(_line("tracklets", tracklets.every, f"{tracklets.every.queries} queries"))
        if tracklets.pairs:
            cmc = tuple(tracklets.mean(f"rank{rank}") for rank in _RANKS)
            message = f"mean over {len(tracklets.pairs)} ordered pairs of cameras, by cosine"
            mean_ap, mean_inp = tracklets.mean("mean_ap"), tracklets.mean("mean_inp")
            lines.append(("tracklets, camera to camera", cmc, mean_ap, mean_inp, message))
    return lines


def table(result: EvaluationResult) -> list[dict[str, Any]]:
    """The printed figures as rows of text, for the page."""
    return [
        {"name": name, "cells": [_percent(value) for value in (*cmc, mean_ap, mean_inp)], "count": count}
        for name, cmc, mean_ap, mean_inp, count in _lines(result)
    ]


def _line(name: str, ranking: Ranking, count: str) -> _Line:
    return name, tuple(map(ranking.rank, _RANKS)), ranking.mean_ap, ranking.mean_inp, count


def _shot(name: str, shot: SingleShot, count: str) -> _Line:
    return name, tuple(map(shot.rank, _RANKS)), None, None, count


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def as_dict(
    result: EvaluationResult,
    backend: Backend,
    options: Options,
    *,
    model: Path,
    split: str | None,
    batch: int,
    splits: Iterable[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Everything that is needed to repeat it, and all figures unrounded.

    Args:
        result: what was found.
        backend: what ran the model.
        options: how the data set was read.
        model: the file.
        split: that was asked for.
        batch: crops per call.
        splits: of the data set, `Dataset.rows()`.
    """
    chosen, choices = result.chosen, result.choices
    return {
        "schema_version": SCHEMA_VERSION,
        "model": {"file": str(model), **backend.artefact.as_dict()},
        "runtime": {"name": backend.name, "note": backend.note, "batch": batch},
        "versions": versions(*packages()) | {"python": platform.python_version()},
        "data": {
            "name": chosen.name,
            "root": str(chosen.root),
            "options": asdict(options) | {"cache": str(options.cache) if options.cache else None},
            "split_asked_for": split,
            "split": chosen.split,
            "splits": list(splits),
            "evaluated": chosen.rows(),
            "labels_sha256": labels_sha256(chosen),
            "unreadable": [asdict(item) for item in result.embedded.unreadable],
        },
        "protocol": {
            "rule": RULE_NO_CAMERA if options.no_camera else RULE,
            "average_precision": AP_DEFINITION,
            "ties": TIES,
            **choices.as_dict(),
        },
        "figures": {
            "crops": _ranking(result.crops),
            "tracklets": _tracklets(result),
            "single_shot": _single_shot(result),
        },
        "notes": remarks(result),
        "seconds": {"embedding": result.embedded.seconds, "ranking": result.ranking_seconds},
    }


def labels_sha256(chosen: EvaluationSet) -> str:
    """Fingerprint of what was evaluated: names and labels of queries and gallery in their order, no pixels."""
    digest = hashlib.sha256()
    for part, crops in (("query", chosen.query), ("gallery", chosen.gallery)):
        for crop in crops:
            fields = (part, below(chosen.root, crop), str(crop.person), crop.camera, crop.track)
            digest.update("\0".join(fields).encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


def below(root: Path, crop: Crop) -> str:
    """A crop's path below the data set's root; as it is where it lies elsewhere."""
    path = crop.path
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _ranking(ranking: Ranking) -> dict[str, Any]:
    return ranking.as_dict() | {"cmc": list(ranking.cmc)}


def _tracklets(result: EvaluationResult) -> dict[str, Any] | None:
    tracklets = result.tracklets
    if tracklets is None:
        return None
    return {
        "every": _ranking(tracklets.every),
        "camera_pairs": [
            {"query": a, "gallery": b, **_ranking(ranking)} for (a, b), ranking in tracklets.pairs.items()
        ],
    }


def _single_shot(result: EvaluationResult) -> dict[str, Any] | None:
    shots = result.single_shot
    if shots is None:
        return None
    return {
        "expected": asdict(shots.expected),
        "expected_by_query": asdict(shots.expected_by_query),
        "drawn": asdict(shots.drawn) if shots.drawn else None,
    }
