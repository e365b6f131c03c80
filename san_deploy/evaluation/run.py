"""From a data set and a model to figures."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from .. import metrics
from ..backends import Backend
from ..datasets import DISTRACTOR, Crop, EvaluationSet, diagnose, labels
from ..embed import embed_files
from ..errors import SanError, UsageError
from ..io.progress import Progress, bar
from .config import EvalConfig, Expansion
from .result import EvaluationResult, SingleShots, TrackletFigures


def evaluate_set(
    chosen: EvaluationSet,
    backend: Backend,
    choices: EvalConfig,
    *,
    batch: int = 32,
    workers: int | None = None,
    strict: bool = False,
    progress: Callable[[int, str, str], Progress] = bar,
) -> EvaluationResult:
    """Embed queries and gallery, each crop once, and rank them.

    Args:
        chosen: what is evaluated.
        backend: the opened model.
        choices: how.
        batch: crops per call of the network.
        workers: threads that decode; None takes one for each core.
        strict: raise at the first unreadable crop instead of leaving it out.
        progress: makes a progress bar of a total, a label and a unit.

    Raises:
        SanError: no figure can come of it, before anything is embedded where that can be known; no crop is readable;
            the model fails.
        UsageError: values of the re-ranking or the expansion are out of range.
    """
    check_choices(choices)
    check(chosen, choices)
    # A query that stands in the gallery, or in both under one path, is embedded once.
    paths = list(dict.fromkeys(crop.path for crop in (*chosen.query, *chosen.gallery)))
    with progress(len(paths), "embedding", "crop") as advance:
        embedded = embed_files(
            paths,
            backend,
            choices.views,
            batch=batch,
            workers=workers,
            strict=strict,
            progress=advance,
        )
    start = time.perf_counter()
    place = {paths[number]: row for row, number in enumerate(embedded.kept.tolist())}
    if embedded.unreadable:
        chosen = _readable(chosen, place.keys())
        check(chosen, choices)
    if choices.center:
        cameras = {crop.path: crop.camera for crop in (*chosen.query, *chosen.gallery)}
        camera = np.array([cameras[paths[number]] for number in embedded.kept.tolist()])
        embedded = replace(embedded, embedding=metrics.centre_cameras(embedded.embedding, camera))
    query_rows = np.array([place[crop.path] for crop in chosen.query], np.int64)
    gallery_rows = np.array([place[crop.path] for crop in chosen.gallery], np.int64)
    ranking_labels = _ranking_labels(chosen.query, chosen.gallery)
    query, gallery = (_take(embedded.embedding, rows) for rows in (query_rows, gallery_rows))
    scores = _scores(query, gallery, chosen.query_rows, choices, progress)
    with progress(len(query), "ranking", "query") as advance:
        queries = metrics.rank_queries(scores, ranking_labels, advance)
    return EvaluationResult(
        chosen=chosen,
        choices=choices,
        embedded=embedded,
        query_rows=query_rows,
        gallery_rows=gallery_rows,
        scores=scores,
        labels=ranking_labels,
        queries=queries,
        crops=queries.summary(),
        tracklets=_tracklets(chosen, query, gallery, choices, progress) if choices.tracklets else None,
        single_shot=_single_shot(scores, ranking_labels, choices)
        if wants_single_shot(chosen, choices)
        else None,
        ranking_seconds=time.perf_counter() - start,
    )


def check(chosen: EvaluationSet, choices: EvalConfig) -> None:
    """Refuse what can give no figure.

    Raises:
        SanError: the data set gives none, or has no tracklets.
        UsageError: query expansion and re-ranking, where every query stands in the gallery.
    """
    if error := diagnose(chosen):
        raise error
    if choices.tracklets and not has_tracklets(chosen):
        raise SanError(
            f"{chosen.root} has no tracklets: each crop is its own",
            why="neither its layout nor a field {track} of --pattern names any, or cameras are ignored",
            do="leave --tracklets out",
        )
    if chosen.query_rows is not None and choices.rerank and choices.expansion:
        raise UsageError(
            "--query-expansion does not go with --rerank here",
            why="every query stands in the gallery, and re-ranking takes it for one crop with one embedding",
            do="give one of them",
        )


def check_choices(choices: EvalConfig) -> None:
    """Refuse choices that suit no data set: two crops are ranked by them.

    Raises:
        UsageError: values of the re-ranking or the expansion are out of range.
    """
    rows = np.eye(2, dtype=np.float32)
    _scores(rows, rows, None, choices, _quiet)


def _quiet(total: int, label: str, unit: str) -> Progress:
    return bar(total, label, unit, quiet=True)


def has_tracklets(chosen: EvaluationSet) -> bool:
    """Whether any tracklet has two crops."""
    return any(
        len({(crop.camera, crop.track) for crop in crops}) < len(crops)
        for crops in (chosen.query, chosen.gallery)
    )


def wants_single_shot(chosen: EvaluationSet, choices: EvalConfig) -> bool:
    """Whether single-gallery-shot figures are given.

    Re-ranking and expansion look at the whole gallery, of which a draw has one crop per person: with them such
    figures would be of no protocol.
    """
    return (chosen.single_shot or choices.single_shot) and choices.plain


def _readable(chosen: EvaluationSet, there: object) -> EvaluationSet:
    """Without the crops whose path is not in `there`."""
    query, gallery = (
        [crop for crop in crops if crop.path in there]  # type: ignore[operator]
        for crops in (chosen.query, chosen.gallery)
    )
    rows = None
    if chosen.query_rows is not None:
        row_of = {crop.path: row for row, crop in enumerate(gallery)}
        rows = np.array([row_of[crop.path] for crop in query], np.int64)
    return replace(chosen, query=query, gallery=gallery, query_rows=rows)


def _take(rows: np.ndarray, index: np.ndarray) -> np.ndarray:
    """`rows[index]`, without a copy where that is all of them in order."""
    everything = len(index) == len(rows) and np.array_equal(index, np.arange(len(rows)))
    return rows if everything else rows[index]


def _ranking_labels(query: list[Crop], gallery: list[Crop]) -> metrics.RankingLabels:
    asked, there = labels(query), labels(gallery)
    return metrics.RankingLabels(
        query_person=asked.person,
        gallery_person=there.person,
        query_camera=asked.camera,
        gallery_camera=there.camera,
    )


def _scores(
    query: np.ndarray,
    gallery: np.ndarray,
    query_rows: np.ndarray | None,
    choices: EvalConfig,
    progress: Callable[[int, str, str], Progress],
) -> metrics.Scores:
    """`query_rows`: where queries stand in the gallery; None where they are crops of their own."""
    if choices.expansion:
        query = _expanded(query, gallery, query_rows, choices.expansion)
    values = choices.rerank
    if not values:
        return metrics.Similarity(query, gallery)

    from ..metrics.rerank import Reranked

    crops = len(gallery) + (len(query) if query_rows is None else 0)
    given: dict[str, Any] = {"k1": values.k1, "k2": values.k2, "weight": values.weight}
    with progress(crops, "re-ranking", "crop") as advance:
        if query_rows is not None:
            return Reranked(None, gallery, query_rows=query_rows, progress=advance, **given)
        return Reranked(query, gallery, progress=advance, **given)


def _expanded(
    query: np.ndarray,
    gallery: np.ndarray,
    query_rows: np.ndarray | None,
    expansion: Expansion,
) -> np.ndarray:
    """Queries drawn towards their nearest; one that stands in the gallery is not its own neighbour."""
    from ..metrics.query_expansion import expand_queries

    own = query_rows is not None
    expanded, others = expand_queries(
        query[:1] if own else query,
        gallery,
        count=expansion.count,
        alpha=expansion.alpha,
        gallery_too=own,
    )
    return expanded if query_rows is None else others[query_rows]


def _tracklets(
    chosen: EvaluationSet,
    query: np.ndarray,
    gallery: np.ndarray,
    choices: EvalConfig,
    progress: Callable[[int, str, str], Progress],
) -> TrackletFigures:
    rows, person, camera = _pooled(gallery, chosen.gallery)
    query_rows = None
    pairs = {}
    if chosen.query_rows is None:
        query, query_person, query_camera = _pooled(query, chosen.query)
    else:
        query_rows = np.flatnonzero(person != DISTRACTOR)
        query, query_person, query_camera = rows[query_rows], person[query_rows], camera[query_rows]
        there = labels(chosen.gallery)
        pairs = metrics.evaluate_tracklets(
            gallery, person=there.person, camera=there.camera, track=there.track
        )
    ranking_labels = metrics.RankingLabels(
        query_person=query_person, gallery_person=person, query_camera=query_camera, gallery_camera=camera
    )
    scores = _scores(query, rows, query_rows, choices, progress)
    return TrackletFigures(metrics.rank_queries(scores, ranking_labels).summary(), pairs)


def _pooled(rows: np.ndarray, crops: list[Crop]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    there = labels(crops)
    return metrics.join_cameras(
        metrics.pool_cameras(rows, person=there.person, camera=there.camera, track=there.track)
    )


def _single_shot(
    scores: metrics.Scores, ranking_labels: metrics.RankingLabels, choices: EvalConfig
) -> SingleShots:
    drawn = None
    if choices.draws:
        drawn = metrics.draw_single_shot(scores, ranking_labels, draws=choices.draws, seed=choices.seed)
    return SingleShots(
        metrics.single_shot(scores, ranking_labels, by="person"),
        metrics.single_shot(scores, ranking_labels, by="query"),
        drawn,
    )
