"""What an evaluation found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..datasets import EvaluationSet
from ..embed import EmbeddedFiles
from ..metrics import QueryRanks, Ranking, RankingLabels, Scores, SingleShot
from .config import EvalConfig

#: The rule by which gallery crops count, with cameras and without; to be printed beside the figures.
RULE = "gallery crops of the query's own person by its own camera do not count; distractors do, junk does not"
RULE_NO_CAMERA = "cameras are ignored: every gallery crop but the query itself counts; junk does not"
TIES = "pessimistic: a wrong answer that is exactly as similar stands before the right one; ranked in FP32"


@dataclass(frozen=True)
class SingleShots:
    """Single-gallery-shot figures: one gallery crop per person, drawn at random.

    Attributes:
        expected: exact, over all draws as the SAN paper makes them: mean over people.
        expected_by_query: exact, as CUHK03's metric in torchreid and FastReID draws: mean over queries.
        drawn: the mean of literal draws as the SAN paper makes them; None where none were asked for.
    """

    expected: SingleShot
    expected_by_query: SingleShot
    drawn: SingleShot | None


@dataclass(frozen=True)
class TrackletFigures:
    """Tracklets instead of crops, each the mean of its crops' embeddings.

    Attributes:
        every: each tracklet against all others (or against the gallery's) by the rule of the crops.
        pairs: tracklets of one camera against those of another, as `san match` compares them, by cosine; empty
            where query and gallery are sets of their own.
    """

    every: Ranking
    pairs: Mapping[tuple[str, str], Ranking]

    def mean(self, measure: str) -> float:
        """The mean over the ordered pairs of cameras of an attribute of `Ranking`, for example `rank1`."""
        return float(np.mean([getattr(ranking, measure) for ranking in self.pairs.values()]))


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """Everything that was found.

    Attributes:
        chosen: queries and gallery, without those that could not be read.
        choices: configuration by which it was done.
        embedded: all crops; `unreadable` and `seconds` are to be printed.
        query_rows, gallery_rows: places of queries and gallery in `embedded.embedding`.
        scores, labels: what was ranked, to make rank lists of.
        queries: ranks of each query.
        crops: CMC, mAP and mINP over them.
        tracklets: None where they were not asked for.
        single_shot: None where the data set does not call for it and nobody asked for it.
        ranking_seconds: duration of computing all the figures.
    """

    chosen: EvaluationSet
    choices: EvalConfig
    embedded: EmbeddedFiles
    query_rows: np.ndarray
    gallery_rows: np.ndarray
    scores: Scores
    labels: RankingLabels
    queries: QueryRanks
    crops: Ranking
    tracklets: TrackletFigures | None
    single_shot: SingleShots | None
    ranking_seconds: float
